"""Each type of exporter: its settings, its headers, the keys its vendor reads."""

from __future__ import annotations

import json
import time
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest
from export_backends import HttpBackend, records
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from pydantic import ValidationError

from otel_cost.core.model.attributes import plain_value
from otel_cost.core.model.call import Call
from otel_cost.core.model.charge import Charge, Item
from otel_cost.core.model.effects import Outgoing, Signal
from otel_cost.core.model.event import Resource, Scope
from otel_cost.core.model.money import Rate
from otel_cost.core.model.step import Step
from otel_cost.core.model.usage import Usage
from otel_cost.core.model.vocabulary import Kind, Reason, Source, Status
from otel_cost.edge.export import EXPORTERS, build_exporters
from otel_cost.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

USAGE = Usage(input=1000, cache_read=600, cache_write=100, output=80, reasoning=30)
NANO = {"input": 900_000, "cache_read": 180_000, "cache_write": 375_000, "output": 750_000, "reasoning": 450_000}
WITH_FEE = {**NANO, "fee": 10_000_000}


def call(parts: dict[str, int] | None, usage: Usage | None = USAGE, kind: Kind = Kind.INFERENCE) -> Call:
    step = Step(source=Source.SPAN, dialect="test", scope="test", kind=kind)
    if parts is None:
        charge = Charge(Status.UNPRICED, Reason.UNKNOWN_MODEL, usage=usage)
    else:
        items = tuple(Item(part, part, 1, Rate(1), nano, "test", None) for part, nano in parts.items())
        charge = Charge(Status.PRICED, None, sum(parts.values()), items, usage=usage)
    return Call("id", step, (step,), charge, kind)


def span(of: Call | None, **attributes: str) -> Outgoing:
    made = Span(trace_id=b"\x01" * 16, span_id=b"\x02" * 8, name="chat")
    for key, value in attributes.items():
        made.attributes.add(key=key.replace("__", ".")).value.string_value = value
    return Outgoing(Signal.TRACES, 1, made.SerializeToString(), b"", Resource(), Scope(), of)


def vendor_keys(exporter_type: str, outgoing: Outgoing) -> dict[str, object]:
    extra = EXPORTERS[exporter_type].extra_attributes
    assert extra is not None
    return {pair.key: plain_value(pair.value) for pair in Span.FromString(extra(outgoing)).attributes}


def exact(text: object) -> dict[str, object]:
    return json.loads(str(text), parse_float=Decimal)


def test_langsmith_usage_is_inclusive_with_details_and_costs() -> None:
    said = vendor_keys("langsmith", span(call(WITH_FEE)))
    assert said.pop("langsmith.span.kind") == "llm"
    assert exact(said.pop("langsmith.usage_metadata")) == {
        "input_tokens": 1000,
        "output_tokens": 80,
        "total_tokens": 1080,
        "input_token_details": {"cache_read": 600, "cache_creation": 100},
        "output_token_details": {"reasoning": 30},
        "input_cost": Decimal("0.001455"),
        "output_cost": Decimal("0.0012"),
        "total_cost": Decimal("0.012655"),
        "input_cost_details": {"cache_read": Decimal("0.00018"), "cache_creation": Decimal("0.000375")},
        "output_cost_details": {"reasoning": Decimal("0.00045")},
    }
    assert said == {}


def test_langfuse_buckets_are_disjoint_and_add_up() -> None:
    said = vendor_keys("langfuse", span(call(WITH_FEE)))
    counts = exact(said["langfuse.observation.usage_details"])
    assert counts == {
        "input": 300,
        "cache_read_input_tokens": 600,
        "cache_creation_input_tokens": 100,
        "output": 50,
        "output_reasoning_tokens": 30,
        "total": 1080,
    }
    costs = exact(said["langfuse.observation.cost_details"])
    total = costs.pop("total")
    assert total == sum(costs.values()) == Decimal("0.012655")


def test_phoenix_speaks_openinference() -> None:
    said = vendor_keys("phoenix", span(call(NANO)))
    assert (said["llm.token_count.prompt"], said["llm.token_count.total"]) == (1000, 1080)
    assert said["llm.token_count.completion_details.reasoning"] == 30
    assert (said["llm.cost.prompt"], said["llm.cost.completion"], said["llm.cost.total"]) == (
        0.001455,
        0.0012,
        0.002655,
    )


PRESETS = ["langsmith", "langfuse", "phoenix"]


