"""Dialect `langfuse`: observations of the Langfuse SDK, its OpenAI drop-in and its LangChain handler.

No `gen_ai.*` at all: usage is JSON in one of several shapes. The drop-in hands
OpenAI's own object through, which is inclusive. The LangChain handler and
applications that follow Langfuse's model send disjoint buckets: input leaves
out its cached parts, output leaves out reasoning.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from otel_cost.core.model.attributes import text
from otel_cost.core.model.step import Step, Terms
from otel_cost.core.model.vocabulary import Basis, Kind, Source
from otel_cost.core.normalise import Dialect, register
from otel_cost.core.normalise._read import as_text, dig, failure_of, opened, opened_map, reported_nano, who_of
from otel_cost.core.normalise._usage import NOTHING_TOLD, Counts, Settled, settle, whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from otel_cost.core.model.attributes import Attributes, Value
    from otel_cost.core.model.event import SpanEvent

_NAME: Final = "langfuse"
_OWN: Final = "langfuse.observation."
_NOTED: Final = f"{_OWN}metadata."


def read_span(span: SpanEvent) -> Step | None:
    """A generation, an embedding, a tool, an agent or the root of a chain; spans and events are plumbing."""
    attributes = span.attributes
    match text(attributes, f"{_OWN}type"):
        case "generation":
            return _call(span, Kind.INFERENCE, "chat")
        case "embedding":
            return _call(span, Kind.EMBEDDING, "embeddings")
        case "tool":
            return _tool(span)
        case "agent":
            return _agent(span)
        case "chain":
            if span.name == _agent_told(attributes):
                return _agent(span)
            return None if span.parent_id else _span_step(span, Kind.WORKFLOW)
    return None


def _span_step(span: SpanEvent, kind: Kind) -> Step:
    attributes = span.attributes
    failure = failure_of(span)
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
        session=text(attributes, "session.id", "langfuse.session.id") or _noted(attributes, "thread_id"),
        agent=_agent_told(attributes),
        who=who_of(attributes, span.resource),
        failed=failure.failed or text(attributes, f"{_OWN}level") == "ERROR",
        error_type=failure.type,
        error_message=failure.message,
        status_code=failure.status_code,
    )
    if step.failed and not step.error_message:
        step.error_message = text(attributes, f"{_OWN}status_message")
    return step


def _agent_told(attributes: Attributes) -> str | None:
    return _noted(attributes, "lc_agent_name")


def _noted(attributes: Attributes, name: str) -> str | None:
    """A text among the metadata, which newer SDKs write as JSON, in quotes."""
    told = text(attributes, f"{_NOTED}{name}")
    if told is None or not told.startswith('"'):
        return told
    try:
        inner = json.loads(told)
    except ValueError:
        return told
    return inner if isinstance(inner, str) and inner else None


def _agent(span: SpanEvent) -> Step:
    step = _span_step(span, Kind.AGENT)
    step.operation = "invoke_agent"
    step.agent = step.agent or span.name.removeprefix("invoke_agent ")
    return step


def _tool(span: SpanEvent) -> Step:
    attributes = span.attributes
    step = _span_step(span, Kind.TOOL)
    step.operation = "execute_tool"
    step.tool = span.name.removeprefix("execute_tool ")
    step.arguments = as_text(attributes.get(f"{_OWN}input"))
    step.result = as_text(attributes.get(f"{_OWN}output"))
    answered = opened(attributes.get(f"{_OWN}output"))
    step.tool_call_id = as_text(dig(answered, "tool_call_id"))
    if step.tool_call_id is not None:
        step.ids = (f"tool_call:{step.tool_call_id}",)
    # A tool node that catches its tool's error leaves the span green.
    if not step.failed and dig(answered, "status") == "error":
        step.failed = True
        step.error_message = as_text(dig(answered, "content"))
    return step


def _call(span: SpanEvent, kind: Kind, operation: str) -> Step:
    attributes = span.attributes
    get = attributes.get
    step = _span_step(span, kind)
    step.operation = operation
    step.provider = _noted(attributes, "ls_provider")
    # The answering model, once there is an answer.
    step.requested_model = text(attributes, f"{_OWN}model.name") or _noted(attributes, "ls_model_name")
    told = opened_map(get(f"{_OWN}usage_details"))
    step.usage, step.basis, step.problem = _settled(told, step)
    step.reported_nano = reported_nano(opened_map(get(f"{_OWN}cost_details")).get("total"))
    tier = opened_map(get(f"{_OWN}model.parameters")).get("service_tier")
    if isinstance(tier, str) and tier and tier != "auto":
        step.terms = Terms(service_tier=tier)
    words = dig(opened(get(f"{_OWN}output")), "content")
    step.output_text = words if isinstance(words, str) and words else None
    if step.failed:
        step.output_begun = f"{_OWN}completion_start_time" in attributes or step.output_text is not None
    return step


# Usage --------------------------------------------------------------------------------------------


def _settled(told: Mapping[str, Any], step: Step) -> Settled:
    if not told:
        return NOTHING_TOLD
    if "input" in told or "output" in told:
        return _from_buckets(told, step)
    return _from_provider(told, step)


def _from_provider(told: Mapping[str, Any], step: Step) -> Settled:
    """A provider's own usage object; nested details may have been flattened with a dot or an underscore."""

    def count(*paths: tuple[str, str]) -> Value:
        for outer, inner in paths:
            for value in (dig(told, outer, inner), told.get(f"{outer}.{inner}"), told.get(f"{outer}_{inner}")):
                if value is not None:
                    return value
        return None

    into = (("prompt_tokens_details", "input_tokens_details"), ("completion_tokens_details", "output_tokens_details"))
    counts = Counts(
        input=_first(told, "prompt_tokens", "input_tokens"),
        output=_first(told, "completion_tokens", "output_tokens"),
        total=told.get("total_tokens"),
        cache_read=count(*((outer, "cached_tokens") for outer in into[0])),
        cache_write=count(*((outer, "cache_write_tokens") for outer in into[0])),
        audio_input=count(*((outer, "audio_tokens") for outer in into[0])),
        reasoning=count(*((outer, "reasoning_tokens") for outer in into[1])),
        audio_output=count(*((outer, "audio_tokens") for outer in into[1])),
    )
    convention: Basis | None = Basis.INCLUSIVE
    if "cache_read_input_tokens" in told or "cache_creation_input_tokens" in told:
        convention = Basis.EXCLUSIVE  # Anthropic's object
        counts["cache_read"] = told.get("cache_read_input_tokens")
        counts["cache_write"] = told.get("cache_creation_input_tokens")
        counts["cache_write_5m"] = count(("cache_creation", "ephemeral_5m_input_tokens"))
        counts["cache_write_1h"] = count(("cache_creation", "ephemeral_1h_input_tokens"))
    return settle(counts, convention=convention, provider=step.provider, model=step.model)


