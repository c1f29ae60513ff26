"""What a long history costs whoever writes to the ledger and wakes runs from it.

    python tests/bench/large_ledger.py [--calls 12000000] [--step 2000000]

Rows of runs with 33 calls and 19 keys each are put into the tables directly, as many as a service would leave in
months. Between them, as often as `--step` says: the CPU of a commit as the service makes it (the calls of 10,000 bench
spans and the 200 runs that they close), alone and where the newest keys do not tell of all runs any more (`not sure`),
of one that a woken run closes in; how long it takes to find a sleeping run, and to learn the keys at a start.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent))

from load import START_NS, make_load
from report import markdown_table

from otel_cost.core.decode.otlp import decode_traces
from otel_cost.core.model.effects import Effects, Signal
from otel_cost.edge.files import load_price_book
from otel_cost.edge.ledger import Batch
from otel_cost.edge.ledger.duckdb import DuckDbLedger, _hash
from otel_cost.edge.ledger.writer import KeyFilter
from otel_cost.edge.rule_files import read_rules
from otel_cost.pipeline import Engine

if TYPE_CHECKING:
    from collections.abc import Iterator

CALLS, KEYS, RUNS = 33, 19, 300  # of a run, of a run, of one filling commit
SPACING_NS = 10**7  # between two calls of the history
SNAPSHOT = 500  # bytes
TURNS = 3


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=12_000_000)
    parser.add_argument("--step", type=int, default=2_000_000)
    options = parser.parse_args()
    head = ["calls", "MB", "commit ms", "not sure", "woken", "find ms", "keys s", "peak MB"]
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.duckdb"
        ledger = DuckDbLedger(path)
        seeds = itertools.count()
        written = 0
        while True:
            rows.append([f"{written:,}", *_measured(ledger, seeds, written, path)])
            print(dict(zip(head, rows[-1], strict=True)), flush=True)
            if written >= options.calls:
                break
            for first in range(written, written + options.step, CALLS * RUNS):
                _fill(ledger, first // CALLS)
            written += options.step
        ledger.close()
    print("\n".join(markdown_table(head, rows)))


def _fill(ledger: DuckDbLedger, first: int) -> None:
    """Runs from a number on."""
    end, db = first + RUNS, ledger._db
    run, trace, began = (
        "'run-' || md5(({0})::VARCHAR)[:12]",
        "md5('t' || {0})",
        f"{START_NS - 10**17} + {{0}} * {SPACING_NS}",
    )
    each, calls, keys = (f"range({first * n}, {end * n}) t(i)" for n in (1, CALLS, KEYS))
    of_call, of_key, key = run.format(f"i // {CALLS}"), run.format(f"i // {KEYS}"), "'response:' || md5('k' || i)[:24]"
    this, its = run.format("i"), trace.format("i")
    of_keys, of_runs = _hash("'default'", key), _hash("'default'", this)
    start, end_ns = began.format("i"), began.format(f"(i * {CALLS})")
    db.begin()
    statements = {
        "call_rows": f"md5('c' || i)::UUID, 1 + i % 50, {of_call}, unhex(md5('t' || i // {CALLS})),"
        f" unhex(md5(i::VARCHAR)[:16]), 'session', {start}, {start} + 5000000, 1, false, i % 1000000, NULL, i % 5000,"
        f" i % 2500, NULL, i % 800, NULL, '1:2:3' FROM {calls}",
        "run_keys": f"'default', {key}, {of_key}, {of_keys} FROM {keys}",
        "runs": f"'default', {this}, {end_ns}, {end_ns}, i, 0, NULL, NULL, NULL, 'u' || i % 50,"
        f" NULL, NULL, NULL, '{{}}' FROM {each}",
        "snapshots": f"'default', {this}, repeat('x', {SNAPSHOT})::BLOB, {of_runs} FROM {each}",
        "traces": f"'default', {its}, {this}, 0, '{{}}' FROM {each}",
        "run_joins": f"'default', 'trace:' || {its}, {this} FROM {each}",
    }
    for table, values in statements.items():
        db.execute(f"INSERT INTO {table} SELECT {values}")
    db.commit()


def _of_engine(seed: int) -> Effects:
    """What the engine leaves of 10,000 spans whose runs have closed."""
    engine = Engine(load_price_book(()), read_rules(("bundled:starter",)))
    now = START_NS
    for position, body in enumerate(make_load(10_000, 500, seed=seed).bodies):
        engine.feed(Signal.TRACES, decode_traces(body, "default", now).events, position, now)
    engine.close(now)
    return engine.take()


def _measured(ledger: DuckDbLedger, seeds: Iterator[int], written: int, path: Path) -> tuple[str, ...]:
    spent: dict[str, float] = {}
    for how in ("sure", "not sure", "woken"):
        costs = []
        for _ in range(TURNS):
            batch = Batch()
            batch.add(_of_engine(next(seeds)))
            batch.is_sure = how != "not sure"
            if how == "woken":
                ledger._inherited.add(next(iter(batch.closed)))
            began = time.process_time()
            ledger.commit(batch, 1)
            costs.append(time.process_time() - began)
        spent[how] = sorted(costs)[TURNS // 2] * 1000
    found = []
    for number in range(1, 10):
        key = "response:" + hashlib.md5(f"k{written * KEYS // CALLS * number // 10}".encode()).hexdigest()[:24]
        began = time.perf_counter()
        assert (ledger.find_snapshot("default", key) is not None) == bool(written)
        found.append(time.perf_counter() - began)
    began = time.perf_counter()
    KeyFilter(ledger)
    keys_s = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    size = path.stat().st_size / 10**6
    return (
        f"{size:,.0f}",
        *(f"{ms:.0f}" for ms in spent.values()),
        f"{sorted(found)[4] * 1000:.1f}",
        f"{keys_s:.1f}",
        f"{peak:.0f}",
    )


if __name__ == "__main__":
    main()
