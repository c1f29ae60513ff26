"""Story: one run told in money: its tree with what each step and everything below it cost, its calls, its alerts.

Made alike from an open run (`story_of`, the engine's view) and from ledger rows
(`story`), so that a page or `explain` never asks where a run was found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

from otel_cost.core.enrich.lines import call_line, outcome_map, rfc3339, run_line, trace_line, usd
from otel_cost.core.model.money import exact_text, usd_to_nano
from otel_cost.core.model.outcome import UNJUDGED
from otel_cost.core.model.vocabulary import Status
from otel_cost.core.outcomes import judge, latest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from otel_cost.core.model.call import Call
    from otel_cost.core.model.charge import Item
    from otel_cost.core.model.outcome import Outcome
    from otel_cost.core.model.run import ClosedRun, Node, RunSummary

Row = dict[str, Any]


class Branch(TypedDict):
    """One step of the tree. Costs are decimal strings of USD; `subtree_usd` is None where nothing below is priced."""

    span_id: str | None
    trace_id: str | None
    call_id: str | None
    kind: str
    name: str
    agent: str | None
    start_time: str
    duration_ms: float
    failed: bool
    status: str | None
    self_usd: str | None
    subtree_usd: str | None
    children: list[Branch]


def story(
    run: Row, traces: Sequence[Row], calls: Sequence[Row], nodes: Iterable[Row], alerts: Sequence[Row],
    corrections: Sequence[Row],
) -> Row:  # fmt: skip
    """A run line with `open`, `start_time`, `end_time`, `traces`, `tree`, `calls`, `alerts`, `corrections`.

    Rows are contract lines; a node row has the fields of `Branch`, `parent_id` and
    `self_nano` in place of money and children. A priced call without a node of its own stands on top.
    """
    said = {name: run[name] for name in ("outcome", "verdict", "verdict_why")}
    return {
        **run,
        "traces": [{**trace, **said} for trace in traces],
        "tree": tree([*nodes], calls),
        "calls": list(calls),
        "alerts": list(alerts),
        "corrections": list(corrections),
    }


def story_of(closed: ClosedRun, alerts: Sequence[Row] = (), corrections: Sequence[Row] = (), *, is_open: bool) -> Row:
    """The story of a run as the engine sees it."""
    summary = closed.summary
    return story(
        told_run(summary, is_open=is_open),
        [trace_line(trace) for trace in closed.traces],
        [told_call(call, summary) for call in closed.calls],
        [node_row(node) for node in closed.nodes],
        alerts,
        corrections,
    )


def with_outcomes(run: Row, outcomes: Sequence[Outcome]) -> Row:
    """A run line, or a whole story, with the verdict that all news known by now make; its traces share it."""
    judgement = judge(outcomes, _nano(run["cost_usd"]), _nano(run["wasted_usd"])) if outcomes else UNJUDGED
    said = {"outcome": judgement.outcome, "verdict": judgement.verdict, "verdict_why": judgement.why}
    told = {**run, **said, "outcomes": [outcome_map(one) for one in latest(outcomes)]}
    if "traces" in run:
        told["traces"] = [{**trace, **said} for trace in run["traces"]]
    return told


def told_run(summary: RunSummary, *, is_open: bool) -> Row:
    """A run line with its times and whether it may still grow."""
    return {
        **run_line(summary),
        "start_time": rfc3339(summary.start_ns),
        "end_time": rfc3339(summary.end_ns),
        "open": is_open,
    }


def told_call(call: Call, run: RunSummary) -> Row:
    """A call line with its id, its end and the items of its charge."""
    return {
        **call_line(call, run),
        "id": call.id,
        "end_time": rfc3339(call.step.end_ns),
        "failed": call.failed,
        "items": [item_row(item) for item in call.charge.items],
        "price_book": call.charge.price_book,
    }


def item_row(item: Item) -> Row:
    """One line of a charge, as `price --json` names it; `usd` is its share of the rounded charge."""
    return {
        "unit": item.unit,
        "quantity": item.quantity,
        "rate": exact_text(item.rate.usd),
        "usd": usd(item.nano),
        "source": item.source,
        "valid_from": item.valid_from,
    }


def node_row(node: Node) -> Row:
    """A node in JSON types."""
    return {
        "span_id": node.span_id.hex() or None,
        "trace_id": node.trace_id.hex() or None,
        "parent_id": node.parent.hex() or None,
        "call_id": node.call_id,
        "kind": str(node.kind),
        "name": node.name,
        "agent": node.agent,
        "start_ns": node.start_ns,
        "end_ns": node.end_ns,
        "failed": node.failed,
        "status": None if node.status is None else str(node.status),
        "self_nano": node.self_nano,
    }


def tree(nodes: Sequence[Row], calls: Sequence[Row] = ()) -> list[Branch]:
    """Nested branches, earliest first, subtree cost = sum of self costs.

    A parent that is missing, or a chain of parents that bites its own tail, puts a
    step on top: every step is shown exactly once.
    """
    branches: list[tuple[Row, Branch]] = [(node, _branch(node)) for node in nodes]
    placed = {branch["call_id"] for _, branch in branches}
    branches.extend(
        ({"parent_id": None, "self_nano": _nano(call["cost_usd"])}, _call_branch(call))
        for call in calls
        if call["id"] not in placed
    )
    known = {
        (branch["trace_id"], branch["span_id"]): index
        for index, (_, branch) in enumerate(branches)
        if branch["span_id"] is not None
    }
    parents = [
        known.get((branch["trace_id"], node["parent_id"])) if node.get("parent_id") else None
        for node, branch in branches
    ]
    _cut_cycles(parents)
    totals: list[int | None] = [node["self_nano"] for node, _ in branches]
    for index in _children_first(parents):
        parent = parents[index]
        mine = totals[index]
        if parent is not None and mine is not None:
            totals[parent] = (totals[parent] or 0) + mine
    tops: list[Branch] = []
    for index, (_, branch) in enumerate(branches):
        branch["subtree_usd"] = usd(totals[index])
        parent = parents[index]
        (tops if parent is None else branches[parent][1]["children"]).append(branch)
    for _, branch in branches:
        branch["children"].sort(key=_when)
    return sorted(tops, key=_when)


def without_echoes(tree: Sequence[Branch]) -> tuple[list[Branch], int]:
    """The tree for the eye, and how many branches were left out.

    A record that tells of a call another record speaks for (`duplicate`) is
    shown only where something else hangs below it. The tree itself stays as it is.
    """
    order: list[Branch] = list(tree)
    for branch in order:
        order.extend(branch["children"])
    shown: dict[int, Branch] = {}
    for branch in reversed(order):
        children = [shown[id(child)] for child in branch["children"] if id(child) in shown]
        if children or branch["status"] != Status.DUPLICATE:
            shown[id(branch)] = {**branch, "children": children}
    return [shown[id(branch)] for branch in tree if id(branch) in shown], len(order) - len(shown)


def _branch(node: Row) -> Branch:
    return Branch(
        span_id=node["span_id"],
        trace_id=node["trace_id"],
        call_id=node["call_id"],
        kind=node["kind"],
        name=node["name"],
        agent=node["agent"],
        start_time=rfc3339(node["start_ns"]),
        duration_ms=max(node["end_ns"] - node["start_ns"], 0) / 1e6,
        failed=node["failed"],
        status=node["status"],
        self_usd=usd(node["self_nano"]),
        subtree_usd=None,
        children=[],
    )


def _call_branch(call: Row) -> Branch:
    return Branch(
        span_id=call["span_id"],
        trace_id=call["trace_id"],
        call_id=call["id"],
        kind=call["kind"],
        name=call["tool"] or call["model"] or call["operation"] or call["kind"],
        agent=call["agent"],
        start_time=call["start_time"],
        duration_ms=0.0,
        failed=call["failed"],
        status=call["status"],
        self_usd=call["cost_usd"],
        subtree_usd=None,
        children=[],
    )


def _nano(cost_usd: str | None) -> int | None:
    return None if cost_usd is None else usd_to_nano(cost_usd)


def _when(branch: Branch) -> tuple[str, str]:
    return branch["start_time"], branch["span_id"] or ""


def _cut_cycles(parents: list[int | None]) -> None:
    """Make the first step found of every cycle a top."""
    done: set[int] = set()
    for start in range(len(parents)):
        path: set[int] = set()
        index: int | None = start
        while index is not None and index not in done:
            if index in path:
                parents[index] = None
                break
            path.add(index)
            index = parents[index]
        done |= path


def _children_first(parents: Sequence[int | None]) -> list[int]:
    """Indexes such that each comes before its parent; no recursion, trees may be deep."""
    waiting = [0] * len(parents)
    for parent in parents:
        if parent is not None:
            waiting[parent] += 1
    order = [index for index, count in enumerate(waiting) if not count]
    for index in order:
        parent = parents[index]
        if parent is not None:
            waiting[parent] -= 1
            if not waiting[parent]:
                order.append(parent)
    return order
