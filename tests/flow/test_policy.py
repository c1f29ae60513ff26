"""Budgets and exceptions through the real engine, in virtual time: whom they name, when they speak, when they end."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from itertools import permutations
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from policy_helper import DAY, HOUR, MINUTE, SECOND, T0, Stage

from otel_cost.core.budget import Spend
from otel_cost.core.enrich.records import alert_json
from otel_cost.core.hooks import read_hook
from otel_cost.core.model.attributes import PlainAttributes
from otel_cost.core.model.effects import Signal
from otel_cost.core.model.event import LogEvent, Resource, Scope, SpanEvent
from otel_cost.core.policy import Policy, alert_of
from otel_cost.core.rules import load_rules
from otel_cost.document import parse_document
from otel_cost.errors import DocumentError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from otel_cost.core.model.finding import Alert
    from otel_cost.core.policy import Elsewhere

HOURLY = """
budgets:
  - name: team-hourly
    per: [team]
    limit: {usd: 20, window: 1h}
    at_limit: {target: top_burner, do: [{delay: {for: 5s}}], hard_stop_at: 130%}
"""
CAP = """
budgets:
  - {name: run-cap, per: [run], limit: {usd: 5}, warn: [{at: 60%}], at_limit: {do: [{ask: {}}]}}
"""


def told(stage: Stage) -> list[tuple[str, str, str]]:
    return [(alert.rule, alert.kind, alert.run_id) for alert in stage.alerts if alert.state == "firing"]


# --- Scenarios ---


def test_one_task_that_would_kill_the_month_is_warned_then_asked_and_others_keep_working() -> None:
    stage = Stage(CAP)
    for minute in range(8):
        stage.spend("big", T0 + minute * MINUTE, 0.75, model="nano-1" if minute < 3 else "nano-2")
        stage.spend("small", T0 + minute * MINUTE, 0.1)
    assert told(stage) == [("run-cap", "budget_warn", "big"), ("run-cap", "budget_limit", "big")]
    warn, limit = stage.alerts
    assert (warn.action, warn.severity, limit.action, limit.severity) == ("warn", "notice", "ask", "warning")
    assert limit.evidence["model_route"] == ["nano-1", "nano-2"]
    assert limit.evidence["observed"] == "5.25"
    assert limit.evidence["threshold"] == "5"
    assert limit.evidence["group"] == {"run": "big"}
    order = stage.engine.policy.order(limit)
    assert order is not None
    assert ([action.verb for action in order.actions], order.sessions, order.keys) == (["ask"], ("big",), ())


def test_the_alert_names_the_costliest_part_of_the_run() -> None:
    stage = Stage(CAP)
    run = {"gen_ai.conversation.id": "big"}
    agents = [
        stage.span(
            "big", 0, T0, {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "lead", **run}, parent=0
        ),
        stage.span("big", 1, T0, {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "cheap", **run}),
        stage.span("big", 2, T0, {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "dear", **run}),
    ]
    chat = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "mint",
        "gen_ai.request.model": "nano-1",
        "gen_ai.usage.input_tokens": 1,
        **run,
    }
    cheap = stage.span("big", 3, T0, chat | {"gen_ai.usage.output_tokens": 10**9}, parent=2)
    dear = stage.span("big", 4, T0 + SECOND, chat | {"gen_ai.usage.output_tokens": 5 * 10**9}, parent=3)
    stage.feed(*agents, cheap, dear)
    limit = stage.alerts[-1]
    assert limit.kind == "budget_limit"
    assert limit.evidence["costliest"] == {"name": "dear", "span_id": "0000000000000003", "cost_usd": "5"}


def test_an_hourly_cap_slows_the_run_that_burns_and_not_the_good_long_one() -> None:
    stage = Stage(HOURLY)
    for minute in range(0, 30, 2):
        stage.spend("migration", T0 + minute * MINUTE, 0.5, team__id="core")
        stage.spend("loop", T0 + minute * MINUTE + SECOND, 1, team__id="core")
    # The migration's own call crosses the limit; the alert is about the loop.
    assert told(stage) == [("team-hourly", "budget_limit", "loop")]
    (alert,) = stage.alerts
    assert (alert.action, alert.evidence["top_run_usd"], alert.evidence["target"]) == ("delay", "13", "top_burner")
    order = stage.engine.policy.order(alert)
    assert order is not None
    assert order.keys == ()
    (resolved,) = stage.advance(T0 + 2 * HOUR)
    assert (resolved.state, resolved.id, resolved.run_id) == ("resolved", f"{alert.id}-resolved", "loop")
    assert stage.engine.policy.order(alert) is None


def test_the_hook_of_the_run_that_burns_is_answered_by_its_budget_and_no_other_run_is() -> None:
    stage = Stage(HOURLY)
    assert stage.asked("loop", T0) == "allow"
    stage.spend("loop", T0, 21, team__id="core")
    stage.spend("migration", T0 + SECOND, 1, team__id="core")
    now = T0 + MINUTE
    assert [stage.asked(run, now, team__id="core") for run in ("loop", "migration")] == ["delay", "allow"]
    stage.spend("loop", now, 5, team__id="core")
    assert stage.asked("loop", now + SECOND) == "stop"
    stage.advance(T0 + 2 * HOUR)
    assert stage.asked("loop", T0 + 2 * HOUR) == "allow"


def test_everyone_of_a_group_is_answered_where_the_rule_means_everyone() -> None:
    stage = Stage(HOURLY.replace("per: [team]", "per: [user]").replace("top_burner", "everyone"))
    stage.spend("a", T0, 21, user__id="ann")
    now = T0 + MINUTE
    assert stage.asked("b", now, user__id="ann") == "delay"
    assert stage.asked("b", now, user__id="bob") == "allow"


def test_a_hard_stop_stops_and_a_shadow_rule_only_says_so() -> None:
    for mode, action in (("enforce", "stop"), ("shadow", "")):
        stage = Stage(HOURLY + f"    mode: {mode}\n")
        stage.spend("loop", T0, 26, team__id="core")
        stop = stage.alerts[-1]
        assert (stop.kind, stop.severity, stop.action) == ("budget_hard_stop", "critical", action)
        order = stage.engine.policy.order(stop)
        assert order is not None
        assert ([one.verb for one in order.actions], order.shadow) == (["stop"], mode == "shadow")


INCIDENT = (
    HOURLY
    + """
