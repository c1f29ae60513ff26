"""Run, trace and tree as they are reported: sums of rounded charges, holes shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from otel_cost.core.model.outcome import UNJUDGED

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_cost.core.model.call import Call
    from otel_cost.core.model.outcome import Outcome
    from otel_cost.core.model.vocabulary import Kind

T = TypeVar("T")


class Later(Generic[T]):
    """A value that is made once, by whoever asks first: what it is made of does not change any more."""

    __slots__ = ("_made", "_make")

    def __init__(self, make: Callable[[], T]) -> None:
        self._make: Callable[[], T] | None = make
        self._made: T | None = None

    def __call__(self) -> T:
        make = self._make
        if make is not None:  # two that ask at the same time make the same
            self._made = make()
            self._make = None
        return self._made  # type: ignore[return-value]  # it is made


def _no_bytes() -> bytes:
    return b""


@dataclass(slots=True)
class RouteLeg:
    """One model on a run's ordered route. `nano` is None while none of its calls is priced."""

    model: str
    calls: int
    nano: int | None


@dataclass(slots=True)
class TraceSummary:
    """One trace of a run that has calls."""

    run_id: str
    tenant: str
    trace_id: bytes
    nano: int | None
    llm_calls: int
    tool_calls: int
    errors: int


@dataclass(slots=True)
class RunSummary:
    """One run. `nano` sums the priced calls (None if none is); `complete` False: it is a floor."""

    run_id: str
    tenant: str
    trace_ids: tuple[bytes, ...]
    start_ns: int
    end_ns: int
    nano: int | None
    complete: bool
    unpriced_calls: int
    llm_calls: int
    tool_calls: int
    errors: int
    agents: tuple[str, ...]
    session: str | None
    who: dict[str, str]
    wasted_nano: int | None
    model_route: tuple[RouteLeg, ...]
    outcome: str | None = None
    verdict: str = UNJUDGED.verdict
    verdict_why: str = UNJUDGED.why
    outcomes: tuple[Outcome, ...] = ()


@dataclass(slots=True)
class Node:
    """One step in a run's tree. `parent` = nearest known ancestor that is a step; "" on top.

    `self_nano` is what this step itself costs (None: not a call, or unpriced);
    the subtree's cost is the sum over its descendants, made by the reader.
    """

    run_id: str
    tenant: str
    trace_id: bytes
    span_id: bytes
    parent: bytes
    kind: Kind
    name: str
    agent: str | None
    start_ns: int
    end_ns: int
    failed: bool
    call_id: str | None
    self_nano: int | None
    status: str | None
    likeness: str | None = None  # equal for tool calls with equal arguments; None: not told


@dataclass(slots=True)
class ClosedRun:
    """Everything about a run at the moment it is written down.

    `nodes` and `snapshot` are most of the work, and the thread that writes them does it.
    """

    summary: RunSummary
    traces: list[TraceSummary]
    calls: list[Call]
    steps: int  # so many nodes
    nodes: Later[list[Node]]
    snapshot: Later[bytes] = field(default_factory=lambda: Later(_no_bytes))  # for a late span to revive it
    keys: tuple[str, ...] = field(default_factory=tuple)  # trace and session keys that find it
    joins: tuple[str, ...] = ()  # where its work ends up (`core/outcomes.py`)
