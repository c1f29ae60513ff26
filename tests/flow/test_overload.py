"""Overload: told early, over late, and what is left out meanwhile is what a route says."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from otel_cost.core.model.effects import Outgoing, Signal
from otel_cost.core.model.event import Resource, Scope
from otel_cost.core.routing import Router
from otel_cost.core.rules import load_rules
from otel_cost.document import parse_document
from otel_cost.edge import backlog as lines
from otel_cost.edge.backlog import Backlog
from otel_cost.edge.journal import Record

RULES = """
version: 1
routes:
  - {match: {overload: true, cost_usd: {lt: 0.01}}, to: [one], sample: 0.1}
  - {to: [one], keep: all}
"""


def test_the_backlog_is_overloaded_from_three_quarters_until_one_quarter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "BACKLOG_BYTES", 100)
    backlog = Backlog()
    seen = []
    for size in (40, 34, 1):
        backlog.put_records([Record("traces", "default", 0, b"x" * size)])
        seen.append(backlog.is_overloaded)
    for _ in range(3):
        backlog.take(1)
        seen.append(backlog.is_overloaded)
    backlog.put_records([Record("traces", "default", 0, b"x" * 40)])
    assert [*seen, backlog.is_overloaded] == [False, False, True, True, False, False, False]


@pytest.mark.parametrize("overload", [True, False])
def test_cheap_traces_are_sampled_while_it_lasts(overload: bool) -> None:
    router = Router(load_rules([parse_document(RULES, "r.yaml")]).routes, timeout_ns=10**9, most_bytes=1 << 20)
    raw = Span(name="s").SerializeToString()
    roots = [
        Outgoing(
            Signal.TRACES, 0, raw, resource=Resource(), scope=Scope(), tenant="default",
            trace_id=number.to_bytes(16, "big"), is_root=True,
        )
        for number in range(1, 401)
    ]  # fmt: skip

    def facts(_tenant: str, trace_id: bytes) -> dict[str, object]:
        return {"run": trace_id.hex(), "cost_usd": "0.5" if trace_id[-1] % 2 else "0.001", "overload": overload}

    shares = router.take(roots, (), facts, 0)
    kept, left_out = shares.offered["one"], shares.declined.get("one", [])
    assert sum(one.trace_id[-1] % 2 for one in kept) == sum(
        one.trace_id[-1] % 2 for one in roots
    )  # dear ones are whole
    cheap = [one for one in kept if one.trace_id[-1] % 2 == 0]
    assert {one.sample_rate for one in cheap} == ({10} if overload else {None})
    assert (5 < len(cheap) < 50 and len(cheap) + len(left_out) == 200) if overload else not left_out


def test_a_greedy_tenant_waits_and_a_small_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "BACKLOG_BYTES", 100)
    backlog = Backlog()

    def put(tenant: str, size: int) -> None:
        backlog.put_records([Record("traces", tenant, 0, b"x" * size)])

    put("big", 90)
    assert backlog.admit("big", 0)  # the line is short
    put("small", 5)
    put("big", 30)
    assert (backlog.admit("big", 0), backlog.admit("small", 0), backlog.admit("new", 0)) == (False, True, True)
    backlog.take(1)
    assert backlog.admit("big", 0)
    put("big", 120)
    waiting = ThreadPoolExecutor(1)
    answer = waiting.submit(backlog.admit, "big", 20)
    backlog.close()  # nobody waits for an engine that is gone
    assert answer.result(20)
