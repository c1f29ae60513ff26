"""Telemetry of our own: the registry behind `/metrics`, and what the receivers count.

Names are the Collector's where it has one (`otelcol_*`), else ours (`otel_cost_*`).
At any time, per signal: received = accepted + refused + rejected (a request that
cannot be decoded has no countable records: it is a `refused` request, no more).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from otel_cost.core.model.effects import Signal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from otel_cost.core.decode.otlp import Rejected
    from otel_cost.core.decode.otlp_json import JsonNotes
    from otel_cost.edge.journal import Journal

UNITS: Final = {Signal.TRACES: "spans", Signal.LOGS: "log_records", Signal.METRICS: "metric_points"}
RECEIVER: Final = "otlp"
KAFKA: Final = "kafka"


class ReceiverMetrics:
    """What came in and what became of it. Safe to use from many threads."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def per_signal(name: str, help_text: str, labels: Iterable[str]) -> dict[Signal, Counter]:
            return {
                signal: Counter(name.format(unit), help_text.format(unit.replace("_", " ")), labels, registry=registry)
                for signal, unit in UNITS.items()
            }

        here = ("receiver", "transport")
        self._received = per_signal("otel_cost_received_{}", "{} in requests that could be decoded", ())
        self._accepted = per_signal("otelcol_receiver_accepted_{}", "{} acknowledged: durable here", here)
        self._refused = per_signal("otelcol_receiver_refused_{}", "{} not taken; the sender may try again", here)
        self._rejected = per_signal("otel_cost_rejected_{}", "{} that can never be accepted", ("reason",))
        self._requests = Counter(
            "otelcol_receiver_requests", "export requests by outcome", (*here, "outcome"), registry=registry
        )
        self._ignored_keys = Counter(
            "otel_cost_receiver_json_ignored_keys", "JSON keys that no OTLP field has", registry=registry
        )
        self._enum_names = Counter(
            "otel_cost_receiver_json_enum_names", "JSON enums given by name, not number", registry=registry
        )

    def decoded(self, signal: Signal, events: int, rejected: Iterable[Rejected]) -> None:
        count = 0
        for count, one in enumerate(rejected, 1):  # noqa: B007 - the count is used below
            self._rejected[signal].labels(one.reason).inc()
        self._received[signal].inc(events + count)

    def accepted(self, signal: Signal, transport: str, events: int) -> None:
        self._accepted[signal].labels(_receiver(transport), transport).inc(events)
        self._requests.labels(_receiver(transport), transport, "success").inc()

    def refused(self, signal: Signal, transport: str, events: int) -> None:
        """The sender, or the sender's next try, can do something about it; `events` may be 0 (not decoded)."""
        if events:
            self._refused[signal].labels(_receiver(transport), transport).inc(events)
        self._requests.labels(_receiver(transport), transport, "refused").inc()

    def failed(self, signal: Signal, transport: str, events: int) -> None:
        """Our own mistake."""
        if events:
            self._refused[signal].labels(RECEIVER, transport).inc(events)
        self._requests.labels(RECEIVER, transport, "failure").inc()

    def json_notes(self, notes: JsonNotes) -> None:
        self._ignored_keys.inc(notes.ignored_keys)
        self._enum_names.inc(notes.enum_names)


def _receiver(transport: str) -> str:
    return KAFKA if transport == KAFKA else RECEIVER


class HookMetrics:
    """Hook calls of harnesses, by what they were answered, and how long that took. Safe to use from many threads."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._calls = Counter("otel_cost_hooks", "hook calls by outcome", ("dialect", "outcome"), registry=registry)
        self._seconds = Histogram(
            "otel_cost_hook_seconds",
            "from the body read to the answer made",
            ("dialect",),
            buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25),
            registry=registry,
        )

    def answered(self, dialect: str, outcome: str, seconds: float | None) -> None:
        """`outcome`: a verb, `unanswered` (unreadable or too late: no objection) or `failed` (our own mistake)."""
        self._calls.labels(dialect, outcome).inc()
        if seconds is not None:
            self._seconds.labels(dialect).observe(seconds)


def watch_journal(registry: CollectorRegistry, journal: Journal) -> None:
    """Gauges over a journal; read when scraped."""
    for name, help_text, read in (
        ("size_bytes", "bytes in the journal's segments", lambda: journal.size_bytes),
        ("end_position", "position that the next record gets", lambda: journal.end),
        ("torn_bytes", "bytes of torn last records cut off at start", lambda: journal.health.torn_bytes),
        ("lost_posts", "hook calls answered that could not be written down", lambda: journal.health.lost_posts),
        ("corrupt_records", "damaged records set aside since start", lambda: journal.health.corrupt_records),
        ("writable", "1 if records can be appended", lambda: journal.problem is None),
    ):
        Gauge(f"otel_cost_journal_{name}", help_text, registry=registry).set_function(read)


def watch_ledger(
    registry: CollectorRegistry, problem: Callable[[], str | None], heard_s: Callable[[], float] | None
) -> None:
    """Gauges over a ledger.

    Args:
        registry: where to.
        problem: why it takes no rows now.
        heard_s: where others share it, how long ago they were heard.
    """
    Gauge("otel_cost_ledger_writable", "1 if the ledger takes rows", registry=registry).set_function(
        lambda: problem() is None
    )
    if heard_s is not None:
        what = "age of what is known of the spending of services that share the ledger"
        Gauge("otel_cost_ledger_heard_age_seconds", what, registry=registry).set_function(heard_s)
