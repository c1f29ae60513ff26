"""Several services on one database: what each is told of the others, and what none may spoil for another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from ledger_cases import a_call, a_run, an_alert, trace_of

from otel_cost.core.model.effects import Effects
from otel_cost.edge.ledger import Batch, Heard
from otel_cost.edge.ledger.postgres import PostgresLedger

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
