"""Dialect `vercel_ai`: the AI SDK's `ai.*` spans, versions 3 to 6, and harnesses built on it.

Outer spans (`ai.generateText`, `ai.streamText`, `ai.embedMany` …) sum up the
inner ones (`*.doGenerate`, `*.doStream`, `*.doEmbed`), which alone are calls.
Input is inclusive since version 6, which is known by its disjoint
`inputTokenDetails`; before, it was whatever the provider counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from otel_cost.core.decode.otlp import span_events
from otel_cost.core.model.attributes import text
from otel_cost.core.model.step import Step, Terms
from otel_cost.core.model.vocabulary import MODEL_KINDS, Basis, Kind, Source
from otel_cost.core.normalise import Dialect, register
from otel_cost.core.normalise._read import answer_ids, as_text, dig, failure_of, names, opened, who_of
from otel_cost.core.normalise._usage import Counts, counts_exclusively, settle, whole
from otel_cost.core.normalise.semconv import read_span as read_plain_span

if TYPE_CHECKING:
    from otel_cost.core.model.attributes import Attributes, Value
    from otel_cost.core.model.event import SpanEvent

_NAME: Final = "vercel_ai"


def read_span(span: SpanEvent) -> Step | None:
    """A model call, an embedding, a tool call or the roll-up around them."""
    attributes = span.attributes
    operation = text(attributes, "ai.operationId") or span.name.partition(" ")[0]
    inner = operation.rpartition(".")[2]
    if inner in {"doGenerate", "doStream"}:
        return _call(span, Kind.INFERENCE, "chat")
    if inner == "doEmbed":
        return _call(span, Kind.EMBEDDING, "embeddings")
    if operation == "ai.toolCall" or "ai.toolCall.name" in attributes:
        return _tool(span)
    if operation in _OUTER:
        return _outer(span)
    # The newer telemetry of this SDK keeps to the conventions, beside labels of its own.
    return read_plain_span(span, dialect=_NAME) if "gen_ai.operation.name" in attributes else None


_OUTER: Final = frozenset(
    f"ai.{name}" for name in ("generateText", "streamText", "generateObject", "streamObject", "embed", "embedMany")
)


def _span_step(span: SpanEvent, kind: Kind) -> Step:
    attributes = span.attributes
    failure = failure_of(span)
    who = who_of(attributes, span.resource)
    if "user" not in who and (user := text(attributes, "ai.telemetry.metadata.user_id", "ai.telemetry.metadata.user")):
        who = {**who, "user": user}
    return Step(
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
        agent=text(attributes, "ai.telemetry.functionId", "resource.name"),
        who=who,
        failed=failure.failed,
        error_type=failure.type,
        error_message=failure.message,
        status_code=failure.status_code,
    )


# The metadata's keys are the application's to choose; these are the usual ones.
_SESSIONS: Final = (
    *(f"ai.telemetry.metadata.{key}" for key in ("sessionId", "session_id", "threadId", "conversationId", "chatId")),
    "session.id",
    "gen_ai.conversation.id",
)


def _outer(span: SpanEvent) -> Step:
    attributes = span.attributes
    embeds = "embed" in (text(attributes, "ai.operationId") or span.name)
    step = _span_step(span, Kind.WORKFLOW if embeds or not text(attributes, "ai.telemetry.functionId") else Kind.AGENT)
    step.rollup = True
    _fill_model(step, attributes)
    return step


def _call(span: SpanEvent, kind: Kind, operation: str) -> Step:
    attributes = span.attributes
    step = _span_step(span, kind)
    step.operation = operation
    _fill_model(step, attributes)
    answer = text(attributes, "gen_ai.response.id", "ai.response.id")
    # Where a server gives none the SDK makes one up (aitxt-…): nobody else will tell it.
    if answer is not None:
        step.ids = answer_ids(answer)
    step.output_text = text(attributes, "ai.response.text", "ai.result.text")
    reasons = attributes.get("gen_ai.response.finish_reasons") or attributes.get("ai.response.finishReason")
    step.finish_reasons = names(reasons)
    if step.failed:
        step.output_begun = (
            step.usage is not None
            or "ai.response.msToFirstChunk" in attributes
            or any(event.name == "ai.stream.firstChunk" for event in span_events(span.raw_events))
        )
    return step


def _tool(span: SpanEvent) -> Step:
    attributes = span.attributes
    step = _span_step(span, Kind.TOOL)
    step.operation = "execute_tool"
    step.tool = text(attributes, "ai.toolCall.name")
    step.tool_call_id = text(attributes, "ai.toolCall.id")
    if step.tool_call_id is not None:
        step.ids = (f"tool_call:{step.tool_call_id}",)
    step.arguments = as_text(attributes.get("ai.toolCall.args"))
    step.result = as_text(attributes.get("ai.toolCall.result"))
    return step


def _fill_model(step: Step, attributes: Attributes) -> None:
    served = text(attributes, "ai.model.provider", "gen_ai.system") or ""
    step.provider = served.partition(".")[0] or None  # "openai.responses", "anthropic.messages"
    step.requested_model = text(attributes, "ai.model.id", "gen_ai.request.model")
    step.response_model = text(attributes, "ai.response.model", "gen_ai.response.model")
    told_by_provider = opened(attributes.get("ai.response.providerMetadata"))
    metadata = told_by_provider if isinstance(told_by_provider, dict) else {}
    _fill_usage(step, attributes, metadata)
    tier = dig(metadata, "openai", "serviceTier")
    if step.kind in MODEL_KINDS and isinstance(tier, str) and tier:
        step.terms = Terms(service_tier=tier)


def _fill_usage(step: Step, attributes: Attributes, metadata: dict[str, Any]) -> None:
    get = attributes.get
    details = "ai.usage.inputTokenDetails."
    detailed = any(
        f"{details}{part}" in attributes for part in ("noCacheTokens", "cacheReadTokens", "cacheWriteTokens")
    )
    told = Counts(
        input=_first(attributes, "ai.usage.inputTokens", "ai.usage.promptTokens", "gen_ai.usage.input_tokens"),
        output=_first(attributes, "ai.usage.outputTokens", "ai.usage.completionTokens", "gen_ai.usage.output_tokens"),
        total=get("ai.usage.totalTokens"),
        cache_read=_first(attributes, f"{details}cacheReadTokens", "ai.usage.cachedInputTokens"),
        cache_write=get(f"{details}cacheWriteTokens"),
        reasoning=_first(attributes, "ai.usage.outputTokenDetails.reasoningTokens", "ai.usage.reasoningTokens"),
    )
    tokens = get("ai.usage.tokens")
    if tokens is not None and told["input"] is None:
        told["input"], told["output"] = tokens, 0
    # The roll-up's metadata is of its last call only.
    if step.kind in MODEL_KINDS:
        _fill_cache_parts(told, metadata)
    convention: Basis | None = Basis.INCLUSIVE
    if not detailed and counts_exclusively(step.provider, step.model) and not _proved_inclusive(told, metadata):
        convention = Basis.EXCLUSIVE
    step.usage, step.basis, step.problem = settle(told, convention=convention, provider=step.provider, model=step.model)


def _proved_inclusive(told: Counts, metadata: dict[str, Any]) -> bool:
    """Is what the provider left out of its own count in this one? Spans of objects tell no details in any version."""
    raw = dig(metadata, "anthropic", "usage")
    own, mine = whole(dig(raw, "input_tokens")), whole(told["input"])
    cached = sum(whole(dig(raw, f"cache_{part}_input_tokens")) or 0 for part in ("read", "creation"))
    return own is not None and cached > 0 and mine == own + cached


def _fill_cache_parts(told: Counts, metadata: dict[str, Any]) -> None:
    """What the SDK hands through as the provider wrote it: cache parts and their lifetimes, Gemini's thinking."""
    gemini = dig(metadata, "google", "usageMetadata") or dig(metadata, "vertex", "usageMetadata")
    for part, key in _GEMINI_PARTS:
        if told.get(part) is None and (count := whole(dig(gemini, key))) is not None:
            told[part] = count  # type: ignore[literal-required]  # fields of Counts
    for provider in ("anthropic", "bedrock", "vertex"):
        own = metadata.get(provider)
        raw = dig(own, "usage")
        read, write = _count(own, raw, "cacheRead", "cache_read"), _count(own, raw, "cacheCreation", "cache_creation")
        if write is None:
            write = whole(dig(raw, "cacheWriteInputTokens"))
        if told.get("cache_read") is None and read is not None:
            told["cache_read"] = read
        if told.get("cache_write") is None and write is not None:
            told["cache_write"] = write
        for lifetime, key in _LIFETIMES:
            if (count := whole(dig(raw, "cache_creation", key))) is not None:
                told[lifetime] = count  # type: ignore[literal-required]  # both are fields of Counts


_GEMINI_PARTS: Final = (
    ("total", "totalTokenCount"),
    ("cache_read", "cachedContentTokenCount"),
    ("reasoning", "thoughtsTokenCount"),
)
_LIFETIMES: Final = (
    ("cache_write_5m", "ephemeral_5m_input_tokens"),
    ("cache_write_1h", "ephemeral_1h_input_tokens"),
)


def _count(own: Any, raw: Any, camel: str, snake: str) -> int | None:  # noqa: ANN401 - opened JSON
    for source, key in ((raw, f"{snake}_input_tokens"), (own, f"{camel}InputTokens"), (raw, f"{camel}InputTokens")):
        if (count := whole(dig(source, key))) is not None:
            return count
    return None


def _first(attributes: Attributes, *keys: str) -> Value:
    return next((value for key in keys if (value := attributes.get(key)) is not None), None)


register(
    Dialect(
        name=_NAME,
        # Its scope is called "ai", too short a prefix to go by.
        keys=("ai.operationId", "ai.model.", "ai.usage.", "ai.toolCall.", "ai.telemetry."),
        rank=20,  # processors that add other vendors' keys to these spans do not know which are roll-ups
        span=read_span,
    )
)
