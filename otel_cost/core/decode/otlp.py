"""OTLP protobuf to events: one bad record is turned away with its reason, the rest goes on.

Each record is parsed twice, once with the official schema (it must be valid to
the last attribute, since its bytes go on to backends) and once with the lazy one
(values of attributes stay bytes until somebody asks). The spans of a request are
parsed all together, and one by one where that fails: upb refuses a whole message
for one bad string or for nesting that is too deep.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar

from google.protobuf.message import DecodeError as ParseError
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality, DataPointFlags
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from otel_cost.core.decode._faults import find_fault
from otel_cost.core.decode._schema import (
    LazyLogRecord,
    LazyResourceSpans,
    LazyScopeSpans,
    LazySpan,
    LazySpanEvent,
    LogsRequest,
    ParsedTracesRequest,
    TracesRequest,
)
from otel_cost.core.model.attributes import PlainAttributes, RawAttributes, decode_value, plain_value
from otel_cost.core.model.event import LogEvent, MetricPoint, Resource, Scope, SpanEvent
from otel_cost.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from google.protobuf.descriptor import Descriptor

    from otel_cost.core.model.attributes import Attributes

E = TypeVar("E")

MAX_ITEMS: Final = 100_000  # attributes, events or links of one record
MAX_RECORD_BYTES: Final = 32 * 1024 * 1024
_PIECE: Final = 32  # records between two pauses

_NO_TRACE: Final = bytes(16)
_NO_SPAN: Final = bytes(8)
_CACHED_ENVELOPE_BYTES: Final = 16 * 1024  # bounds the cache to 2 x 2048 x 16 KiB; real envelopes are below 2 KiB


@dataclass(slots=True, frozen=True)
class Rejected:
    """One record that can never be accepted. `reason` is a metric label, `message` is for the sender."""

    reason: str
    message: str


@dataclass(slots=True)
class Decoded(Generic[E]):
    """What one export request holds, in its own order. `len(events) + len(rejected)` = records sent."""

    events: list[E] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)


@dataclass(slots=True, frozen=True)
class TimedEvent:
    """An event inside a span."""

    name: str
    time_ns: int
    attributes: Attributes


def decode_traces(
    payload: bytes, tenant: str, received_ns: int, pause: Callable[[], None] = lambda: None
) -> Decoded[SpanEvent]:
    """Spans of an encoded `ExportTraceServiceRequest`.

    `raw` of each span is its encoding exactly as sent; spans of one envelope share
    their resource and scope objects, across requests too. `pause` is called between two pieces of work.

    Raises:
        DecodeError: the bytes are no such request; nothing in it can be told apart.
    """
    decoded: Decoded[SpanEvent] = Decoded()
    accept = decoded.events.append
    reject = decoded.rejected.append
    parsed = _parsed_spans(payload, pause)
    for resource, scope, records, fault in _records(_TRACES, payload):
        spans = next(parsed, None)
        if fault is not None:
            decoded.rejected += [fault] * len(records)
            continue
        pairs = zip(records, repeat(None) if spans is None else spans, strict=spans is not None)
        for number, (raw, whole) in enumerate(pairs):
            if number % _PIECE == 0:
                pause()
            span = whole
            if span is None:
                try:
                    Span.FromString(raw)
                    span = LazySpan.FromString(raw)
                except ParseError:
                    reject(_unreadable(raw, "span", Span.DESCRIPTOR))
                    continue
            trace_id = span.trace_id
            span_id = span.span_id
            parent_id = span.parent_span_id
            if len(trace_id) != 16 or len(span_id) != 8 or trace_id == _NO_TRACE or span_id == _NO_SPAN:
                reject(_bad_ids("span", trace_id, span_id))
                continue
            if parent_id:
                if len(parent_id) != 8:
                    reject(
                        Rejected("invalid_parent_span_id", f"span: parent_span_id has {len(parent_id)} bytes, not 8")
                    )
                    continue
                if parent_id == _NO_SPAN:
                    parent_id = b""
            if len(raw) > 2 * MAX_ITEMS and (excess := _excess(raw, "span", Span, ("attributes", "events", "links"))):
                reject(excess)
                continue
            events = span.events
            code, message = 0, ""
            if span.HasField("status"):
                status = span.status
                code, message = status.code, status.message
            # By position: half the price of keywords, 200,000 times a second.
            accept(
                SpanEvent(
                    tenant,
                    received_ns,
                    resource,
                    scope,
                    raw,
                    trace_id,
                    span_id,
                    parent_id,
                    span.name,
                    span.kind,
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                    code,
                    message,
                    RawAttributes(span.attributes),
                    tuple(events) if events else (),
                )
            )
    return decoded


def _parsed_spans(payload: bytes, pause: Callable[[], None]) -> Iterator[Any]:
    """The spans of every scope of a request, parsed; nothing where one of them is not valid."""
    try:
        ExportTraceServiceRequest.FromString(payload)
        pause()
        request = ParsedTracesRequest.FromString(payload)
    except ParseError:
        return
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            yield scope.spans


def decode_logs(payload: bytes, tenant: str, received_ns: int) -> Decoded[LogEvent]:
    """Records of an encoded `ExportLogsServiceRequest`; see `decode_traces`.

    Ids may be absent (empty or zero); of a wrong length they reject the record.
    """
    decoded: Decoded[LogEvent] = Decoded()
    reject = decoded.rejected.append
    for resource, scope, records, fault in _records(_LOGS, payload):
        if fault is not None:
            decoded.rejected += [fault] * len(records)
            continue
        for raw in records:
            try:
                LogRecord.FromString(raw)
                record = LazyLogRecord.FromString(raw)
            except ParseError:
                reject(_unreadable(raw, "log record", LogRecord.DESCRIPTOR))
                continue
            trace_id = record.trace_id
            span_id = record.span_id
            if len(trace_id) not in {0, 16} or len(span_id) not in {0, 8}:
                reject(_bad_ids("log record", trace_id or _NO_TRACE, span_id or _NO_SPAN))
                continue
            if len(raw) > 2 * MAX_ITEMS and (excess := _excess(raw, "log record", LogRecord, ("attributes",))):
                reject(excess)
                continue
            attributes = RawAttributes(record.attributes)
            name = record.event_name or attributes.get("event.name")
            decoded.events.append(
                LogEvent(
                    tenant=tenant,
                    received_ns=received_ns,
                    resource=resource,
                    scope=scope,
                    raw=raw,
                    trace_id=b"" if trace_id == _NO_TRACE else trace_id,
                    span_id=b"" if span_id == _NO_SPAN else span_id,
                    time_ns=record.time_unix_nano or record.observed_time_unix_nano or received_ns,
                    name=name if isinstance(name, str) else "",
                    severity=record.severity_number,
                    body=decode_value(record.body),
                    attributes=attributes,
                )
            )
    return decoded


def count_metric_points(payload: bytes) -> int:
    """Data points of an encoded `ExportMetricsServiceRequest`, which is checked to its last attribute.

    Raises:
        DecodeError: the bytes are no such request.
    """
    try:
        request = ExportMetricsServiceRequest.FromString(payload)
    except ParseError:
        raise _no_request(payload, ExportMetricsServiceRequest.DESCRIPTOR) from None
    points = 0
    for resource_metrics in request.resource_metrics:
        for scope_metrics in resource_metrics.scope_metrics:
            for metric in scope_metrics.metrics:
                data = metric.WhichOneof("data")
                if data is not None:
                    points += len(getattr(metric, data).data_points)
    return points


def decode_metrics(payload: bytes, tenant: str, received_ns: int) -> list[MetricPoint]:
    """What an encoded `ExportMetricsServiceRequest` counts, in its own order: sums that only grow, sums of histograms.

    Gauges and summaries, points without a value or without a known temporality
    count nothing and are left out: the request goes on as it came, whatever is read from it.

    Raises:
        DecodeError: the bytes are no such request.
    """
    try:
        request = ExportMetricsServiceRequest.FromString(payload)
    except ParseError:
        raise _no_request(payload, ExportMetricsServiceRequest.DESCRIPTOR) from None
    points: list[MetricPoint] = []
    for resource_metrics in request.resource_metrics:
        told = resource_metrics.resource.attributes
        resource = Resource(PlainAttributes({pair.key: plain_value(pair.value) for pair in told}))
        for scope_metrics in resource_metrics.scope_metrics:
            scope = Scope(scope_metrics.scope.name, scope_metrics.scope.version)
            for metric in scope_metrics.metrics:
                which = metric.WhichOneof("data")
                if which not in _COUNTING:
                    continue
                data = getattr(metric, which)
                temporality = data.aggregation_temporality
                if temporality not in _TEMPORALITIES or (which == "sum" and not data.is_monotonic):
                    continue
                for point in data.data_points:
                    said = PlainAttributes({pair.key: plain_value(pair.value) for pair in point.attributes})
                    value = _value_of(point, which)
                    if value is None or point.flags & DataPointFlags.DATA_POINT_FLAGS_NO_RECORDED_VALUE_MASK:
                        continue
                    points.append(
                        MetricPoint(
                            tenant=tenant,
                            received_ns=received_ns,
                            resource=resource,
                            scope=scope,
                            name=metric.name,
                            start_ns=point.start_time_unix_nano,
                            time_ns=point.time_unix_nano or received_ns,
                            value=value,
                            cumulative=temporality == AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE,
                            attributes=said,
                        )
                    )
    return points


_COUNTING: Final = frozenset({"sum", "histogram", "exponential_histogram"})
_TEMPORALITIES: Final = frozenset(
    {
        AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA,
        AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE,
    }
)


def _value_of(point: Any, which: str) -> int | float | None:  # noqa: ANN401 - NumberDataPoint or one of two histograms
    if which == "sum":
        kind = point.WhichOneof("value")
        value: int | float | None = None if kind is None else getattr(point, kind)
    else:
        value = point.sum if point.HasField("sum") else None
    return value if value is not None and math.isfinite(value) else None


def span_events(raw_events: Iterable[bytes]) -> list[TimedEvent]:
    """The events of a span (`SpanEvent.raw_events`), in the sender's order."""
    events = []
    for raw in raw_events:
        event = LazySpanEvent.FromString(raw)
        events.append(TimedEvent(event.name, event.time_unix_nano, RawAttributes(event.attributes)))
    return events


