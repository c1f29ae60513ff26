"""A real Phoenix behind the `phoenix` preset: it takes the spans, shows them as model calls and keeps their cost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from running import until
from test_routing import attribute, send, trace

from needs import missing
from ports import free_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from running import Process


@pytest.fixture
def phoenix(tmp_path: Path) -> Iterator[str]:
    """The URL of a Phoenix server of its own."""
    cache = Path(os.environ.get("OTEL_COST_CACHE") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "otel-cost")
    built = sorted(cache.expanduser().glob("phoenix-*/complete"))
    if not built:
        missing("phoenix", "bash tests/flow/phoenix/install")
    (port,) = free_ports(1)
    env = os.environ | {
        "PHOENIX_PORT": str(port),
        "PHOENIX_HOST": "127.0.0.1",
        "PHOENIX_GRPC_PORT": str(free_ports(1)[0]),
        "PHOENIX_WORKING_DIR": str(tmp_path / "phoenix"),
        "PHOENIX_TELEMETRY_ENABLED": "false",
    }
    log = (tmp_path / "phoenix.log").open("ab")
    server = subprocess.Popen([str(built[-1].parent / "bin" / "phoenix"), "serve"], env=env, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: answers(url) or server.poll() is not None, 100)
        assert server.poll() is None, (tmp_path / "phoenix.log").read_text()[-2000:]
        yield url
    finally:
        server.terminate()
        server.wait(30)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/healthz", timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def spans_of(url: str) -> list[dict[str, Any]]:
    try:
        with urllib.request.urlopen(f"{url}/v1/projects/default/spans?limit=100", timeout=10) as answer:
            found: list[dict[str, Any]] = json.loads(answer.read())["data"]
    except urllib.error.HTTPError:  # the project comes with its first span
        return []
    return found


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_real_phoenix_takes_and_shows_what_we_send(serve: Callable[..., Process], phoenix: str) -> None:
    service = serve(f"engine: {{settle: 200ms}}\nexporters: {{phoenix: {{endpoint: '{phoenix}'}}}}")
    spans = trace(bytes(range(16)), 1_000_000)
    spans[0].attributes.append(attribute("gen_ai.response.model", "gpt-4o"))
    send(service, spans)
    until(lambda: len(spans_of(phoenix)) == len(spans), 60)
    shown = {one["name"]: one for one in spans_of(phoenix)}
    assert shown["chat"]["span_kind"] == "LLM"
    said = shown["chat"]["attributes"]
    assert said["llm.token_count.prompt"] == 1_000_000
    assert said["llm.token_count.completion"] == 10
    assert said["otel_cost.usd_exact"] == "2.5001"
    assert said["otel_cost.usd"] == pytest.approx(2.5001)
    assert shown["work"]["attributes"]["otel_cost.trace.usd"] == pytest.approx(2.5001)
