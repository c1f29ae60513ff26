"""Routes: decided per trace, late spans follow, sums stay right."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from otel_cost.core.model.attributes import PlainAttributes
from otel_cost.core.model.effects import Outgoing, Signal
from otel_cost.core.model.event import Resource
from otel_cost.core.model.vocabulary import Category
from otel_cost.core.routing import Router
from otel_cost.core.rules import load_rules
from otel_cost.document import parse_document

S = 10**9
RULES = """
version: 1
routes:
  - {match: {any: [loop, over_budget]}, to: [full, cheap], keep: all}
  - {match: {cost_usd: {gte: 1}}, to: [full, cheap], keep: all}
  - {match: {resource.deployment.environment.name: prod}, to: [cheap], sample: 0.25}
"""
PROD = Resource(PlainAttributes({"deployment.environment.name": "prod"}), b"")
TEST = Resource(PlainAttributes({"deployment.environment.name": "test"}), b"")


def router(rules: str = RULES, most_bytes: int = 1 << 20) -> Router:
    return Router(load_rules([parse_document(rules, "r.yaml")]).routes, timeout_ns=60 * S, most_bytes=most_bytes)


def span(trace: int, *, root: bool = False, resource: Resource = PROD, position: int = 0) -> Outgoing:
    raw = Span(name="s").SerializeToString()
    return Outgoing(
        Signal.TRACES, position, raw, b"", resource, None, None, "default", trace.to_bytes(16, "big"), is_root=root
    )


class Costs:
    """Facts of runs, one a trace."""

    def __init__(self, **usd: str) -> None:
        self.usd = usd

    def __call__(self, _tenant: str, trace_id: bytes) -> dict[str, object]:
        name = f"t{int.from_bytes(trace_id, 'big')}"
        return {"run": name, "cost_usd": self.usd.get(name)}


class Said:
    """As much of an alert as routes look at."""

    tenant, state = "default", "firing"

    def __init__(self, trace: int, category: Category, kind: str = "") -> None:
        self.run_id, self.trace_id, self.category, self.kind = f"t{trace}", trace.to_bytes(16, "big"), category, kind


def test_a_trace_waits_for_its_root_and_goes_where_its_first_route_says() -> None:
    one = router()
    facts = Costs(t1="1.5", t2="0.2")
    out = one.take([span(1, resource=TEST), span(2, resource=TEST, position=7)], (), facts, 0)
    assert (out.offered, out.declined) == ({}, {})
    assert one.position() == 0
    out = one.take([span(1, root=True, resource=TEST), span(2, root=True, resource=TEST)], (), facts, S)
    assert {name: len(records) for name, records in out.offered.items()} == {"full": 2, "cheap": 2}
    assert {name: len(records) for name, records in out.declined.items()} == {"full": 2, "cheap": 2}
    assert {record.trace_id[-1] for record in out.offered["full"]} == {1}
    assert one.position() is None
    late = one.take([span(1, resource=TEST), span(2, resource=TEST)], (), facts, 2 * S)
    assert {record.trace_id[-1] for record in late.offered["cheap"]} == {1}
    assert {record.trace_id[-1] for record in late.declined["cheap"]} == {2}


@settings(max_examples=20, deadline=None)
@given(st.integers(min_value=0, max_value=2**32))
def test_sampled_traces_are_whole_and_their_rate_makes_up_for_the_others(seed: int) -> None:
    one = router()
    traces = range(seed, seed + 400)
    records = [span(trace) for trace in traces] + [span(trace, root=True) for trace in traces]
    out = one.take(records, (), Costs(), 0)
    assert "full" not in out.offered
    kept = [record.trace_id for record in out.offered["cheap"]]
    assert all(kept.count(trace_id) == 2 for trace_id in set(kept))
    assert len(kept) + len(out.declined["cheap"]) == len(records)
    rates = [Span.FromString(r.raw + r.extra).attributes[0] for r in out.offered["cheap"]]
    assert {(rate.key, rate.value.double_value) for rate in rates} == {("otel_cost.sample_rate", 4.0)}
    estimate = 4 * len(set(kept))
    assert 200 < estimate < 620  # 400, give or take five standard deviations


def test_the_same_traces_are_kept_by_every_process() -> None:
    records = [span(trace, root=True) for trace in range(200)]
    first, second = (router().take(records, (), Costs(), 0).offered["cheap"] for _ in range(2))
    assert [r.trace_id for r in first] == [r.trace_id for r in second]


@pytest.mark.parametrize(
    "alert", [Said(3, Category.LOOP), Said(3, Category.BUDGET, "budget_limit")], ids=lambda a: a.category.value
)
def test_what_loops_or_breaks_a_budget_is_kept_whole(alert: Any) -> None:
    one = router()
    one.take([span(3, resource=TEST)], (), Costs(), 0)
    out = one.take([span(3, root=True, resource=TEST)], [alert], Costs(), S)
    assert {name: len(records) for name, records in out.offered.items()} == {"full": 2, "cheap": 2}


def test_a_trace_that_was_left_out_and_then_loops_is_sent_from_then_on() -> None:
    one = router()
    out = one.take([span(4, resource=TEST)], (), Costs(), 0)
    out = one.take([], (), Costs(), 61 * S)  # its root does not come
    assert len(out.declined["full"]) == 1
    out = one.take([span(4, resource=TEST)], [Said(4, Category.LOOP)], Costs(), 62 * S)
    assert len(out.offered["full"]) == len(out.offered["cheap"]) == 1


def test_the_oldest_is_decided_when_too_much_waits() -> None:
    one = router(most_bytes=len(span(1).raw) * 3)
    out = one.take([span(trace, resource=TEST) for trace in range(1, 6)], (), Costs(t1="9"), 0)
    assert [record.trace_id[-1] for record in out.offered["full"]] == [1]
    assert one.position() == 0
    assert sum(map(len, one.close(Costs()).declined.values())) == 2 * 3


def test_a_route_takes_nothing_from_a_destination_it_does_not_name() -> None:
    assert router().routed == ("full", "cheap")
    assert router("version: 1\nroutes: [{to: [a], keep: all}]").routed == ("a",)


def test_a_destination_that_is_routed_later_keeps_its_books_of_traces_decided_before() -> None:
    one = router("version: 1\nroutes: [{to: [a], keep: all}]")
    one.take([span(1, root=True)], (), Costs(), 0)
    one.use(load_rules([parse_document("version: 1\nroutes: [{to: [a, b], keep: all}]", "r")]).routes)
    late = one.take([span(1)], (), Costs(), S)
    assert {name: len(records) for name, records in late.offered.items()} == {"a": 1}
    assert {name: len(records) for name, records in late.declined.items()} == {"b": 1}


def test_shares_are_exact() -> None:
    routes = load_rules([parse_document("version: 1\nroutes: [{to: [a], sample: 0.1}, {to: [b], sample: 5%}]", "r")])
    assert [route.share for route in routes.routes] == [Fraction(1, 10), Fraction(1, 20)]
