"""Services on one PostgreSQL: what one machine's file does, and what only many together can show."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from backends import Receiver
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from running import Process, until

sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))

import load
from kill_loop import EXPORT, Senders, looping_runs

from otel_cost.core.model.money import usd_to_nano
from otel_cost.edge.ledger.postgres import PostgresLedger
from otel_cost.edge.notify._outbox import Outbox

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from postgres import Server

ROOT = Path(__file__).resolve().parents[2]


def command(*arguments: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-m", "otel_cost", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=ROOT,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.slow
def test_a_service_keeps_its_ledger_in_a_database(postgres: Server, tmp_path: Path) -> None:
    """As with a file: what was sent is told by the API, and by the command line when nothing runs."""
    url = postgres.url()
    service = Process(tmp_path, f"ledger: {url}\nengine: {{idle: 1s, settle: 100ms}}\n")
    bodies = [*load.export_requests(60, 20), *looping_runs(2, 1)]
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
    # Every command opens the database itself while no service runs.
    runs = [json.loads(line) for line in command("top", "--json", "-c", config).splitlines()]
    loop = next(run["run_id"] for run in runs if run["run_id"].startswith("loop-"))
    assert json.loads(command("explain", loop, "--json", "-c", config).splitlines()[0])["run_id"] == loop
    command("outcome", "add", "merged_pr", "--run", loop, "-c", config)
    assert loop in command("outcome", "list", "--json", "-c", config)
    assert "success" in command("explain", loop, "--json", "-c", config)
    (tmp_path / "budget.yaml").write_text(
        "version: 1\nbudgets: [{name: b, limit: {usd: 0.001, window: 1d, kind: calendar}}]\n"
    )
    told = command("backtest", "--rules", str(tmp_path / "budget.yaml"), "--since", "3650d", "--json", "-c", config)
    assert '"rule": "b"' in told
    assert "nothing was changed" in command("reprice", "--why", "a look", "-c", config)
    assert json.loads(command("forget", "--run", loop, "--json", "-c", config)) == {"runs": 1}
    assert loop not in command("top", "--json", "-c", config)
    refused = subprocess.run(
        [
            sys.executable,
            "-m",
            "otel_cost",
            "backup",
            str(tmp_path / "copy"),
            "-c",
            config,
            "--data-dir",
            str(service.data),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (refused.returncode, "pg_dump" in refused.stderr) == (2, True)
    assert not (tmp_path / "data" / "ledger.duckdb").exists()


@pytest.mark.slow
def test_a_database_and_a_service_that_are_killed_under_load_lose_nothing(tmp_path: Path) -> None:
    bodies = [*load.export_requests(6_000, 20, seed=3), *looping_runs(8, 3)]
    (tmp_path / "sent").mkdir()
    for number, body in enumerate(bodies):
        (tmp_path / "sent" / f"{number:06d}.traces.pb").write_bytes(body)
    from postgres import running

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
            until(lambda service=service: not_writable(service))
            assert "/readyz 503" in ready(service)
            if round_ == 1:
                service.stop(9)
                senders.aim(None)
            server.start()
            if round_ == 1:
                service = Process(tmp_path, config)
                senders.aim(service.grpc)
            until(lambda service=service: "/readyz 200" in ready(service))
        until(lambda: senders.done, 300)
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
        with urllib.request.urlopen(service.api + "/readyz", timeout=60) as answer:
            return f"/readyz {answer.status}"
    except urllib.error.HTTPError as error:
        return f"/readyz {error.code} {error.read().decode()}"


def not_writable(service: Process) -> bool:
    return "otel_cost_ledger_writable 0.0" in service.get("/metrics")


RULES = """version: 1
budgets:
  - name: team-month
    per: [team]
    match: {{team: core}}
    limit: {{usd: 10, window: 1mo, kind: calendar}}
    warn: [{{at: 50%}}]
    at_limit: {{target: everyone, do: [{{deny: {{scope: all, text: "the team's money is used up"}}}}, {{alert: ops}}]}}
  - {{name: team-hour, per: [team], limit: {{usd: 10, window: 1h, kind: rolling}}, at_limit: {{do: [{{alert: ops}}]}}}}
  - name: burner
    per: [team]
    match: {{team: solo}}
    limit: {{usd: 9, window: 1d}}
    at_limit: {{do: [{{stop: {{}}}}]}}
