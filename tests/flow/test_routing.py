"""Scenario 10: dear runs arrive whole at both backends, cheap ones sampled at one; one is away for a while."""

from __future__ import annotations

import random
import socket
import subprocess
import sys
import urllib.request
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from backends import OverHttp
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span
from running import until

from otel_cost.edge.books import check_books

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from running import Process

S = 10**9
RULES = """
version: 1
loops: [{name: same-error-3x, detect: repeated_error, do: [{alert: }]}]
routes:
  - {match: {any: [loop]}, to: [langsmith, honeycomb], keep: all}
  - {match: {cost_usd: {gte: 1}}, to: [langsmith, honeycomb], keep: all}
  - {to: [honeycomb], sample: 0.25}
"""


def attribute(key: str, value: str | int) -> KeyValue:
    said = AnyValue(int_value=value) if isinstance(value, int) else AnyValue(string_value=value)
    return KeyValue(key=key, value=said)


def trace(trace_id: bytes, tokens: int, *, loops: bool = False) -> list[Span]:
    """A root, and below it a model call of so many input tokens, or a tool that fails three times the same way."""
    start = 1_790_000_000 * S
    root = Span(trace_id=trace_id, span_id=b"root".ljust(8), name="work", start_time_unix_nano=start)
    root.end_time_unix_nano = start + 60 * S
    call = Span(
        trace_id=trace_id,
        span_id=b"call".ljust(8),
        parent_span_id=root.span_id,
        name="chat",
        start_time_unix_nano=start + S,
        end_time_unix_nano=start + 2 * S,
        attributes=[
            attribute("gen_ai.operation.name", "chat"),
            attribute("gen_ai.provider.name", "openai"),
            attribute("gen_ai.request.model", "gpt-4o"),
            attribute("gen_ai.usage.input_tokens", tokens),
            attribute("gen_ai.usage.output_tokens", 10),
        ],
    )
    spans = [call]
    for number in range(3 if loops else 0):
        tool = Span(
            trace_id=trace_id,
            span_id=f"tool{number}".encode().ljust(8),
            parent_span_id=root.span_id,
            name="execute_tool run",
            start_time_unix_nano=start + (3 + number) * S,
            end_time_unix_nano=start + (3 + number) * S + 1000,
            attributes=[
                attribute("gen_ai.operation.name", "execute_tool"),
                attribute("gen_ai.tool.name", "run"),
                attribute("gen_ai.tool.call.arguments", '{"command": "make test"}'),
                attribute("error.type", "exit_2"),
            ],
        )
        tool.status.code = 2
        tool.status.message = "3 tests failed"
        spans.append(tool)
    return [*spans, root]


def send(service: Process, spans: list[Span]) -> None:
    body = ExportTraceServiceRequest(resource_spans=[ResourceSpans(scope_spans=[ScopeSpans(spans=spans)])])
    headers = {"Content-Type": "application/x-protobuf"}
    request = urllib.request.Request(f"http://{service.http}/v1/traces", body.SerializeToString(), headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200


def whole(backend: OverHttp) -> dict[bytes, list[Span]]:
    found: dict[bytes, list[Span]] = defaultdict(list)
    for span in backend.spans():
        found[span.trace_id].append(span)
    return found


def said(span: Span) -> dict[str, Any]:
    return {one.key: one.value.int_value or one.value.double_value or one.value.string_value for one in span.attributes}


def test_dear_runs_whole_at_both_cheap_ones_sampled_at_one(serve: Callable[..., Process], tmp_path: Path) -> None:
    dice = random.Random(10)
    honeycomb = OverHttp()
    with socket.socket() as probe:  # LangSmith is away at first
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / "rules.yaml").write_text(RULES)
    service = serve(
        f"""
rules: [rules.yaml]
engine: {{settle: 200ms}}
exporters:
  honeycomb: {{api_key: k, endpoint: "http://127.0.0.1:{honeycomb.port}"}}
  langsmith:
    api_key: k
    endpoint: "http://127.0.0.1:{port}"
    retry_on_failure: {{initial_interval: 100ms, max_interval: 300ms}}
"""
    )
    cheap = [dice.randbytes(16) for _ in range(80)]
    dear = [dice.randbytes(16) for _ in range(5)]
    looping = dice.randbytes(16)
    for trace_id in cheap:
        send(service, trace(trace_id, 1000))
    for trace_id in dear:
        *below, root = trace(trace_id, 1_000_000)
        send(service, below)
        send(service, [root])
    send(service, trace(looping, 1000, loops=True))
    until(lambda: set(dear) | {looping} <= {t for t, spans in whole(honeycomb).items() if len(spans) > 1})
    assert service.get("/readyz")["ready"]

    langsmith = OverHttp(port)
    until(lambda: whole(langsmith).keys() == {*dear, looping})
    until(lambda: check_books(service.get("/metrics"), at_rest=True) == [])
    at_honeycomb, at_langsmith = whole(honeycomb), whole(langsmith)
    for trace_id in (*dear, looping):
        size = 5 if trace_id == looping else 2
        assert len(at_honeycomb[trace_id]) == len(at_langsmith[trace_id]) == size
        assert all("otel_cost.sample_rate" not in said(span) for span in at_honeycomb[trace_id])
    sampled = at_honeycomb.keys() - {*dear, looping}
    assert 0 < len(sampled) < len(cheap)
    for trace_id in sampled:
        assert len(at_honeycomb[trace_id]) == 2
        assert {(said(span)["otel_cost.sample_rate"], said(span)["SampleRate"]) for span in at_honeycomb[trace_id]} == {
            (4.0, 4)
        }
    # The ledger counts everything, whatever was sent where.
    counted = len(cheap) + len(dear) + 4
    until(lambda: sum(row["calls"] for row in service.get("/v1/report")["rows"]) == counted)
    dropped = service.get("/metrics")
    assert (
        f'otel_cost_exporter_dropped_spans_total{{exporter="langsmith",policy="route"}} {2.0 * len(cheap)}' in dropped
    )
    langsmith.stop()
    honeycomb.stop()


def test_a_route_to_nowhere_is_a_mistake(serve: Callable[..., Process], tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text("version: 1\nroutes: [{to: [nowhere], keep: all}]")
    (tmp_path / "c.yaml").write_text("rules: [rules.yaml]\nexporters: {console: }")
    command = [sys.executable, "-m", "otel_cost", "serve", "-c", str(tmp_path / "c.yaml")]
    done = subprocess.run([*command, "--data-dir", str(tmp_path / "d")], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    said = "rules.yaml:2:16: routes[0].to[0]: `nowhere` is no exporter of the config"
    assert done.stderr.splitlines() == [str(tmp_path / said), "    allowed: console"]  # and nothing else
    check = [sys.executable, "-m", "otel_cost", "check", str(tmp_path / "c.yaml")]
    checked = subprocess.run(check, capture_output=True, text=True, check=False)
    assert checked.returncode == 1
    assert said in checked.stdout
