"""Sums: what a run's arithmetic says, as rows: parts of its cost, agents, tools, turns, what was carried along."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from otel_cost.core.assemble.arithmetic import Entry, Origin, Told, Try
from otel_cost.core.enrich.lines import rfc3339, usd
from otel_cost.core.model.money import usd_to_nano
from otel_cost.core.model.vocabulary import CALL_KINDS, MODEL_KINDS, Flag, Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_cost.core.assemble.arithmetic import Arithmetic

Row = dict[str, Any]

_BANDS: Final = ("cache_read", "cache_write", "input")  # a prompt from its beginning on: caches hold prefixes
_MOST_CARRIED: Final = 50


def entry_of(call: Row | None, node: Row | None, parent: int | None) -> Entry:
    """A step of the tree and the call it speaks for, either of which may be missing, as arithmetic sees them."""
    told = node or call or {}
    is_call = call is not None or told["call_id"] is not None
    named = call if call is not None and call["kind"] in CALL_KINDS else told
    return Entry(
        kind=named["kind"],
        name=named["tool"] or named["model"] or named["operation"] or named["kind"] if named is call else told["name"],
        parent=parent,
        agent=named["agent"],
        start_ns=told["start_ns"] if node is not None else _ns(told["start_time"]),
        end_ns=told["end_ns"] if node is not None else _ns(told["end_time"]),
        failed=told["failed"],
        is_call=is_call,
        nano=told["self_nano"] if node is not None else nano_of(told["cost_usd"]),
        told=_told(call) if call is not None and call["kind"] in MODEL_KINDS else None,
        likeness=told.get("likeness"),
    )


def _told(call: Row) -> Told | None:
    usage, nano = call["usage"], nano_of(call["cost_usd"])
    if usage is None and nano is None:
        return None
    by_part: dict[str, tuple[int, int]] = {}
    for item in call["items"]:
        tokens, paid = by_part.get(item["part"], (0, 0))
        by_part[item["part"]] = tokens + item["quantity"], paid + (nano_of(item["usd"]) or 0)
    bands = tuple(by_part.pop(part) for part in _BANDS if part in by_part)
    fee_nano = by_part.pop("fee", (0, 0))[1]
    output_nano = sum(paid for _, paid in by_part.values())
    usage = usage or {}
    return Told(
        input=usage.get("input") or 0,
        answer=(usage.get("output") or 0) - (usage.get("reasoning") or 0),
        bands=bands,
        output_nano=output_nano,
        fee_nano=fee_nano,
        # What a provider states as a sum has no items.
        other_nano=(nano or 0) - sum(paid for _, paid in bands) - fee_nano - output_nano,
        sums_up=Flag.AGGREGATE in call["flags"],
    )


def sums(entries: Sequence[Entry], ids: Sequence[Any], run: Arithmetic) -> Row:
    """`cost`, `tries`, `agents`, `tools`, `turns`, `carried`: each adds up to the run's cost or to a part of it.

    `ids`: by entry, with `span_id` and `call_id`. An agent of None is the bucket of what no agent claims.
    """
    return {
        "cost": _cost(entries, run),
        "tries": _tries(entries, run),
        "agents": _agents(entries, run),
        "tools": _tools(entries, run),
        "turns": _turns(entries, ids, run),
        "carried": _carried(entries, ids, run),
    }


def _cost(entries: Sequence[Entry], run: Arithmetic) -> Row:
    told = [entry.told for entry in entries if entry.told is not None]
    apart = sum(entry.nano or 0 for entry in entries if entry.told is None)
    return {
        "carried_usd": usd(sum(spent.carried_nano for spent in run.spent)),
        "new_usd": usd(sum(spent.new_nano for spent in run.spent)),
        "output_usd": usd(sum(one.output_nano for one in told)),
        "fee_usd": usd(sum(one.fee_nano for one in told) + apart),
        "other_usd": usd(sum(one.other_nano for one in told)),
    }


def _tries(entries: Sequence[Entry], run: Arithmetic) -> Row:
    """What was paid for first tries and others; `failed_calls` cost nothing where the provider served nothing."""
    nano = dict.fromkeys(Try, 0)
    calls = dict.fromkeys(Try, 0)
    for entry, spent in zip(entries, run.spent, strict=True):
        if entry.is_call:
            nano[spent.attempt] += entry.nano or 0
            calls[spent.attempt] += 1
    told: Row = {f"{attempt}_usd": usd(nano[attempt]) for attempt in Try}
    told |= {f"{attempt}_calls": calls[attempt] for attempt in Try}
    return told | {"failed_calls": sum(entry.is_call and entry.failed for entry in entries)}


def _agents(entries: Sequence[Entry], run: Arithmetic) -> list[Row]:
    return [
        {
            "agent": thread.agent,
            "parent": thread.parent,
            "llm_calls": sum(entries[index].kind in MODEL_KINDS for index in thread.entries),
            "tool_calls": sum(entries[index].kind == Kind.TOOL for index in thread.entries),
            "cost_usd": usd(thread.nano),
            "subtree_usd": usd(thread.subtree_nano),
            "carried_usd": usd(sum(run.spent[index].carried_nano for index in thread.entries)),
        }
        for thread in run.threads
    ]


def _tools(entries: Sequence[Entry], run: Arithmetic) -> list[Row]:
    """By tool: its fees, what its calls set off (agents below it), what its results cost when first read and later."""
    tools: dict[str, Row] = {}
    for index, entry in enumerate(entries):
        if entry.kind == Kind.TOOL and entry.is_call:
            row = tools.setdefault(
                entry.name,
                {"calls": 0, "failed": 0, "nano": None, "below": None, "tokens": 0, "first": 0, "carried": 0},
            )
            row["calls"] += 1
            row["failed"] += entry.failed
            row["nano"] = _plus(row["nano"], entry.nano)
            row["below"] = _plus(row["below"], run.subtree_nano[index])
    for one in run.passengers:
        if one.origin is Origin.TOOL:
            row = tools[entries[one.entry].name]
            row["tokens"] += one.tokens
            row["first"] += one.first_nano
            row["carried"] += one.carried_nano
    return [
        {
            "tool": name,
            "calls": row["calls"],
            "failed": row["failed"],
            "cost_usd": usd(row["nano"]),
            "subtree_usd": usd(row["below"]),
            "result_tokens": row["tokens"],
            "new_usd": usd(row["first"]),
            "carried_usd": usd(row["carried"]),
        }
        for name, row in sorted(
            tools.items(),
            key=lambda item: (-(item[1]["below"] or 0) - item[1]["first"] - item[1]["carried"], item[0]),
        )
    ]


def _turns(entries: Sequence[Entry], ids: Sequence[Any], run: Arithmetic) -> list[Row]:
    told: list[Row] = []
    for turn in run.turns:
        entry, spent = entries[turn.call], run.spent[turn.call]
        told.append(
            {
                "agent": run.threads[turn.thread].agent,
                "thread": turn.thread,
                "turn": turn.number,
                "start_time": rfc3339(entry.start_ns),
                "span_id": ids[turn.call]["span_id"],
                "call_id": ids[turn.call]["call_id"],
                "model": entry.name,
                "failed": entry.failed,
                "attempt": spent.attempt,
                "input_tokens": entry.told.input if entry.told is not None else None,
                "carried_tokens": spent.carried_tokens,
                "new_tokens": spent.new_tokens,
                "carried_usd": usd(spent.carried_nano),
                "new_usd": usd(spent.new_nano),
                "self_usd": usd(entry.nano),
                "cost_usd": usd(turn.nano),
                "tools": [entries[tool].name for tool in turn.tools],
            }
        )
    return told


def _carried(entries: Sequence[Entry], ids: Sequence[Any], run: Arithmetic) -> list[Row]:
    """Who rode along, dearest first."""
    return [
        {
            "origin": one.origin,
            "name": entries[one.entry].name,
            "agent": entries[one.entry].agent,
            "span_id": ids[one.entry]["span_id"],
            "call_id": ids[one.entry]["call_id"],
            "tokens": one.tokens,
            "calls": one.calls,
            "new_usd": usd(one.first_nano),
            "carried_usd": usd(one.carried_nano),
        }
        for one in sorted(run.passengers, key=lambda one: (-one.carried_nano, one.entry))[:_MOST_CARRIED]
        if one.calls
    ]


def _plus(one: int | None, other: int | None) -> int | None:
    return one if other is None else (one or 0) + other


def nano_of(amount: str | None) -> int | None:
    """Nano-USD of an amount as rows write it."""
    return None if amount is None else usd_to_nano(amount)


def _ns(instant: str) -> int:
    """Nanoseconds of an instant as `rfc3339` writes it."""
    return int(datetime.fromisoformat(f"{instant[:19]}+00:00").timestamp()) * 10**9 + int(instant[20:29])
