"""Redact: what must not come to rest is taken out of a request before anything durable sees it.

Prompts, completions, tool arguments and results (`CONTENT`) are kept, hashed or
dropped as the operator says; credentials in recorded HTTP headers always go. A hash
is keyed and per tenant: equal content stays equal, so that loops are still seen, and
nobody can try words against it. A request with nothing to redact goes on as it came,
byte for byte; of another one, spans keep everything else, fields of later OTLP too.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from enum import StrEnum
from fnmatch import translate
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError as ParseError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_cost.core.decode.encode import encode_records
from otel_cost.core.decode.otlp import decode_logs, decode_traces
from otel_cost.core.model.effects import Signal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, MutableSequence

    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

    from otel_cost.core.decode.otlp import Decoded
    from otel_cost.core.model.event import LogEvent, SpanEvent


class Rule(StrEnum):
    """What becomes of a value."""

    KEEP = "keep"
    HASH = "hash"
    DROP = "drop"


# Attribute keys under which clients put what people and models said, of every dialect that is read here.
CONTENT: Final = (
    "gen_ai.input.messages",
    "gen_ai.output.messages",
    "gen_ai.system_instructions",
    "gen_ai.tool.call.arguments",
    "gen_ai.tool.call.result",
    "gen_ai.tool.arguments",
    "gen_ai.tool.args",
    "gen_ai.tool.result",
    "gen_ai.tool.message",
    "gen_ai.prompt",
    "gen_ai.prompt.*",
    "gen_ai.completion",
    "gen_ai.completion.*",
    "gen_ai.event.content",
    "gen_ai.choice",
    "gen_ai.*.message",
    "llm.prompts*",
    "llm.completions*",
    "llm.input_messages*",
    "llm.output_messages*",
    "llm.prompt_template.*",
    "llm.*.messages",
    "llm.*.content",
    "llm.*.choices",
    "traceloop.entity.input",
    "traceloop.entity.output",
    "input.value",
    "output.value",
    "tool.parameters",
    "tool.output",
    "retrieval.documents*",
    "embedding.embeddings*",
    "ai.prompt*",
    "ai.response.text",
    "ai.response.object",
    "ai.response.toolCalls",
    "ai.response.reasoning",
    "ai.toolCall.args",
    "ai.toolCall.result",
    "ai.value*",
    "langfuse.*input",
    "langfuse.*output",
    "langsmith.*inputs",
    "langsmith.*outputs",
    "request_data",
    "response_data",
    "all_messages_events",
    "pydantic_ai.all_messages",
    "events",
    "final_result",
    "tool_arguments",
    "tool_response",
    "tool_parameters",
    "tool_input",
    "request_text",
    "response_text",
    "function_args",
    "prompt",
    "content",
    "message",
    "message.content",
    "reasoning",
    "arguments",
    "output",
    "mcp.request.argument*",
    "mcp.response.value",
)
BODY: Final = "body"  # of a log record
STATUS: Final = "status.message"  # of a span: an error's text, by which loops are told apart; kept unless it is named
# Names of events, of spans and logs, whose body or attributes are content.
_TALK: Final = re.compile(r"(gen_ai|llm|claude_code|codex|gemini_cli|qwen-code|qwen_code)[._]")
_SECRET: Final = re.compile(
    r"(?i)(?:^|.*[._])headers?\.(?:.*[._-])?(?:authorization|cookie|set[-_]cookie|api[-_]?key|token|secret)$"
)
# Keys of hook calls below which harnesses put what people, models and tools said, and what stays a fact there.
_HOOK_CONTENT: Final = re.compile(
    r"tool_input|tool_response|tool_output|tool_result|toolArgs|toolInput|toolResult|args|arguments|input|output|prompt"
    r"|parts|messages?|llm_request|llm_response|last_assistant_message|response|content|text|result"
)
_HOOK_FACTS: Final = re.compile(
    r"model|id|type|role|status|name|(session|message|call)ID|tool|error|finishReason|resultType"
)
_DEEPEST: Final = 64
_HINTS: Final = (b"request.header", b"response.header")  # without one of them there is no header to look for


class Redactor:
    """What the operator's rules make of a request. Safe to use from many threads."""

    def __init__(self, default: Rule, keys: Mapping[str, Rule], secret: bytes) -> None:
        """`default`: of the keys in `CONTENT`; `keys`: of others, or of the same, by name or pattern (`app.*`)."""
        self._secret = secret
        self._named = tuple((re.compile(translate(pattern)), rule) for pattern, rule in keys.items())
        known = "|".join(translate(pattern) for pattern in CONTENT)
        self._content = re.compile(known)
        self._default = default
        self.is_on = default is not Rule.KEEP or any(rule is not Rule.KEEP for rule in keys.values())
        self._rule = lru_cache(maxsize=4096)(self._find_rule)

    def redact(self, signal: Signal, payload: bytes, tenant: str) -> bytes:
        """The request as it may be kept; the same object where there is nothing to take out."""
        if signal is Signal.METRICS or not (self.is_on or any(hint in payload for hint in _HINTS)):
            return payload
        request = ExportTraceServiceRequest() if signal is Signal.TRACES else ExportLogsServiceRequest()
        try:
            request.ParseFromString(payload)
        except ParseError:
            # Records that cannot be read are turned away later, and must not come to rest in between.
            payload = _readable(signal, payload)
            request.ParseFromString(payload)
        hasher = self._hasher(tenant)
        changed = False
        if isinstance(request, ExportTraceServiceRequest):
            for resource in request.resource_spans:
                changed |= self._attributes(resource.resource.attributes, hasher)
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        changed |= self._attributes(span.attributes, hasher)
                        for event in span.events:
                            changed |= self._attributes(event.attributes, hasher)
                        for link in span.links:
                            changed |= self._attributes(link.attributes, hasher)
                        rule = self._rule(STATUS)
                        if rule is not Rule.KEEP and span.status.message:
                            changed = True
                            text = span.status.message.encode()
                            span.status.message = hasher(text) if rule is Rule.HASH else ""
        else:
            for of_resource in request.resource_logs:
                changed |= self._attributes(of_resource.resource.attributes, hasher)
                for of_scope in of_resource.scope_logs:
                    for record in of_scope.log_records:
                        changed |= self._attributes(record.attributes, hasher)
                        name = record.event_name or next(
                            (pair.value.string_value for pair in record.attributes if pair.key == "event.name"), ""
                        )
                        rule = self._rule(BODY)
                        if rule is Rule.KEEP and _TALK.match(name):
                            rule = self._default
                        if rule is not Rule.KEEP and record.HasField("body"):
                            changed = True
                            self._replace(record.body, rule, hasher)
        return request.SerializeToString() if changed else payload

    def redact_hook(self, body: bytes, tenant: str) -> bytes:
        """A harness's hook call likewise: the texts below the keys that hold content; its shape and numbers stay."""
        if self._default is Rule.KEEP:
            return body
        try:
            told = json.loads(body)
        except (ValueError, RecursionError):
            return b""  # nobody will understand it, and it may be anything
        hasher = self._hasher(tenant)

        def blank(text: str) -> str:
            if not text:
                return text  # some harnesses say something by an empty text
            return hasher(text.encode("utf-8", "replace")) if self._default is Rule.HASH else "[dropped]"

        return json.dumps(_blanked(told, blank, inside=False, depth=0)).encode()

    def _attributes(self, pairs: MutableSequence[KeyValue], hasher: Callable[[bytes], str]) -> bool:
        rules = [self._rule(pair.key) for pair in pairs]
        for index in range(len(rules) - 1, -1, -1):
            if rules[index] is Rule.DROP:
                del pairs[index]
            elif rules[index] is Rule.HASH:
                self._replace(pairs[index].value, Rule.HASH, hasher)
        return any(rule is not Rule.KEEP for rule in rules)

    @staticmethod
    def _replace(value: AnyValue, rule: Rule, hasher: Callable[[bytes], str]) -> None:
        if rule is Rule.DROP:
            value.Clear()
            return
        plain = value.string_value.encode() if value.HasField("string_value") else value.SerializeToString()
        value.string_value = hasher(plain)

    def _find_rule(self, key: str) -> Rule:
        if _SECRET.match(key):
            return Rule.DROP
        for pattern, rule in self._named:
            if pattern.match(key):
                return rule
        return self._default if self._content.match(key) else Rule.KEEP

    def _hasher(self, tenant: str) -> Callable[[bytes], str]:
        secret = hmac.digest(self._secret, tenant.encode(), "sha256")

        def hashed(value: bytes) -> str:
            return f"hmac:{hmac.new(secret, value, hashlib.sha256).hexdigest()[:32]}"

        return hashed


def _readable(signal: Signal, payload: bytes) -> bytes:
    """The request without the records that cannot be read."""
    decoded: Decoded[SpanEvent] | Decoded[LogEvent]
    decoded = decode_traces(payload, "", 0) if signal is Signal.TRACES else decode_logs(payload, "", 0)
    return encode_records((event.resource.envelope, event.scope.envelope, event.raw) for event in decoded.events)


def _blanked(value: object, blank: Callable[[str], str], *, inside: bool, depth: int) -> object:
    """JSON with its texts replaced below the keys that hold content (`inside`)."""
    if depth > _DEEPEST:
        return None
    if isinstance(value, dict):
        return {
            key: item
            if isinstance(item, str) and _HOOK_FACTS.fullmatch(key)
            else _blanked(item, blank, inside=inside or bool(_HOOK_CONTENT.fullmatch(key)), depth=depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_blanked(item, blank, inside=inside, depth=depth + 1) for item in value]
    return blank(value) if inside and isinstance(value, str) else value
