"""Export requests as OTLP/JSON text, as the Collector writes it: proto3 JSON, with ids in hex and enums as numbers."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_cost.core.model.effects import Signal

if TYPE_CHECKING:
    from google.protobuf.message import Message

REQUESTS: Final[dict[Signal, type[Message]]] = {
    Signal.TRACES: ExportTraceServiceRequest,
    Signal.LOGS: ExportLogsServiceRequest,
    Signal.METRICS: ExportMetricsServiceRequest,
}
_IDS: Final = frozenset({"traceId", "spanId", "parentSpanId"})


def request_to_json(signal: Signal, payload: bytes) -> str:
    """One line of JSON without its newline. Unknown fields have no name and stay behind.

    Raises:
        google.protobuf.message.DecodeError: the bytes are no such request.
    """
    message = MessageToDict(REQUESTS[signal].FromString(payload), use_integers_for_enums=True)
    _ids_to_hex(message)
    return json.dumps(message, ensure_ascii=False, separators=(",", ":"))


def _ids_to_hex(node: Any) -> None:  # whatever JSON holds  # noqa: ANN401
    if isinstance(node, list):
        for item in node:
            _ids_to_hex(item)
    elif isinstance(node, dict):
        for key, value in node.items():
            # Only message fields have these names: an attribute's key is a value here, under "key".
            if key in _IDS and isinstance(value, str):
                node[key] = base64.b64decode(value).hex()
            else:
                _ids_to_hex(value)
