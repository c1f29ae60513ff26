"""Costly passenger: one tool result rides along in every later prompt and costs more than it is worth."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import Field

from otel_cost.core.detect import Detector, register
from otel_cost.core.detect._carried import Paid, paid_for
from otel_cost.core.detect._episode import COMPACTED, Settings
from otel_cost.core.model.finding import Burnt, Finding
from otel_cost.core.model.money import NANO_PER_USD
from otel_cost.core.model.vocabulary import Category, Kind, Severity

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from otel_cost.core.detect import Observed


class CostlyPassenger(Settings):
    """The carried cost of one tool result: its tokens, times the calls that re-send it, at what they cost there."""

    usd: Annotated[Decimal, Field(gt=0)] = Decimal("0.25")
    """Carried cost from which on a result is told of [USD]."""
    share: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Share of the agent's cost so far from which on it is told of as well."""
    min_tokens: Annotated[int, Field(ge=1)] = 2000
    """Results smaller than this are not followed."""
    min_calls: Annotated[int, Field(ge=1)] = 5
    """Calls that must have carried it, so that a run's first result is not the dearest by nature."""


@dataclass(slots=True)
class Passenger:
    """A result in the prompt: where it begins, its size in tokens, who brought it in, what it has cost since."""

    span_id: bytes
    tool: str
    start: int
    tokens: int
    calls: int = 0
    nano: int | None = 0
    told: bool = False

    def carry(self, paid: Paid | None) -> None:
        self.calls += 1
        if paid is None or self.nano is None:
            self.nano = None
        else:
            self.nano += paid.carried(self.start + self.tokens) - paid.carried(self.start)

    def now(self) -> Burnt:
        return Burnt(self.nano, (self.span_id,), self.calls)


@dataclass(slots=True)
class State:
    """One agent's prompt as far as it is known, and its largest passengers."""

    tokens: tuple[int, int] | None = None  # input and output of the last call of the main model
    brought: list[tuple[bytes, str]] = field(default_factory=list)  # tool calls since then
    passengers: list[Passenger] = field(default_factory=list)
    nano: int | None = 0  # the agent's cost so far


_PASSENGERS: Final = 8


def observe(state: State, seen: Observed, settings: CostlyPassenger) -> Iterable[Finding]:
    """Feed one call; yield a notice, once, for each result whose carrying has become too dear.

    By how much the prompt grew tells a result's size; where several came in one
    turn, none is blamed. A prompt that shrank by more than 30 % has lost its passengers.
    """
    step = seen.step
    if step.kind is Kind.TOOL:
        if len(state.brought) < _PASSENGERS:
            state.brought.append((step.span_id, step.tool or step.name))
        return ()
    if step.usage is None or seen.failed:
        return ()
    state.nano = None if seen.nano is None or state.nano is None else state.nano + seen.nano
    before, now = state.tokens, step.usage.input
    state.tokens = (now, step.usage.output)
    brought, state.brought = state.brought, []
    known = state.passengers
    if before is not None and now < COMPACTED * before[0]:
        state.passengers = []
        return [_finding(passenger, step.span_id, "resolved") for passenger in known if passenger.told]
    if before is not None and len(brought) == 1:
        start = before[0] + before[1]
        if now - start >= settings.min_tokens:
            state.passengers = [*known, Passenger(*brought[0], start, now - start)]
            if len(state.passengers) > _PASSENGERS:
                state.passengers.remove(min(state.passengers, key=lambda one: (one.told, one.tokens)))
    return _carried(state, known, seen, settings) if known else ()


def _carried(state: State, passengers: list[Passenger], seen: Observed, settings: CostlyPassenger) -> Iterator[Finding]:
    paid = paid_for(seen.charge)
    for passenger in passengers:
        passenger.carry(paid)
        if not passenger.told and passenger.calls >= settings.min_calls and _dear(state, passenger, settings):
            passenger.told = True
            yield _finding(passenger, seen.step.span_id, "firing")


def _dear(state: State, passenger: Passenger, settings: CostlyPassenger) -> bool:
    if passenger.nano is None:
        return False
    by_share = state.nano is not None and passenger.nano >= settings.share * state.nano
    return by_share or passenger.nano >= settings.usd * NANO_PER_USD


def _finding(passenger: Passenger, at_span_id: bytes, state: str) -> Finding:
    return Finding(
        detector=DETECTOR.name,
        span_ids=(passenger.span_id,),
        onset_span_id=passenger.span_id,
        at_span_id=at_span_id,
        wasted_nano=passenger.nano,
        shape=f"passenger:{passenger.tool}",
        summary=f"a result of {passenger.tool} with {passenger.tokens} tokens was sent again {passenger.calls} times",
        severity=Severity.NOTICE,
        evidence={"tool": passenger.tool, "tokens": passenger.tokens, "calls": passenger.calls},
        state=state,
        live=passenger,
    )


DETECTOR = Detector(
    name="costly_passenger",
    category=Category.WASTE,
    settings=CostlyPassenger,
    state=State,
    observe=observe,
    kinds=frozenset({Kind.INFERENCE, Kind.TOOL}),
    recorded=True,
)
register(DETECTOR)
