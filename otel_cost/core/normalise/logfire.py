"""Dialect `logfire`: Logfire's instrumentations of model SDKs and of the OpenAI Agents SDK.

Span names are templates; what a span is stands in `logfire.msg_template`. Only
`gen_ai.usage.*` counts: the JSON `usage` of turns and tasks sums it up again,
and `gen_ai.usage.raw` has the details of the same numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from otel_cost.core.model.attributes import text
from otel_cost.core.model.step import STANDARD_TERMS, Terms
from otel_cost.core.model.vocabulary import MODEL_KINDS, Basis, Kind
from otel_cost.core.normalise import Dialect, register
from otel_cost.core.normalise._read import answer_ids, as_text, dig, opened_map, reported_nano
from otel_cost.core.normalise._usage import answered, gather, settle, unless_counted, whole
from otel_cost.core.normalise.semconv import COUNT_FIELDS, read_span

if TYPE_CHECKING:
    from otel_cost.core.model.attributes import Attributes
    from otel_cost.core.model.event import SpanEvent
    from otel_cost.core.model.step import Step

_AGENTS: Final = "logfire.openai_agents"
# The beginnings of the templates of the OpenAI Agents SDK's spans.
_TEMPLATES: Final[dict[str, tuple[Kind, str]]] = {
    "Agent run": (Kind.AGENT, "invoke_agent"),
    "Function": (Kind.TOOL, "execute_tool"),
    "Responses API": (Kind.INFERENCE, "chat"),
    "Chat completion": (Kind.INFERENCE, "chat"),
    "OpenAI Agents trace": (Kind.WORKFLOW, "invoke_workflow"),
    "Task": (Kind.WORKFLOW, "invoke_workflow"),
    "Turn": (Kind.WORKFLOW, "invoke_workflow"),
}


def _span(span: SpanEvent) -> Step | None:
    if span.scope.name == _AGENTS:
        return _agents(span)
    attributes = span.attributes
    step = read_span(span, dialect="logfire")
    if step is None or step.kind not in MODEL_KINDS:
        return step
    if attributes.get("logfire.span_type") == "log":
        step.start_ns -= _duration_ns(attributes)
    elif step.usage is None and not step.failed and not (step.ids or step.output_text or step.finish_reasons):
        request = opened_map(attributes.get("request_data"))
        if request.get("stream") is True or not _ANSWERS & attributes:
            return None  # the record written at the end of the stream tells this call
    _details(step, attributes)
    return step


_ANSWERS: Final = dict.fromkeys(("response_data", "response", "gen_ai.output.messages")).keys()


def _duration_ns(attributes: Attributes) -> int:
    seconds = attributes.get("duration")
    return int(seconds * 1e9) if isinstance(seconds, float) and 0 <= seconds < _MOST_SECONDS else 0


_MOST_SECONDS: Final = 86_400


def _agents(span: SpanEvent) -> Step | None:
    attributes = span.attributes
    template = text(attributes, "logfire.msg_template") or span.name
    sort = next((sort for beginning, sort in _TEMPLATES.items() if template.startswith(beginning)), None)
    if sort is None:
        return None  # guardrails, handoffs, speech groups
    kind, operation = sort
    step = read_span(span, dialect="logfire", kind=kind, operation=operation)
    if step is None:
        return None
    step.session = step.session or text(attributes, "group_id")
    if kind is Kind.WORKFLOW:
        step.usage, step.basis, step.problem = None, Basis.UNKNOWN, None
    elif kind is Kind.AGENT:
        step.agent = text(attributes, "name") or step.agent
    elif kind is Kind.TOOL:
        step.tool = text(attributes, "name")
        step.arguments = as_text(attributes.get("input"))
        step.result = as_text(attributes.get("output"))
    else:
        unless_counted(step)
        _details(step, attributes)
    if step.failed and step.error_message is None:
        error = opened_map(attributes.get("error"))
        step.error_message = as_text(error.get("message"))
    return step


def _details(step: Step, attributes: Attributes) -> None:
    """What the provider's answer tells beside the counts: parts of usage, response id, tier served."""
    step.reported_nano = reported_nano(attributes.get("operation.cost"))
    if step.failed:
        # The model asked for is written as the one that answered before anything has.
        step.output_begun = step.usage is not None or bool(step.ids or step.finish_reasons or step.output_text)
        if not step.output_begun:
            step.requested_model, step.response_model = step.requested_model or step.response_model, None
    answer = opened_map(attributes.get("response")) or opened_map(attributes.get("response_data"))
    identity = answer.get("id")
    if isinstance(identity, str) and identity and not step.ids and "model" in answer:
        step.ids = answer_ids(identity)
    raw = opened_map(attributes.get("gen_ai.usage.raw")) or opened_map(attributes.get("usage"))
    if step.terms is STANDARD_TERMS:
        tier = answer.get("service_tier") or raw.get("service_tier")
        searches = whole(dig(raw, "server_tool_use", "web_search_requests"))
        terms = Terms(
            service_tier=tier if isinstance(tier, str) and tier else None,
            units=(("web_search", searches),) if searches else (),
        )
        step.terms = STANDARD_TERMS if terms == STANDARD_TERMS else terms
    if not raw or step.usage is None:
        return
    told, _ = gather(attributes, COUNT_FIELDS)
    detailed = answered(raw)
    inner = settle(detailed.told, convention=detailed.convention, provider=step.provider, model=step.model)
    if inner.usage is None:
        return
    counted = (whole(told.get("input")), whole(told.get("output")))
    if counted in {
        (inner.usage.input, inner.usage.output),
        (whole(detailed.told.get("input")), whole(detailed.told.get("output"))),
    }:
        step.usage, step.basis, step.problem = inner


register(Dialect(name="logfire", scopes=("logfire",), rank=25, span=_span))
