"""Dialect `google_genai`: OpenTelemetry's instrumentation of Google's SDK; inclusive, output holds thinking.

With automatic function calling one span covers several requests and tells the
usage of the last. Nothing on the span says so: its tool spans below it do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_cost.core.model.vocabulary import Basis, Kind
from otel_cost.core.normalise import Dialect, register
from otel_cost.core.normalise.semconv import read_span

if TYPE_CHECKING:
    from otel_cost.core.model.event import SpanEvent
    from otel_cost.core.model.step import Step


def _span(span: SpanEvent) -> Step | None:
    step = read_span(span, dialect="google_genai", convention=Basis.INCLUSIVE)
    if step is not None:
        step.calls_tools = step.kind is Kind.INFERENCE
    return step


register(Dialect(name="google_genai", scopes=("opentelemetry.instrumentation.google_genai",), rank=20, span=_span))
