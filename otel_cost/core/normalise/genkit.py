"""Dialect `genkit`: Genkit's actions, `genkit:*` keys; all that is told of a model call stands in its output's JSON.

The `generate` around a model's action repeats its usage and is none of our steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from otel_cost.core.model.attributes import ask, text
from otel_cost.core.model.vocabulary import Kind
from otel_cost.core.normalise import Dialect, register
from otel_cost.core.normalise._read import answer_ids, as_text, dig, opened_map
from otel_cost.core.normalise._usage import Counts, answered, settle, settle_answer
from otel_cost.core.normalise.semconv import read_span

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from otel_cost.core.model.event import SpanEvent
    from otel_cost.core.model.step import Step

_KINDS: Final[dict[str, tuple[Kind, str]]] = {
    "model": (Kind.INFERENCE, "chat"),
    "background-model": (Kind.INFERENCE, "chat"),
    "embedder": (Kind.EMBEDDING, "embeddings"),
    "tool": (Kind.TOOL, "execute_tool"),
    "tool.v2": (Kind.TOOL, "execute_tool"),
    "flow": (Kind.WORKFLOW, "invoke_workflow"),
}
_PROVIDERS: Final = {"googleai": "gcp.gemini", "vertexai": "gcp.vertex_ai"}
ask("genkit:metadata:subtype", "genkit:name", "genkit:state")


def _span(span: SpanEvent) -> Step | None:
    attributes = span.attributes
    known = _KINDS.get(text(attributes, "genkit:metadata:subtype") or "")
    if known is None:
        return None
    kind, operation = known
    step = read_span(span, dialect="genkit", kind=kind, operation=operation)
    if step is None:
        return None
    step.failed = step.failed or attributes.get("genkit:state") == "error"
    name = text(attributes, "genkit:name") or span.name
    if kind is Kind.TOOL:
        step.tool = name
        step.arguments = as_text(attributes.get("genkit:input"))
        step.result = as_text(attributes.get("genkit:output"))
    elif kind is not Kind.WORKFLOW:
        provider, _, model = name.partition("/")
        step.provider = _PROVIDERS.get(provider, provider) if model else None
        step.requested_model = model or name
        _answer(step, opened_map(attributes.get("genkit:output")))
    return step


def _answer(step: Step, output: Mapping[str, Any]) -> None:
    """The provider's own answer, where its plugin hands it on, else what Genkit made of it."""
    for key in ("raw", "custom"):
        own = output.get(key)
        if not isinstance(own, dict):
            continue
        step.response_model = _word(own, "model", "modelVersion") or step.response_model
        identity = _word(own, "id", "responseId")
        if identity is not None:
            step.ids = answer_ids(identity)
        usage = own.get("usage") or own.get("usageMetadata")
        if isinstance(usage, dict):
            step.usage, step.basis, step.problem = settle_answer(answered(usage), step.provider, step.model)
    told = output.get("usage")
    if step.usage is None and step.problem is None and isinstance(told, dict):
        get = told.get
        counts: Counts = {
            "input": get("inputTokens"),
            "output": get("outputTokens"),
            "total": get("totalTokens"),
            "cache_read": get("cachedContentTokens"),
            "reasoning": get("thoughtsTokens"),
        }
        step.usage, step.basis, step.problem = settle(counts, provider=step.provider, model=step.model)
    reason = _word(output, "finishReason") or dig(output, "candidates", 0, "finishReason")
    step.finish_reasons = (reason,) if isinstance(reason, str) else ()


def _word(structure: Mapping[str, Any], *keys: str) -> str | None:
    return next((value for key in keys if isinstance(value := structure.get(key), str) and value), None)


register(Dialect(name="genkit", scopes=("genkit-tracer",), keys=("genkit:",), rank=50, span=_span))
