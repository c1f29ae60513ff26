"""Services on one PostgreSQL: what one machine's file does, and what only many together can show."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from running import Process, until

sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))

from kill_loop import Senders, looping_runs
from load import export_requests

from otel_cost.core.model.money import usd_to_nano
from otel_cost.edge.ledger.postgres import PostgresLedger

if TYPE_CHECKING:
    from postgres import Server

ROOT = Path(__file__).resolve().parents[2]


def command(*arguments: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-m", "otel_cost", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_a_service_keeps_its_ledger_in_a_database(postgres: Server, tmp_path: Path) -> None:
    """As with a file: what was sent is told by the API, and by the command line when nothing runs."""
    url = postgres.url()
    service = Process(tmp_path, f"ledger: {url}\nengine: {{idle: 1s, settle: 100ms}}\n")
    bodies = [*export_requests(60, 20), *looping_runs(2, 1)]
    senders = Senders(bodies, threads=1)
    senders.aim(service.grpc)
    until(lambda: senders.done)
    until(lambda: len(service.get("/v1/alerts?limit=1000")["alerts"]) >= 2 and service.get("/v1/runs?top=1000")["runs"])
    assert "otel_cost_ledger_writable 1.0" in service.get("/metrics")
    assert service.stop() == 0
    config = str(tmp_path / "config.yaml")
    rows = [json.loads(line) for line in command("report", "--by", "model", "--json", "-c", config).splitlines()]
    assert sum(row["calls"] for row in rows) > 0
    again = Process(tmp_path, f"ledger: {url}\n")
    assert again.get("/v1/report?by=model")["rows"] == rows
    assert again.stop() == 0
    assert not (tmp_path / "data" / "ledger.duckdb").exists()


@pytest.mark.slow
def test_a_database_and_a_service_that_are_killed_under_load_lose_nothing(tmp_path: Path) -> None:
    from postgres import running

    bodies = [*export_requests(6_000, 20, seed=3), *looping_runs(8, 3)]
    (tmp_path / "sent").mkdir()
    for number, body in enumerate(bodies):
        (tmp_path / "sent" / f"{number:06d}.traces.pb").write_bytes(body)
    with running() as server:
        url = server.url("ours")
        config = f"ledger: {url}\nengine: {{settle: 100ms}}\n"
        service = Process(tmp_path, config)
        senders = Senders(bodies)
        senders.aim(service.grpc)
        for round_ in range(3):
            count = len(senders.acknowledged)
            until(lambda count=count: len(senders.acknowledged) > count or senders.done)
            server.kill()
            until(lambda service=service: not_writable(service), 30)
            assert "/readyz 503" in ready(service)
            if round_ == 1:
                service.stop(9)
                senders.aim(None)
            server.start()
            if round_ == 1:
                service = Process(tmp_path, config)
                senders.aim(service.grpc)
            until(lambda service=service: "/readyz 200" in ready(service), 30)
        until(lambda: senders.done, 60)
        assert service.stop() == 0
        ledger = PostgresLedger(url)
        found = ledger.report()[0]
        alerts = Counter(
            str(alert["run_id"]) for alert in ledger.alerts(10_000) if str(alert["run_id"]).startswith("loop-")
        )
        ledger.close()
    lines = [json.loads(line) for line in command("replay", str(tmp_path / "sent"), "--json").splitlines()]
    calls = [line for line in lines if line["type"] == "call"]
    assert found["calls"] == len(calls)
    assert usd_to_nano(str(found["cost_usd"])) == sum(usd_to_nano(one["cost_usd"]) for one in calls if one["cost_usd"])
    told = Counter(line["run_id"] for line in lines if line["type"] == "alert" and line["state"] == "firing")
    assert alerts == Counter({run: count for run, count in told.items() if run.startswith("loop-")})


def ready(service: Process) -> str:
    try:
        with urllib.request.urlopen(service.api + "/readyz", timeout=10) as answer:
            return f"/readyz {answer.status}"
    except urllib.error.HTTPError as error:
        return f"/readyz {error.code} {error.read().decode()}"


def not_writable(service: Process) -> bool:
    return "otel_cost_ledger_writable 0.0" in service.get("/metrics")