def _from_buckets(told: Mapping[str, Any], step: Step) -> Settled:
    """Disjoint buckets, added up to canonical totals; a total of input and output alone says that they were not."""
    five, hour = (whole(_first(told, *(name.format(life) for name in _LIFETIMES))) for life in ("5m", "1h"))
    written = _first(told, *_CACHE_WRITE)
    counts = Counts(
        input=told.get("input"),
        output=told.get("output"),
        cache_read=_first(told, *_CACHE_READ),
        cache_write=written if whole(written) or not (five or hour) else None,
        cache_write_5m=five,
        cache_write_1h=hour,
        reasoning=_first(told, "output_reasoning", "output_reasoning_tokens"),
        audio_input=_first(told, "input_audio", "input_audio_tokens"),
        audio_output=_first(told, "output_audio", "output_audio_tokens"),
    )
    told_in, told_out = whole(counts["input"]) or 0, whole(counts["output"]) or 0
    apart = whole(told.get("total")) != told_in + told_out
    if apart and min(told_in, told_out) >= 0:
        counts["input"] = told_in + max(whole(counts["audio_input"]) or 0, 0)
        counts["output"] = told_out + sum(max(whole(counts[part]) or 0, 0) for part in ("reasoning", "audio_output"))
    convention = Basis.EXCLUSIVE if apart else Basis.INCLUSIVE
    return settle(counts, convention=convention, provider=step.provider, model=step.model)


_CACHE_READ: Final = (
    "input_cache_read",
    "input_cached_tokens",
    "cache_read_input_tokens",
    "input_cache_read_tokens",
    "input_cached",
)
_CACHE_WRITE: Final = (
    "input_cache_creation",
    "cache_creation_input_tokens",
    "input_cache_creation_tokens",
    "input_cache_write",
    "input_cache_write_tokens",
)
_LIFETIMES: Final = ("input_ephemeral_{}_input_tokens", "input_cache_creation_{}", "cache_creation_{}")


def _first(told: Mapping[str, Any], *keys: str) -> Value:
    return next((value for key in keys if (value := told.get(key)) is not None), None)


register(
    Dialect(
        name=_NAME,
        scopes=("langfuse",),
        keys=("langfuse.observation.type",),
        span=read_span,
    )
)
