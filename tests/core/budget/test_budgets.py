"""Budgets: sums and levels do not depend on the order in which charges are told."""

from __future__ import annotations

from datetime import UTC, datetime
from fractions import Fraction
from typing import TYPE_CHECKING
from unittest import mock
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_cost.core.budget import Budget, Budgets, BurnLevel, Crossing, ShareLevel, Spend
from otel_cost.core.budget.series import Series
from otel_cost.core.budget.window import DAY_NS, HOUR_NS, SECOND_NS, Calendar, Lifetime, Rolling, Window
from otel_cost.core.rules.kind import Site
from otel_cost.core.rules.kinds.budgets import BudgetModel, compile_budget
from otel_cost.core.rules.kinds.defaults import Defaults
from otel_cost.core.rules.match import Matcher, compile_match
from otel_cost.document import parse_document, validate
from otel_cost.errors import DocumentError

if TYPE_CHECKING:
    from collections.abc import Sequence

USD = 10**9
T0 = int(datetime(2026, 3, 2, tzinfo=UTC).timestamp()) * SECOND_NS
LIMIT = ShareLevel("limit", Fraction(1))


def budget(
    window: Window, *levels: ShareLevel | BurnLevel, per: tuple[str, ...] = ("user",), **match: object
) -> Budget:
    return Budget(
        name="b",
        per=per,
        match=compile_match(match) if match else Matcher(),
        limit_nano=10 * USD,
        window=window,
        levels=levels or (LIMIT,),
    )


def spend(at_ns: int, nano: int, user: str | None = "u", run: str = "r", tenant: str = "t") -> Spend:
    return Spend(tenant, run, at_ns, nano, {"user": user, "workflow": "w"})


def tell(budgets: Budgets, spends: Sequence[Spend]) -> list[Crossing]:
    return [crossing for i, one in enumerate(spends) for crossing in budgets.put(one.tenant, f"c{i}", one)]


def spent(budgets: Budgets, at_ns: int) -> dict[tuple[str, ...], int]:
    return {standing.group: standing.spent_nano for standing in budgets.standings(at_ns)}


def test_the_limit_is_crossed_when_the_last_hour_holds_it_exactly() -> None:
    budgets = Budgets([budget(Rolling(HOUR_NS))])
    assert tell(budgets, [spend(T0, 4 * USD), spend(T0 + HOUR_NS, 6 * USD)]) == []
    (crossing,) = budgets.put("t", "x", spend(T0 + 1, 4 * USD))
    assert (crossing.state, crossing.at_ns, crossing.spent_nano) == ("firing", T0 + HOUR_NS, 10 * USD)
    assert budgets.advance(T0 + HOUR_NS) == []
    (resolved,) = budgets.advance(T0 + HOUR_NS + 1)
    assert (resolved.state, resolved.spent_nano) == ("resolved", 6 * USD)


def test_an_episode_is_told_once_and_a_new_one_again() -> None:
    budgets = Budgets([budget(Rolling(HOUR_NS))])
    assert len(tell(budgets, [spend(T0 + i, 10 * USD) for i in range(5)])) == 1
    assert [c.state for c in budgets.advance(T0 + 2 * HOUR_NS)] == ["resolved"]
    assert [c.state for c in budgets.put("t", "late", spend(T0 + 1, USD))] == []
    assert [c.state for c in budgets.put("t", "new", spend(T0 + 3 * HOUR_NS, 10 * USD))] == ["firing"]


def test_levels_are_crossed_one_by_one_and_the_top_burner_is_named() -> None:
    levels = (ShareLevel("50%", Fraction(1, 2)), LIMIT, ShareLevel("hard_stop", Fraction(13, 10)))
    budgets = Budgets([budget(Calendar("d"), *levels)])
    said = tell(
        budgets, [spend(T0, 5 * USD, run="a"), spend(T0 + 1, 6 * USD, run="b"), spend(T0 + 2, 2 * USD, run="c")]
    )
    assert [(c.level.name, c.top_run) for c in said] == [("50%", "a"), ("limit", "b"), ("hard_stop", "b")]


def test_a_late_charge_counts_in_its_own_day() -> None:
    budgets = Budgets([budget(Calendar("d"))])
    tell(budgets, [spend(T0 + 3 * DAY_NS, 9 * USD)])
    (crossing,) = budgets.put("t", "late", spend(T0 + 5, 10 * USD))
    assert crossing.window_start_ns == T0
    assert spent(budgets, T0 + 3 * DAY_NS) == {("t", "u"): 9 * USD}
    assert [c.state for c in budgets.advance(T0 + 3 * DAY_NS)] == ["resolved"]


