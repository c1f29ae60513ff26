"""What is to be forgotten goes with all that hangs on it; the rest stays to the nano-dollar."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import duckdb
import ledger_cases as cases
import pytest

from otel_cost.core.model.effects import Effects
from otel_cost.core.model.outcome import Outcome, Result
from otel_cost.edge.config import Retention
from otel_cost.edge.ledger import Batch, Ledger, Selection
from otel_cost.edge.ledger.duckdb import MIGRATIONS, DuckDbLedger
from otel_cost.edge.ledger.postgres import PostgresLedger
from otel_cost.edge.ledger.sql import SqlLedger
from otel_cost.edge.upkeep import back_up, clean, restore
from otel_cost.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from postgres import Server

DAY_S = 86_400


@pytest.fixture(params=["duckdb", "postgres"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    if request.param == "postgres":
        opened: Ledger = PostgresLedger(request.getfixturevalue("postgres").url(), "one")
    else:
        opened = DuckDbLedger(tmp_path / "ledger.duckdb")
    yield opened
    opened.close()


def put(ledger: Ledger, name: str, user: str, day: int = 0, nano: int = 1_000_000_000) -> str:
    """One closed run of one call with one alert; its id."""
    call = cases.a_call(name, trace=name, nano=nano, who={"user": user}, start_s=day * DAY_S, session=name)
    run = cases.a_run([call], who={"user": user})
    batch = Batch()
    batch.add(
        Effects(
            calls=[("default", run.summary.run_id, call)],
            closed=[run],
            alerts=[cases.an_alert([name], run_id=run.summary.run_id)],
        )
    )
    ledger.commit(batch, ledger.cursor() + 1)
    return run.summary.run_id


def users(ledger: Ledger) -> dict[object, object]:
    return {row["user"]: row["cost_usd"] for row in ledger.report(["user"])}


def everything(ledger: Ledger) -> str:
    assert isinstance(ledger, SqlLedger)
    asked = "SELECT table_name FROM information_schema.tables WHERE table_schema IN ('main', 'public')"
    tables = [name for (name,) in ledger._rows(asked)]
    assert "call_rows" in tables
    return "\n".join(str(ledger._rows(f"SELECT * FROM {table}")) for table in tables)


def test_forgets_by_run_user_and_age(ledger: Ledger) -> None:
    first = put(ledger, "a", "dana")
    put(ledger, "b", "dana", day=3)
    put(ledger, "c", "kim", day=1)
    assert ledger.forget(Selection(run_id=first)) == 1
    assert users(ledger) == {"dana": "1", "kim": "1"}
    assert ledger.run(first) is None
    before_ns = cases.NOON_NS + 2 * DAY_S * 10**9
    assert ledger.forget(Selection(before_ns=before_ns)) == 1
    assert users(ledger) == {"dana": "1"}
    assert ledger.forget(Selection(user="dana", tenant="other")) == 0
    assert ledger.forget(Selection(user="dana", tenant="default")) == 1
    assert ledger.report() == []
    for trace_of_them in ("dana", "kim"):
        assert trace_of_them not in everything(ledger)
    # And it goes on as if nothing had been.
    put(ledger, "d", "dana", nano=7)
    assert users(ledger) == {"dana": "0.000000007"}


def loop(ledger: Ledger, name: str, shape: str, *, day: int, nano: int, tenant: str = "default") -> str:
    """One closed run with one episode of a loop, told twice; its id."""
    call = cases.a_call(name, trace=name, start_s=day * DAY_S, session=name, tenant=tenant)
    run = cases.a_run([call], tenant=tenant)
    told = [
        replace(
            cases.an_alert([name], trace=name, run_id=run.summary.run_id, tenant=tenant, at_s=at_s, state=state),
            wasted_nano=wasted,
            evidence={"loop": shape},
        )
        for at_s, state, wasted in ((day * DAY_S, "firing", 1), (day * DAY_S + 9, "resolved", nano))
    ]
    batch = Batch()
    batch.add(Effects(calls=[(tenant, run.summary.run_id, call)], closed=[run], alerts=told))
    ledger.commit(batch, ledger.cursor() + 1)
    return run.summary.run_id


def test_shapes_of_loops_outlive_the_runs_that_retention_takes(ledger: Ledger) -> None:
    loop(ledger, "a", "again", day=0, nano=100)
    loop(ledger, "b", "again", day=3, nano=20)
    loop(ledger, "c", "once", day=0, nano=7)
    before = ledger.loops()
    assert [(row["loop"], row["times"], row["runs"], row["burn_usd"]) for row in before] == [
        ("again", 2, 2, "0.00000012"),
        ("once", 1, 1, "0.000000007"),
    ]
    taught = list(ledger.shapes_of_finished_runs(10))
    assert ledger.forget(Selection(before_ns=cases.NOON_NS + DAY_S * 10**9)) == 2
    assert len(ledger.alerts()) == 1
    assert ledger.loops() == before
    assert list(ledger.shapes_of_finished_runs(10)) == taught
    # It is counted on, a second time as well, and its time is known.
    loop(ledger, "d", "again", day=4, nano=3)
    assert ledger.forget_oldest(1.0) == 2
    again = ledger.loops()[0]
    assert (again["times"], again["runs"], again["burn_usd"]) == (3, 3, "0.000000123")
    assert (again["first_seen"], again["kind"]) == (before[0]["first_seen"], "repeated_error")
    assert again["last_seen"] > before[0]["last_seen"]
    assert [row["loop"] for row in ledger.loops(since_ns=cases.NOON_NS + 2 * DAY_S * 10**9)] == ["again"]
    assert not ledger.alerts()


def test_who_is_forgotten_on_demand_leaves_no_shapes(ledger: Ledger) -> None:
    run_id = loop(ledger, "a", "again", day=0, nano=100)
    assert ledger.forget(Selection(run_id=run_id)) == 1
    assert ledger.loops() == []
    loop(ledger, "b", "again", day=0, nano=100, tenant="acme")
    ledger.forget_oldest(1.0)
    assert len(ledger.loops(tenant="acme")) == 1
    loop(ledger, "c", "again", day=0, nano=100, tenant="acme")
    assert ledger.forget(Selection(tenant="acme")) == 1
    assert ledger.loops() == []
    # Also where nothing but the shapes of its loops is left of a tenant.
    loop(ledger, "d", "again", day=0, nano=100, tenant="acme")
    ledger.forget_oldest(1.0)
    assert len(ledger.loops(tenant="acme")) == 1
    assert ledger.forget(Selection(tenant="acme")) == 0
    assert ledger.loops() == []


def news(name: str, *keys: str) -> Outcome:
    return Outcome(
        id=name,
        tenant="default",
        name=name,
        value=Result.SUCCESS,
        at_ns=cases.NOON_NS + 10**9,
        source="api",
        keys=keys,
        subject=f"about-{name}",
    )


def test_news_of_forgotten_runs_goes_and_news_of_others_stays(ledger: Ledger) -> None:
    first, second = put(ledger, "a", "dana"), put(ledger, "b", "kim")
    joins = [("default", first, "branch:one"), ("default", first, "branch:both"), ("default", second, "branch:both")]
    told = [
        news("of-dana", f"trace:{first}"),
        news("on-branch", "branch:one"),
        news("shared", "branch:both", f"trace:{first}"),
        news("nobodys", "ticket:9"),
    ]
    batch = Batch()
    batch.add(Effects(joins=joins, outcomes=told))
    ledger.commit(batch, 9)
    assert ledger.forget(Selection(run_id=first)) == 1
    left = everything(ledger)
    assert "of-dana" not in left
    assert "on-branch" not in left
    assert {row["name"] for row in ledger.news()} == {"shared", "nobodys"}
    assert [one.name for one in ledger.outcomes([("default", second)])["default", second]] == ["shared"]
    assert ledger.forget(Selection(user="kim")) == 1
    assert {row["name"] for row in ledger.news()} == {"nobodys"}


def test_retention_by_age_and_size(ledger: Ledger, tmp_path: Path) -> None:
    old_letter = tmp_path / "dead-letters" / "x" / "old.pb"
    old_letter.parent.mkdir(parents=True)
    old_letter.write_bytes(b"x")
    new_letter = old_letter.with_name("new.pb")
    new_letter.write_bytes(b"x")
    os.utime(old_letter, (1, 1))
    put(ledger, "a", "dana")
    put(ledger, "b", "kim", day=1000)
    assert clean(ledger, tmp_path, Retention(), time.time_ns()) == 0
    retention = Retention.model_validate({"max_age": "30d"})
    at_ns = cases.NOON_NS + 1001 * DAY_S * 10**9
    assert clean(ledger, tmp_path, retention, min(at_ns, time.time_ns() + 29 * DAY_S * 10**9)) == 1
    assert users(ledger) == {"kim": "1"}
    assert (old_letter.exists(), new_letter.exists()) == (False, True)
    assert clean(ledger, tmp_path, Retention(max_bytes=1), time.time_ns()) == 1
    assert ledger.report() == []


@pytest.mark.parametrize("ledger", ["duckdb"], indirect=True)
def test_a_backup_is_laid_down_only_where_nothing_is(ledger: Ledger, tmp_path: Path) -> None:
    put(ledger, "a", "dana")
    target = tmp_path / "backups" / "one"
    assert back_up(ledger, tmp_path / "data", target) > 0
    with pytest.raises(UsageError, match="there already"):
        back_up(ledger, tmp_path / "data", target)
    with pytest.raises(UsageError, match="whole path"):
        back_up(ledger, tmp_path / "data", target.relative_to(tmp_path))
    put(ledger, "b", "kim")
    with pytest.raises(UsageError, match="no backup"):
        restore(tmp_path, tmp_path / "new")
    restore(target, tmp_path / "new")
    with pytest.raises(UsageError, match="not empty"):
        restore(target, tmp_path / "new")
    again = DuckDbLedger(tmp_path / "new" / "ledger.duckdb")
    assert users(again) == {"dana": "1"}
    again.close()


def test_a_version_can_be_taken_back(tmp_path: Path) -> None:
    """A file of the next version that only adds something is read and written by this one."""
    path = tmp_path / "ledger.duckdb"
    ledger = DuckDbLedger(path)
    put(ledger, "a", "dana")
    ledger.close()
    newer = duckdb.connect(path)
    newer.execute("ALTER TABLE runs ADD COLUMN mood VARCHAR")
    newer.execute("CREATE TABLE moods (id VARCHAR)")
    newer.execute("INSERT INTO schema_version VALUES (?)", [len(MIGRATIONS) + 1])
    newer.close()
    ledger = DuckDbLedger(path)
    put(ledger, "b", "kim")
    assert users(ledger) == {"dana": "1", "kim": "1"}
    ledger.close()
    newer = duckdb.connect(path)
    newer.execute("INSERT OR REPLACE INTO progress VALUES ('readable_by', ?)", [len(MIGRATIONS) + 1])
    newer.close()
    with pytest.raises(UsageError, match="newer otel-cost"):
        DuckDbLedger(path)


@pytest.mark.parametrize("ledger", ["postgres"], indirect=True)
def test_a_database_is_backed_up_by_its_own_means(ledger: Ledger, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="pg_dump"):
        back_up(ledger, tmp_path / "data", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_calls_that_come_while_others_are_forgotten_keep_what_they_say(postgres: Server) -> None:
    """Two services: what one takes out because nothing speaks of it any more, the other may be about to speak of."""
    url = postgres.url()
    one, two = PostgresLedger(url, "one"), PostgresLedger(url, "two")
    first = put(two, "a", "dana")
    assert one.forget(Selection(run_id=first)) == 1
    put(two, "b", "dana")  # as the call before in all that is kept once
    assert users(one) == users(two) == {"dana": "1"}
    for ledger in (one, two):
        ledger.close()
