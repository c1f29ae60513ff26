"""Exporter `otlp_http`: any backend that takes OTLP as protobuf over HTTP."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from otel_cost.core.model.effects import Signal
from otel_cost.edge.export import register
from otel_cost.edge.export._contract import ExporterKind
from otel_cost.edge.export._http import OtlpHttp
from otel_cost.edge.export._settings import Client, Duration, RoomyQueue

Url = Annotated[str, Field(pattern=r"^https?://[^/\s?#]+[^\s?#]*$", examples=["https://collector.example.com:4318"])]


class Settings(Client):
    """`endpoint` gets `/v1/traces` and the like appended; an endpoint for one signal is used as given."""

    endpoint: Url
    traces_endpoint: Url | None = None
    logs_endpoint: Url | None = None
    metrics_endpoint: Url | None = None
    timeout: Duration = 30.0
    sending_queue: RoomyQueue = RoomyQueue()


def signal_urls(endpoint: str) -> dict[Signal, str]:
    """The URL of each signal below a base endpoint."""
    return {signal: f"{endpoint.rstrip('/')}/v1/{signal.value}" for signal in Signal}


def build(settings: Settings) -> OtlpHttp:
    """An exporter for these settings; connects on first use."""
    own: Final = {
        Signal.TRACES: settings.traces_endpoint,
        Signal.LOGS: settings.logs_endpoint,
        Signal.METRICS: settings.metrics_endpoint,
    }
    urls = {signal: own[signal] or url for signal, url in signal_urls(settings.endpoint).items()}
    return OtlpHttp(urls, settings, settings.timeout)


register(ExporterKind(name="otlp_http", aliases=("otlphttp",), settings=Settings, build=build))