exceptions:
  - name: inc-4312
    applies_to: [team-hourly]
    match: {workflow: incident}
    grant: {usd: 30}
    expires: 2026-03-02T02:00:00Z
    owner: oncall@example.com
    reason: customer outage
"""
)


def test_an_incident_may_cost_more_until_it_is_used_up_or_expired() -> None:
    stage = Stage(INCIDENT)
    who = {"team__id": "core", "otel_cost__workflow": "incident"}
    for minute in range(4):
        stage.spend("fix", T0 + minute * MINUTE, 8, **who)
    (used,) = stage.alerts
    assert (used.rule, used.category, used.kind, used.severity) == ("inc-4312", "policy", "exception_used", "notice")
    assert used.evidence["used_usd"] == "24"
    assert used.evidence["left_usd"] == "6"
    assert (used.evidence["owner"], used.evidence["reason"]) == ("oncall@example.com", "customer outage")
    (standing,) = stage.engine.policy.standings(T0 + 4 * MINUTE)
    assert (standing["spent_usd"], standing["counted_usd"], standing["left_usd"]) == ("32", "2", "18")
    (exception,) = standing["exceptions"]
    assert (exception["name"], exception["used_usd"], exception["left_usd"]) == ("inc-4312", "30", "0")
    stage.spend("fix", T0 + 5 * MINUTE, 18, **who)
    limit = stage.alerts[-1]
    assert (limit.rule, limit.kind, limit.evidence["observed"]) == ("team-hourly", "budget_limit", "20")
    assert limit.evidence["spent_usd"] == "50"


@pytest.mark.parametrize(("late_ns", "counted"), [(0, "0"), (1, "25")])
def test_an_exception_is_void_one_nanosecond_past_its_expiry(late_ns: int, counted: str) -> None:
    stage = Stage(INCIDENT)
    who = {"team__id": "core", "otel_cost__workflow": "incident"}
    stage.spend("fix", T0 + 2 * HOUR + late_ns, 25, **who)
    (standing,) = stage.engine.policy.standings(T0 + 2 * HOUR + late_ns)
    assert standing["counted_usd"] == counted
    assert [alert.kind for alert in stage.alerts] == (["budget_limit"] if late_ns else ["exception_used"])


def test_a_refactor_is_stopped_when_its_rolling_hour_crosses_the_limit() -> None:
    stage = Stage("""
budgets:
  - name: refactor-hour
    per: [run]
    match: {workflow: refactor}
    limit: {usd: 3, window: 1h}
    at_limit: {do: [{stop: {text: The hour is spent.}}]}
""")
    for minute in range(0, 120, 10):  # 0.4 USD each: an hour holds six of them, never 3 USD
        stage.spend("r", T0 + minute * MINUTE, 0.4, otel_cost__workflow="refactor")
    assert stage.alerts == []
    stage.spend("r", T0 + 111 * MINUTE, 0.6, otel_cost__workflow="refactor")
    (alert,) = stage.alerts
    assert (alert.action, alert.run_id, alert.evidence["observed"]) == ("stop", "r", "3")
    stage.spend("other", T0 + 112 * MINUTE, 2, otel_cost__workflow="refactor")
    assert len(stage.alerts) == 1


# --- Exceptions: every kind in every window and scope ---

WINDOWS = [
    *[f"window: {window}, kind: {kind}" for window in ("1h", "1d", "1w", "1mo") for kind in ("rolling", "calendar")],
    "window: 3d",
]
SCOPES = {
    "tenant": {},
    "org": {"org__id": "x"},
    "workspace": {"workspace__id": "x"},
    "agent": {"gen_ai__agent__name": "x"},
    "team": {"team__id": "x"},
    "user": {"user__id": "x"},
    "api_key": {"api_key__id": "x"},
    "project": {"project__id": "x"},
    "workflow": {"otel_cost__workflow": "x"},
    "environment": {"deployment__environment__name": "x"},
    "model": {},
    "provider": {},
    "session": {},
    "run": {},
    "attr:app.feature": {"app__feature": "x"},
    "app.tier": {"app__tier": "x"},
}
GIVES = {
    # what is given → (dollars that count of twelve incident dollars, dollars that just reach a limit of ten)
    "": ("12", 10),
    "grant: {usd: 30}": ("0", 40),
    "multiply: 4": ("3", 40),
    "exempt: true": ("0", None),
}


@pytest.mark.parametrize("give", GIVES)
@pytest.mark.parametrize("window", [*WINDOWS, ""])
@pytest.mark.parametrize("scope", SCOPES)
def test_every_exception_works_in_every_window_and_scope(scope: str, window: str, give: str) -> None:
    if not window and scope != "run":
        return  # only runs have a lifetime
    rules = f"budgets: [{{name: b, per: ['{scope}'], limit: {{usd: 10, {window}}}}}]\n"
    if give:
        rules += (
            "exceptions: [{name: e, applies_to: [b], match: {app.incident: 'yes'}, expires: 2026-03-03T00:00:00Z,"
            f" owner: o, reason: r, {give}}}]\n"
        )
    counted, reaching = GIVES[give]
    who = {**SCOPES[scope], "app__incident": "yes"}
    stage = Stage(rules)
    stage.spend("s", T0, 12, **who)
    (standing,) = stage.engine.policy.standings(T0)
    assert (standing["spent_usd"], standing["counted_usd"]) == ("12", counted)
    assert [alert.kind for alert in stage.alerts] == ["exception_used" if give else "budget_limit"]
    # What the exception does not match counts in full, in the same group.
    stage.spend("s", T0 + SECOND, 1, **SCOPES[scope], app__incident="no")
    (standing,) = stage.engine.policy.standings(T0 + SECOND)
    assert standing["counted_usd"] == str(int(counted) + 1)
    if reaching is not None:
        stage = Stage(rules)
        stage.spend("s", T0, reaching - 1, **who)
        assert [alert.kind for alert in stage.alerts if alert.kind == "budget_limit"] == []
        stage.spend("s", T0 + SECOND, 1, **who)
        assert stage.alerts[-1].kind == "budget_limit"


def test_of_two_exceptions_the_one_that_began_last_pays_so_a_second_grant_is_worth_its_money() -> None:
    stage = Stage("""
