"""Load for the benchmarks: seeded agent traces, 845 bytes a span on average, as encoded export requests."""

from __future__ import annotations

import random

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

SPANS_PER_TRACE = 50
START_NS = 1_793_620_800 * 10**9
_FILLER = "abcdefghijklmnopqrstuvwxyz0123456789"


def export_requests(spans: int, per_request: int, seed: int = 7) -> list[bytes]:
    """Encoded requests with `spans` spans in all, children before parents, traces interleaved as senders batch them."""
    rng = random.Random(seed)
    encoded: list[bytes] = []
    request, pending = _envelope(), 0
    made = 0
    while made < spans:
        for span in _trace(rng, made)[: spans - made]:
            request.resource_spans[0].scope_spans[0].spans.append(span)
            made += 1
            pending += 1
            if pending == per_request:
                encoded.append(request.SerializeToString())
                request, pending = _envelope(), 0
    if pending:
        encoded.append(request.SerializeToString())
    return encoded


def _envelope() -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    for key, value in (("service.name", "bench-agent"), ("deployment.environment.name", "bench"), ("team.id", "perf")):
        _put(resource.resource, key, value)
    resource.scope_spans.add().scope.name = "bench.agent"
    return request


def _trace(rng: random.Random, number: int) -> list[Span]:
    trace_id = rng.randbytes(16)
    root = rng.randbytes(8)
    now = START_NS + number * 10**6
    context = 2000
    spans: list[Span] = []
    for index in range(SPANS_PER_TRACE - 1):
        span = Span(trace_id=trace_id, span_id=rng.randbytes(8), parent_span_id=root, flags=257)
        span.start_time_unix_nano = now
        now += rng.randrange(5, 900) * 10**6
        span.end_time_unix_nano = now
        turn = index % 3
        if turn == 0:
            context += rng.randrange(50, 900)
            span.name, span.kind = "chat gpt-5-mini", Span.SPAN_KIND_CLIENT
            _put(span, "gen_ai.operation.name", "chat")
            _put(span, "gen_ai.provider.name", "openai")
            _put(span, "gen_ai.request.model", "gpt-5-mini")
            _put(span, "gen_ai.response.model", "gpt-5-mini-2025-08-07")
            _put(span, "gen_ai.response.id", f"resp_{rng.getrandbits(96):024x}")
            _put(span, "gen_ai.usage.input_tokens", context)
            _put(span, "gen_ai.usage.cache_read.input_tokens", context // 2)
            _put(span, "gen_ai.usage.output_tokens", rng.randrange(20, 800))
            _put(span, "gen_ai.conversation.id", f"conv-{trace_id.hex()[:12]}")
            _put(span, "server.address", "api.openai.com")
        elif turn == 1:
            span.name = "execute_tool read_file"
            _put(span, "gen_ai.operation.name", "execute_tool")
            _put(span, "gen_ai.tool.name", "read_file")
            _put(span, "gen_ai.tool.call.id", f"call_{rng.getrandbits(64):016x}")
            _put(span, "gen_ai.tool.call.arguments", f'{{"path": "src/{rng.randrange(10**6)}.py"}}')
            _put(span, "gen_ai.agent.name", "coder")
        else:
            span.name, span.kind = "POST", Span.SPAN_KIND_CLIENT
            _put(span, "http.request.method", "POST")
            _put(span, "url.full", f"https://api.example.com/v1/{rng.getrandbits(64):016x}")
            _put(span, "http.response.status_code", 200)
            _put(span, "network.protocol.version", "1.1")
        _pad(span, rng)
        spans.append(span)
    span = Span(trace_id=trace_id, span_id=root, name="invoke_agent coder", kind=Span.SPAN_KIND_INTERNAL)
    span.start_time_unix_nano, span.end_time_unix_nano = START_NS + number * 10**6, now
    _put(span, "gen_ai.operation.name", "invoke_agent")
    _put(span, "gen_ai.agent.name", "coder")
    _put(span, "gen_ai.conversation.id", f"conv-{trace_id.hex()[:12]}")
    _put(span, "user.id", f"user-{rng.randrange(50)}")
    _pad(span, rng)
    spans.append(span)
    return spans


def _put(record: object, key: str, value: str | int) -> None:
    pair = record.attributes.add()  # type: ignore[attr-defined]
    pair.key = key
    if isinstance(value, int):
        pair.value.int_value = value
    else:
        pair.value.string_value = value


def _pad(span: Span, rng: random.Random) -> None:
    """Attributes that no stage reads, up to the size of the spans that were measured elsewhere."""
    number = 0
    while span.ByteSize() < 805:
        room = min(60, 845 - span.ByteSize())
        _put(span, f"app.attribute.{number:02d}", "".join(rng.choices(_FILLER, k=max(4, room - 24))))
        number += 1