def test_a_call_told_twice_counts_once_and_a_correction_moves_it() -> None:
    budgets = Budgets([budget(Calendar("d"))])
    assert [c.state for c in budgets.put("t", "c", spend(T0, 12 * USD))] == ["firing"]
    assert list(budgets.put("t", "c", spend(T0, 12 * USD))) == []
    assert spent(budgets, T0) == {("t", "u"): 12 * USD}
    assert [c.state for c in budgets.put("t", "c", spend(T0, 3 * USD))] == ["resolved"]
    budgets.put("t", "c", spend(T0, 3 * USD, user="v"))
    assert spent(budgets, T0) == {("t", "u"): 0, ("t", "v"): 3 * USD}
    budgets.put("t", "c", None)
    assert spent(budgets, T0) == {("t", "u"): 0, ("t", "v"): 0}


def test_groups_are_apart_by_tenant_and_the_unattributed_are_one() -> None:
    budgets = Budgets([budget(Calendar("d"))])
    tell(budgets, [spend(T0, 1), spend(T0, 2, tenant="o"), spend(T0, 4, user=None), spend(T0, 8, user=None, run="q")])
    assert spent(budgets, T0) == {("t", "u"): 1, ("o", "u"): 2, ("t", ""): 12}


def test_only_what_matches_counts() -> None:
    budgets = Budgets([budget(Calendar("d"), workflow={"not": "w"}), budget(Calendar("d"), workflow="w")])
    tell(budgets, [spend(T0, 1)])
    assert len(list(budgets.standings(T0))) == 1
    assert budgets.names == {"user", "workflow"}


def test_a_run_has_a_limit_for_its_whole_life() -> None:
    budgets = Budgets([budget(Lifetime(), per=("run",))])
    said = tell(budgets, [spend(T0, 6 * USD), spend(T0, 6 * USD, run="q"), spend(T0 + 30 * DAY_NS, 6 * USD)])
    assert [(c.group, c.spent_nano) for c in said] == [(("t", "r"), 12 * USD)]
    assert budgets.advance(T0 + 31 * DAY_NS) == []


