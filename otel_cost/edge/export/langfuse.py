"""Exporter `langfuse`: tokens and cost in disjoint buckets, because Langfuse adds up whatever buckets it is given."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Final, Literal

from pydantic import SecretStr  # read by pydantic at run time  # noqa: TC002

from otel_cost.core.enrich.keyvalue import TAGS, text_field
from otel_cost.core.model.effects import Signal
from otel_cost.edge.export import register
from otel_cost.edge.export._contract import TRACES_ONLY, ExporterKind
from otel_cost.edge.export._http import OtlpHttp, Url, signal_urls
from otel_cost.edge.export._settings import Client, Duration
from otel_cost.edge.export._vendor import cost_parts, json_object, model_call, usd

if TYPE_CHECKING:
    from otel_cost.core.model.effects import Outgoing

_HOSTS: Final = {
    "eu": "cloud.langfuse.com",
    "us": "us.cloud.langfuse.com",
    "jp": "jp.cloud.langfuse.com",
    "hipaa": "hipaa.cloud.langfuse.com",
}
_TAG: Final = TAGS[Signal.TRACES]
_BUCKETS: Final = {
    "input": "input",
    "cache_read": "cache_read_input_tokens",
    "cache_write": "cache_creation_input_tokens",
    "output": "output",
    "reasoning": "output_reasoning_tokens",
    "fee": "fee",
}


class Settings(Client):
    """Keys of a Langfuse project. Langfuse takes traces only, over HTTP only."""

    public_key: str
    secret_key: SecretStr
    region: Literal["eu", "us", "jp", "hipaa"] = "eu"
    endpoint: Url | None = None  # instead of the region's; self-hosted: https://HOST/api/public/otel
    timeout: Duration = 30.0


def build(settings: Settings) -> OtlpHttp:
    """An exporter for these settings; connects on first use."""
    pair = f"{settings.public_key}:{settings.secret_key.get_secret_value()}"
    headers = {
        "authorization": f"Basic {base64.b64encode(pair.encode()).decode()}",
        "x-langfuse-ingestion-version": "4",  # shown at once instead of after its batch job
    }
    urls = signal_urls(settings.endpoint or f"https://{_HOSTS[settings.region]}/api/public/otel")
    return OtlpHttp(urls, settings, settings.timeout, headers)


def extra_attributes(outgoing: Outgoing) -> bytes:
    """Usage and cost of a model call, each with its total."""
    call = model_call(outgoing, b"langfuse.observation.")
    if call is None:
        return b""
    fields = b""
    usage = call.charge.usage
    if usage is not None:
        counts = {
            "input": usage.uncached_input,
            "cache_read": usage.cache_read,
            "cache_write": usage.cache_write,
            "output": usage.output - (usage.reasoning or 0),
            "reasoning": usage.reasoning,
        }
        said = {_BUCKETS[part]: count for part, count in counts.items()} | {"total": usage.input + usage.output}
        fields += text_field(_TAG, "langfuse.observation.usage_details", json_object(said))
    if call.charge.nano is not None:
        costs = {_BUCKETS.get(part, part): usd(nano) for part, nano in cost_parts(call).items()}
        costs["total"] = usd(call.charge.nano)
        fields += text_field(_TAG, "langfuse.observation.cost_details", json_object(costs))
    return fields


register(
    ExporterKind(
        name="langfuse", settings=Settings, build=build, signals=TRACES_ONLY, extra_attributes=extra_attributes
    )
)
