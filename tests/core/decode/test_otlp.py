"""Decoding: exact bytes, shared envelopes, and one bad record never takes the others along."""

from __future__ import annotations

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from otel_cost.core.decode import otlp
from otel_cost.core.decode.encode import encode_logs, encode_traces, varint
from otel_cost.core.decode.otlp import count_metric_points, decode_logs, decode_traces, span_events
from otel_cost.errors import DecodeError

TRACE, SPAN, PARENT = bytes(range(1, 17)), bytes(range(1, 9)), bytes(range(11, 19))


def pair(key: str, value: str | int) -> KeyValue:
    return KeyValue(
        key=key, value=AnyValue(string_value=value) if isinstance(value, str) else AnyValue(int_value=value)
    )


def good(number: int = 1, **fields) -> Span:
    return Span(**{"trace_id": TRACE, "span_id": number.to_bytes(8), "name": f"call {number}"} | fields)


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def request_of(*spans: bytes | Span) -> bytes:
    raws = [span if isinstance(span, bytes) else span.SerializeToString() for span in spans]
    return field(1, field(2, b"".join(field(2, raw) for raw in raws)))


def decode(*spans: bytes | Span) -> otlp.Decoded:
    return decode_traces(request_of(*spans), "acme", 77)


def test_a_span_keeps_what_the_sender_said_and_its_exact_bytes() -> None:
    span = good(
        5,
        parent_span_id=PARENT,
        kind=3,
        start_time_unix_nano=2**63 + 5,
        end_time_unix_nano=2**64 - 1,
        attributes=[pair("gen_ai.request.model", "gpt-5"), pair("n", -3)],
        status=Status(code=2, message="boom"),
        flags=0xFFFF_FFFF,
        trace_state="a=b",
        links=[Span.Link(trace_id=TRACE, span_id=SPAN)],
        events=[Span.Event(name="first", time_unix_nano=9, attributes=[pair("k", "v")])],
    )
    raw = span.SerializeToString() + field(999, b"from the future")
    (event,) = decode(raw).events
    assert event.raw == raw
    assert (event.tenant, event.received_ns) == ("acme", 77)
    assert (event.trace_id, event.span_id, event.parent_id) == (TRACE, (5).to_bytes(8), PARENT)
    assert (event.name, event.kind, event.start_ns, event.end_ns) == ("call 5", 3, 2**63 + 5, 2**64 - 1)
    assert (event.status_code, event.status_message, event.is_error) == (2, "boom", True)
    assert {key: event.attributes.get(key) for key in event.attributes} == {"gen_ai.request.model": "gpt-5", "n": -3}
    (inner,) = span_events(event.raw_events)
    assert (inner.name, inner.time_ns, inner.attributes.get("k")) == ("first", 9, "v")


@pytest.mark.parametrize("payload", [b"", field(1, b""), field(1, field(2, b"")), field(1, field(2, b"") * 3)])
def test_nothing_in_it_is_fine(payload: bytes) -> None:
    assert decode_traces(payload, "t", 0) == decode_logs(payload, "t", 0) == otlp.Decoded()


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        (b"\xff\xfe\xfd\xfc random", "no ExportTraceServiceRequest"),
        (b'{"resourceSpans": []}', "no ExportTraceServiceRequest"),
        (request_of(good())[:-3], "cut short"),
        (b"\x0b", "wire type"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "more than 10 bytes"),
    ],
)
def test_what_is_no_request_is_refused_as_a_whole(payload: bytes, told: str) -> None:
    with pytest.raises(DecodeError, match=told):
        decode_traces(payload, "t", 0)


def nested(levels: int, kind: str) -> AnyValue:
    value = AnyValue(int_value=1)
    for _ in range(levels):
        outer = AnyValue()
        if kind == "array":
            outer.array_value.values.append(value)
        else:
            outer.kvlist_value.values.append(KeyValue(key="k", value=value))
        value = outer
    return value


