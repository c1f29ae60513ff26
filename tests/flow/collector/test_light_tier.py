"""A Collector that balances traces over three otel-cost with one ledger: what comes of it is what one node says."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "kafka"))

from running import Process, until
from work import work
from workers import steady

import postgres
from needs import missing
from ports import free_ports

DEPLOY = Path(__file__).resolve().parents[3] / "deploy" / "collector"


def otelcol() -> str:
    cache = Path(os.environ.get("OTEL_COST_CACHE") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "otel-cost")
    built = sorted(cache.expanduser().glob("collector-*/otelcol"), key=lambda path: path.stat().st_mtime)
    named = os.environ.get("OTELCOL")
    return named or (str(built[-1]) if built else missing("otelcol", "deploy/collector/build.sh (needs Go)"))


def send(endpoint: str, bodies: list[bytes]) -> None:
    for body in bodies:
        headers = {"Content-Type": "application/x-protobuf"}
        urllib.request.urlopen(
            urllib.request.Request(f"http://{endpoint}/v1/traces", body, headers), timeout=60
        ).close()


def whole(node: Process) -> dict[str, Any]:
    """Money by everything, alerts, and the runs whose traces went to several nodes.

    But for what loops have burnt: a loop counts what its agent did meanwhile in the traces that its node has seen.
    """
    rows = node.get("/v1/report?by=model,user,session,kind")["rows"]
    alerts = [alert for alert in node.get("/v1/alerts?limit=1000")["alerts"] if alert["category"] == "loop"]
    runs = [run for number in (0, 1, 2) if (run := run_of(node, f"s-9-{number}-shared"))]
    return {
        "rows": sorted(str(row | {"wasted_usd": None}) for row in rows),
        "alerts": sorted((alert["rule"], alert["run_id"], alert["fingerprint"]) for alert in alerts),
        "runs": [(run["run_id"], run["cost_usd"], sorted(run["trace_ids"]), run["llm_calls"]) for run in runs],
    }


def run_of(node: Process, run_id: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = node.get(f"/v1/runs/{run_id}")
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_three_nodes_say_what_one_says(tmp_path: Path) -> None:
    program, config = otelcol(), "engine: {settle: 500ms, idle: 4s}\n"
    bodies = work(60, seed=9)
    (tmp_path / "single").mkdir()
    single = Process(tmp_path / "single", config)
    send(single.http, bodies)
    expected = steady(lambda: whole(single), still_s=8)
    single.stop()
    assert {len(traces) for _, _, traces, _ in expected["runs"]} == {2}
    assert expected["alerts"]
    nodes: list[Process] = []
    with postgres.running() as database:
        collector = None
        try:
            for number in range(3):
                (tmp_path / f"n{number}").mkdir()
                nodes.append(Process(tmp_path / f"n{number}", f"{config}ledger: {database.url('shared')}\n"))
            grpc, http = free_ports(2)
            told = {"LISTEN_GRPC": f"127.0.0.1:{grpc}", "LISTEN_HTTP": f"127.0.0.1:{http}"}
            told |= {f"OTEL_COST_{number}": node.grpc for number, node in enumerate(nodes)}
            command = [program, "--config", str(DEPLOY / "load-balancing.yaml")]
            with (tmp_path / "otelcol.log").open("wb") as log:
                collector = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | told)
            until(lambda: listens(http))
            send(f"127.0.0.1:{http}", bodies)
            with suppress(AssertionError):  # the comparison says more
                until(lambda: whole(nodes[0]) == expected, 300)
            assert steady(lambda: whole(nodes[0]), 360, still_s=8) == expected
            assert all("accepted_spans_total" in node.get("/metrics") for node in nodes)
        finally:
            for process in [node.process for node in nodes] + ([collector] if collector else []):
                process.kill()
                process.wait()


def listens(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=1)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True
