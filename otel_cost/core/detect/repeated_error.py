"""Repeated error: a tool or model fails the same way again and again, and each retry is paid for."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import Field

from otel_cost.core.detect import Detector, register
from otel_cost.core.detect._episode import CALM, WINDOW, Episode, Settings
from otel_cost.core.detect._memory import near_calls
from otel_cost.core.detect._signs import FAILED
from otel_cost.core.detect._traits import traits_of
from otel_cost.core.model.vocabulary import Category, Kind, Severity

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from otel_cost.core.detect import Observed
    from otel_cost.core.detect._traits import Traits
    from otel_cost.core.model.finding import Finding


class RepeatedError(Settings):
    """The same tool fails with the same message, whatever its arguments."""

    count: Annotated[int, Field(ge=2)] = 3
    """Failures of one shape that make it a loop: one retry is healthy, two may be bad luck."""
    varied: Annotated[int, Field(ge=2)] = 5
    """As many where the tries were different ones; from `count` on they are a notice."""


_TRIES: Final = 8


@dataclass(slots=True)
class Streak:
    """Failures of one shape."""

    tool: str
    shape: bytes
    call: int | None
    failures: int | None
    calm: int  # calls that go well in between, from which on the streak is over
    varied: bool = False  # the arguments were not always the same
    tries: deque[tuple[Traits, int]] = field(default_factory=lambda: deque(maxlen=_TRIES))  # and their epochs
    again: int = 1  # tries that were nearly the same as one before, and the first
    episode: Episode = field(default_factory=Episode)


@dataclass(slots=True)
class State:
    """What one agent's recent failures have in common."""

    streaks: dict[bytes, Streak] = field(default_factory=dict)


def observe(state: State, seen: Observed, settings: RepeatedError) -> Iterable[Finding]:
    """Feed one call; yield when a streak is long enough, and when it has ended.

    Other calls may lie between the failures (`rm`, then the same `create` again). Tries with other
    arguments, and checks after an edit, may be progress that the error does not show: they count, but less.
    A streak ends when the call that failed succeeds, when fewer tests fail than
    before, or after a few calls that went well. Faults of the network or of a
    rate limit are no streak: retries of those are `retry_storm`.
    """
    if seen.step.kind is not Kind.TOOL and not seen.failed:
        return ()
    traits = traits_of(seen)
    if not traits.failed or traits.infrastructure or traits.error is None:
        return _calm(state, seen) if state.streaks else ()
    return _again(state, seen, traits.error, settings)


def _again(state: State, seen: Observed, shape: bytes, settings: RepeatedError) -> Iterator[Finding]:
    step, traits = seen.step, traits_of(seen)
    streak = state.streaks.get(shape)
    if streak is not None and _progress(streak.failures, traits.failures):
        if streak.episode.firing:
            yield _finding(streak, step.span_id)
        streak = None
    if streak is None or (seen.number - streak.episode.last > WINDOW and not streak.episode.firing):
        # Where only the error's type is told, two failures are the same only if nothing went well in between.
        calm = 1 if traits.vague else CALM
        streak = Streak(step.tool or step.model or step.name, shape, traits.call, traits.failures, calm)
        state.streaks[shape] = streak
        if len(state.streaks) > WINDOW:
            del state.streaks[next(iter(state.streaks))]
    streak.varied |= traits.call != streak.call
    streak.failures = traits.failures
    streak.episode.add(step.span_id, seen.cost if step.kind is Kind.TOOL else 0, seen.number, traits)
    streak.again += any(_same_try(one, epoch, traits, seen.epoch) for one, epoch in streak.tries)
    streak.tries.append((traits, seen.epoch))
    if streak.again >= settings.count or streak.episode.repeats >= settings.varied:
        severity = Severity.WARNING
    elif streak.episode.repeats >= settings.count:
        severity = Severity.NOTICE
    else:
        return
    if streak.episode.is_news(severity):
        yield _finding(streak, step.span_id, severity)


def _same_try(one: Traits, epoch: int, two: Traits, epoch_now: int) -> bool:
    if two.verb == "check" and epoch != epoch_now:
        return False
    return one.call is None or two.call is None or one.call == two.call or near_calls(one, two)


def _progress(before: int | None, now: int | None) -> bool:
    return before is not None and now is not None and now < before


def _calm(state: State, seen: Observed) -> Iterator[Finding]:
    traits = traits_of(seen)
    for shape, streak in list(state.streaks.items()):
        solved = traits.call is not None and traits.call == streak.call and not traits.failed
        streak.episode.quiet += 1
        if solved or streak.episode.quiet >= streak.calm:
            if streak.episode.firing:
                yield _finding(streak, seen.step.span_id)
            del state.streaks[shape]


def _finding(streak: Streak, at_span_id: bytes, severity: Severity | None = None) -> Finding:
    episode = streak.episode
    return episode.finding(
        DETECTOR.name,
        at_span_id,
        shape=f"{streak.tool}:{streak.shape.hex()}",
        summary=f"{streak.tool} failed the same way {episode.repeats} times",
        evidence={
            "tool": streak.tool,
            "arguments": "varied" if streak.varied else "same",
            "error": streak.shape.hex(),
        },
        severity=severity,
    )


DETECTOR = Detector(
    name="repeated_error",
    category=Category.LOOP,
    settings=RepeatedError,
    state=State,
    observe=observe,
    wakes=FAILED,
    busy=lambda state: bool(state.streaks),
)
register(DETECTOR)
