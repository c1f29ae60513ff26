"""Rules of a running service: read again by signal, API and file watch; all or nothing; what stands is kept."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
from policy_helper import HOUR, MINUTE, SECOND, T0, Stage
from running import until

from otel_cost.cli import run as command
from otel_cost.core.policy import Policy
from otel_cost.core.rules import load_rules
from otel_cost.document import parse_document

if TYPE_CHECKING:
    from pathlib import Path


def rules_of(text: str):
    return load_rules([parse_document(f"version: 1\n{text}", "rules.yaml")])


def swap(stage: Stage, text: str, at_ns: int) -> list:
    """What the service does, with nothing in its ledger but what open runs hold."""
    rules = rules_of(text)
    stage.engine.begin_swap()
    stage.engine.swap(rules, Policy(rules), at_ns)
    return stage.said()


DAILY = "budgets: [{name: b, per: [team], limit: {usd: %s, window: 1d}, at_limit: {do: [{%s: }]}}]\n"
LOOP = "loops: [{name: l, detect: repeated_error, do: [{%s}]}]\n"


def fails(stage: Stage, times: int, at_ns: int = T0) -> None:
    for number in range(times):
        told = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": "bash",
            "gen_ai.tool.call.arguments": "{}",
            "gen_ai.conversation.id": "r",
        }
        span = stage.span("r", 500 + number + at_ns // SECOND % 1000, at_ns + number * SECOND, told)
        span.status_code, span.status_message = 2, "cannot reach the host"
        stage.feed(span)


# --- The engine ---


def test_an_edited_limit_keeps_its_spend_and_a_level_that_stands_is_not_told_again() -> None:
    stage = Stage(DAILY % (10, "ask"))
    stage.spend("r", T0, 12, team__id="x")
    first = stage.alerts[0]
    assert swap(stage, DAILY % (11, "ask"), T0 + MINUTE) == []
    assert stage.engine.policy.standings(T0 + MINUTE)[0]["spent_usd"] == "12"
    assert [alert.id for alert in stage.engine.policy.open_alerts()] == [first.id]
    (ended,) = swap(stage, DAILY % (20, "ask"), T0 + 2 * MINUTE)
    assert (ended.state, ended.fingerprint) == ("resolved", first.fingerprint)
    assert stage.asked("r", T0 + 2 * MINUTE) == "allow"
    (again,) = swap(stage, DAILY % (5, "deny"), T0 + 3 * MINUTE)
    assert (again.state, again.seq, again.evidence["limit_usd"]) == ("firing", 2, "5")


def test_an_edited_rule_decides_what_it_says_now() -> None:
    stage = Stage(DAILY % (10, "ask") + LOOP % "deny: {scope: all}")
    stage.spend("r", T0, 12, team__id="x")
    fails(stage, 3)
    now = T0 + MINUTE
    assert stage.asked("r", now) == "deny"
    assert swap(stage, DAILY % (10, "stop") + LOOP % "delay: {for: 1s}", now) == []
    assert stage.asked("r", now) == "stop"
    swap(stage, LOOP % "delay: {for: 1s}", now)
    assert stage.asked("r", now) == "delay"
    swap(stage, "defaults: {mode: shadow}\n" + LOOP % "deny: {scope: all}", now)
    assert stage.asked("r", now) == "allow"
    said = swap(stage, "defaults: {}", now)
    assert [(alert.rule, alert.state) for alert in said] == [("l", "resolved")]


def test_a_loop_that_goes_on_is_told_by_a_rule_that_came_later_and_denied() -> None:
    stage = Stage("defaults: {}")
    fails(stage, 4)
    assert stage.alerts == []
    stage = Stage(LOOP.replace("repeated_error", "chanting") % "warn: ")
    fails(stage, 4)
    said = swap(stage, LOOP % "deny: {scope: all}", T0 + MINUTE)
    assert [(alert.rule, alert.kind, alert.state) for alert in said] == [("l", "repeated_error", "firing")]
    assert stage.asked("r", T0 + MINUTE) == "deny"
    fails(stage, 2, T0 + 2 * MINUTE)
    assert stage.said() == []  # one episode, told once


def test_an_exception_that_comes_later_lifts_what_a_loop_has_led_to() -> None:
    stage = Stage(LOOP % "deny: {scope: all}")
    fails(stage, 3)
    assert stage.asked("r", T0 + MINUTE) == "deny"
    exception = (
        "exceptions: [{name: e, applies_to: [l], match: {run: r}, exempt: true, expires: 2027-01-01T00:00:00Z,"
        " owner: o, reason: r}]\n"
    )
    said = swap(stage, LOOP % "deny: {scope: all}" + exception, T0 + MINUTE)
    assert {(alert.rule, alert.kind, alert.state) for alert in said} == {
        ("l", "repeated_error", "resolved"),
        ("e", "exception_used", "firing"),
    }
    assert stage.asked("r", T0 + 2 * MINUTE) == "allow"


def test_what_comes_while_others_count_is_counted_by_them() -> None:
    stage = Stage(DAILY % (100, "ask"))
    stage.spend("before", T0, 3, team__id="x")
    rules = rules_of(DAILY % (50, "ask"))
    fresh = Policy(rules)
    known = [(call.id, fresh._spend(run, call)) for run in stage.engine.runs for call in run.calls.values()]
    stage.engine.begin_swap()
    fresh.recount(known)
    stage.spend("meanwhile", T0 + SECOND, 4, team__id="x")
    stage.engine.advance(T0 + HOUR)  # both runs are closed before the swap
    stage.engine.swap(rules, fresh, T0 + HOUR)
    (row,) = stage.engine.policy.standings(T0 + HOUR)
    assert (row["spent_usd"], row["limit_usd"]) == ("7", "50")


def test_escalation_keeps_what_it_knows_of_runs() -> None:
    rule = (
        "escalation: [{name: e, models: [strong-5], allow_if: {prior: {models: [nano-1], count: %d}},"
        " else: {do: [{deny: }]}}]"
    )
    stage = Stage(rule % 5)
    stage.spend("r", T0, 0.1)
    fails(stage, 2, T0 + MINUTE)
    stage.spend("r", T0 + 2 * MINUTE, 1, model="strong-5")
    assert [alert.state for alert in stage.alerts] == ["firing"]
    assert swap(stage, rule % 2, T0 + 3 * MINUTE) == []
    assert stage.asked("r", T0 + 3 * MINUTE) == "allow"
    assert [alert.state for alert in swap(stage, "defaults: {}", T0 + 4 * MINUTE)] == ["resolved"]


def test_decisions_and_alerts_bear_the_hash_of_the_rules_that_made_them() -> None:
    stage = Stage(DAILY % (1, "ask"))
    stage.spend("r", T0, 2, team__id="x")
    assert stage.alerts[0].evidence["rules_hash"] == stage.engine.rules.hash
    before = stage.engine.rules.hash
    swap(stage, DAILY % (2, "ask"), T0)
    assert stage.engine.rules.hash != before


# --- The service ---


def metric(metrics: str, name: str) -> float:
    return float(next(line.rpartition(" ")[2] for line in metrics.splitlines() if line.startswith(name)))


def posted(url: str, told: Any = None) -> tuple[int, Any]:
    body = b"" if told is None else json.dumps(told).encode()
    request = urllib.request.Request(url, data=body, headers={"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def decided(api: str, **told: object) -> dict[str, Any]:
    status, answer = posted(f"{api}/v1/decide", {"session_id": "s", **told})
    assert status == 200
    return answer


def spend(process, usd_tokens: int, session: str = "s") -> None:
    """One call of a model with a price, over OTLP/JSON."""
    now = time.time_ns()
    said = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.conversation.id": session,
        "user.id": "ann",
    }
    attributes = [{"key": key, "value": {"stringValue": value}} for key, value in said.items()]
    attributes.append({"key": "gen_ai.usage.input_tokens", "value": {"intValue": "0"}})
    attributes.append({"key": "gen_ai.usage.output_tokens", "value": {"intValue": str(usd_tokens)}})
    span = {
        "traceId": os.urandom(16).hex(),
        "spanId": os.urandom(8).hex(),
        "name": "chat",
        "kind": 3,
        "startTimeUnixNano": str(now - SECOND),
        "endTimeUnixNano": str(now),
        "attributes": attributes,
    }
    status, _ = posted(f"http://{process.http}/v1/traces", {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]})
    assert status == 200


RULES = """version: 1
budgets:
  - {name: daily, per: [user], limit: {usd: %s, window: 1d}, at_limit: {target: everyone, do: [{deny: {scope: all}}]}}
