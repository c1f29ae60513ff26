"""Records that are too much for anybody are turned away alone; their neighbours go on."""

from __future__ import annotations

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from otel_cost.core.decode.encode import varint
from otel_cost.core.decode.otlp import MAX_ITEMS, MAX_RECORD_BYTES, decode_traces


def deep(levels: int) -> bytes:
    """A span with a value of so many lists in each other, spliced: the library would not make it."""
    value = AnyValue(int_value=1).SerializeToString()
    for _ in range(levels):
        inner = b"\x0a" + varint(len(value)) + value  # ArrayValue.values
        value = b"\x2a" + varint(len(inner)) + inner  # AnyValue.array_value
    pair = KeyValue(key="deep").SerializeToString() + b"\x12" + varint(len(value)) + value
    return span(9).SerializeToString() + b"\x4a" + varint(len(pair)) + pair


def span(number: int, **fields: object) -> Span:
    return Span(trace_id=b"t" * 16, span_id=number.to_bytes(8, "big"), name=str(number), **fields)


def many(field: str, count: int) -> bytes:
    made = span(9)
    part = Span()
    getattr(part, field).add()
    return made.SerializeToString() + part.SerializeToString() * count


@pytest.mark.parametrize(
    "bad",
    [
        deep(10_000),
        many("attributes", MAX_ITEMS + 1),
        many("events", MAX_ITEMS + 1),
        many("links", MAX_ITEMS + 1),
        span(9, trace_state="x" * (MAX_RECORD_BYTES + 1)).SerializeToString(),
    ],
    ids=["deep", "attributes", "events", "links", "bytes"],
)
def test_too_much_is_rejected_alone(bad: bytes) -> None:
    request = ExportTraceServiceRequest()
    spans = request.resource_spans.add().scope_spans.add().spans
    spans.extend([span(1), span(2)])
    body = request.SerializeToString()
    scope = b"\x12" + varint(len(bad)) + bad
    resource = b"\x12" + varint(len(scope)) + scope
    decoded = decode_traces(body + b"\x0a" + varint(len(resource)) + resource, "t", 0)
    assert [event.name for event in decoded.events] == ["1", "2"]
    assert len(decoded.rejected) == 1
    assert len(decoded.rejected[0].message) < 500