@pytest.mark.parametrize("preset", PRESETS)
def test_no_price_is_no_cost_key(preset: str) -> None:
    said = vendor_keys(preset, span(call(None)))
    assert said
    assert "cost" not in json.dumps(said)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    "outgoing",
    [
        pytest.param(span(None), id="no call of its own: parent, roll-up, duplicate"),
        pytest.param(span(call(NANO, kind=Kind.TOOL)), id="tool"),
        pytest.param(Outgoing(Signal.LOGS, 1, b"", call=call(NANO)), id="log record"),
    ],
)
def test_only_model_calls_on_spans_get_vendor_keys(preset: str, outgoing: Outgoing) -> None:
    assert vendor_keys(preset, outgoing) == {}


@pytest.mark.parametrize(
    ("preset", "key"),
    [
        ("langsmith", "langsmith__usage_metadata"),
        ("langfuse", "langfuse__observation__usage_details"),
        ("phoenix", "llm__token_count__prompt"),
    ],
)
def test_sender_that_speaks_the_vendors_words_keeps_the_last(preset: str, key: str) -> None:
    assert vendor_keys(preset, span(call(NANO), **{key: "mine"})) == {}


def test_vendor_keys_come_behind_ours_and_only_there(http_backend: HttpBackend) -> None:
    built = build_exporters(
        {
            "langsmith": {"endpoint": f"{http_backend.url}/otel", "api_key": "ls", "project": "p", "tenant_id": "t"},
            "honeycomb": {"endpoint": http_backend.url, "api_key": "hc", "dataset": "d"},
            "langfuse": {"endpoint": f"{http_backend.url}/api/public/otel", "public_key": "pk", "secret_key": "sk"},
            "phoenix": {"endpoint": f"{http_backend.url}/phoenix", "api_key": "px"},
            "datadog": {"endpoint": f"{http_backend.url}/dd", "api_key": "dd"},
            "grafana": {"endpoint": f"{http_backend.url}/otlp", "instance_id": "42", "token": "glc"},
        }
    )
    outgoing = span(call(NANO))
    outgoing.extra = b"\x4a\x06\x0a\x04ours"
    for destination in built.values():
        destination.start()
        destination.offer([outgoing])
    assert all(destination.drain(10) for destination in built.values())
    for destination in built.values():
        destination.close()
    by_path = {request.path: request for request in http_backend.requests}
    honeycomb = by_path["/v1/traces"]
    assert honeycomb.headers["x-honeycomb-team"] == "hc"
    assert honeycomb.headers["x-honeycomb-dataset"] == "d"
    assert honeycomb.body.endswith(outgoing.raw + outgoing.extra)
    langsmith = by_path["/otel/v1/traces"]
    assert [langsmith.headers[name] for name in ("x-api-key", "langsmith-project", "x-tenant-id")] == ["ls", "p", "t"]
    assert outgoing.raw + outgoing.extra + b"\x4a" in langsmith.body
    langfuse = by_path["/api/public/otel/v1/traces"]
    assert langfuse.headers["authorization"] == "Basic cGs6c2s="
    assert langfuse.headers["x-langfuse-ingestion-version"] == "4"
    assert by_path["/phoenix/v1/traces"].headers["authorization"] == "Bearer px"
    datadog = by_path["/dd/v1/traces"]
    assert [datadog.headers[name] for name in ("dd-api-key", "dd-otlp-source")] == ["dd", "llmobs"]
    grafana = by_path["/otlp/v1/traces"]
    assert grafana.headers["authorization"] == "Basic NDI6Z2xj"
    for plain in (datadog, grafana):
        assert plain.body.endswith(outgoing.raw + outgoing.extra)
    assert outgoing.extra == b"\x4a\x06\x0a\x04ours"


def test_traces_only_backend_gets_no_logs(http_backend: HttpBackend) -> None:
    destination = build_exporters({"langsmith": {"endpoint": http_backend.url, "api_key": "x"}})["langsmith"]
    destination.start()
    destination.offer(records(3, signal=Signal.LOGS))
    assert destination.drain(10)
    destination.close()
    assert destination.books()[Signal.LOGS].dropped == {"unsupported_signal": 3}
    assert http_backend.requests == []


def test_old_names_and_named_ids() -> None:
    built = build_exporters({"otlp/a": {"endpoint": "h:4317"}, "otlphttp/b": {"endpoint": "http://h:4318"}})
    assert list(built) == ["otlp/a", "otlphttp/b"]
    for destination in built.values():
        destination.close()
    with pytest.raises(UsageError, match="known are console, datadog, file, "):
        build_exporters({"pulsar": {}})