def deep(levels: int) -> bytes:
    data = b"\x18\x01"
    for _ in range(levels):
        data = field(5, field(1, data))
    return good(66).SerializeToString() + field(9, field(1, b"k") + field(2, data))


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        *[pytest.param(good(trace_id=b"\x01" * n), "invalid_trace_id", id=f"trace id of {n}") for n in (0, 8, 15, 17)],
        *[pytest.param(good(span_id=b"\x01" * n), "invalid_span_id", id=f"span id of {n}") for n in (0, 7, 9, 16)],
        pytest.param(good(trace_id=bytes(16)), "invalid_trace_id", id="trace id zero"),
        pytest.param(good(span_id=bytes(8)), "invalid_span_id", id="span id zero"),
        pytest.param(good(parent_span_id=b"\x01" * 7), "invalid_parent_span_id", id="parent of 7"),
        pytest.param(good().SerializeToString() + field(5, b"\xff\xfe"), "invalid_utf8", id="name not UTF-8"),
        pytest.param(
            good().SerializeToString() + field(9, field(1, b"k") + field(2, field(1, b"\xff"))),
            "invalid_utf8",
            id="attribute not UTF-8",
        ),
        pytest.param(good().SerializeToString() + field(3, b"\xc0"), "invalid_utf8", id="trace state not UTF-8"),
        pytest.param(
            good().SerializeToString() + field(11, field(2, b"\xff")), "invalid_utf8", id="span event not UTF-8"
        ),
        pytest.param(good().SerializeToString() + field(9, b"\xff"), "malformed", id="attribute cut"),
        pytest.param(b"\xff\xff\xff", "malformed", id="noise"),
        pytest.param(deep(60), "too_deep", id="60 deep"),
        pytest.param(deep(10_000), "too_deep", id="10,000 deep"),
        pytest.param(
            good().SerializeToString() + b"\x4a\x00" * 100_001, "too_many_attributes", id="100,001 attributes"
        ),
        pytest.param(good().SerializeToString() + b"\x5a\x00" * 100_001, "too_many_events", id="100,001 events"),
        pytest.param(good().SerializeToString() + b"\x6a\x00" * 100_001, "too_many_links", id="100,001 links"),
        pytest.param(good(attributes=[pair("big", "x" * 33 * 2**20)]), "too_large", id="33 MiB"),
    ],
)
def test_one_bad_span_is_rejected_alone(bad: bytes | Span, reason: str) -> None:
    decoded = decode(good(1), bad, good(2))
    assert [event.name for event in decoded.events] == ["call 1", "call 2"]
    assert [rejected.reason for rejected in decoded.rejected] == [reason]
    assert decoded.rejected[0].message.startswith("span")


def test_the_rejection_names_the_field() -> None:
    bad = good(attributes=[pair("a", "1")]).SerializeToString() + field(9, field(1, b"k") + field(2, field(1, b"\xff")))
    (rejected,) = decode(bad).rejected
    assert rejected.message == "span: Span.attributes[1].value.string_value is not valid UTF-8"


@pytest.mark.parametrize("kind", ["array", "kvlist"])
def test_what_senders_nest_is_accepted(kind: str) -> None:
    (event,) = decode(good(attributes=[KeyValue(key="k", value=nested(30, kind))])).events
    value, levels = event.attributes.get("k"), 0
    while not isinstance(value, int):
        value, levels = (value[0] if isinstance(value, list) else value["k"]), levels + 1
    assert levels == 30


@pytest.mark.parametrize(("sent", "kept"), [(b"", b""), (bytes(8), b""), (PARENT, PARENT), ((1).to_bytes(8),) * 2])
def test_parents(sent: bytes, kept: bytes) -> None:
    (event,) = decode(good(1, parent_span_id=sent)).events
    assert event.parent_id == kept


def test_odd_but_valid_times_kinds_and_characters_are_kept() -> None:
    (event,) = decode(good(kind=99, name="a\0b\x1b[31m", start_time_unix_nano=9, end_time_unix_nano=3)).events
    assert (event.kind, event.name, event.start_ns, event.end_ns) == (99, "a\0b\x1b[31m", 9, 3)


def test_the_last_of_equal_keys_wins() -> None:
    (event,) = decode(good(attributes=[pair("k", "first"), pair("k", "last")])).events
    assert event.attributes.get("k") == "last"


def test_a_status_sent_in_two_parts_is_merged_as_protobuf_says() -> None:
    raw = good().SerializeToString() + field(15, b"\x18\x02") + field(15, b"\x12\x02hi")
    (event,) = decode(raw).events
    assert (event.status_code, event.status_message) == (2, "hi")


def envelope_request() -> ExportTraceServiceRequest:
    return ExportTraceServiceRequest(
        resource_spans=[
            ResourceSpans(
                resource=Resource(attributes=[pair("service.name", "agent")], dropped_attributes_count=4),
                schema_url="https://example.com/resource",
                scope_spans=[
                    ScopeSpans(
                        scope=InstrumentationScope(name="lib", version="1", attributes=[pair("s", 1)]),
                        schema_url="https://example.com/scope",
                        spans=[good(1), good(2)],
                    ),
                    ScopeSpans(scope=InstrumentationScope(name="other"), spans=[good(3)]),
                ],
            )
        ]
    )


