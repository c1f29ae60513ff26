"""Dialect `langsmith`: LangSmith's OpenTelemetry export (LangChain, LangGraph, `traceable`).

The plain counts are `gen_ai.usage.*`, inclusive; their details stand only in the
JSON of `usage_metadata` or, in other versions, in the repr of a dictionary. The
answering model, the response id and the tier are inside the completion's JSON.
An agent is a chain that bears its `lc_agent_name`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from otel_cost.core.model.attributes import text
from otel_cost.core.model.step import Step, Terms
from otel_cost.core.model.vocabulary import Basis, Flag, Kind, Source
from otel_cost.core.normalise import Dialect, register
from otel_cost.core.normalise._read import (
    answer_ids,
    as_text,
    dig,
    failure_of,
    last_exception,
    opened,
    opened_map,
    opened_repr,
    reported_nano,
    who_of,
)
from otel_cost.core.normalise._usage import Counts, settle, whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from otel_cost.core.model.attributes import Attributes
    from otel_cost.core.model.event import SpanEvent

_NAME: Final = "langsmith"


def read_span(span: SpanEvent) -> Step | None:
    """A model call, an embedding, a tool call, an agent or a workflow; the chains in between are plumbing."""
    attributes = span.attributes
    match text(attributes, "langsmith.span.kind"):
        case "llm":
            return _call(span, Kind.INFERENCE, "chat")
        case "embedding":
            return _call(span, Kind.EMBEDDING, "embeddings")
        case "tool":
            return _tool(span)
        case "chain":
            agent = _agent(attributes)
            if agent is not None and agent == span.name:
                return _span_step(span, Kind.AGENT)
            return None if span.parent_id else _span_step(span, Kind.WORKFLOW)
    return None


def _span_step(span: SpanEvent, kind: Kind) -> Step:
    attributes = span.attributes
    who = who_of(attributes, span.resource)
    if "project" not in who and (project := text(attributes, "langsmith.trace.session_name")):
        who = {**who, "project": project}
    step = Step(
        source=Source.SPAN,
        dialect=_NAME,
        scope=span.scope.name,
        kind=kind,
        tenant=span.tenant,
        trace_id=span.trace_id,
        span_id=span.span_id,
        parent_id=span.parent_id,
        name=span.name,
        start_ns=span.start_ns,
        end_ns=span.end_ns,
        session=text(attributes, *_SESSIONS),
        agent=_agent(attributes),
        who=who,
    )
    failure = failure_of(span)
    if failure.failed:
        step.failed, step.error_type, step.error_message, step.status_code = failure
        _split_error(step)
    return step


_SESSIONS: Final = (
    "langsmith.metadata.thread_id",
    "langsmith.metadata.session_id",
    "langsmith.metadata.conversation_id",
    "session.id",
)


def _agent(attributes: Attributes) -> str | None:
    return text(attributes, "langsmith.metadata.lc_agent_name")


def _split_error(step: Step) -> None:
    """The exception event is always an `Exception`; its text is the repr of the real one, glued to the traceback."""
    told = (step.error_message or "").partition("Traceback (most recent call last)")[0].strip()
    if not told:
        return
    step.error_message = told
    if (real := _REPR.fullmatch(told)) is not None:
        step.error_type = real[1]
        step.error_message = real[2].strip("'\"") or told


_REPR: Final = re.compile(r"([A-Za-z_][\w.]*)\((.*)\)", re.DOTALL)


def _call(span: SpanEvent, kind: Kind, operation: str) -> Step:
    attributes = span.attributes
    step = _span_step(span, kind)
    step.operation = operation
    system = text(attributes, "gen_ai.provider.name", "gen_ai.system")
    step.provider = text(attributes, "langsmith.metadata.ls_provider") or (None if system == "langchain" else system)
    step.requested_model = text(attributes, "gen_ai.request.model", "langsmith.metadata.ls_model_name")
    step.response_model = text(attributes, "gen_ai.response.model")
    completion = opened_map(attributes.get("gen_ai.completion"))
    _fill_answer(step, completion)
    _fill_usage(step, attributes)
    if step.usage is None and not step.failed and (raised := last_exception(span)).failed:
        # An error that carries the provider's answer is taken for a result: the span stays green.
        _, step.error_type, step.error_message, step.status_code = raised
        step.failed = True
        _split_error(step)
    return step


def _fill_answer(step: Step, completion: Mapping[str, Any]) -> None:
    """Response id, answering model, tier, status and words, where the completion's JSON has them."""
    generation = dig(completion, "generations", 0, 0)
    answered = dig(generation, "message", "kwargs", "response_metadata")
    sources = [s for s in (answered, dig(completion, "llm_output"), completion) if isinstance(s, dict)]

    def told(*keys: str) -> str | None:
        values = (source.get(key) for source in sources for key in keys)
        return next((value for value in values if isinstance(value, str) and value), None)

    answer = told("id")
    if answer is not None and not answer.startswith(("lc_", "run-")):  # LangChain's own names for a run
        step.ids = answer_ids(answer)
    step.response_model = step.response_model or told("model_name", "model")
    tier = told("service_tier")
    if tier is not None and tier != "auto":
        step.terms = Terms(service_tier=tier)
    if (reason := told("finish_reason", "stop_reason")) is not None:
        step.finish_reasons = (reason,)
    words = dig(generation, "text")
    step.output_text = words if isinstance(words, str) and words else None
    if step.failed:
        step.status_code = step.status_code or whole(dig(answered, "status_code"))
        step.output_begun = step.output_text is not None


