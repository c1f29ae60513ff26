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


def _map_entry() -> descriptor_pb2.DescriptorProto:
    """`map<string, bytes>`, as which attributes are read."""
    entry = descriptor_pb2.DescriptorProto(name="AttributesEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=_Field.TYPE_STRING, label=_Field.LABEL_OPTIONAL)
    entry.field.add(name="value", number=2, type=_Field.TYPE_BYTES, label=_Field.LABEL_OPTIONAL)
    return entry


_ENTRY: Final = _map_entry()


def _derive(
    source: Descriptor,
    fields: Collection[str],
    *,
    name: str = "",
    as_bytes: Collection[str] = (),
    as_messages: Mapping[str, str] = {},
) -> descriptor_pb2.DescriptorProto:
    """The message `source` with only `fields`; `as_messages` names the lazy twin that a field's type becomes.

    `attributes` is a map everywhere. `name`: of a second twin of the same message.
    """
    official = descriptor_pb2.DescriptorProto()
    source.CopyToProto(official)
    twin = descriptor_pb2.DescriptorProto(name=name or source.name)
    missing = set(fields)
    for field in official.field:
        if field.name not in missing:
            continue
        missing.remove(field.name)
        field.ClearField("oneof_index")
        if field.name in as_bytes:
            field.type = _Field.TYPE_BYTES
            field.ClearField("type_name")
        elif field.name == "attributes":
            twin.nested_type.append(_ENTRY)
            field.type_name = f".{_PACKAGE}.{twin.name}.{_ENTRY.name}"
        elif field.name in as_messages:
            field.type_name = f".{_PACKAGE}.{as_messages[field.name]}"
        elif field.type == _Field.TYPE_ENUM:  # same encoding, and a value of a later OTLP stays what it is
            field.type = _Field.TYPE_INT32
            field.ClearField("type_name")
        twin.field.append(field)
    if missing:
        raise TypeError(f"{source.full_name} has no field {sorted(missing)}: unknown version of opentelemetry-proto")
    return twin


def _path(
    request: Descriptor, resource: Descriptor, scope: Descriptor, record: str | None
) -> list[descriptor_pb2.DescriptorProto]:
    """An export request with nothing but the way to its records, which are bytes, or messages of the twin `record`."""
    step = "Parsed" if record else "Split"
    resources, scopes, records = (
        next(field.name for field in of.fields if field.message_type is below)
        for of, below in ((request, resource), (resource, scope), (scope, _record_of(scope)))
    )
    return [
        _derive(request, [resources], name=step + request.name, as_messages={resources: step + resource.name}),
        _derive(resource, [scopes], name=step + resource.name, as_messages={scopes: step + scope.name}),
        _derive(
            scope,
            [records],
            name=step + scope.name,
            as_bytes=[] if record else [records],
            as_messages={records: record} if record else {},
        ),
    ]


def _record_of(scope: Descriptor) -> Descriptor:
    return LogRecord.DESCRIPTOR if scope is ScopeLogs.DESCRIPTOR else Span.DESCRIPTOR


def _build() -> dict[str, type[Message]]:
    span_event: Final = Span.DESCRIPTOR.nested_types_by_name["Event"]
    words = ("name", "version")
    file = descriptor_pb2.FileDescriptorProto(name="otel_cost/lazy.proto", package=_PACKAGE, syntax="proto3")
    file.message_type.extend(
        [
            # Requests taken apart: what is not on the way down to the records stays an unknown field of its envelope.
            *_path(ExportTraceServiceRequest.DESCRIPTOR, ResourceSpans.DESCRIPTOR, ScopeSpans.DESCRIPTOR, None),
            *_path(ExportLogsServiceRequest.DESCRIPTOR, ResourceLogs.DESCRIPTOR, ScopeLogs.DESCRIPTOR, None),
            # The same with its spans parsed: cheaper than one by one, for a request in which all are valid.
            *_path(ExportTraceServiceRequest.DESCRIPTOR, ResourceSpans.DESCRIPTOR, ScopeSpans.DESCRIPTOR, "Span"),
            # Envelopes.
            _derive(Resource.DESCRIPTOR, ["attributes"]),
            _derive(InstrumentationScope.DESCRIPTOR, [*words, "attributes"], as_bytes=words),
            _derive(ResourceSpans.DESCRIPTOR, ["resource"], as_messages={"resource": "Resource"}),
            _derive(ScopeSpans.DESCRIPTOR, ["scope"], as_messages={"scope": "InstrumentationScope"}),
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
                as_bytes=["events", "links"],
                as_messages={"status": "Status"},
            ),
            _derive(span_event, ["time_unix_nano", "name", "attributes"]),
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
                as_bytes=["body"],
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
TracesRequest: Final = _CLASSES["SplitExportTraceServiceRequest"]
ParsedTracesRequest: Final = _CLASSES["ParsedExportTraceServiceRequest"]
LogsRequest: Final = _CLASSES["SplitExportLogsServiceRequest"]
LazyResourceSpans: Final = _CLASSES["ResourceSpans"]
LazyScopeSpans: Final = _CLASSES["ScopeSpans"]
LazySpan: Final = _CLASSES["Span"]
LazySpanEvent: Final = _CLASSES["Event"]
LazyLogRecord: Final = _CLASSES["LogRecord"]
