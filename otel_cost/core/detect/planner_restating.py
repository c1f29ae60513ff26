"""Planner restating: the same order is given in other words, and its answers hold little that is new."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import Field

from otel_cost.core.detect import TOOLS, Detector, register
from otel_cost.core.detect._episode import CALM, Episode, Settings
from otel_cost.core.detect._signs import ORDERS
from otel_cost.core.detect._traits import traits_of
from otel_cost.core.model.vocabulary import Category

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from otel_cost.core.detect import Observed
    from otel_cost.core.detect._sketch import Sketch
    from otel_cost.core.model.finding import Finding


class PlannerRestating(Settings):
    """Orders to other agents that say nearly the same, without an answer that brings anything new."""

    count: Annotated[int, Field(ge=2)] = 3
    """Orders of one meaning that make it a loop."""
    near: Annotated[float, Field(gt=0, le=1)] = 0.45
    """Share of words that two orders have in common (Dice); a reworded order keeps about half."""
    new: Annotated[float, Field(gt=0, le=1)] = 0.4
    """Share of new words from which on an answer is news: the next page of a list, another place."""


@dataclass(slots=True)
class State:
    """One agent's last orders and the words of their answers."""

    calls: int = 0
    orders: deque[tuple[Sketch, int]] = field(default_factory=lambda: deque(maxlen=2))  # and when it was answered
    words: set[int] = field(default_factory=set)
    episode: Episode = field(default_factory=Episode)


_KNOWN_WORDS: Final = 1024


def observe(state: State, seen: Observed, settings: PlannerRestating) -> Iterable[Finding]:
    """Feed one call; yield when an order was restated too often, and when other orders have followed."""
    order = traits_of(seen).instruction
    if order is None or any(seen.step.start_ns < answered for _, answered in state.orders):
        return ()
    return _ordered(state, seen, order, settings)


def _ordered(state: State, seen: Observed, order: Sketch, settings: PlannerRestating) -> Iterator[Finding]:
    step, traits = seen.step, traits_of(seen)
    state.calls += 1
    news = len(traits.words - state.words) > settings.new * len(traits.words)
    restated = not news and any(order.near(earlier, settings.near) for earlier, _ in state.orders)
    if len(state.words) > _KNOWN_WORDS:
        state.words.clear()
    state.words |= traits.words
    state.orders.append((order, step.end_ns))
    if not restated and state.episode.firing:
        state.episode.quiet += 1
        if state.episode.quiet < CALM:
            return
        yield _finding(state.episode, step.span_id, settings)
    if not restated:
        state.episode = Episode()
    state.episode.add(step.span_id, seen.cost, state.calls)
    if state.episode.due(settings.count):
        yield _finding(state.episode, step.span_id, settings)


def _finding(episode: Episode, at_span_id: bytes, settings: PlannerRestating) -> Finding:
    return episode.finding(
        DETECTOR.name,
        at_span_id,
        shape="restated",
        summary=f"the same order was given {episode.repeats} times without new answers",
        evidence={},
        count=settings.count,
    )


DETECTOR = Detector(
    name="planner_restating",
    category=Category.LOOP,
    settings=PlannerRestating,
    state=State,
    observe=observe,
    kinds=TOOLS,
    wakes=ORDERS,
)
register(DETECTOR)
