"""Attributes as they are read equal what the official messages say, whatever the sender wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from otel_cost.core.decode.otlp import decode_traces
from otel_cost.core.model.attributes import _SHAPES, PlainAttributes, Unread, ask, decode_value, plain_value

if TYPE_CHECKING:
    from otel_cost.core.model.attributes import Attributes

_ASKED = ("gen_ai.request.model", "gen_ai.usage.input_tokens", "test.asked.before")
ask(*_ASKED)

_keys = st.sampled_from([*_ASKED, "gen_ai.not.asked", "app.plain", "test.asked.late"]) | st.text(max_size=200)
_scalars = st.one_of(
    st.builds(AnyValue, string_value=st.text(max_size=300)),
    st.builds(AnyValue, int_value=st.integers(-(2**63), 2**63 - 1) | st.integers(0, 2**22)),
    st.builds(AnyValue, double_value=st.floats(allow_nan=False)),
    st.builds(AnyValue, bool_value=st.booleans()),
    st.builds(AnyValue, bytes_value=st.binary(max_size=40)),
    st.just(AnyValue()),
)
_values = _scalars | st.builds(lambda items: AnyValue(array_value={"values": items}), st.lists(_scalars, max_size=3))


def _span(pairs: list[tuple[str, AnyValue]], name: str = "s", *, code: int = 0) -> Span:
    span = Span(trace_id=b"\1" * 16, span_id=b"\2" * 8, name=name, status={"code": code})
    span.attributes.extend(KeyValue(key=key, value=value) for key, value in pairs)
    return span


def _request(*spans: Span) -> bytes:
    request = ExportTraceServiceRequest()
    request.resource_spans.add().scope_spans.add().spans.extend(spans)
    return request.SerializeToString()


@given(st.lists(st.tuples(_keys, _values), max_size=12))
def test_every_attribute_reads_as_the_official_message_says(pairs: list[tuple[str, AnyValue]]) -> None:
    span = _span(pairs)
    (event,) = decode_traces(_request(span), "t", 1).events
    wanted = {pair.key: plain_value(pair.value) for pair in Span.FromString(span.SerializeToString()).attributes}
    attributes = event.attributes
    told = attributes.told()
    assert set(attributes) == set(wanted)
    for key, value in wanted.items():
        assert key in attributes
        assert attributes.get(key) == value
        assert type(attributes.get(key)) is type(value)
    for key in {*_ASKED, "gen_ai.not.asked"} & set(wanted):
        assert key in told
    for key, value in told.items():
        assert isinstance(value, Unread) or value == wanted[key]
    assert attributes.get("test.absent") is None
    assert "test.absent" not in attributes


@given(st.lists(_keys, max_size=8, unique=True), st.data())
def test_spans_with_the_same_keys_have_one_shape_and_each_its_own_values(keys: list[str], data: st.DataObject) -> None:
    told = [[(key, data.draw(_values)) for key in keys] for _ in range(3)]
    spans = [_span(pairs) for pairs in told]
    for number, span in enumerate(spans, 1):
        span.span_id = number.to_bytes(8, "big")
    read = [event.attributes for event in decode_traces(_request(*spans), "t", 1).events]
    for attributes, pairs in zip(read, told, strict=True):
        assert set(attributes.shape().keys) == set(attributes.told())
        assert {key: attributes.get(key) for key in keys} == {key: plain_value(value) for key, value in pairs}
    assert read[1].shape() is read[2].shape()  # the first one may have been asked for a key that is new


def test_what_follows_from_keys_is_found_once_and_anew_for_a_key_that_is_asked_for_later() -> None:
    pairs = [("gen_ai.request.model", AnyValue(string_value="m")), ("test.found.late", AnyValue(string_value="x"))]
    looked: list[frozenset[str]] = []

    def find(keys: frozenset[str]) -> bool:
        looked.append(keys)
        return "test.found.late" in keys

    def attributes() -> Attributes:
        (event,) = decode_traces(_request(_span(pairs)), "t", 1).events
        return event.attributes

    assert [attributes().shape().derived(find) for _ in range(3)] == [False] * 3
    assert looked == [{"gen_ai.request.model"}]
    ask("test.found.late")
    assert [attributes().shape().derived(find) for _ in range(3)] == [True] * 3
    assert looked[1:] == [{"gen_ai.request.model", "test.found.late"}]
    plain = PlainAttributes({"gen_ai.request.model": "m", "test.found.late": 1})
    assert plain.shape().keys == ("gen_ai.request.model", "test.found.late")


@pytest.mark.parametrize("key", ["x" * 300, "n"])
def test_sets_of_keys_that_senders_make_up_are_not_kept(key: str) -> None:
    before = len(_SHAPES)
    many = [(f"{key}{number}", AnyValue(int_value=1)) for number in range(1 if len(key) > 1 else 100)]
    (event,) = decode_traces(
        _request(_span([*many, ("gen_ai.request.model", AnyValue(string_value="m"))])), "t", 1
    ).events
    assert event.attributes.told() == {"gen_ai.request.model": "m"}
    assert len(_SHAPES) == before


@given(_scalars)
def test_an_encoded_value_reads_as_the_official_message_says(value: AnyValue) -> None:
    assert decode_value(value.SerializeToString()) == plain_value(value)


@pytest.mark.parametrize(
    "raw",
    [
        AnyValue(int_value=5).SerializeToString() + AnyValue(int_value=6).SerializeToString(),
        AnyValue(int_value=5).SerializeToString() + AnyValue(string_value="").SerializeToString(),
        AnyValue(string_value="a").SerializeToString() + AnyValue(string_value="b").SerializeToString(),
        b"\x18\x05\x18",
        b"\x0a\x05ab",
        b"\xff",
    ],
)
def test_a_value_of_several_fields_is_read_as_protobuf_says(raw: bytes) -> None:
    try:
        wanted = plain_value(AnyValue.FromString(raw))
    except DecodeError:
        wanted = None
    assert decode_value(raw) == wanted


@given(st.lists(st.tuples(st.text(max_size=5), st.integers(0, 2), st.booleans()), min_size=1, max_size=5))
def test_spans_read_the_same_together_and_one_by_one(told: list[tuple[str, int, bool]]) -> None:
    spans = [_span([("k", AnyValue(string_value=name))], name, code=code) for name, code, _ in told]
    for number, (span, (*_, has_event)) in enumerate(zip(spans, told, strict=True)):
        span.span_id = (number + 1).to_bytes(8, "big")
        if has_event:
            span.events.add().name = "e"
    good = decode_traces(_request(*spans), "t", 1).events
    bad = Span(trace_id=b"\1" * 16, span_id=b"\3" * 8).SerializeToString() + b"\x2a\x01\xff"  # a name that is no UTF-8
    whole = ExportTraceServiceRequest.FromString(_request(*spans)).resource_spans[0].scope_spans[0].SerializeToString()
    inner = whole + b"\x12" + bytes((len(bad),)) + bad
    outer = b"\x12" + _varint(len(inner)) + inner
    mixed = decode_traces(b"\x0a" + _varint(len(outer)) + outer, "t", 1)
    assert len(mixed.rejected) == 1
    for one, other in zip(good, mixed.events, strict=True):
        for name in ("raw", "trace_id", "span_id", "parent_id", "name", "kind", "status_code", "raw_events"):
            assert getattr(one, name) == getattr(other, name)
        assert one.attributes.get("k") == other.attributes.get("k")


def _varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*out, number))