@pytest.mark.parametrize(
    ("exporter_type", "given", "key"),
    [
        ("otlp_grpc", {}, "endpoint"),
        ("otlp_grpc", {"endpoint": "h:1", "timeout": 5}, "timeout"),
        ("otlp_grpc", {"endpoint": "h:1", "timeout": "5 sec"}, "timeout"),
        ("otlp_grpc", {"endpoint": "h:1", "tls": {"insecure_skip_verify": True}}, "ca_file"),
        ("otlp_grpc", {"endpoint": "h:1", "tls": {"cert_file": "a"}}, "key_file"),
        ("otlp_http", {"endpoint": "h:4318"}, "endpoint"),
        ("otlp_http", {"endpoint": "http://h", "compresion": "gzip"}, "compresion"),
        ("otlp_http", {"endpoint": "http://h", "sending_queue": {"queue_size": 1000}}, "sizer: items"),
        ("otlp_http", {"endpoint": "http://h", "sending_queue": {"enabled": False}}, "enabled"),
        ("honeycomb", {}, "api_key"),
        ("datadog", {"api_key": "x", "site": "ddog-gov.com"}, "site"),
        ("grafana", {"instance_id": "1", "token": "x"}, "endpoint"),
        ("file", {"path": "x", "format": "xml"}, "format"),
    ],
)
def test_mistakes_in_settings_are_named(exporter_type: str, given: dict[str, object], key: str) -> None:
    with pytest.raises(ValidationError, match=key):
        EXPORTERS[exporter_type].settings.model_validate(given)


@pytest.mark.parametrize(
    ("text", "seconds"), [("200ms", 0.2), ("1m30s", 90.0), ("1.5h", 5400.0), ("0s", 0.0), (0, 0.0)]
)
def test_durations(text: object, seconds: float) -> None:
    settings = EXPORTERS["otlp_grpc"].settings.model_validate({"endpoint": "h:1", "timeout": text})
    assert settings.timeout == pytest.approx(seconds)


@pytest.mark.parametrize("name", sorted({kind.name for kind in EXPORTERS.values()}))
def test_settings_have_a_schema_and_print_no_secret(name: str) -> None:
    model = EXPORTERS[name].settings
    schema = model.model_json_schema()
    assert schema["additionalProperties"] is False
    required: dict[str, object] = dict.fromkeys(schema.get("required", ()), "http://host:1/secret")
    if "brokers" in required:
        required["brokers"] = ["host:1"]
    settings = model.model_validate(
        required | ({"headers": {"a": "hush"}} if "headers" in schema["properties"] else {})
    )
    printed = settings.model_dump_json() + repr(settings)
    assert "hush" not in printed
    assert json.loads(settings.model_dump_json())["retry_on_failure"]["initial_interval"] == "5s"
    assert model.model_validate(settings.model_dump(exclude={"headers", "api_key", "secret_key"}) | required)


def test_file_exporter_writes_otlp_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "new" / "out.jsonl"
    destination = build_exporters({"file": {"path": str(path)}})["file"]
    destination.start()
    destination.offer([span(call(NANO))])
    assert destination.drain(10)
    destination.offer(records(1, signal=Signal.LOGS))
    assert destination.drain(10)
    destination.close()
    traces, logs = map(json.loads, path.read_text().splitlines())
    written = traces["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
    assert (written["traceId"], written["spanId"], written["name"]) == ("01" * 16, "02" * 8, "chat")
    assert "resourceLogs" in logs


def test_file_exporter_writes_delimited_protobuf(tmp_path: Path) -> None:
    path = tmp_path / "out.bin"
    for _ in range(2):  # appends
        destination = build_exporters({"file": {"path": str(path), "format": "proto"}})["file"]
        destination.start()
        destination.offer(records(2))
        assert destination.drain(10)
        destination.close()
    written = path.read_bytes()
    size = int.from_bytes(written[:4], "big")
    assert len(written) == 2 * (4 + size)
    request = ExportTraceServiceRequest.FromString(written[4 : 4 + size])
    assert len(request.resource_spans[0].scope_spans[0].spans) == 2


def test_console_shows_names_and_cost_but_no_content(capsys: pytest.CaptureFixture[str]) -> None:
    outgoing = span(call(NANO), gen_ai__prompt="secret plan", otel_cost__status="priced")
    destination = build_exporters({"console": None})["console"]
    destination.start()
    destination.offer([outgoing])
    assert destination.drain(10)
    destination.close()
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "'chat'" in shown.err
    assert "status=priced" in shown.err
    assert "secret" not in shown.err


def test_small_batches_wait_briefly_for_company(http_backend: HttpBackend) -> None:
    destination = build_exporters(
        {"otlp_http": {"endpoint": http_backend.url, "sending_queue": {"batch": {"flush_timeout": "300ms"}}}}
    )["otlp_http"]
    destination.start()
    for number in range(20):
        destination.offer(records(1, first=number, signal=Signal.LOGS))
    deadline = time.monotonic() + 10
    while destination.pending and time.monotonic() < deadline:
        time.sleep(0.01)
    destination.close()
    (request,) = http_backend.requests
    (of_resource,) = ExportLogsServiceRequest.FromString(request.body).resource_logs
    assert len(of_resource.scope_logs[0].log_records) == 20
