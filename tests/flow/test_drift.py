"""Scenario 8: work that became dearer for good is one issue, with dollars, runs and what changed, over any restart."""

from __future__ import annotations

import signal
import time
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
from backtest_helper import chat, request
from policy_helper import DAY, HOUR, SECOND, T0, Stage
from running import Process, until

from github_stub import GitHubStub
from otel_cost.cli import run
from otel_cost.core.enrich.records import alert_json
from otel_cost.core.model.effects import Signal
from otel_cost.edge.ledger import Batch
from otel_cost.edge.ledger.duckdb import DuckDbLedger
from otel_cost.edge.notify import build_sink

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from otel_cost.core.drift import Ran

RULES = """
loops: [{name: same-error, detect: repeated_error, with: {count: 2}}]
regressions:
  - name: workflow-drift
    per: [workflow]
    baseline: {last: 14d, min_runs: 20, stat: p50}
    fire: {ratio: 1.5, for: 3 of last 5}
"""


class House:
    """An engine, its ledger and the sink, as the service wires them; `restart` starts all of it anew."""

    def __init__(self, folder: Path, github: GitHubStub) -> None:
        self._folder, self._github = folder, github
        self.observed: list[Ran] = []
        self._start()

    def _start(self) -> None:
        self.ledger = DuckDbLedger(self._folder / "ledger.duckdb")
        self.stage = Stage(RULES)
        self.sink: Any = build_sink("github", {"repo": "acme/agents", "token": "t0ken", "url": self._github.url})
        self.sink.remember_in(self._folder / "github.json")
        engine = self.stage.engine
        engine.restore_drift(self.ledger.finished(0), self.ledger.sent_alerts(), T0 + 30 * DAY)
        self.alerts: list[dict[str, object]] = []
        observe = engine.drift.observe

        def noted(ran: Ran, now_ns: int) -> Any:
            self.observed.append(ran)
            return observe(ran, now_ns)

        engine.drift.observe = noted  # type: ignore[method-assign]
        self._carry_out()

    def restart(self) -> None:
        self.ledger.close()
        self._start()

    def run(self, number: int, usd: float, *models: str, tools: int = 1, workflow: str = "fix-bug") -> None:
        """One run of so many dollars, closed at its end."""
        at_ns, name = T0 + number * HOUR, f"run-{number}"
        told = {"otel_cost.workflow": workflow, "gen_ai.conversation.id": name}
        spans = []
        for n, model in enumerate(models):
            chat = {
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": "mint",
                "gen_ai.request.model": model,
                "gen_ai.usage.input_tokens": 1000 * len(models),
                "gen_ai.usage.output_tokens": round(usd * 10**9 / len(models)),
            }
            spans.append(self.stage.span(name, 1 + n, at_ns + 2 * n * SECOND, told | chat))
        for n in range(tools):
            tool = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "bash", "error.type": "exit"}
            arguments = {"gen_ai.tool.call.arguments": '{"command": "make"}', "gen_ai.tool.call.id": f"c{n}"}
            failing = self.stage.span(name, 50 + n, at_ns + (2 * n + 1) * SECOND, told | tool | arguments)
            failing.status_code, failing.status_message = 2, "make: *** Error 2"
            spans.append(failing)
        self.stage.engine.feed(Signal.TRACES, spans, number, at_ns + HOUR // 2)
        self.stage.engine.close(at_ns + HOUR // 2)
        self._carry_out()

    def _carry_out(self) -> None:
        effects = self.stage.engine.take()
        news = [alert for alert in effects.alerts if (alert.tenant, alert.id) not in self.ledger.sent_alerts()]
        for alert in [*news, *effects.again]:
            if alert.category == "drift":
                self.alerts.append(alert_json(alert))
                self.sink.send(alert_json(alert))
        batch = Batch()
        batch.add(effects)
        self.ledger.commit(batch, 1)


@pytest.fixture
def github() -> Iterator[GitHubStub]:
    stub = GitHubStub()
    yield stub
    stub.close()


@pytest.fixture
def house(tmp_path: Path, github: GitHubStub) -> Iterator[House]:
    made = House(tmp_path, github)
    yield made
    made.ledger.close()


def test_one_issue_at_the_third_breach_then_comments_then_opened_again(house: House, github: GitHubStub) -> None:
    for number in range(20):
        house.run(number, 0.4, "nano-1")
    for number in (20, 21):
        house.run(number, 1.0, "nano-1", "nano-2", tools=3)
    assert github.issues == {}
    house.run(22, 1.0, "nano-1", "nano-2", tools=3)
    (issue,) = github.issues.values()
    assert issue["title"].startswith("workflow-drift: workflow fix-bug: a run costs 1 USD, was 0.4, 2.5 times as much")
    for said in (
        "`0.4`",
        "`1.8`",
        "| model route | `nano-1` | `nano-1 → nano-2` |",
        "| calls of `bash` a run | `1` | `3` |",
        "| context tokens | `1000` | `2000` |",
        "`run-20`",
        "`run-22`",
    ):
        assert said in issue["body"], said
    house.run(23, 1.0, "nano-1", "nano-2")
    assert [len(one) for one in github.comments.values()] == [1]
    issue["state"] = "closed"  # by its owner
    house.run(24, 0.4, "nano-1")
    assert issue["state"] == "closed"
    house.run(25, 1.0, "nano-1", "nano-2")
    assert (issue["state"], len(github.issues), len(github.comments[1])) == ("open", 1, 2)
    # Other work is another matter.
    house.run(26, 5.0, "nano-2", workflow="other")
    assert len(github.posted()) == 4


def test_nothing_is_told_twice_over_restarts_and_nothing_is_forgotten(house: House, github: GitHubStub) -> None:
    for number in range(20):
        house.run(number, 0.4, "nano-1")
        if number == 10:
            house.restart()
    house.run(20, 1.0, "nano-1")
    house.run(21, 1.0, "nano-1")
    house.restart()
    house.run(22, 1.0, "nano-1")
    assert len(github.issues) == 1
    house.restart()
    house.restart()
    assert house.alerts == []
    assert len(github.posted()) == 1
    house.run(23, 1.0, "nano-1")
    assert (len(github.issues), len(github.comments[1])) == (1, 1)
    for number in range(24, 30):
        house.run(number, 0.4, "nano-1")
    assert [alert["state"] for alert in house.alerts] == ["firing", "resolved"]
    assert "Back to normal" in github.comments[1][-1]["body"]


def test_what_the_ledger_gives_back_is_what_the_engine_saw(house: House) -> None:
    for number in range(6):
        house.run(number, 0.25 * (number + 1), *["nano-1", "nano-2", "nano-1"][: 1 + number % 3], tools=number)
    found = list(house.ledger.finished(0))
    assert [one.run_id for one in found] == [one.run_id for one in house.observed]
    for written, seen in zip(found, house.observed, strict=True):
        assert written == seen
    assert any(one.loops for one in found)
    assert house.ledger.finished(T0 + 2 * HOUR).__next__().run_id == "run-2"


SERVED = """
version: 1
regressions:
  - name: workflow-drift
    per: [workflow]
    baseline: {last: 14d, min_runs: 20}
    fire: {ratio: 1.5, for: 3 of last 5}
    do: [{issue: agent-cost}]
contacts:
  - {name: agent-cost, github: {repo: acme/agents, token: "${env:ISSUE_TOKEN}", url: "%s", assignees: [ann]}}
"""


@pytest.mark.slow
def test_the_service_files_it_comments_and_opens_it_again_over_a_kill(
    tmp_path: Path, github: GitHubStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISSUE_TOKEN", "t0ken")
    (tmp_path / "rules.yaml").write_text(SERVED % github.url)
    config = "rules: [rules.yaml]\nengine: {settle: 0s, idle: 1s}\napi: {external_url: 'http://cost.example'}\n"
    begun = time.time_ns() - 3000 * SECOND

    def send(service: Process, numbers: range, output: int, model: str) -> None:
        spans = [
            chat(f"run-{n}", 2, begun + n * 60 * SECOND, output, model, otel_cost__workflow="fix-bug") for n in numbers
        ]
        urllib.request.urlopen(
            urllib.request.Request(
                f"http://{service.http}/v1/traces", request(*spans), {"content-type": "application/json"}, method="POST"
            ),
            timeout=10,
        ).close()
        sent = {f"run-{n}" for n in numbers}
        until(lambda: sent <= {run["run_id"] for run in service.get("/v1/runs?top=99")["runs"] if not run["open"]})

    first = Process(tmp_path, config)
    try:
        send(first, range(20), 4000, "gpt-5")
        send(first, range(20, 23), 20_000, "gpt-5.1")
        until(lambda: github.issues)
    finally:
        first.stop(signal.SIGKILL)
    (issue,) = github.issues.values()
    assert "a run costs 0.2 USD, was 0.04" in issue["title"]
    assert issue["assignees"] == [{"login": "ann"}]
    assert "http://cost.example/runs/run-22" in issue["body"]
    assert "| model route | `gpt-5` | `gpt-5.1` |" in issue["body"]
    second = Process(tmp_path, config)
    try:
        send(second, range(23, 24), 20_000, "gpt-5.1")
        until(lambda: github.comments[1])
        issue["state"] = "closed"
        send(second, range(24, 25), 20_000, "gpt-5.1")
        until(lambda: issue["state"] == "open" and len(github.comments[1]) == 2)
        (alert,) = [one for one in second.get("/v1/alerts")["alerts"] if one["category"] == "drift"]
        assert (alert["state"], alert["evidence"]["breaches"]) == ("firing", 3)
        (standing,) = second.get("/v1/drift")["drift"]
        assert (standing["state"], standing["group"]) == ("firing", {"workflow": "fix-bug"})
        assert (standing["baseline_usd"], standing["threshold_usd"]) == ("0.04125", "0.061875")
        # After the start the episode is known from the runs of before, with every breach.
        assert (standing["breaches"], len(standing["runs"])) == (5, 25)
    finally:
        second.stop()
    assert len(github.issues) == 1
    assert len([one for one in github.posted() if one.startswith("POST")]) == 3


def test_a_rule_of_drift_is_tested_like_any_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rules.yaml").write_text(f"version: 1\n{RULES}")
    runs = [*((n, "0.4") for n in range(20)), *((n, "1") for n in range(20, 25))]
    spans = "".join(f"      - {{usd: {usd}, run: r{n}, workflow: fix}}\n" for n, usd in runs)
    test = tmp_path / "rules.test.yaml"
    test.write_text(
        "version: 1\nrules: [rules.yaml]\ntests:\n  - name: dearer for good\n    spans:\n"
        f"{spans}    alerts: [{{rule: workflow-drift, count: 1, kind: cost_drift}}]\n"
    )
    assert run(["test", str(test)]) == 0
    assert "1 passed" in capsys.readouterr().out
