"""Load for the benchmarks: seeded agent traces as encoded export requests, children before parents.

Of `TURN` spans in a row one is a model call, one a tool call, the rest is the application's own (HTTP, database): the
share of spans that are calls decides what a span costs, so it is told with every figure. `small` spans have 845 bytes
(metadata only), `large` ones 7.7 kB (message content on calls, as much of other attributes elsewhere).
"""

from __future__ import annotations

import random
from typing import NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

SPANS_PER_TRACE = 50
START_NS = 1_793_620_800 * 10**9
TURN = 3
SIZES = {"small": 845, "large": 7700}
_FILLER = "abcdefghijklmnopqrstuvwxyz0123456789"


class Load(NamedTuple):
    """Encoded requests and what is in them."""

    bodies: list[bytes]
    spans: int
    calls: int  # of the spans, those that tell of a model or tool call

    @property
    def span_bytes(self) -> float:
        return sum(map(len, self.bodies)) / self.spans

    @property
    def share(self) -> float:
        """Percent of the spans that are calls."""
        return 100 * self.calls / self.spans

    def __str__(self) -> str:
        return (
            f"{self.spans:,} spans of {self.span_bytes:,.0f} B in {len(self.bodies):,} requests, "
            f"{self.share:.0f} % of them model or tool calls"
        )


def make_load(
    spans: int,
    per_request: int,
    *,
    size: str = "small",
    turn: int = TURN,
    per_trace: int = SPANS_PER_TRACE,
    seed: int = 7,
) -> Load:
    """Requests with `spans` spans in all. Of `turn` spans one is a model call, one a tool call, the rest plain."""
    rng = random.Random(seed)
    encoded: list[bytes] = []
    request, pending = _envelope(), 0
    made = calls = 0
    while made < spans:
        for span, is_call in _trace(rng, made, SIZES[size], turn, per_trace)[: spans - made]:
            request.resource_spans[0].scope_spans[0].spans.append(span)
            made += 1
            calls += is_call
            pending += 1
            if pending == per_request:
                encoded.append(request.SerializeToString())
                request, pending = _envelope(), 0
    if pending:
        encoded.append(request.SerializeToString())
    return Load(encoded, spans, calls)


def export_requests(spans: int, per_request: int, seed: int = 7) -> list[bytes]:
    """Encoded requests of small spans."""
    return make_load(spans, per_request, seed=seed).bodies


def span_ids(body: bytes) -> list[bytes]:
    """Trace and span id of every span of a request."""
    request = ExportTraceServiceRequest.FromString(body)
    return [
        span.trace_id + span.span_id
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def _envelope() -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    for key, value in (("service.name", "bench-agent"), ("deployment.environment.name", "bench"), ("team.id", "perf")):
        _put(resource.resource, key, value)
    resource.scope_spans.add().scope.name = "bench.agent"
    return request


def _trace(rng: random.Random, number: int, size: int, turn: int, spans_of_it: int) -> list[tuple[Span, bool]]:
    """One agent run: its calls under agents of fifty spans, one of them the root where the trace is no longer."""
    trace_id = rng.randbytes(16)
    root = rng.randbytes(8)
    now = START_NS + number * 10**6
    context = 2000
    spans: list[tuple[Span, bool]] = []
    agent, agent_began = root, now
    is_long = spans_of_it > SPANS_PER_TRACE
    for index in range(spans_of_it - 1):
        if is_long and index % SPANS_PER_TRACE == 0:
            agent, agent_began, context = rng.randbytes(8), now, 2000
        if is_long and index % SPANS_PER_TRACE == SPANS_PER_TRACE - 1:
            spans.append((_agent(rng, trace_id, agent, root, agent_began, now, size), False))
            continue
        span = Span(trace_id=trace_id, span_id=rng.randbytes(8), parent_span_id=agent, flags=257)
        span.start_time_unix_nano = now
        now += rng.randrange(5, 900) * 10**6
        span.end_time_unix_nano = now
        part = index % turn
        if part == 0:
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
            if size > 1000:
                _put(span, "gen_ai.input.messages", _messages(rng, "user", size - 2400))
                _put(span, "gen_ai.output.messages", _messages(rng, "assistant", 1400))
        elif part == 1:
            span.name = "execute_tool read_file"
            _put(span, "gen_ai.operation.name", "execute_tool")
            _put(span, "gen_ai.tool.name", "read_file")
            _put(span, "gen_ai.tool.call.id", f"call_{rng.getrandbits(64):016x}")
            _put(span, "gen_ai.tool.call.arguments", f'{{"path": "src/{rng.randrange(10**6)}.py"}}')
            _put(span, "gen_ai.agent.name", "coder")
            if size > 1000:
                _put(span, "gen_ai.tool.call.result", _words(rng, size - 1000))
        else:
            span.name, span.kind = "POST", Span.SPAN_KIND_CLIENT
            _put(span, "http.request.method", "POST")
            _put(span, "url.full", f"https://api.example.com/v1/{rng.getrandbits(64):016x}")
            _put(span, "http.response.status_code", 200)
            _put(span, "network.protocol.version", "1.1")
        _pad(span, rng, size)
        spans.append((span, part in {0, 1}))
    spans.append((_agent(rng, trace_id, root, b"", START_NS + number * 10**6, now, size), False))
    return spans


def _agent(
    rng: random.Random, trace_id: bytes, span_id: bytes, parent: bytes, start_ns: int, end_ns: int, size: int
) -> Span:
    span = Span(trace_id=trace_id, span_id=span_id, parent_span_id=parent, kind=Span.SPAN_KIND_INTERNAL)
    span.name = "invoke_agent coder"
    span.start_time_unix_nano, span.end_time_unix_nano = start_ns, end_ns
    _put(span, "gen_ai.operation.name", "invoke_agent")
    _put(span, "gen_ai.agent.name", "coder")
    _put(span, "gen_ai.conversation.id", f"conv-{trace_id.hex()[:12]}")
    _put(span, "user.id", f"user-{rng.randrange(50)}")
    _pad(span, rng, size)
    return span


def _messages(rng: random.Random, role: str, size: int) -> str:
    return f'[{{"role": "{role}", "parts": [{{"type": "text", "content": "{_words(rng, size)}"}}]}}]'


def _words(rng: random.Random, size: int) -> str:
    text = " ".join("".join(rng.choices(_FILLER, k=7)) for _ in range(40))
    return (text * (size // len(text) + 1))[:size]


def _put(record: object, key: str, value: str | int) -> None:
    pair = record.attributes.add()  # type: ignore[attr-defined]
    pair.key = key
    if isinstance(value, int):
        pair.value.int_value = value
    else:
        pair.value.string_value = value


def _pad(span: Span, rng: random.Random, size: int) -> None:
    """Attributes that no stage reads, up to the size of the spans that were measured elsewhere."""
    number = 0
    step = 60 if size <= 1000 else 600
    while span.ByteSize() < size - 40:
        room = min(step, size - span.ByteSize())
        _put(span, f"app.attribute.{number:02d}", "".join(rng.choices(_FILLER, k=max(4, room - 24))))
        number += 1
