"""Keys for senders and readers: `otel-cost keys new`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

app = typer.Typer(help="Keys for senders and readers.", no_args_is_help=True)


@app.callback()
def keys() -> None:
    """Keys for senders and readers."""


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Who holds it; shown where a credential is named")] = "sender",
    tenant: Annotated[str | None, typer.Option(help="Whose data it sends and sees; none: all")] = None,
    scope: Annotated[list[str] | None, typer.Option(help="ingest, read or admin; more than once")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object")] = False,
) -> None:
    """Make a key. It is shown once; the config holds its hash."""
    from otel_cost.edge.auth import Key, Scope, new_key
    from otel_cost.errors import UsageError

    allowed = [one.value for one in Scope]
    wanted = scope or [Scope.INGEST.value]
    for one in wanted:
        if one not in allowed:
            raise UsageError(f"--scope {one}: one of {', '.join(allowed)}")
    key, hashed = new_key()
    entry = {"name": name, **({"tenant": tenant} if tenant else {}), "scopes": wanted, "hash": hashed}
    Key.model_validate(entry)
    if as_json:
        print(json.dumps({"key": key, "entry": entry}))
        return
    print(f"{key}\n\nThis key is not shown again. Configure its hash:\n")
    print(f"auth:\n  keys:\n    - {json.dumps(entry)}")
