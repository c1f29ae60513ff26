"""Effects: what the engine wants done. The engine itself does nothing to the world."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fractions import Fraction

    from otel_cost.core.model.call import Call
    from otel_cost.core.model.event import Resource, Scope
    from otel_cost.core.model.finding import Alert
    from otel_cost.core.model.measure import Teller
    from otel_cost.core.model.outcome import Outcome
    from otel_cost.core.model.run import ClosedRun


class Signal(StrEnum):
    """OTLP signals, spelled as in URL paths and pipeline names."""

    TRACES = "traces"
    LOGS = "logs"
    METRICS = "metrics"


@dataclass(slots=True, eq=False)
class Outgoing:
    """One record on its way downstream.

    What a backend receives is `raw + extra`: the sender's bytes untouched, then
    our encoded attribute fields (a valid protobuf merge). Metrics travel as the whole
    request in `raw`, without resource and scope. `call` is there on a span that
    speaks for a call, so that a preset can add its vendor's cost keys (leaves only).
    """

    signal: Signal
    position: int  # journal position of the request it came in; cursors move by it
    raw: bytes
    extra: bytes = b""
    resource: Resource | None = None
    scope: Scope | None = None
    call: Call | None = None
    tenant: str = ""
    trace_id: bytes = b""  # b"": of no trace; it goes wherever its signal goes
    is_root: bool = False
    key: str = ""  # of what must be told once, the same whenever the journal is read again: an alert
    sample_rate: Fraction | None = None  # so many traces this one stands for; None: nothing was left out


@dataclass(slots=True, frozen=True)
class Correction:
    """A charge that was already told has changed: late child, twin, conflict."""

    tenant: str
    run_id: str
    call_id: str
    trace_id: bytes
    span_id: bytes
    at_ns: int
    old_nano: int | None
    new_nano: int | None
    why: str
    who: str = ""  # who ordered it: re-pricing
    price_book: str = ""  # which book says so, where it is another than the call was told with


@dataclass(slots=True)
class Effects:
    """Collected over one step of the engine, in order; emptied by whoever carries them out."""

    outgoing: list[Outgoing] = field(default_factory=list)
    calls: list[tuple[str, str, Call]] = field(
        default_factory=list
    )  # (tenant, run id, call): settled or changed, to be upserted
    gone: list[tuple[str, str]] = field(
        default_factory=list
    )  # (tenant, call id): was written, turned out to be another's
    alerts: list[Alert] = field(default_factory=list)
    again: list[Alert] = field(default_factory=list)  # what is already told happened once more: for whoever keeps count
    corrections: list[Correction] = field(default_factory=list)
    closed: list[ClosedRun] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    joins: list[tuple[str, str, str]] = field(default_factory=list)  # (tenant, run id, key by which outcomes find it)
    tellers: list[Teller] = field(default_factory=list)  # known anew
    duplicates: int = 0  # resent records, not forwarded again
