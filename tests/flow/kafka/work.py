"""Agents at work, made by hand: traces with sessions and loops, as the export requests of Collectors."""

from __future__ import annotations

import hashlib
import random
import time
from typing import TYPE_CHECKING

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

if TYPE_CHECKING:
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

MODELS = (("openai", "gpt-4o"), ("openai", "gpt-4o-mini"), ("anthropic", "claude-sonnet-4-5"))


def trace_id(number: int, seed: int = 0) -> bytes:
    return hashlib.blake2b(f"{seed}/{number}".encode(), digest_size=16).digest()


def work(traces: int, spans: int = 40, seed: int = 0, at_ns: int | None = None) -> list[bytes]:
    """Requests of about half a trace each, in a shuffled order; the parts of a trace stay in theirs.

    Every tenth trace fails three times in the same way. Of three traces one is a session of its own, one shares its
    session with its neighbour, and one has none.
    """
    dice = random.Random(seed)
    begun_ns = (time.time_ns() if at_ns is None else at_ns) - 60 * 10**9
    parts: list[tuple[float, bytes]] = []
    for number in range(traces):
        of_it = _trace(number, spans, dice, begun_ns, seed)
        when = dice.random()
        for index in range(0, len(of_it), spans // 2):
            parts.append((when, _request(of_it[index : index + spans // 2])))
            when += dice.random() / 10
    return [body for _, body in sorted(parts, key=lambda part: part[0])]


def _request(spans: list[Span]) -> bytes:
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    said = resource.resource.attributes.add(key="service.name")
    said.value.string_value = "agents"
    resource.scope_spans.add().scope.name = "by-hand"
    resource.scope_spans[0].spans.extend(spans)
    return request.SerializeToString()


def _trace(number: int, count: int, dice: random.Random, begun_ns: int, seed: int) -> list[Span]:
    scope = ExportTraceServiceRequest().resource_spans.add().scope_spans.add()
    session = {0: f"s-{seed}-{number}", 1: f"s-{seed}-{number // 6}-shared", 2: None}[number % 3]
    root = number * 100_000 + 1
    for index in range(1, count):
        span = scope.spans.add(trace_id=trace_id(number, seed), parent_span_id=root.to_bytes(8, "big"))
        span.span_id = (root + index).to_bytes(8, "big")
        span.start_time_unix_nano = begun_ns + index * 10**8
        span.end_time_unix_nano = span.start_time_unix_nano + 5 * 10**7
        told: dict[str, object] = {"gen_ai.conversation.id": session} if session else {}
        told |= {"user.id": f"user-{number % 7}"}
        if index % 3 == 0:
            provider, model = MODELS[dice.randrange(len(MODELS))]
            told |= {"gen_ai.operation.name": "chat", "gen_ai.provider.name": provider, "gen_ai.request.model": model}
            told |= {"gen_ai.usage.input_tokens": dice.randrange(100, 9000)}
            told |= {"gen_ai.usage.output_tokens": dice.randrange(10, 900)}
            told |= {"gen_ai.response.id": f"r-{seed}-{number}-{index}"}
        elif index % 3 == 1 and number % 10 == 0 and index < 12:
            told |= {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "bash", "error.type": "exit"}
            told |= {"gen_ai.tool.call.arguments": '{"command": "make"}'}
            span.status.code, span.status.message = 2, "exit status 2: nothing to make"
        span.name = str(told.get("gen_ai.operation.name", "step"))
        _tell(span, told)
    span = scope.spans.add(trace_id=trace_id(number, seed), span_id=root.to_bytes(8, "big"), name="work")
    span.start_time_unix_nano, span.end_time_unix_nano = begun_ns, begun_ns + count * 10**8
    _tell(span, {"gen_ai.conversation.id": session} if session else {})
    return list(scope.spans)


def _tell(span: Span, told: dict[str, object]) -> None:
    for key, value in told.items():
        said = span.attributes.add(key=key).value
        if isinstance(value, int):
            said.int_value = value
        else:
            said.string_value = str(value)
