"""Dialect `openinference`: Arize's instrumentations, `llm.*` keys beside or instead of `gen_ai.*`.

Counts are inclusive everywhere. The type of a span is `openinference.span.kind`;
without it the span was renamed on its way and reads as the plain conventions.
What has no attribute of its own (response id, served tier, cache lifetime) is
taken from `output.value` where that is the provider's own answer.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from otel_cost.core.decode.otlp import span_events
from otel_cost.core.model.attributes import text
from otel_cost.core.model.step import STANDARD_TERMS, Terms
from otel_cost.core.model.usage import Usage
from otel_cost.core.model.vocabulary import Basis, Flag, Kind
from otel_cost.core.normalise import Dialect, register
from otel_cost.core.normalise._read import MOST_TEXT, answer_ids, as_text, dig, opened_map, opened_repr, reported_nano
from otel_cost.core.normalise._usage import answered, ranked, settle_answer, unless_counted, whole
from otel_cost.core.normalise.semconv import COUNT_NAMES, read_span

if TYPE_CHECKING:
    from collections.abc import Mapping

    from otel_cost.core.model.attributes import Attributes
    from otel_cost.core.model.event import SpanEvent
    from otel_cost.core.model.step import Step

_KINDS: Final[dict[str, tuple[Kind, str]]] = {
    "LLM": (Kind.INFERENCE, "chat"),
    "EMBEDDING": (Kind.EMBEDDING, "embeddings"),
    "TOOL": (Kind.TOOL, "execute_tool"),
    "AGENT": (Kind.AGENT, "invoke_agent"),
    "CHAIN": (Kind.WORKFLOW, "invoke_workflow"),
    "RETRIEVER": (Kind.OTHER, "retrieval"),
    "RERANKER": (Kind.OTHER, "retrieval"),
    "GUARDRAIL": (Kind.OTHER, "guardrail"),
    "EVALUATOR": (Kind.OTHER, "evaluate"),
    "PROMPT": (Kind.OTHER, "prompt"),
}

_OWN_NAMES: Final[dict[str, tuple[str, ...]]] = {
    "input": ("llm.token_count.prompt",),
    "output": ("llm.token_count.completion",),
    "total": ("llm.token_count.total",),
    "cache_read": ("llm.token_count.prompt_details.cache_read", "llm.token_count.prompt_details.cache_input"),
    "cache_write": ("llm.token_count.prompt_details.cache_write",),
    "audio_input": ("llm.token_count.prompt_details.audio",),
    "reasoning": ("llm.token_count.completion_details.reasoning",),
    "audio_output": ("llm.token_count.completion_details.audio",),
}
# `gen_ai.usage.*` first: the Collector's normalizer renames the sums and leaves the details under their old names.
_FIELDS: Final = ranked(
    {field: (*COUNT_NAMES.get(field, ()), *_OWN_NAMES.get(field, ())) for field in COUNT_NAMES.keys() | _OWN_NAMES}
)

_AGENT_NAMES: Final = ("agent.name", "graph.node.id")
_OPENAI_AGENTS: Final = "openinference.instrumentation.openai_agents"
_CLAUDE_AGENT: Final = "openinference.instrumentation.claude_agent_sdk"
_FIRST_OUTPUT: Final = (
    "llm.output_messages.0.message.content",
    "llm.output_messages.0.message.contents.0.message_content.text",
    "llm.output_messages.0.message.tool_calls.0.tool_call.function.name",
)


def _span(span: SpanEvent) -> Step | None:
    attributes = span.attributes
    told = attributes.get("openinference.span.kind")
    known = _KINDS.get(told.upper()) if isinstance(told, str) else None
    if known is None:
        return read_span(span, dialect=DIALECT, convention=Basis.INCLUSIVE, fields=_FIELDS)
    kind, operation = known
    if span.scope.name == _LLAMA_INDEX and kind is Kind.INFERENCE and "._" in span.name:
        return None  # a method that only prepares a call, told as one
    if kind is Kind.AGENT and span.scope.name == _OPENAI_AGENTS and not text(attributes, *_AGENT_NAMES):
        kind, operation = Kind.WORKFLOW, "invoke_workflow"  # the run around its agents
    agent = _langchain_agent(attributes)
    if kind is Kind.WORKFLOW and agent is not None and agent == span.name:
        kind, operation = Kind.AGENT, "invoke_agent"  # LangChain runs its agents as chains named after them
    step = read_span(span, dialect=DIALECT, convention=Basis.INCLUSIVE, kind=kind, operation=operation, fields=_FIELDS)
    if step is None:
        return None
    step.agent = step.agent or text(attributes, "agent.name") or agent
    if kind is Kind.TOOL:
        _tool(step, span)
    elif kind is Kind.AGENT:
        step.agent = step.agent or text(attributes, *_AGENT_NAMES) or span.name
        _amounts(step, attributes)
        if span.scope.name == _CLAUDE_AGENT and step.usage is not None:
            step.flags |= {Flag.INCOMPLETE}  # its output count is what each answer had at its start
    elif kind is Kind.INFERENCE or kind is Kind.EMBEDDING:
        unless_counted(step)
        _model(step, span)
    return step


def _amounts(step: Step, attributes: Attributes) -> None:
    """What model calls and agents share: who answered and what it is said to have cost."""
    step.provider = text(attributes, "llm.provider") or step.provider or text(attributes, "llm.system")
    name = text(attributes, "llm.model_name", "embedding.model_name")
    step.requested_model = step.requested_model or text(attributes, "llm.request.model_name")
    step.response_model = step.response_model or text(attributes, "llm.response.model_name")
    if step.failed:
        step.requested_model = step.requested_model or name
    else:
        step.response_model = step.response_model or name  # the one that answered, once one has
    step.reported_nano = reported_nano(attributes.get("llm.cost.total"))


def _model(step: Step, span: SpanEvent) -> None:
    attributes = span.attributes
    _amounts(step, attributes)
    if step.requested_model is None:
        asked = opened_map(attributes.get("llm.invocation_parameters"))
        name = asked.get("model") or asked.get("model_name")
        step.requested_model = name if isinstance(name, str) else None
    if reason := text(attributes, "llm.finish_reason"):
        step.finish_reasons = step.finish_reasons or (reason,)
    step.output_text = step.output_text or text(attributes, *_FIRST_OUTPUT[:2])
    answer = opened_map(attributes.get("output.value"))
    if answer:
        read_answer(step, answer)
    if step.failed and not step.output_begun:
        # An empty first message is written on errors too; only words or a tool's name show that output had begun.
        step.output_begun = (
            step.usage is not None
            or bool(step.ids)
            or text(attributes, *_FIRST_OUTPUT) is not None
            or any(event.name == _FIRST_TOKEN for event in span_events(span.raw_events))
        )


_FIRST_TOKEN: Final = "First Token Stream Event"  # noqa: S105 - the name of a span event


def read_answer(step: Step, answer: Mapping[str, Any]) -> None:
    """The provider's own answer: its id, the tier it served, details of its counts, what it used besides."""
    message = dig(answer, "generations", 0, 0, "message")
    wrapped = dig(message, "kwargs") or dig(message, "data") or message
    if wrapped is not None or "llm_output" in answer:  # LangChain's result around it
        both = (dig(wrapped, "response_metadata"), answer.get("llm_output"))
        said = {key: value for part in reversed(both) if isinstance(part, dict) for key, value in part.items() if value}
        usage = said.get("usage") or said.get("token_usage")
    elif (found := _haystack(answer)) is not None:
        said, usage = {}, found
    elif _PROVIDERS_OWN.isdisjoint(answer):  # a model may answer in JSON with an `id` of its own making
        return
    else:
        said = dict(answer)
        usage = answer.get("usage") or answer.get("usage_metadata")
        if answer.get("automatic_function_calling_history"):
            step.flags |= {Flag.INCOMPLETE}  # several requests in one span, counts of the last one only
        if answer.get("type") == "message" and answer.get("stop_reason", "") is None:
            step.flags |= {Flag.INCOMPLETE}  # the stream broke off: counts are those it began with
    identity = said.get("id") or said.get("response_id") or said.get("responseId")
    if isinstance(identity, str) and identity and f"response:{identity}" not in step.ids:
        step.ids = (*step.ids, *answer_ids(identity))
    usage = usage if isinstance(usage, dict) else {}
    _details(step, usage)
    if step.terms is STANDARD_TERMS:
        tier = said.get("service_tier") or usage.get("service_tier")
        searches = whole(dig(usage, "server_tool_use", "web_search_requests"))
        terms = Terms(
            service_tier=tier if isinstance(tier, str) and tier else None,
            speed=as_text(usage.get("speed")),
            inference_geo=as_text(usage.get("inference_geo")),
            units=(("web_search", searches),) if searches else (),
        )
        step.terms = STANDARD_TERMS if terms == STANDARD_TERMS else terms