class _Layout(NamedTuple):
    """Where the records are: the request type and the field names on the way down."""

    request: Any  # message classes made at run time have no static type
    resources: str
    scopes: str
    records: str


_TRACES: Final = _Layout(TracesRequest, "resource_spans", "scope_spans", "spans")
_LOGS: Final = _Layout(LogsRequest, "resource_logs", "scope_logs", "log_records")


def _records(layout: _Layout, payload: bytes) -> Iterator[tuple[Resource, Scope, list[bytes], Rejected | None]]:
    """Every scope of a request with its raw records; the fault is there when its envelope cannot be used."""
    try:
        request = layout.request.FromString(payload)
    except ParseError:
        raise _no_request(payload, layout.request.DESCRIPTOR) from None
    for resource_message in getattr(request, layout.resources):
        scope_messages = list(getattr(resource_message, layout.scopes))
        # What is left without the records is the envelope, with fields that nobody knows yet.
        resource_message.ClearField(layout.scopes)
        resource, resource_fault = _resource(resource_message.SerializeToString())
        for scope_message in scope_messages:
            records = list(getattr(scope_message, layout.records))
            scope_message.ClearField(layout.records)
            scope, scope_fault = _scope(scope_message.SerializeToString())
            yield resource, scope, records, resource_fault or scope_fault


