"""Retry storm: the same call is tried again and again against a fault of the way there (429, 5xx, timeout)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import Field

from otel_cost.core.detect import Detector, register
from otel_cost.core.detect._episode import Episode, Settings
from otel_cost.core.detect._signs import FAULT
from otel_cost.core.detect._traits import traits_of
from otel_cost.core.model.vocabulary import Category, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from otel_cost.core.detect import Observed
    from otel_cost.core.model.finding import Finding


class RetryStorm(Settings):
    """Failed calls of one model or tool, close together."""

    count: Annotated[int, Field(ge=2)] = 4
    """Failures without a success in between: one more than clients retry by themselves (two or three times)."""
    seconds: Annotated[float, Field(gt=0)] = 60.0
    """Pause between one try and the next, at most [s]. The tries themselves may be long: timeouts are."""


@dataclass(slots=True)
class Storm:
    """Failures of one model or tool since its last success."""

    last_ns: int = 0  # when the last try ended
    episode: Episode = field(default_factory=Episode)


@dataclass(slots=True)
class State:
    """One agent's storms, by model or tool."""

    storms: dict[str, Storm] = field(default_factory=dict)


_STORMS: Final = 8


def observe(state: State, seen: Observed, settings: RetryStorm) -> Iterable[Finding]:
    """Feed one call; yield when failures have come too fast, and when a call gets through or they have calmed down.

    `wasted` is what was billed: mostly nothing for a model's failures, the model's turn for a tool's.
    """
    return _tried(state, seen, settings) if state.storms or traits_of(seen).infrastructure else ()


def _tried(state: State, seen: Observed, settings: RetryStorm) -> Iterator[Finding]:
    step = seen.step
    what = (step.tool if step.kind is Kind.TOOL else step.requested_model or step.response_model) or step.name
    traits = traits_of(seen)
    storm = state.storms.get(what)
    if not traits.failed or not traits.infrastructure:
        if storm is not None and not traits.failed:
            del state.storms[what]
            if storm.episode.firing:
                yield _finding(storm, step.span_id, what, step.error_type)
        return
    if storm is not None and step.start_ns - storm.last_ns > settings.seconds * 1e9:
        if storm.episode.firing:
            yield _finding(storm, step.span_id, what, step.error_type)
        storm = None
    if storm is None:
        if len(state.storms) >= _STORMS:
            del state.storms[next(iter(state.storms))]
        storm = state.storms[what] = Storm()
    storm.last_ns = max(step.end_ns, storm.last_ns)
    billed = seen.cost if step.kind is Kind.TOOL else 0 if seen.nano is None else seen.nano
    storm.episode.add(step.span_id, billed, seen.number)
    if storm.episode.repeats >= settings.count and not storm.episode.firing:
        yield _finding(storm, step.span_id, what, step.error_type)


def _finding(storm: Storm, at_span_id: bytes, what: str, error_type: str | None) -> Finding:
    return storm.episode.finding(
        DETECTOR.name,
        at_span_id,
        shape=f"storm:{what}",
        summary=f"{storm.episode.repeats} calls of {what} failed on the way",
        evidence={"what": what, "error_type": error_type},
    )


DETECTOR = Detector(
    name="retry_storm",
    category=Category.LOOP,
    settings=RetryStorm,
    state=State,
    observe=observe,
    wakes=FAULT,
    busy=lambda state: bool(state.storms),
)
register(DETECTOR)
