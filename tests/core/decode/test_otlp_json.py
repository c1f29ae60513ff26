"""OTLP/JSON: the same request as its protobuf twin, and a sender's mistake named by its path."""

from __future__ import annotations

import base64
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from otel_cost.core.decode.otlp import count_metric_points, decode_logs, decode_traces
from otel_cost.core.decode.otlp_json import JsonNotes, json_to_protobuf
from otel_cost.core.model.effects import Signal
from otel_cost.errors import DecodeError

TRACE = "0102030405060708090a0b0c0d0e0f10"
SPAN = "0102030405060708"


def body_of(**fields) -> bytes:
    span = {"traceId": TRACE, "spanId": SPAN} | fields
    return json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}).encode()


def span_from(body: bytes, **options) -> tuple[Span, JsonNotes]:
    payload, notes = json_to_protobuf(Signal.TRACES, body, **options)
    return ExportTraceServiceRequest.FromString(payload).resource_spans[0].scope_spans[0].spans[0], notes


def test_the_specifications_own_shape_of_a_request() -> None:
    body = {
        "resourceSpans": [
            {
                "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "my.service"}}]},
                "schemaUrl": "r",
                "scopeSpans": [
                    {
                        "scope": {"name": "lib", "version": "1", "droppedAttributesCount": 2},
                        "schemaUrl": "s",
                        "spans": [
                            {
                                "traceId": "5B8EFFF798038103D269B633813FC60C",
                                "spanId": "EEE19B7EC3C1B174",
                                "parentSpanId": "eee19b7ec3c1b173",
                                "traceState": "a=b",
                                "name": "I'm a server span",
                                "startTimeUnixNano": "1544712660000000001",
                                "endTimeUnixNano": 1544712661000000003,
                                "kind": 2,
                                "flags": 257,
                                "status": {"code": 2, "message": "no"},
                                "links": [{"traceId": TRACE, "spanId": SPAN.upper()}],
                                "events": [{"name": "e", "timeUnixNano": "5"}],
                                "attributes": [
                                    {"key": "i", "value": {"intValue": "-9223372036854775808"}},
                                    {"key": "d", "value": {"doubleValue": 0.1}},
                                    {"key": "b", "value": {"boolValue": False}},
                                    {"key": "y", "value": {"bytesValue": "AP8="}},
                                    {"key": "l", "value": {"arrayValue": {"values": [{"intValue": 0}, {}]}}},
                                    {"key": "m", "value": {"kvlistValue": {"values": [{"key": "k"}]}}},
                                ],
                            }
                        ],
                    }
                ],
            }
        ]
    }
    payload, notes = json_to_protobuf(Signal.TRACES, json.dumps(body).encode())
    request = ExportTraceServiceRequest.FromString(payload)
    resource = request.resource_spans[0]
    scope = resource.scope_spans[0]
    span = scope.spans[0]
    assert notes == JsonNotes()
    assert (resource.schema_url, scope.schema_url, scope.scope.name, scope.scope.dropped_attributes_count) == (
        "r",
        "s",
        "lib",
        2,
    )
    assert span == Span(
        trace_id=bytes.fromhex("5b8efff798038103d269b633813fc60c"),
        span_id=bytes.fromhex("eee19b7ec3c1b174"),
        parent_span_id=bytes.fromhex("eee19b7ec3c1b173"),
        trace_state="a=b",
        name="I'm a server span",
        start_time_unix_nano=1544712660000000001,
        end_time_unix_nano=1544712661000000003,
        kind=2,
        flags=257,
        status=Status(code=2, message="no"),
        links=[Span.Link(trace_id=bytes.fromhex(TRACE), span_id=bytes.fromhex(SPAN))],
        events=[Span.Event(name="e", time_unix_nano=5)],
        attributes=[
            KeyValue(key="i", value=AnyValue(int_value=-(2**63))),
            KeyValue(key="d", value=AnyValue(double_value=0.1)),
            KeyValue(key="b", value=AnyValue(bool_value=False)),
            KeyValue(key="y", value=AnyValue(bytes_value=b"\x00\xff")),
            KeyValue(key="l", value=AnyValue(array_value=ArrayValue(values=[AnyValue(int_value=0), AnyValue()]))),
            KeyValue(key="m", value=AnyValue(kvlist_value=KeyValueList(values=[KeyValue(key="k")]))),
        ],
    )


