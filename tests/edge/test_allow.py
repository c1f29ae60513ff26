"""A dated exception from an alert: what it says, what it does, what is refused."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "flow"))

from policy_helper import HOUR, SECOND, T0, Stage

from otel_cost.core.enrich.records import alert_json
from otel_cost.core.rules import load_rules
from otel_cost.document import parse_document
from otel_cost.edge.allow import exception_of, find_alert, read_wish, write_exception
from otel_cost.errors import UsageError

BUDGETS = """
budgets:
  - {name: hourly, per: [user, team], limit: {usd: 10, window: 1h}, at_limit: {do: [{deny: {scope: all}}]}}
  - {name: cap, per: [run], limit: {usd: 5}, at_limit: {do: [{ask: }]}}
"""
LOOP = "loops: [{name: l, detect: repeated_error, do: [{deny: {scope: all}}]}]\n"


def wish(**more: object):
    return read_wish({"alert": "x", "for": "2h", "reason": "customer outage", "owner": "o@example.com", **more})


def alert_of(rule: str, **who: object) -> dict:
    stage = Stage(BUDGETS)
    stage.spend("r", T0, 12, **who)
    return next(alert_json(alert) for alert in stage.alerts if alert.rule == rule)


def written(tmp_path: Path, alert: dict, **more: object) -> str:
    made = exception_of(wish(**more), alert, None, T0)
    return write_exception(tmp_path, made, alert).read_text()


def test_it_names_the_group_from_the_window_on_until_its_end(tmp_path: Path) -> None:
    text = written(tmp_path, alert_of("hourly", user__id="a*n"))
    assert re.search(r"user:\n +eq: a\*n\n", text)  # a star that is meant
    assert "team: null" in text
    assert f"starts: '{datetime.fromtimestamp((T0 - HOUR) // SECOND, UTC):%Y-%m-%dT%H:%M:%SZ}'" in text
    assert f"expires: '{datetime.fromtimestamp((T0 + 2 * HOUR) // SECOND, UTC):%Y-%m-%dT%H:%M:%SZ}'" in text
    assert "exempt: true" in text


@pytest.mark.parametrize(("more", "counted"), [({}, "0"), ({"usd": "30"}, "0"), ({"usd": "3.5"}, "8.5")])
def test_it_does_what_was_asked(tmp_path: Path, more: dict, counted: str) -> None:
    text = written(tmp_path, alert_of("hourly", user__id="ann", team__id="core"), **more)
    rules = load_rules([parse_document(f"version: 1\n{BUDGETS}", "r.yaml"), parse_document(text, "e.yaml")], T0)
    assert [one.owner for one in rules.exceptions] == ["o@example.com"]
    stage = Stage(BUDGETS + text.split("version: 1\n")[1])
    stage.spend("r", T0, 12, user__id="ann", team__id="core")
    stage.spend("q", T0, 12, user__id="bob", team__id="core")
    rows = {row["group"]["user"]: row for row in stage.engine.policy.standings(T0) if row["rule"] == "hourly"}
    assert (rows["ann"]["counted_usd"], rows["bob"]["counted_usd"]) == (counted, "12")


def test_a_task_is_let_off_for_all_of_its_life(tmp_path: Path) -> None:
    text = written(tmp_path, alert_of("cap"))
    assert "run: r" in text
    assert "starts" not in text


def test_what_cannot_be_is_refused() -> None:
    alert = alert_of("cap")
    loop = {**alert, "category": "loop", "kind": "repeated_error", "rule": "l"}
    with pytest.raises(UsageError, match="knows no limit that `usd` could raise"):
        exception_of(wish(usd=3), loop, None, T0)
    with pytest.raises(UsageError, match="is about nothing that a rule refuses"):
        exception_of(wish(), {**alert, "category": "price", "kind": "unknown_price"}, None, T0)
    gone = load_rules([parse_document(f"version: 1\n{LOOP}", "r.yaml")])
    with pytest.raises(UsageError, match="is not in force any more"):
        exception_of(wish(), alert, gone, T0)
    with pytest.raises(UsageError, match="no alert `x` is known"):
        find_alert(wish(), [])
    assert find_alert(wish(alert=f"{alert['id']}-resolved"), [alert]) is alert
    assert find_alert(wish(alert=alert["fingerprint"]), [alert]) is alert


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"for": "2 hours"}, "`2 hours` is not a duration"),
        ({"for": "400d"}, "must be at most"),
        ({"reason": ""}, "reason"),
        ({"usd": -1}, "must be greater than 0"),
        ({"what": 1}, "unknown key `what`"),
        ({"reason": "a\nb"}, "form"),
    ],
)
def test_a_wish_that_is_none(told: dict, said: str) -> None:
    with pytest.raises(UsageError) as raised:
        wish(**told)
    assert said in str(raised.value)
