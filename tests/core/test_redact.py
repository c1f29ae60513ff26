"""Content leaves a request before it comes to rest; everything else stays as it was sent."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_cost.core.decode.otlp import decode_traces
from otel_cost.core.model.effects import Signal
from otel_cost.core.redact import CONTENT, Redactor, Rule

SECRET = "only the user knows this"
HEADERS = (
    "http.request.header.authorization",
    "http.request.header.Cookie",
    "http.response.header.set-cookie",
    "http.request.header.x-api-key",
    "ai.request.headers.Authorization",
    "ai.request.headers.x-goog-api-key",
)


def traces(attributes: dict[str, str], **where: Any) -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    span = request.resource_spans.add().scope_spans.add().spans.add()
    span.trace_id, span.span_id, span.name = b"t" * 16, b"s" * 8, "chat"
    holders = [span, span.events.add(name="gen_ai.user.message"), span.links.add(), request.resource_spans[0].resource]
    for holder in holders if where.get("everywhere") else holders[:1]:
        for key, value in attributes.items():
            holder.attributes.add(key=key).value.string_value = value
    return request


def test_nothing_to_redact_is_the_same_object() -> None:
    payload = traces({"gen_ai.input.messages": SECRET, "http.request.method": "POST"}).SerializeToString()
    redactor = Redactor(Rule.KEEP, {}, b"k")
    assert redactor.redact(Signal.TRACES, payload, "t") is payload
    dropping = Redactor(Rule.DROP, {}, b"k")
    plain = traces({"gen_ai.usage.input_tokens": "5"}).SerializeToString()
    assert dropping.redact(Signal.TRACES, plain, "t") is plain
    assert dropping.redact(Signal.METRICS, b"\x00", "t") == b"\x00"


def test_recorded_credentials_always_go() -> None:
    request = traces(dict.fromkeys(HEADERS, SECRET) | {"http.request.header.accept": "*/*"}, everywhere=True)
    kept = Redactor(Rule.KEEP, {}, b"k").redact(Signal.TRACES, request.SerializeToString(), "t")
    assert SECRET.encode() not in kept
    assert b"http.request.header.accept" in kept


def test_drop_and_hash_leave_no_content_anywhere() -> None:
    examples = {pattern.replace("*", "x"): SECRET for pattern in CONTENT}
    payload = traces(examples, everywhere=True).SerializeToString()
    for rule in (Rule.DROP, Rule.HASH):
        kept = Redactor(rule, {}, b"k").redact(Signal.TRACES, payload, "t")
        assert SECRET.encode() not in kept
    dropped = ExportTraceServiceRequest.FromString(Redactor(Rule.DROP, {}, b"k").redact(Signal.TRACES, payload, "t"))
    assert not dropped.resource_spans[0].scope_spans[0].spans[0].attributes


def hashed(value: str, tenant: str, secret: bytes = b"k") -> str:
    payload = traces({"gen_ai.tool.call.arguments": value}).SerializeToString()
    kept = Redactor(Rule.HASH, {}, secret).redact(Signal.TRACES, payload, tenant)
    attributes = ExportTraceServiceRequest.FromString(kept).resource_spans[0].scope_spans[0].spans[0].attributes
    return attributes[0].value.string_value


def test_equal_content_stays_equal_within_a_tenant_and_nowhere_else() -> None:
    assert hashed("ls -l", "a") == hashed("ls -l", "a")
    different = {hashed("ls -l", "a"), hashed("ls -l", "b"), hashed("ls", "a"), hashed("ls -l", "a", b"other")}
    assert len(different) == 4


def test_named_keys_win_over_the_default() -> None:
    rules = {"gen_ai.input.messages": Rule.KEEP, "app.*": Rule.DROP, "status.message": Rule.HASH}
    request = traces({"gen_ai.input.messages": "kept", "app.note": SECRET, "gen_ai.output.messages": SECRET})
    request.resource_spans[0].scope_spans[0].spans[0].status.message = SECRET
    kept = Redactor(Rule.DROP, rules, b"k").redact(Signal.TRACES, request.SerializeToString(), "t")
    assert b"kept" in kept
    assert SECRET.encode() not in kept


def test_bodies_of_logs() -> None:
    request = ExportLogsServiceRequest()
    records = request.resource_logs.add().scope_logs.add().log_records
    records.add(event_name="gen_ai.user.message").body.string_value = SECRET
    records.add().body.string_value = "plain log line"
    records.add().body.kvlist_value.values.add(key="content").value.string_value = "nested"
    payload = request.SerializeToString()
    kept = Redactor(Rule.HASH, {}, b"k").redact(Signal.LOGS, payload, "t")
    assert SECRET.encode() not in kept
    assert b"plain log line" in kept
    everything = Redactor(Rule.KEEP, {"body": Rule.DROP}, b"k").redact(Signal.LOGS, payload, "t")
    assert b"plain" not in everything
    assert b"nested" not in everything


def test_a_record_that_cannot_be_read_does_not_come_to_rest_and_does_not_save_its_neighbours() -> None:
    good = traces({"gen_ai.prompt": SECRET}).SerializeToString()
    bad = traces({"gen_ai.prompt": SECRET}).SerializeToString().replace(b"chat", b"\xff\xff\xff\xff")
    kept = Redactor(Rule.DROP, {}, b"k").redact(Signal.TRACES, good + bad, "t")
    assert SECRET.encode() not in kept
    assert len(decode_traces(kept, "t", 0).events) == 1


@given(st.dictionaries(st.sampled_from(["a", "gen_ai.prompt", "b.c", "input.value"]), st.text(max_size=20)))
def test_what_is_not_content_is_untouched(attributes: dict[str, str]) -> None:
    request = traces(attributes)
    payload = request.SerializeToString() + b"\xa2\x3f\x03new"  # a field of a later OTLP
    kept = Redactor(Rule.DROP, {}, b"k").redact(Signal.TRACES, payload, "t")
    span = ExportTraceServiceRequest.FromString(kept).resource_spans[0].scope_spans[0].spans[0]
    assert {pair.key: pair.value.string_value for pair in span.attributes} == {
        key: value for key, value in attributes.items() if key in {"a", "b.c"}
    }
    assert (span.name, span.trace_id) == ("chat", b"t" * 16)
    assert b"\xa2\x3f\x03new" in kept


def test_hook_calls_hold_no_content_either() -> None:
    call = {
        "session_id": "s",
        "hook_event_name": "PostToolUse",
        "tool_name": "Bash",
        "tool_input": {"command": SECRET, "list": [SECRET, 5]},
        "tool_response": {"stdout": SECRET, "exit_code": 1, "error": "failed"},
        "prompt": "",
    }
    body = json.dumps(call).encode()
    assert Redactor(Rule.KEEP, {}, b"k").redact_hook(body, "t") is body
    for rule in (Rule.DROP, Rule.HASH):
        kept = Redactor(rule, {}, b"k").redact_hook(body, "t")
        assert SECRET.encode() not in kept
        told = json.loads(kept)
        assert (told["session_id"], told["tool_name"], told["prompt"]) == ("s", "Bash", "")
        assert (told["tool_response"]["exit_code"], told["tool_input"]["list"][1]) == (1, 5)
    assert Redactor(Rule.HASH, {}, b"k").redact_hook(body, "t") == Redactor(Rule.HASH, {}, b"k").redact_hook(body, "t")
    assert Redactor(Rule.DROP, {}, b"k").redact_hook(b"{" + body, "t") == b""
