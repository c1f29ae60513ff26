"""Who tells model calls one by one is known after a restart: its usage metrics count nothing then either."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_CUMULATIVE
from running import until

from otel_cost.core.model.effects import Signal
from otel_cost.edge.clock import now_ns
from otel_cost.edge.config import load_config
from otel_cost.service import Service

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from opentelemetry.proto.resource.v1.resource_pb2 import Resource

MINUTE = 60 * 10**9
MODEL = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "gpt-4o"}


def say(record: object, told: Mapping[str, str | int]) -> None:
    for key, value in told.items():
        pair = record.attributes.add(key=key)  # type: ignore[attr-defined]
        if isinstance(value, int):
            pair.value.int_value = value
        else:
            pair.value.string_value = value


def of_app(resource: Resource) -> None:
    say(resource, {"service.name": "app", "service.instance.id": "one"})


def call(at_ns: int) -> bytes:
    request = ExportTraceServiceRequest()
    told = request.resource_spans.add()
    of_app(told.resource)
    span = told.scope_spans.add().spans.add(trace_id=bytes([7] * 16), span_id=bytes([7] * 8), name="chat gpt-4o")
    span.start_time_unix_nano, span.end_time_unix_nano = at_ns - 10**9, at_ns
    say(span, MODEL | {"gen_ai.usage.input_tokens": 1000, "gen_ai.usage.output_tokens": 100})
    return request.SerializeToString()


def totals(since_ns: int, until_ns: int) -> bytes:
    """What the process has used since it began, as its SDK says it every minute, whether it works or not."""
    request = ExportMetricsServiceRequest()
    told = request.resource_metrics.add()
    of_app(told.resource)
    metric = told.scope_metrics.add().metrics.add(name="gen_ai.client.token.usage")
    metric.histogram.aggregation_temporality = AGGREGATION_TEMPORALITY_CUMULATIVE
    for kind, tokens in (("input", 1000), ("output", 100)):
        point = metric.histogram.data_points.add(count=1, sum=tokens)
        point.start_time_unix_nano, point.time_unix_nano = since_ns, until_ns
        say(point, MODEL | {"gen_ai.token.type": kind})
    return request.SerializeToString()


def test_metrics_after_a_restart_count_no_call_again(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(f"data_dir: {tmp_path / 'data'}\nengine: {{idle: 1s, settle: 100ms}}\n")
    ports = ["receivers.otlp.protocols.grpc.endpoint", "receivers.otlp.protocols.http.endpoint", "api.endpoint"]
    config = load_config([tmp_path / "config.yaml"], [f"{key}=127.0.0.1:0" for key in ports], {})

    def spent(service: Service) -> list[tuple[object, object]]:
        service.flush()
        return [(row["cost_usd"], row["calls"]) for row in service.ledger.report()]

    began_ns = now_ns() - 5 * MINUTE
    first = Service(config)
    first.start()
    try:
        first._intake.accept(Signal.TRACES, call(began_ns + MINUTE), tenant="default", transport="grpc")
        until(lambda: spent(first) == [("0.0035", 1)])
    finally:
        first.stop()  # all runs are over
    second = Service(config)
    second.start()
    try:
        until_ns = began_ns + 3 * MINUTE
        second._intake.accept(Signal.METRICS, totals(began_ns, until_ns), tenant="default", transport="grpc")
        until(lambda: len(second.open_runs()) == 1)
        until(lambda: not second.open_runs())
        assert spent(second) == [("0.0035", 1)]
    finally:
        second.stop()