def test_a_burn_rate_needs_all_its_stretches() -> None:
    burn = BurnLevel("burn_rate 6", Fraction(6), (HOUR_NS, 300 * SECOND_NS))
    budgets = Budgets([budget(Calendar("d"), burn)])
    # The day allows 10 USD: six times that pace is 2.5 USD an hour, and 0.208 USD in five minutes.
    assert tell(budgets, [spend(T0, 24 * USD // 10), spend(T0 + 3000 * SECOND_NS, USD * 15 // 100)]) == []
    assert [c.level.name for c in budgets.put("t", "x", spend(T0 + 3010 * SECOND_NS, USD // 10))] == ["burn_rate 6"]
    assert [c.state for c in budgets.advance(T0 + 2 * HOUR_NS)] == ["resolved"]


charges = st.lists(
    st.builds(
        spend,
        st.integers(0, 40).map(lambda n: T0 + n * HOUR_NS // 8),
        st.integers(0, 6).map(lambda n: n * USD),
        st.sampled_from(["u", "v", None]),
        st.sampled_from(["r", "q"]),
    ),
    max_size=14,
)
windows = st.sampled_from([Rolling(HOUR_NS), Rolling(2 * HOUR_NS), Calendar("h"), Calendar("d"), Lifetime()])


@given(charges, windows, st.randoms(use_true_random=False))
def test_order_changes_neither_sums_nor_which_levels_are_crossed(spends: list[Spend], window: Window, dice) -> None:
    levels = (ShareLevel("50%", Fraction(1, 2)), LIMIT)
    named = [(f"c{i}", one) for i, one in enumerate(spends)]
    shuffled = list(named)
    dice.shuffle(shuffled)
    outcomes = []
    for order in (named, shuffled, [*shuffled, *named]):
        budgets = Budgets([budget(window, *levels)])
        said = [crossing for name, one in order for crossing in budgets.put("t", name, one)]
        starts = {c.window_start_ns for c in said} if not isinstance(window, Rolling) else set()
        crossed = {(c.group, c.level.name) for c in said}
        outcomes.append(([spent(budgets, T0 + n * HOUR_NS) for n in range(6)], crossed, starts))
    for outcome in outcomes[1:]:
        assert [{g: n for g, n in day.items() if n} for day in outcome[0]] == [
            {g: n for g, n in day.items() if n} for day in outcomes[0][0]
        ]
        assert outcome[1:] == outcomes[0][1:]


@given(
    st.lists(st.tuples(st.integers(0, 5000), st.integers(-5, 9)), max_size=40),
    st.integers(0, 5000),
    st.integers(0, 5000),
)
def test_a_series_sums_any_stretch_exactly(entries: list[tuple[int, int]], after: int, until: int) -> None:
    with mock.patch("otel_cost.core.budget.series._BLOCK", 4):
        series = Series()
        for at, nano in entries:
            series.add(at, nano, "r")
            slid = sum(n for a, n in entries[: len(series)] if at - 900 < a <= at)
            assert series.last(900, at) == slid
    inside = [(at, nano) for at, nano in entries if after < at <= until]
    assert series.spent(after, until) == sum(nano for _, nano in inside)
    assert list(series.times(after, until)) == sorted(at for at, _ in inside)
    assert sum(series.by_run(after, until).values()) == series.spent(after, until)
    series.prune(after)
    assert len(series) == sum(at > after for at, _ in entries)
    assert series.total == sum(nano for at, nano in entries if at > after)
    assert series.spent(after, until) == sum(nano for _, nano in inside)


ZONES = ["UTC", "Europe/Berlin", "America/Sao_Paulo", "Asia/Kathmandu", "America/St_Johns", "Australia/Lord_Howe"]


@given(st.integers(0, 2**62), st.sampled_from(ZONES), st.sampled_from(["h", "d", "w", "mo"]))
def test_calendar_windows_hold_their_moments_and_touch(at_ns: int, zone: str, unit) -> None:
    window = Calendar(unit, ZoneInfo(zone))
    start, end = window.bounds(at_ns)
    assert start <= at_ns < end
    assert window.bounds(start) == (start, end)
    assert window.bounds(end - 1) == (start, end)
    if unit != "h":  # an hour in which a half-hour zone changes its clock is cut
        assert window.bounds(end)[0] == end


def test_days_are_local_and_as_long_as_they_are() -> None:
    berlin = Calendar("d", ZoneInfo("Europe/Berlin"))
    for month, day, hours in ((3, 29, 23), (10, 25, 25), (7, 1, 24)):
        noon = int(datetime(2026, month, day, 12, tzinfo=ZoneInfo("Europe/Berlin")).timestamp()) * SECOND_NS
        start, end = berlin.bounds(noon)
        assert (end - start) == hours * HOUR_NS
        assert datetime.fromtimestamp(start // SECOND_NS, ZoneInfo("Europe/Berlin")).hour == 0
    week = Calendar("w").bounds(T0 + 3 * DAY_NS)
    assert datetime.fromtimestamp(week[0] // SECOND_NS, UTC).weekday() == 0


def test_what_is_long_over_is_forgotten_and_recent_sums_stay() -> None:
    budgets = Budgets([budget(Rolling(HOUR_NS)), budget(Calendar("mo"))])
    for day in range(200):
        budgets.put("t", f"c{day}", spend(T0 + day * DAY_NS, USD // 1000, user=f"u{day % 150}"))
        budgets.advance(T0 + day * DAY_NS)
    assert len(budgets._calls) <= 2
    assert len(budgets._accounts) < 2 * 80
    assert all(account.series is None or len(account.series) <= 2 for account in budgets._accounts.values())


def compiled(text: str, timezone: str = "UTC"):
    document = parse_document(text, "b.yaml")
    return compile_budget(validate(document, BudgetModel), Site(document, (), Defaults(timezone=timezone)))


def test_a_rule_becomes_levels_in_rising_order() -> None:
    rule = compiled(
        "{name: b, per: [user], limit: {usd: 0.1, window: 2d},"
        " warn: [{at: 80%}, {burn_rate: 6, over: [1h]}, {at: 50%}],"
        " at_limit: {target: run, do: [{ask: }], hard_stop_at: 130%}}"
    )
    assert rule.budget.limit_nano == 10**8
    assert rule.budget.window == Rolling(2 * DAY_NS)
    assert [level.name for level in rule.budget.levels] == ["burn_rate 6", "50%", "80%", "limit", "hard_stop"]
    assert (rule.target, [action.verb for action in rule.actions]) == ("run", ["ask"])


def test_calendar_windows_are_those_of_the_rules_time_zone() -> None:
    rule = compiled("{name: b, limit: {usd: 1, window: 1d, kind: calendar}}", "Asia/Tokyo")
    assert rule.budget.window == Calendar("d", ZoneInfo("Asia/Tokyo"))
    assert compiled("{name: b, per: [run], limit: {usd: 1}}").budget.window == Lifetime()


@pytest.mark.parametrize(
    "text",
    [
        "{name: b, limit: {usd: 1, window: 2d, kind: calendar}}",
        "{name: b, per: [run], limit: {usd: 1}, warn: [{burn_rate: 2, over: [1h]}]}",
        "{name: b, limit: {usd: 0, window: 1d}}",
    ],
)
def test_budgets_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(DocumentError):
        compiled(text)
