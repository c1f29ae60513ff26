"""Dialect `qwen_code`: Qwen Code's log events, shaped like Gemini CLI's; newer versions send spans too.

Records carry no trace id: the session makes the run. A command that fails is a
success to it, so its loops show only in repeated arguments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from otel_cost.core.normalise import Dialect, register
from otel_cost.core.normalise._gemini import read_event
from otel_cost.core.normalise.semconv import read_span as read_plain_span

if TYPE_CHECKING:
    from otel_cost.core.model.event import LogEvent, SpanEvent
    from otel_cost.core.model.step import Step

_NAME: Final = "qwen_code"


def read_span(span: SpanEvent) -> Step | None:
    """Its spans follow the conventions."""
    return read_plain_span(span, dialect=_NAME)


def read_log(log: LogEvent) -> Step | None:
    """Answers, failures and tool calls."""
    return read_event(log, _NAME, log.name.removeprefix("qwen-code."))


register(
    Dialect(
        name=_NAME,
        scopes=("qwen-code",),
        keys=("qwen-code.",),
        span=read_span,
        log=read_log,
    )
)
