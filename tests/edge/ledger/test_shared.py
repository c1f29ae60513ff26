"""Several services on one database: what each is told of the others, and what none may spoil for another."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import psycopg
import pytest
from ledger_cases import a_call, a_run, an_alert, trace_of

from otel_cost.core.model.effects import Effects
from otel_cost.edge.ledger import Batch, Heard, LedgerUnavailableError
from otel_cost.edge.ledger.postgres import PostgresLedger
from otel_cost.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from otel_cost.core.model.call import Call
    from postgres import Server

RUN = trace_of("t1").hex()


@pytest.fixture
def two(postgres: Server) -> Iterator[tuple[PostgresLedger, PostgresLedger]]:
    url = postgres.url()
    one, other = PostgresLedger(url, "one"), PostgresLedger(url, "other")
    yield one, other
    one.close()
    other.close()


def batch_of(*effects: Effects) -> Batch:
    batch = Batch()
    for one in effects:
        batch.add(one)
    return batch


def written(*calls: Call, run_id: str = RUN) -> Effects:
    return Effects(calls=[("default", run_id, call) for call in calls])


def spent(heard: Heard) -> dict[str, int | None]:
    return {call_id: None if spend is None else spend.nano for _, call_id, spend in heard.spends}


def test_each_hears_once_what_the_other_wrote_and_nothing_of_its_own(
    two: tuple[PostgresLedger, PostgresLedger],
) -> None:
    one, other = two
    a, b = a_call("a", nano=5, who={"user": "ann"}), a_call("b", nano=None)
    run = a_run([a, b], who={"team": "core"}, extra_keys=("session:s",))
    one.commit(batch_of(written(a, b), Effects(closed=[run], alerts=[an_alert(["a", "b"])])), 1)
    assert one.heard() == Heard([], [], [])
    heard = other.heard()
    assert spent(heard) == {a.id: 5, b.id: None}
    (told,) = [spend for _, call_id, spend in heard.spends if call_id == a.id]
    assert told is not None
    assert (told.facts["user"], told.facts["team"], told.run) == ("ann", "core", RUN)
    assert set(heard.keys) == {("default", RUN), ("default", "session:s")}
    assert [alert["id"] for alert in heard.alerts] == [an_alert(["a", "b"]).id]
    assert other.heard() == Heard([], [], [])
    # Changed, gone and written again: the last word counts.
    one.commit(batch_of(written(a_call("a", nano=7)), Effects(gone=[("default", b.id)])), 2)
    assert spent(other.heard()) == {a.id: 7, b.id: None}
    other.commit(batch_of(written(a_call("a", nano=8))), 1)
    assert spent(one.heard()) == {a.id: 8}
    one.commit(batch_of(Effects(gone=[("default", a.id)])), 3)
    one.commit(batch_of(written(a_call("a", nano=9))), 4)
    assert spent(other.heard()) == {a.id: 9}


def test_what_is_committed_late_is_heard_although_later_ones_were_heard_before(postgres: Server) -> None:
    url = postgres.url()
    slow, quick, hearer = (PostgresLedger(url, name) for name in ("slow", "quick", "hearer"))
    a, b = a_call("a", nano=1), a_call("b", nano=2)
    original = slow._note_open

    def meanwhile(*given):  # the rows of the slow one are written, not committed
        quick.commit(batch_of(written(b, run_id="r2")), 1)
        assert spent(hearer.heard()) == {b.id: 2}
        return original(*given)

    slow._note_open = meanwhile  # type: ignore[method-assign]
    slow.commit(batch_of(written(a, run_id="r1")), 1)
    assert spent(hearer.heard()) == {a.id: 1}
    assert hearer.heard() == Heard([], [], [])
    for ledger in (slow, quick, hearer):
        ledger.close()


def test_each_has_a_cursor_of_its_own(two: tuple[PostgresLedger, PostgresLedger]) -> None:
    one, other = two
    one.commit(Batch(), 7)
    other.commit(Batch(), 3)
    assert (one.cursor(), other.cursor()) == (7, 3)


def test_parts_of_a_run_that_two_have_add_up_and_neither_takes_out_the_other_s(
    two: tuple[PostgresLedger, PostgresLedger], postgres: Server
) -> None:
    """A session over two traces that a load balancer sent to two services, one of which is started again meanwhile."""
    one, other = two
    a, b = a_call("a", trace="t1", nano=5, session="s"), a_call("b", trace="t2", nano=70, session="s")
    one.commit(batch_of(written(a, run_id="s")), 1)
    other.commit(batch_of(written(b, run_id="s")), 1)
    again = PostgresLedger(postgres.url(_database(one)), "one")
    again.commit(batch_of(Effects(closed=[a_run([a], run_id="s", extra_keys=("session:s",))])), 2)
    other.commit(batch_of(Effects(closed=[a_run([b], run_id="s", extra_keys=("session:s",))])), 2)
    assert again.report()[0]["cost_usd"] == "0.000000075"
    assert again.report()[0]["calls"] == 2
    again.close()


def test_a_run_that_another_closed_is_woken_whole(two: tuple[PostgresLedger, PostgresLedger]) -> None:
    one, other = two
    a, b = a_call("a", nano=5), a_call("b", nano=6)
    one.commit(batch_of(written(a, b), Effects(closed=[a_run([a, b], snapshot=b"both")])), 1)
    assert other.find_snapshot("default", RUN) == b"both"
    # A late record showed that b was told by another record of a.
    other.commit(batch_of(Effects(closed=[a_run([a_call("a", nano=6)])])), 1)
    assert one.report()[0]["cost_usd"] == "0.000000006"
    assert spent(one.heard()) == {a.id: 6, b.id: None}


def _database(ledger: PostgresLedger) -> str:
    return str(ledger._rows("SELECT current_database()")[0][0])


def test_two_that_write_the_same_at_once_both_get_through(two: tuple[PostgresLedger, PostgresLedger]) -> None:
    """The same runs, keys and alerts from both, in opposite orders: nobody waits for ever, nothing counts twice."""
    calls = [a_call(f"c{number}", trace=f"t{number % 7}", nano=number) for number in range(200)]
    runs = [a_run([call for call in calls if call.trace_id == trace_of(f"t{number}")]) for number in range(7)]
    alerts = [an_alert(["c1", "c2"], trace=f"t{number}") for number in range(7)]
    problems: list[Exception] = []

    def write(ledger: PostgresLedger, step: int) -> None:
        for turn in range(10):
            try:
                for run in runs[::step]:
                    ledger.commit(batch_of(written(*run.calls[::step], run_id=run.summary.run_id)), turn)
                ledger.commit(batch_of(Effects(closed=runs[::step], alerts=alerts[::step])), turn)
            except LedgerUnavailableError as error:
                problems.append(error)

    threads = [threading.Thread(target=write, args=pair) for pair in zip(two, (1, -1), strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert problems == []
    assert two[0].report()[0] | {"wasted_usd": ""} == two[1].report()[0] | {"wasted_usd": ""}
    assert (two[0].report()[0]["calls"], two[0].report()[0]["cost_usd"]) == (200, "0.0000199")
    assert len(two[0].alerts()) == 7
    assert {len(run["calls"]) for run in map(two[0].run, (run.summary.run_id for run in runs)) if run} <= {28, 29}  # type: ignore[arg-type]


def test_what_keeps_a_database_from_use_is_said_without_its_password(postgres: Server) -> None:
    url = postgres.url("everybody")
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("CREATE ROLE reader LOGIN PASSWORD 's3cr3t'")
        db.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    host = url.partition("@")[2]
    for written_url, why in (
        (f"postgresql://reader:s3cr3t@{host}", "permission denied for schema public"),
        (f"postgresql://ours:s3cr3t@{host}x", 'database "everybodyx" does not exist'),
        ("postgresql://ours:s3cr3t@127.0.0.1:1/none", "refused"),
        ("postgresql://ours:s3cr3t%zz@127.0.0.1/none", "%XX"),
    ):
        with pytest.raises(UsageError, match=why) as raised:
            PostgresLedger(written_url, "one")
        assert "s3cr3t" not in str(raised.value)
    with pytest.raises(UsageError, match="nothing has been recorded"):
        PostgresLedger(url)
    PostgresLedger(url, "one").close()
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("INSERT INTO schema_version VALUES (999)")
    with pytest.raises(UsageError, match=r"newer otel-cost \(schema 999"):
        PostgresLedger(url, "one")
