"""Re-create churn: one file is written whole again and again instead of being changed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from otel_cost.core.detect import TOOLS, Detector, register
from otel_cost.core.detect._episode import WINDOW, Episode, Settings
from otel_cost.core.detect._signs import WHOLE
from otel_cost.core.detect._traits import traits_of
from otel_cost.core.model.vocabulary import Category

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from otel_cost.core.detect import Observed
    from otel_cost.core.model.finding import Finding


class RecreateChurn(Settings):
    """The same path created or overwritten as a whole."""

    count: Annotated[int, Field(ge=2)] = 4
    """Whole writes of one path, without a check that passes in between, that make it a loop."""


@dataclass(slots=True)
class State:
    """One agent's whole writes, by path."""

    files: dict[int, Episode] = field(default_factory=dict)


def observe(state: State, seen: Observed, settings: RecreateChurn) -> Iterable[Finding]:
    """Feed one call; yield when a path was written whole too often, and when a check passes or it is left alone."""
    return _written(state, seen, settings) if state.files or traits_of(seen).whole else ()


def _written(state: State, seen: Observed, settings: RecreateChurn) -> Iterator[Finding]:
    step, traits = seen.step, traits_of(seen)
    passed = traits.verb == "check" and not traits.failed and not traits.failures
    for target, episode in list(state.files.items()):
        if passed or seen.number - episode.last >= WINDOW:
            del state.files[target]
            if episode.firing:
                yield _finding(episode, step.span_id, step.tool or step.name, settings)
    if not traits.whole or traits.failed or traits.target is None:
        return
    if traits.target not in state.files and len(state.files) >= WINDOW:
        return
    episode = state.files.setdefault(traits.target, Episode())
    episode.add(step.span_id, seen.cost, seen.number)
    if episode.due(settings.count):
        yield _finding(episode, step.span_id, step.tool or step.name, settings)


def _finding(episode: Episode, at_span_id: bytes, tool: str, settings: RecreateChurn) -> Finding:
    return episode.finding(
        DETECTOR.name,
        at_span_id,
        shape="recreate",
        summary=f"one file was written whole {episode.repeats} times",
        evidence={"tool": tool},
        count=settings.count,
    )


DETECTOR = Detector(
    name="recreate_churn",
    category=Category.LOOP,
    settings=RecreateChurn,
    state=State,
    observe=observe,
    kinds=TOOLS,
    wakes=WHOLE,
    busy=lambda state: bool(state.files),
)
register(DETECTOR)
