"""Lay a backup down as a data directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from otel_cost.cli._service import data_folder


def restore(
    source: Annotated[Path, typer.Argument(help="A folder that `otel-cost backup` made")],
    config: Annotated[list[Path] | None, typer.Option("--config", "-c", help="Config of the service")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where the data go: empty, or not there yet")] = None,
) -> None:
    """Lay a backup down as a data directory that is empty or not there yet."""
    from otel_cost.edge.upkeep import restore as lay_down

    folder = data_folder(config, data_dir)
    lay_down(source.expanduser().absolute(), folder)
    print(f"{folder}: restored")
