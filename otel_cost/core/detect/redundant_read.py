"""Redundant read: what was read before is read again although nothing has changed it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import Field

from otel_cost.core.detect import Detector, register
from otel_cost.core.detect._episode import COMPACTED, Episode, Settings
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
    """One thing that was read: its result, its file, and how often."""

    outcome: bytes
    target: bytes | None
    episode: Episode


@dataclass(slots=True)
class State:
    """What one agent has read since its context was last compacted."""

    calls: int = 0
    input_tokens: int = 0
    reads: dict[bytes, Read] = field(default_factory=dict)


_READS: Final = 64


def observe(state: State, seen: Observed, settings: RedundantRead) -> Iterable[Finding]:
    """Feed one call; yield when a thing was read too often, and when its content has changed.

    A prompt that shrinks by more than 30 % was compacted: what it held may be read again. A write to
    the file, or one that does not say where it goes, ends the memory of it. A notice only: reading again is cheap
    next to a loop, and `exact_repeat` sees those that are close together.
    """
    step = seen.step
    if step.kind is not Kind.TOOL:
        if step.usage is not None:
            if step.usage.input < COMPACTED * state.input_tokens:
                state.reads.clear()
            state.input_tokens = step.usage.input
        return ()
    traits = traits_of(seen)
    state.calls += 1
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
            if read.episode.firing:
                yield _finding(read, step.span_id, step.tool or step.name)


def _read(state: State, seen: Observed, call: bytes, outcome: bytes, settings: RedundantRead) -> Iterator[Finding]:
    step = seen.step
    known = state.reads.pop(call, None)
    if known is None or known.outcome != outcome:
        if known is not None and known.episode.firing:
            yield _finding(known, step.span_id, step.tool or step.name)
        known = Read(outcome, traits_of(seen).target, Episode())
        if len(state.reads) >= _READS:
            del state.reads[next(iter(state.reads))]
    state.reads[call] = known  # the least recently read thing goes first
    known.episode.add(step.span_id, seen.cost, state.calls)
    if known.episode.repeats >= settings.count and not known.episode.firing:
        yield _finding(known, step.span_id, step.tool or step.name)


def _finding(read: Read, at_span_id: bytes, tool: str) -> Finding:
    return read.episode.finding(
        DETECTOR.name,
        at_span_id,
        shape=f"{tool}:{read.outcome.hex()}",
        summary=f"{tool} read the same unchanged thing {read.episode.repeats} times",
        evidence={"tool": tool},
        severity=Severity.NOTICE,
    )


DETECTOR = Detector(name="redundant_read", category=Category.LOOP, settings=RedundantRead, state=State, observe=observe)
register(DETECTOR)