def _fill_usage(step: Step, attributes: Attributes) -> None:
    get = attributes.get
    metadata = opened_map(get("langsmith.usage_metadata")) or opened_map(get("langsmith.metadata.usage_metadata"))
    inside = metadata.get("input_token_details") or opened_repr(get("gen_ai.usage.input_token_details"))
    outside = metadata.get("output_token_details") or opened_repr(get("gen_ai.usage.output_token_details"))
    told = Counts(
        input=get("gen_ai.usage.input_tokens"),
        output=get("gen_ai.usage.output_tokens"),
        total=get("gen_ai.usage.total_tokens"),
    )
    for field, key in (("input", "input_tokens"), ("output", "output_tokens"), ("total", "total_tokens")):
        other = metadata.get(key)
        if told.get(field) is None:
            told[field] = other  # type: ignore[literal-required]  # fields of Counts, all
        elif other is not None and whole(other) != whole(told.get(field)):
            step.flags |= {Flag.CONFLICT}
    told["cache_read"] = dig(inside, "cache_read")
    told["audio_input"] = dig(inside, "audio")
    told["cache_write_5m"] = dig(inside, "ephemeral_5m_input_tokens")
    told["cache_write_1h"] = dig(inside, "ephemeral_1h_input_tokens")
    written = dig(inside, "cache_creation")
    # LangChain sets the sum to 0 where it tells the lifetimes.
    if whole(written) or not (told["cache_write_5m"] or told["cache_write_1h"]):
        told["cache_write"] = written
    told["reasoning"] = dig(outside, "reasoning")
    told["audio_output"] = dig(outside, "audio")
    step.usage, step.basis, step.problem = settle(
        told, convention=Basis.INCLUSIVE, provider=step.provider, model=step.model
    )
    step.reported_nano = reported_nano(metadata.get("total_cost"))


def _tool(span: SpanEvent) -> Step:
    attributes = span.attributes
    step = _span_step(span, Kind.TOOL)
    step.operation = "execute_tool"
    step.tool = text(attributes, "gen_ai.tool.name") or span.name
    step.tool_call_id = text(attributes, "gen_ai.tool.call.id")
    if step.tool_call_id is not None:
        step.ids = (f"tool_call:{step.tool_call_id}",)
    step.arguments = as_text(attributes.get("gen_ai.prompt"))
    step.result = as_text(attributes.get("gen_ai.completion"))
    # A tool node that catches its tool's error leaves the span green.
    output = dig(opened(attributes.get("gen_ai.completion")), "output")
    if not step.failed and dig(output, "status") == "error":
        step.failed = True
        step.error_message = as_text(dig(output, "content"))
    return step


register(
    Dialect(
        name=_NAME,
        scopes=("langsmith",),
        keys=("langsmith.span.kind",),
        span=read_span,
    )
)
