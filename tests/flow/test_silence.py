"""A sender that used to report and says nothing any more is an alert, and so is its return."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from running import until

from otel_cost.core.model.effects import Signal
from otel_cost.edge.clock import now_ns
from otel_cost.edge.config import load_config
from otel_cost.edge.journal import Record
from otel_cost.service import Service

if TYPE_CHECKING:
    from pathlib import Path

MINUTE = 60 * 10**9
ANY_PORT = ["receivers.otlp.protocols.grpc.endpoint", "receivers.otlp.protocols.http.endpoint", "api.endpoint"]


def request(service: str) -> bytes:
    told = ExportTraceServiceRequest()
    resource = told.resource_spans.add()
    resource.resource.attributes.add(key="service.name").value.string_value = service
    span = resource.scope_spans.add().spans.add(trace_id=b"t" * 16, span_id=b"s" * 8, name="work")
    span.start_time_unix_nano = span.end_time_unix_nano = now_ns()
    return told.SerializeToString()


def test_a_sender_that_goes_silent_is_told_of_once_and_again_when_it_is_back(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(f"data_dir: {tmp_path / 'data'}\nsenders: {{silent_after: 5m}}\n")
    config = load_config([tmp_path / "config.yaml"], [f"{key}=127.0.0.1:0" for key in ANY_PORT], {})

    def told(service: Service) -> list[tuple[str, str]]:
        service.flush()
        rows = service.ledger.alerts(100)
        return sorted((row["state"], row["evidence"]["service"]) for row in rows if row["kind"] == "sender_silent")

    service = Service(config)
    service.start()
    try:
        began = now_ns() - 60 * MINUTE
        for minute in range(60):
            for name, last in (("gone", 30), ("there", 60)):
                if minute < last:
                    record = Record(Signal.TRACES.value, "default", began + minute * MINUTE, request(name))
                    service.journal.append(record, timeout_s=10)
        until(lambda: told(service) == [("firing", "gone")])
    finally:
        service.stop()
    again = Service(config)  # who is silent is known over a restart
    again.start()
    try:
        assert told(again) == [("firing", "gone")]
        again._intake.accept(Signal.TRACES, request("gone"), tenant="default", transport="grpc")
        until(lambda: told(again) == [("resolved", "gone")])
    finally:
        again.stop()