@pytest.mark.parametrize(
    ("written", "exact"),
    [
        ('"1767225600123456789"', 1767225600123456789),
        ("1767225600123456789", 1767225600123456789),
        ("18446744073709551615", 2**64 - 1),
        ("1.767225600123456789e18", 1767225600123456789),
        ('"1e3"', 1000),
        ("5.0", 5),
        ("0", 0),
    ],
)
def test_64_bit_numbers_are_exact(written: str, exact: int) -> None:
    body = body_of(startTimeUnixNano=0).replace(b'"startTimeUnixNano": 0', b'"startTimeUnixNano": ' + written.encode())
    assert span_from(body)[0].start_time_unix_nano == exact


@pytest.mark.parametrize(
    ("written", "value"),
    [("NaN", math.nan), ("Infinity", math.inf), ("-Infinity", -math.inf), ("1.5", 1.5), (2, 2.0), (1e300, 1e300)],
)
def test_doubles(written: object, value: float) -> None:
    span, _ = span_from(body_of(attributes=[{"key": "k", "value": {"doubleValue": written}}]))
    got = span.attributes[0].value.double_value
    assert got == value or (math.isnan(got) and math.isnan(value))


def test_unknown_and_snake_case_keys_are_ignored_and_counted_on_every_level() -> None:
    body = body_of(trace_id="x", unknown={"a": [1]}, status={"code": 1, "new": 2})
    span, notes = span_from(body)
    assert span.trace_id == bytes.fromhex(TRACE)
    assert span.status.code == 1
    assert notes.ignored_keys == 3
    payload, notes = json_to_protobuf(Signal.TRACES, b'{"resource_spans": [{"scope_spans": []}]}')
    assert (payload, notes.ignored_keys) == (b"", 1)


def test_null_is_absent_and_the_last_of_equal_keys_wins() -> None:
    span, _ = span_from(body_of(name=None, attributes=None, status=None, kind=None))
    assert (span.name, len(span.attributes), span.HasField("status"), span.kind) == ("", 0, False, 0)
    body = body_of(name="x").replace(b'"name": "x"', b'"name": "first", "name": "last"')
    assert span_from(body)[0].name == "last"


def test_enum_names_are_counted_or_refused_when_strict() -> None:
    body = body_of(kind="SPAN_KIND_CLIENT", status={"code": "STATUS_CODE_ERROR"})
    span, notes = span_from(body)
    assert (span.kind, span.status.code, notes.enum_names) == (3, 2, 2)
    with pytest.raises(DecodeError, match=r"^resourceSpans\[0\]\.scopeSpans\[0\]\.spans\[0\]\.kind: .*number 3"):
        span_from(body, strict=True)
    assert span_from(body_of(kind=77))[0].kind == 77


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"traceId": base64.b64encode(bytes.fromhex(TRACE)).decode()}, "invalid_trace_id"),
        ({"spanId": base64.b64encode(bytes.fromhex(SPAN)).decode()}, "invalid_span_id"),
        ({"traceId": TRACE[:-1]}, "invalid_trace_id"),
        ({"traceId": TRACE + "00"}, "invalid_trace_id"),
        ({"traceId": "z" * 16}, "invalid_trace_id"),  # 16 characters must not pass for 16 bytes
        ({"spanId": "z" * 8}, "invalid_span_id"),
        ({"spanId": "ü" * 4}, "invalid_span_id"),
        ({"parentSpanId": "z" * 8}, "invalid_parent_span_id"),
        ({"traceId": ""}, "invalid_trace_id"),
        ({"traceId": 5}, "invalid_trace_id"),
        ({"traceId": "0" * 32}, "invalid_trace_id"),
        ({"name": "\ud800"}, "invalid_utf8"),
        ({"attributes": [{"key": "k", "value": {"stringValue": "\udfff"}}]}, "invalid_utf8"),
    ],
)
def test_what_no_record_can_hold_rejects_that_record_only(fields: dict[str, object], reason: str) -> None:
    good = {"traceId": TRACE, "spanId": SPAN, "name": "good"}
    body = {"resourceSpans": [{"scopeSpans": [{"spans": [good, good | fields]}]}]}
    decoded = decode_traces(json_to_protobuf(Signal.TRACES, json.dumps(body).encode())[0], "t", 0)
    assert [event.name for event in decoded.events] == ["good"]
    assert [rejected.reason for rejected in decoded.rejected] == [reason]


