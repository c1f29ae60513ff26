"""Feeding: one export request of a file into an engine, in virtual time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_cost.core.decode.otlp import decode_logs, decode_metrics, decode_traces
from otel_cost.core.model.effects import Signal
from otel_cost.core.model.event import DEFAULT_TENANT
from otel_cost.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from otel_cost.core.decode.otlp import Decoded
    from otel_cost.core.model.event import LogEvent, MetricPoint, SpanEvent
    from otel_cost.edge.otlp_files import Request
    from otel_cost.pipeline import Engine


class RejectedError(DecodeError):
    """A request of which nothing is left: every record in it was rejected, and it was said why."""


def feed(engine: Engine, request: Request, position: int, now_ns: int, say: Callable[[str], None]) -> int:
    """Feed one request in virtual time: it is received when its last event has ended. That time.

    Raises:
        DecodeError: it is no OTLP.
        RejectedError: nothing of it is left; what follows it in its file can be fed all the same.
    """
    events, now_ns = received(request, now_ns, say)
    if request.signal is Signal.METRICS:
        engine.forward(request.payload, position)
    engine.feed(request.signal, events, position, now_ns)
    return now_ns


def received(
    request: Request, now_ns: int, say: Callable[[str], None]
) -> tuple[Sequence[SpanEvent | LogEvent | MetricPoint], int]:
    """The events of one request and when they are there; `say` is told what was rejected.

    Raises:
        DecodeError, RejectedError: as with `feed`.
    """
    if request.signal is Signal.METRICS:
        points = decode_metrics(request.payload, DEFAULT_TENANT, 0)
        return points, max([now_ns, *(point.time_ns for point in points)])
    decoded: Decoded[SpanEvent] | Decoded[LogEvent]
    if request.signal is Signal.TRACES:
        decoded = decode_traces(request.payload, DEFAULT_TENANT, 0)
        ends = [event.end_ns for event in decoded.events]
    else:
        decoded = decode_logs(request.payload, DEFAULT_TENANT, 0)
        ends = [event.time_ns for event in decoded.events]
    for rejected in decoded.rejected:
        say(f"{request.origin}: {rejected.reason}: {rejected.message}")
    if decoded.rejected and not decoded.events:
        raise RejectedError(f"{request.origin}: every record was rejected")
    return decoded.events, max([now_ns, *ends])