def test_envelopes_are_shared_within_and_across_requests_and_signals() -> None:
    payload = envelope_request().SerializeToString()
    first, second, third = decode_traces(payload, "t", 0).events
    assert first.resource is second.resource is third.resource
    assert first.scope is second.scope is not third.scope
    assert (first.scope.name, first.scope.version, first.scope.attributes.get("s")) == ("lib", "1", 1)
    assert first.resource.attributes.get("service.name") == "agent"
    again = decode_traces(payload, "t", 0).events[0]
    assert again.resource is first.resource
    logs = encode_logs([(first.resource.envelope, first.scope.envelope, LogRecord(flags=1).SerializeToString())])
    (log,) = decode_logs(logs, "t", 0).events
    assert log.resource is first.resource
    assert log.scope is first.scope


def test_envelopes_keep_schema_urls_counts_and_unknown_fields() -> None:
    scope = field(1, field(1, b"lib") + field(77, b"new in scope")) + field(2, good(1).SerializeToString())
    resource = field(1, field(88, b"new in resource") + b"\x10\x04") + field(3, b"url") + field(99, b"new")
    payload = field(1, resource + field(2, scope + field(3, b"scope url") + field(98, b"newer")))
    (event,) = decode_traces(payload, "t", 0).events
    for part in (b"new in resource", b"\x10\x04", b"url", b"new"):
        assert part in event.resource.envelope
    for part in (b"new in scope", b"scope url", b"newer", b"lib"):
        assert part in event.scope.envelope
    sent_on = encode_traces([(event.resource.envelope, event.scope.envelope, event.raw)])
    assert ExportTraceServiceRequest.FromString(sent_on) == ExportTraceServiceRequest.FromString(payload)


@pytest.mark.parametrize(
    ("payload", "where"),
    [
        (field(1, field(1, field(1, field(1, b"\xff"))) + field(2, field(2, good().SerializeToString()))), "resource"),
        (field(1, field(2, field(1, field(1, b"\xff")) + field(2, good().SerializeToString()))), "scope"),
        (field(1, field(2, field(3, b"\xff") + field(2, good().SerializeToString()))), "scope"),
    ],
)
def test_a_bad_envelope_rejects_its_own_records_only(payload: bytes, where: str) -> None:
    decoded = decode_traces(payload + request_of(good(2)), "t", 0)
    assert [event.name for event in decoded.events] == ["call 2"]
    (rejected,) = decoded.rejected
    assert rejected.reason == "invalid_utf8"
    assert rejected.message.startswith(where)


def logs_of(*records: LogRecord | bytes) -> bytes:
    return request_of(*[r if isinstance(r, bytes) else r.SerializeToString() for r in records])


@pytest.mark.parametrize(
    ("record", "name"),
    [
        (LogRecord(event_name="a.b"), "a.b"),
        (LogRecord(attributes=[pair("event.name", "api_request")]), "api_request"),
        (LogRecord(event_name="a.b", attributes=[pair("event.name", "other")]), "a.b"),
        (LogRecord(attributes=[pair("event.name", 3)]), ""),
        (LogRecord(), ""),
    ],
)
def test_the_name_of_a_log_record(record: LogRecord, name: str) -> None:
    assert decode_logs(logs_of(record), "t", 0).events[0].name == name


@pytest.mark.parametrize(("own", "observed", "time"), [(5, 6, 5), (0, 6, 6), (0, 0, 7)])
def test_the_time_of_a_log_record(own: int, observed: int, time: int) -> None:
    record = LogRecord(time_unix_nano=own, observed_time_unix_nano=observed)
    assert decode_logs(logs_of(record), "t", 7).events[0].time_ns == time


def test_log_bodies_ids_and_bad_records() -> None:
    body = AnyValue()
    body.kvlist_value.values.append(pair("a", 1))
    decoded = decode_logs(
        logs_of(
            LogRecord(body=AnyValue(string_value="text"), severity_number=9, trace_id=TRACE, span_id=SPAN),
            LogRecord(body=body, trace_id=bytes(16), span_id=bytes(8)),
            LogRecord(trace_id=b"\x01"),
            LogRecord(span_id=b"\x01"),
            b"\x1a\x01\xff",
            LogRecord(),
        ),
        "t",
        0,
    )
    first, second, last = decoded.events
    assert (first.body, first.severity, first.trace_id, first.span_id) == ("text", 9, TRACE, SPAN)
    assert (second.body, second.trace_id, second.span_id) == ({"a": 1}, b"", b"")
    assert last.body is None
    assert [r.reason for r in decoded.rejected] == ["invalid_trace_id", "invalid_span_id", "invalid_utf8"]


