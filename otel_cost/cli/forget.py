"""Delete recorded runs."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from otel_cost.cli._service import ask_service, place_of
from otel_cost.errors import UsageError


def forget(
    run: Annotated[str | None, typer.Option(help="One run, by its id")] = None,
    user: Annotated[str | None, typer.Option(help="Every run in which this user spent")] = None,
    tenant: Annotated[str | None, typer.Option(help="Every run of this tenant")] = None,
    before: Annotated[str | None, typer.Option(help="Runs that ended before: 90d (ago), a date, an instant")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object")] = False,
    config: Annotated[list[Path] | None, typer.Option("--config", "-c", help="Config of the service")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where the service keeps its data")] = None,
) -> None:
    """Delete recorded runs: calls, steps, alerts and all that hangs on them. All options that are given must fit.

    Runs that are still open are not touched: they are deleted when they have closed and this is said again.
    """
    from otel_cost.edge.ledger import Selection
    from otel_cost.edge.ledger.opening import need_records, open_ledger
    from otel_cost.edge.serve import discovery
    from otel_cost.edge.serve.when import instant_ns

    if not (run or user or tenant or before):
        raise UsageError("say what goes: --run, --user, --tenant or --before")
    folder, database = place_of(config, data_dir)
    if discovery.find(folder) is not None:
        given = {"run_id": run, "user": user, "tenant": tenant, "before": before}
        told = ask_service(folder, "POST", "/v1/forget", {key: value for key, value in given.items() if value})
        count = int(told["runs"])
    else:
        need_records(database, folder)
        ledger = open_ledger(database, folder)
        try:
            before_ns = None if before is None else instant_ns(before, time.time_ns())
            count = ledger.forget(Selection(tenant, run, user, before_ns))
        finally:
            ledger.close()
    print(json.dumps({"runs": count}) if as_json else f"{count} runs deleted")
