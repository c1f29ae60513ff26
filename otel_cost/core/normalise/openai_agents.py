"""Dialect `openai_agents`: the OpenAI Agents SDK as told by Traceloop's and OpenTelemetry's packages of one name.

Both share a scope name. Failed calls name no model; Traceloop's name no
requested model at all. Turns and tasks arrive as spans literally named `unknown`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_cost.core.model.attributes import text
from otel_cost.core.model.vocabulary import MODEL_KINDS, Kind
from otel_cost.core.normalise import Dialect, register
from otel_cost.core.normalise._usage import unless_counted
from otel_cost.core.normalise.openllmetry import read

if TYPE_CHECKING:
    from otel_cost.core.model.event import SpanEvent
    from otel_cost.core.model.step import Step


def _span(span: SpanEvent) -> Step | None:
    if text(span.attributes, "gen_ai.operation.name") in {"unknown", "handoff", "guardrail"} or span.name == "unknown":
        return None
    step = read(span, dialect="openai_agents")
    if step is not None and step.kind is Kind.AGENT and step.agent is None:
        step.kind = Kind.WORKFLOW  # the run around its agents: it bears no agent's name, or a constant
    if step is not None and step.kind in MODEL_KINDS:
        unless_counted(step)
    return step


register(Dialect(name="openai_agents", scopes=("opentelemetry.instrumentation.openai_agents",), rank=20, span=_span))
