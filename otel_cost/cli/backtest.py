"""What these rules would have done: how often, on how many dollars, to which successful runs."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from otel_cost.cli._service import data_folder
from otel_cost.cli._source import open_source
from otel_cost.edge.backtest import over_files, over_ledger
from otel_cost.edge.backtest_page import report_of, write_page
from otel_cost.edge.config import load_config
from otel_cost.edge.kept_backtests import FOLDER, keep_report
from otel_cost.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from otel_cost.core.backtest import Backtest
    from otel_cost.core.enrich.lines import Line


def backtest(
    rules: Annotated[list[str], typer.Option(help="Rule files or folders to be tested, or bundled:NAME")],
    against: Annotated[list[Path] | None, typer.Option(help="OTLP files or folders. Default: the ledger")] = None,
    more: Annotated[
        list[Path] | None, typer.Argument(help="More of --rules (YAML) or --against", show_default=False)
    ] = None,
    since: Annotated[str, typer.Option(help="Of the ledger, from here on: 30d (ago), 2026-11-01, RFC 3339")] = "30d",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a report with charts to this file")] = None,
    keep: Annotated[bool, typer.Option(help="Keep the report for the service's page, if it has a data folder")] = True,
    config: Annotated[list[Path] | None, typer.Option("--config", "-c", help="Config with the live rules")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where the service keeps its data")] = None,
) -> None:
    """What these rules would have done, on recorded runs or on OTLP files, beside what the live rules did.

    Per rule: how often it would fire, what was spent after it first fired (it can save no more than that), successful
    runs it would have cut, and what it does otherwise than the rules in force.
    """
    # `--rules a.yaml b.yaml`: what follows an option's value is an argument for the parser, not for people.
    given = more or []
    rules = [*rules, *(str(path) for path in given if path.suffix in {".yaml", ".yml"})]
    paths = [*(against or []), *(path for path in given if path.suffix not in {".yaml", ".yml"})]
    loaded = load_config(config or [])
    lines: list[Line] = []
    tell = _print if as_json else lines.append
    if paths:
        result, broken = over_files(loaded, rules, paths, tell, _say, _watched)
    else:
        source = open_source(config, data_dir)
        result, broken = over_ledger(loaded, rules, source.recorded(since), tell), 0
    what = ", ".join(map(str, paths)) or f"the ledger, since {since}"
    about = {"Rules": ", ".join(rules), "Against": what, "Live": ", ".join(loaded.rules)}
    report = report_of(result, about, time.time_ns())
    if keep:
        _keep(data_folder(config, data_dir), report)
    if html is not None:
        try:
            write_page(html, report)
        except OSError as error:
            raise UsageError(f"--html {html}: {error.strerror or error}") from error
    if as_json:
        for rule in result.rules:
            _print(rule.line())
        _print(result.total())
    else:
        _print_table(result)
    raise typer.Exit(1 if broken else 0)


def _keep(data: Path, report: dict[str, Any]) -> None:
    if not data.is_dir():
        return  # no service has been here
    try:
        report_id = keep_report(data / FOLDER, report)
    except OSError as error:
        _say(f"the report is not kept: {data / FOLDER}: {error.strerror or error}")
    else:
        _say(f"kept for the service's page: /backtests/{report_id}")


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _watched(files: Sequence[Path]) -> Iterable[Path]:
    """With a progress bar, where somebody looks on."""
    if not sys.stderr.isatty():
        return files
    from rich.console import Console
    from rich.progress import track

    return track(files, description="files", console=Console(stderr=True), transient=True)


def _print(line: Line) -> None:
    print(json.dumps(line, ensure_ascii=False))


def _print_table(result: Backtest) -> None:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from otel_cost.cli._source import printable
    from otel_cost.cli._tables import money
    from otel_cost.cli._terminal import console

    out = console()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("rule", "mode", "asks"):
        table.add_column(name, overflow="fold")
    for name in ("would fire", "runs", "spent after, at most", "successful cut", "unknown cut", "live", "new", "gone"):
        table.add_column(name, justify="right")
    for rule in result.rules:
        line = rule.line()
        after = line["after_first_fire_usd"]
        table.add_row(
            escape(printable(rule.rule)),
            "removed" if rule.removed else rule.mode,
            ", ".join(f"{verb} × {count}" for verb, count in rule.actions.items()),
            str(rule.fires or ""),
            str(len(rule.runs) or ""),
            ("" if after is None else money(str(after)))
            + (" and holes" if line["after_first_fire_unpriced_calls"] else ""),
            f"[red]{len(rule.harmed)}[/]" if rule.harmed else "",
            str(rule.unjudged or ""),
            str(rule.live_fires or ""),
            str(rule.fires - rule.same or ""),
            str(rule.live_fires - rule.same or ""),
        )
    out.print(table)
    total = result.total()
    cost, after = total["cost_usd"], total["after_first_fire_usd"]
    out.print(
        f"{result.runs} runs cost {money(None if cost is None else str(cost))}"
        f"{f', {result.incomplete_runs} of them at least' if result.incomplete_runs else ''}; "
        f"{money('0' if after is None else str(after))} of it was spent after a rule had fired: "
        "no rule can save more than that, and what an agent does instead is not known.",
        soft_wrap=True,
    )
    if total["harmed_runs_count"]:
        out.print(f"[red]{total['harmed_runs_count']} successful runs would have been cut.[/]")
