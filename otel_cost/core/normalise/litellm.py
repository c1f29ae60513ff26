"""Dialect `litellm`: LiteLLM's OpenTelemetry callback.

Two spans tell each call: one with `gen_ai.*` and a "raw" child that carries the
provider's answer as Python reprs under `llm.<provider>.*`. With an application
span active the `gen_ai.*` attributes are written onto THAT span, call after call
over each other: it is then no call but the last of several, and the raw children
tell them one by one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from otel_cost.core.model.attributes import text
from otel_cost.core.model.step import Terms
from otel_cost.core.model.vocabulary import MODEL_KINDS, Basis, Flag, Kind
from otel_cost.core.normalise import Dialect, register
from otel_cost.core.normalise._read import opened_repr, reported_nano
from otel_cost.core.normalise._usage import answered, gather, settle, settle_answer, whole
from otel_cost.core.normalise.openllmetry import read
from otel_cost.core.normalise.semconv import COUNT_FIELDS, read_span

if TYPE_CHECKING:
    from otel_cost.core.model.attributes import Attributes
    from otel_cost.core.model.event import SpanEvent
    from otel_cost.core.model.step import Step

_SCOPE: Final = "litellm"


def _span(span: SpanEvent) -> Step | None:
    if span.scope.name.startswith(_SCOPE):
        provider = _raw_provider(span.attributes)
        if provider is not None and "gen_ai.operation.name" not in span.attributes:
            return _raw(span, provider)
        return _main(span)
    if "litellm.call_id" in span.attributes or "litellm.provider.model" in span.attributes:
        return _borrowed(span)
    return read_span(span)


def _main(span: SpanEvent) -> Step | None:
    step = read(span, dialect="litellm")
    if step is not None and step.kind in MODEL_KINDS:
        _amounts(step, span.attributes)
        own = f"response:{span.attributes.get('litellm.call_id')}"
        if step.failed and own in step.ids:
            # Without an answer it puts its own name of the call where the answer's id would be.
            step.ids = tuple(key for key in step.ids if key != own)
            step.output_begun = step.usage is not None or bool(step.finish_reasons or step.output_text)
    return step


def _borrowed(span: SpanEvent) -> Step | None:
    """An application's span that LiteLLM wrote its last call on."""
    step = read_span(span, dialect="litellm", kind=Kind.AGENT, operation="invoke_agent")
    if step is None:
        return None
    _amounts(step, span.attributes)
    if step.agent is None:
        step.kind, step.operation = Kind.WORKFLOW, "invoke_workflow"
    step.flags |= {Flag.INCOMPLETE}
    return step


def _amounts(step: Step, attributes: Attributes) -> None:
    """The details of usage, which only the repr of LiteLLM's own usage object tells, and LiteLLM's price."""
    step.reported_nano = reported_nano(attributes.get("gen_ai.cost.total_cost"))
    usage = opened_repr(attributes.get("metadata.usage_object"))
    if not usage:
        return
    told, _ = gather(attributes, COUNT_FIELDS)
    detailed = answered(usage).told
    for side in ("input", "output"):
        main = told.get(side)
        if main is not None and whole(main) != whole(detailed.get(side)):
            step.flags |= {Flag.CONFLICT}
            return
    for name, value in detailed.items():
        told.setdefault(name, value)  # type: ignore[misc]  # both are Counts
    step.usage, step.basis, step.problem = settle(
        told, convention=Basis.INCLUSIVE, provider=step.provider, model=step.model
    )


def _raw(span: SpanEvent, provider: str) -> Step | None:
    """The raw child: a provider's own answer, counted the provider's own way."""
    attributes = span.attributes
    usage = opened_repr(attributes.get(f"llm.{provider}.usage"))
    embedded = attributes.get(f"llm.{provider}.object") == "list"
    step = read_span(
        span,
        dialect="litellm",
        kind=Kind.EMBEDDING if embedded else Kind.INFERENCE,
        operation="embeddings" if embedded else "chat",
    )
    if step is None:
        return None
    step.provider = None if provider == "None" else provider
    step.response_model = text(attributes, f"llm.{provider}.model")
    if identity := text(attributes, f"llm.{provider}.id"):
        step.ids = (f"response:{identity}",)
    if usage:
        settled = settle_answer(answered(usage), step.provider, step.model, raw_names=True)
        step.usage, step.basis, step.problem = settled
    tier = text(attributes, f"llm.{provider}.service_tier") or usage.get("service_tier")
    if isinstance(tier, str) and tier:
        step.terms = Terms(service_tier=tier)
    if step.failed:
        step.output_begun = step.usage is not None or bool(step.ids)
    return step


def _raw_provider(attributes: Attributes) -> str | None:
    """`openai` of a key `llm.openai.usage`, or of any other key of a raw answer."""
    found: str | None = None
    for key in attributes:
        if key.startswith("llm.") and key.endswith(_RAW_ENDS) and key.count(".") == _RAW_DOTS:
            provider = key[4 : key.rindex(".")]
            if provider not in _NOT_RAW:
                found = provider if found is None else min(found, provider)
    return found


_RAW_ENDS: Final = (".usage", ".id", ".messages", ".model")
_RAW_DOTS: Final = 2
_NOT_RAW: Final = frozenset({"request", "response", "usage", "token_count"})

register(Dialect(name="litellm", scopes=(_SCOPE,), keys=("litellm.", "metadata.user_api_key"), rank=20, span=_span))
