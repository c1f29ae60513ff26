"""Exporter metrics for Prometheus, read from the destinations' books, so that they balance at any scrape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from otel_cost.core.model.effects import Signal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from prometheus_client.metrics_core import Metric

    from otel_cost.edge.export._queue import Destination

_ITEMS: Final = {Signal.TRACES: "spans", Signal.LOGS: "log_records", Signal.METRICS: "metric_points"}


class DestinationMetrics(Collector):
    """Register with a registry; `destinations` is asked anew at each scrape, because a reload changes them."""

    def __init__(self, destinations: Callable[[], Iterable[Destination]]) -> None:
        self._destinations = destinations

    def collect(self) -> Iterator[Metric]:
        every = [(destination, destination.books()) for destination in self._destinations()]
        for signal, items in _ITEMS.items():
            named = items.replace("_", " ")
            enqueued = CounterMetricFamily(
                f"otel_cost_exporter_enqueued_{items}", f"{named} given to the destination", labels=["exporter"]
            )
            sent = CounterMetricFamily(
                f"otelcol_exporter_sent_{items}", f"{named} the destination took", labels=["exporter"]
            )
            failed = CounterMetricFamily(
                f"otelcol_exporter_send_failed_{items}",
                f"{named} that could not be sent, for good",
                labels=["exporter"],
            )
            dropped = CounterMetricFamily(
                f"otel_cost_exporter_dropped_{items}", f"{named} dropped, by policy", labels=["exporter", "policy"]
            )
            pending = GaugeMetricFamily(
                f"otel_cost_exporter_pending_{items}", f"{named} waiting or on their way", labels=["exporter"]
            )
            recovered = CounterMetricFamily(
                f"otel_cost_exporter_recovered_{items}",
                f"of the enqueued {named}: left on disk by an earlier run",
                labels=["exporter"],
            )
            resent = CounterMetricFamily(
                f"otel_cost_exporter_resent_{items}", f"{named} in tries that failed", labels=["exporter"]
            )
            for destination, books in every:
                book, name = books[signal], [destination.name]
                recovered.add_metric(name, book.recovered)
                resent.add_metric(name, book.resent)
                enqueued.add_metric(name, book.enqueued)
                sent.add_metric(name, book.sent)
                failed.add_metric(name, book.failed)
                pending.add_metric(name, book.pending)
                for policy, count in book.dropped.items():
                    dropped.add_metric([*name, policy], count)
            yield from (enqueued, sent, failed, dropped, pending, recovered, resent)
        size = GaugeMetricFamily(
            "otelcol_exporter_queue_size", "bytes or items in the queue, by its sizer", labels=["exporter"]
        )
        capacity = GaugeMetricFamily(
            "otelcol_exporter_queue_capacity", "the queue is full at this size", labels=["exporter"]
        )
        oldest = GaugeMetricFamily(
            "otel_cost_exporter_oldest_pending_seconds", "age of what has waited longest", labels=["exporter"]
        )
        retries = CounterMetricFamily(
            "otel_cost_exporter_retries", "requests the destination could not take yet", labels=["exporter"]
        )
        spilled = GaugeMetricFamily(
            "otel_cost_exporter_spill_bytes", "bytes on disk that wait for the destination", labels=["exporter"]
        )
        broken = GaugeMetricFamily(
            "otel_cost_exporter_breaker_open",
            "1 while the destination is away and one request at a time asks for it",
            labels=["exporter"],
        )
        for destination, _ in every:
            name = [destination.name]
            spilled.add_metric(name, destination.spilled_bytes)
            broken.add_metric(name, destination.is_broken)
            size.add_metric(name, destination.size)
            capacity.add_metric(name, destination.capacity)
            oldest.add_metric(name, destination.oldest_pending_s)
            retries.add_metric(name, destination.retries)
        yield from (size, capacity, oldest, retries, spilled, broken)
