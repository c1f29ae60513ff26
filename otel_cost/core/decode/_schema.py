"""Lazy twins of the OTLP messages: the same wire format, with the parts we rarely read left as bytes.

Derived at import from the official descriptors, in a private pool, so that a
new field of OTLP stays an unknown field here (and is kept) instead of a
difference to maintain. Left as bytes are records inside their scope, attributes
inside anything, events and links inside a span; strings of envelopes are bytes
too, because upb refuses a whole request for one bad UTF-8 string.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from google.protobuf.descriptor import Descriptor
    from google.protobuf.message import Message

_Field = descriptor_pb2.FieldDescriptorProto
_PACKAGE: Final = "otel_cost.lazy"


def _derive(
    source: Descriptor, fields: Collection[str], *, as_bytes: Collection[str] = (), as_messages: Mapping[str, str] = {}
) -> descriptor_pb2.DescriptorProto:
    """The message `source` with only `fields`; `as_messages` names the lazy twin that a field's type becomes."""
    official = descriptor_pb2.DescriptorProto()
    source.CopyToProto(official)
    twin = descriptor_pb2.DescriptorProto(name=source.name)
    missing = set(fields)
    for field in official.field:
        if field.name not in missing:
            continue
        missing.remove(field.name)
        field.ClearField("oneof_index")
        if field.name in as_bytes:
            field.type = _Field.TYPE_BYTES
            field.ClearField("type_name")
        elif field.name in as_messages:
            field.type_name = f".{_PACKAGE}.{as_messages[field.name]}"
        elif field.type == _Field.TYPE_ENUM:  # same encoding, and a value of a later OTLP stays what it is
            field.type = _Field.TYPE_INT32
            field.ClearField("type_name")
        twin.field.append(field)
    if missing:
        raise TypeError(f"{source.full_name} has no field {sorted(missing)}: unknown version of opentelemetry-proto")
    return twin


def _build() -> dict[str, type[Message]]:
    span_event: Final = Span.DESCRIPTOR.nested_types_by_name["Event"]
    kept = ("name", "version", "attributes")
    file = descriptor_pb2.FileDescriptorProto(name="otel_cost/lazy.proto", package=_PACKAGE, syntax="proto3")
    file.message_type.extend(
        [
            _derive(Resource.DESCRIPTOR, ["attributes"], as_bytes=["attributes"]),
            _derive(InstrumentationScope.DESCRIPTOR, kept, as_bytes=kept),
            _derive(
                ExportTraceServiceRequest.DESCRIPTOR,
                ["resource_spans"],
                as_messages={"resource_spans": "ResourceSpans"},
            ),
            _derive(
                ResourceSpans.DESCRIPTOR,
                ["resource", "scope_spans"],
                as_messages={"resource": "Resource", "scope_spans": "ScopeSpans"},
            ),
            _derive(
                ScopeSpans.DESCRIPTOR,
                ["scope", "spans"],
                as_bytes=["spans"],
                as_messages={"scope": "InstrumentationScope"},
            ),
            _derive(
                ExportLogsServiceRequest.DESCRIPTOR, ["resource_logs"], as_messages={"resource_logs": "ResourceLogs"}
            ),
            _derive(
                ResourceLogs.DESCRIPTOR,
                ["resource", "scope_logs"],
                as_messages={"resource": "Resource", "scope_logs": "ScopeLogs"},
            ),
            _derive(
                ScopeLogs.DESCRIPTOR,
                ["scope", "log_records"],
                as_bytes=["log_records"],
                as_messages={"scope": "InstrumentationScope"},
            ),
            _derive(Status.DESCRIPTOR, ["message", "code"]),
            _derive(
                Span.DESCRIPTOR,
                [
                    "trace_id",
                    "span_id",
                    "parent_span_id",
                    "name",
                    "kind",
                    "start_time_unix_nano",
                    "end_time_unix_nano",
                    "attributes",
                    "events",
                    "links",
                    "status",
                ],
                as_bytes=["attributes", "events", "links"],
                as_messages={"status": "Status"},
            ),
            _derive(span_event, ["time_unix_nano", "name", "attributes"], as_bytes=["attributes"]),
            _derive(
                LogRecord.DESCRIPTOR,
                [
                    "time_unix_nano",
                    "observed_time_unix_nano",
                    "severity_number",
                    "body",
                    "attributes",
                    "trace_id",
                    "span_id",
                    "event_name",
                ],
                as_bytes=["body", "attributes"],
            ),
        ]
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        message.name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{message.name}"))
        for message in file.message_type
    }


# Message classes made at run time have no static types; every use is inside this package.
_CLASSES: Final[dict[str, Any]] = _build()
TracesRequest: Final = _CLASSES["ExportTraceServiceRequest"]
LogsRequest: Final = _CLASSES["ExportLogsServiceRequest"]
LazyResourceSpans: Final = _CLASSES["ResourceSpans"]
LazyScopeSpans: Final = _CLASSES["ScopeSpans"]
LazySpan: Final = _CLASSES["Span"]
LazySpanEvent: Final = _CLASSES["Event"]
LazyLogRecord: Final = _CLASSES["LogRecord"]
