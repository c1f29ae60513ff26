"""Dialect `datadog`: spans of Datadog's tracer with LLM Observability, sent as OTLP: its kinds as operations.

The tracer sends without scopes, also what other instrumentations made through
its OpenTelemetry interface; those have none of its `_dd.llmobs.*` keys. It adds
Anthropic's cached parts to the input itself, and its total says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from otel_cost.core.model.attributes import text
from otel_cost.core.model.vocabulary import Kind
from otel_cost.core.normalise import Dialect, register
from otel_cost.core.normalise._usage import ranked
from otel_cost.core.normalise.semconv import COUNT_NAMES, kind_of, read_span

if TYPE_CHECKING:
    from otel_cost.core.model.event import SpanEvent
    from otel_cost.core.model.step import Step

_NAME: Final = "datadog"
_KINDS: Final[dict[str, tuple[Kind, str] | None]] = {
    "llm": (Kind.INFERENCE, "chat"),
    "embedding": (Kind.EMBEDDING, "embeddings"),
    "tool": (Kind.TOOL, "execute_tool"),
    "agent": (Kind.AGENT, "invoke_agent"),
    "workflow": (Kind.WORKFLOW, "invoke_workflow"),
    "retrieval": (Kind.OTHER, "retrieval"),
    "task": None,  # a step of a workflow, no work of its own
}
_FIELDS: Final = ranked(
    {**COUNT_NAMES, "reasoning": (*COUNT_NAMES["reasoning"], "gen_ai.usage.reasoning_output_tokens")}
)
_NO_PROVIDER: Final = frozenset({"unknown", "custom"})  # written where it knows no host of that name


def _span(span: SpanEvent) -> Step | None:
    attributes = span.attributes
    told = text(attributes, "gen_ai.operation.name")
    sort = _KINDS.get(told or "", (kind_of(attributes, told), told))
    if sort is None or sort[0] is None:
        return None
    step = read_span(span, dialect=_NAME, kind=sort[0], operation=sort[1], fields=_FIELDS)
    if step is None:
        return None
    if step.provider in _NO_PROVIDER:
        step.provider = None
    if step.kind is Kind.TOOL:
        step.tool = step.tool or span.name
    return step


register(Dialect(name=_NAME, keys=("_dd.llmobs.",), rank=30, span=_span))
