"""The same story in a file and in a database: every question has the same answer, to the nano-dollar and in order."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from ledger_cases import NOON_NS, a_call, a_run, an_alert

from otel_cost.core.model.effects import Correction, Effects
from otel_cost.core.model.outcome import Outcome, Result
from otel_cost.core.model.usage import Usage
from otel_cost.core.model.vocabulary import Category, Flag, Kind, Reason
from otel_cost.edge.ledger import DIMENSIONS, Batch, Ledger, Selection
from otel_cost.edge.ledger.duckdb import DuckDbLedger
from otel_cost.edge.ledger.postgres import PostgresLedger

if TYPE_CHECKING:
    from collections.abc import Iterator

    from postgres import Server

_ODD = 'odd"k.e$y'


def batches(seed: int) -> Iterator[Batch]:
    """Runs of two tenants: open, closed, woken, looping, unpriced, joined by outcomes; names that sort in every way."""
    dice = random.Random(seed)
    names = ["ann", "Bob", "émile", "ZOË", "a b", "_x", None]
    for number in range(30):
        tenant, trace, batch = dice.choice(["default", "other"]), f"t{number}", Batch()
        who = {
            "user": dice.choice(names),
            "workflow": dice.choice(["refactor", "Review", None]),
            _ODD: dice.choice("12"),
        }
        said = {key: value for key, value in who.items() if value}
        calls = [
            a_call(
                f"c{index}",
                trace=trace,
                tenant=tenant,
                nano=dice.choice([None, 0, 7, 10**9 + index, 123_456_789]),
                model=dice.choice(["claude-haiku-4-5", "gpt-5", "Ä-model", None]),
                start_s=number * 40 + index * dice.random() * 5,
                who=said if dice.random() < 0.5 else {},
                agent=dice.choice(["main", "helper", None]),
                reason=dice.choice([Reason.UNKNOWN_MODEL, Reason.FAILED_CALL]),
                flags=frozenset({Flag.INCOMPLETE}) if dice.random() < 0.2 else frozenset(),
                session=dice.choice([None, f"s{number % 5}"]),
                usage=Usage(input=dice.randrange(10**6), output=index, cache_read=3),
                failed=dice.random() < 0.2,
            )
            for index in range(dice.randrange(1, 8))
        ]
        tools = [
            a_call(
                f"tool{i}", trace=trace, tenant=tenant, nano=None, kind=Kind.TOOL, tool="Bash", start_s=number * 40 + i
            )
            for i in range(3)
        ]
        run = a_run(
            [*calls, *tools],
            tenant=tenant,
            who=said,
            wasted_nano=5 * number,
            extra_keys=(f"session:s{number % 5}", f"response:r{number}"),
        )
        run_id = run.summary.run_id
        everything = [(tenant, run_id, call) for call in (*calls, *tools)]
        batch.add(Effects(calls=everything, joins=[(tenant, run_id, f"branch:b{number % 4}")]))
        if number % 7:
            batch.add(Effects(closed=[run]))
        if number % 2:
            alert = an_alert(
                ["tool0", "tool1", "tool2"], trace=trace, tenant=tenant, wasted_nano=number * 1_001, at_s=number
            )
            shaped = replace(
                alert,
                category=dice.choice([Category.LOOP, Category.WASTE]),
                evidence={"loop": f"shape{number % 3}", "odd": "nul \0 and half \ud800 a letter"},
            )
            batch.add(Effects(alerts=[shaped]))
            if number % 3:
                batch.add(
                    Effects(alerts=[replace(shaped, id=f"{alert.id}-resolved", state="resolved", wasted_nano=number)])
                )
        said_of = calls[0]
        batch.add(
            Effects(
                corrections=[
                    Correction(
                        tenant, run_id, said_of.id, said_of.trace_id, said_of.step.span_id, NOON_NS, 1, 2, "late"
                    )
                ],
                outcomes=[
                    Outcome(
                        id=f"o{number}",
                        tenant=tenant,
                        name=dice.choice(["merged_pr", "tests"]),
                        value=Result(dice.choice(["success", "failure"])),
                        at_ns=NOON_NS + number * 50 * 10**9,
                        source="api",
                        keys=(f"branch:b{number % 4}", f"response:r{number}"),
                    )
                ],
            )
        )
        yield batch
        if number % 5 == 0:
            gone = Batch()
            gone.add(Effects(gone=[(tenant, calls[0].id)]))
            yield gone
            yield batch  # told again: as it was


def answers(ledger: Ledger) -> Iterator[tuple[str, object]]:
    """Everything that can be asked."""
    dimensions: list[list[str]] = [
        [],
        *([one] for one in DIMENSIONS),
        [f"attr:{_ODD}"],
        ["user", "model"],
        ["agent", "tool"],
    ]
    noon, later = NOON_NS + 200 * 10**9, NOON_NS + 900 * 10**9
    for tenant in (None, "default", "other", "nobody"):
        for by in dimensions:
            yield f"report {by}", ledger.report(by, tenant=tenant)
            yield f"report {by} of a time", ledger.report(by, noon, later, tenant)
            yield f"per outcome {by}", ledger.per_outcome(by, tenant=tenant)
        yield "per outcome by route", ledger.per_outcome(["model_route"], noon, later, tenant)
        yield "over time", ledger.spend_over_time(60 * 10**9, noon, later, tenant)
        yield "runs", ledger.runs(100, tenant=tenant)
        yield "alerts", ledger.alerts(50, None, tenant)
        yield "loops", ledger.loops(50, None, tenant)
        yield "news", ledger.news(50, None, tenant)
        yield "recorded", [*ledger.recorded(noon, None, tenant)]
        yield "closed", [*ledger.closed_runs(noon, later, tenant)]
    for run in ledger.runs(100):
        yield f"run {run['run_id']}", ledger.run(str(run["run_id"]))
    yield "cursor", ledger.cursor()
    yield "keys", ledger.key_numbers(10_000)
    yield "latest keys", set(ledger.key_numbers(1)) <= set(ledger.key_numbers(3)) <= set(ledger.key_numbers(10_000))
    yield "sent", ledger.sent_alerts()
    yield "spends", [*ledger.spends(NOON_NS)]
    yield "shapes", [*ledger.shapes_of_finished_runs(10)]
    yield "usual", sorted(ledger.usual(3))
    yield "finished", [*ledger.finished(NOON_NS)]
    yield "snapshot", [ledger.find_snapshot("default", f"session:s{number}") for number in range(5)]


@pytest.mark.slow
def test_a_file_and_a_database_answer_alike(postgres: Server) -> None:
    url = postgres.url()
    file, database = DuckDbLedger(), PostgresLedger(url, "one")
    try:
        for cursor, batch in enumerate(batches(7)):
            for ledger in (file, database):
                ledger.commit(batch, cursor)
        # What a restart finds is what was there.
        database.close()
        database = PostgresLedger(url, "one")
        for forgotten in (None, Selection(user="ann"), Selection(before_ns=NOON_NS + 600 * 10**9)):
            if forgotten is not None:
                assert file.forget(forgotten) == database.forget(forgotten) > 0
            asked = 0
            for (what, told), (_, also) in zip(answers(file), answers(database), strict=True):
                assert also == _as_postgres_has_it(told), what
                asked += bool(told)
            assert asked > 40
    finally:
        file.close()
        database.close()


def _as_postgres_has_it(told: object) -> object:
    """No database keeps a NUL or half a letter in its texts: a replacement character stands there."""
    if isinstance(told, str):
        return "".join(
            "\N{REPLACEMENT CHARACTER}" if char == "\0" or "\ud800" <= char <= "\udfff" else char for char in told
        )
    if isinstance(told, dict):
        return {key: _as_postgres_has_it(value) for key, value in told.items()}
    if isinstance(told, list):
        return [_as_postgres_has_it(value) for value in told]
    return told