budgets: [{name: b, limit: {usd: 10, window: 1d}}]
exceptions:
  - {name: first, applies_to: [b], grant: {usd: 5}, expires: 2026-03-03T00:00:00Z, owner: o, reason: r}
  - name: second
    applies_to: [b]
    grant: {usd: 7}
    starts: 2026-03-02T01:00:00Z
    expires: 2026-03-03T00:00:00Z
    owner: o
    reason: r
""")
    stage.spend("r", T0, 6)
    stage.spend("r", T0 + HOUR, 15)
    (standing,) = stage.engine.policy.standings(T0 + HOUR)
    assert standing["counted_usd"] == "9"
    assert {one["name"]: one["left_usd"] for one in standing["exceptions"]} == {"first": "0", "second": "0"}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9), st.booleans()), min_size=1, max_size=12),
    st.sampled_from(["window: 1h", "window: 1d, kind: calendar", "window: 1h, kind: calendar"]),
    st.sampled_from(["grant: {usd: 12}", "multiply: 3", "exempt: true"]),
    st.randoms(use_true_random=False),
)
def test_the_order_of_arrival_changes_nothing(calls, window, give, dice) -> None:
    rules = f"""
budgets: [{{name: b, per: [user], limit: {{usd: 10, {window}}}}}]
exceptions:
  - {{name: e, applies_to: [b], match: {{app.inc: '1'}}, {give}, expires: 2026-03-02T05:00:00Z, owner: o, reason: r}}
