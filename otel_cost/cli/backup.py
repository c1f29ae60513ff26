"""Copy a data directory while it is in use."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from otel_cost.cli._service import ask_service, place_of


def backup(
    target: Annotated[Path, typer.Argument(help="A folder that is not there yet")],
    config: Annotated[list[Path] | None, typer.Option("--config", "-c", help="Config of the service")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where the service keeps its data")] = None,
) -> None:
    """Copy a data directory while it is in use: the ledger and the journal of one moment."""
    from otel_cost.edge.ledger.opening import need_records, open_ledger
    from otel_cost.edge.serve import discovery
    from otel_cost.edge.upkeep import back_up

    (folder, database), whole = place_of(config, data_dir), target.expanduser().absolute()
    if discovery.find(folder) is not None:
        size = int(ask_service(folder, "POST", "/v1/backup", {"path": str(whole)})["bytes"])
    else:
        need_records(database, folder)
        ledger = open_ledger(database, folder)
        try:
            size = back_up(ledger, folder, whole)
        finally:
            ledger.close()
    print(f"{whole}: {size} bytes")
