"""Run the service on free ports with the samples flowing through it, and say what happened."""

from __future__ import annotations

import json
import signal
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Annotated, Any

import grpc
import typer

from otel_cost.cli._tables import print_lines
from otel_cost.cli._terminal import console as terminal
from otel_cost.cli.serve import log_to_stderr, ready_line
from otel_cost.core.model.effects import Signal
from otel_cost.edge.config import load_config
from otel_cost.edge.files import bundled
from otel_cost.edge.otlp_files import Request, requests
from otel_cost.service import Service

_SERVICES = {
    Signal.TRACES: "opentelemetry.proto.collector.trace.v1.TraceService",
    Signal.LOGS: "opentelemetry.proto.collector.logs.v1.LogsService",
}


def demo(
    once: Annotated[bool, typer.Option("--once", help="Leave after the summary")] = False,
) -> None:
    """Run the service on free ports with the samples flowing through it over real OTLP, and say what happened."""
    console = terminal()
    log_to_stderr("error")
    with tempfile.TemporaryDirectory(prefix="otel-cost-demo-") as folder:
        loopback = "127.0.0.1:0"
        config = load_config(
            [],
            [
                f"data_dir={folder}",
                f"receivers.otlp.protocols.grpc.endpoint={loopback}",
                f"receivers.otlp.protocols.http.endpoint={loopback}",
                f"api.endpoint={loopback}",
                "engine.settle=200ms",
            ],
        )
        service = Service(config)
        service.start()
        console.print(ready_line(service, config), soft_wrap=True)
        try:
            sent = _send_samples(service)
            console.print(f"{sent} export requests sent over OTLP/gRPC and OTLP/HTTP\n")
            print_lines(_lines(service), console=console)
            page = f"http://127.0.0.1:{service.api_port}/"
            if once:
                console.print(f"The page was at {page}; without --once it stays up.")
                return
            console.print(f"Look around: {page}   (Ctrl-C ends the demo)")
            stop = threading.Event()
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: stop.set())
            stop.wait()
        finally:
            service.stop(5)


def _send_samples(service: Service) -> int:
    """Every sample, moved in time so that the last ends now; requests alternate between gRPC and HTTP."""
    told = [request for file in sorted(bundled("samples").glob("*.jsonl")) for request in _moved(file)]
    channel = grpc.insecure_channel(service.listens["grpc"])
    for number, request in enumerate(told):
        if number % 2:
            url = f"http://{service.listens['http']}/v1/{request.signal}"
            call = urllib.request.Request(  # our own loopback port
                url, request.payload, {"Content-Type": "application/x-protobuf"}
            )
            with urllib.request.urlopen(call, timeout=10):  # noqa: S310
                pass
        else:
            export = channel.unary_unary(f"/{_SERVICES[request.signal]}/Export", None, None)
            export(request.payload, timeout=10)
    channel.close()
    return len(told)


def _moved(file: Path) -> list[Request]:
    """The requests of one sample with all their times moved, so that it happened in the last hour."""
    lines = file.read_text(encoding="utf-8").splitlines()
    times = [int(value) for line in lines for value in _times(json.loads(line))]
    move = time.time_ns() - max(times)
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as moved:
        moved.write("\n".join(json.dumps(_move(json.loads(line), move)) for line in lines))
        moved.flush()
        return list(requests(Path(moved.name)))


def _times(value: Any) -> list[str]:  # noqa: ANN401  # any JSON
    if isinstance(value, dict):
        own = [item for key, item in value.items() if key.endswith("UnixNano")]
        return own + [time for item in value.values() for time in _times(item)]
    return [time for item in value for time in _times(item)] if isinstance(value, list) else []


def _move(value: Any, by_ns: int) -> Any:  # noqa: ANN401  # any JSON
    if isinstance(value, dict):
        return {
            key: str(int(item) + by_ns) if key.endswith("UnixNano") else _move(item, by_ns)
            for key, item in value.items()
        }
    return [_move(item, by_ns) for item in value] if isinstance(value, list) else value


def _lines(service: Service) -> list[dict[str, Any]]:
    """What the service makes of it, once everything has settled: every open run, and the alerts."""
    time.sleep(0.5)  # the demo's settle time, and a tick
    lines: list[dict[str, Any]] = [dict(line) for line in service.run_lines()]
    service.flush()
    return lines + [dict(line) for line in service.ledger.alerts()]
