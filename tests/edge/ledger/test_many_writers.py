"""What several services do with one ledger: homes of runs, alerts told once, partitions that move, parts of a run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from ledger_cases import a_call, a_run, an_alert
from test_contract import batch_of, written

sys.path.insert(0, str(Path(__file__).parents[2] / "flow"))

from money_helper import Desk, agent, book, chat, tool

from otel_cost.core.model.effects import Effects
from otel_cost.edge.ledger.postgres import PostgresLedger
from otel_cost.edge.partitions import Offset, Partition

if TYPE_CHECKING:
    from collections.abc import Iterator

    from otel_cost.core.model.event import SpanEvent
    from otel_cost.edge.ledger import Batch
    from postgres import Server

TALK = {"gen_ai__conversation__id": "talk"}


@pytest.fixture
def two(postgres: Server) -> Iterator[tuple[PostgresLedger, PostgresLedger]]:
    """One database, two services."""
    url = postgres.url()
    ledgers = PostgresLedger(url, "one"), PostgresLedger(url, "other")
    for ledger in ledgers:
        ledger.charge = book().charge
    yield ledgers
    for ledger in ledgers:
        ledger.close()


def closing(*events: SpanEvent) -> Batch:
    """An engine's effects that has seen these, and closes."""
    desk = Desk()
    desk.tell(*events)
    desk.close()
    run = desk.run
    return batch_of(Effects(calls=[("default", run.summary.run_id, call) for call in run.calls], closed=[run]))


def test_the_first_word_on_a_home_stands(two: tuple[PostgresLedger, PostgresLedger]) -> None:
    one, other = two
    assert one.claim_homes({("t", "a"): "a", ("t", "session:s"): "a"}) == {("t", "a"): "a", ("t", "session:s"): "a"}
    assert other.claim_homes({("t", "session:s"): "b", ("t", "b"): "b"}) == {("t", "session:s"): "a", ("t", "b"): "b"}
    assert other.find_homes([("t", "a"), ("t", "nobody"), ("other", "a")]) == {("t", "a"): "a"}


def test_an_alert_is_news_to_one_of_them(two: tuple[PostgresLedger, PostgresLedger]) -> None:
    one, other = two
    batch = batch_of(Effects(alerts=[an_alert(["a1"]), an_alert(["a2"], trace="t2")]))
    names = set(batch.alerts)
    assert one.commit(batch, 0) == names
    assert other.commit(batch, 0) == set()
    assert one.adopt_alerts() == []  # whoever wrote them has time to tell them
    one.note_told([min(names)])
    with one._writes.connection() as db:
        db.execute("UPDATE alerts SET claimed = claimed - interval '1 hour'")
    adopted = other.adopt_alerts()
    assert [(tenant, name) for tenant, name, _ in adopted] == [max(names)]
    assert one.adopt_alerts() == []


def test_an_alert_stays_with_whoever_wrote_it_first(two: tuple[PostgresLedger, PostgresLedger]) -> None:
    """Others come to the same later: it is not theirs to tell when its own service was killed, nor to tell worse."""
    one, other = two
    told, found = an_alert(["a1"]), an_alert(["a1"], wasted_nano=None)
    one.commit(batch_of(Effects(alerts=[told])), 0)
    other.heard()
    other.commit(batch_of(Effects(alerts=[found])), 0)
    assert [alert["wasted_usd"] for alert in one.alerts()] == ["0.0005"]
    assert one.heard().alerts == other.heard().alerts == []
    assert other.adopt_alerts(own=True) == []
    assert [name for _, name, _ in one.adopt_alerts(own=True)] == [told.id]
    one.commit(batch_of(Effects(alerts=[found])), 0)  # but it may know better itself
    assert [alert["wasted_usd"] for alert in one.alerts()] == [None]


def test_who_takes_a_partition_tells_the_whole_truth_of_its_runs(two: tuple[PostgresLedger, PostgresLedger]) -> None:
    one, other = two
    partition = Partition("steps", 1)
    one.take_partitions([partition])
    one.commit(batch_of(written(a_call("partial"), run_id="early name")), 0, {partition: Offset(0, 2, 1)})
    assert other.take_partitions([partition]) == {partition: Offset(0, 2, 2)}
    whole = a_run([a_call("whole")])
    other.commit(batch_of(Effects(closed=[whole])), 0, {partition: Offset(9, 9, 2)})
    assert [row["calls"] for row in other.report()] == [1]


def test_parts_of_a_run_are_made_one_when_they_close(two: tuple[PostgresLedger, PostgresLedger]) -> None:
    one, other = two
    first = [agent(1, **TALK), chat(2, 1, (500, 50), gen_ai__response__id="r-1"), tool(3, 1)]
    second = [agent(11, trace_id=2, **TALK), chat(12, 11, (700, 70), trace_id=2, gen_ai__response__id="r-2")]
    gateway = [chat(21, 0, (500, 50), trace_id=3, scope="gateway", gen_ai__response__id="r-1")]
    one.commit(closing(*first), 0)
    other.commit(closing(*second), 0)
    assert [run["trace_ids"] for run in one.runs()] == [[f"{number:032x}" for number in (1, 2)]]
    assert one.report()[0]["calls"] == 3
    one.commit(closing(*gateway), 0)  # tells of the first call once more, under a trace of its own
    assert [run["trace_ids"] for run in one.runs()] == [[f"{number:032x}" for number in (1, 2, 3)]]
    assert one.report()[0]["calls"] == 3
    whole = closing(*first, *second, *gateway).closed["default", "talk"]
    assert one.runs()[0]["cost_usd"] == f"{(whole.summary.nano or 0) / 10**9:.7f}".rstrip("0")
