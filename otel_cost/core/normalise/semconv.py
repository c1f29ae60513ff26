"""Dialect `semconv`: the OpenTelemetry GenAI conventions, current and deprecated names, whoever sends them.

Other dialects read most of a span with `read_span` and amend the step: what is
theirs alone stands in their files. Sources: semantic-conventions 1.41 and
semantic-conventions-genai (schema 1.42); half-renamed spans of the Collector's
`gen_ai_normalizer` end up here too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from otel_cost.core.model.attributes import ask, text
from otel_cost.core.model.step import STANDARD_TERMS, Step, Terms
from otel_cost.core.model.vocabulary import MODEL_KINDS, Flag, Kind, Source
from otel_cost.core.normalise import Dialect, register
from otel_cost.core.normalise._metric import of_conventions
from otel_cost.core.normalise._read import WELL, WHO_KEYS, answer_ids, as_text, failure_of, names, opened, who_of
from otel_cost.core.normalise._usage import gather, ranked, settle, whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from otel_cost.core.model.attributes import Attributes, Value
    from otel_cost.core.model.event import LogEvent, SpanEvent
    from otel_cost.core.model.vocabulary import Basis
    from otel_cost.core.normalise._usage import Named

OPERATIONS: Final[dict[str, Kind]] = {
    "chat": Kind.INFERENCE,
    "generate_content": Kind.INFERENCE,
    "text_completion": Kind.INFERENCE,
    "completion": Kind.INFERENCE,  # OpenLLMetry's request type, kept by the Collector's normalizer
    "responses": Kind.INFERENCE,
    "message": Kind.INFERENCE,
    "image_generation": Kind.INFERENCE,
    "image": Kind.INFERENCE,
    "audio": Kind.INFERENCE,
    "speech": Kind.INFERENCE,
    "transcription": Kind.INFERENCE,
    "embeddings": Kind.EMBEDDING,
    "embedding": Kind.EMBEDDING,
    "execute_tool": Kind.TOOL,
    "invoke_agent": Kind.AGENT,
    "invoke_workflow": Kind.WORKFLOW,
    "create_agent": Kind.OTHER,
    "fetch_response": Kind.OTHER,  # a stored answer that was paid for when it was made
    "retrieval": Kind.OTHER,
    "plan": Kind.OTHER,
    "create_memory_store": Kind.OTHER,
    "delete_memory_store": Kind.OTHER,
    "create_memory": Kind.OTHER,
    "update_memory": Kind.OTHER,
    "upsert_memory": Kind.OTHER,
    "search_memory": Kind.OTHER,
    "delete_memory": Kind.OTHER,
}

# The names of each count, best first; `gen_ai.usage.*` of today before what it replaced.
COUNT_NAMES: Final[dict[str, tuple[str, ...]]] = {
    "input": ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens", "llm.usage.prompt_tokens"),
    "output": ("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens", "llm.usage.completion_tokens"),
    "total": ("gen_ai.usage.total_tokens", "llm.usage.total_tokens"),
    "cache_read": (
        "gen_ai.usage.cache_read.input_tokens",
        "gen_ai.usage.cache_read_input_tokens",
        "gen_ai.usage.prompt_tokens_details.cached_tokens",
        "gen_ai.usage.details.cache_read_tokens",
        "gen_ai.usage.details.cache_read_input_tokens",
        "gen_ai.usage.details.cached_tokens",
        "gen_ai.usage.input_tokens.cached",  # Sentry's, as the two below
    ),
    "cache_write": (
        "gen_ai.usage.cache_write.input_tokens",
        "gen_ai.usage.cache_creation.input_tokens",
        "gen_ai.usage.cache_write_input_tokens",
        "gen_ai.usage.cache_creation_input_tokens",
        "gen_ai.usage.prompt_tokens_details.cache_write_tokens",
        "gen_ai.usage.prompt_tokens_details.cache_creation_tokens",
        "gen_ai.usage.details.cache_write_tokens",
        "gen_ai.usage.details.cache_creation_input_tokens",
        "gen_ai.usage.input_tokens.cache_write",
    ),
    "cache_write_5m": (
        "anthropic.usage.cache_creation.ephemeral_5m_input_tokens",
        "gen_ai.usage.cache_creation.ephemeral_5m_input_tokens",
        "gen_ai.usage.cache_creation.ephemeral_5m_input_tokens.input_tokens",
        "gen_ai.usage.cache_creation.ephemeral_5m.input_tokens",
        "gen_ai.usage.cache_write.ephemeral_5m_input_tokens",
        "gen_ai.usage.details.ephemeral_5m_input_tokens",
    ),
    "cache_write_1h": (
        "anthropic.usage.cache_creation.ephemeral_1h_input_tokens",
        "gen_ai.usage.cache_creation.ephemeral_1h_input_tokens",
        "gen_ai.usage.cache_creation.ephemeral_1h_input_tokens.input_tokens",
        "gen_ai.usage.cache_creation.ephemeral_1h.input_tokens",
        "gen_ai.usage.cache_write.ephemeral_1h_input_tokens",
        "gen_ai.usage.details.ephemeral_1h_input_tokens",
    ),
    "reasoning": (
        "gen_ai.usage.reasoning.output_tokens",
        "gen_ai.usage.reasoning_tokens",
        "gen_ai.usage.completion_tokens_details.reasoning_tokens",
        "gen_ai.usage.details.reasoning_tokens",
        "gen_ai.usage.details.thinking_tokens",
        "gen_ai.usage.details.thoughts_tokens",
        "gen_ai.usage.output_tokens.reasoning",
        "llm.usage.reasoning_tokens",
    ),
    "audio_input": ("gen_ai.usage.audio.input_tokens", "gen_ai.usage.details.input_audio_tokens"),
    "audio_cache_read": (
        "gen_ai.usage.audio.cache_read.input_tokens",
        "gen_ai.usage.details.cache_audio_read_tokens",
    ),
    "image_input": ("gen_ai.usage.image.input_tokens",),
    "video_input": ("gen_ai.usage.video.input_tokens",),
    "audio_output": (
        "gen_ai.usage.audio.output_tokens",
        "gen_ai.usage.completion_tokens_details.audio_tokens",
        "gen_ai.usage.details.output_audio_tokens",
    ),
    "image_output": ("gen_ai.usage.image.output_tokens",),
}
COUNT_FIELDS: Final = ranked(COUNT_NAMES)
# A provider's own key names: under them Anthropic's input leaves the cached parts out.
_RAW_NAMES: Final = frozenset({"gen_ai.usage.cache_read_input_tokens", "gen_ai.usage.cache_creation_input_tokens"})
_DOTTED_NAMES: Final = frozenset(
    {
        "gen_ai.usage.cache_read.input_tokens",
        "gen_ai.usage.cache_write.input_tokens",
        "gen_ai.usage.cache_creation.input_tokens",
    }
)

_SESSIONS: Final = ("gen_ai.conversation.id", "session.id", "gen_ai.session.id", "conversation.id")
_PROVIDERS: Final = ("gen_ai.provider.name", "gen_ai.system")

# Asked for only where the span has them at all: most spans have none.
_SERVED_TIERS: Final = (
    "openai.response.service_tier",
    "gen_ai.openai.response.service_tier",
    "anthropic.response.service_tier",
    "gen_ai.response.service_tier",
)
_ASKED_TIERS: Final = (
    "openai.request.service_tier",
    "gen_ai.openai.request.service_tier",
    "anthropic.request.service_tier",
    "gen_ai.request.service_tier",
)
_ENDED_BADLY: Final = ("error",)
_UNDECIDED: Final = frozenset({"auto", "standard_only"})  # asks for no tier in particular
_SPEEDS: Final = ("anthropic.usage.speed", "anthropic.response.speed", "anthropic.request.speed")
_GEOS: Final = ("anthropic.usage.inference_geo", "anthropic.response.inference_geo", "anthropic.request.inference_geo")
_UNITS: Final[dict[str, str]] = {
    "anthropic.usage.server_tool_use.web_search_requests": "web_search",
    "gen_ai.usage.server_tool_use.web_search_requests": "web_search",
    "gen_ai.usage.details.web_search_requests": "web_search",
    "gen_ai.usage.details.server_tool_use.web_search_requests": "web_search",
    "anthropic.usage.server_tool_use.web_fetch_requests": "web_fetch",
    "gen_ai.usage.server_tool_use.web_fetch_requests": "web_fetch",
}
_OTHER_TERMS: Final = frozenset((*_SPEEDS, *_GEOS, *_UNITS))
_TERM_KEYS: Final = tuple(dict.fromkeys((*_SERVED_TIERS, *_ASKED_TIERS, *_OTHER_TERMS)))

_OUTPUT: Final = (
    "gen_ai.output.messages",
    "gen_ai.completion",
    "gen_ai.completion.0.content",
    "gen_ai.completion.0.tool_calls.0.name",
    "gen_ai.response.time_to_first_chunk",
    "gen_ai.response.finish_reasons",
)
_ARGUMENTS: Final = ("gen_ai.tool.call.arguments", "gen_ai.tool.arguments", "tool_arguments")
_RESULTS: Final = ("gen_ai.tool.call.result", "gen_ai.tool.result", "tool_response")
_CALL_IDS: Final = ("gen_ai.tool.call.id", "gen_ai.tool.call_id")
ask(*_SESSIONS, *_PROVIDERS, *_TERM_KEYS, *_OUTPUT, *_ARGUMENTS, *_RESULTS, *_CALL_IDS)
ask("gen_ai.operation.name", "gen_ai.request.model", "gen_ai.response.model", "gen_ai.response.id")
ask("gen_ai.agent.name", "gen_ai.agent.id", "gen_ai.tool.name")
_CONSTANT_AGENTS: Final = frozenset({"OpenAI Agent"})  # what openai-agents-v2 writes on every chat and tool span


@dataclass(frozen=True, slots=True)
class Shape:
    """Which keys that matter a record has: the same for all that one place in a program sends, so found out once."""

    sessions: tuple[str, ...]
    providers: tuple[str, ...]
    who: tuple[str, ...]
    terms: tuple[str, ...]
    raw_names: bool  # counts came under a provider's own key names
    outputs: tuple[str, ...]
    call_ids: tuple[str, ...]
    arguments: tuple[str, ...]
    results: tuple[str, ...]


def shape_of(attributes: Attributes) -> Shape:
    """The shape of a record."""
    return attributes.shape().derived(_new_shape)


def _new_shape(keys: frozenset[str]) -> Shape:
    def those(names: Iterable[str]) -> tuple[str, ...]:
        return tuple(name for name in names if name in keys)

    return Shape(
        sessions=those(_SESSIONS),
        providers=those(_PROVIDERS),
        who=those(WHO_KEYS),
        terms=those(_TERM_KEYS),
        raw_names=not _RAW_NAMES.isdisjoint(keys) and _DOTTED_NAMES.isdisjoint(keys),
        outputs=those(_OUTPUT),
        call_ids=those(_CALL_IDS),
        arguments=those(_ARGUMENTS),
        results=those(_RESULTS),
    )


def read_span(
    span: SpanEvent,
    *,
    dialect: str = "semconv",
    convention: Basis | None = None,
    kind: Kind | None = None,
    operation: str | None = None,
    fields: Mapping[str, Named] = COUNT_FIELDS,
) -> Step | None:
    """The step of a span with `gen_ai.*` attributes, or None where they tell of no work.

    Args:
        span: any span.
        dialect: whose name the step bears.
        convention: how this sender counts its input, where that is known.
        kind: what the span is, where its dialect knows better than `gen_ai.operation.name`.
        operation: its operation, to go with `kind`.
        fields: the names of token counts, where its dialect has more of them (see `_usage.ranked`).
    """
    attributes = span.attributes
    get = attributes.get
    if operation is None:
        told = get("gen_ai.operation.name")
        operation = told if isinstance(told, str) and told else None
    if kind is None:
        kind = kind_of(attributes, operation)
        if kind is None:
            return None
    shape = shape_of(attributes)
    failure = failure_of(span)
    # By position: naming forty fields takes longer than filling them.
    step = Step(
        _SPAN,
        dialect,
        span.scope.name,
        kind,
        span.tenant,
        span.trace_id,
        span.span_id,
        span.parent_id,
        span.name,
        span.start_ns,
        span.end_ns,
        operation,
    )
    if shape.sessions:
        step.session = text(attributes, *shape.sessions)
    step.who = who_of(attributes, span.resource, shape.who)
    if failure is not WELL:
        step.failed, step.error_type, step.error_message, step.status_code = failure
    fill(step, attributes, convention, fields)
    return step


_SPAN: Final = Source.SPAN


def read_log(log: LogEvent, *, dialect: str = "semconv", convention: Basis | None = None) -> Step | None:
    """The step of a `gen_ai.client.inference.operation.details` record; None for records of mere content."""
    if log.name != "gen_ai.client.inference.operation.details":
        return None
    attributes = log.attributes
    operation = text(attributes, "gen_ai.operation.name")
    kind = kind_of(attributes, operation)
    if kind not in MODEL_KINDS:
        return None
    step = Step(
        source=Source.LOG,
        dialect=dialect,
        scope=log.scope.name,
        kind=kind,
        tenant=log.tenant,
        trace_id=log.trace_id,
        parent_id=log.span_id,  # the span it was written in, which is often not the call's own
        name=log.name,
        start_ns=log.time_ns,
        end_ns=log.time_ns,
        operation=operation,
        session=text(attributes, *_SESSIONS),
        who=who_of(attributes, log.resource),
        error_type=text(attributes, "error.type"),
    )
    step.failed = step.error_type is not None
    fill(step, attributes, convention)
    # Without usage it adds nothing to its span, and cannot stand for one: senders hang it below other spans too.
    return step if step.usage is not None or step.problem is not None else None


def kind_of(attributes: Attributes, operation: str | None) -> Kind | None:
    """What a record is, by its operation, else by what it carries; None: nothing of ours."""
    if operation is not None:
        kind = OPERATIONS.get(operation)
        if kind is not None:
            return kind
        if has_usage(attributes) and has_model(attributes):
            return Kind.INFERENCE  # custom operations are legal
        if text(attributes, "gen_ai.tool.name"):
            return Kind.TOOL
        return Kind.OTHER
    if has_usage(attributes) or has_model(attributes):
        return Kind.INFERENCE
    if text(attributes, "gen_ai.tool.name", *_CALL_IDS):
        return Kind.TOOL
    if text(attributes, "gen_ai.agent.name"):
        return Kind.AGENT
    return None


def has_usage(attributes: Attributes) -> bool:
    """Is any main token count told?"""
    return not _MAIN_COUNTS.isdisjoint(attributes.told())


_MAIN_COUNTS: Final = frozenset(name for count in ("input", "output") for name in COUNT_NAMES[count])


def has_model(attributes: Attributes) -> bool:
    """Is a model named, asked or answering?"""
    told = attributes.told()
    return "gen_ai.request.model" in told or "gen_ai.response.model" in told


def fill(
    step: Step,
    attributes: Attributes,
    convention: Basis | None = None,
    fields: Mapping[str, Named] = COUNT_FIELDS,
) -> None:
    """Put into `step` what `gen_ai.*` attributes tell, by its kind; what they do not tell stays as it is."""
    kind, told = step.kind, attributes.told()
    if (
        "gen_ai.agent.name" in told
        and (agent := text(attributes, "gen_ai.agent.name"))
        and agent not in _CONSTANT_AGENTS
    ):
        step.agent = agent
    if "gen_ai.agent.id" in told:
        step.agent_id = step.agent_id or text(attributes, "gen_ai.agent.id")
    if kind is _TOOL:
        _fill_tool(step, attributes)
    elif kind is not _OTHER:
        fill_model(step, attributes, convention, fields)


_TOOL: Final = Kind.TOOL
_OTHER: Final = Kind.OTHER


def fill_model(
    step: Step,
    attributes: Attributes,
    convention: Basis | None = None,
    fields: Mapping[str, Named] = COUNT_FIELDS,
) -> None:
    """Models, usage, terms and outcome of a model call, or of a span that sums up several."""
    get, shape = attributes.get, shape_of(attributes)
    step.provider = text(attributes, *shape.providers) or step.provider
    step.requested_model = text(attributes, "gen_ai.request.model") or step.requested_model
    step.response_model = text(attributes, "gen_ai.response.model") or step.response_model
    fill_usage(step, attributes, convention, fields)
    if step.kind not in MODEL_KINDS:
        step.rollup = True
        return
    response_id = get("gen_ai.response.id")
    if isinstance(response_id, str) and response_id:
        step.ids = (*step.ids, *answer_ids(response_id))
    if shape.terms and (terms := terms_of(attributes)):
        step.terms = terms
    if shape.outputs:
        if (reasons := get("gen_ai.response.finish_reasons")) is not None:
            step.finish_reasons = names(reasons)
            if step.finish_reasons and not any(step.finish_reasons):
                step.flags |= {Flag.INCOMPLETE}  # the answer never came to its end
        if (output := get("gen_ai.output.messages")) is not None:
            step.output_text = message_text(output)
    if step.usage is None and not step.failed and step.finish_reasons == _ENDED_BADLY:
        step.failed = True  # though its span says that all is well
        step.output_begun = bool(step.output_text)
    elif step.failed:
        step.output_begun = (
            step.output_begun
            or step.usage is not None
            or bool(step.ids)
            # Some write the model that was asked in both places.
            or step.response_model not in {None, step.requested_model}
            or any(get(key) not in (None, "", [], "[]") for key in shape.outputs)
        )


def fill_usage(
    step: Step,
    attributes: Attributes,
    convention: Basis | None = None,
    fields: Mapping[str, Named] = COUNT_FIELDS,
) -> None:
    """Token counts, settled; an incomplete pair and disagreeing names leave a flag."""
    told, conflict = gather(attributes, fields)
    if not told:
        return
    settled = settle(
        told,
        convention=convention,
        provider=step.provider,
        model=step.model,
        raw_names=shape_of(attributes).raw_names,
    )
    step.usage, step.basis, step.problem = settled
    if conflict:
        step.flags |= {Flag.CONFLICT}
    if step.kind is _INFERENCE and settled.usage is not None and not ("input" in told and "output" in told):
        step.flags |= {Flag.INCOMPLETE}  # the other half is unknown, not zero


_INFERENCE: Final = Kind.INFERENCE


def _fill_tool(step: Step, attributes: Attributes) -> None:
    get, shape = attributes.get, shape_of(attributes)
    step.tool = text(attributes, "gen_ai.tool.name") or step.tool
    if shape.call_ids and (call_id := text(attributes, *shape.call_ids)) is not None:
        step.tool_call_id = call_id
        step.ids = (f"tool_call:{call_id}",)
    for key in shape.arguments:
        if (value := get(key)) is not None:
            step.arguments = as_text(value)
            break
    for key in shape.results:
        if (value := get(key)) is not None:
            step.result = as_text(value)
            break
    step.operation = step.operation or "execute_tool"


def terms_of(attributes: Attributes) -> Terms | None:
    """On which terms a call was served, where anything is told; the tier asked for counts only while none is served."""
    told = shape_of(attributes).terms
    if not told:
        return None
    tier = text(attributes, *_SERVED_TIERS)
    if tier is None:
        tier = text(attributes, *_ASKED_TIERS)
        tier = None if tier in _UNDECIDED else tier
    if len(told) == 1:
        (key,) = told
        if key not in _OTHER_TERMS:
            return _terms(tier, None, None, ())
    units: dict[str, int] = {}
    for key, unit in _UNITS.items():
        count = whole(attributes.get(key))
        if count is not None and count > 0:
            units.setdefault(unit, count)  # two spellings are one thing
    return _terms(tier, text(attributes, *_SPEEDS), text(attributes, *_GEOS), tuple(sorted(units.items())))


@lru_cache(maxsize=1024)
def _terms(tier: str | None, speed: str | None, geo: str | None, units: tuple[tuple[str, int], ...]) -> Terms | None:
    terms = Terms(service_tier=tier, speed=speed, inference_geo=geo, units=units)
    return None if terms == STANDARD_TERMS else terms


def message_text(value: Value) -> str | None:
    """The words of output messages, without ids and roles; None where they hold no words or cannot be opened."""
    messages = opened(value)
    if not isinstance(messages, list):
        return None
    said: list[str] = []
    for message in messages:
        parts = message.get("parts") if isinstance(message, dict) else None
        if isinstance(parts, list):
            said.extend(
                part["content"]
                for part in parts
                if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("content"), str)
            )
    return "\n".join(said) or None


_SCOPES: Final = ("opentelemetry.instrumentation.openai_v2", "opentelemetry.util.genai")

register(
    Dialect(
        name="semconv",
        scopes=_SCOPES,
        keys=("gen_ai.",),
        rank=90,
        span=read_span,
        log=read_log,
        metric=of_conventions,
    )
)