contacts:
  - {{name: ops, webhook: {{url: "{url}"}}, group_by: [fingerprint], group_wait: 0s, group_interval: 0s}}
"""


def a_spend(session: str, usd: str, team: str = "core") -> bytes:
    """One model call that costs so much: a million input tokens of gpt-4o are 2.50 USD."""
    request = ExportTraceServiceRequest()
    spans = request.resource_spans.add().scope_spans.add()
    spans.scope.name = "shared.ledger"
    begun = time.time_ns() - 5 * 10**9
    span = Span(
        trace_id=random.randbytes(16),
        span_id=random.randbytes(8),
        name="chat gpt-4o",
        start_time_unix_nano=begun,
        end_time_unix_nano=begun + 10**9,
    )
    for key, value in (
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.provider.name", "openai"),
        ("gen_ai.request.model", "gpt-4o"),
        ("gen_ai.conversation.id", session),
        ("team.id", team),
    ):
        span.attributes.add(key=key).value.string_value = value
    tokens = int(Decimal(usd) / Decimal("0.0000025"))
    for key, count in (("gen_ai.usage.input_tokens", tokens), ("gen_ai.usage.output_tokens", 0)):
        span.attributes.add(key=key).value.int_value = count
    spans.spans.append(span)
    return request.SerializeToString()


def send(service: Process, *bodies: bytes) -> None:
    with grpc.insecure_channel(service.grpc) as channel:
        export = channel.unary_unary(EXPORT, None, None)
        for body in bodies:
            export(body, timeout=60)


def budget(service: Process, name: str = "team-month") -> str | None:
    rows = [row for row in service.get("/v1/budgets")["budgets"] if row["rule"] == name]
    return rows[0]["spent_usd"] if rows else None


def decision(service: Process, session: str, team: str = "core") -> str:
    body = json.dumps({"session_id": session, "event": "before_tool", "tool": "Bash", "team": team}).encode()
    request = urllib.request.Request(service.api + "/v1/decide", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return str(json.loads(answer.read())["decision"])


@pytest.mark.slow
def test_two_services_keep_one_budget(postgres: Server, tmp_path: Path) -> None:
    """Neither spends half of the month's limit by itself; what both know of it is the sum, and both refuse."""
    url, receiver = postgres.url(), Receiver()
    (tmp_path / "rules.yaml").write_text(RULES.format(url=receiver.url))
    config = f"ledger: {url}\nrules: [{tmp_path / 'rules.yaml'}]\nengine: {{settle: 200ms}}\n"
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    one, two = (Process(folder, config) for folder in folders)
    send(one, a_spend("a", "4"))
    send(two, a_spend("b", "3"))
    begun = time.monotonic()
    until(lambda: budget(one) == budget(two) == "7")
    staleness = time.monotonic() - begun
    assert {decision(one, "a"), decision(two, "b")} == {"allow"}
    send(two, a_spend("b", "4"))
    until(lambda: decision(one, "a") == decision(two, "b") == decision(two, "new") == "deny")
    assert budget(one, "team-hour") == budget(two, "team-hour") == "11"
    # A cap hits the run that burns, also where the other has its telemetry.
    send(two, a_spend("burns", "9.5", "solo"))
    until(lambda: decision(one, "burns", "solo") == decision(two, "burns", "solo") == "stop")
    assert {decision(service, "works", "solo") for service in (one, two)} == {"allow"}
    # The order in which they were started again does not matter, nor that telemetry is sent once more to the other.
    again = a_spend("a", "1")
    send(one, again)
    send(two, again)
    until(lambda: budget(one) == budget(two) == "12")
    assert one.stop(9) != 0
    one = Process(folders[0], config)
    assert budget(one) == "12"
    assert decision(one, "new") == "deny"
    until(lambda: len(two.get("/v1/alerts?limit=100")["alerts"]) >= 4)
    told = Counter((alert["rule"], alert["evidence"]["level"]) for alert in two.get("/v1/alerts?limit=100")["alerts"])
    levels = [("team-month", "50%"), ("team-month", "limit"), ("team-hour", "limit"), ("burner", "limit")]
    assert told == Counter(levels)
    until(lambda: len(receiver.got) >= 3)
    assert one.stop() == two.stop() == 0
    receiver.stop()
    said = Counter(alert["id"] for _, body in receiver.got for alert in body["data"]["alerts"])
    assert set(said.values()) == {1}
    assert len(said) == 3  # two levels of the month, one of the hour: once in the fleet
    assert staleness < 30  # settle, a batch of a second, half a second: 1.7 s; the rest is a busy machine


