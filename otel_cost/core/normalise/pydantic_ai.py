"""Dialect `pydantic_ai`: its agents sum up their model calls under `gen_ai.aggregated_usage.*`.

Settings versions 2 to 6. Input is inclusive. A fallback's failed tries are
spans of their own below a green `chat`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from otel_cost.core.model.attributes import text
from otel_cost.core.model.vocabulary import Basis, Kind
from otel_cost.core.normalise import Dialect, register
from otel_cost.core.normalise._read import reported_nano
from otel_cost.core.normalise._usage import ranked
from otel_cost.core.normalise.semconv import COUNT_NAMES, fill_usage, read_span

if TYPE_CHECKING:
    from otel_cost.core.model.event import SpanEvent
    from otel_cost.core.model.step import Step

_AGGREGATED: Final = ranked(
    {
        field: [key.replace("gen_ai.usage.", "gen_ai.aggregated_usage.") for key in keys]
        for field, keys in COUNT_NAMES.items()
    }
)
_AGENTS_OWN: Final = ("agent_name", "final_result", "pydantic_ai.all_messages", "all_messages_events")


def _span(span: SpanEvent) -> Step | None:
    attributes = span.attributes
    kind: Kind | None = None
    operation: str | None = None
    if "gen_ai.operation.name" not in attributes and any(key in attributes for key in _AGENTS_OWN):
        kind, operation = Kind.AGENT, "invoke_agent"  # settings version 2 names no operation
    step = read_span(span, dialect="pydantic_ai", convention=Basis.INCLUSIVE, kind=kind, operation=operation)
    if step is None:
        return None
    step.agent = step.agent or text(attributes, "agent_name")
    step.agent_id = step.agent_id or text(attributes, "gen_ai.agent.call.id")
    step.reported_nano = reported_nano(attributes.get("operation.cost"))
    if step.kind is Kind.AGENT:
        step.requested_model = step.requested_model or text(attributes, "model_name")
        if step.usage is None and step.problem is None:
            fill_usage(step, attributes, Basis.INCLUSIVE, _AGGREGATED)
        if step.usage is not None and not (step.usage.input or step.usage.output):
            step.usage = None  # no call told any: a sum of nothing
    return step


register(Dialect(name="pydantic_ai", scopes=("pydantic-ai", "pydantic_ai"), rank=20, span=_span))
