"""Exporter `langsmith`: tokens and cost as `langsmith.usage_metadata`, which its UI prefers to its own price map."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from pydantic import SecretStr  # read by pydantic at run time  # noqa: TC002

from otel_cost.core.enrich.keyvalue import TAGS, text_field
from otel_cost.core.model.effects import Signal
from otel_cost.core.model.vocabulary import Kind
from otel_cost.edge.export import register
from otel_cost.edge.export._contract import TRACES_ONLY, ExporterKind
from otel_cost.edge.export._http import OtlpHttp, Url, signal_urls
from otel_cost.edge.export._settings import Client, Duration
from otel_cost.edge.export._vendor import cost_parts, json_object, model_call, usd

if TYPE_CHECKING:
    from otel_cost.core.model.call import Call
    from otel_cost.core.model.effects import Outgoing

_HOSTS: Final = {
    "us": "api.smith.langchain.com",
    "eu": "eu.api.smith.langchain.com",
    "apac": "apac.api.smith.langchain.com",
    "aws": "aws.api.smith.langchain.com",
}
_TAG: Final = TAGS[Signal.TRACES]
_SPAN_KINDS: Final = {
    kind: text_field(_TAG, "langsmith.span.kind", run_type)
    for kind, run_type in ((Kind.INFERENCE, "llm"), (Kind.EMBEDDING, "embedding"))
}


class Settings(Client):
    """`tenant_id` is the workspace, for keys of a whole organisation. LangSmith takes traces only."""

    api_key: SecretStr
    project: str | None = None
    tenant_id: str | None = None
    region: Literal["us", "eu", "apac", "aws"] = "us"
    endpoint: Url | None = None  # instead of the region's; self-hosted: https://HOST/api/v1/otel
    timeout: Duration = 30.0


def build(settings: Settings) -> OtlpHttp:
    """An exporter for these settings; connects on first use."""
    headers = {"x-api-key": settings.api_key.get_secret_value()}
    if settings.project:
        headers["langsmith-project"] = settings.project
    if settings.tenant_id:
        headers["x-tenant-id"] = settings.tenant_id
    urls = signal_urls(settings.endpoint or f"https://{_HOSTS[settings.region]}/otel")
    return OtlpHttp(urls, settings, settings.timeout, headers)


def extra_attributes(outgoing: Outgoing) -> bytes:
    """Run type and usage of a model call."""
    call = model_call(outgoing, b"langsmith.usage_metadata")
    if call is None:
        return b""
    fields = _usage_metadata(call)
    if b"langsmith.span.kind" not in outgoing.raw:
        fields += _SPAN_KINDS[call.kind]
    return fields


def _usage_metadata(call: Call) -> bytes:
    """Counts are inclusive, with their parts as details; so are the costs."""
    usage, parts = call.charge.usage, cost_parts(call)
    said: dict[str, int | str | None] = {}
    if usage is not None:
        said |= {
            "input_tokens": usage.input,
            "output_tokens": usage.output,
            "total_tokens": usage.input + usage.output,
            "input_token_details": json_object({"cache_read": usage.cache_read, "cache_creation": usage.cache_write}),
            "output_token_details": json_object({"reasoning": usage.reasoning}),
        }
    if call.charge.nano is not None:
        read, write, reasoning = parts.get("cache_read"), parts.get("cache_write"), parts.get("reasoning")
        said |= {
            "input_cost": usd(parts.get("input", 0) + (read or 0) + (write or 0)),
            "output_cost": usd(parts.get("output", 0) + (reasoning or 0)),
            "total_cost": usd(call.charge.nano),
            "input_cost_details": json_object({"cache_read": usd(read), "cache_creation": usd(write)}),
            "output_cost_details": json_object({"reasoning": usd(reasoning)}),
        }
    return text_field(_TAG, "langsmith.usage_metadata", json_object(said)) if said else b""


register(
    ExporterKind(
        name="langsmith", settings=Settings, build=build, signals=TRACES_ONLY, extra_attributes=extra_attributes
    )
)
