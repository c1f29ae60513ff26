"""Rounds of a loop are one line of a run's page."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from otel_cost.edge.serve.pages import FOLD, flat, folded


def step(name: str, cost: str | None = "1", children: list[Any] | None = None) -> Any:
    return {
        "span_id": name, "trace_id": "t", "call_id": None, "kind": "tool", "name": name, "agent": "a",
        "start_time": "", "duration_ms": 1.0, "failed": False, "status": None, "self_usd": cost, "subtree_usd": cost,
        "carried_usd": None, "attempt": None, "children": children or [],
    }  # fmt: skip


def test_rounds_of_several_steps_are_one_line_with_their_sum() -> None:
    steps = [step("plan"), *(step(name) for _ in range(3) for name in ("think", "test")), step("done")]
    lines = [(branch["kind"], branch["name"], hidden) for _, branch, hidden in flat(folded(steps))]
    assert lines[:2] == [("tool", "plan", False), (FOLD, "think → test × 3", False)]
    assert lines[2:8] == [("tool", name, True) for _ in range(3) for name in ("think", "test")]
    assert lines[8] == ("tool", "done", False)
    assert folded(steps)[1]["subtree_usd"] == "6"


@given(st.recursive(st.lists(st.sampled_from("ab"), max_size=8), lambda inner: st.lists(inner, max_size=4)))
def test_folding_loses_no_step_and_keeps_their_order(shape: Any) -> None:
    def build(one: Any) -> Any:
        return step(one) if isinstance(one, str) else step("list", None, [build(inner) for inner in one])

    tree = [build(shape)]
    before = [branch["name"] for _, branch, _ in flat(tree)]
    after = [branch["name"] for _, branch, _ in flat(folded(tree)) if branch["kind"] != FOLD]
    assert after == before
