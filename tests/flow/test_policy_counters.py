"""Counters are exact: equal to a naive sum over the ledger, whatever comes late, twice or after a restart."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_helper import DAY, HOUR, MINUTE, SECOND, Stage

from otel_cost.core.model.effects import Signal
from otel_cost.core.policy import Policy
from otel_cost.core.rules import load_rules
from otel_cost.document import parse_document
from otel_cost.edge.ledger import Batch
from otel_cost.edge.ledger.duckdb import DuckDbLedger

if TYPE_CHECKING:
    from otel_cost.core.budget import Spend

LENGTH = {"h": HOUR, "d": DAY, "w": 7 * DAY, "mo": 30 * DAY}
WINDOWS = ["1h", "3h", "1d", "2d", "1w", "1mo"]
CALENDARS = ["1h", "1d", "1w", "1mo"]
# Clocks change on these days: forward and back in Europe, back by half an hour in Lord Howe, over midnight in Beirut.
STARTS = [(2026, 3, 28), (2026, 10, 24), (2026, 4, 4), (2026, 3, 1), (2026, 12, 30)]
ZONES = ["UTC", "Europe/Berlin", "Australia/Lord_Howe", "America/St_Johns", "Asia/Beirut"]


def rules_of(zone: str, *, usd: int = 10**6) -> str:
    rolling = [f"{{name: r{w}, per: [user], limit: {{usd: {usd}, window: {w}}}}}" for w in WINDOWS]
    calendar = [f"{{name: c{w}, per: [team], limit: {{usd: {usd}, window: {w}, kind: calendar}}}}" for w in CALENDARS]
    lifetime = [f"{{name: life, per: [run], limit: {{usd: {usd}}}}}"]
    some = [f"{{name: some, match: {{app.feature: x, model: '*-2'}}, limit: {{usd: {usd}, window: 1d}}}}"]
    return f"defaults: {{timezone: {zone}}}\nbudgets: [{', '.join([*rolling, *calendar, *lifetime, *some])}]\n"


def label(at_ns: int, unit: str, zone: str) -> object:
    """Which calendar window a moment is in, told without the code under test."""
    local = datetime.fromtimestamp(at_ns // SECOND, ZoneInfo(zone))
    if unit == "h":
        return (at_ns + round((local.utcoffset() or timedelta()).total_seconds()) * SECOND) // HOUR, local.utcoffset()
    if unit == "d":
        return local.date()
    return local.isocalendar()[:2] if unit == "w" else (local.year, local.month)


def naive(spends: list[Spend], rule: str, now_ns: int, zone: str) -> dict[tuple[str, ...], int]:
    sums: dict[tuple[str, ...], int] = {}
    for one in spends:
        if rule.startswith("r"):
            number, unit = int("".join(filter(str.isdigit, rule))), rule[1:].lstrip("0123456789")
            inside, group = now_ns - number * LENGTH[unit] < one.at_ns <= now_ns, str(one.facts.get("user") or "")
        elif rule.startswith("c"):
            unit = rule[2:]
            inside, group = label(one.at_ns, unit, zone) == label(now_ns, unit, zone), str(one.facts.get("team") or "")
        elif rule == "life":
            inside, group = True, one.run
        else:
            inside = now_ns - DAY < one.at_ns <= now_ns and one.facts.get("app.feature") == "x"
            inside, group = inside and one.facts.get("model") == "nano-2", ""
        if inside:
            sums[group,] = sums.get((group,), 0) + one.nano
    return sums


def counted(policy: Policy, now_ns: int) -> dict[str, dict[tuple[str, ...], int]]:
    found: dict[str, dict[tuple[str, ...], int]] = {}
    for one in policy._budgets.standings(now_ns):
        if one.spent_nano:
            found.setdefault(one.budget.name, {})[one.group[1:] or ("",)] = one.spent_nano
    return found


calls = st.lists(
    st.tuples(
        st.integers(0, 6 * 24 * 12),  # five minutes
        st.integers(1, 10**7),  # nano-dollars
        st.sampled_from(["a", "b", None]),
        st.sampled_from(["core", "web"]),
        st.sampled_from(["nano-1", "nano-2"]),
        st.integers(0, 2),  # told again so often
        st.integers(0, 4),  # of which run
    ),
    min_size=1,
    max_size=30,
)


@settings(max_examples=25, deadline=None)
@given(calls, st.sampled_from(ZONES), st.sampled_from(STARTS))
def test_counters_are_the_naive_sum_over_the_ledger(calls, zone: str, first) -> None:
    start = int(datetime(*first, tzinfo=UTC).timestamp()) * SECOND
    stage, batch = Stage(rules_of(zone)), Batch()
    for number, (at, nano, user, team, model, again, run) in enumerate(calls):
        told = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "mint",
            "gen_ai.request.model": model,
            "gen_ai.usage.input_tokens": 1,
            "gen_ai.usage.output_tokens": nano,
            "gen_ai.conversation.id": f"run-{run}",
            "team.id": team,
            "app.feature": "x" if number % 2 else "y",
            **({"user.id": user} if user else {}),
        }
        span = stage.span(f"run-{run}", number + 1, start + at * 5 * MINUTE, told)
        for _ in range(again + 1):
            stage.engine.feed(Signal.TRACES, [replace(span)], 1, span.end_ns)
    end = start + 8 * DAY
    live = Policy(load_rules([parse_document(f"version: 1\n{rules_of(zone)}", "r.yaml")]))
    stage.engine.advance(start + 7 * DAY)
    batch.add(stage.engine.take())
    ledger = DuckDbLedger()
    try:
        ledger.commit(batch, 1)
        rows = list(ledger.spends(0))
    finally:
        ledger.close()
    assert len({call_id for call_id, _ in rows}) == len(rows) == len(calls)
    spends = [spend for _, spend in rows]
    assert list(live.restore(rows, (), end)) == []
    for now in range(start, end, 13 * HOUR + 7 * MINUTE):
        sums = {rule.name: naive(spends, rule.name, now, zone) for rule in live._rules.values()}
        expected = {rule: of_rule for rule, of_rule in sums.items() if of_rule}
        assert counted(stage.engine.policy, now) == expected
        assert counted(live, now) == expected  # what a restart counts again from the ledger


# --- Limits of their own ---

OVERRIDES = """
budgets:
  - name: daily
    per: [user]
    limit: {usd: 10, window: 1d}
    overrides: [{match: {user: ann}, usd: 20}, {match: {team: research}, usd: 50}]