"""
    ends = [T0 + hour * HOUR for hour in range(12)]
    seen = []
    for _ in range(2):
        stage = Stage(rules)
        for step, usd, incident in calls:
            stage.spend("r", T0 + step * HOUR // 6, usd, user__id="u", app__inc="1" if incident else "0")
        standings = [stage.engine.policy.standings(end) for end in ends]
        seen.append(
            [
                [(row["spent_usd"], row["counted_usd"], row["exceptions"]) for row in rows if row["spent_usd"] != "0"]
                for rows in standings
            ]
        )
        seen.append({(a.rule, a.kind) for a in stage.alerts if a.kind == "budget_limit" and a.state == "firing"})
        dice.shuffle(calls)
    assert seen[:2] == seen[2:]


# --- Who it is for ---


def test_a_call_counts_for_whom_its_run_turns_out_to_be_for() -> None:
    stage = Stage("budgets: [{name: b, per: [user, app.feature], limit: {usd: 10, window: 1d, kind: calendar}}]")
    stage.spend("r", T0, 6)
    stage.spend("r", T0 + SECOND, 5)
    assert [alert.evidence["group"] for alert in stage.alerts] == [{"user": "", "app.feature": ""}]
    assert [row["group"] for row in stage.engine.policy.standings(T0)] == [{"user": None, "app.feature": None}]
    root = {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.conversation.id": "r",
        "user.id": "ann",
        "app.feature": "x",
    }
    stage.feed(stage.span("r", 0, T0, root, parent=0))
    assert {(alert.state, alert.evidence["group"]["user"]) for alert in stage.alerts[1:]} == {
        ("resolved", ""),
        ("firing", "ann"),
    }
    rows = stage.engine.policy.standings(T0)
    assert [(row["group"], row["counted_usd"]) for row in rows] == [({"user": "ann", "app.feature": "x"}, "11")]


def test_tenants_have_budgets_of_their_own() -> None:
    stage = Stage("budgets: [{name: b, limit: {usd: 10, window: 1d}}]")
    stage.spend("r", T0, 9)
    stage.spend("r", T0, 9, tenant="other")
    assert stage.alerts == []
    assert len(stage.engine.policy.standings(T0, tenant="other")) == 1


def test_everyone_of_a_group_is_meant_where_the_rule_says_so() -> None:
    stage = Stage(
        "budgets: [{name: b, per: [user], limit: {usd: 1, window: 1d},"
        " at_limit: {target: everyone, do: [{deny: {scope: all}}]}}]"
    )
    stage.spend("r", T0, 2, user__id="ann")
    order = stage.engine.policy.order(stage.alerts[0])
    assert order is not None
    assert order.keys == ("user:ann",)


def test_a_second_episode_is_a_second_alert_of_the_same_fingerprint() -> None:
    stage = Stage(HOURLY)
    for hour in (0, 3):
        stage.spend("loop", T0 + hour * HOUR, 21, team__id="core")
    assert [(alert.seq, alert.state) for alert in stage.alerts] == [(1, "firing"), (1, "resolved"), (2, "firing")]
    assert len({alert.fingerprint for alert in stage.alerts}) == 1
    assert len({alert.id for alert in stage.alerts}) == 3


def test_a_call_of_which_two_records_tell_counts_once() -> None:
    stage = Stage("budgets: [{name: b, limit: {usd: 10, window: 1d}}]")
    call = stage.span(
        "r",
        1,
        T0,
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "mint",
            "gen_ai.request.model": "nano-1",
            "gen_ai.usage.input_tokens": 1,
            "gen_ai.usage.output_tokens": 6 * 10**9,
        },
    )
    stage.feed(call)
    stage.feed(call)
    (row,) = stage.engine.policy.standings(T0)
    assert row["counted_usd"] == "6"


# --- Prices ---


def test_a_model_without_a_price_is_said_once_for_each_tenant_and_not_where_it_is_switched_off() -> None:
    stage = Stage("defaults: {unknown_price: warning}")
    for tenant in ("default", "default", "other"):
        stage.spend("r", T0, 1, tenant=tenant, model="nobody-knows")
    stage.advance(T0 + MINUTE)
    assert [(alert.tenant, alert.category, alert.kind, alert.severity) for alert in stage.alerts] == [
        ("default", "price", "unknown_price", "warning"),
        ("other", "price", "unknown_price", "warning"),
    ]
    quiet = Stage("defaults: {unknown_price: off}")
    quiet.spend("r", T0, 1, model="nobody-knows")
    assert quiet.advance(T0 + MINUTE) == []


# --- Restart ---


def rows_of(stage: Stage) -> list[tuple[str, Spend]]:
    """What the ledger tells of the calls of open runs."""
    policy = stage.engine.policy
    found = [(call.id, policy._spend(run, call)) for run in stage.engine.runs for call in run.calls.values()]
    return sorted(((call_id, one) for call_id, one in found if one is not None), key=lambda row: row[1].at_ns)


def restarted(rules: str) -> Policy:
    return Policy(load_rules([parse_document(f"version: 1\n{rules}", "rules.yaml")]))


def test_a_restart_counts_again_says_nothing_twice_and_goes_on_where_it_was() -> None:
    stage = Stage(INCIDENT)
    stage.spend("loop", T0, 21, team__id="core")
    stage.spend("loop", T0 + 3 * HOUR, 21, team__id="core")
    last = {alert.fingerprint: alert for alert in stage.alerts}
    policy = restarted(INCIDENT)
    told_before = [alert_of(alert_json(alert)) for alert in last.values()]
    assert list(policy.restore(rows_of(stage), told_before, T0 + 3 * HOUR)) == []
    assert policy.standings(T0 + 3 * HOUR) == stage.engine.policy.standings(T0 + 3 * HOUR)
    assert [alert.id for alert in policy.open_alerts()] == [alert.id for alert in stage.engine.policy.open_alerts()]
    ours, theirs = (list(one.advance(T0 + 5 * HOUR)) for one in (policy, stage.engine.policy))
    assert [(a.id, a.state) for a in ours] == [(a.id, a.state) for a in theirs]
    stage_again = Stage(INCIDENT)
    stage_again.engine.restore(rows_of(stage), told_before, T0 + 3 * HOUR)
    assert stage_again.said() == []
    assert stage_again.asked("loop", T0 + 3 * HOUR + MINUTE) == "delay"
    again = Spend("default", "loop", T0 + 6 * HOUR, 21 * 10**9, {"team": "core"})
    assert [a.seq for c in policy._budgets.put("default", "new", again) for a in policy._alert(c, T0 + 6 * HOUR)] == [3]


def test_a_journal_that_is_read_again_counts_no_call_beside_what_it_became() -> None:
    """What sums up calls is billed until they come: the ledger knows the call, the journal tells of its sum first."""
    rules = "budgets: [{name: b, per: [run], limit: {usd: 10}, warn: [{at: 50%}]}]"
    stage = Stage(rules)
    said = {"gen_ai.provider.name": "mint", "gen_ai.request.model": "nano-1", "gen_ai.conversation.id": "run"}
    said |= {"gen_ai.usage.input_tokens": 1, "gen_ai.usage.output_tokens": 6 * 10**9}

    def happens(on: Stage) -> set[str]:
        names = set()
        for number, parent, operation in ((1, 0, "invoke_agent"), (2, 1, "chat")):
            on.feed(stage.span("run", number, T0, {"gen_ai.operation.name": operation, **said}, parent=parent))
            on.advance(T0 + number * 10 * SECOND)
            names |= {call.id for run in on.engine.runs for call in run.calls.values()}
        return names

    assert len(happens(stage)) == 2
    told = [alert for alert in stage.alerts if alert.state == "firing"]
    assert [alert.kind for alert in told] == ["budget_warn"]
    again = Stage(rules)
    again.engine.restore(rows_of(stage), told, T0 + MINUTE)
    happens(again)
    again.engine.caught_up(T0 + MINUTE)
    assert again.said() == again.alerts == []
    # What had not been told is told when all has been read, of the call that it is about.
    untold, other = Stage(rules), Spend("default", "other", T0, 1, {})
    untold.engine.restore([("other", other)], [], T0 + MINUTE)
    happens(untold)
    assert untold.alerts == []
    untold.engine.caught_up(T0 + MINUTE)
    (alert,) = untold.said()
    assert (alert.kind, alert.state, alert.evidence["observed"]) == ("budget_warn", "firing", "6")
    assert alert.at_span_id


def test_a_journal_that_is_read_again_takes_nothing_back_that_was_known_when_it_had_been_read() -> None:
    """Who spends is said by the root, which comes last: read again, the call must not leave the user in between."""
    rules = "budgets: [{name: b, per: [user], limit: {usd: 10, window: 1d, kind: calendar}}]"
    stage = Stage(rules)
    said = {"gen_ai.operation.name": "invoke_agent", "user.id": "ann", "gen_ai.conversation.id": "run"}
    root = stage.span("run", 0, T0, said, parent=0)

    def happens(on: Stage) -> None:
        on.spend("run", T0 + SECOND, 11)
        on.feed(root)

    happens(stage)
    assert [alert.evidence["group"] for alert in stage.alerts if alert.state == "firing"][-1] == {"user": "ann"}
    told = list({alert.fingerprint: alert for alert in stage.alerts}.values())
    again = Stage(rules)
    again.engine.restore(rows_of(stage), told, T0 + MINUTE)
    happens(again)
    again.engine.caught_up(T0 + MINUTE)
    assert again.said() == again.alerts == []
    assert again.engine.policy.standings(T0 + MINUTE) == stage.engine.policy.standings(T0 + MINUTE)
    # What is news to the ledger counts when the journal has been read, at the latest when the run closes.
    late = Stage(rules)
    late.engine.restore([(call_id, replace(spend, nano=1)) for call_id, spend in rows_of(stage)], [], T0 + MINUTE)
    happens(late)
    assert late.alerts == []
    late.engine.close(T0 + MINUTE)
    assert [(alert.state, alert.evidence["group"]) for alert in late.said()] == [("firing", {"user": "ann"})]
    # Or ten minutes later, whatever becomes of the rest; and once it has been read, at once.
    slow, quick = Stage(rules), Stage(rules)
    for stage_ in (slow, quick):
        stage_.engine.restore([(call_id, replace(spend, nano=1)) for call_id, spend in rows_of(stage)], [], T0 + MINUTE)
    happens(slow)
    assert slow.advance(T0 + 10 * MINUTE) == []
    assert [alert.evidence["group"] for alert in slow.advance(T0 + 11 * MINUTE)] == [{"user": "ann"}]
    quick.engine.caught_up(T0 + MINUTE)
    happens(quick)
    assert {"user": "ann"} in [alert.evidence["group"] for alert in quick.alerts]


def test_after_a_restart_edited_rules_speak_on_what_was_spent_before() -> None:
    stage = Stage(HOURLY)
    stage.spend("loop", T0, 15, team__id="core")
    lower = restarted(HOURLY.replace("usd: 20", "usd: 10"))
    assert [(a.kind, a.state) for a in lower.restore(rows_of(stage), [], T0 + MINUTE)] == [
        ("budget_limit", "firing"),
        ("budget_hard_stop", "firing"),
    ]
    stage.spend("loop", T0 + MINUTE, 6, team__id="core")
    higher = restarted(HOURLY.replace("usd: 20", "usd: 100"))
    assert list(higher.restore(rows_of(stage), stage.alerts, T0 + MINUTE)) == []  # the journal may know of more
    said = list(higher.caught_up(T0 + MINUTE, alone=False))
    assert [(a.id, a.state) for a in said] == [(f"{stage.alerts[0].id}-resolved", "resolved")]
    assert (higher.open_alerts(), higher.expects) == ([], False)
    gone = restarted("budgets: [{name: another, limit: {usd: 1, window: 1d}}]")
    said = list(gone.restore(rows_of(stage)[:1], stage.alerts, T0 + MINUTE))
    assert [(a.rule, a.state) for a in said] == [("another", "firing"), ("team-hourly", "resolved")]


DAILY = """
budgets:
  - name: b
    per: [user]
    limit: {usd: 10, window: 1d, kind: calendar}
    at_limit: {target: everyone, do: [{deny: {scope: all}}]}
