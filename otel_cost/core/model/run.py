"""Run, trace and tree as they are reported: sums of rounded charges, holes shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from otel_cost.core.model.outcome import UNJUDGED

if TYPE_CHECKING:
    from otel_cost.core.model.call import Call
    from otel_cost.core.model.outcome import Outcome
    from otel_cost.core.model.vocabulary import Kind


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
    """Everything about a run at the moment it is written down."""

    summary: RunSummary
    traces: list[TraceSummary]
    calls: list[Call]
    nodes: list[Node]
    snapshot: bytes = b""  # what a late span needs to revive it (core/assemble/snapshot.py)
    keys: tuple[str, ...] = field(default_factory=tuple)  # trace and session keys that find it
    joins: tuple[str, ...] = ()  # where its work ends up (`core/outcomes.py`)
