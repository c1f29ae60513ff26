"""Log records of coding agents: the frame of a step, and values that were sent as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from otel_cost.core.model.step import Step
from otel_cost.core.model.vocabulary import Source
from otel_cost.core.normalise._read import who_of
from otel_cost.core.normalise._usage import whole

if TYPE_CHECKING:
    from otel_cost.core.model.attributes import Value
    from otel_cost.core.model.event import LogEvent
    from otel_cost.core.model.vocabulary import Kind

_NS_PER_MS: Final = 1_000_000


def log_step(log: LogEvent, dialect: str, kind: Kind, session: str | None) -> Step:
    """The frame of what a record tells; it was written at the end of that, `duration_ms` after its start.

    A record names the span it was written in, which is rarely the span of the
    same thing: the step hangs below it and has no span of its own.
    """
    lasted = whole_ms(log.attributes.get("duration_ms"))
    return Step(
        source=Source.LOG,
        dialect=dialect,
        scope=log.scope.name,
        kind=kind,
        tenant=log.tenant,
        trace_id=log.trace_id,
        parent_id=log.span_id,
        name=log.name,
        start_ns=max(log.time_ns - lasted * _NS_PER_MS, 0),
        end_ns=log.time_ns,
        session=session,
        who=who_of(log.attributes, log.resource),
    )


def whole_ms(value: Value) -> int:
    """Milliseconds, told as a number or as text; 0 for what is neither."""
    if isinstance(value, float) and 0 < value < _MOST_MS:
        return round(value)
    told = whole(value)
    return told if told is not None and 0 < told < _MOST_MS else 0


_MOST_MS: Final = 7 * 86_400_000  # no call lasts a week


def flag_told(value: Value) -> bool | None:
    """A truth value sent as one or as text; None for anything else."""
    if isinstance(value, bool):
        return value
    return {"true": True, "false": False}.get(value.lower()) if isinstance(value, str) else None