@pytest.mark.slow
def test_what_was_told_before_its_calls_were_written_is_told_once_whoever_is_killed(
    postgres: Server, tmp_path: Path
) -> None:
    """An alert is in the ledger at once, the calls it is about when they have settled; between the two comes a kill.

    Neither the service that told it nor another one that starts meanwhile takes it back, or tells it as another.
    """
    url, receiver = postgres.url(), Receiver()
    (tmp_path / "rules.yaml").write_text(RULES.format(url=receiver.url))
    config = f"ledger: {url}\nrules: [{tmp_path / 'rules.yaml'}]\nengine: {{settle: 10s}}\n"
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    one, two = (Process(folder, config) for folder in folders)
    send(one, a_spend("a", "11"))
    until(lambda: len(two.get("/v1/alerts?limit=100")["alerts"]) == 3)
    assert two.get("/v1/report")["rows"] == []
    for service in (two, one):
        service.stop(9)
    two, one = Process(folders[1], config), Process(folders[0], config)
    assert decision(one, "a") == decision(two, "b") == "deny"
    until(lambda: budget(one) == budget(two) == "11")
    assert decision(one, "a") == decision(two, "b") == "deny"
    assert one.stop() == two.stop() == 0
    ledger = PostgresLedger(url)
    kept = ledger.alerts(100)
    ledger.close()
    receiver.stop()
    levels = [("team-month", "50%"), ("team-month", "limit"), ("team-hour", "limit")]
    assert Counter((alert["rule"], alert["evidence"]["level"]) for alert in kept) == Counter(levels)
    assert {alert["state"] for alert in kept} == {"firing"}
    assert {alert["state"] for _, body in receiver.got for alert in body["data"]["alerts"]} == {"firing"}


