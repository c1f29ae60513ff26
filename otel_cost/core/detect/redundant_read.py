"""Redundant read: what was read before is read again although nothing has changed it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import Field

from otel_cost.core.detect import Detector, register
from otel_cost.core.detect._episode import COMPACTED, Episode, Settings, Turns
from otel_cost.core.detect._traits import traits_of
from otel_cost.core.model.vocabulary import Category, Kind, Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

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

    turns: Turns = field(default_factory=Turns)
    calls: int = 0
    input_tokens: int = 0
    reads: dict[bytes, Read] = field(default_factory=dict)


_READS: Final = 64


def observe(state: State, seen: Observed, settings: RedundantRead) -> Iterator[Finding]:
    """Feed one call; yield when a thing was read too often, and when its content has changed.

    A prompt that shrinks by more than 30 % was compacted: what it held may be read again. A write to
    the file, or one that does not say where it goes, ends the memory of it. A notice only: reading again is cheap
    next to a loop, and `exact_repeat` sees those that are close together.
    """
    cost = state.turns.add(seen)
    step = seen.step
    if step.kind is not Kind.TOOL:
        if step.usage is not None:
            if step.usage.input < COMPACTED * state.input_tokens:
                state.reads.clear()
            state.input_tokens = step.usage.input
        return
    traits = traits_of(seen)
    state.calls += 1
    if traits.verb == "write":
        for call, read in list(state.reads.items()):
            if traits.target is None or read.target is None or traits.target == read.target:
                del state.reads[call]
                if read.episode.firing:
                    yield _finding(read, step.span_id, step.tool or step.name)
        return
    if traits.verb != "read" or traits.failed or traits.call is None or traits.outcome is None:
        return
    known = state.reads.pop(traits.call, None)
    if known is None or known.outcome != traits.outcome:
        if known is not None and known.episode.firing:
            yield _finding(known, step.span_id, step.tool or step.name)
        known = Read(traits.outcome, traits.target, Episode())
        if len(state.reads) >= _READS:
            del state.reads[next(iter(state.reads))]
    state.reads[traits.call] = known  # the least recently read thing goes first
    known.episode.add(step.span_id, cost, state.calls)
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