"""


def last_words(stage: Stage) -> list[Alert]:
    """What the ledger tells of episodes."""
    return [alert_of(alert_json(alert)) for alert in {(one.fingerprint, one.seq): one for one in stage.alerts}.values()]


def ids(alerts: Iterable[Alert]) -> list[str]:
    return [alert.id for alert in alerts]


def ann_crosses(stage: Stage) -> None:
    """Her limit is crossed by a call that nobody is known to have made before its root comes."""
    said = {"gen_ai.operation.name": "invoke_agent", "user.id": "ann", "gen_ai.conversation.id": "run"}
    stage.spend("run", T0 + SECOND, 11)
    stage.feed(stage.span("run", 0, T0, said, parent=0))


def of_ann(stage: Stage) -> Alert:
    (found,) = [one for one in stage.alerts if one.state == "firing" and one.evidence["group"] == {"user": "ann"}]
    return found


def elsewhere(stage: Stage) -> list[Elsewhere]:
    """What others hear of the calls of a service."""
    return [("default", call_id, spend) for call_id, spend in rows_of(stage)]


def test_what_was_told_before_its_calls_were_written_is_told_once_and_stands_after_a_kill() -> None:
    """Alerts are written at once, calls when they have settled: the ledger alone does not know why they fired."""
    stage = Stage(DAILY)
    ann_crosses(stage)
    ann = of_ann(stage).id
    assert len(stage.alerts) == 3  # the others: of nobody, and its end
    again = Stage(DAILY)
    again.engine.restore([], last_words(stage), T0 + MINUTE)
    assert again.asked("elsewhere", T0 + MINUTE, user__id="ann") == "deny"
    ann_crosses(again)
    again.engine.caught_up(T0 + MINUTE)
    again.advance(T0 + HOUR)
    assert again.alerts == []
    assert ids(again.engine.policy.open_alerts()) == [ann]
    assert again.asked("elsewhere", T0 + HOUR, user__id="ann") == "deny"
    assert ids(again.advance(T0 + DAY)) == [f"{ann}-resolved"]
    # What is not told again after all does not stand: the calls were forgotten.
    less = Stage(DAILY)
    less.engine.restore([], last_words(stage), T0 + MINUTE)
    less.engine.caught_up(T0 + MINUTE)
    assert ids(less.said()) == [f"{ann}-resolved"]
    assert less.asked("elsewhere", T0 + MINUTE, user__id="ann") == "allow"
    # What happens after the restart is new, also before everything has been read again.
    ann_crosses(more := Stage(DAILY))
    more.advance(T0 + DAY)
    later = Stage(DAILY.replace(", kind: calendar", ""))
    later.engine.restore([], last_words(more), T0 + DAY)
    later.spend("run", T0 + DAY, 11, user__id="ann")
    assert [(alert.state, alert.evidence["group"]) for alert in later.alerts] == [("firing", {"user": "ann"})]


def test_what_another_service_has_told_stands_until_its_calls_or_its_end_are_heard() -> None:
    stage = Stage(DAILY)
    ann_crosses(stage)
    ann = of_ann(stage)

    def started() -> Stage:
        other = Stage(DAILY)
        other.engine.restore([], last_words(stage), T0 + MINUTE)
        other.engine.caught_up(T0 + MINUTE, alone=False)
        assert other.asked("elsewhere", T0 + MINUTE, user__id="ann") == "deny"
        return other

    heard, ended, waits = started(), started(), started()
    heard.engine.hear(elsewhere(stage), [], T0 + 2 * MINUTE)
    assert heard.said() == []
    assert heard.advance(T0 + HOUR) == []
    assert ids(heard.advance(T0 + DAY)) == [f"{ann.id}-resolved"]
    end = replace(ann, id=f"{ann.id}-resolved", state="resolved", at_ns=T0 + 2 * MINUTE)
    ended.engine.hear([], [alert_of(alert_json(end))], T0 + 2 * MINUTE)
    assert ids(ended.said()) == [end.id]
    assert ended.asked("elsewhere", T0 + 2 * MINUTE, user__id="ann") == "allow"
    # A service that never comes back keeps nothing standing.
    assert waits.advance(T0 + 10 * MINUTE) == []
    assert ids(waits.advance(T0 + 11 * MINUTE)) == [end.id]
    # Nor do rules that were edited meanwhile.
    edited = Stage(DAILY.replace("usd: 10", "usd: 20"))
    edited.engine.restore([], last_words(stage), T0 + MINUTE)
    edited.engine.caught_up(T0 + MINUTE, alone=False)
    assert ids(edited.said()) == [end.id]


def test_rules_that_come_while_a_restart_is_under_way_let_stand_what_was_told() -> None:
    stage = Stage(DAILY)
    ann_crosses(stage)
    ann = of_ann(stage).id
    rules = load_rules([parse_document(f"version: 1\n{DAILY}\n# edited", "rules.yaml")])
    for borne_out in (True, False):
        again = Stage(DAILY)
        again.engine.restore([], last_words(stage), T0 + MINUTE)
        again.engine.begin_swap()
        again.engine.swap(rules, Policy(rules), T0 + MINUTE)
        if borne_out:
            ann_crosses(again)
        again.engine.caught_up(T0 + MINUTE)
        assert ids(again.said()) == ([] if borne_out else [f"{ann}-resolved"])
        shared = Stage(DAILY)
        shared.engine.restore([], last_words(stage), T0 + MINUTE)
        shared.engine.caught_up(T0 + MINUTE, alone=False)
        shared.engine.begin_swap()
        shared.engine.hear(elsewhere(stage) if borne_out else [], [], T0 + MINUTE)
        shared.engine.swap(rules, Policy(rules), T0 + MINUTE)
        assert shared.said() == []
        assert ids(shared.advance(T0 + DAY)) == [f"{ann}-resolved"]


def test_what_others_told_of_a_window_that_is_over_is_not_found_once_more() -> None:
    """Late money: one service crosses the level and ends it, another hears of the money only after that."""
    stage, other, third = Stage(DAILY), Stage(DAILY), Stage(DAILY)
    stage.spend("late", T0 - HOUR, 11, user__id="ann")
    stage.advance(T0 + MINUTE)
    fired, ended = stage.alerts
    assert (fired.state, ended.state) == ("firing", "resolved")
    told = [alert_of(alert_json(ended))]
    other.engine.hear(elsewhere(stage), told, T0 + MINUTE)
    third.engine.restore([], told, T0 + MINUTE)  # it is started meanwhile
    third.engine.caught_up(T0 + MINUTE, alone=False)
    third.engine.hear(elsewhere(stage), [], T0 + 2 * MINUTE)
    for one in (other, third):
        one.advance(T0 + 3 * MINUTE)
        assert one.alerts == []
        # The next day is another matter.
        assert [(alert.state, alert.seq) for alert in one.spend("r", T0 + HOUR, 11, user__id="ann")] == [("firing", 1)]


def two_records(stage: Stage) -> list[SpanEvent]:
    """Of one call, and the root; where the second comes first, the first gives the call another id."""
    chat = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "mint",
        "gen_ai.request.model": "nano-1",
        "gen_ai.usage.input_tokens": 1,
        "gen_ai.usage.output_tokens": 11 * 10**9,
        "gen_ai.conversation.id": "run",
        "user.id": "ann",
    }
    root = {"gen_ai.operation.name": "invoke_agent", "gen_ai.conversation.id": "run"}
    return [
        stage.span("run", 2, T0, chat),
        stage.span("run", 3, T0, chat | {"gen_ai.response.id": "r1"}, parent=3),
        stage.span("run", 9, T0, root, parent=0),
    ]


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize(("usd", "fired"), [(10, 1), (15, 0)])
def test_a_call_that_two_records_tell_of_crosses_levels_once_in_any_order(
    order: tuple[int, ...], usd: int, fired: int
) -> None:
    """By the second record its id may be another: for a moment it would be there twice, or not at all."""
    stage, other = (Stage(DAILY.replace("usd: 10", f"usd: {usd}")) for _ in range(2))
    spans = two_records(stage)
    known: dict[str, Spend] = {}
    for number in order:
        stage.feed(spans[number])
        now = dict(rows_of(stage))
        gone: list[Elsewhere] = [("default", call_id, None) for call_id in known if call_id not in now]
        other.engine.hear([*gone, *elsewhere(stage)], [], T0 + MINUTE)
        other.said()
        known = now
    assert len(known) == 1
    for one in (stage, other):
        assert [alert.state for alert in one.alerts] == ["firing"] * fired


@pytest.mark.parametrize("ends", ["by time", "with its run", "in other hands"])
def test_a_call_that_gets_another_id_leaves_the_ledger_with_the_row_that_follows(ends: str) -> None:
    """Whoever hears of the ledger would miss its money in between, and end alerts that go on."""
    stage = Stage(DAILY)
    first, second, _ = two_records(stage)
    engine = stage.engine
    engine.feed(Signal.TRACES, [second], 1, T0)
    engine.advance(T0 + MINUTE)
    ((_, _, written),) = engine.take().calls
    engine.feed(Signal.TRACES, [first], 2, T0 + MINUTE)
    engine.advance(T0 + MINUTE)
    early = engine.take()
    assert (early.calls, early.gone) == ([], [])
    if ends == "by time":
        engine.advance(T0 + 2 * MINUTE)
    elif ends == "with its run":
        engine.close(T0 + MINUTE)
    else:
        engine.release(T0 + MINUTE)
    late = engine.take()
    assert late.gone == [("default", written.id)]
    assert [call.id != written.id for _, _, call in late.calls] == [True] * (ends != "in other hands")
    engine.advance(T0 + 3 * MINUTE)
    assert engine.take().gone == []


def test_what_another_had_read_takes_nothing_back_when_it_is_read_again_here() -> None:
    """A partition moves: its runs are told again from their beginning, when less was known of them."""
    stage, other = Stage(DAILY), Stage(DAILY)
    ann_crosses(stage)
    other.engine.hear(elsewhere(stage), last_words(stage), T0 + MINUTE)
    (told,) = ids(other.said())
    assert told == of_ann(stage).id
    other.engine.read_again(T0 + MINUTE)
    ann_crosses(other)
    other.spend("own", T0 + 2 * MINUTE, 11, user__id="bob")
    assert [alert.evidence["group"] for alert in other.alerts[1:]] == [{"user": "bob"}]
    other.engine.caught_up(T0 + 3 * MINUTE, alone=False)
    assert other.said() == []
    assert other.engine.policy.standings(T0 + HOUR)[0]["spent_usd"] == "11"


def test_how_far_back_a_restart_reads_is_what_the_longest_window_needs() -> None:
    noon = T0 + 12 * DAY + 12 * HOUR
    assert restarted("defaults: {}").since_ns(noon) is None
    assert restarted(HOURLY).since_ns(noon) == noon - DAY
    assert restarted("budgets: [{name: b, limit: {usd: 1, window: 3w}}]").since_ns(noon) == noon - 21 * DAY
    month = restarted("budgets: [{name: b, limit: {usd: 1, window: 1mo, kind: calendar}}]")
    assert month.since_ns(noon) == T0 - DAY  # the first of March


# --- Money ---


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 4 * 24 * 6), st.integers(1, 10**7), st.sampled_from(["a", "b"]), st.integers(0, 3)),
        max_size=25,
    ),
    st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns"]),
)
def test_counters_are_naive_sums_whatever_comes_late_or_twice(calls, zone: str) -> None:
    stage = Stage(f"""
