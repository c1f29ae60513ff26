"""Answers: what OTLP says back when a request was taken, whole or in part."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from otel_cost.core.model.effects import Signal
from otel_cost.edge.receive.refusals import short

if TYPE_CHECKING:
    from otel_cost.edge.receive.intake import Answer

    Response = ExportTraceServiceResponse | ExportLogsServiceResponse | ExportMetricsServiceResponse

_RESPONSES: Final = {
    Signal.TRACES: (ExportTraceServiceResponse, "rejected_spans"),
    Signal.LOGS: (ExportLogsServiceResponse, "rejected_log_records"),
    Signal.METRICS: (ExportMetricsServiceResponse, "rejected_data_points"),
}


def response_of(signal: Signal, answer: Answer) -> Response:
    """The export response; `partial_success` is set only when there is something to say."""
    message, field = _RESPONSES[signal]
    response: Response = message()
    if answer.rejected or answer.message:
        setattr(response.partial_success, field, answer.rejected)
        response.partial_success.error_message = short(answer.message)
    return response
