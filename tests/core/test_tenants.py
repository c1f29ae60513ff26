"""Two tenants whose senders use the same ids for everything have nothing in common."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

sys.path.insert(0, str(Path(__file__).parents[1] / "flow"))

from money_helper import book

from otel_cost.core.decode.otlp import decode_traces
from otel_cost.core.model.effects import Signal
from otel_cost.core.rules import load_rules
from otel_cost.pipeline import Engine

START = 1_790_000_000 * 10**9


def body(tokens: int) -> bytes:
    request = ExportTraceServiceRequest()
    spans = request.resource_spans.add().scope_spans.add().spans
    for number in (1, 2):
        span = spans.add(
            trace_id=b"t" * 16,
            span_id=number.to_bytes(8, "big"),
            name="chat",
            start_time_unix_nano=START + number,
            end_time_unix_nano=START + 10 + number,
        )
        given: dict[str, Any] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "anthropic",
            "gen_ai.request.model": "claude-small",
            "gen_ai.response.id": f"r{number}",
            "gen_ai.conversation.id": "c",
            "gen_ai.usage.input_tokens": tokens * number,
            "gen_ai.usage.output_tokens": 1,
        }
        for key, value in given.items():
            pair = span.attributes.add(key=key)
            if isinstance(value, int):
                pair.value.int_value = value
            else:
                pair.value.string_value = value
    return request.SerializeToString()


def test_equal_ids_of_two_tenants_never_meet() -> None:
    engine = Engine(book(), load_rules([]))
    for turn in range(3):  # resends too
        for tenant, tokens in (("a", 100), ("b", 700)):
            engine.feed(Signal.TRACES, decode_traces(body(tokens), tenant, START).events, turn, START)
    assert engine.open_run("a", (b"t" * 16).hex()) is not None
    assert engine.open_run("c", (b"t" * 16).hex()) is None
    engine.close(START)
    effects = engine.take()
    assert sorted((tenant, call.step.usage.input) for tenant, _, call in effects.calls if call.step.usage) == [
        ("a", 100),
        ("a", 200),
        ("b", 700),
        ("b", 1400),
    ]
    assert sorted(run.summary.tenant for run in effects.closed) == ["a", "b"]
    assert len({call.id for _, _, call in effects.calls}) == 4
    assert len(effects.outgoing) == 4
