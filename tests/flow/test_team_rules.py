"""One team's rules with every kind in use: they load, and each does what its words say."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from otel_cost.cli import run
from otel_cost.core.rules import load_rules
from otel_cost.core.rules.kind import KINDS
from otel_cost.document import parse_document
from otel_cost.edge.rule_files import read_rules

CASE = Path(__file__).parent / "cases" / "team"


@pytest.fixture
def team(tmp_path: Path) -> Path:
    """The team's files, without kinds that this version has no engine for."""
    folder = tmp_path / "team"
    shutil.copytree(CASE, folder)
    rules = folder / "team.yaml"
    text = rules.read_text()
    for name, kind in KINDS.items():
        if kind.build is None:
            text = re.sub(rf"^{name}:\n(?:  .*\n)*", "", text, flags=re.MULTILINE)
    rules.write_text(text)
    return folder


def test_they_load_and_say_what_is_not_set_here(team: Path, capsys, monkeypatch) -> None:
    monkeypatch.delenv("SLACK_URL", raising=False)
    monkeypatch.setattr("time.time_ns", lambda: 1_780_000_000 * 10**9)  # before the exception expires
    assert run(["check", str(team)]) == 0
    out = capsys.readouterr().out
    assert "team.yaml: no mistakes" in out
    assert "SLACK_URL is not set here" in out
    rules = read_rules([str(team / "team.yaml")], {"SLACK_URL": "https://hooks.example.com/x", "GITHUB_TOKEN": "t"})
    assert [rule.name for rule in rules.budgets] == ["user-hourly", "run-cap"]


def test_after_its_day_the_exception_is_a_mistake_for_check_and_none_for_the_service(team: Path, monkeypatch) -> None:
    monkeypatch.setattr("time.time_ns", lambda: 1_900_000_000 * 10**9)
    assert run(["check", str(team)]) == 1
    assert read_rules([str(team / "team.yaml")], tells_nobody=True).exceptions[0].name == "inc-4312"


def test_each_rule_does_what_its_words_say(team: Path, capsys) -> None:
    status = run(["test", str(team)])
    assert status == 0, capsys.readouterr().out


def test_the_answer_names_every_rule_that_spoke() -> None:
    from policy_helper import SECOND, T0, Stage

    from otel_cost.core.decide import decision_json
    from otel_cost.core.hooks import read_hook

    stage = Stage("""
budgets:
  - {name: cap, per: [run], limit: {usd: 5}, at_limit: {do: [{ask: }]}}
  - {name: trial, per: [run], mode: shadow, limit: {usd: 4}, at_limit: {do: [{stop: }]}}
  - {name: slow, per: [user], limit: {usd: 3, window: 1h}, at_limit: {do: [{delay: {for: 2s}}]}}
""")
    stage.spend("s", T0, 6, user__id="ann")
    body = b'{"session_id": "s", "event": "before_tool", "tool": "bash", "user": "ann"}'
    told = decision_json(stage.engine.hook(read_hook("neutral", body, T0 + 2 * SECOND), T0 + 2 * SECOND))
    assert (told["decision"], told["rule"]) == ("ask", "cap")
    assert (told["evidence"]["observed"], told["evidence"]["threshold"]) == ("6", "5")
    assert "less than 5 USD counted, 6 now: not by itself" in told["evidence"]["would_change"]
    (also,) = told["evidence"]["also"]
    assert (also["rule"], also["decision"], also["evidence"]["threshold"]) == ("slow", "delay", "3")
    (shadow,) = told["shadow"]
    assert (shadow["rule"], shadow["decision"], shadow["evidence"]["observed"]) == ("trial", "stop", "6")
    assert load_rules([parse_document("version: 1", "x")]).hash != told["evidence"]["rules_hash"]
