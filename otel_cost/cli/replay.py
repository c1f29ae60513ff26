"""Feed OTLP files through the engine and print what it makes of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from otel_cost.core.enrich.lines import closed_lines
from otel_cost.core.enrich.records import alert_json
from otel_cost.edge.config import load_config
from otel_cost.edge.engine import build_engine
from otel_cost.edge.feeding import RejectedError, feed
from otel_cost.edge.otlp_files import NotOtlpError, otlp_files, requests
from otel_cost.errors import DecodeError
from otel_cost.pipeline import Engine


def replay(
    paths: Annotated[list[Path], typer.Argument(help="OTLP files or folders: .pb, .json, .jsonl, each also .gz")],
    config: Annotated[list[Path] | None, typer.Option("--config", "-c", help="Service configuration")] = None,
    rules: Annotated[list[str] | None, typer.Option(help="Rule files instead of the configured ones")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line")] = False,
) -> None:
    """Feed OTLP files through the engine and print what it makes of them. No network, nothing is stored."""
    engine = build_engine(load_config(config or []), rules=rules, tells_nobody=True)
    files, skipped = otlp_files(paths)
    printer = _Printer(as_json)
    broken: set[Path] = set()
    position = now_ns = 0
    for file in files:
        try:
            for request in requests(file):
                position += 1
                try:
                    now_ns = feed(engine, request, position, now_ns, _say)
                except RejectedError:
                    broken.add(file)
                printer.print(engine)
        except NotOtlpError:
            skipped += 1
        except DecodeError as error:
            print(f"{file}: {error}" if str(file) not in str(error) else error, file=sys.stderr)
            broken.add(file)
    if skipped:
        print(f"{skipped} files are no OTLP and were skipped", file=sys.stderr)
    engine.close(now_ns)
    printer.print(engine)
    printer.finish()
    raise typer.Exit(1 if broken else 0)


def _say(text: str) -> None:
    print(text, file=sys.stderr)


class _Printer:
    """Alerts as they fire, everything about a run when it closes."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._lines: list[dict[str, object]] = []

    def print(self, engine: Engine) -> None:
        effects = engine.take()
        lines = [alert_json(alert) for alert in effects.alerts]
        for run in effects.closed:
            lines.extend(closed_lines(run))
        if self._as_json:
            for line in lines:
                print(json.dumps(line, ensure_ascii=False))
        else:
            self._lines.extend(lines)

    def finish(self) -> None:
        if self._as_json:
            return
        from otel_cost.cli._tables import print_lines  # Rich is heavy, JSON output does not need it

        print_lines(self._lines)
