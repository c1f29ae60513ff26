"""Spans and log records for the tests of dialects, and the calls they come to."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.trace.v1.trace_pb2 import Span

from otel_cost.core.assemble.runs import Caps, Runs
from otel_cost.core.model.attributes import PlainAttributes
from otel_cost.core.model.charge import Charge
from otel_cost.core.model.event import LogEvent, Resource, Scope, SpanEvent
from otel_cost.core.model.vocabulary import MODEL_KINDS, Status
from otel_cost.core.normalise import normalise_log, normalise_span

if TYPE_CHECKING:
    from collections.abc import Iterable

    from otel_cost.core.model.call import Call
    from otel_cost.core.model.step import Step

TRACE = b"t" * 16
MS = 1_000_000
_ids = itertools.count(1)


def span(
    scope: str,
    name: str,
    attributes: dict[str, Any] | None = None,
    *,
    under: SpanEvent | None = None,
    trace: bytes = TRACE,
    at_ms: int = 1_000,
    for_ms: int = 10,
    error: str | None = None,
    resource: dict[str, Any] | None = None,
    events: Iterable[tuple[str, dict[str, str]]] = (),
) -> SpanEvent:
    return SpanEvent(
        tenant="default",
        received_ns=0,
        resource=Resource(PlainAttributes(resource or {})),
        scope=Scope(scope),
        raw=b"",
        trace_id=under.trace_id if under is not None else trace,
        span_id=next(_ids).to_bytes(8, "big"),
        parent_id=b"" if under is None else under.span_id,
        name=name,
        kind=1,
        start_ns=at_ms * MS,
        end_ns=(at_ms + for_ms) * MS,
        status_code=0 if error is None else 2,
        status_message=error or "",
        attributes=PlainAttributes(attributes or {}),
        raw_events=[_event(*event) for event in events],
    )


def _event(name: str, attributes: dict[str, str]) -> bytes:
    event = Span.Event(name=name)
    for key, value in attributes.items():
        event.attributes.add(key=key).value.string_value = value
    return event.SerializeToString()


def log(
    scope: str, name: str, attributes: dict[str, Any], *, within: SpanEvent | None = None, at_ms: int = 1_010
) -> LogEvent:
    return LogEvent(
        tenant="default",
        received_ns=0,
        resource=Resource(),
        scope=Scope(scope),
        raw=b"",
        trace_id=b"" if within is None else within.trace_id,
        span_id=b"" if within is None else within.span_id,
        time_ns=at_ms * MS,
        name=name,
        severity=9,
        body=None,
        attributes=PlainAttributes(attributes),
    )


def step_of(event: SpanEvent | LogEvent) -> Step:
    """The step of an event that must be one."""
    step = normalise_span(event) if isinstance(event, SpanEvent) else normalise_log(event)
    assert step is not None
    return step


def calls_of(*events: SpanEvent | LogEvent) -> list[Call]:
    """What the events come to, by start; the same backwards, or the test fails."""
    forwards, backwards = _calls(events), _calls(events[::-1])
    assert [_shown(call) for call in forwards] == [_shown(call) for call in backwards]
    return forwards


def _calls(events: Iterable[SpanEvent | LogEvent]) -> list[Call]:
    runs = Runs(lambda step: Charge(Status.UNPRICED, usage=step.usage), Caps())
    for now, event in enumerate(events):
        step = normalise_span(event) if isinstance(event, SpanEvent) else normalise_log(event)
        if isinstance(event, SpanEvent):
            run = runs.take(event.tenant, event.trace_id, step, 0, now)
            run.add_span(event.trace_id, event.span_id, event.parent_id, step)
            if step is not None and step.kind in MODEL_KINDS:
                runs.twin(run, step)
        elif step is not None:
            runs.take(event.tenant, event.trace_id, step, 0, now).add_step(step)
    calls: list[Call] = []
    for run in runs:
        run.finish()
        calls += run.calls.values()
    return sorted(calls, key=_shown)


def _shown(call: Call) -> tuple[Any, ...]:
    step = call.step
    usage = step.usage
    return (step.start_ns, call.kind, step.tool or "", (usage.input, usage.output) if usage else (0, 0), call.failed)
