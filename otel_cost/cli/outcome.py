"""What became of the work of runs: told by hand or by a script."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError

from otel_cost.cli._service import ask_service, place_of
from otel_cost.cli._source import open_source, printable
from otel_cost.core.model.event import DEFAULT_TENANT
from otel_cost.edge.ledger import Batch
from otel_cost.edge.ledger.opening import need_records, open_ledger
from otel_cost.edge.serve import discovery
from otel_cost.edge.serve.outcomes import first_mistake, read_told
from otel_cost.errors import UsageError

if TYPE_CHECKING:
    from pydantic import SecretStr

    from otel_cost.core.model.outcome import Outcome

app = typer.Typer(no_args_is_help=True, help="What became of the work of runs: told by hand or by a script.")


@app.callback()
def _outcome() -> None:
    """What became of the work of runs: told by hand or by a script."""


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="What kind of outcome: merged_pr, resolved_ticket, accepted …")],
    value: Annotated[str, typer.Argument(help="success, failure or unknown")] = "success",
    run: Annotated[str | None, typer.Option(help="The run it is about")] = None,
    trace: Annotated[str | None, typer.Option(help="A trace of the run, in hex")] = None,
    session: Annotated[str | None, typer.Option(help="The run's session or conversation")] = None,
    branch: Annotated[str | None, typer.Option(help="The branch that the work is on")] = None,
    commit: Annotated[str | None, typer.Option(help="The commit that the run started from or made")] = None,
    ticket: Annotated[str | None, typer.Option(help="PROJ-12, 12, org/repo#12, or its address")] = None,
    repository: Annotated[str | None, typer.Option(help="Whose branch or ticket: org/repo")] = None,
    at: Annotated[str | None, typer.Option(help="When, RFC 3339. Default: now")] = None,
    id_: Annotated[str | None, typer.Option("--id", help="Told again under the same id it replaces the first")] = None,
    subject: Annotated[str | None, typer.Option(help="The thing it is about, to be shown")] = None,
    label: Annotated[str | None, typer.Option(help="A judge's word")] = None,
    score: Annotated[float | None, typer.Option(help="A judge's figure")] = None,
    url: Annotated[str | None, typer.Option(help="Where it can be looked at")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line")] = False,
    config: Annotated[list[Path] | None, typer.Option("--config", "-c", help="Config of the service")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where the service keeps its data")] = None,
) -> None:
    """Tell the running service, else the ledger on disk, what became of some work."""
    given = {
        "name": name,
        "value": value,
        "run_id": run,
        "trace_id": trace,
        "session_id": session,
        "branch": branch,
        "commit": commit,
        "ticket": ticket,
        "repository": repository,
        "at": at,
        "id": id_,
        "subject": subject,
        "label": label,
        "score": score,
        "url": url,
    }
    told = {key: said for key, said in given.items() if said is not None}
    try:
        (outcome,) = read_told(told, DEFAULT_TENANT, time.time_ns())
    except ValidationError as error:
        raise UsageError(first_mistake(error)) from error
    folder, database = place_of(config, data_dir)
    if discovery.find(folder) is not None:
        ask_service(folder, "POST", "/v1/outcomes", told)
    else:
        _write(folder, database, outcome)
    if as_json:
        print(json.dumps({"id": outcome.id, "name": outcome.name, "value": outcome.value, "keys": list(outcome.keys)}))
    else:
        print(f"{outcome.name}: {outcome.value}, joined by {', '.join(outcome.keys)}")


@app.command(name="list")
def list_(
    since: Annotated[str | None, typer.Option(help="From here on: 30d (ago), 2026-11-01, RFC 3339")] = None,
    top: Annotated[int, typer.Option(min=1, max=1000, help="At most so many")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line")] = False,
    config: Annotated[list[Path] | None, typer.Option("--config", "-c", help="Config of the service")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where the service keeps its data")] = None,
) -> None:
    """What has been told, the latest first, and which runs it reaches."""
    rows = open_source(config, data_dir).news(top, since)
    if as_json:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False))
        return
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from otel_cost.cli._terminal import console

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("when", "outcome", "", "says", "about", "joined by", "runs"):
        table.add_column(name, overflow="fold")
    for row in rows:
        told = [row["at"][:19], row["name"], row["value"], row["source"], row["subject"] or row["label"]]
        runs = ", ".join(row["runs"]) or "none yet"
        table.add_row(*(escape(printable(one)) for one in (*told, ", ".join(row["keys"]), runs)))
    console().print(table)


def _write(folder: Path, database: SecretStr | None, outcome: Outcome) -> None:
    need_records(database, folder)
    ledger = open_ledger(database, folder)
    try:
        ledger.commit(Batch(outcomes={(outcome.tenant, outcome.id): outcome}), 0)
    finally:
        ledger.close()
