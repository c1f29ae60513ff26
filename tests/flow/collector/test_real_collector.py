"""SDK → Collector → otel-cost → Collector → backend, with the example configs of `deploy/collector/`."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

sys.path.insert(0, str(Path(__file__).parents[1]))
from backends import OverHttp
from running import until

from needs import missing
from otel_cost.edge.books import check_books
from ports import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator

DEPLOY = Path(__file__).resolve().parents[3] / "deploy" / "collector"


@pytest.fixture(scope="session")
def otelcol() -> str:
    """The Collector's binary: named by `OTELCOL`, or built before."""
    named = os.environ.get("OTELCOL")
    if named:
        return named
    cache = Path(os.environ.get("OTEL_COST_CACHE") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "otel-cost")
    built = sorted(cache.expanduser().glob("collector-*/otelcol"), key=lambda path: path.stat().st_mtime)
    return str(built[-1]) if built else missing("otelcol", "deploy/collector/build.sh (needs Go)")


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Chain:
    """The three processes and the backend behind them."""

    def __init__(self, otelcol: str, folder: Path) -> None:
        self.backend = OverHttp()
        self.before, before_http, self.cost, self.api, self.behind = free_ports(5)
        self.folder, self.otelcol = folder, otelcol
        self.env = os.environ | {
            "LISTEN_GRPC": f"127.0.0.1:{self.before}",
            "LISTEN_HTTP": f"127.0.0.1:{before_http}",
            "QUEUE_DIR": str(folder / "queue"),
            "OTEL_COST": f"127.0.0.1:{self.cost}",
            "BEHIND": f"127.0.0.1:{self.behind}",
            "BACKEND": f"http://127.0.0.1:{self.backend.port}",
        }
        self.running: dict[str, subprocess.Popen[Any]] = {}

    def start(self, name: str) -> None:
        log = (self.folder / f"{name}.log").open("ab")
        env = self.env | ({"LISTEN_GRPC": self.env["BEHIND"]} if name == "behind" else {})
        if name == "otel-cost":
            command = [sys.executable, "-m", "otel_cost", "serve", "-c", str(DEPLOY / "otel-cost.yaml")]
            command += ["--data-dir", str(self.folder / "data"), "--set", f"api.endpoint=127.0.0.1:{self.api}"]
        else:
            command = [self.otelcol, "--config", str(DEPLOY / f"{name}.yaml")]
        self.running[name] = subprocess.Popen(command, stdout=log, stderr=log, env=env)
        port = {"before": self.before, "otel-cost": self.cost, "behind": self.behind}[name]
        until(lambda: listens(port) or self.running[name].poll() is not None)
        assert self.running[name].poll() is None, (self.folder / f"{name}.log").read_text()

    def kill(self, name: str) -> None:
        self.running[name].kill()
        self.running.pop(name).wait()

    def stop(self) -> None:
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            process.wait(60)
        self.backend.stop()


@pytest.fixture
def chain(otelcol: str, tmp_path: Path) -> Iterator[Chain]:
    made = Chain(otelcol, tmp_path)
    for name in ("behind", "otel-cost", "before"):
        made.start(name)
    yield made
    made.stop()


def tell(chain: Chain, runs: int) -> set[int]:
    """So many agent runs of a model call and a tool call each, from the SDK; the ids of their spans."""
    provider = TracerProvider(resource=Resource({"service.name": "agent"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"127.0.0.1:{chain.before}", insecure=True)))
    tracer = provider.get_tracer("agent")
    ids: set[int] = set()
    for number in range(runs):
        with tracer.start_as_current_span("work", attributes={"gen_ai.conversation.id": f"c-{number}"}) as root:
            model = {
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": "openai",
                "gen_ai.request.model": "gpt-4o",
                "gen_ai.usage.input_tokens": 1000,
                "gen_ai.usage.output_tokens": 100,
            }
            with tracer.start_as_current_span("chat gpt-4o", attributes=model) as call:
                ids |= {root.get_span_context().span_id, call.get_span_context().span_id}
    provider.shutdown()
    return ids


def got(chain: Chain) -> list[int]:
    return [int.from_bytes(span.span_id, "big") for span in chain.backend.spans()]


def metrics(chain: Chain) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{chain.api}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


@pytest.mark.slow
def test_collectors_on_both_sides(chain: Chain) -> None:
    sent = tell(chain, 50)
    until(lambda: set(got(chain)) == sent)
    assert len(got(chain)) == len(sent)
    said = {one.key: one.value for span in chain.backend.spans() for one in span.attributes}
    assert said["otel_cost.usd_exact"].string_value == "0.0035"
    assert said["otel_cost.trace.usd"].double_value == 0.0035
    until(lambda: check_books(metrics(chain), at_rest=True) == [])


@pytest.mark.slow
def test_whoever_dies_between_them_nothing_is_lost(chain: Chain) -> None:
    sent = tell(chain, 20)
    chain.kill("otel-cost")
    sent |= tell(chain, 20)  # the Collector in front keeps it on disk
    chain.kill("before")
    chain.start("before")
    chain.start("otel-cost")
    chain.kill("behind")
    sent |= tell(chain, 20)
    time.sleep(1)
    chain.start("behind")
    until(lambda: set(got(chain)) == sent, 90)


def test_the_example_configs_are_what_the_collector_takes(otelcol: str) -> None:
    for name in ("before", "behind", "kafka", "load-balancing"):
        done = subprocess.run(
            [otelcol, "validate", "--config", str(DEPLOY / f"{name}.yaml")], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
