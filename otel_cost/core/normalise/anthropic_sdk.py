"""Dialect `anthropic_sdk`: the spans that Anthropic's own SDK emits; inclusive, with the cache lifetimes told."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from otel_cost.core.model.attributes import text
from otel_cost.core.model.vocabulary import Basis, Kind
from otel_cost.core.normalise import Dialect, register
from otel_cost.core.normalise._usage import whole
from otel_cost.core.normalise.semconv import read_span

if TYPE_CHECKING:
    from otel_cost.core.model.event import SpanEvent
    from otel_cost.core.model.step import Step


def _span(span: SpanEvent) -> Step | None:
    attributes = span.attributes
    if "gen_ai.operation.name" not in attributes:
        return None  # counting tokens, batches, files: requests without a charge of their own
    step = read_span(span, dialect="anthropic_sdk", convention=Basis.INCLUSIVE)
    if step is None:
        return None
    if step.kind is Kind.INFERENCE:
        if request := text(attributes, "anthropic.request.id"):
            step.hints = (f"request:{request}",)  # a gateway in between may answer with one of its own, over and over
        if reason := text(attributes, "anthropic.message.stop_reason"):
            step.finish_reasons = (reason,)
        compacted = whole(attributes.get("anthropic.usage.compaction.input_tokens"))
        if compacted and step.usage is not None:
            # Billed beside the call and left out of its counts (Anthropic's `usage.iterations`).
            written = whole(attributes.get("anthropic.usage.compaction.output_tokens")) or 0
            step.usage = replace(step.usage, input=step.usage.input + compacted, output=step.usage.output + written)
    step.session = step.session or text(attributes, "anthropic.session.id")
    return step


register(Dialect(name="anthropic_sdk", scopes=("com.anthropic.sdk.",), rank=20, span=_span))