"""


@pytest.fixture
def served(serve, tmp_path: Path):
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES % 5)
    return serve("rules: [rules.yaml]\n"), rules


def test_rules_are_read_again_and_what_does_not_load_changes_nothing(served) -> None:
    process, rules = served
    api = process.api
    spend(process, 1_000_000)  # ten dollars
    until(lambda: decided(api, event="before_tool", tool="t", user="ann")["decision"] == "deny")
    told = decided(api, event="before_tool", tool="t", user="ann")
    first = told["evidence"]["rules_hash"]
    assert told["rule"] == "daily"
    assert "less than 5 USD counted, 10 now" in told["evidence"]["would_change"]
    (row,) = process.get("/v1/budgets")["budgets"]
    assert (row["rule"], row["group"], row["spent_usd"], row["limit_usd"]) == ("daily", {"user": "ann"}, "10", "5")

    rules.write_text((RULES % 50).replace("per:", "pre:"))
    status, answer = posted(f"{api}/-/reload")
    assert status == 400
    assert "rules.yaml:3:" in answer["error"]
    assert "did you mean `per`?" in answer["error"]
    metrics = process.get("/metrics")
    assert metric(metrics, "otel_cost_rules_last_reload_successful") == 0
    assert f'otel_cost_rules_info{{hash="{first}"}} 1.0' in metrics
    assert decided(api, event="before_tool", tool="t", user="ann")["decision"] == "deny"

    rules.write_text(RULES % 50)
    status, answer = posted(f"{api}/-/reload")
    assert (status, answer["status"]) == (200, "reloaded")
    assert answer["rules_hash"] != first
    assert decided(api, event="before_tool", tool="t", user="ann")["decision"] == "allow"
    (row,) = process.get("/v1/budgets")["budgets"]
    assert (row["spent_usd"], row["limit_usd"]) == ("10", "50")
    assert metric(process.get("/metrics"), "otel_cost_rules_last_reload_successful") == 1

    rules.write_text(RULES % 6)  # nobody says so: the file is watched
    until(lambda: decided(api, event="before_tool", tool="t", user="ann")["decision"] == "deny")
    rules.write_text(RULES % 60)
    process.process.send_signal(signal.SIGHUP)
    until(lambda: decided(api, event="before_tool", tool="t", user="ann")["decision"] == "allow")


@pytest.mark.slow
def test_an_exception_from_an_alert_is_obeyed_at_once_and_after_a_restart(served, serve, capsys) -> None:
    process, _ = served
    api = process.api
    spend(process, 1_000_000)
    until(lambda: decided(api, event="before_tool", tool="t", user="ann")["decision"] == "deny")
    until(lambda: process.get("/v1/alerts")["alerts"])
    (alert,) = process.get("/v1/alerts")["alerts"]
    folder = ["--data-dir", str(process.data)]
    until(lambda: process.get("/v1/runs/s")["alerts"])
    assert command(["explain", "s", *folder]) == 0
    story = " ".join(capsys.readouterr().out.split())
    assert "compared: user ann; 10 USD counted; from 5 USD on; limit 5 USD; 10 USD spent in all; rolling 1d" in story
    assert "would change it: less than 5 USD counted, 10 now: when what was spent before leaves the window" in story
    assert f"by rules {alert['evidence']['rules_hash']}" in story
    assert command(["allow", "nope", "--for", "2h", "--reason", "x", *folder]) == 2
    assert command(["allow", alert["id"], "--for", "2 hours", "--reason", "x", *folder]) == 2
    assert "`2 hours` is not a duration" in capsys.readouterr().err
    wish = ["allow", alert["id"], "--for", "2h", "--reason", "customer outage", "--owner", "ann@example.com"]
    assert command([*wish, *folder]) == 0
    out = capsys.readouterr().out
    assert "no limit for user ann under daily until" in out
    (file,) = (process.data / "exceptions").glob("*.yaml")
    assert f"written to {file}" in out
    text = file.read_text()
    assert text.startswith(f"# From alert {alert['id']}: ")
    for line in ("applies_to:\n  - daily", "user: ann", "exempt: true", "owner: ann@example.com", "customer outage"):
        assert line in text
    assert decided(api, event="before_tool", tool="t", user="ann")["decision"] == "allow"
    assert command(["check", str(file.parent), str(process.data.parent / "rules.yaml")]) == 0
    until(lambda: any(a["state"] == "resolved" for a in process.get("/v1/alerts")["alerts"]))
    (row,) = process.get("/v1/budgets")["budgets"]
    assert (row["counted_usd"], row["spent_usd"]) == ("0", "10")
    process.stop()
    again = serve("rules: [rules.yaml]\n")
    (row,) = again.get("/v1/budgets")["budgets"]
    assert (row["counted_usd"], row["exceptions"][0]["owner"]) == ("0", "ann@example.com")
    assert decided(again.api, event="before_tool", tool="t", user="ann")["decision"] == "allow"


def test_an_exception_to_a_rule_that_is_gone_keeps_nobody_from_starting(serve, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "exceptions"
    folder.mkdir(parents=True)
    exception = "{name: e, applies_to: [gone], exempt: true, expires: 2030-01-01T00:00:00Z, owner: o, reason: r}"
    (folder / "old.yaml").write_text(f"version: 1\nexceptions: [{exception}]\n")
    process = serve("")
    assert process.get("/readyz")["ready"]
    assert "is left out" in process.log.read_text()
