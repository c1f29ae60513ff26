"""Story: one run told in money: its tree with what each step and everything below it cost, its calls, its alerts.

Made alike from an open run (`story_of`, the engine's view) and from ledger rows
(`story`), so that a page or `explain` never asks where a run was found.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, TypedDict

from otel_cost.core.assemble.arithmetic import Arithmetic, Entry, Origin, cut_cycles, reckon
from otel_cost.core.enrich.lines import call_line, outcome_map, rfc3339, run_line, trace_line, usd
from otel_cost.core.model.money import exact_text
from otel_cost.core.model.outcome import UNJUDGED
from otel_cost.core.model.vocabulary import Status
from otel_cost.core.outcomes import judge, latest
from otel_cost.edge.ledger.sums import entry_of, nano_of, sums

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
    carried_usd: str | None  # of a model call: what its prompt repeats; of a tool: what its result cost later on
    attempt: str | None  # of a call: first, retry, rework
    children: list[Branch]


def story(
    run: Row, traces: Sequence[Row], calls: Sequence[Row], nodes: Iterable[Row], alerts: Sequence[Row],
    corrections: Sequence[Row],
) -> Row:  # fmt: skip
    """A run line with `open`, `start_time`, `end_time`, `traces`, `tree`, `sums`, `calls`, `alerts`, `corrections`.

    Rows are contract lines; a node row has the fields of `Branch`, `parent_id` and
    `self_nano` in place of money and children. A priced call without a node of its own stands on top.
    """
    said = {name: run[name] for name in ("outcome", "verdict", "verdict_why")}
    entries, branches = _laid_out([*nodes], calls)
    worked_out = reckon(entries)
    return {
        **run,
        "traces": [{**trace, **said} for trace in traces],
        "tree": _nested(entries, branches, worked_out),
        "sums": sums(entries, branches, worked_out),
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
        [node_row(node) for node in closed.nodes()],
        alerts,
        corrections,
    )


def with_outcomes(run: Row, outcomes: Sequence[Outcome]) -> Row:
    """A run line, or a whole story, with the verdict that all news known by now make; its traces share it."""
    judgement = judge(outcomes, nano_of(run["cost_usd"]), nano_of(run["wasted_usd"])) if outcomes else UNJUDGED
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
        "part": item.part,
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
        "likeness": node.likeness,
    }


def tree(nodes: Sequence[Row], calls: Sequence[Row] = ()) -> list[Branch]:
    """Nested branches, earliest first, subtree cost = sum of self costs.

    A parent that is missing, or a chain of parents that bites its own tail, puts a
    step on top: every step is shown exactly once.
    """
    entries, branches = _laid_out(nodes, calls)
    return _nested(entries, branches, reckon(entries))


def _laid_out(nodes: Sequence[Row], calls: Sequence[Row]) -> tuple[list[Entry], list[Branch]]:
    """The steps of a run side by side, as arithmetic and as readers want them."""
    call_of = {call["id"]: call for call in calls}
    branches = [_branch(node) for node in nodes]
    placed = {branch["call_id"] for branch in branches}
    apart = [call for call in calls if call["id"] not in placed]
    known = {
        (branch["trace_id"], branch["span_id"]): index
        for index, branch in enumerate(branches)
        if branch["span_id"] is not None
    }
    entries = [
        entry_of(
            call_of.get(node["call_id"]),
            node,
            known.get((node["trace_id"], node["parent_id"])) if node.get("parent_id") else None,
        )
        for node in nodes
    ]
    entries.extend(entry_of(call, None, None) for call in apart)
    return entries, [*branches, *map(_call_branch, apart)]


def _nested(entries: Sequence[Entry], branches: Sequence[Branch], worked_out: Arithmetic) -> list[Branch]:
    parents = [entry.parent for entry in entries]
    cut_cycles(parents)
    later: Counter[int] = Counter()
    for passenger in worked_out.passengers:
        later[passenger.entry] += passenger.carried_nano if passenger.origin is Origin.TOOL else 0
    tops: list[Branch] = []
    for index, branch in enumerate(branches):
        entry, spent, parent = entries[index], worked_out.spent[index], parents[index]
        branch["subtree_usd"] = usd(worked_out.subtree_nano[index])
        if entry.is_call:
            branch["attempt"] = spent.attempt
        if entry.told is not None:
            branch["carried_usd"] = usd(spent.carried_nano)
        elif later[index]:
            branch["carried_usd"] = usd(later[index])
        (tops if parent is None else branches[parent]["children"]).append(branch)
    for branch in branches:
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
        carried_usd=None,
        attempt=None,
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
        carried_usd=None,
        attempt=None,
        children=[],
    )


def _when(branch: Branch) -> tuple[str, str]:
    return branch["start_time"], branch["span_id"] or ""
