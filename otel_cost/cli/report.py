"""Spend by any dimension."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from otel_cost.cli._source import Row, open_source, printable
from otel_cost.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence


def report(
    by: Annotated[
        str | None, typer.Option(help="Dimensions, comma-separated: model, user, workflow, attr:KEY … Default: model")
    ] = None,
    per_outcome: Annotated[
        bool, typer.Option("--per-outcome", help="What tries and successes cost; also by model_route")
    ] = False,
    since: Annotated[str | None, typer.Option(help="From here on: 30d (ago), 2026-11-01, an RFC 3339 instant")] = None,
    until: Annotated[str | None, typer.Option(help="Up to here, exclusive")] = None,
    top: Annotated[int | None, typer.Option(min=1, help="Only the dearest rows")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line")] = False,
    compare: Annotated[
        str | None, typer.Option(help="`previous`: the same length of time before; KEY=A,B: two values of a dimension")
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV with a header line")] = False,
    as_focus: Annotated[
        bool, typer.Option("--focus", help="CSV with FOCUS columns, a row per day, for finance")
    ] = False,
    parquet: Annotated[Path | None, typer.Option(help="Write a Parquet file")] = None,
    config: Annotated[list[Path] | None, typer.Option("--config", "-c", help="Config of the service")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where the service keeps its data")] = None,
) -> None:
    """Spend by any dimension, dearest first: of the running service, else of what it has left on disk."""
    asked = by if by is not None else "" if per_outcome else "model"
    names = [name.strip() for name in asked.split(",") if name.strip()]
    if sum(map(bool, (per_outcome, compare, as_focus))) > 1:
        raise UsageError("--per-outcome, --compare and --focus are three reports: ask for one")
    source = open_source(config, data_dir)
    from otel_cost.edge import report_formats as formats

    first = ["outcome", *names] if per_outcome else names
    if as_focus:
        window = formats.window(since, until, time.time_ns())
        rows, first = list(formats.focus(source.report, [] if by is None else names, *window)), list(formats.FOCUS)
    elif compare is not None:
        rows = formats.side_by_side(source.report, names, compare, since, until, time.time_ns())[:top]
    else:
        rows = (source.per_outcome if per_outcome else source.report)(names, since, until)[:top]
    if parquet is not None:
        formats.write_parquet(parquet, rows, first)
    elif as_json:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False))
    elif as_csv or as_focus:
        formats.print_csv(sys.stdout, rows, first)
    elif compare is not None:
        _print_changes(rows, names)
    elif per_outcome:
        _print_outcomes(rows, names)
    else:
        _print_table(rows, names)


def _print_changes(rows: list[Row], names: Sequence[str]) -> None:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from otel_cost.cli._tables import money, number
    from otel_cost.cli._terminal import console

    if not rows:
        print("nothing was spent in either")
        return
    names = [name for name in names if name in rows[0]]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in names:
        table.add_column(name, overflow="fold")
    for name in ("before", "now", "change", "ratio", "calls before", "calls"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        up = not row["change_usd"].startswith("-")
        change = f"{'+' if up else '-'}{money(row['change_usd'].removeprefix('-'))}"
        table.add_row(
            *(escape(printable(row[name])) if row[name] is not None else "[dim]unattributed[/]" for name in names),
            money(row["before_usd"]),
            f"[bold]{money(row['cost_usd'])}[/]",
            "" if row["change_usd"] == "0" else f"[{'red' if up else 'green'}]{change}[/]",
            "[dim]new[/]" if row["ratio"] is None else f"× {row['ratio']}",
            number(row["calls_before"]),
            number(row["calls"]),
        )
    console().print(table)


def _print_outcomes(rows: list[Row], names: list[str]) -> None:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from otel_cost.cli._tables import money
    from otel_cost.cli._terminal import console

    if not rows:
        print("nothing was spent in this time")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("outcome", *names):
        table.add_column(name, overflow="fold")
    for name in ("cost", "tries", "succeeded", "failed", "undecided", "per try", "per success", "no price"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        floor = " at least" if row["unpriced_calls"] else ""
        averages = [row["cost_per_try_usd"], row["cost_per_success_usd"]]
        table.add_row(
            escape(printable(row["outcome"])) if row["outcome"] is not None else "[dim]no outcome[/]",
            *(escape(printable(row[name])) if row[name] is not None else "[dim]unattributed[/]" for name in names),
            f"[bold]{money(row['cost_usd'])}[/]{floor}",
            str(row["tries"]),
            f"[green]{row['successes']}[/]" if row["successes"] else "",
            f"[red]{row['failures']}[/]" if row["failures"] else "",
            str(row["undecided"] or ""),
            *("" if one is None else f"{money(one)}{floor}" for one in averages),
            f"[yellow]{row['unpriced_calls']}[/]" if row["unpriced_calls"] else "",
        )
    out = console()
    out.print(table)
    for why in dict.fromkeys(row["withheld"] for row in rows if row["withheld"]):
        out.print(f"[yellow]Averages withheld: {why}.[/]")


def _print_table(rows: list[Row], names: list[str]) -> None:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from otel_cost.cli._tables import money, number
    from otel_cost.cli._terminal import console

    if not rows:
        print("nothing was spent in this time")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in names:
        table.add_column(name, overflow="fold")
    for name in ("cost", "wasted", "calls", "no price", "input", "output"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        floor = " at least" if row["unpriced_calls"] or row["incomplete_calls"] else ""
        table.add_row(
            *(escape(printable(row[name])) if row[name] is not None else "[dim]unattributed[/]" for name in names),
            "[dim]–[/]" if row["cost_usd"] is None and not floor else f"[bold]{money(row['cost_usd'])}[/]{floor}",
            "" if row["wasted_usd"] == "0" else f"[red]{money(row['wasted_usd'])}[/]",
            number(row["calls"]),
            f"[yellow]{number(row['unpriced_calls'])}[/]" if row["unpriced_calls"] else "",
            number(row["input_tokens"]),
            number(row["output_tokens"]),
        )
    console().print(table)