"""
T0 = int(datetime(2026, 3, 2, tzinfo=UTC).timestamp()) * SECOND


@pytest.mark.parametrize(
    ("who", "limit"),
    [
        ({"user__id": "bob"}, 10),
        ({"user__id": "ann"}, 20),
        ({"user__id": "ann", "team__id": "research"}, 20),  # the first that matches
        ({"user__id": "eve", "team__id": "research"}, 50),
        ({}, 10),
    ],
)
def test_some_have_a_limit_of_their_own(who: dict[str, object], limit: int) -> None:
    stage = Stage(OVERRIDES)
    stage.spend("r", T0, limit - 1, **who)
    assert stage.alerts == []
    stage.spend("r", T0 + SECOND, 1, **who)
    (alert,) = stage.alerts
    assert (alert.rule, alert.evidence["limit_usd"], alert.evidence["observed"]) == ("daily", str(limit), str(limit))
    (row,) = stage.engine.policy.standings(T0 + SECOND)
    assert (row["rule"], row["limit_usd"], row["group"]) == ("daily", str(limit), {"user": who.get("user__id")})


def test_an_exception_holds_for_every_limit_of_a_budget() -> None:
    stage = Stage(
        OVERRIDES
        + "exceptions: [{name: e, applies_to: [daily], exempt: true, match: {workflow: w}, owner: o, reason: r,"
        " expires: 2027-01-01T00:00:00Z}]"
    )
    for user in ("ann", "bob"):
        stage.spend("r", T0, 100, user__id=user, otel_cost__workflow="w")
    assert {alert.kind for alert in stage.alerts} == {"exception_used"}


# --- Forecast ---


def forecast(rules: str, *spends: tuple[int, float]) -> object:
    stage = Stage(rules)
    for at, usd in spends:
        stage.spend("r", T0 + at, usd)
    (row,) = stage.engine.policy.standings(T0 + spends[-1][0])
    return row["exhausted_at"] and str(row["exhausted_at"])[:19]


def test_when_the_money_is_gone_at_the_present_pace() -> None:
    day = "budgets: [{name: b, limit: {usd: 10, window: 1d, kind: calendar}}]"
    assert forecast(day, (0, 1), (6 * HOUR, 2)) == "2026-03-02T20:00:00"
    assert forecast(day, (0, 1), (20 * HOUR, 2)) is None  # the day ends before
    life = "budgets: [{name: b, per: [run], limit: {usd: 10}}]"
    assert forecast(life, (0, 1), (HOUR, 4)) == "2026-03-02T02:00:00"
    hour = "budgets: [{name: b, limit: {usd: 10, window: 1h}}]"
    # A dollar a minute for five minutes: five more minutes to go.
    assert forecast(hour, *((minute * MINUTE, 1) for minute in range(6))) == "2026-03-02T00:09:00"
    # So slow that what was spent before leaves the window in time.
    assert forecast(hour, (0, 5), (50 * MINUTE, 0.01)) is None
    assert forecast(hour, (0, 11)) is None  # it is gone


# --- Small amounts ---


@pytest.mark.parametrize(
    ("limit", "usd", "said"),
    [
        ("0.01", 0.0115, "0.0115 of 0.01 USD spent (115%"),
        ("20", 23.456789, "23.46 of 20 USD spent (117%"),
        ("0.5", 0.575111, "0.575 of 0.5 USD spent (115%"),
        ("0.0001", 0.000115, "0.000115 of 0.0001 USD spent (115%"),
    ],
)
def test_amounts_are_as_fine_as_their_limit(limit: str, usd: float, said: str) -> None:
    stage = Stage(f"budgets: [{{name: b, limit: {{usd: {limit}, window: 1d}}}}]")
    stage.spend("r", T0, usd)
    assert said in stage.alerts[0].summary
