"""The tree of a run: every step once, sums right, whatever the parents are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from otel_cost.core.model.money import usd_to_nano
from otel_cost.edge.ledger.story import tree, without_echoes


def node(span: str, parent: str | None, nano: int | None = None, status: str | None = None) -> dict[str, object]:
    return {
        "span_id": span,
        "trace_id": "t",
        "parent_id": parent,
        "call_id": None,
        "kind": "inference",
        "name": span,
        "agent": None,
        "start_ns": 0,
        "end_ns": 0,
        "failed": False,
        "status": status,
        "self_nano": nano,
    }


def walk(branches):
    for branch in branches:
        yield branch
        yield from walk(branch["children"])


def test_subtree_is_the_sum_below_and_nothing_priced_is_not_zero() -> None:
    (root,) = tree([node("r", None), node("a", "r", 5), node("b", "a", 7), node("c", "r")])
    costs = {branch["span_id"]: (branch["self_usd"], branch["subtree_usd"]) for branch in walk([root])}
    assert costs == {
        "r": (None, "0.000000012"),
        "a": ("0.000000005", "0.000000012"),
        "b": ("0.000000007", "0.000000007"),
        "c": (None, None),
    }


@given(st.lists(st.tuples(st.integers(0, 9), st.one_of(st.none(), st.integers(1, 100))), max_size=10))
def test_cycles_and_missing_parents_lose_no_step_and_no_money(parents) -> None:
    nodes = [node(str(i), str(parent), nano) for i, (parent, nano) in enumerate(parents)]
    tops = tree(nodes)
    assert sorted(branch["span_id"] for branch in walk(tops)) == sorted(str(i) for i in range(len(parents)))
    assert sum(usd_to_nano(top["subtree_usd"]) for top in tops if top["subtree_usd"]) == sum(n or 0 for _, n in parents)


def test_a_deep_tree_needs_no_recursion() -> None:
    tops = tree([node(str(i), str(i - 1) if i else None, 1) for i in range(5000)])
    assert tops[0]["subtree_usd"] == "0.000005"
    assert without_echoes(tops)[1] == 0


def test_records_that_tell_again_are_left_out_unless_something_hangs_below() -> None:
    tops = tree(
        [
            node("r", None),
            node("echo", "r", None, "duplicate"),
            node("holder", "r", None, "duplicate"),
            node("below", "holder", 1, "priced"),
        ]
    )
    shown, left_out = without_echoes(tops)
    assert [branch["span_id"] for branch in walk(shown)] == ["r", "holder", "below"]
    assert left_out == 1
    assert len(list(walk(tops))) == 4