FLEET_RULES = """version: 1
budgets:
  - name: user-month
    per: [user]
    limit: {{usd: 0.05, window: 1mo, kind: calendar}}
    warn: [{{at: 50%}}]
    at_limit: {{do: [{{alert: ops}}]}}
  - {{name: all-hour, limit: {{usd: 1, window: 1h, kind: calendar}}, warn: [{{at: 20%}}, {{at: 80%}}]}}
loops:
  - name: same-error-3x
    detect: repeated_error
    with: {{count: 3}}
    do: [{{deny: {{scope: same_call}}}}, {{alert: ops}}]
contacts:
  - {{name: ops, webhook: {{url: "{url}"}}, group_by: [fingerprint], group_wait: 0s, group_interval: 0s}}
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_services_come_to_what_one_comes_to_whoever_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traces spread over two services; the database is killed, a service is killed, everything is sent again.

    Totals, budgets and alerts are those of one engine that reads the same requests.
    """
    month = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)  # what they spend is read in it
    two_hours_ago = time.time_ns() - 2 * 3600 * 10**9
    monkeypatch.setattr(load, "START_NS", max(two_hours_ago, int(month.timestamp()) * 10**9))
    bodies = [*load.export_requests(8_000, load.SPANS_PER_TRACE, seed=5), *looping_runs(8, 5)]
    assert {len(set(_trace_ids(body))) for body in bodies} == {1}
    (tmp_path / "sent").mkdir()
    for number, body in enumerate(bodies):
        (tmp_path / "sent" / f"{number:06d}.traces.pb").write_bytes(body)
    rules = tmp_path / "rules.yaml"
    receiver = Receiver()
    rules.write_text(FLEET_RULES.format(url=receiver.url))
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    from postgres import running

    with running() as server:
        url = server.url("ours")
        config = f"ledger: {url}\nrules: [{rules}]\nengine: {{settle: 100ms}}\n"
        services = [Process(folder, config) for folder in folders]
        # By trace, as a load balancer does; what is sent again goes where it went before.
        shares: list[list[bytes]] = [[], []]
        for body in bodies:
            shares[_trace_ids(body)[0][0] % 2].append(body)
        senders = [Senders([*share, *share[:50]], threads=1) for share in shares]
        for sender, service in zip(senders, services, strict=True):
            sender.aim(service.grpc)
        until(lambda: all(len(sender.acknowledged) > 20 for sender in senders))
        server.kill()
        until(lambda: not_writable(services[0]) and not_writable(services[1]))
        server.start()
        until(lambda: all("/readyz 200" in ready(service) for service in services))
        count = len(senders[0].acknowledged)
        until(lambda: len(senders[0].acknowledged) > count + 10 or senders[0].done)
        services[0].stop(9)
        outbox = Outbox(folders[0] / "data" / "outbox.sqlite")
        by_the_killed = outbox.marked("ops")
        outbox.close()
        senders[0].aim(None)
        services[0] = Process(folders[0], config)
        senders[0].aim(services[0].grpc)
        until(lambda: all(sender.done for sender in senders), 300)
        lines = replayed(tmp_path / "sent", rules)
        expected = episodes(line for line in lines if line["type"] == "alert" and line["state"] == "firing")
        to_tell = {one for one in expected if one[0] != "all-hour"}
        # What a service had written and not told when it was killed, it or another one tells within a minute.
        until(lambda: to_tell <= episodes(alerts_in(receiver)).keys(), 180)
        until(lambda: spent_by_user(services[0]) == spent_by_user(services[1]))
        budgets = spent_by_user(services[0])
        assert [service.stop() for service in services] == [0, 0]
        ledger = PostgresLedger(url)
        found = ledger.report()[0]
        by_user = {row["user"]: row["cost_usd"] for row in ledger.report(["user"])}
        kept = episodes(ledger.alerts(100_000))  # each in its last state
        ledger.close()
    receiver.stop()
    calls = [line for line in lines if line["type"] == "call"]
    assert found["calls"] == len(calls)
    assert usd_to_nano(str(found["cost_usd"])) == sum(usd_to_nano(one["cost_usd"]) for one in calls if one["cost_usd"])
    assert budgets == {user: usd for user, usd in by_user.items() if usd}
    assert kept == expected
    told = [alert for alert in alerts_in(receiver) if alert["state"] == "firing"]
    # What it was about to tell and, with the database away just before, had not written down as told may come again.
    twice = {name for name, count in Counter(f"default/{alert['id']}" for alert in told).items() if count > 1}
    assert twice <= by_the_killed
    assert episodes(alerts_in(receiver)).keys() == to_tell


def alerts_in(receiver: Receiver) -> list[dict[str, Any]]:
    """All that it was told; of what began and ended before it could be told, the end alone."""
    return [alert for _, body in list(receiver.got) for alert in body["data"]["alerts"]]


def spent_by_user(service: Process) -> dict[object, object]:
    rows = service.get("/v1/budgets?limit=1000")["budgets"]
    return {row["group"]["user"]: row["spent_usd"] for row in rows if row["rule"] == "user-month"}


def episodes(alerts: Iterable[Mapping[str, Any]]) -> Counter[tuple[str, ...]]:
    """What was told and does not depend on the order of arrival: loops by run, budgets by group, level and window.

    What nobody is known to have spent does: a run's calls are nobody's until its root has come.
    """
    return Counter(
        (alert["rule"], alert["run_id"])
        if alert["category"] == "loop"
        else (
            alert["rule"],
            str(alert["evidence"]["group"]),
            alert["evidence"]["level"],
            alert["evidence"]["window_start"],
        )
        for alert in alerts
        if alert["category"] in {"loop", "budget"}
        and alert["evidence"].get("group") not in ({"user": ""}, {"user": None})
    )


def replayed(folder: Path, *rules: Path) -> list[dict[str, Any]]:
    options = [word for file in rules for word in ("--rules", str(file))]
    return [json.loads(line) for line in command("replay", str(folder), "--json", *options).splitlines()]


def _trace_ids(body: bytes) -> list[bytes]:
    return [
        span.trace_id
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
