"""report in the formats of other programs and beside another time, tail: what they print and write."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import duckdb
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "edge" / "ledger"))

import ledger_cases as cases

from otel_cost.cli import run
from otel_cost.cli.explain import folded
from otel_cost.core.model.effects import Effects
from otel_cost.edge.ledger import FILE, Batch
from otel_cost.edge.ledger.duckdb import DuckDbLedger

DAY = 86_400


@pytest.fixture
def data_dir(tmp_path):
    """A call of each model on the first day; the dear model's costs more two days later, beside one without a price."""
    ledger = DuckDbLedger(tmp_path / FILE)
    calls = [
        cases.a_call("a", nano=1_000_000_000, model="dear", who={"user": "ann", "team": "core"}),
        cases.a_call("b", nano=200_000_000, model="cheap", who={"user": "bob", "team": "core"}, start_s=1),
        cases.a_call("c", nano=3_000_000_001, model="dear", who={"user": "ann", "team": "core"}, start_s=2 * DAY),
        cases.a_call("d", nano=None, model="odd", who={"user": "=1+1"}, start_s=2 * DAY + 1),
    ]
    batch = Batch()
    batch.add(
        Effects(
            calls=[("default", cases.trace_of("t1").hex(), call) for call in calls],
            closed=[cases.a_run(calls)],
            alerts=[cases.an_alert(["a"])],
        )
    )
    ledger.commit(batch, 1)
    ledger.close()
    return str(tmp_path)


@pytest.fixture
def days():
    """Midnights in the ledger's time: the day of the first calls, and two days later."""
    from otel_cost.edge.report_formats import DAY_NS, instant

    start = cases.a_call("a").step.start_ns
    first = start - start % DAY_NS
    return [instant(first + number * DAY_NS) for number in range(5)]


def lines(capsys) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_the_time_before_stands_beside_it(data_dir, days, capsys) -> None:
    window = ["--since", days[2], "--until", days[4], "--compare", "previous", "--json"]
    assert run(["report", "--by", "model", "--data-dir", data_dir, *window]) == 0
    rows = {row["model"]: row for row in lines(capsys)}
    assert rows["dear"] | {"model": "", "unpriced_calls": 0} == {
        "model": "",
        "cost_usd": "3.000000001",
        "before_usd": "1",
        "change_usd": "2.000000001",
        "ratio": "3.000",
        "calls": 1,
        "calls_before": 1,
        "unpriced_calls": 0,
    }
    assert (rows["cheap"]["change_usd"], rows["cheap"]["ratio"]) == ("-0.2", "0.000")
    assert (rows["odd"]["ratio"], rows["odd"]["unpriced_calls"]) == (None, 1)
    assert list(rows) == ["dear", "cheap", "odd"]  # the largest change first


def test_two_values_of_a_dimension_side_by_side(data_dir, capsys) -> None:
    assert run(["report", "--by", "team", "--data-dir", data_dir, "--compare", "user=bob,ann", "--json"]) == 0
    (row,) = lines(capsys)
    assert (row["team"], row["before_usd"], row["cost_usd"]) == ("core", "0.2", "4.000000001")


def test_a_comparison_is_a_table_for_people(data_dir, days, capsys) -> None:
    assert run(["report", "--data-dir", data_dir, "--since", days[2], "--until", days[4], "--compare", "previous"]) == 0
    said = capsys.readouterr().out
    assert "+$2.00" in said
    assert "× 3.000" in said


@pytest.mark.parametrize("how", ["last", "model=a", "model=a,b,c"])
def test_a_comparison_says_how_it_is_asked_for(data_dir, capsys, how) -> None:
    assert run(["report", "--data-dir", data_dir, "--compare", how]) == 2
    assert "write `previous`" in capsys.readouterr().err