defaults: {{timezone: {zone}}}
budgets:
  - {{name: hour, per: [user], limit: {{usd: 1, window: 1h}}}}
  - {{name: day, limit: {{usd: 1, window: 1d, kind: calendar}}}}
""")
    start = T0 + 26 * DAY  # the last weekend of March: clocks change in Berlin
    for index, (ten_minutes, nano, user, times) in enumerate(calls):
        told = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "mint",
            "gen_ai.request.model": "nano-1",
            "gen_ai.usage.input_tokens": 1,
            "gen_ai.usage.output_tokens": nano,
            "user.id": user,
        }
        span = stage.span(f"run-{index}", 1, start + ten_minutes * 10 * MINUTE, told)
        for _ in range(times + 1):
            stage.feed(replace(span))
    spends = [(start + ten_minutes * 10 * MINUTE, nano, user) for ten_minutes, nano, user, _ in calls]
    policy = stage.engine.policy
    for hour in range(0, 100, 7):
        now = start + hour * HOUR
        day = policy._rules["day", ""].budget.window.bounds(now)
        naive = {"day": {"": sum(nano for at, nano, _ in spends if day[0] <= at < day[1])}, "hour": {}}
        for user in ("a", "b"):
            naive["hour"][user] = sum(nano for at, nano, who in spends if who == user and now - HOUR < at <= now)
        for row in policy.standings(now):
            counted = Fraction(str(row["counted_usd"])) * 10**9
            assert counted == naive[row["rule"]].pop(row["group"].get("user", ""))
        assert not any(left for of_rule in naive.values() for left in of_rule.values())


B = "name: b, limit: {usd: 1, window: 1d}"
E = "name: e, applies_to: [b], owner: o, reason: r"
UNTIL = "expires: 2026-12-01T00:00:00Z"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"budgets: [{{{B}, match: {{cost_usd: {{gte: 1}}}}}}]", "`cost_usd` is a fact of a run, not of a call"),
        (f"budgets: [{{{B}, at_limit: {{do: [{{alert: ops}}]}}}}]", "budgets[0].at_limit.do[0]: unknown contact `ops`"),
        (f"exceptions: [{{{E}, {UNTIL}, exempt: true}}]", "exceptions[0].applies_to[0]: unknown rule `b`"),
        (f"exceptions: [{{{E}, {UNTIL}}}]", "exactly one of `grant`, `multiply`, `exempt`"),
        (f"exceptions: [{{{E}, exempt: true}}]", "`expires` is missing"),
        (f"exceptions: [{{{E}, {UNTIL}, exempt: true, starts: 2027-01-01T00:00:00Z}}]", "it expires before it starts"),
    ],
)
def test_rules_that_could_not_work_are_refused(text: str, said: str) -> None:
    with pytest.raises(DocumentError) as raised:
        Stage(text)
    assert said in str(raised.value)


def test_an_expired_exception_is_a_mistake_where_the_time_is_known() -> None:
    document = parse_document(f"version: 1\n{INCIDENT}", "r.yaml")
    load_rules([document])
    load_rules([document], now_ns=T0 + 2 * HOUR)
    with pytest.raises(DocumentError, match="expired: `inc-4312` has no effect any more"):
        load_rules([document], now_ns=T0 + 2 * HOUR + 1)


@pytest.mark.parametrize("others_first", [False, True])
def test_what_fired_before_a_run_had_its_name_stands_for_those_who_ask_in_it(others_first: bool) -> None:
    """SDKs send children before the root, and often the root alone names the conversation."""
    stage = Stage("loops: [{name: same-error, detect: repeated_error, with: {count: 3}, do: [{deny: {scope: tool}}]}]")
    if others_first:
        stage.asked("talk", T0)  # the hooks of the run are known, and not yet that the trace is theirs
    tool = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "bash", "error.type": "ExitError"}
    for number in (2, 3, 4):
        told = tool | {"gen_ai.tool.call.arguments": "{}", "gen_ai.tool.call.result": "no such file"}
        failed = stage.span("trace", number, T0 + number * SECOND, told)
        stage.feed(replace(failed, status_code=2))
    assert [alert.rule for alert in stage.alerts] == ["same-error"]
    assert stage.asked("talk", T0 + 9 * SECOND) == "allow"
    root = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "a", "gen_ai.conversation.id": "talk"}
    stage.feed(stage.span("trace", 0, T0, root, parent=0))
    assert stage.asked("talk", T0 + 10 * SECOND) == "deny"
    assert stage.asked("other", T0 + 10 * SECOND) == "allow"
    restarted = Stage(stage.rules)
    restarted.engine.restore_standing(stage.engine.keep_standing(), T0 + HOUR)
    assert restarted.asked("talk", T0 + 11 * SECOND) == "deny"


def test_spans_say_what_loop_they_are_in_and_what_a_rule_decided() -> None:
    stage = Stage(
        "loops: [{name: same-error, detect: repeated_error, with: {count: 3}, do: [{deny: {}}]}]\n"
        "budgets: [{name: run-cap, per: [run], limit: {usd: 5}, at_limit: {do: [{ask: {}}]}}]"
    )
    tool = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "bash", "error.type": "ExitError"}
    chat = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "mint",
        "gen_ai.request.model": "nano-1",
        "gen_ai.usage.input_tokens": 1,
        "gen_ai.usage.output_tokens": 6 * 10**9,
    }
    said = []
    for number in range(2, 7):
        told = tool | {"gen_ai.tool.call.arguments": "{}", "gen_ai.tool.call.result": "no such file"}
        failed = replace(stage.span("trace", number, T0 + number * SECOND, told), status_code=2)
        stage.engine.feed(Signal.TRACES, [failed], 1, failed.end_ns)
        said += [attributes_of(out.extra) for out in stage.engine.take().outgoing if out.signal is Signal.TRACES]
    assert [span.get("otel_cost.loop.kind") for span in said] == [None, None, *["repeated_error"] * 3]
    assert [span.get("otel_cost.loop.iteration") for span in said] == [None, None, 3, 4, 5]
    assert [span.get("otel_cost.decision") for span in said] == [None, None, "deny", "deny", "deny"]
    assert [span.get("otel_cost.rule") for span in said] == [None, None, *["same-error"] * 3]
    assert len({span.get("otel_cost.loop.id") for span in said[2:]}) == 1
    dear = stage.span("trace", 9, T0 + MINUTE, chat)
    stage.engine.feed(Signal.TRACES, [dear], 2, dear.end_ns)
    (last,) = (attributes_of(out.extra) for out in stage.engine.take().outgoing if out.signal is Signal.TRACES)
    assert (last["otel_cost.decision"], last["otel_cost.rule"]) == ("ask", "run-cap")
    assert "otel_cost.loop.kind" not in last


def attributes_of(extra: bytes) -> dict[str, object]:
    return {
        pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in Span.FromString(extra).attributes
    }


def test_calls_of_a_loop_from_before_its_rule_spoke_bear_no_decision() -> None:
    stage = Stage("loops: [{name: same-error, detect: repeated_error, with: {count: 3}, do: [{deny: {}}]}]")
    told = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "bash",
        "error.type": "ExitError",
        "gen_ai.tool.call.arguments": "{}",
        "gen_ai.tool.call.result": "no such file",
    }
    spans = [replace(stage.span("trace", n, T0 + n * SECOND, told), status_code=2) for n in range(2, 6)]
    stage.engine.feed(Signal.TRACES, spans, 1, T0 + MINUTE)
    said = [attributes_of(out.extra) for out in stage.engine.take().outgoing if out.signal is Signal.TRACES]
    assert [span["otel_cost.loop.iteration"] for span in said] == [1, 2, 3, 4]
    assert [span.get("otel_cost.decision") for span in said] == [None, None, "deny", "deny"]


@pytest.mark.parametrize("hooks_too", [False, True])
def test_log_records_say_so_where_no_span_tells_of_the_call(hooks_too: bool) -> None:
    """As Claude Code sends them without its traces."""
    stage = Stage("loops: [{name: same-error, detect: repeated_error, with: {count: 3}, do: [{deny: {}}]}]")
    scope, said = Scope(name="com.anthropic.claude_code.events"), []
    for number in range(5):
        at_ns, error = T0 + number * MINUTE, f"Exit code 1: no such file {number}"
        if hooks_too:
            payload = {
                "session_id": "s-1", "hook_event_name": "PostToolUseFailure", "tool_name": "Bash", "error": error,
                "tool_use_id": f"toolu_{number}", "tool_input": {"command": "ls x"},
            }  # fmt: skip
            hook = read_hook("claude", json.dumps(payload).encode(), at_ns)
            stage.engine.hook(hook, at_ns)
        told = {
            "event.name": "tool_result", "session.id": "s-1", "tool_name": "Bash", "tool_use_id": f"toolu_{number}",
            "success": "false", "error": error, "tool_input": '{"command": "ls x"}', "duration_ms": 5,
        }  # fmt: skip
        record = LogEvent(
            tenant="default", received_ns=at_ns + SECOND, resource=Resource(), scope=scope, raw=b"", trace_id=b"",
            span_id=b"", time_ns=at_ns + SECOND, name="claude_code.tool_result", severity=9,
            body="claude_code.tool_result", attributes=PlainAttributes(told),
        )  # fmt: skip
        stage.engine.feed(Signal.LOGS, [record], 1, at_ns + SECOND)
        (out,) = (out for out in stage.engine.take().outgoing if out.resource is record.resource)
        said.append({pair.key: pair.value for pair in LogRecord.FromString(out.extra).attributes})
    loops = [record["otel_cost.loop.iteration"].int_value if "otel_cost.loop.kind" in record else 0 for record in said]
    assert loops == [0, 0, 3, 4, 5]
    decided = [record["otel_cost.decision"].string_value for record in said if "otel_cost.decision" in record]
    assert decided == ["deny"] * 3
    assert len(stage.engine.open_run("default", "s-1").calls) == 5
    assert all(("otel_cost.status" in record) is not hooks_too for record in said)
