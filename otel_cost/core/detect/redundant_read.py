"""Redundant read: what was read before is read again although nothing has changed it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import Field

from otel_cost.core.detect import Detector, register
from otel_cost.core.detect._episode import Episode, Settings
from otel_cost.core.detect._signs import READ, SHRUNK, WRITE
from otel_cost.core.detect._traits import traits_of
from otel_cost.core.model.vocabulary import Category, Kind, Severity

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from otel_cost.core.detect import Observed
    from otel_cost.core.model.finding import Finding


class RedundantRead(Settings):
    """The same read with the same result, however long ago, while the context still holds it."""

    count: Annotated[int, Field(ge=2)] = 3
    """Reads of one thing that are too many."""


@dataclass(slots=True)
class Read:
    """One thing that was read: its result, its file, the first reading, and how often since: mostly never."""

    outcome: bytes
    target: int | None
    span_id: bytes
    cost: int | None
    episode: Episode | None = None


@dataclass(slots=True)
class State:
    """What one agent has read since its context was last compacted."""

    reads: dict[int, Read] = field(default_factory=dict)


_READS: Final = 64


def observe(state: State, seen: Observed, settings: RedundantRead) -> Iterable[Finding]:
    """Feed one call; yield when a thing was read too often, and when its content has changed.

    A prompt that shrinks by more than 30 % was compacted: what it held may be read again. A write to
    the file, or one that does not say where it goes, ends the memory of it. A notice only: reading again is cheap
    next to a loop, and `exact_repeat` sees those that are close together.
    """
    step = seen.step
    if step.kind is not Kind.TOOL:
        if seen.signs & SHRUNK:
            state.reads.clear()
        return ()
    traits = traits_of(seen)
    if traits.verb == "write":
        return _written(state, seen) if state.reads else ()
    if traits.verb != "read" or traits.failed or traits.call is None or traits.outcome is None:
        return ()
    return _read(state, seen, traits.call, traits.outcome, settings)


def _written(state: State, seen: Observed) -> Iterator[Finding]:
    step, traits = seen.step, traits_of(seen)
    for call, read in list(state.reads.items()):
        if traits.target is None or read.target is None or traits.target == read.target:
            del state.reads[call]
            if read.episode is not None and read.episode.firing:
                yield _finding(read.outcome, read.episode, step.span_id, step.tool or step.name)


def _read(state: State, seen: Observed, call: int, outcome: bytes, settings: RedundantRead) -> Iterable[Finding]:
    known = state.reads.pop(call, None)
    if known is not None and known.outcome == outcome:
        state.reads[call] = known  # the least recently read thing goes first
        return _again(known, seen, settings)
    if len(state.reads) >= _READS:
        del state.reads[next(iter(state.reads))]
    step = seen.step
    state.reads[call] = Read(outcome, traits_of(seen).target, step.span_id, seen.cost)
    if known is None or known.episode is None or not known.episode.firing:
        return ()
    return (_finding(known.outcome, known.episode, step.span_id, step.tool or step.name),)


def _again(read: Read, seen: Observed, settings: RedundantRead) -> Iterator[Finding]:
    step = seen.step
    episode = read.episode
    if episode is None:
        episode = read.episode = Episode()
        episode.add(read.span_id, read.cost, seen.number)
    episode.add(step.span_id, seen.cost, seen.number)
    if episode.repeats >= settings.count and not episode.firing:
        yield _finding(read.outcome, episode, step.span_id, step.tool or step.name)


def _finding(outcome: bytes, episode: Episode, at_span_id: bytes, tool: str) -> Finding:
    return episode.finding(
        DETECTOR.name,
        at_span_id,
        shape=f"{tool}:{outcome.hex()}",
        summary=f"{tool} read the same unchanged thing {episode.repeats} times",
        evidence={"tool": tool},
        severity=Severity.NOTICE,
    )


DETECTOR = Detector(
    name="redundant_read",
    category=Category.LOOP,
    settings=RedundantRead,
    state=State,
    observe=observe,
    wakes=READ | WRITE | SHRUNK,
)
register(DETECTOR)
