"""Dialect `openllmetry`: Traceloop's instrumentations, `traceloop.*` and `llm.*` keys around `gen_ai.*`.

Its OpenAI and Anthropic packages report inclusive input (it adds Anthropic's
cached parts itself), its Bedrock package and its JavaScript packages hand on
what the provider counts. Workflows and agents of its decorators carry no usage.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

from otel_cost.core.model.attributes import text
from otel_cost.core.model.vocabulary import MODEL_KINDS, Basis, Flag, Kind
from otel_cost.core.normalise import Dialect, register
from otel_cost.core.normalise._read import as_text, dig, opened
from otel_cost.core.normalise._usage import counts_exclusively
from otel_cost.core.normalise.semconv import OPERATIONS, read_span

if TYPE_CHECKING:
    from otel_cost.core.model.attributes import Attributes
    from otel_cost.core.model.event import SpanEvent
    from otel_cost.core.model.step import Step

_WRAPPERS: Final[dict[str, tuple[Kind, str] | None]] = {
    "workflow": (Kind.WORKFLOW, "invoke_workflow"),
    "agent": (Kind.AGENT, "invoke_agent"),
    "tool": (Kind.TOOL, "execute_tool"),
    "task": None,  # a step of a workflow, no work of its own
}
_REQUESTS: Final[dict[str, tuple[Kind, str]]] = {
    "chat": (Kind.INFERENCE, "chat"),
    "completion": (Kind.INFERENCE, "text_completion"),
    "embedding": (Kind.EMBEDDING, "embeddings"),
    "rerank": (Kind.OTHER, "retrieval"),
}
_INCLUSIVE: Final = (
    "opentelemetry.instrumentation.openai.",
    "opentelemetry.instrumentation.openai_agents",
    "opentelemetry.instrumentation.anthropic",
)
# They hand on what the provider counts, and Bedrock and Anthropic count without the cached parts.
_EXCLUSIVE: Final = (
    "opentelemetry.instrumentation.bedrock",
    "@traceloop/instrumentation-anthropic",
    "@traceloop/instrumentation-bedrock",
)
_SESSIONS: Final = tuple(
    f"traceloop.association.properties.{name}" for name in ("session_id", "conversation_id", "thread_id", "chat_id")
)
_NO_MODEL: Final = "unknown"  # written where the model is not known


def read(span: SpanEvent, *, dialect: str) -> Step | None:
    """The step of a span in these words; shared with clients that borrow them."""
    attributes = span.attributes
    kind, operation = _sort(attributes)
    if kind is None and operation is not None:
        return None
    convention = _convention(span.scope.name)
    if (
        convention is None
        and span.scope.name.startswith(_LLAMA_INDEX)
        and counts_exclusively(text(attributes, "gen_ai.provider.name", "gen_ai.system"), None)
    ):
        convention = Basis.EXCLUSIVE  # as whoever answered counts
    step = read_span(span, dialect=dialect, convention=convention, kind=kind, operation=operation)
    if step is None:
        return None
    step.session = step.session or text(attributes, *_SESSIONS)
    if step.requested_model == _NO_MODEL:
        step.requested_model = None
    if step.response_model == _NO_MODEL:
        step.response_model = None
    if step.kind is Kind.TOOL:
        step.tool = step.tool or text(attributes, "traceloop.entity.name")
        step.arguments = step.arguments or as_text(attributes.get("traceloop.entity.input"))
        step.result = step.result or as_text(attributes.get("traceloop.entity.output"))
    elif step.kind is Kind.AGENT:
        step.agent = step.agent or text(attributes, "traceloop.entity.name")
    elif step.kind in MODEL_KINDS and not step.finish_reasons:
        reason = text(
            attributes, "gen_ai.completion.0.finish_reason", "llm.response.finish_reason", "llm.response.stop_reason"
        )
        step.finish_reasons = (reason,) if reason else ()
        if (
            reason is None
            and step.usage is not None
            and span.scope.name.startswith(_ANTHROPIC)
            and _broke_off(attributes)
        ):
            step.flags |= {Flag.INCOMPLETE}
    return step


@lru_cache(maxsize=1024)
def _convention(scope: str) -> Basis | None:
    if scope.startswith(_INCLUSIVE):
        return Basis.INCLUSIVE
    return Basis.EXCLUSIVE if scope.startswith(_EXCLUSIVE) else None


_LLAMA_INDEX: Final = "opentelemetry.instrumentation.llamaindex"
_ANTHROPIC: Final = "opentelemetry.instrumentation.anthropic"


def _broke_off(attributes: Attributes) -> bool:
    """A stream that never came to its end is told with an empty reason, and the counts it began with."""
    reason: object = dig(opened(attributes.get("gen_ai.output.messages")), 0, "finish_reason")
    return reason == ""


def _sort(attributes: Attributes) -> tuple[Kind | None, str | None]:
    """Kind and operation; (None, None): let the conventions decide; (None, name): nothing of ours."""
    if (told := text(attributes, "gen_ai.operation.name")) in OPERATIONS:
        return OPERATIONS[told], told
    wrapper = text(attributes, "traceloop.span.kind")
    if wrapper is not None and wrapper in _WRAPPERS:
        return _WRAPPERS[wrapper] or (None, wrapper)
    request = text(attributes, "llm.request.type")
    return _REQUESTS.get(request or "", (None, None))


def _span(span: SpanEvent) -> Step | None:
    return read(span, dialect="openllmetry")


_SCOPES: Final = (
    "opentelemetry.instrumentation.openai.",
    *(
        f"opentelemetry.instrumentation.{name}"
        for name in (
            "alephalpha",
            "anthropic",
            "bedrock",
            "cohere",
            "crewai",
            "google_generativeai",
            "groq",
            "haystack",
            "langchain",
            "llamaindex",
            "mistralai",
            "ollama",
            "replicate",
            "sagemaker",
            "together",
            "transformers",
            "vertexai",
            "voyageai",
            "watsonx",
            "writer",
        )
    ),
    "@traceloop/",
    "traceloop",
)

register(
    Dialect(
        name="openllmetry",
        scopes=_SCOPES,
        keys=("traceloop.", "llm.request.type", "llm.usage.", "gen_ai.prompt.", "gen_ai.completion."),
        rank=55,
        span=_span,
    )
)
