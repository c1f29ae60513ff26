"""Fan-out: one turn starts a crowd of sub-agents, each with a context of its own to be paid for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from otel_cost.core.detect import Detector, register
from otel_cost.core.detect._episode import Episode, Settings
from otel_cost.core.detect._signs import HANDS_OVER
from otel_cost.core.detect._verbs import delegates
from otel_cost.core.model.vocabulary import Category, Kind, Severity

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from otel_cost.core.detect import Observed
    from otel_cost.core.model.finding import Finding


class FanOut(Settings):
    """Sub-agents started between two model calls of one agent."""

    count: Annotated[int, Field(ge=2)] = 10
    """Sub-agents of one turn from which on it is worth a word. What they cost is counted where they work."""


@dataclass(slots=True)
class State:
    """The present turn's sub-agents."""

    episode: Episode | None = None
    calls: int = 0
    end_ns: int = 0  # of the last one that has ended
    turns: bool = False  # model calls are told, so it is known what one turn is


def observe(state: State, seen: Observed, settings: FanOut) -> Iterable[Finding]:
    """Feed one call; yield when one turn has started so many sub-agents, and when the next turn begins.

    Where no model call is told (hooks alone), those are of one turn that work side by side.
    """
    if seen.step.kind is Kind.TOOL:
        return _started(state, seen, settings) if delegates(seen.step.tool or "") else ()
    state.turns = True
    episode, state.episode = state.episode, None
    return () if episode is None or not episode.firing else (_finding(episode, seen.step.span_id),)


def _started(state: State, seen: Observed, settings: FanOut) -> Iterator[Finding]:
    step = seen.step
    state.calls += 1
    if not state.turns and state.episode is not None and step.start_ns >= state.end_ns:
        if state.episode.firing:
            yield _finding(state.episode, step.span_id)
        state.episode = None
    state.end_ns = max(state.end_ns, step.end_ns)
    if state.episode is None:
        state.episode = Episode(wasted=None)
    state.episode.add(step.span_id, None, state.calls)
    if state.episode.repeats >= settings.count and not state.episode.firing:
        yield _finding(state.episode, step.span_id)


def _finding(episode: Episode, at_span_id: bytes) -> Finding:
    return episode.finding(
        DETECTOR.name,
        at_span_id,
        shape="fan_out",
        summary=f"one turn started {episode.repeats} sub-agents",
        evidence={},
        severity=Severity.NOTICE,
    )


DETECTOR = Detector(
    name="fan_out",
    category=Category.WASTE,
    settings=FanOut,
    state=State,
    observe=observe,
    recorded=True,
    wakes=HANDS_OVER,
    busy=lambda state: not state.turns or state.episode is not None,
)
register(DETECTOR)
