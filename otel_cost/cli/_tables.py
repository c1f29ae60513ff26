"""Tables: lines of the contract as a person wants to read them: dearest first, money aligned, holes named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich import box
from rich.markup import escape
from rich.table import Table

from otel_cost.cli._terminal import console as terminal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

Line = dict[str, Any]


def print_lines(lines: Sequence[Line], *, top: int = 10, console: Console | None = None) -> None:
    """Runs, the calls of the dearest ones, and alerts."""
    console = console or terminal()
    runs = sorted((line for line in lines if line["type"] == "run"), key=_dearest)
    if not runs:
        console.print("No calls were found: nothing here is a model, tool or agent span of a known client.")
        return
    console.print(_runs(runs[:top], len(runs)))
    calls = [line for line in lines if line["type"] == "call"]
    for run in runs[: min(top, 5)]:
        own = [call for call in calls if call["run_id"] == run["run_id"] and call["tenant"] == run["tenant"]]
        if own:
            console.print(_calls(run, own))
    alerts = [line for line in lines if line["type"] == "alert" and line["state"] == "firing"]
    if alerts:
        console.print(_alerts(alerts))


def _runs(runs: Sequence[Line], of: int) -> Table:
    table = _table(f"Dearest runs ({len(runs)} of {of})")
    for name in ("run", "agents", "route"):
        table.add_column(name, overflow="fold")
    for name in ("model calls", "tools", "errors", "wasted", "cost"):
        table.add_column(name, justify="right", no_wrap=True)
    for run in runs:
        route = " → ".join(leg["model"] for leg in run["model_route"])
        table.add_row(
            escape(run["run_id"]),
            escape(", ".join(run["agents"])),
            escape(route),
            str(run["llm_calls"]),
            str(run["tool_calls"]),
            str(run["errors"]),
            money(run["wasted_usd"]) if run["wasted_usd"] != "0" else "",
            money(run["cost_usd"]) + ("" if run["complete"] else " at least"),
        )
    return table


def _calls(run: Line, calls: Sequence[Line], most: int = 12) -> Table:
    shown = calls[:most]
    more = f", first {most} of {len(calls)}" if len(calls) > most else ""
    table = _table(f"Calls of {escape(run['run_id'])}{more}")
    for name in ("start", "what", "agent"):
        table.add_column(name, overflow="fold")
    for name in ("input", "cached", "output", "cost"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("note", overflow="fold")
    for call in shown:
        usage = call["usage"] or {}
        notes = [*([call["reason"]] if call["reason"] not in {None, "no_rate"} else []), *call["flags"]]
        table.add_row(
            call["start_time"][11:23],
            escape(call["tool"] or call["model"] or call["kind"]),
            escape(call["agent"] or ""),
            number(usage.get("input")),
            number(usage.get("cache_read")),
            number(usage.get("output")),
            money(call["cost_usd"]) if call["kind"] != "tool" or call["cost_usd"] else "",
            ", ".join(dict.fromkeys(notes)),
        )
    return table


def _alerts(alerts: Sequence[Line]) -> Table:
    table = _table("Alerts")
    for name in ("severity", "rule", "run", "what"):
        table.add_column(name, overflow="fold")
    table.add_column("wasted", justify="right", no_wrap=True)
    for alert in alerts:
        table.add_row(
            alert["severity"],
            escape(alert["rule"]),
            escape(alert["run_id"]),
            escape(alert["summary"]),
            money(alert["wasted_usd"]),
        )
    return table


def money(usd: str | None) -> str:
    """`$0.0225`, `< $0.000001`; unknown is said, never shown as zero."""
    if usd is None:
        return "unpriced"
    whole, _, cents = usd.partition(".")
    if whole == "0" and cents[6:].strip("0") and not cents[:6].strip("0"):
        return "< $0.000001"
    return f"${whole}.{cents[:6].ljust(2, '0')}"


def number(count: int | None) -> str:
    return "" if count is None else f"{count:,}"


def _dearest(run: Line) -> tuple[bool, float]:
    return run["cost_usd"] is None, -float(run["cost_usd"] or 0)


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
