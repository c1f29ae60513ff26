"""Exporter `grafana`: the OTLP gateway of Grafana Cloud; Tempo of one's own is an `otlp_grpc` or `otlp_http`.

TraceQL asks for our attributes as they are: `{ span.otel_cost.usd > 1 }`.
"""

from __future__ import annotations

import base64
from typing import Annotated

from pydantic import Field, SecretStr

from otel_cost.edge.export import register
from otel_cost.edge.export._contract import ExporterKind
from otel_cost.edge.export._http import OtlpHttp, Url, signal_urls
from otel_cost.edge.export._settings import Client, Duration


class Settings(Client):
    """As the OTLP page of a stack shows them; the token has the scope `traces:write`, and those of other signals."""

    endpoint: Annotated[Url, Field(examples=["https://otlp-gateway-prod-eu-west-0.grafana.net/otlp"])]
    instance_id: str
    token: SecretStr
    timeout: Duration = 30.0


def build(settings: Settings) -> OtlpHttp:
    """An exporter for these settings; connects on first use."""
    pair = f"{settings.instance_id}:{settings.token.get_secret_value()}"
    headers = {"authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
    return OtlpHttp(signal_urls(settings.endpoint), settings, settings.timeout, headers)


register(ExporterKind(name="grafana", settings=Settings, build=build))
