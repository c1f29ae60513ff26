"""What every ledger keeps, whichever store is behind it."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledger_cases import NOON_NS, a_call, a_run, an_alert, trace_of

from otel_cost.core.model.effects import Correction, Effects
from otel_cost.core.model.measure import Teller
from otel_cost.core.model.money import usd_to_nano
from otel_cost.core.model.outcome import Outcome, Result
from otel_cost.core.model.usage import Usage
from otel_cost.core.model.vocabulary import Category, Flag, Kind, Reason
from otel_cost.edge.ledger import DIMENSIONS, Batch, Ledger, PartitionMovedError, Selection, UnknownDimensionError
from otel_cost.edge.ledger.duckdb import DuckDbLedger
from otel_cost.edge.ledger.postgres import PostgresLedger
from otel_cost.edge.ledger.rows import key_digest, key_number
from otel_cost.edge.ledger.story import story_of
from otel_cost.edge.partitions import Offset, Partition

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from otel_cost.edge.ledger.sql import SqlLedger
    from postgres import Server

RUN = trace_of("t1").hex()


@pytest.fixture(params=["duckdb in memory", "duckdb file", "postgres"])
def new_ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Ledger]:
    """Makes empty ledgers of one kind."""
    if request.param == "postgres":
        server: Server = request.getfixturevalue("postgres")
        return lambda: PostgresLedger(server.url(), "node-1")
    files = (tmp_path / f"{number}.duckdb" for number in itertools.count())
    return lambda: DuckDbLedger(next(files) if request.param.endswith("file") else None)


@pytest.fixture
def ledger(new_ledger: Callable[[], Ledger]) -> Iterator[Ledger]:
    made = new_ledger()
    yield made
    made.close()


def batch_of(*effects: Effects) -> Batch:
    batch = Batch()
    for one in effects:
        batch.add(one)
    return batch


def written(*calls, run_id: str = RUN, tenant: str = "default") -> Effects:
    return Effects(calls=[(tenant, run_id, call) for call in calls])


def closed(*calls, **said) -> Effects:
    run = a_run(list(calls), **said)
    return Effects(calls=[(run.summary.tenant, run.summary.run_id, c) for c in calls], closed=[run])


def nano_of(rows: list[dict[str, object]], column: str = "cost_usd") -> int:
    return sum(usd_to_nano(str(row[column])) for row in rows if row[column] is not None)


def test_a_new_ledger_is_empty(ledger: Ledger) -> None:
    assert ledger.cursor() == 0
    assert ledger.report() == []
    assert ledger.report(["model"]) == []
    assert ledger.run(RUN) is None
    assert ledger.runs() == []
    assert ledger.alerts() == []
    assert ledger.sent_alerts() == set()
    assert ledger.find_snapshot("default", RUN) is None


def test_a_call_that_has_gone_since_its_run_closed_is_no_row(ledger: Ledger) -> None:
    """The run had it as it closed; both wait in one batch, or in two."""
    going, staying = a_call("going", nano=30), a_call("staying", nano=5)
    batch = batch_of(closed(going, staying), Effects(gone=[("default", going.id)]))
    ledger.commit(batch, 1)
    assert [(row["cost_usd"], row["calls"]) for row in ledger.report()] == [("0.000000005", 1)]
    other = closed(a_call("other", trace="t2", nano=7), run_id=trace_of("t2").hex())
    ledger.commit(batch_of(other), 2)
    ledger.woken("default", trace_of("t2").hex())
    ledger.commit(batch_of(other, Effects(gone=[("default", other.calls[0][2].id)])), 3)
    assert [(row["cost_usd"], row["calls"]) for row in ledger.report()] == [("0.000000005", 1)]


def test_who_told_calls_one_by_one_is_known_again(ledger: Ledger) -> None:
    app, other = ("app", "a", "", ""), ("other", "", "h", "7")
    assert ledger.tellers() == []
    hour = NOON_NS // (3600 * 10**9)
    ledger.commit(batch_of(Effects(tellers=[Teller("default", app, hour, True), Teller("x", other, hour, True)])), 1)
    ledger.commit(batch_of(Effects(tellers=[Teller("default", app, hour, False)])), 2)
    again = Teller("default", app, hour, True)  # told again after a restart
    ledger.commit(batch_of(Effects(tellers=[again, Teller("default", app, hour + 1, True)])), 3)
    assert sorted(ledger.tellers()) == [
        Teller("default", app, hour, False),
        Teller("default", app, hour + 1, True),
        Teller("x", other, hour, True),
    ]
    ledger.commit(batch_of(Effects(tellers=[Teller("default", app, hour + 49, True)])), 4)
    assert sorted(one.hour - hour for one in ledger.tellers()) == [1, 49]
    ledger.forget(Selection(tenant="default"))
    assert ledger.tellers() == []


@pytest.fixture(params=["duckdb file", "postgres"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], SqlLedger]]:
    """Opens one and the same ledger anew, as a start after a crash does."""
    made: list[SqlLedger] = []
    url = request.getfixturevalue("postgres").url() if request.param == "postgres" else ""

    def opened() -> SqlLedger:
        for one in made:
            one.close()
        made[:] = [PostgresLedger(url, "node-1") if url else DuckDbLedger(tmp_path / "ledger.duckdb")]
        return made[0]

    yield opened
    for one in made:
        one.close()


@pytest.mark.parametrize("again", [True, False])
def test_what_was_written_under_the_first_name_of_an_open_run_is_not_left_over(
    opened: Callable[[], SqlLedger], again: bool
) -> None:
    """Before a crash a run was known by its trace alone, and a call of it that is none when all is read again."""
    call, none = a_call("call", nano=30), a_call("none", nano=5)
    joins = [("default", RUN, f"trace:{RUN}")]
    opened().commit(batch_of(Effects(calls=[("default", RUN, call), ("default", RUN, none)], joins=joins)), 1)
    ledger = opened()
    ledger.commit(batch_of(Effects(calls=[("default", RUN, call)], joins=joins)), 2)
    ledger = opened()
    ledger.commit(batch_of(Effects(calls=[("default", "s", call), ("default", "s", none)], joins=joins)), 2)
    ledger = opened()
    if again:  # it is known by its trace alone again, when all is written down
        ledger.commit(batch_of(Effects(calls=[("default", RUN, call)], joins=joins)), 2)
        assert ledger._rows("SELECT run_id, key FROM run_joins") == [(RUN, f"trace:{RUN}")]
    ledger.commit(batch_of(closed(call, run_id="s", extra_keys=("session:s",))), 3)
    assert [(row["cost_usd"], row["calls"]) for row in ledger.report()] == [("0.00000003", 1)]
    assert sorted(ledger._rows("SELECT run_id, key FROM run_joins")) == [("s", "session:s"), ("s", f"trace:{RUN}")]
    assert ledger.forget(Selection(run_id="s")) == 1
    assert ledger._rows("SELECT * FROM run_joins") == []


def test_what_an_open_run_was_called_first_is_no_run_once_it_closes(ledger: Ledger) -> None:
    call = a_call("call", nano=30)
    ledger.commit(batch_of(Effects(calls=[("default", RUN, call)], joins=[("default", RUN, f"trace:{RUN}")])), 1)
    later = [("default", RUN, "branch:b"), ("default", "s", "branch:b")]
    ledger.commit(batch_of(closed(call, run_id="s", extra_keys=("session:s",)), Effects(joins=later)), 2)
    assert {run_id for (run_id,) in ledger._rows("SELECT run_id FROM run_joins")} == {"s"}


def test_report_counts_holes_and_leaves_nothing_out(ledger: Ledger) -> None:
    calls = [
        a_call("a", nano=30, who={"user": "ann"}),
        a_call("b", nano=5, model="gpt-5"),
        a_call("hole", nano=None),
        a_call("failed", nano=None, reason=Reason.FAILED_CALL, failed=True),
        a_call("tool", nano=None, kind=Kind.TOOL, tool="Bash"),
        a_call("partial", nano=1, flags=frozenset({Flag.INCOMPLETE})),
    ]
    ledger.commit(batch_of(written(*calls)), 1)
    assert ledger.report() == [
        {
            "cost_usd": "0.000000036",
            "calls": 6,
            "unpriced_calls": 1,
            "incomplete_calls": 1,
            "wasted_usd": "0",
            "input_tokens": 3000,
            "output_tokens": 30,
        }
    ]
    by_user = ledger.report(["user"])
    assert [(row["user"], row["cost_usd"]) for row in by_user] == [("ann", "0.00000003"), (None, "0.000000006")]
    assert [(row["kind"], row["tool"], row["cost_usd"]) for row in ledger.report(["kind", "tool"])] == [
        ("inference", None, "0.000000036"),
        ("tool", "Bash", None),
    ]


def test_report_by_time_is_since_inclusive_until_exclusive(ledger: Ledger) -> None:
    ledger.commit(batch_of(written(*(a_call(f"c{s}", nano=10**s, start_s=s) for s in range(4)))), 1)
    second = 10**9
    rows = ledger.report(since_ns=NOON_NS + second, until_ns=NOON_NS + 3 * second)
    assert nano_of(rows) == 110
    assert ledger.spend_over_time(2 * second, NOON_NS, NOON_NS + 4 * second) == [
        (NOON_NS, 11),
        (NOON_NS + 2 * second, 1100),
    ]


def test_every_dimension_is_answered_and_an_unknown_one_lists_them(ledger: Ledger) -> None:
    ledger.commit(batch_of(written(a_call("a", who={"environment": "prod", 'odd"k.e$y': "1"}))), 1)
    for name in (*DIMENSIONS, "attr:nothing"):
        assert len(ledger.report([name])) == 1
    assert ledger.report(["attr:environment"])[0]["attr:environment"] == "prod"
    assert ledger.report(['attr:odd"k.e$y'])[0]['attr:odd"k.e$y'] == "1"
    for name in ("colour", "attr:", "nano); DROP TABLE call_rows; --"):
        with pytest.raises(UnknownDimensionError, match="workflow"):
            ledger.report([name])


def test_tenants_do_not_see_each_other(ledger: Ledger) -> None:
    ours, theirs = a_call("a", nano=1), a_call("a", nano=20, tenant="other")
    ledger.commit(batch_of(closed(ours), closed(theirs, tenant="other")), 1)
    assert nano_of(ledger.report(tenant="default")) == 1
    assert nano_of(ledger.report(tenant="other")) == 20
    assert [row["tenant"] for row in ledger.report(["tenant"])] == ["other", "default"]
    run = ledger.run(RUN, "other")
    assert run is not None
    assert run["cost_usd"] == "0.00000002"
    assert ledger.run(RUN, "nobody") is None


def test_several_reports_at_once_are_each_as_if_it_were_asked_alone(ledger: Ledger) -> None:
    calls = [
        a_call("a", nano=5, who={"user": "ann"}, session="s"),
        a_call("b", nano=None, model="odd", start_s=1),
        a_call("c", nano=5, model="odd", start_s=2, who={"user": "bob"}),
    ]
    ledger.commit(batch_of(closed(*calls, who={"team": "core"}), Effects(alerts=[an_alert(["a", "c"])])), 1)
    asked = [[], ["user"], ["model", "team"], ["team", "model"], ["user"], ["user", "session", "kind"], ["attr:x"]]
    for window in ((None, None, None), (NOON_NS + 10**9, None, "default"), (None, NOON_NS, None)):
        assert ledger.reports(asked, *window) == [ledger.report(by, *window) for by in asked]
    assert ledger.reports([]) == []
    with pytest.raises(UnknownDimensionError, match="colour"):
        ledger.reports([["user"], ["colour"]])


def test_a_changed_call_replaces_its_row_and_a_gone_one_leaves(ledger: Ledger) -> None:
    ledger.commit(batch_of(written(a_call("a", nano=1), a_call("b", nano=10))), 1)
    ledger.commit(batch_of(written(a_call("a", nano=5))), 2)
    assert nano_of(ledger.report()) == 15
    ledger.commit(batch_of(Effects(gone=[("default", a_call("b").id)])), 3)
    assert nano_of(ledger.report()) == 5


def test_what_a_call_does_not_say_its_run_says(ledger: Ledger) -> None:
    ledger.commit(
        batch_of(closed(a_call("a", nano=1), a_call("b", nano=2, who={"user": "bob"}), who={"user": "ann"})), 1
    )
    assert {row["user"]: row["cost_usd"] for row in ledger.report(["user"])} == {
        "ann": "0.000000001",
        "bob": "0.000000002",
    }


def test_the_story_of_a_closed_run_is_the_story_of_the_open_one(ledger: Ledger) -> None:
    calls = [a_call("a", nano=30, session="s"), a_call("t", nano=None, kind=Kind.TOOL, tool="Bash", start_s=1)]
    run = a_run(calls)
    alert = an_alert(["a", "t"])
    ledger.commit(batch_of(written(*calls), Effects(closed=[run], alerts=[alert])), 1)
    told = ledger.run(RUN)
    assert told is not None
    alerts = told["alerts"]
    assert isinstance(alerts, list)
    assert [one["id"] for one in alerts] == [alert.id]
    assert told == story_of(run, alerts, [], is_open=False)
    assert told["tree"][0]["subtree_usd"] == "0.00000003"  # type: ignore[index]
    assert [branch["self_usd"] for branch in told["tree"][0]["children"]] == ["0.00000003", None]  # type: ignore[index]


def test_spends_are_what_budgets_are_counted_from_again(ledger: Ledger) -> None:
    early = a_call("early", nano=1)
    calls = [
        a_call("b", nano=30, start_s=7, who={"user": "ann", "app.tier": "gold"}),
        a_call("a", nano=5, start_s=5, session="s", failed=True),
        a_call("hole", nano=None, start_s=6),
        a_call("free", nano=0, start_s=6),
    ]
    ledger.commit(batch_of(closed(early, *calls, who={"user": "eve", "team": "core"})), 1)
    spends = list(ledger.spends(NOON_NS + 10**9))
    assert [(call_id, one.nano, one.at_ns) for call_id, one in spends] == [
        (calls[1].id, 5, NOON_NS + 5 * 10**9),
        (calls[0].id, 30, NOON_NS + 7 * 10**9),
    ]
    first, second = (one.facts for _, one in spends)
    assert (first["user"], first["team"], first["session"], first["failed"]) == ("eve", "core", "s", True)
    assert (second["user"], second["app.tier"], second["model"], second["kind"]) == (
        "ann",
        "gold",
        "claude-haiku-4-5",
        "inference",
    )
    assert {one.tenant for _, one in spends} == {"default"}
    assert len(list(ledger.spends(0))) == 3


def test_a_run_that_is_still_open_shows_what_is_known(ledger: Ledger) -> None:
    ledger.commit(batch_of(written(a_call("a", nano=30), a_call("b", nano=None), run_id="session-1")), 1)
    for name in ("session-1", RUN):
        run = ledger.run(name)
        assert run is not None
        assert (run["run_id"], run["cost_usd"], run["complete"], run["open"]) == (
            "session-1",
            "0.00000003",
            False,
            True,
        )
        assert len(run["tree"]) == 2  # type: ignore[arg-type]


def test_a_late_span_finds_its_run_and_the_second_close_is_the_truth(ledger: Ledger) -> None:
    first = closed(a_call("a", nano=1), a_call("b", nano=10), extra_keys=("session:x",))
    ledger.commit(batch_of(first), 1)
    assert ledger.find_snapshot("default", "session:x") == first.closed[0].snapshot()
    assert ledger.find_snapshot("other", "session:x") is None
    # Woken: b turned out to be part of a, a late c came, and the conversation now names the run.
    again = closed(a_call("a", nano=2), a_call("c", nano=100), run_id="x", extra_keys=("session:x",))
    ledger.commit(batch_of(again), 2)
    assert nano_of(ledger.report()) == 102
    assert [run["run_id"] for run in ledger.runs()] == ["x"]
    assert ledger.find_snapshot("default", RUN) == again.closed[0].snapshot()
    story = ledger.run(RUN)
    assert story is not None
    assert len(story["calls"]) == 2  # type: ignore[arg-type]
    assert len(story["tree"][0]["children"]) == 2  # type: ignore[index]


def test_a_commit_pauses_before_each_call_and_each_run_that_is_put_to_sleep(ledger: Ledger) -> None:
    pauses = 0

    def pause() -> None:
        nonlocal pauses
        pauses += 1

    ledger.pause = pause
    ledger.commit(
        batch_of(*(closed(a_call(f"c{index}", trace=f"t{index}"), run_id=f"r{index}") for index in range(5))), 1
    )
    assert pauses >= 10


def test_keys_are_told_as_numbers_and_where_there_are_too_many_those_of_the_latest_runs(ledger: Ledger) -> None:
    for index in range(3):
        run = closed(a_call("a", trace=f"t{index}", start_s=index), extra_keys=(f"session:é{index}",))
        ledger.commit(batch_of(run), index)
    numbers = [
        {key_number(key_digest("default", key)) for key in (trace_of(f"t{index}").hex(), f"session:é{index}")}
        for index in range(3)
    ]
    assert list(ledger.key_numbers(9)) == sorted(set.union(*numbers))
    assert list(ledger.key_numbers(4)) == sorted(numbers[2] | numbers[1])
    assert all(0 <= number < 2**60 for number in ledger.key_numbers(9))


def test_alerts_of_one_category_are_found_behind_any_number_of_others(ledger: Ledger) -> None:
    drift = replace(an_alert(["a"], trace="old", at_s=1), category=Category.DRIFT)
    loops = [an_alert(["a"], trace=f"t{index}", at_s=2 + index) for index in range(5)]
    ledger.commit(batch_of(Effects(alerts=[drift, *loops])), 1)
    assert {alert["category"] for alert in ledger.alerts(3)} == {"loop"}
    assert [alert["id"] for alert in ledger.alerts(3, category=Category.DRIFT)] == [drift.id]
    assert ledger.alerts(3, category=Category.BUDGET) == []


def test_an_episode_is_one_alert_whatever_order_its_words_come_in(ledger: Ledger) -> None:
    firing, resolved = an_alert(["a", "b"]), an_alert(["a", "b"], state="resolved", wasted_nano=9)
    for alerts in ([firing], [resolved], [firing]):
        ledger.commit(batch_of(Effects(alerts=alerts)), 1)
    assert [(alert["state"], alert["wasted_usd"]) for alert in ledger.alerts()] == [("resolved", "0.000000009")]
    assert ledger.sent_alerts() == {("default", firing.id), ("default", resolved.id)}


def test_waste_falls_on_the_calls_that_brought_nothing(ledger: Ledger) -> None:
    calls = [a_call(f"c{i}", nano=100, model=f"m{i}", start_s=i) for i in range(4)]
    alert = an_alert(["c0", "c1", "c2"], onset="c1", wasted_nano=151)
    ledger.commit(batch_of(written(*calls), Effects(alerts=[alert])), 1)
    wasted = {row["model"]: row["wasted_usd"] for row in ledger.report(["model"])}
    assert sorted(wasted) == ["m0", "m1", "m2", "m3"]
    assert (wasted["m0"], wasted["m3"]) == ("0", "0")
    assert {wasted["m1"], wasted["m2"]} == {"0.000000075", "0.000000076"}


def test_waste_of_a_tool_loop_falls_on_the_model_calls_between(ledger: Ledger) -> None:
    tools = [a_call(f"t{i}", nano=None, kind=Kind.TOOL, tool="Bash", start_s=2 * i) for i in range(3)]
    models = [a_call(f"m{i}", nano=100, model=f"m{i}", start_s=2 * i + 1) for i in range(4)]
    alert = an_alert(["t0", "t1", "t2"], wasted_nano=200)
    ledger.commit(batch_of(written(*tools, *models), Effects(alerts=[alert])), 1)
    wasted = {row["model"]: row["wasted_usd"] for row in ledger.report(["model"]) if row["model"]}
    assert wasted == {"m0": "0.0000001", "m1": "0.0000001", "m2": "0", "m3": "0"}


def test_corrections_are_kept_once(ledger: Ledger) -> None:
    call = a_call("a")
    said = Correction("default", RUN, call.id, call.trace_id, call.step.span_id, NOON_NS, 1, None, "twin")
    for cursor in (1, 2):
        ledger.commit(batch_of(closed(call), Effects(corrections=[said, said])), cursor)
    run = ledger.run(RUN)
    assert run is not None
    assert [(one["old_usd"], one["new_usd"], one["why"]) for one in run["corrections"]] == [  # type: ignore[attr-defined]
        ("0.000000001", None, "twin")
    ]


def test_the_cursor_never_goes_back(ledger: Ledger) -> None:
    for cursor in (5, 9, 7):
        ledger.commit(Batch(), cursor)
    assert ledger.cursor() == 9


def test_numbers_beyond_64_bits_do_not_stop_the_ledger(ledger: Ledger) -> None:
    absurd = a_call("a", nano=10**20, usage=Usage(input=10**30, output=1))
    absurd.step.end_ns = 2**64 - 1
    ledger.commit(batch_of(written(absurd, a_call("b", nano=3))), 1)
    (row,) = ledger.report()
    assert (row["cost_usd"], row["calls"], row["unpriced_calls"]) == ("0.000000003", 2, 1)


_spoken = st.builds(
    lambda name, trace, nano, model, user: a_call(
        f"c{name}", trace=f"t{trace}", nano=nano, model=model, who={"user": user} if user else None
    ),
    st.integers(0, 12),
    st.integers(0, 2),
    st.one_of(st.none(), st.integers(0, 10**12)),
    st.sampled_from(["a", "b", None]),
    st.sampled_from(["ann", "bob", None]),
)


@pytest.mark.parametrize("new_ledger", ["duckdb in memory", "postgres"], indirect=True)
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.lists(_spoken, max_size=6), max_size=6), st.data())
def test_any_split_and_any_repetition_gives_the_same_report(new_ledger, steps, data) -> None:
    effects = [written(*calls, run_id="r") for calls in steps]
    truth = {call.id: call for one in effects for _, _, call in one.calls}
    reports = []
    for repeat in (False, True):
        ledger = new_ledger()
        try:
            for part in _parts(effects, data.draw):
                ledger.commit(batch_of(*part), 1)
                if repeat:
                    ledger.commit(batch_of(*part), 1)
            reports.append((ledger.report(), ledger.report(["model", "user"])))
        finally:
            ledger.close()
    whole, by = reports[0]
    assert reports[1] == reports[0]
    assert nano_of(whole) == nano_of(by) == sum(call.nano or 0 for call in truth.values())
    assert sum(int(str(row["calls"])) for row in by) == len(truth)


def _parts(effects: list[Effects], draw: Callable) -> Iterator[list[Effects]]:
    while effects:
        size = draw(st.integers(1, len(effects)))
        yield effects[:size]
        effects = effects[size:]


def test_an_alert_of_before_two_runs_became_one_is_told_with_the_run_that_stays(ledger: Ledger) -> None:
    calls = [a_call("a", nano=30), a_call("b", nano=30, start_s=1)]
    alert = an_alert(["a", "b"], run_id=RUN, wasted_nano=30)
    ledger.commit(batch_of(Effects(alerts=[alert]), closed(*calls, run_id="conversation")), 1)
    run = ledger.run("conversation")
    assert run is not None
    assert [one["id"] for one in run["alerts"]] == [alert.id]  # type: ignore[attr-defined]
    assert ledger.report()[0]["wasted_usd"] == "0.00000003"


def test_closed_runs_are_given_with_what_wakes_them_by_time_and_tenant(ledger: Ledger) -> None:
    runs = [
        closed(a_call("late", trace="t2", start_s=100), snapshot=b"two"),
        closed(a_call("early", trace="t1"), snapshot=b"one"),
        closed(a_call("none kept", trace="t3", start_s=200), snapshot=b""),
        closed(a_call("theirs", trace="t4", tenant="other"), tenant="other", snapshot=b"four"),
    ]
    ledger.commit(batch_of(*runs, written(a_call("open", trace="t5"), run_id=trace_of("t5").hex())), 1)
    mine = [(trace_of("t1").hex(), b"one"), (trace_of("t2").hex(), b"two"), (trace_of("t3").hex(), b"")]
    assert [(run_id, frozen) for _, run_id, frozen in ledger.closed_runs(tenant="default")] == mine
    assert len([*ledger.closed_runs()]) == 4
    second = 10**9
    assert [*ledger.closed_runs(NOON_NS + 50 * second, NOON_NS + 150 * second)] == [("default", *mine[1])]
    # A run overlaps the time in which it began or ended.
    assert [*ledger.closed_runs(NOON_NS + 101 * second, NOON_NS + 102 * second)] == [("default", *mine[1])]


def test_a_closed_run_that_is_committed_again_replaces_what_was_there(ledger: Ledger) -> None:
    ledger.commit(batch_of(closed(a_call("a", nano=10), a_call("b", nano=20, start_s=1))), 5)
    ((_, _, frozen),) = ledger.closed_runs()
    assert frozen
    again = Batch()
    run = a_run([a_call("a", nano=7), a_call("b", nano=20, start_s=1)])
    again.closed["default", RUN] = run
    ledger.commit(again, 0)
    assert (nano_of(ledger.report()), ledger.cursor()) == (27, 5)
    story = ledger.run(RUN)
    assert story is not None
    assert story["cost_usd"] == "0.000000027"
    assert len(story["tree"]) == 1  # every step still stands there once


# --- what became of the work ---


def news(name: str, value: str, *keys: str, at_s: float = 100, id_: str | None = None) -> Outcome:
    return Outcome(
        id=id_ or f"{name}-{at_s}",
        tenant="default",
        name=name,
        value=Result(value),
        at_ns=NOON_NS + int(at_s * 10**9),
        source="api",
        keys=keys,
    )


def test_outcomes_reach_open_and_closed_runs_before_and_after(ledger: Ledger) -> None:
    early = news("merged_pr", "success", "branch:fix/1")
    ledger.commit(batch_of(Effects(outcomes=[early])), 1)
    # An open run, known by what has been said of it so far.
    call = a_call("a", session="conv")
    effects = written(call, run_id="conv")
    effects.joins = [("default", "conv", key) for key in (f"trace:{RUN}", "session:conv", "branch:fix/1")]
    ledger.commit(batch_of(effects), 2)
    assert ledger.outcomes([("default", "conv")]) == {("default", "conv"): [early]}
    run = ledger.run("conv")
    assert run is not None
    assert (run["outcome"], run["verdict"]) == ("success", "worth_it")
    # Closed, and later told of otherwise.
    ledger.commit(batch_of(closed(call, run_id="conv", extra_keys=("session:conv",))), 3)
    late = news("tests", "failure", f"trace:{RUN}", at_s=200)
    ledger.commit(batch_of(Effects(outcomes=[late])), 4)
    run = ledger.run("conv")
    assert run is not None
    assert [one["name"] for one in run["outcomes"]] == ["merged_pr", "tests"]
    assert (run["verdict"], run["traces"][0]["verdict"]) == ("waste", "waste")
    assert ledger.runs()[0]["verdict"] == "waste"
    assert ledger.outcomes([("other", "conv"), ("default", "none")]) == {}
    assert ledger.outcomes_by_keys("default", ["session:conv", "branch:fix/1"], NOON_NS) == [early]


def test_an_outcome_told_again_replaces_itself_unless_it_is_older(ledger: Ledger) -> None:
    ledger.commit(batch_of(closed(a_call("a"))), 1)
    for value, at_s in (("failure", 100), ("success", 300), ("failure", 200)):
        told = news("pr", value, f"trace:{RUN}", at_s=at_s, id_="pr")
        ledger.commit(batch_of(Effects(outcomes=[told])), 2)
        ledger.commit(batch_of(Effects(outcomes=[told])), 2)
    ((one,),) = ledger.outcomes([("default", RUN)]).values()
    assert (one.value, one.at_ns) == ("success", NOON_NS + 300 * 10**9)


def test_a_branch_leads_only_to_runs_that_had_begun(ledger: Ledger) -> None:
    effects = closed(a_call("a", start_s=10_000))
    effects.joins = [("default", RUN, "branch:main")]
    ledger.commit(batch_of(effects, Effects(outcomes=[news("merged_pr", "success", "branch:main", at_s=5)])), 1)
    assert ledger.outcomes([("default", RUN)]) == {}


def test_a_response_leads_to_the_closed_run_that_got_it(ledger: Ledger) -> None:
    told = news("judged", "success", "response:resp-1")
    ledger.commit(batch_of(closed(a_call("a"), extra_keys=("response:resp-1",)), Effects(outcomes=[told])), 1)
    assert ledger.outcomes([("default", RUN)]) == {("default", RUN): [told]}


def test_cost_per_outcome_by_any_dimension_adds_up(ledger: Ledger) -> None:
    effects = [
        closed(
            a_call(f"{name}1", trace=name, nano=1_000_000_001, model=model, who={"team": "core"}, agent="lead"),
            a_call(f"{name}2", trace=name, nano=2, model="claude-opus-4-5", start_s=5, agent="helper"),
            a_call(f"{name}3", trace=name, nano=None, kind=Kind.TOOL, tool="bash", start_s=6),
            run_id=trace_of(name).hex(),
            who={"workflow": "refactor"},
        )
        for name, model in (("t1", "claude-haiku-4-5"), ("t2", "claude-opus-4-5"), ("t3", "claude-haiku-4-5"))
    ]
    keys = [f"trace:{trace_of(name).hex()}" for name in ("t1", "t2", "t3")]
    told = [news("pr", "success", keys[0]), news("ticket", "failure", keys[0]), news("pr", "failure", keys[1], at_s=7)]
    ledger.commit(batch_of(*effects, Effects(outcomes=told)), 1)
    whole = nano_of(ledger.report())
    for by in ([], ["workflow"], ["model_route"], ["agent"], ["team"], ["model", "tool"], ["attr:nothing"]):
        rows = ledger.per_outcome(by)
        assert nano_of(rows) == whole, by
        assert all(set(by) <= row.keys() for row in rows)
    by_name = {row["outcome"]: row for row in ledger.per_outcome(["workflow"])}
    assert (by_name["pr"]["workflow"], by_name["pr"]["tries"], by_name["pr"]["successes"]) == ("refactor", 2, 1)
    assert (by_name["ticket"]["cost_usd"], by_name[None]["tries"]) == ("0.500000001", 1)
    routes = {row["model_route"] for row in ledger.per_outcome(["model_route"])}
    assert routes == {"claude-haiku-4-5 → claude-opus-4-5", "claude-opus-4-5"}
    assert ledger.per_outcome([], since_ns=NOON_NS + 10**9) == []
    assert ledger.per_outcome([], tenant="other") == []
    with pytest.raises(UnknownDimensionError, match="model_route"):
        ledger.per_outcome(["colour"])


def test_offsets_move_with_the_rows_and_only_for_the_last_reader(ledger: Ledger) -> None:
    one, two = Partition("steps", 1), Partition("steps", 2)
    assert ledger.take_partitions([one, two]) == {one: Offset(0, 0, 1), two: Offset(0, 0, 1)}
    ledger.commit(batch_of(written(a_call("c1"))), 0, {one: Offset(5, 7, 1), two: Offset(3, 3, 1)})
    assert ledger.take_partitions([one]) == {one: Offset(5, 7, 2)}
    with pytest.raises(PartitionMovedError, match="partition 1 of steps is read by another worker now"):
        ledger.commit(batch_of(written(a_call("c2"))), 0, {two: Offset(4, 4, 1), one: Offset(6, 7, 1)})
    assert ledger.report()[0]["calls"] == 1
    assert ledger.take_partitions([one, two]) == {one: Offset(5, 7, 3), two: Offset(3, 3, 2)}
    ledger.commit(batch_of(written(a_call("c2"))), 0, {one: Offset(6, 7, 3)})
    assert ledger.report()[0]["calls"] == 2
