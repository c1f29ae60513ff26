"""Dialect `langwatch`: LangWatch's own spans: the kind under `langwatch.span.type`, counts in a JSON text of metrics.

Beside the metrics it writes the two main counts under names of the conventions;
what it tells of reasoning stands in the metrics alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from otel_cost.core.model.attributes import ask, text
from otel_cost.core.model.vocabulary import MODEL_KINDS, Kind
from otel_cost.core.normalise import Dialect, register
from otel_cost.core.normalise._read import as_text, dig, opened
from otel_cost.core.normalise._usage import Counts, gather, settle
from otel_cost.core.normalise.semconv import COUNT_FIELDS, kind_of, read_span

if TYPE_CHECKING:
    from collections.abc import Mapping

    from otel_cost.core.model.attributes import Value
    from otel_cost.core.model.event import SpanEvent
    from otel_cost.core.model.step import Step

_OWN: Final = "langwatch."
_TYPE: Final = f"{_OWN}span.type"
_METRICS: Final = f"{_OWN}metrics"
_KINDS: Final[dict[str, tuple[Kind, str]]] = {
    "llm": (Kind.INFERENCE, "chat"),
    "tool": (Kind.TOOL, "execute_tool"),
    "agent": (Kind.AGENT, "invoke_agent"),
    "workflow": (Kind.WORKFLOW, "invoke_workflow"),
    "rag": (Kind.OTHER, "retrieval"),
}
ask(_TYPE, _METRICS)


def _span(span: SpanEvent) -> Step | None:
    attributes = span.attributes
    told = text(attributes, "gen_ai.operation.name")
    sort = _KINDS.get(text(attributes, _TYPE) or "")
    kind, operation = sort if sort is not None and told is None else (kind_of(attributes, told), told)
    if kind is None:
        return None
    step = read_span(span, dialect="langwatch", kind=kind, operation=operation)
    if step is None:
        return None
    if step.kind is Kind.TOOL:
        step.tool = step.tool or span.name
        step.arguments = step.arguments or as_text(dig(opened(attributes.get(f"{_OWN}input")), "value"))
        step.result = step.result or as_text(dig(opened(attributes.get(f"{_OWN}output")), "value"))
    elif step.kind in MODEL_KINDS and _METRICS in attributes:
        counts, _ = gather(attributes, COUNT_FIELDS)
        settled = settle(_measured(attributes.get(_METRICS)) | counts, provider=step.provider, model=step.model)
        step.usage, step.basis, step.problem = settled
    return step


def _measured(value: Value) -> Counts:
    """The metrics' counts; the JavaScript SDK wraps them as it wraps inputs and outputs."""
    metrics = opened(value)
    wrapped = dig(metrics, "value")
    told: Mapping[str, Value] = wrapped if isinstance(wrapped, dict) else metrics if isinstance(metrics, dict) else {}

    def first(*names: str) -> Value:
        return next((told[name] for name in names if told.get(name) is not None), None)

    return {
        "input": first("prompt_tokens", "promptTokens"),
        "output": first("completion_tokens", "completionTokens"),
        "reasoning": first("reasoning_tokens", "reasoningTokens"),
    }


register(Dialect(name="langwatch", scopes=("langwatch",), keys=(_TYPE,), rank=60, span=_span))
