"""Acknowledge a firing alert: somebody has it in hand, and it is not told again until it ends."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from otel_cost.cli._service import ask_service, data_folder
from otel_cost.cli._source import printable


def ack(
    alert: Annotated[str, typer.Argument(help="The id or the fingerprint of the alert")],
    who: Annotated[str | None, typer.Option(help="Who has it in hand. Default: you")] = None,
    config: Annotated[list[Path] | None, typer.Option("--config", "-c", help="Config of the service")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where the service keeps its data")] = None,
) -> None:
    """Acknowledge a firing alert: somebody has it in hand, and it is not told again until it ends."""
    path = f"/v1/alerts/{quote(alert, safe='')}/ack"
    told = ask_service(data_folder(config, data_dir), "POST", path, {"who": who or getpass.getuser()})
    print(f"{printable(told['id'])}: in the hands of {printable(told['acknowledged_by'])}")