def _read_resource(envelope: bytes) -> tuple[Resource, Rejected | None]:
    try:
        ResourceSpans.FromString(envelope)  # ResourceLogs and ResourceMetrics have the same layout
    except ParseError:
        return Resource(), _unreadable(envelope, "resource", ResourceSpans.DESCRIPTOR)
    attributes = LazyResourceSpans.FromString(envelope).resource.attributes
    return Resource(RawAttributes(dict(attributes)), envelope), None


def _read_scope(envelope: bytes) -> tuple[Scope, Rejected | None]:
    try:
        ScopeSpans.FromString(envelope)
    except ParseError:
        return Scope(), _unreadable(envelope, "scope", ScopeSpans.DESCRIPTOR)
    scope = LazyScopeSpans.FromString(envelope).scope
    return (
        Scope(scope.name.decode(), scope.version.decode(), RawAttributes(dict(scope.attributes)), envelope),
        None,
    )


_cached_resource = lru_cache(maxsize=2048)(_read_resource)
_cached_scope = lru_cache(maxsize=2048)(_read_scope)


def _resource(envelope: bytes) -> tuple[Resource, Rejected | None]:
    return (_cached_resource if len(envelope) <= _CACHED_ENVELOPE_BYTES else _read_resource)(envelope)


def _scope(envelope: bytes) -> tuple[Scope, Rejected | None]:
    return (_cached_scope if len(envelope) <= _CACHED_ENVELOPE_BYTES else _read_scope)(envelope)


def _bad_ids(what: str, trace_id: bytes, span_id: bytes) -> Rejected:
    if len(trace_id) != 16:
        return Rejected("invalid_trace_id", f"{what}: trace_id has {len(trace_id)} bytes, not 16")
    if len(span_id) != 8:
        return Rejected("invalid_span_id", f"{what}: span_id has {len(span_id)} bytes, not 8")
    if trace_id == _NO_TRACE:
        return Rejected("invalid_trace_id", f"{what}: trace_id is all zero")
    return Rejected("invalid_span_id", f"{what}: span_id is all zero")


def _excess(raw: bytes, what: str, kind: type[Span | LogRecord], fields: tuple[str, ...]) -> Rejected | None:
    if len(raw) > MAX_RECORD_BYTES:
        return Rejected("too_large", f"{what}: {len(raw)} bytes, more than {MAX_RECORD_BYTES}")
    record = kind.FromString(raw)
    for name in fields:
        count = len(getattr(record, name))
        if count > MAX_ITEMS:
            return Rejected(f"too_many_{name}", f"{what}: {count} {name}, more than {MAX_ITEMS}")
    return None


def _unreadable(raw: bytes, what: str, descriptor: Descriptor) -> Rejected:
    fault = find_fault(raw, descriptor)
    return Rejected(fault.reason, f"{what}: {fault.message}")


def _no_request(payload: bytes, descriptor: Descriptor) -> DecodeError:
    fault = find_fault(payload, descriptor)
    return DecodeError(
        f"the body ({len(payload)} bytes) is no {descriptor.name.removeprefix('Split')}: {fault.message}"
    )