def test_bytes_that_are_no_utf8_reject_the_record_that_has_them() -> None:
    body = body_of(name="NAME").replace(b"NAME", b"caf\xe9")
    decoded = decode_traces(json_to_protobuf(Signal.TRACES, body)[0], "t", 0)
    assert [rejected.reason for rejected in decoded.rejected] == ["invalid_utf8"]


def test_deep_values_reject_their_record_and_absurd_ones_the_request() -> None:
    def nested(levels: int) -> bytes:
        value = b'{"arrayValue":{"values":[' * levels + b'{"intValue":1}' + b"]}}" * levels
        return body_of(attributes=[{"key": "k", "value": 0}]).replace(b'"value": 0', b'"value": ' + value)

    decoded = decode_traces(json_to_protobuf(Signal.TRACES, nested(60))[0], "t", 0)
    assert [rejected.reason for rejected in decoded.rejected] == ["too_deep"]
    with pytest.raises(DecodeError, match="nested too deep"):
        json_to_protobuf(Signal.TRACES, nested(10_000))


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "the body is no JSON"),
        (b"{", "the body is no JSON"),
        (b"[]", "the body: a list where an object is expected"),
        (b"3", "the body: a number where an object is expected"),
        (b"\xff\xfe\x00", "the body is no JSON"),
        (b'{"resourceSpans": {}}', "resourceSpans: an object where a list is expected"),
        (b'{"resourceSpans": [3]}', r"resourceSpans\[0\]: a number where an object is expected"),
        (body_of(name=3), r"spans\[0\]\.name: a number where a string is expected"),
        (body_of(startTimeUnixNano="soon"), r"startTimeUnixNano: a string that is no whole number"),
        (body_of(startTimeUnixNano=-1), "startTimeUnixNano: a number outside 0"),
        (body_of(startTimeUnixNano=2**64), "startTimeUnixNano: a number outside 0"),
        (body_of(startTimeUnixNano=1.5), "no whole number"),
        (body_of(startTimeUnixNano="1e999999999"), "no whole number"),
        (body_of(startTimeUnixNano="NaN"), "no whole number"),
        (body_of(startTimeUnixNano=True), "a boolean where a whole number is expected"),
        (body_of(kind="CLIENT"), r"kind: a string that is no whole number"),
        (body_of(status=[]), r"status: a list where an object is expected"),
        (body_of(attributes=[{"key": "k", "value": {"boolValue": 1}}]), r"attributes\[0\]\.value\.boolValue: a number"),
        (body_of(attributes=[{"key": "k", "value": {"bytesValue": "*"}}]), "no base64"),
        (body_of(attributes=[{"key": "k", "value": {"doubleValue": "1_0"}}]), "no number"),
        (body_of(attributes=[{"key": "k", "value": {"doubleValue": 10**400}}]), "no double can hold"),
        (body_of(flags=0).replace(b'"flags": 0', b'"flags": NaN'), 'write "NaN" as a string'),
        (body_of(flags=0).replace(b'"flags": 0', b'"flags": ' + b"9" * 5000), "no JSON"),
    ],
)
def test_a_mistake_is_named_by_its_path(body: bytes, told: str) -> None:
    with pytest.raises(DecodeError, match=told):
        json_to_protobuf(Signal.TRACES, body)


