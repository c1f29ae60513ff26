"""Scenario 5: a refactor is stopped when its rolling hour crosses the limit, in every hook dialect.

The golden files are read by people: what a harness is answered at each of its events, in the order of a run. What is
left out is `{}`. They are written by `python tests/flow/test_scenario_5.py`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "core" / "hooks"))

from policy_helper import MINUTE, T0, Stage
from test_golden import payload

from otel_cost.core.hooks import HOOKS, answer_hook, hook_event

RULES = """
budgets:
  - name: refactor-hour
    per: [run]
    match: {workflow: refactor}
    limit: {usd: 3, window: 1h}
    warn: [{at: 80%}]
    at_limit: {do: [{stop: {text: "The hour's money is spent: report what is done."}}]}
"""
GOLDEN = Path(__file__).with_name("scenario_5")
SESSION_KEYS = ("session_id", "sessionId", "conversation_id")


def of_session(told: Any, session: str) -> Any:
    """The same payload from another session."""
    if isinstance(told, dict):
        named = {key for key in (*SESSION_KEYS, "sessionID") if key in told}
        return {key: session if key in named else of_session(one, session) for key, one in told.items()}
    return told


def asked(stage: Stage, dialect: str, session: str, at_ns: int) -> dict[str, Any]:
    """One answer per event of the dialect, in the order in which its file lists them; without those that are `{}`."""
    answers = {}
    for number, name in enumerate(HOOKS[dialect].events):
        event = hook_event(dialect, of_session(payload(dialect, name), session), at_ns + number)
        answer = answer_hook(dialect, event, stage.engine.hook(event, at_ns + number))
        if dialect == "neutral":
            answer = {} if answer["decision"] == "allow" else {key: answer[key] for key in ("decision", "rule", "text")}
        if answer:
            answers[name] = answer
    return answers


def played(dialect: str) -> dict[str, Any]:
    """A run of two hours at a pace that an hour's limit bears, then a dear call, then an hour of waiting."""
    stage = Stage(RULES)

    def spend(session: str, minute: int, usd: float) -> None:
        stage.spend(session, T0 + minute * MINUTE, usd, otel_cost__workflow="refactor")

    for minute in range(0, 120, 15):  # 0.5 USD each: an hour holds four of them
        spend("refactor", minute, 0.5)
        spend("another", minute, 0.1)
    told = {"within the limit": asked(stage, dialect, "refactor", T0 + 106 * MINUTE)}
    spend("refactor", 107, 0.5)
    told["at four fifths of it"] = asked(stage, dialect, "refactor", T0 + 108 * MINUTE)
    spend("refactor", 109, 0.5)
    told["over it"] = asked(stage, dialect, "refactor", T0 + 110 * MINUTE)
    told["asked again"] = asked(stage, dialect, "refactor", T0 + 111 * MINUTE)
    told["another session"] = asked(stage, dialect, "another", T0 + 112 * MINUTE)
    stage.advance(T0 + 180 * MINUTE)
    told["an hour later"] = asked(stage, dialect, "refactor", T0 + 181 * MINUTE)
    fired = [(alert.rule, alert.state) for alert in stage.alerts if alert.kind == "budget_limit"]
    assert fired[0] == ("refactor-hour", "firing")
    return told


@pytest.mark.parametrize("dialect", HOOKS)
def test_each_harness_is_told_in_the_form_that_it_obeys(dialect: str) -> None:
    told = played(dialect)
    assert told == json.loads((GOLDEN / f"{dialect}.json").read_bytes())
    assert told["within the limit"] == told["another session"] == told["an hour later"] == {}
    # It stays: nothing of the run goes on because somebody asked twice.
    assert told["over it"] == told["asked again"]
    kinds = {HOOKS[dialect].events[name][0] for name in told["over it"]}
    assert "prompt" in kinds
    assert kinds & {"before_tool", "before_model", "permission"}


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for one in HOOKS:
        (GOLDEN / f"{one}.json").write_text(json.dumps(played(one), indent=2) + "\n")
