"""What finished runs have taught: the same loop again says so, and a workflow knows what is usual."""

from __future__ import annotations

from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_cost.core.decode.otlp import decode_traces
from otel_cost.core.detect._pace import Taken
from otel_cost.core.library import Seen
from otel_cost.core.model.effects import Signal
from otel_cost.edge.config import load_config
from otel_cost.edge.engine import build_engine

START = 1_793_620_800 * 10**9


def loop(trace: int, rounds: int, workflow: str | None = None) -> bytes:
    """One agent's trace: model call, failing tool, over and over."""
    request = ExportTraceServiceRequest()
    spans = request.resource_spans.add().scope_spans.add().spans
    for number in range(2 * rounds):
        span = spans.add(trace_id=bytes([trace] * 16), span_id=bytes([trace, number + 1] + [0] * 6))
        span.start_time_unix_nano = START + trace * 10**12 + number * 10**9
        span.end_time_unix_nano = span.start_time_unix_nano + 10**9
        said: dict[str, Any] = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai"}
        said |= {"gen_ai.request.model": "gpt-4o", "gen_ai.usage.input_tokens": 1000, "gen_ai.usage.output_tokens": 100}
        if number % 2:
            said = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "bash", "error.type": "E"}
            said["gen_ai.tool.call.arguments"] = '{"command": "make all"}'
            said["gen_ai.tool.call.result"] = "make: no rule to make target all"
        if workflow is not None:
            said["gen_ai.workflow.name"] = workflow
        for key, value in said.items():
            pair = span.attributes.add(key=key)
            if isinstance(value, int):
                pair.value.int_value = value
            else:
                pair.value.string_value = value
    return request.SerializeToString()


def alerts_of(engine: Any, *payloads: bytes) -> list[Any]:
    now_ns = 0
    for position, payload in enumerate(payloads):
        spans = decode_traces(payload, "default", 0).events
        now_ns = max(now_ns, *(span.end_ns for span in spans))
        engine.feed(Signal.TRACES, spans, position, now_ns)
        engine.close(now_ns)
    return [alert for alert in engine.take().alerts if alert.category in {"loop", "waste"}]


def test_a_loop_that_happened_before_says_how_often_and_what_it_cost() -> None:
    engine = build_engine(load_config(environ={}))
    first, over, again, _ = alerts_of(engine, loop(1, 5), loop(2, 3))
    assert "seen" not in first.evidence
    assert (over.state, over.wasted_nano, over.evidence["repeats"]) == ("resolved", 4 * 3_500_000, 5)
    assert again.evidence["seen"] == {"times": 1, "runs": 1, "burn_usd": "0.014"}
    assert first.evidence["loop"] == again.evidence["loop"]
    assert first.fingerprint != again.fingerprint


def test_what_was_known_before_the_start_counts() -> None:
    shape = alerts_of(build_engine(load_config(environ={})), loop(1, 3))[0].evidence["loop"]
    engine = build_engine(load_config(environ={}))
    engine.library.learn_shape("default", shape, Seen(7, 3, 2_500_000_000))
    assert alerts_of(engine, loop(2, 3))[0].evidence["seen"] == {"times": 7, "runs": 3, "burn_usd": "2.5"}


def test_a_finding_has_its_money_and_a_forecast(tmp_path: Any) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(
        "version: 1\nloops: [{name: again, detect: exact_repeat}]\n"
        "budgets: [{name: run-cap, per: [run], limit: {usd: 0.02}}]\n"
    )
    alert = alerts_of(build_engine(load_config(environ={}), rules=[str(rules)]), loop(1, 5))[0]
    assert alert.wasted_nano == 2 * 3_500_000
    assert alert.evidence["per_turn_usd"] == "0.0035"
    assert alert.evidence["forecast"] == {"budget": "run-cap", "left_usd": "0.0095", "turns": 3}


def test_a_run_beyond_what_its_workflow_takes_is_told_of() -> None:
    engine = build_engine(load_config(environ={}))
    engine.library.learn_runs("default", "nightly", [Taken(7_000_000, 4)] * 20)
    kinds = {alert.kind for alert in alerts_of(engine, loop(1, 12, "nightly"))}
    assert "runaway" in kinds
    assert "runaway" not in {alert.kind for alert in alerts_of(engine, loop(2, 12, "other"))}
