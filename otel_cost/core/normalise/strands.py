"""Dialect `strands`: Strands Agents, which names itself as the provider and keeps content in span events.

Input is inclusive. `invoke_agent` carries the sum of its `chat` spans under the same keys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_cost.core.decode.otlp import span_events
from otel_cost.core.model.attributes import text
from otel_cost.core.model.vocabulary import MODEL_KINDS, Basis, Kind
from otel_cost.core.normalise import Dialect, register
from otel_cost.core.normalise._read import as_text, opened
from otel_cost.core.normalise.semconv import OPERATIONS, message_text, read_span

if TYPE_CHECKING:
    from otel_cost.core.model.event import SpanEvent
    from otel_cost.core.model.step import Step


def _span(span: SpanEvent) -> Step | None:
    operation = text(span.attributes, "gen_ai.operation.name")
    kind = OPERATIONS.get(operation or "")
    if kind is None:
        if operation not in {"invoke_swarm", "invoke_graph"}:
            return None  # turns of its event loop, memory look-ups
        kind = Kind.WORKFLOW
    step = read_span(span, dialect="strands", convention=Basis.INCLUSIVE, kind=kind, operation=operation)
    if step is None:
        return None
    step.provider = None  # "strands-agents" is who asks, not who answers: the model's name has to do
    if step.usage is not None and not (step.usage.input or step.usage.output):
        step.usage, step.basis = None, Basis.UNKNOWN  # what it writes when the model server told none
    if kind is Kind.TOOL:
        step.failed = step.failed or span.attributes.get("gen_ai.tool.status") == "error"
        _tool_content(step, span)
    elif kind in MODEL_KINDS and span.raw_events and step.output_text is None:
        _model_content(step, span)
    return step


def _tool_content(step: Step, span: SpanEvent) -> None:
    if step.arguments is not None and step.result is not None:
        return
    for event in span_events(span.raw_events):
        if event.name == "gen_ai.tool.message" and step.arguments is None:
            step.arguments = as_text(event.attributes.get("content"))
        elif event.name == "gen_ai.choice" and step.result is None:
            step.result = as_text(event.attributes.get("message"))


def _model_content(step: Step, span: SpanEvent) -> None:
    for event in span_events(span.raw_events):
        if event.name == "gen_ai.choice":
            blocks = opened(event.attributes.get("message"))
            if isinstance(blocks, list):
                said = [block["text"] for block in blocks if isinstance(block, dict) and "text" in block]
                step.output_text = "\n".join(map(str, said)) or None
        elif event.name == "gen_ai.client.inference.operation.details":
            step.output_text = step.output_text or message_text(event.attributes.get("gen_ai.output.messages"))


register(Dialect(name="strands", scopes=("strands.",), rank=20, span=_span))