def test_logs_and_metrics() -> None:
    logs = {
        "resourceLogs": [
            {
                "scopeLogs": [
                    {
                        "logRecords": [
                            {
                                "timeUnixNano": "7",
                                "severityNumber": 9,
                                "body": {"stringValue": "hi"},
                                "eventName": "e",
                                "traceId": TRACE,
                                "spanId": SPAN,
                            }
                        ]
                    }
                ]
            }
        ]
    }
    payload, notes = json_to_protobuf(Signal.LOGS, json.dumps(logs).encode())
    ExportLogsServiceRequest.FromString(payload)
    (log,) = decode_logs(payload, "t", 0).events
    assert (log.name, log.body, log.time_ns, log.severity, log.trace_id.hex()) == ("e", "hi", 7, 9, TRACE)
    metrics = {
        "resourceMetrics": [
            {
                "scopeMetrics": [
                    {
                        "metrics": [
                            {
                                "name": "m",
                                "histogram": {
                                    "aggregationTemporality": 2,
                                    "dataPoints": [
                                        {"count": "3", "bucketCounts": ["1", 2], "explicitBounds": [1, 2.5]},
                                        {"exemplars": [{"asInt": "-4", "traceId": TRACE}]},
                                    ],
                                },
                            }
                        ]
                    }
                ]
            }
        ]
    }
    payload, notes = json_to_protobuf(Signal.METRICS, json.dumps(metrics).encode())
    assert (count_metric_points(payload), notes) == (2, JsonNotes())
    first, second = (
        ExportMetricsServiceRequest.FromString(payload)
        .resource_metrics[0]
        .scope_metrics[0]
        .metrics[0]
        .histogram.data_points
    )
    assert (first.count, list(first.bucket_counts), list(first.explicit_bounds)) == (3, [1, 2], [1.0, 2.5])
    assert (second.exemplars[0].as_int, second.exemplars[0].trace_id.hex()) == (-4, TRACE)


# Drawn requests, written as JSON by hand (protobuf's writer cannot write hex ids) and built as messages.
texts = st.text(max_size=12)
int64 = st.integers(-(2**63), 2**63 - 1)
scalars = st.one_of(
    st.tuples(st.just("stringValue"), texts),
    st.tuples(st.just("boolValue"), st.booleans()),
    st.tuples(st.just("intValue"), int64),
    st.tuples(st.just("doubleValue"), st.floats(allow_nan=False, allow_infinity=False)),
    st.tuples(st.just("bytesValue"), st.binary(max_size=9)),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.tuples(st.just("arrayValue"), st.lists(inner, max_size=3)),
        st.tuples(st.just("kvlistValue"), st.lists(st.tuples(texts, inner), max_size=3)),
    ),
    max_leaves=6,
)


def value_json(kind: str, value, as_text: bool) -> dict[str, object]:
    if kind == "arrayValue":
        return {kind: {"values": [value_json(*item, as_text) for item in value]}}
    if kind == "kvlistValue":
        return {kind: {"values": [{"key": key, "value": value_json(*item, as_text)} for key, item in value]}}
    if kind == "bytesValue":
        return {kind: base64.b64encode(value).decode()}
    return {kind: str(value) if kind == "intValue" and as_text else value}


def value_message(kind: str, value) -> AnyValue:
    if kind == "arrayValue":
        return AnyValue(array_value=ArrayValue(values=[value_message(*item) for item in value]))
    if kind == "kvlistValue":
        pairs = [KeyValue(key=key, value=value_message(*item)) for key, item in value]
        return AnyValue(kvlist_value=KeyValueList(values=pairs))
    return AnyValue(**{kind.replace("Value", "_value"): value})


@given(
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=8, max_size=8),
    texts,
    st.integers(0, 2**64 - 1),
    st.lists(st.tuples(texts, values), max_size=4),
    st.booleans(),
)
def test_json_says_the_same_as_protobuf(trace_id, span_id, name, start, attributes, as_text) -> None:
    body = body_of(
        traceId=trace_id.hex().upper() if as_text else trace_id.hex(),
        spanId=span_id.hex(),
        name=name,
        startTimeUnixNano=str(start) if as_text else start,
        attributes=[{"key": key, "value": value_json(*value, as_text)} for key, value in attributes],
    )
    span, notes = span_from(body)
    assert notes == JsonNotes()
    assert span == Span(
        trace_id=trace_id,
        span_id=span_id,
        name=name,
        start_time_unix_nano=start,
        attributes=[KeyValue(key=key, value=value_message(*value)) for key, value in attributes],
    )


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | texts, lambda x: st.lists(x) | st.dictionaries(texts, x))
)
def test_any_json_is_converted_or_refused(document: object) -> None:
    for body in (json.dumps(document).encode(), body_of(status=document), body_of(attributes=[document])):
        try:
            payload, _ = json_to_protobuf(Signal.TRACES, body)
        except DecodeError:
            continue
        decode_traces(payload, "t", 0)
