"""Exporter `datadog`: Agent Observability, which reads GenAI and OpenInference keys and prices by its own table.

Our figures arrive as attributes of their own; a supplied cost is not documented as read, so no vendor key is written.
"""

from __future__ import annotations

from typing import Literal

from pydantic import SecretStr  # read by pydantic at run time  # noqa: TC002

from otel_cost.edge.export import register
from otel_cost.edge.export._contract import TRACES_ONLY, ExporterKind
from otel_cost.edge.export._http import OtlpHttp, Url, signal_urls
from otel_cost.edge.export._settings import Client, Duration


class Settings(Client):
    """`site` is where the account lives. Traces only, over HTTP only; not on sites for governments."""

    api_key: SecretStr
    site: Literal[
        "datadoghq.com",
        "us3.datadoghq.com",
        "us5.datadoghq.com",
        "ap1.datadoghq.com",
        "ap2.datadoghq.com",
        "datadoghq.eu",
    ] = "datadoghq.com"
    endpoint: Url | None = None  # instead of the site's
    timeout: Duration = 30.0


def build(settings: Settings) -> OtlpHttp:
    """An exporter for these settings; connects on first use."""
    headers = {"dd-api-key": settings.api_key.get_secret_value(), "dd-otlp-source": "llmobs"}
    return OtlpHttp(
        signal_urls(settings.endpoint or f"https://otlp.{settings.site}"), settings, settings.timeout, headers
    )


register(ExporterKind(name="datadog", settings=Settings, build=build, signals=TRACES_ONLY))
