"""The whole service as a user runs it: a process, real SDKs before it, stub backends behind it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Link, SpanKind, Status, StatusCode

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))

from load import export_requests
from running import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from backends import OverGrpc, OverHttp
    from running import Process

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


def to_both(one: OverGrpc, other: OverHttp) -> str:
    return f"""
exporters:
  otlp_grpc/one: {{endpoint: "127.0.0.1:{one.port}", tls: {{insecure: true}}}}
  otlp_http/other: {{endpoint: "http://127.0.0.1:{other.port}"}}
engine: {{settle: 200ms}}
"""


class JsonExporter(SpanExporter):
    """What the SDK for Python lacks: OTLP/JSON over HTTP."""

    def __init__(self, url: str) -> None:
        self._url = url

    def export(self, spans: Any) -> SpanExportResult:
        said = MessageToDict(encode_spans(spans))
        for resource in said["resourceSpans"]:
            for scope in resource["scopeSpans"]:
                for span in scope["spans"]:
                    _hex_ids(span)
                    for link in span.get("links", ()):
                        _hex_ids(link)
                    span["kind"] = SpanKind[span["kind"].removeprefix("SPAN_KIND_")].value + 1
                    code = span.get("status", {}).get("code")
                    if code:
                        span["status"]["code"] = {"STATUS_CODE_OK": 1, "STATUS_CODE_ERROR": 2}[code]
        request = urllib.request.Request(
            self._url, json.dumps(said).encode(), {"Content-Type": "application/json"}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.status == 200
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None: ...


def _hex_ids(said: dict[str, str]) -> None:
    import base64

    for key in ("traceId", "spanId", "parentSpanId"):
        if said.get(key):
            said[key] = base64.b64decode(said[key]).hex()


class Keep(SpanExporter):
    """The bytes that the SDK would send, to compare with what arrives."""

    def __init__(self) -> None:
        self.spans: dict[bytes, bytes] = {}

    def export(self, spans: Any) -> SpanExportResult:
        for resource in encode_spans(spans).resource_spans:
            for scope in resource.scope_spans:
                self.spans |= {span.span_id: span.SerializeToString(deterministic=True) for span in scope.spans}
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None: ...


def an_agent_at_work(tracer: trace.Tracer, session: str) -> None:
    other = trace.SpanContext(trace_id=7, span_id=9, is_remote=True, trace_flags=trace.TraceFlags(1))
    with tracer.start_as_current_span("invoke_agent coder", links=[Link(other, {"why": "resumed"})]) as agent:
        agent.set_attributes({"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "coder"})
        agent.set_attributes({"gen_ai.conversation.id": session, "user.id": "dana"})
        for turn in range(4):
            with tracer.start_as_current_span("chat gpt-5-mini", kind=SpanKind.CLIENT) as chat:
                chat.set_attributes(
                    {
                        "gen_ai.operation.name": "chat",
                        "gen_ai.provider.name": "openai",
                        "gen_ai.request.model": "gpt-5-mini",
                        "gen_ai.usage.input_tokens": 1000 + turn,
                        "gen_ai.usage.output_tokens": 100,
                        "gen_ai.response.id": f"{session}-{turn}",
                    }
                )
                chat.add_event("note", {"turn": turn})
            with tracer.start_as_current_span("execute_tool run_tests") as tool:
                tool.set_attributes({"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "run_tests"})
                tool.set_status(Status(StatusCode.ERROR, f"AssertionError: expected 3 items at line {turn}"))


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["grpc", "http/protobuf", "http/json"])
def test_real_sdk_through_the_service_to_two_backends(
    transport: str, serve: Callable[..., Process], backends: tuple[OverGrpc, OverHttp]
) -> None:
    service = serve(to_both(*backends))
    kept = Keep()
    exporter: SpanExporter
    if transport == "grpc":
        exporter = GrpcExporter(endpoint=f"http://{service.grpc}", insecure=True)
    elif transport == "http/protobuf":
        exporter = HttpExporter(endpoint=f"http://{service.http}/v1/traces")
    else:
        exporter = JsonExporter(f"http://{service.http}/v1/traces")
    provider = TracerProvider(resource=Resource.create({"service.name": "shop", "team.id": "payments"}))
    provider.add_span_processor(SimpleSpanProcessor(kept))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    an_agent_at_work(provider.get_tracer("test.agent", "1.0"), "conv-1")
    provider.shutdown()

    for backend in backends:
        until(lambda backend=backend: len(backend.spans()) == 9)
        for span in backend.spans():
            ours = {pair.key: pair.value for pair in span.attributes if pair.key.startswith("otel_cost.")}
            assert ours
            if span.name.startswith("chat"):
                assert ours["otel_cost.status"].string_value == "priced"
                assert ours["otel_cost.usd"].double_value > 0
                assert ours["otel_cost.run.id"].string_value == "conv-1"
            if span.name.startswith("invoke"):
                # 4 calls: (1000 … 1003) x 0.25 + 100 x 2, per million
                assert ours["otel_cost.trace.usd"].double_value == pytest.approx(0.0018015)
            for index in reversed(range(len(span.attributes))):
                if span.attributes[index].key.startswith("otel_cost."):
                    del span.attributes[index]
            assert span.SerializeToString(deterministic=True) == kept.spans[span.span_id]
        until(backend.logs)
        alerts = [record for record in backend.logs() if record.event_name == "otel_cost.alert"]
        assert {a.value.string_value for r in alerts for a in r.attributes if a.key == "otel_cost.alert.rule"} == {
            "same-error-3x"
        }

    until(lambda: service.get("/v1/report?by=model,user")["rows"])
    (row,) = [row for row in service.get("/v1/report?by=model,user")["rows"] if row["model"]]
    assert (row["model"], row["user"], row["calls"]) == ("gpt-5-mini", "dana", 4)
    assert service.stop() == 0
    explained = subprocess.run(
        [sys.executable, "-m", "otel_cost", "report", "--by", "model", "--json", "--data-dir", str(service.data)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert [json.loads(line)["cost_usd"] for line in explained.stdout.splitlines() if "gpt-5-mini" in line] == [
        "0.0018015"
    ]


def _post(service: Process, bodies: list[bytes], accepted: list[bytes], stop: threading.Event) -> None:
    """Send until told to stop; what was acknowledged is noted."""
    channel = grpc.insecure_channel(service.grpc)
    export = channel.unary_unary(EXPORT, None, None)
    for body in bodies:
        if stop.is_set():
            break
        try:
            export(body, timeout=10)
        except grpc.RpcError:
            continue
        accepted.append(body)
    channel.close()


def _ids(bodies: list[bytes]) -> set[bytes]:
    return {
        span.span_id
        for body in bodies
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    }


@pytest.mark.slow
def test_terminated_under_load_everything_accepted_arrives_once(
    serve: Callable[..., Process], backends: tuple[OverGrpc, OverHttp]
) -> None:
    service = serve(to_both(*backends))
    bodies = export_requests(30_000, 100)
    accepted: list[list[bytes]] = [[], [], []]
    stop = threading.Event()
    senders = [
        threading.Thread(target=_post, args=(service, bodies[n::3], accepted[n], stop)) for n in range(len(accepted))
    ]
    for sender in senders:
        sender.start()
    until(lambda: sum(map(len, accepted)) > 60)
    assert service.stop() == 0
    stop.set()
    for sender in senders:
        sender.join()
    sent = _ids([body for part in accepted for body in part])
    for backend in backends:
        arrived = [span.span_id for span in backend.spans()]
        assert set(arrived) == sent
        assert len(arrived) == len(sent)


@pytest.mark.slow
def test_killed_under_load_nothing_acknowledged_is_lost(
    serve: Callable[..., Process], backends: tuple[OverGrpc, OverHttp]
) -> None:
    config = to_both(*backends)
    service = serve(config)
    bodies = export_requests(20_000, 100)
    accepted: list[bytes] = []
    stop = threading.Event()
    sender = threading.Thread(target=_post, args=(service, bodies, accepted, stop))
    sender.start()
    until(lambda: len(accepted) > 40)
    service.stop(signal.SIGKILL)
    stop.set()
    sender.join()
    sent = _ids(accepted)

    again = serve(config)
    for backend in backends:
        until(lambda backend=backend: sent <= {span.span_id for span in backend.spans()})
    calls = sum(
        "chat" in span.name
        for body in accepted
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    )
    assert again.stop() == 0
    report = subprocess.run(
        [sys.executable, "-m", "otel_cost", "report", "--by", "kind", "--json", "--data-dir", str(again.data)],
        capture_output=True,
        text=True,
        check=True,
    )
    rows = {row["kind"]: row for row in map(json.loads, report.stdout.splitlines())}
    # One request may have been durable without its answer having come back.
    assert calls <= rows["inference"]["calls"] <= calls + 100


def test_a_taken_port_names_its_key(serve: Callable[..., Process], tmp_path: Path) -> None:
    service = serve()
    second = subprocess.run(
        [
            *(sys.executable, "-m", "otel_cost", "serve", "--data-dir", str(tmp_path / "other")),
            *("--set", f"receivers.otlp.protocols.grpc.endpoint={service.grpc}"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert second.returncode == 2
    assert "receivers.otlp.protocols.grpc.endpoint" in second.stderr


def test_health_metrics_and_page(serve: Callable[..., Process]) -> None:
    service = serve()
    assert service.get("/healthz")
    until(lambda: service.get("/readyz"))
    assert "otelcol_receiver_accepted_spans" in service.get("/metrics")
    assert "<html" in service.get("/").lower()
