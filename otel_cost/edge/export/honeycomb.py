"""Exporter `honeycomb`: our `otel_cost.usd` is a numeric column there; a sampled span says what it stands for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from pydantic import SecretStr  # read by pydantic at run time  # noqa: TC002

from otel_cost.core.enrich.keyvalue import TAGS, int_field
from otel_cost.core.model.effects import Signal
from otel_cost.edge.export import register
from otel_cost.edge.export._contract import ExporterKind
from otel_cost.edge.export._http import OtlpHttp, Url, signal_urls
from otel_cost.edge.export._settings import Client, Duration

if TYPE_CHECKING:
    from otel_cost.core.model.effects import Outgoing

_ENDPOINTS: Final = {"us": "https://api.honeycomb.io", "eu": "https://api.eu1.honeycomb.io"}


class Settings(Client):
    """`api_key` is an ingest key; `dataset` is needed for metrics and in Honeycomb Classic only."""

    api_key: SecretStr
    region: Literal["us", "eu"] = "us"
    endpoint: Url | None = None  # instead of the region's
    dataset: str | None = None
    timeout: Duration = 30.0


def build(settings: Settings) -> OtlpHttp:
    """An exporter for these settings; connects on first use."""
    headers = {"x-honeycomb-team": settings.api_key.get_secret_value()}
    if settings.dataset:
        headers["x-honeycomb-dataset"] = settings.dataset
    urls = signal_urls(settings.endpoint or _ENDPOINTS[settings.region])
    return OtlpHttp(urls, settings, settings.timeout, headers)


def extra_attributes(outgoing: Outgoing) -> bytes:
    """`SampleRate`, by which Honeycomb weighs every sum and count."""
    if outgoing.sample_rate is None or outgoing.signal is not Signal.TRACES:
        return b""
    return int_field(TAGS[Signal.TRACES], "SampleRate", round(outgoing.sample_rate))


register(ExporterKind(name="honeycomb", settings=Settings, build=build, extra_attributes=extra_attributes))
