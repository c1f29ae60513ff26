"""Spend by any dimension."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from otel_cost.cli._source import Row, open_source, printable


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
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV with a header line")] = False,
    config: Annotated[list[Path] | None, typer.Option("--config", "-c", help="Config of the service")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where the service keeps its data")] = None,
) -> None:
    """Spend by any dimension, dearest first: of the running service, else of what it has left on disk."""
    asked = by if by is not None else "" if per_outcome else "model"
    names = [name.strip() for name in asked.split(",") if name.strip()]
    source = open_source(config, data_dir)
    rows = (source.per_outcome if per_outcome else source.report)(names, since, until)[:top]
    if as_json:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False))
    elif as_csv:
        _print_csv(rows, ["outcome", *names] if per_outcome else names)
    elif per_outcome:
        _print_outcomes(rows, names)
    else:
        _print_table(rows, names)


def _print_csv(rows: list[Row], names: list[str]) -> None:
    columns = [*names, *(key for key in (rows[0] if rows else {}) if key not in names)]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row[column]) for column in columns])


def _cell(value: object) -> object:
    """A text that a spreadsheet would run as a formula gets an apostrophe in front."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


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
