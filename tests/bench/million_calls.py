"""How fast a large ledger answers: a million calls of 50,000 runs over 60 days, made by a seeded generator.

One run in twenty has a loop, one in five an outcome.

    python tests/bench/million_calls.py [--calls 1000000] [--folder DIR]

Prints wall and CPU time of `report --by workflow,model --since 30d`, of other questions, and of every page over HTTP's
own path (the views and templates, without the socket). A folder is kept and used again.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

sys.path.insert(0, str(Path(__file__).parents[1] / "edge" / "ledger"))

import ledger_cases as cases

from otel_cost.core.model.effects import Effects
from otel_cost.core.model.outcome import Outcome, Result
from otel_cost.core.model.vocabulary import Kind
from otel_cost.edge.ledger import FILE, Batch
from otel_cost.edge.ledger.duckdb import DuckDbLedger
from otel_cost.edge.notify._outbox import Outbox
from otel_cost.edge.serve.pages import Pages
from otel_cost.edge.serve.views import Views

if TYPE_CHECKING:
    from collections.abc import Callable

PER_RUN = 20
ALERT_EACH = 20  # runs
OUTCOME_EACH = 5
DAY_S = 86_400
DAYS = 60
MODELS = ("gpt-5", "gpt-5-mini", "claude-sonnet-4-5", "claude-haiku-4-5", "gemini-2.5-pro", "in-house-70b")


def fill(ledger: DuckDbLedger, calls: int, until_s: float) -> None:
    dice = random.Random(8)
    batch = Batch()
    for number in range(calls // PER_RUN):
        workflow = dice.randrange(40)
        models = [MODELS[(workflow + step) % len(MODELS)] for step in range(3)]
        who = {
            "user": f"user-{dice.randrange(500)}",
            "team": f"team-{dice.randrange(20)}",
            "workflow": f"workflow-{workflow}",
        }
        start = until_s - dice.random() * DAYS * DAY_S - cases.NOON_NS / 1e9
        trace = f"trace-{number}"
        made = []
        for index in range(PER_RUN):
            tool = index % 3 == 2
            model = dice.choice(models)
            priced = not tool and model != "in-house-70b"
            made.append(
                cases.a_call(
                    f"{number}-{index}",
                    trace=trace,
                    nano=dice.randrange(10**5, 10**8) if priced else None,
                    model=model,
                    kind=Kind.TOOL if tool else Kind.INFERENCE,
                    tool="run" if tool else None,
                    start_s=start + index,
                    who=who,
                )
            )
        run = cases.a_run(made, who=who, run_id=cases.trace_of(trace).hex())
        effects = Effects(calls=[("default", run.summary.run_id, call) for call in made], closed=[run])
        if number % ALERT_EACH == 0:
            spans = [f"{number}-{index}" for index in range(2, PER_RUN, 3)]
            effects.alerts = [
                cases.an_alert(spans, trace=trace, wasted_nano=dice.randrange(10**6), at_s=start + PER_RUN)
            ]
        if number % OUTCOME_EACH == 0:
            effects.outcomes = [
                Outcome(
                    id=trace,
                    tenant="default",
                    name=dice.choice(("merged_pr", "resolved_ticket")),
                    value=dice.choice((Result.SUCCESS, Result.FAILURE)),
                    at_ns=made[-1].step.end_ns,
                    source="api",
                    keys=(f"trace:{run.summary.run_id}",),
                )
            ]
        batch.add(effects)
        if batch.rows > 20_000:
            ledger.commit(batch, number)
            batch = Batch()
    ledger.commit(batch, calls)


class Host:
    """As much of a service as pages ask."""

    def __init__(self, ledger: DuckDbLedger, outbox: Outbox) -> None:
        self.ledger, self.outbox, self.registry = ledger, outbox, CollectorRegistry()
        self.listens: dict[str, str] = {}

    def problems(self) -> list[str]:
        return []

    def open_run(self, _tenant: str, _key: str) -> None:
        return None

    def open_runs(self) -> list[object]:
        return []

    def drift(self, _tenant: str | None) -> list[object]:
        return []

    def budgets(self, _tenant: str | None, _limit: int) -> list[object]:
        return []


def timed(name: str, ask: Callable[[], object], times: int = 7) -> None:
    walls, began = [], time.process_time()
    for _ in range(times):
        start = time.perf_counter()
        ask()
        walls.append((time.perf_counter() - start) * 1e3)
    cpu = (time.process_time() - began) / times * 1e3
    walls.sort()
    print(f"{name:44s} median {walls[len(walls) // 2]:8.0f} ms   most {walls[-1]:8.0f} ms   CPU {cpu:8.0f} ms")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        fresh = not (folder / FILE).exists()
        ledger = DuckDbLedger(folder / FILE)
        now_ns = time.time_ns()
        if fresh:
            began = time.process_time()
            fill(ledger, options.calls, now_ns / 1e9)
            print(
                f"made {options.calls:,} calls: {(time.process_time() - began) / options.calls * 1e6:.0f} µs CPU a call"
            )
        month_ns = now_ns - 30 * DAY_S * 10**9
        timed("report --by workflow,model --since 30d", lambda: ledger.report(["workflow", "model"], month_ns))
        timed("report --by user", lambda: ledger.report(["user"]))
        timed("report --per-outcome --by workflow", lambda: ledger.per_outcome(["workflow"], month_ns), 3)
        timed("dearest runs of 30 days", lambda: ledger.runs(20, month_ns))
        (dearest,) = ledger.runs(1)
        outbox = Outbox(folder / "outbox.sqlite")
        pages = Pages(Views(Host(ledger, outbox)))  # type: ignore[arg-type]  # all that these pages ask
        timed("the pages that a start makes ready", pages.warm, 1)
        print("first load, nothing remembered:")
        for name, ask in {
            "page: overview, 24h": lambda of: of.overview("24h", None),
            "page: overview, 30d": lambda of: of.overview("30d", None),
            "page: overview, all": lambda of: of.overview("all", None),
            "page: workflows, 30d": lambda of: of.workflows("30d", None),
            "page: workflows, 30d, by route": lambda of: of.workflows("30d", None, by_route=True),
        }.items():
            pages.views = Views(pages.views.host)
            timed(name, partial(ask, pages), 1)
        print("again and again:")
        timed("page: overview, 24h", lambda: pages.overview("24h", None))
        timed("page: overview, 30d", lambda: pages.overview("30d", None))
        timed("page: workflows, 30d", lambda: pages.workflows("30d", None))
        timed("page: alerts", lambda: pages.alerts(None))
        timed("page: a run", lambda: pages.run(str(dearest["run_id"]), None))
        ledger.close()
        outbox.close()


if __name__ == "__main__":
    main()
