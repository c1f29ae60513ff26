"""Runs that sleep and wake at any moment, whatever of them has been written by then: nothing is lost or doubled."""

from __future__ import annotations

import itertools
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

from load import make_load

from otel_cost.core.assemble.runs import Caps
from otel_cost.core.decode.otlp import decode_traces
from otel_cost.core.model.effects import Signal
from otel_cost.edge.files import load_price_book
from otel_cost.edge.ledger.duckdb import DuckDbLedger
from otel_cost.edge.ledger.postgres import PostgresLedger
from otel_cost.edge.ledger.writer import LedgerWriter
from otel_cost.edge.rule_files import read_rules
from otel_cost.pipeline import Engine, Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_cost.edge.ledger.sql import SqlLedger
    from postgres import Server

KEYS = {
    "call_rows": "id",
    "runs": "tenant, run_id",
    "run_keys": "tenant, key",
    "snapshots": "tenant, run_id",
    "traces": "tenant, trace_id",
    "run_joins": "tenant, key, run_id",
}
BOOK, RULES = load_price_book(()), read_rules(("bundled:starter",))
START_NS = 1_793_620_900 * 10**9
SESSIONS = 6


def requests(seed: int, dice: random.Random) -> list[bytes]:
    """Spans of twenty traces in six conversations, in any order, a few at a time, some of them sent again."""
    spans = []
    for body in make_load(400, 100, seed=seed, per_trace=20).bodies:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    for attribute in span.attributes:
                        if attribute.key == "gen_ai.conversation.id":
                            attribute.value.string_value = f"s{span.trace_id[0] % SESSIONS}"
                    spans.append((resource.resource, scope.scope, span))
    dice.shuffle(spans)
    spans += dice.sample(spans, 40)
    made = []
    while spans:
        count = dice.randrange(1, 12)
        request = ExportTraceServiceRequest()
        for resource, scope, span in spans[:count]:
            of = request.resource_spans.add(resource=resource)
            of.scope_spans.add(scope=scope, spans=[span])
        made.append(request.SerializeToString())
        del spans[:count]
    return made


@pytest.fixture(params=["duckdb", "postgres"])
def new_ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], SqlLedger]:
    """Makes empty ledgers of one kind."""
    if request.param == "postgres":
        server: Server = request.getfixturevalue("postgres")
        return lambda: PostgresLedger(server.url(), "node-1")
    files = (tmp_path / f"{number}.duckdb" for number in itertools.count())
    return lambda: DuckDbLedger(next(files))


def written(ledger: SqlLedger, seed: int, *, open_steps: int, commits: float) -> tuple[object, ...]:
    """What is in the ledger once all has come, with so many steps open at most and a commit after so many requests."""
    dice = random.Random(seed)
    writer = LedgerWriter(ledger, seconds=3600)
    settings = Settings(caps=Caps(open_steps=open_steps))
    engine = Engine(BOOK, RULES, settings, writer)
    now = START_NS
    for position, body in enumerate(requests(seed, dice)):
        now += dice.randrange(1, 15) * 10**9
        engine.feed(Signal.TRACES, decode_traces(body, "default", now).events, position, now)
        engine.advance(now)
        writer.add(engine.take(), position)
        if dice.random() < commits:
            assert writer.flush()
    engine.close(now)
    writer.add(engine.take(), 10**6)
    assert writer.flush()
    for table, key in KEYS.items():
        assert ledger._rows(f"SELECT {key}, count(*) FROM {table} GROUP BY {key} HAVING count(*) > 1") == [], table
    (report,) = ledger.report()
    runs = ledger._rows("SELECT run_id, nano, line::JSON ->> 'llm_calls' FROM runs ORDER BY run_id")
    writer.close()
    ledger.close()
    return report["cost_usd"], report["calls"], runs


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 12])
def test_whenever_they_sleep_the_ledger_says_the_same(new_ledger: Callable[[], SqlLedger], seed: int) -> None:
    expected = written(new_ledger(), seed, open_steps=10**6, commits=0)
    for open_steps, commits in [(30, 0.05), (10, 0.3), (60, 0.7), (15, 0.02)]:
        assert written(new_ledger(), seed, open_steps=open_steps, commits=commits) == expected
