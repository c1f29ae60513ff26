"""Dialect `botocore`: OpenTelemetry's own spans of calls to Amazon Bedrock: the conventions, counted as Bedrock does.

Bedrock counts input without its cached parts, and this instrumentation hands that on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_cost.core.model.vocabulary import Basis
from otel_cost.core.normalise import Dialect, register
from otel_cost.core.normalise.semconv import read_span

if TYPE_CHECKING:
    from otel_cost.core.model.event import SpanEvent
    from otel_cost.core.model.step import Step


def _span(span: SpanEvent) -> Step | None:
    return read_span(span, dialect="botocore", convention=Basis.EXCLUSIVE)


register(Dialect(name="botocore", scopes=("opentelemetry.instrumentation.botocore.bedrock",), rank=50, span=_span))
