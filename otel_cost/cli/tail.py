"""Live stream: every run as it spends, every alert as it fires."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from otel_cost.cli._source import Row, open_source, printable
from otel_cost.core.model.money import nano_to_text, usd_to_nano

if TYPE_CHECKING:
    from collections.abc import Iterator

    from otel_cost.cli._source import Source

_EVERY_S = 1.0
_RUNS = 1000
_ALERTS = 100


def tail(
    since: Annotated[str, typer.Option(help="Runs and alerts from here on: 5m (ago), a date, an instant")] = "5m",
    match: Annotated[
        list[str] | None, typer.Option("--match", "-m", help="KEY=VALUE of a run, such as user=ann; may be repeated")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="What is known now, then end")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line")] = False,
    config: Annotated[list[Path] | None, typer.Option("--config", "-c", help="Config of the service")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where the service keeps its data")] = None,
) -> None:
    """Live stream: a line whenever a run has spent more and whenever an alert fires or resolves; until Ctrl-C."""
    wanted = dict(pair.partition("=")[::2] for pair in match or ())
    watch = _Watch(open_source(config, data_dir), since, wanted)
    try:
        while True:
            for line in watch.news():
                print(json.dumps(line, ensure_ascii=False) if as_json else _said(line), flush=True)
            if once:
                return
            time.sleep(_EVERY_S)
    except KeyboardInterrupt:
        return


class _Watch:
    """What was told already, so that only news is."""

    def __init__(self, source: Source, since: str, wanted: dict[str, str]) -> None:
        self._source, self._since, self._wanted = source, since, wanted
        self._runs: dict[tuple[str, str], tuple[object, ...]] = {}
        self._alerts: set[tuple[str, str]] = set()

    def news(self) -> Iterator[Row]:
        """Runs that changed, oldest first, each with `spent_usd`, what came on top since its last line; then alerts."""
        runs = self._source.runs(_RUNS, self._since)
        chosen = {(run["tenant"], run["run_id"]): run for run in runs if self._is_wanted(run)}
        for key, run in sorted(chosen.items(), key=lambda item: item[1]["end_time"]):
            state = (run["cost_usd"], run["llm_calls"], run["tool_calls"], run["errors"], run["open"])
            known = self._runs.get(key)
            if known != state:
                self._runs[key] = state
                was = usd_to_nano(str(known[0])) if known is not None and known[0] is not None else 0
                now = usd_to_nano(run["cost_usd"]) if run["cost_usd"] is not None else None
                yield {**run, "spent_usd": None if now is None else nano_to_text(now - was)}
        for alert in reversed(self._source.alerts(_ALERTS, self._since)):
            told = (alert["tenant"], alert["id"])
            if told not in self._alerts and (not self._wanted or (alert["tenant"], alert["run_id"]) in chosen):
                self._alerts.add(told)
                yield alert

    def _is_wanted(self, run: Row) -> bool:
        return all(str(run.get(key)) == value for key, value in self._wanted.items())


def _said(line: Row) -> str:
    """One line of plain text, nothing in it that a terminal obeys."""
    from otel_cost.cli._tables import money

    if line["type"] == "alert":
        wasted = "" if line["wasted_usd"] in {None, "0"} else f", wasted {money(line['wasted_usd'])}"
        return printable(
            f"{line['severity'].upper()} {line['state']} {line['rule']}: {line['summary']}{wasted} [{line['run_id']}]"
        )
    who = " · ".join(str(line[name]) for name in ("workflow", "user") if line[name]) or "unattributed"
    route = " → ".join(leg["model"] for leg in line["model_route"])
    spent = "no price" if line["spent_usd"] is None else f"+{money(line['spent_usd'])}"
    floor = "" if line["complete"] else " at least"
    state = "open" if line["open"] else "closed"
    total = "an unknown amount" if line["cost_usd"] is None else f"{money(line['cost_usd'])}{floor}"
    return printable(
        f"{line['end_time'][11:19]} {spent} of {total} {who} {route} "
        f"{line['llm_calls']} calls {line['tool_calls']} tools {line['errors']} errors {state} [{line['run_id']}]"
    )
