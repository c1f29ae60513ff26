"""Exporter `phoenix`: tokens and cost in OpenInference's words.

Phoenix shows the tokens; today it computes cost from its own table and keeps
`llm.cost.*` and `otel_cost.*` as plain attributes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pydantic import SecretStr  # read by pydantic at run time  # noqa: TC002

from otel_cost.core.enrich.keyvalue import TAGS, double_field, int_field, text_field
from otel_cost.core.model.effects import Signal
from otel_cost.core.model.money import nano_to_float
from otel_cost.core.model.vocabulary import Kind
from otel_cost.edge.export import register
from otel_cost.edge.export._contract import TRACES_ONLY, ExporterKind
from otel_cost.edge.export._http import OtlpHttp, Url, signal_urls
from otel_cost.edge.export._settings import Client, Duration
from otel_cost.edge.export._vendor import cost_parts, model_call

if TYPE_CHECKING:
    from otel_cost.core.model.effects import Outgoing

_TAG: Final = TAGS[Signal.TRACES]
_SPAN_KINDS: Final = {Kind.INFERENCE: "LLM", Kind.EMBEDDING: "EMBEDDING"}


class Settings(Client):
    """A Phoenix server; in the cloud `endpoint` is `https://app.phoenix.arize.com/s/SPACE` and `api_key` is needed."""

    endpoint: Url = "http://127.0.0.1:6006"
    api_key: SecretStr | None = None
    timeout: Duration = 30.0


def build(settings: Settings) -> OtlpHttp:
    """An exporter for these settings; connects on first use."""
    key = settings.api_key
    headers = {} if key is None else {"authorization": f"Bearer {key.get_secret_value()}"}
    return OtlpHttp(signal_urls(settings.endpoint), settings, settings.timeout, headers)


def extra_attributes(outgoing: Outgoing) -> bytes:
    """Token counts (inclusive) and cost of a model call, where the sender does not speak OpenInference itself."""
    call = model_call(outgoing, b"llm.token_count.")
    if call is None:
        return b""
    fields = b"".join(
        text_field(_TAG, key, value)
        for key, value in (
            ("openinference.span.kind", _SPAN_KINDS[call.kind]),  # without it Phoenix knows no model call
            ("llm.model_name", call.step.model),
            ("llm.provider", call.step.provider),
        )
        if value and key.encode() not in outgoing.raw
    )
    usage, parts = call.charge.usage, cost_parts(call)
    if usage is not None:
        counts = {
            "prompt": usage.input,
            "prompt_details.cache_read": usage.cache_read,
            "prompt_details.cache_write": usage.cache_write,
            "completion": usage.output,
            "completion_details.reasoning": usage.reasoning,
            "total": usage.input + usage.output,
        }
        for key, count in counts.items():
            if count is not None:
                fields += int_field(_TAG, f"llm.token_count.{key}", count)
    if call.charge.nano is not None:
        costs = {
            "prompt": sum(parts.get(part, 0) for part in ("input", "cache_read", "cache_write")),
            "completion": sum(parts.get(part, 0) for part in ("output", "reasoning")),
            "total": call.charge.nano,
        }
        for key, nano in costs.items():
            fields += double_field(_TAG, f"llm.cost.{key}", nano_to_float(nano))
    return fields


register(
    ExporterKind(name="phoenix", settings=Settings, build=build, signals=TRACES_ONLY, extra_attributes=extra_attributes)
)
