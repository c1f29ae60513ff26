"""Dialect `openlit`: the conventions, with made-up request options and tool names on chat spans.

Its Anthropic and Bedrock packages, Python's and JavaScript's, pass the provider's own, exclusive input count
on, its Gemini packages an output count without thinking. Its cost is its own
estimate, and 0 wherever it could not fetch its price list.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from otel_cost.core.model.vocabulary import Basis, Flag, Kind
from otel_cost.core.normalise import Dialect, register
from otel_cost.core.normalise._read import as_text, reported_nano
from otel_cost.core.normalise._usage import gather, settle
from otel_cost.core.normalise.semconv import COUNT_FIELDS, OPERATIONS, kind_of, read_log, read_span

if TYPE_CHECKING:
    from otel_cost.core.model.attributes import Attributes
    from otel_cost.core.model.event import LogEvent, SpanEvent
    from otel_cost.core.model.step import Step

# Not of the conventions. What a task of an agent framework carries sums up the calls in it.
_OPERATIONS: Final[dict[str, Kind]] = {
    "model_request": Kind.INFERENCE,
    "execute_task": Kind.WORKFLOW,
    "task": Kind.WORKFLOW,
    "execution": Kind.WORKFLOW,
    "agent": Kind.AGENT,
    "vectordb": Kind.OTHER,
    "speech_to_text": Kind.INFERENCE,
    "text_to_speech": Kind.INFERENCE,
    "translate": Kind.INFERENCE,
}
_FRAMEWORKS: Final = frozenset({"langchain", "litellm"})  # named as provider where it is the library in between


def _span(span: SpanEvent) -> Step | None:
    attributes = span.attributes
    told = attributes.get("gen_ai.operation.name")
    operation = told if isinstance(told, str) and told else None
    named, _, model = span.name.partition(" ")
    bare = operation is None and span.is_error and span.scope.name.startswith(_OWN) and bool(model)
    if bare:
        operation = named  # a call that was refused has nothing but its name
    kind = OPERATIONS.get(operation or "") or _OPERATIONS.get(operation or "") or kind_of(attributes, operation)
    if kind is None:
        return None
    step = read_span(
        span,
        dialect="openlit",
        convention=_convention(span.scope.name),
        kind=kind,
        operation=operation,
    )
    if step is None:
        return None
    _add_thinking(step, attributes)
    if bare:
        step.requested_model = step.requested_model or model
    if step.kind is Kind.INFERENCE and step.usage is not None and _guessed(span):
        step.flags |= {Flag.ESTIMATED, Flag.INCOMPLETE}
    if step.provider in _FRAMEWORKS:
        step.provider = None
    if step.kind is Kind.TOOL:
        step.arguments = step.arguments or as_text(attributes.get("gen_ai.tool.args") or attributes.get(_TOOL_INPUT))
        step.result = step.result or as_text(attributes.get("gen_ai.tool.output"))
    step.reported_nano = reported_nano(attributes.get("gen_ai.usage.cost"))
    return step


def _guessed(span: SpanEvent) -> bool:
    """Of a stream that tells no counts OpenLIT counts the words itself, and then has no cached part to tell."""
    attributes = span.attributes
    return (
        span.scope.name == _OWN + "openai"
        and attributes.get("gen_ai.request.stream") is True
        and "gen_ai.usage.cache_read.input_tokens" not in attributes
    )


_OWN: Final = "openlit.instrumentation."
_OWN_JS: Final = "@openlit/instrumentation-"
_GEMINI: Final = (_OWN + "google_ai_studio", _OWN + "vertexai")
_TOOL_INPUT: Final = "gen_ai.tool.input"


def _add_thinking(step: Step, attributes: Attributes) -> None:
    if step.kind is Kind.INFERENCE and step.scope.startswith(_GEMINI):
        told, _ = gather(attributes, COUNT_FIELDS)
        step.usage, step.basis, step.problem = settle(told, convention=Basis.INCLUSIVE, reasoning_outside=True)


def _log(log: LogEvent) -> Step | None:
    step = read_log(log, dialect="openlit", convention=_convention(log.scope.name))
    if step is not None:
        _add_thinking(step, log.attributes)
    return step


def _convention(scope: str) -> Basis | None:
    package = scope.removeprefix(_OWN).removeprefix(_OWN_JS)
    if package.startswith(("anthropic", "bedrock")):
        return Basis.EXCLUSIVE
    return Basis.INCLUSIVE if package.startswith("openai") else None


register(Dialect(name="openlit", scopes=("openlit", "@openlit/"), keys=("openlit.",), rank=30, span=_span, log=_log))
