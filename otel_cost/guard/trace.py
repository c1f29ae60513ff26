"""Trace: which span a step belongs to, where the program has OpenTelemetry; joins what is told here to its spans."""

from __future__ import annotations

import sys
from typing import Any


def traceparent() -> str | None:
    """The current span as W3C Trace Context; None without OpenTelemetry or outside a span."""
    if "opentelemetry.trace" not in sys.modules:
        return None  # nobody can have started a span
    from opentelemetry import trace  # noqa: PLC0415  # no dependency

    return written(trace.get_current_span())


def written(span: Any) -> str | None:  # noqa: ANN401  # opentelemetry.trace.Span, which may be absent
    """A span as W3C Trace Context; None for none."""
    context = span.get_span_context() if span is not None else None
    if context is None or not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"
