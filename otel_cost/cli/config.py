"""The service's config: what it is in effect."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help=__doc__, no_args_is_help=True)


@app.callback()
def _group() -> None:
    """The service's config: what it is in effect."""


@app.command()
def show(
    config: Annotated[list[Path] | None, typer.Option("--config", "-c", help="Config file; later ones win")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One more setting")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object")] = False,
) -> None:
    """Print the effective config, defaults included, secrets replaced."""
    import yaml

    from otel_cost.edge.config import load_config

    shown = load_config(config or [], settings or []).shown()
    print(json.dumps(shown) if as_json else yaml.safe_dump(shown, sort_keys=False, allow_unicode=True), end="")
    if as_json:
        print()