def _haystack(answer: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The provider's usage in Haystack's result around it: of an embedder as it was, of a chat in its reply's repr."""
    if "embedding" in answer:
        told = dig(answer, "meta", "usage")
        return told if isinstance(told, dict) else None
    reply = dig(answer, "replies", 0)
    if not isinstance(reply, str) or len(reply) > MOST_TEXT:
        return None
    _, found, rest = reply.rpartition("'usage': {")
    if not found:
        return None
    depth = 1
    for end, sign in enumerate(rest[:_MOST_USAGE]):
        depth += (sign == "{") - (sign == "}")
        if not depth:
            return opened_repr("{" + rest[: end + 1]) or None
    return None


_MOST_USAGE: Final = 4096

_PROVIDERS_OWN: Final = frozenset({"choices", "usage", "object", "candidates", "usage_metadata"})


def _details(step: Step, usage: Mapping[str, Any]) -> None:
    """What no attribute tells of usage: all of it, or parts (lifetime of cache writes, writes) of the same sums."""
    if not usage or step.problem is not None:
        return
    own = settle_answer(answered(usage), step.provider, step.model).usage
    known = step.usage
    if known is None and own is not None and (own.input or own.output):
        step.usage, step.basis = own, Basis.INCLUSIVE  # no attribute tells it
        return
    if own is None or known is None or (own.input, own.output) != (known.input, known.output):
        return
    if known.cache_read not in {None, own.cache_read} or known.cache_write not in {None, own.cache_write}:
        return
    news = {
        name: getattr(own, name)
        for name in Usage.__slots__
        if getattr(known, name) is None and getattr(own, name) is not None
    }
    if news:
        step.usage = replace(known, **news)


def _tool(step: Step, span: SpanEvent) -> None:
    attributes = span.attributes
    step.tool = step.tool or text(attributes, "tool.name") or span.name
    if step.tool_call_id is None and (call_id := text(attributes, "tool_call.id", "tool.id")):
        step.tool_call_id = call_id
        step.ids = (f"tool_call:{call_id}",)
    if step.arguments is None:
        # Not `tool.parameters`: that is the schema, equal on every call, in all but the Claude Agent SDK.
        value = attributes.get("input.value")
        if value is None and span.scope.name == _CLAUDE_AGENT:
            value = attributes.get("tool.parameters")
        step.arguments = as_text(value)
    if step.result is None:
        result = as_text(attributes.get("output.value"))
        message = opened_map(result)
        if "tool_call_id" in (message.get("data") or message.get("kwargs") or message or ()):
            # LangChain's message around the result: its ids differ from call to call while the result does not.
            data = message.get("data") or message.get("kwargs") or message
            result = as_text(data.get("content"))
            step.failed = step.failed or data.get("status") == "error"
            if step.tool_call_id is None and isinstance(data["tool_call_id"], str):
                step.tool_call_id = data["tool_call_id"]
                step.ids = (f"tool_call:{step.tool_call_id}",)
        step.result = result


def _langchain_agent(attributes: Attributes) -> str | None:
    """LangChain's name for the agent at work, from its `metadata`."""
    metadata = attributes.get("metadata")
    if not isinstance(metadata, str) or "lc_agent_name" not in metadata:
        return None
    name = opened_map(metadata).get("lc_agent_name")
    return name if isinstance(name, str) and name else None


DIALECT: Final = "openinference"
_LLAMA_INDEX: Final = "openinference.instrumentation.llama_index"

register(
    Dialect(
        name=DIALECT,
        scopes=("openinference.instrumentation",),
        keys=("openinference.span.kind", "llm.token_count."),
        rank=50,
        span=_span,
    )
)
