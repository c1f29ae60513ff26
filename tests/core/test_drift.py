"""Drift: a lasting change is told once, noise is not told, and what is different is named."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from otel_cost.core.drift import Drift, Ran
from otel_cost.core.rules import load_rules
from otel_cost.document import parse_document
from otel_cost.errors import DocumentError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_cost.core.drift import Said

HOUR = 3600 * 10**9
DAY = 24 * HOUR
T0 = 1_790_000_000 * 10**9
CENT = 10**7


def drift(rule: str = "", **changes: str) -> Drift:
    said = {
        "per": "[workflow]",
        "baseline": "{last: 14d, min_runs: 20}",
        "fire": "{ratio: 1.5, for: 3 of last 5}",
    } | changes
    text = ", ".join(f"{key}: {value}" for key, value in said.items())
    rules = load_rules([parse_document(f"version: 1\nregressions: [{{name: drift, {text}}}]", "r.yaml")])
    return Drift(rules.regressions)


def ran(number: int, nano: int, *, every: int = HOUR, workflow: str = "fix", **more: object) -> Ran:
    end_ns = T0 + number * every
    given = {"facts": {"workflow": workflow, "team": "core"}, "trace_id": number.to_bytes(16, "big"), **more}
    return Ran(
        tenant="default",
        run_id=f"{workflow}-{number}",
        start_ns=end_ns - HOUR // 2,
        end_ns=end_ns,
        nano=nano,
        **given,  # type: ignore[arg-type]
    )


def told(drift: Drift, costs: Sequence[int], start: int = 0, **more: object) -> list[Said]:
    return [drift.observe(ran(start + n, cost, **more), T0 + (start + n) * HOUR) for n, cost in enumerate(costs)]


def states(said: Sequence[Said]) -> list[tuple[int, str]]:
    return [(at, alert.state) for at, one in enumerate(said) for alert in one.alerts]


def test_a_lasting_change_is_told_once_at_the_third_breach_and_counted_from_then_on() -> None:
    said = told(drift(), [40 * CENT] * 20 + [100 * CENT] * 6)
    assert states(said) == [(22, "firing")]
    (alert,) = said[22].alerts
    assert (alert.category, alert.kind, alert.rule, alert.severity) == ("drift", "cost_drift", "drift", "warning")
    assert alert.summary == (
        "workflow fix: a run costs 1 USD, was 0.4, 2.5 times as much; 3 dear runs so far cost 1.8 USD more"
    )
    evidence = alert.evidence
    assert (evidence["baseline_usd"], evidence["observed"], evidence["extra_usd"]) == ("0.4", "1", "1.8")
    assert [one["run_id"] for one in evidence["runs"]] == ["fix-20", "fix-21", "fix-22"]
    again = [alert for one in said for alert in one.again]
    assert [one.evidence["breaches"] for one in again] == [4, 5, 6]
    assert {one.fingerprint for one in again} == {alert.fingerprint}
    assert len({one.id for one in again}) == 3


@pytest.mark.parametrize(
    "costs",
    [
        pytest.param([40 * CENT] * 20 + [900 * CENT] + [40 * CENT] * 20, id="one absurd run"),
        pytest.param([40 * CENT] * 20 + [100 * CENT, 40 * CENT, 40 * CENT] * 6, id="one of three"),
        pytest.param([40 * CENT] * 19 + [100 * CENT] * 3, id="too few runs before"),
        pytest.param([40 * CENT] * 20 + [59 * CENT] * 20, id="below the factor"),
        pytest.param([40 * CENT] * 20 + [10 * CENT] * 20, id="cheaper"),
        pytest.param([100 * CENT] * 25, id="dear from the start"),
        pytest.param([0] * 25, id="free"),
    ],
)
def test_told_nothing(costs: list[int]) -> None:
    assert states(told(drift(), costs)) == []


def test_what_scatters_by_itself_is_not_told_and_a_change_of_it_is() -> None:
    fired = 0
    for seed in range(40):
        dice = random.Random(seed)
        noisy = [round(50 * CENT * dice.lognormvariate(0, 0.5)) for _ in range(150)]
        fired += any(one.alerts for one in told(drift(), noisy))
        changed = [cost * 3 for cost in noisy[:30]]
        checked = drift()
        told(checked, noisy[:100])
        assert any(alert.state == "firing" for one in told(checked, changed, 100) for alert in one.alerts), seed
    assert fired <= 6  # of 40 workflows with 130 chances each


def test_an_episode_ends_with_the_change_and_the_next_one_is_another() -> None:
    said = told(drift(), [40 * CENT] * 20 + [100 * CENT] * 4 + [40 * CENT] * 8 + [100 * CENT] * 3)
    assert states(said) == [(22, "firing"), (26, "resolved"), (34, "firing")]
    first, resolved, second = (alert for one in said for alert in one.alerts)
    assert (resolved.id, resolved.evidence["resolved_because"]) == (
        f"{first.id}-resolved",
        "2 of the last 5 runs are dearer",
    )
    assert (second.fingerprint, second.seq) == (first.fingerprint, 2)
    # Dear runs of the first episode are no part of what is normal in the second.
    assert second.evidence["baseline_usd"] == "0.4"


def test_what_lasts_as_long_as_the_baseline_reaches_is_what_it_costs_now() -> None:
    dear = [100 * CENT] * 200
    said = told(drift(baseline="{last: 3d, min_runs: 10}"), [40 * CENT] * 20 + dear)
    assert [state for _, state in states(said)] == ["firing", "resolved"]
    last = said[states(said)[1][0]].alerts[0]
    assert last.evidence["resolved_because"] == "it has been so for as long as the baseline reaches back"


def test_what_changed_is_named_and_what_stayed_is_not() -> None:
    before = {"route": ("haiku",), "context": 10_000, "llm_calls": 8, "retries": 0, "tools": {"read": 4, "bash": 2}}
    after = {
        "route": ("haiku", "opus"),
        "context": 90_000,
        "llm_calls": 8,
        "retries": 3,
        "tools": {"read": 4, "bash": 9},
    }
    checked = drift()
    told(checked, [40 * CENT] * 20, **before)
    said = told(checked, [100 * CENT] * 3, 20, **after)
    assert said[2].alerts[0].evidence["changed"] == {
        "model_route": {"before": ["haiku"], "after": ["haiku", "opus"]},
        "context_tokens": {"before": 10_000, "after": 90_000},
        "retries": {"before": 0, "after": 3},
        "tools_per_run": {"bash": {"before": "2", "after": "9"}},
    }


def test_groups_are_compared_with_themselves_only() -> None:
    checked = drift()
    for number in range(30):
        for workflow, cost in (("cheap", 10 * CENT), ("dear", 300 * CENT)):
            assert not checked.observe(ran(number, cost, workflow=workflow), T0).alerts
    apart = drift(match="{workflow: cheap}")
    assert states(told(apart, [40 * CENT] * 20 + [100 * CENT] * 5)) == []


def test_a_shape_of_loop_that_comes_back_in_run_after_run_is_one_issue() -> None:
    checked = drift(per="[workflow, loop]", fire="{ratio: 2, for: 3 of last 5}")
    told(checked, [40 * CENT] * 20)
    loops = [{"same-error": 20 * CENT}, {}, {"same-error": 30 * CENT}, {"same-error": 5 * CENT, "other": CENT}, {}]
    said = [checked.observe(ran(20 + n, 40 * CENT, loops=one), T0) for n, one in enumerate(loops)]
    assert states(said) == [(3, "firing")]
    (alert,) = said[3].alerts
    assert (alert.kind, alert.evidence["loop"]) == ("loop_drift", "same-error")
    assert (alert.evidence["baseline_usd"], alert.evidence["extra_usd"]) == ("0", "0.55")


@pytest.mark.parametrize("stat", ["p50", "p90", "p95", "mean"])
def test_every_statistic_of_the_baseline(stat: str) -> None:
    checked = drift(baseline=f"{{last: 14d, min_runs: 20, stat: {stat}}}")
    costs = [n * CENT for n in range(1, 21)]
    said = told(checked, [*costs, *[100 * CENT] * 3])
    expected = {"p50": "0.105", "p90": "0.18", "p95": "0.19", "mean": "0.105"}
    assert said[-1].alerts[0].evidence["baseline_usd"] == expected[stat]


def test_a_run_that_is_finished_again_replaces_itself_and_fires_nothing() -> None:
    checked = drift()
    told(checked, [40 * CENT] * 20 + [100 * CENT] * 2)
    assert not checked.observe(ran(21, 120 * CENT), T0).alerts
    (alert,) = checked.observe(ran(22, 100 * CENT), T0).alerts
    assert alert.evidence["extra_usd"] == "2"


def test_after_a_restart_what_stands_has_the_ids_it_had() -> None:
    costs = [40 * CENT] * 20 + [100 * CENT] * 4 + [40 * CENT] * 8 + [100 * CENT] * 4
    live = drift()
    alerts = [alert for one in told(live, costs) for alert in one.alerts]
    fresh = drift()
    restored = fresh.restore([ran(n, cost) for n, cost in enumerate(costs)], T0 + 400 * HOUR)
    assert [one.id for one in restored] == [alerts[-1].id]
    (again,) = fresh.observe(ran(99, 100 * CENT), T0).again
    assert again.seq == 2


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("{name: r, per: [tool], baseline: {last: 14d}, fire: {ratio: 2}}", "runs are not compared per `tool`"),
        ("{name: r, per: [workflw], baseline: {last: 14d}, fire: {ratio: 2}}", "did you mean `workflow`?"),
        ("{name: r, per: [workflow], baseline: {last: 14d}, fire: {ratio: 1}}", "fire.ratio"),
        (
            "{name: r, per: [workflow], baseline: {last: 14d}, fire: {ratio: 2}, do: [{issue: x}]}",
            "unknown contact `x`",
        ),
    ],
)
def test_a_wrong_rule_names_its_fix(rule: str, said: str) -> None:
    with pytest.raises(DocumentError) as caught:
        load_rules([parse_document(f"version: 1\nregressions: [{rule}]", "r.yaml")])
    assert said in str(caught.value)
