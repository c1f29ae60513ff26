"""Trace: which trace a step belongs to, where the program has OpenTelemetry; joins what is told here to its spans.

Only the trace is told, not the span: each step would hang on another one that the
service does not know yet, and its streak would be lost until it does.
"""

from __future__ import annotations

import sys
from typing import Any


def current_trace() -> str | None:
    """The id of the current trace; None without OpenTelemetry or outside a span."""
    if "opentelemetry.trace" not in sys.modules:
        return None  # nobody can have started a span
    from opentelemetry import trace  # noqa: PLC0415  # no dependency

    return trace_of(trace.get_current_span())


def trace_of(span: Any) -> str | None:  # noqa: ANN401  # opentelemetry.trace.Span, which may be absent
    """The id of a span's trace in hex; None for none."""
    context = span.get_span_context() if span is not None else None
    return f"{context.trace_id:032x}" if context is not None and context.is_valid else None
