"""Answer one question of a harness: payload on stdin, its dialect on stdout."""

from __future__ import annotations

from typing import Annotated

import typer

from otel_cost.hook_client import main
from otel_cost.hook_names import DIALECTS


def hook(dialect: Annotated[str, typer.Argument(help=f"One of {', '.join(DIALECTS)}")]) -> None:
    """Answer one question of a harness: payload on stdin, its dialect on stdout. `hooks install` sets it up."""
    raise typer.Exit(main([dialect]))
