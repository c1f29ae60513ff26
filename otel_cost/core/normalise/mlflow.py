"""Dialect `mlflow`: MLflow's traces sent over OTLP, every attribute a JSON text under `mlflow.*`.

Its counts are inclusive, also of Anthropic's calls. LangChain's span and the
SDK's span below it both tell the call, in one scope. With its option for the
conventions it sends `gen_ai.*` instead, without the cached parts.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from otel_cost.core.model.attributes import ask
from otel_cost.core.model.vocabulary import Basis, Kind
from otel_cost.core.normalise import Dialect, register
from otel_cost.core.normalise._read import MOST_TEXT, as_text, opened_map
from otel_cost.core.normalise._usage import Counts, settle
from otel_cost.core.normalise.openinference import read_answer
from otel_cost.core.normalise.semconv import read_span

if TYPE_CHECKING:
    from collections.abc import Mapping

    from otel_cost.core.model.attributes import Attributes
    from otel_cost.core.model.event import SpanEvent
    from otel_cost.core.model.step import Step

_KINDS: Final[dict[str, tuple[Kind, str]]] = {
    "CHAT_MODEL": (Kind.INFERENCE, "chat"),
    "LLM": (Kind.INFERENCE, "chat"),
    "EMBEDDING": (Kind.EMBEDDING, "embeddings"),
    "TOOL": (Kind.TOOL, "execute_tool"),
    "AGENT": (Kind.AGENT, "invoke_agent"),
    "CHAIN": (Kind.WORKFLOW, "invoke_workflow"),
    "WORKFLOW": (Kind.WORKFLOW, "invoke_workflow"),
}
_USAGE: Final = "mlflow.chat.tokenUsage"
ask("mlflow.spanType", _USAGE, "mlflow.llm.model", "mlflow.llm.provider", "model", "tool_call_id")


def _span(span: SpanEvent) -> Step | None:
    attributes = span.attributes
    sort = _plain(attributes, "mlflow.spanType")
    if sort is None:
        return read_span(span, dialect="mlflow", convention=Basis.INCLUSIVE)
    known = _KINDS.get(sort)
    if known is None:
        return None
    kind, operation = known
    step = read_span(span, dialect="mlflow", kind=kind, operation=operation)
    if step is None:
        return None
    if kind is Kind.TOOL:
        step.tool = span.name
        step.tool_call_id = _plain(attributes, "tool_call_id")
        if step.tool_call_id is not None:
            step.ids = (f"tool_call:{step.tool_call_id}",)
        step.arguments = as_text(attributes.get("mlflow.spanInputs"))
        step.result = as_text(attributes.get("mlflow.spanOutputs"))
        return step
    if kind is Kind.AGENT:
        step.agent = step.agent or span.name
    step.provider = _plain(attributes, "mlflow.llm.provider")
    step.requested_model = _plain(attributes, "model")
    step.response_model = _plain(attributes, "mlflow.llm.model")
    told = opened_map(attributes.get(_USAGE))
    step.usage, step.basis, step.problem = settle(_counts(told), convention=Basis.INCLUSIVE)
    if kind is Kind.INFERENCE or kind is Kind.EMBEDDING:
        read_answer(step, opened_map(attributes.get("mlflow.spanOutputs")))
        if step.failed:
            step.output_begun = step.usage is not None or bool(step.ids)
    return step


def _counts(told: Mapping[str, Any]) -> Counts:
    get = told.get
    return {
        "input": get("input_tokens"),
        "output": get("output_tokens"),
        "cache_read": get("cache_read_input_tokens"),
        "cache_write": get("cache_creation_input_tokens"),
        "cache_write_1h": get("cache_creation_input_tokens_above_1hr"),
    }


def _plain(attributes: Attributes, key: str) -> str | None:
    """A word, which is sent as JSON text; None for anything else."""
    value = attributes.get(key)
    if not isinstance(value, str) or len(value) > MOST_TEXT:
        return None
    if not value.startswith('"'):
        return value or None
    try:
        word = json.loads(value)
    except ValueError:
        return None
    return word if isinstance(word, str) and word else None


register(Dialect(name="mlflow", scopes=("mlflow.",), keys=("mlflow.spanType",), rank=50, span=_span))
