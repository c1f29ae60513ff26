"""Books: that nothing was dropped silently, as counters and as a check over what `/metrics` says.

For each signal, in items (spans, log records, metric points), since the process began:

    received            = accepted + refused + rejected(reason)
    journalled + own    = duplicates + set aside + engine pending + passed on
    passed on           = enqueued at each exporter of the signal, less what its spill brought from an earlier run
    enqueued            = sent + dropped(policy) + pending, per exporter

`journalled` is what was accepted, what was read again from the journal at the start, and
what became durable after its sender was told to try again; `own` are our alerts and corrections.
With Kafka, accepted is what a worker has sorted, and journalled what it has read of what all have sorted.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from otel_cost.core.decode.otlp import count_metric_points
from otel_cost.core.enrich.records import OWN_RESOURCE
from otel_cost.core.model.effects import Signal
from otel_cost.edge.telemetry import KAFKA, UNITS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from prometheus_client.metrics_core import Metric

    from otel_cost.core.model.effects import Effects

RECEIVER: Final = "receiver"
JOURNAL: Final = "journal"
STEPS: Final = "steps"  # from Kafka; what is read again after partitions have moved is a duplicate
_SOURCES: Final = (RECEIVER, JOURNAL, STEPS)


class EngineBooks(Collector):
    """What went into the engine and what came out; `routes` says which exporters a signal goes to."""

    def __init__(self, routes: Mapping[Signal, Sequence[str]]) -> None:
        self._routes = routes
        self._lock = threading.Lock()
        self._journalled = {(signal, source): 0 for signal in Signal for source in _SOURCES}
        self._own = dict.fromkeys(Signal, 0)
        self._passed = dict.fromkeys(Signal, 0)
        self._duplicates = dict.fromkeys(Signal, 0)
        self._set_aside = dict.fromkeys(Signal, 0)

    def journalled(self, signal: Signal, items: int, source: str = RECEIVER) -> None:
        """Durable, on the way to the engine."""
        with self._lock:
            self._journalled[signal, source] += items

    def carried_out(self, signal: Signal, *, passed: int = 0, own: int = 0, duplicates: int = 0) -> None:
        """The engine said what becomes of them; `own` are among those passed on."""
        with self._lock:
            self._passed[signal] += passed
            self._own[signal] += own
            self._duplicates[signal] += duplicates

    def let_out(self, effects: Effects) -> None:
        """What the engine said in one step, before it goes to the destinations."""
        if effects.duplicates:
            self.carried_out(Signal.TRACES, duplicates=effects.duplicates)
        outgoing = effects.outgoing
        spans = [record.signal for record in outgoing].count(Signal.TRACES)
        if spans:
            self.carried_out(Signal.TRACES, passed=spans)
        if spans == len(outgoing):
            return
        logs = [record for record in outgoing if record.signal is Signal.LOGS]
        own = sum(record.resource is OWN_RESOURCE for record in logs)
        self.carried_out(Signal.LOGS, passed=len(logs), own=own)
        points = sum(count_metric_points(record.raw) for record in outgoing if record.signal is Signal.METRICS)
        self.carried_out(Signal.METRICS, passed=points)

    def set_aside(self, signal: Signal, items: int) -> None:
        """The engine could not take them; they are in the quarantine."""
        with self._lock:
            self._set_aside[signal] += items

    def pending(self, signal: Signal) -> int:
        """In the engine, or on the way to it."""
        with self._lock:
            return self._pending(signal)

    def _pending(self, signal: Signal) -> int:
        came = sum(self._journalled[signal, source] for source in _SOURCES) + self._own[signal]
        return came - self._passed[signal] - self._duplicates[signal] - self._set_aside[signal]

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            for signal, unit in UNITS.items():
                named = unit.replace("_", " ")
                journalled = CounterMetricFamily(
                    f"otel_cost_journalled_{unit}", f"{named} on their way to the engine", labels=["source"]
                )
                for source in _SOURCES:
                    journalled.add_metric([source], self._journalled[signal, source])
                yield journalled
                for name, help_text, count in (
                    ("own", "made by the service itself", self._own),
                    ("passed", "handed to the exporters of the signal", self._passed),
                    ("duplicate", "sent twice, not passed on again", self._duplicates),
                    ("set_aside", "that the engine could not take, in quarantine", self._set_aside),
                ):
                    yield CounterMetricFamily(f"otel_cost_{name}_{unit}", f"{named} {help_text}", value=count[signal])
                yield GaugeMetricFamily(
                    f"otel_cost_engine_pending_{unit}", f"{named} in the engine", value=self._pending(signal)
                )
        takes = GaugeMetricFamily(
            "otel_cost_exporter_takes", "1 where the exporter gets the signal", labels=["exporter", "signal"]
        )
        for signal, names in self._routes.items():
            for name in names:
                takes.add_metric([name, signal.value], 1)
        yield takes


def check_books(scrape: str, *, at_rest: bool = False) -> list[str]:
    """What does not balance in a scrape of `/metrics`; empty: all does.

    Counters of several threads are read one after the other: between threads only
    `at_rest` (nothing comes in, nothing is under way) says something.
    """
    values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for family in text_string_to_metric_families(scrape):
        for sample in family.samples:
            values[sample.name, tuple(sorted(sample.labels.items()))] = sample.value

    def total(name: str, **labels: str) -> int:
        wanted = set(labels.items())
        return round(sum(value for (found, has), value in values.items() if found == name and wanted <= set(has)))

    def exporters(signal: Signal) -> list[str]:
        return [
            dict(labels)["exporter"]
            for (name, labels), _ in values.items()
            if name == "otel_cost_exporter_takes" and dict(labels)["signal"] == signal.value
        ]

    problems: list[str] = []

    def equal(what: str, left: int, right: int) -> None:
        if left != right:
            problems.append(f"{what}: {left} is not {right}")

    for signal, unit in UNITS.items():
        for name in exporters(signal):
            enqueued = total(f"otel_cost_exporter_enqueued_{unit}_total", exporter=name)
            told = sum(
                total(f"{metric}_{unit}{suffix}", exporter=name)
                for metric, suffix in (
                    ("otelcol_exporter_sent", "_total"),
                    ("otel_cost_exporter_dropped", "_total"),
                    ("otel_cost_exporter_pending", ""),
                )
            )
            equal(f"{name}: enqueued {unit} = sent + dropped + pending", enqueued, told)
            if at_rest:
                recovered = total(f"otel_cost_exporter_recovered_{unit}_total", exporter=name)
                passed = total(f"otel_cost_passed_{unit}_total")
                equal(f"{name}: enqueued {unit} - recovered = passed", enqueued - recovered, passed)
        pending = total(f"otel_cost_engine_pending_{unit}")
        if pending < 0:
            problems.append(f"more {unit} left the engine than came")
        if not at_rest:
            continue
        accepted = total(f"otelcol_receiver_accepted_{unit}_total")
        refused = total(f"otelcol_receiver_refused_{unit}_total")
        rejected = total(f"otel_cost_rejected_{unit}_total")
        equal(
            f"received {unit} = accepted + refused + rejected",
            total(f"otel_cost_received_{unit}_total"),
            accepted + refused + rejected,
        )
        came = total(f"otel_cost_journalled_{unit}_total", source=RECEIVER)
        taken = accepted - total(f"otelcol_receiver_accepted_{unit}_total", receiver=KAFKA)
        if not taken <= came <= taken + refused:
            problems.append(f"journalled {unit} {came} are not the accepted ones {taken} (+ {refused} refused)")
        equal(
            f"journalled and own {unit} = duplicates + set aside + passed on",
            total(f"otel_cost_journalled_{unit}_total") + total(f"otel_cost_own_{unit}_total"),
            sum(total(f"otel_cost_{name}_{unit}_total") for name in ("duplicate", "set_aside", "passed")),
        )
        equal(f"{unit} in the engine at rest", pending, 0)
    return problems
