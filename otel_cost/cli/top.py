"""Dearest runs now, or the loops that burnt most."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from otel_cost.cli._source import Row, open_source, printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.table import Table

_EVERY_S = 2.0


def top(
    count: Annotated[int, typer.Option("--top", "-n", min=1, max=1000, help="How many runs")] = 15,
    since: Annotated[str | None, typer.Option(help="Runs that began after this: 1h (ago), a date, an instant")] = "1h",
    loops: Annotated[
        bool, typer.Option("--loops", help="Shapes of loops instead: how often, in how many runs, what they burnt")
    ] = False,
    once: Annotated[bool, typer.Option("--once", help="Print once instead of renewing every two seconds")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per run, once")] = False,
    config: Annotated[list[Path] | None, typer.Option("--config", "-c", help="Config of the service")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where the service keeps its data")] = None,
) -> None:
    """Dearest runs now, open ones included, or the loops that burnt most; renews itself on a terminal until Ctrl-C."""
    source = open_source(config, data_dir)
    ask, show = (source.loops, _loops_table) if loops else (source.runs, _table)
    if as_json:
        for row in ask(count, since):
            print(json.dumps(row, ensure_ascii=False))
        return
    if once or not sys.stdout.isatty():
        from otel_cost.cli._terminal import console

        console().print(show(ask(count, since)))
        return
    _watch(lambda: show(ask(count, since)))


def _watch(drawn: Callable[[], Table]) -> None:
    from rich.live import Live

    from otel_cost.cli._terminal import console

    with Live(console=console(), auto_refresh=False, screen=True) as live:
        try:
            while True:
                live.update(drawn(), refresh=True)
                time.sleep(_EVERY_S)
        except KeyboardInterrupt:
            return


def _table(runs: list[Row]) -> Table:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from otel_cost.cli._tables import money, number

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("run", overflow="fold")
    table.add_column("who", overflow="fold")
    table.add_column("route", overflow="fold")
    for name in ("calls", "tools", "errors", "wasted", "cost"):
        table.add_column(name, justify="right", no_wrap=True)
    for run in runs:
        who = [printable(run[name]) for name in ("workflow", "user") if run[name]]
        table.add_row(
            ("[green]●[/] " if run["open"] else "  ") + escape(printable(run["run_id"])),
            escape(" · ".join(who)) or "[dim]unattributed[/]",
            escape(" → ".join(printable(leg["model"]) for leg in run["model_route"])),
            number(run["llm_calls"]),
            number(run["tool_calls"]),
            number(run["errors"]) if run["errors"] else "",
            "" if run["wasted_usd"] == "0" else f"[red]{money(run['wasted_usd']) if run['wasted_usd'] else 'some'}[/]",
            f"[bold]{money(run['cost_usd'])}[/]" + ("" if run["complete"] else " at least"),
        )
    return table


def _loops_table(loops: list[Row]) -> Table:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from otel_cost.cli._tables import money, number

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("loop", "kind", "last time", "last seen"):
        table.add_column(name, overflow="fold")
    for name in ("times", "runs", "burnt"):
        table.add_column(name, justify="right", no_wrap=True)
    for loop in loops:
        table.add_row(
            f"[dim]{loop['loop']}[/]",
            escape(loop["kind"]),
            escape(printable(loop["summary"])),
            loop["last_seen"][:19].replace("T", " "),
            number(loop["times"]),
            number(loop["runs"]),
            f"[red]{money(loop['burn_usd'])}[/]",
        )
    return table