def test_another_signal_never_crashes() -> None:
    spans = envelope_request().SerializeToString()
    decoded = decode_logs(spans, "t", 0)
    assert len(decoded.events) + len(decoded.rejected) == 3
    with pytest.raises(DecodeError):
        count_metric_points(b"\xff")


def test_metric_points_are_counted() -> None:
    request = ExportMetricsServiceRequest()
    metrics = request.resource_metrics.add().scope_metrics.add().metrics
    metrics.add(name="a").sum.data_points.add()
    for _ in range(3):
        metrics.add(name="b").histogram.data_points.add()
    metrics.add(name="empty")
    assert count_metric_points(request.SerializeToString()) == 4
    assert count_metric_points(b"") == 0


spans_drawn = st.lists(
    st.builds(
        lambda r, s, number, tail: (b"\x1a" + varint(len(r)) + r, b"\x1a" + varint(len(s)) + s, number, tail),
        st.sampled_from([b"", b"r1", b"r2"]),
        st.sampled_from([b"", b"s1", b"s" * 200]),
        st.integers(1, 2**64 - 1),
        st.binary(max_size=300),
    ),
    max_size=12,
)


@given(spans_drawn)
def test_spliced_requests_decode_to_the_same_bytes(drawn: list[tuple[bytes, bytes, int, bytes]]) -> None:
    items = [(r, s, good(number).SerializeToString() + field(500, tail)) for r, s, number, tail in drawn]
    payload = encode_traces(items)
    ExportTraceServiceRequest.FromString(payload)
    decoded = decode_traces(payload, "t", 0)
    assert not decoded.rejected
    assert [(e.resource.envelope, e.scope.envelope, e.raw) for e in decoded.events] == items


@given(st.binary(max_size=400))
def test_noise_is_decoded_rejected_or_refused_but_never_crashes(noise: bytes) -> None:
    for decode_request in (decode_traces, decode_logs):
        for payload in (noise, request_of(noise)):
            try:
                decoded = decode_request(payload, "t", 0)
            except DecodeError:
                continue
            assert all(rejected.message for rejected in decoded.rejected)


@given(st.data())
def test_a_damaged_request_never_invents_records(data: st.DataObject) -> None:
    whole = envelope_request().SerializeToString()
    at = data.draw(st.integers(0, len(whole) - 1))
    damaged = whole[:at] + bytes([data.draw(st.integers(0, 255))]) + whole[at + 1 :]
    try:
        decoded = decode_traces(damaged, "t", 0)
    except DecodeError:
        return
    for event in decoded.events:
        Span.FromString(event.raw)


def test_every_capture_decodes_to_the_last_record(shared) -> None:
    kinds = {
        "traces": (decode_traces, ExportTraceServiceRequest),
        "logs": (decode_logs, ExportLogsServiceRequest),
    }
    seen = 0
    for path in sorted((shared / "captures").rglob("*.pb*")):
        signal = path.name.split(".")[2]
        payload = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if signal == "metrics":
            assert count_metric_points(payload) >= 0
            continue
        decode_request, official = kinds[signal]
        decoded = decode_request(payload, "t", 0)
        assert not decoded.rejected, path
        items = [(e.resource.envelope, e.scope.envelope, e.raw) for e in decoded.events]
        sent, back = official.FromString(payload), official.FromString(encode_traces(items))
        assert records_of(sent) == records_of(back)
        seen += len(items)
    assert seen > 100


def records_of(request: ExportTraceServiceRequest | ExportLogsServiceRequest) -> list[bytes]:
    found = []
    for resource in getattr(request, "resource_spans", None) or getattr(request, "resource_logs", []):
        for scope in getattr(resource, "scope_spans", None) or getattr(resource, "scope_logs", []):
            records = getattr(scope, "spans", None) or getattr(scope, "log_records", [])
            found += [record.SerializeToString(deterministic=True) for record in records]
    return found


def test_logs_round_trip() -> None:
    payload = ExportLogsServiceRequest(
        resource_logs=[ResourceLogs(schema_url="u", scope_logs=[ScopeLogs(log_records=[LogRecord(event_name="e")])])]
    ).SerializeToString()
    (event,) = decode_logs(payload, "t", 0).events
    back = encode_logs([(event.resource.envelope, event.scope.envelope, event.raw)])
    assert ExportLogsServiceRequest.FromString(back) == ExportLogsServiceRequest.FromString(payload)
