"""Dialect `google_adk`: Google's Agent Development Kit: its own names around `gen_ai.*`.

Its output count is the candidates' alone: thinking is outside of it, and told only in
the JSON of the model's response, which may be switched off. It names itself as the provider.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from otel_cost.core.model.attributes import text
from otel_cost.core.model.vocabulary import MODEL_KINDS, Basis, Kind
from otel_cost.core.normalise import Dialect, register
from otel_cost.core.normalise._read import as_text, opened_map
from otel_cost.core.normalise._usage import answered, gather, settle, whole
from otel_cost.core.normalise.semconv import COUNT_FIELDS, read_span

if TYPE_CHECKING:
    from otel_cost.core.model.event import SpanEvent
    from otel_cost.core.model.step import Step

_SCOPE: Final = "gcp.vertex.agent"
_OWN: Final = f"{_SCOPE}."
_AGENT: Final = re.compile(r"(?:agent_run \[|invoke_agent )(.+?)\]?")


def _span(span: SpanEvent) -> Step | None:
    attributes = span.attributes
    kind: Kind | None = None
    operation: str | None = None
    named = _AGENT.fullmatch(span.name)
    if span.name == "call_llm":
        kind, operation = Kind.INFERENCE, "generate_content"
    elif named is not None:
        kind, operation = Kind.AGENT, "invoke_agent"
    elif not span.parent_id and span.name == "invocation":
        kind, operation = Kind.WORKFLOW, "invoke_workflow"
    step = read_span(span, dialect="google_adk", convention=Basis.INCLUSIVE, kind=kind, operation=operation)
    if step is None:
        return None
    step.session = step.session or text(attributes, f"{_OWN}session_id")
    if step.provider == _SCOPE:
        step.provider = None
    if kind is Kind.AGENT and named is not None:
        step.agent = step.agent or named[1]
    elif step.kind is Kind.TOOL:
        step.arguments = step.arguments or as_text(attributes.get(f"{_OWN}tool_call_args"))
        step.result = step.result or as_text(attributes.get(f"{_OWN}tool_response"))
    elif step.kind in MODEL_KINDS:
        _details(step, span)
    return step


def _details(step: Step, span: SpanEvent) -> None:
    """The model's own counts, where its response is told and agrees with the span."""
    usage = opened_map(span.attributes.get(f"{_OWN}llm_response")).get("usage_metadata")
    if not isinstance(usage, dict):
        return
    told, _ = gather(span.attributes, COUNT_FIELDS)
    own = answered(usage)
    if any(name in told and whole(told[name]) != whole(own.told.get(name)) for name in ("input", "output")):
        return
    step.usage, step.basis, step.problem = settle(
        own.told, convention=own.convention, provider=step.provider, model=step.model, reasoning_outside=True
    )


register(Dialect(name="google_adk", scopes=(_SCOPE,), keys=(_OWN,), rank=20, span=_span))
