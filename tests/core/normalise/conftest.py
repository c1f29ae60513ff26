"""Spans and log records made by hand, for tests of dialects."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from otel_cost.core.model.attributes import PlainAttributes
from otel_cost.core.model.event import LogEvent, Resource, Scope, SpanEvent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from otel_cost.core.model.attributes import Value

sys.path.insert(0, str(Path(__file__).parent))  # agents_helper, for tests of whole runs


class SpanOf(Protocol):
    def __call__(
        self,
        attributes: Mapping[str, Value],
        *,
        scope: str = "",
        name: str = "",
        error: str | None = None,
        events: Sequence[tuple[str, Mapping[str, str]]] = (),
        resource: Mapping[str, Value] | None = None,
    ) -> SpanEvent: ...


class LogOf(Protocol):
    def __call__(self, attributes: Mapping[str, Value], *, name: str, scope: str = "") -> LogEvent: ...


@pytest.fixture
def span_of() -> SpanOf:
    """A span with these attributes; `error` is its status message and makes it fail."""

    def make(
        attributes: Mapping[str, Value],
        *,
        scope: str = "",
        name: str = "",
        error: str | None = None,
        events: Sequence[tuple[str, Mapping[str, str]]] = (),
        resource: Mapping[str, Value] | None = None,
    ) -> SpanEvent:
        return SpanEvent(
            tenant="default",
            received_ns=0,
            resource=Resource(PlainAttributes(resource or {"service.name": "coding-agent"})),
            scope=Scope(scope),
            raw=b"",
            trace_id=bytes(15) + b"\1",
            span_id=bytes(7) + b"\2",
            parent_id=b"",
            name=name,
            kind=3,
            start_ns=1_000,
            end_ns=2_000,
            status_code=0 if error is None else 2,
            status_message=error or "",
            attributes=PlainAttributes(attributes),
            raw_events=[
                Span.Event(
                    name=event,
                    attributes=[KeyValue(key=key, value=AnyValue(string_value=value)) for key, value in told.items()],
                ).SerializeToString()
                for event, told in events
            ],
        )

    return make


@pytest.fixture
def log_of() -> LogOf:
    """A log record with these attributes."""

    def make(attributes: Mapping[str, Value], *, name: str, scope: str = "") -> LogEvent:
        return LogEvent(
            tenant="default",
            received_ns=0,
            resource=Resource(),
            scope=Scope(scope),
            raw=b"",
            trace_id=bytes(15) + b"\1",
            span_id=bytes(7) + b"\2",
            time_ns=2_000,
            name=name,
            severity=9,
            body=None,
            attributes=PlainAttributes(attributes),
        )

    return make
