"""Exporter `otlp_http`: any backend that takes OTLP as protobuf over HTTP."""

from __future__ import annotations

from otel_cost.core.model.effects import Signal
from otel_cost.edge.export import register
from otel_cost.edge.export._contract import ExporterKind
from otel_cost.edge.export._http import OtlpHttp, Url, signal_urls
from otel_cost.edge.export._settings import Client, Duration, RoomyQueue


class Settings(Client):
    """`endpoint` gets `/v1/traces` and the like appended; an endpoint for one signal is used as given."""

    endpoint: Url
    traces_endpoint: Url | None = None
    logs_endpoint: Url | None = None
    metrics_endpoint: Url | None = None
    timeout: Duration = 30.0
    sending_queue: RoomyQueue = RoomyQueue()


def build(settings: Settings) -> OtlpHttp:
    """An exporter for these settings; connects on first use."""
    own = {
        Signal.TRACES: settings.traces_endpoint,
        Signal.LOGS: settings.logs_endpoint,
        Signal.METRICS: settings.metrics_endpoint,
    }
    urls = {signal: own[signal] or url for signal, url in signal_urls(settings.endpoint).items()}
    return OtlpHttp(urls, settings, settings.timeout)


register(ExporterKind(name="otlp_http", aliases=("otlphttp",), settings=Settings, build=build))
