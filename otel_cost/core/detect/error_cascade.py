"""Error cascade: one call after the other fails, each in its own way, and nothing works in between."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from otel_cost.core.detect import TOOLS, Detector, register
from otel_cost.core.detect._episode import Episode, Settings
from otel_cost.core.detect._signs import FAILED
from otel_cost.core.detect._traits import traits_of
from otel_cost.core.model.vocabulary import Category

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from otel_cost.core.detect import Observed
    from otel_cost.core.model.finding import Finding


class ErrorCascade(Settings):
    """Different errors in a row, whatever the tools."""

    count: Annotated[int, Field(ge=2)] = 5
    """Distinct errors running; the same one again counts once (that is `repeated_error`)."""


@dataclass(slots=True)
class State:
    """One agent's errors since a tool call last went well."""

    shapes: list[bytes] = field(default_factory=list)
    episode: Episode = field(default_factory=Episode)


def observe(state: State, seen: Observed, settings: ErrorCascade) -> Iterable[Finding]:
    """Feed one call; yield when so many errors have come in a row, and when a call goes well again."""
    return _failing(state, seen, settings) if state.shapes or traits_of(seen).failed else ()


def _failing(state: State, seen: Observed, settings: ErrorCascade) -> Iterator[Finding]:
    step, traits = seen.step, traits_of(seen)
    if not traits.failed:
        if state.episode.firing:
            yield _finding(state, step.span_id, settings)
        if state.shapes:
            state.shapes, state.episode = [], Episode()
        return
    if traits.infrastructure or traits.error is None or traits.error in state.shapes:
        return
    if len(state.shapes) < 4 * settings.count:
        state.shapes.append(traits.error)
    state.episode.add(step.span_id, seen.cost, seen.number)
    if state.episode.due(settings.count):
        yield _finding(state, step.span_id, settings)


def _finding(state: State, at_span_id: bytes, settings: ErrorCascade) -> Finding:
    count = state.episode.repeats
    return state.episode.finding(
        DETECTOR.name,
        at_span_id,
        shape="errors",
        summary=f"{count} different errors in a row",
        evidence={},
        count=settings.count,
    )


DETECTOR = Detector(
    name="error_cascade",
    category=Category.LOOP,
    settings=ErrorCascade,
    state=State,
    observe=observe,
    kinds=TOOLS,
    wakes=FAILED,
    busy=lambda state: bool(state.shapes),
)
register(DETECTOR)