def test_focus_has_a_row_per_day_and_adds_up(data_dir, days, capsys) -> None:
    asked = ["report", "--by", "user", "--data-dir", data_dir, "--since", days[0], "--until", days[4], "--focus"]
    assert run(asked) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["ChargePeriodStart"], row["SkuId"], row["BilledCost"]) for row in rows] == [
        (days[0], "dear", "1"),
        (days[0], "cheap", "0.2"),
        (days[2], "dear", "3.000000001"),
        (days[2], "odd", "0"),
    ]
    assert json.loads(rows[0]["Tags"]) == {"user": "ann"}
    assert json.loads(rows[3]["Tags"]) == {"user": "=1+1", "otel_cost.unpriced_calls": 1}
    assert {row["SubAccountId"] for row in rows} == {"core", ""}


def test_parquet_keeps_money_exact(data_dir, tmp_path) -> None:
    path = tmp_path / "spend.parquet"
    assert run(["report", "--by", "model", "--data-dir", data_dir, "--parquet", str(path)]) == 0
    found = duckdb.sql(f"SELECT model, cost_usd, calls FROM '{path}' ORDER BY cost_usd DESC NULLS LAST").fetchall()
    assert [(model, str(cost), calls) for model, cost, calls in found] == [
        ("dear", "4.000000001", 2),
        ("cheap", "0.200000000", 1),
        ("odd", "None", 1),
    ]


def test_parquet_that_cannot_be_written_says_so(data_dir, tmp_path, capsys) -> None:
    assert run(["report", "--data-dir", data_dir, "--parquet", str(tmp_path / "no" / "x.parquet")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_one_report_at_a_time(data_dir, capsys) -> None:
    assert run(["report", "--data-dir", data_dir, "--focus", "--compare", "previous"]) == 2
    assert "ask for one" in capsys.readouterr().err


def test_tail_tells_runs_and_alerts_once(data_dir, days, capsys) -> None:
    assert run(["tail", "--data-dir", data_dir, "--since", days[0], "--once", "--json"]) == 0
    told = lines(capsys)
    assert [line["type"] for line in told] == ["run", "alert"]
    assert told[0]["spent_usd"] == told[0]["cost_usd"]
    assert run(["tail", "--data-dir", data_dir, "--since", days[0], "--once"]) == 0
    assert "+$4.200000 of $4.200000 at least" in capsys.readouterr().out


def test_tail_of_some_runs(data_dir, days, capsys) -> None:
    assert run(["tail", "--data-dir", data_dir, "--since", days[0], "--once", "-m", "user=nobody"]) == 0
    assert capsys.readouterr().out == ""


def step(kind: str, name: str, usd: str | None = None, *, failed: bool = False, children=()) -> dict:
    return {
        "span_id": name,
        "call_id": name,
        "kind": kind,
        "name": name,
        "duration_ms": 1.0,
        "failed": failed,
        "status": "priced",
        "self_usd": usd,
        "subtree_usd": usd,
        "children": list(children),
    }


def test_what_repeats_is_folded_and_priced() -> None:
    ask, fail = step("inference", "m", "0.1"), step("tool", "test", failed=True)
    (agent,) = folded([step("agent", "a", children=[ask, fail, ask, fail, ask, fail, step("tool", "edit"), ask])])
    loop, edit, last = agent["children"]
    assert (loop["kind"], loop["name"]) == ("loop", "3 × inference m → tool test failed")
    assert (loop["subtree_usd"], loop["duration_ms"], loop["children"]) == ("0.3", 6.0, [])
    assert [edit["name"], last["name"]] == ["edit", "m"]


def test_what_repeats_twice_or_differs_is_not_folded() -> None:
    steps = [step("inference", "m", "0.1"), step("tool", "a"), step("inference", "m", "0.1"), step("tool", "b")]
    assert folded(steps) == steps
    several = folded([step("tool", "read") for _ in range(3)])
    assert [(one["kind"], one["name"]) for one in several] == [("repeat", "3 × tool read")]
