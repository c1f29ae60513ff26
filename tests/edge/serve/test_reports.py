"""`GET /v1/report` gives what the command prints: side by side, CSV, Parquet, FOCUS; and says what it cannot."""

from __future__ import annotations

import csv
import io
import json

import duckdb
import httpx
import ledger_cases as cases
import pytest

from otel_cost.core.model.effects import Effects
from otel_cost.edge.ledger import Batch
from otel_cost.edge.report_formats import DAY_NS, FOCUS, instant
from otel_cost.edge.serve.api import ApiServer

DAY = 86_400
FIRST = cases.NOON_NS - cases.NOON_NS % DAY_NS
DAYS = [instant(FIRST + number * DAY_NS) for number in range(5)]


@pytest.fixture
def http(host):
    """Beside what is there: two calls of the first day, one two days later, which is dearer."""
    calls = [
        cases.a_call("r", trace="t9", nano=1_000_000_000, model="dear", who={"user": "ann", "team": "core"}),
        cases.a_call("s", trace="t9", nano=200_000_000, model="cheap", who={"user": "=1+1"}, start_s=1),
        cases.a_call("u", trace="t9", nano=3_000_000_001, model="dear", who={"user": "ann"}, start_s=2 * DAY),
    ]
    batch = Batch()
    run_id = cases.trace_of("t9").hex()
    batch.add(Effects(calls=[("other", run_id, call) for call in calls], closed=[cases.a_run(calls, tenant="other")]))
    host.ledger.commit(batch, 2)
    server = ApiServer(host, ("127.0.0.1", 0))
    port = server.start()
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        yield client
    server.stop()


def rows(http, **asked):
    answer = http.get("/v1/report", params={"tenant": "other", **asked})
    assert answer.status_code == 200, answer.text
    return answer


def test_two_times_and_two_values_side_by_side(http) -> None:
    told = rows(http, by="model", compare="previous", since=DAYS[2], until=DAYS[4]).json()["rows"]
    assert [(row["model"], row["before_usd"], row["cost_usd"], row["ratio"]) for row in told] == [
        ("dear", "1", "3.000000001", "3.000"),
        ("cheap", "0.2", "0", "0.000"),
    ]
    assert len(rows(http, by="model", compare="previous", since=DAYS[2], until=DAYS[4], top=1).json()["rows"]) == 1
    (row,) = rows(http, compare="model=cheap,dear").json()["rows"]
    assert (row["before_usd"], row["cost_usd"], row["change_usd"]) == ("0.2", "4.000000001", "3.800000001")


def test_csv_for_spreadsheets(http) -> None:
    answer = rows(http, by="user,model", format="csv")
    assert answer.headers["content-type"].startswith("text/csv")
    assert "report.csv" in answer.headers["content-disposition"]
    told = list(csv.DictReader(io.StringIO(answer.text)))
    assert [(row["user"], row["model"], row["cost_usd"]) for row in told] == [
        ("ann", "dear", "4.000000001"),
        ("'=1+1", "cheap", "0.2"),  # no formula
    ]
    compared = rows(http, by="model", compare="previous", since=DAYS[2], until=DAYS[4], format="csv").text
    assert compared.splitlines()[0].startswith("model,cost_usd,before_usd,change_usd")
    assert "outcome" in rows(http, per="outcome", format="csv").text.splitlines()[0]


def test_parquet_keeps_money_exact(http, tmp_path) -> None:
    file = tmp_path / "report.parquet"
    file.write_bytes(rows(http, by="model", format="parquet").content)
    found = duckdb.sql(f"SELECT model, cost_usd::VARCHAR, calls FROM '{file}' ORDER BY cost_usd").fetchall()
    assert found == [("cheap", "0.200000000", 1), ("dear", "4.000000001", 2)]


def test_focus_has_a_row_per_day(http) -> None:
    answer = rows(http, by="user", format="focus", since=DAYS[0], until=DAYS[4])
    told = list(csv.DictReader(io.StringIO(answer.text)))
    assert list(told[0]) == list(FOCUS)
    assert [(row["ChargePeriodStart"], row["SkuId"], row["BilledCost"]) for row in told] == [
        (DAYS[0], "dear", "1"),
        (DAYS[0], "cheap", "0.2"),
        (DAYS[2], "dear", "3.000000001"),
    ]
    assert json.loads(told[1]["Tags"]) == {"user": "=1+1"}


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"format": "xml"}, "json, csv, parquet, focus"),
        ({"compare": "last"}, "write `previous`"),
        ({"compare": "colour=a,b"}, "unknown dimension"),
        ({"per": "outcome", "compare": "previous"}, "three reports"),
        ({"format": "focus", "since": "2020-01-01"}, "at most 400 days"),
        ({"format": "parquet", "since": "2300-01-01"}, "nothing was spent"),
        ({"compare": "previous", "since": "soon"}, "is no time"),
    ],
)
def test_what_cannot_be_asked_is_said(http, asked, said) -> None:
    answer = http.get("/v1/report", params=asked)
    assert answer.status_code == 400
    assert said in answer.json()["error"]
