"""Exporter `console`: one line per span or log record on standard error, to see what flows; no content."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_cost.core.model.attributes import plain_value
from otel_cost.core.model.effects import Signal
from otel_cost.edge.export import register
from otel_cost.edge.export._contract import ExporterKind
from otel_cost.edge.export._settings import Delivery, SerialQueue

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from opentelemetry.proto.common.v1.common_pb2 import KeyValue

_OURS = "otel_cost."


class Settings(Delivery):
    """Nothing of its own."""

    sending_queue: SerialQueue = SerialQueue()


class Console:
    """Names, ids, durations and our attributes."""

    def __init__(self, _settings: Settings) -> None:
        self._lock = threading.Lock()

    def send(self, signal: Signal, payload: bytes) -> int:
        """As `Exporter.send`."""
        if signal is Signal.TRACES:
            lines = list(_span_lines(payload))
        elif signal is Signal.LOGS:
            lines = list(_log_lines(payload))
        else:
            lines = [f"metrics request of {len(payload)} bytes"]
        with self._lock:
            sys.stderr.write("".join(f"{line}\n" for line in lines))
        return 0

    def close(self) -> None:
        """Standard error stays open: it is not ours."""


def _span_lines(payload: bytes) -> Iterator[str]:
    for of_resource in ExportTraceServiceRequest.FromString(payload).resource_spans:
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                took_ms = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6
                yield _line("span", span.name, span.trace_id, span.span_id, f"{took_ms:.1f}ms", span.attributes)


def _log_lines(payload: bytes) -> Iterator[str]:
    for of_resource in ExportLogsServiceRequest.FromString(payload).resource_logs:
        for of_scope in of_resource.scope_logs:
            for record in of_scope.log_records:
                level = record.severity_text or "-"
                yield _line("log", record.event_name, record.trace_id, record.span_id, level, record.attributes)


def _line(what: str, name: str, trace_id: bytes, span_id: bytes, aside: str, attributes: Iterable[KeyValue]) -> str:
    ours = " ".join(
        f"{pair.key.removeprefix(_OURS)}={plain_value(pair.value)!s}"
        for pair in attributes
        if pair.key.startswith(_OURS)
    )
    # A name may hold anything; repr keeps terminal control characters out.
    return f"{what} {name!r} {trace_id.hex()}/{span_id.hex()} {aside} {ours}".rstrip()


register(ExporterKind(name="console", settings=Settings, build=Console))
