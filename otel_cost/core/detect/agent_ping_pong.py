"""Agent ping-pong: agents hand the same work to each other again and again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import Field

from otel_cost.core.detect import TOOLS, Detector, register
from otel_cost.core.detect._episode import WINDOW, Episode, Settings
from otel_cost.core.detect._signs import HANDS_OVER
from otel_cost.core.detect._traits import traits_of
from otel_cost.core.detect._verbs import delegates
from otel_cost.core.model.vocabulary import Category

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from otel_cost.core.detect import Observed
    from otel_cost.core.detect._sketch import Sketch
    from otel_cost.core.model.finding import Finding


class AgentPingPong(Settings):
    """Hand-offs to the same agent with nearly the same instruction, or none."""

    pairs: Annotated[int, Field(ge=2)] = 4
    """Hand-offs to one agent (each with its way back, which only that agent's own calls show)."""


@dataclass(slots=True)
class Target:
    """Hand-offs to one agent, since they last said something new."""

    sketch: Sketch | None
    end_ns: int = 0
    episode: Episode = field(default_factory=Episode)


@dataclass(slots=True)
class State:
    """One agent's hand-offs, by tool."""

    targets: dict[str, Target] = field(default_factory=dict)


_TARGETS: Final = 8


def observe(state: State, seen: Observed, settings: AgentPingPong) -> Iterable[Finding]:
    """Feed one call; yield when the same work was handed over too often, and when other work is.

    Hand-offs side by side are a fan-out; rounds of a review differ in what they ask for.
    """
    tool = seen.step.tool or ""
    return _handed(state, seen, tool, settings) if delegates(tool) else ()


def _handed(state: State, seen: Observed, tool: str, settings: AgentPingPong) -> Iterator[Finding]:
    step = seen.step
    sketch = traits_of(seen).instruction or traits_of(seen).sketch
    target = state.targets.get(tool)
    if target is not None:
        if step.start_ns < target.end_ns:
            return
        other = sketch is not None and target.sketch is not None and not sketch.near(target.sketch)
        if other or seen.number - target.episode.last >= WINDOW:
            if target.episode.firing:
                yield _finding(target, step.span_id, tool, settings)
            target = None
    if target is None:
        state.targets.pop(tool, None)
        if len(state.targets) >= _TARGETS:
            del state.targets[next(iter(state.targets))]
        target = state.targets[tool] = Target(sketch)
    target.end_ns = step.end_ns
    target.episode.add(step.span_id, seen.cost, seen.number)
    if target.episode.due(settings.pairs):
        yield _finding(target, step.span_id, tool, settings)


def _finding(target: Target, at_span_id: bytes, tool: str, settings: AgentPingPong) -> Finding:
    return target.episode.finding(
        DETECTOR.name,
        at_span_id,
        shape=f"hand-off:{tool}",
        summary=f"{tool} handed over the same work {target.episode.repeats} times",
        evidence={"tool": tool},
        count=settings.pairs,
    )


DETECTOR = Detector(
    name="agent_ping_pong",
    category=Category.LOOP,
    settings=AgentPingPong,
    state=State,
    observe=observe,
    kinds=TOOLS,
    wakes=HANDS_OVER,
)
register(DETECTOR)
