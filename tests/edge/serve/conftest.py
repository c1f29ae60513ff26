"""A service's face over a real ledger, and a client for it."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter

sys.path.insert(0, str(Path(__file__).parents[1] / "ledger"))

import ledger_cases as cases

from otel_cost.core.model.effects import Effects
from otel_cost.core.model.vocabulary import Kind
from otel_cost.edge.ledger import Batch
from otel_cost.edge.ledger.duckdb import DuckDbLedger
from otel_cost.edge.notify._outbox import Outbox

EVIL = "<script>alert('x')</script>"


class FakeHost:
    """What the wired service offers to its API."""

    def __init__(self, ledger: DuckDbLedger, outbox: Path) -> None:
        self.ledger = ledger
        self.registry = CollectorRegistry()
        self.listens = {"grpc": "127.0.0.1:14317", "http": "127.0.0.1:14318"}
        self.outbox = Outbox(outbox)
        self.backtests = outbox.parent / "backtests"
        self.said: list[str] = []
        self.live: list = []
        self.busy = False

    def problems(self):
        return self.said

    def open_run(self, tenant, key):
        if self.busy:
            raise TimeoutError
        return next((r for r in self.live if r.summary.tenant == tenant and key in (r.summary.run_id, *r.keys)), None)

    def budgets(self, tenant, limit):
        rows = [("daily", 0.5, {"user": EVIL}), ("hourly", 0.2, {"user": None})]
        return [
            {
                "rule": rule, "mode": "enforce", "tenant": "default", "group": group, "window": "1d rolling",
                "window_start": None, "window_end": None, "limit_usd": "10", "spent_usd": str(10 * share),
                "counted_usd": str(10 * share), "left_usd": "5", "used_share": share, "exhausted_at": None,
                "firing": [], "top_run": None, "top_run_usd": "0", "exceptions": [],
            }
            for rule, share, group in rows
        ][:limit]  # fmt: skip

    def expect_hook(self):
        return nullcontext(self.decide)

    def allow(self, told, tenant):
        return {"exception": dict(told), "file": "x.yaml", "rules_hash": "0"}

    def drift(self, _tenant):
        return []

    def open_runs(self):
        if self.busy:
            raise TimeoutError
        return [run.summary for run in self.live]


@pytest.fixture
def host(tmp_path):
    ledger = DuckDbLedger(tmp_path / "ledger.duckdb")
    made = FakeHost(ledger, tmp_path / "outbox.sqlite")
    Counter("otel_cost_probe", "a counter", registry=made.registry).inc(3)
    calls = [
        cases.a_call("a", nano=2_000_000_000, who={"user": EVIL}, agent=EVIL),
        cases.a_call("hole", nano=None, model=EVIL, start_s=1),
        *(cases.a_call(f"t{i}", nano=None, kind=Kind.TOOL, tool=EVIL, start_s=2 + i, failed=True) for i in range(3)),
        cases.a_call("b", nano=500_000_000, start_s=3.5),
    ]
    run = cases.a_run(calls, who={"user": EVIL, "workflow": "refactor"}, wasted_nano=500_000_000)
    alert = cases.an_alert(["t0", "t1", "t2"], wasted_nano=500_000_000)
    batch = Batch()
    batch.add(Effects(calls=[("default", run.summary.run_id, call) for call in calls], closed=[run], alerts=[alert]))
    ledger.commit(batch, 1)
    yield made
    ledger.close()
