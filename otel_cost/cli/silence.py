"""Silences: alerts that match are told nobody until a time."""

from __future__ import annotations

import getpass
import json
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from otel_cost.cli._service import ask_service, data_folder
from otel_cost.cli._source import printable
from otel_cost.errors import UsageError

app = typer.Typer(no_args_is_help=True, help="Silences: alerts that match are told nobody until a time.")

_Config = Annotated[list[Path] | None, typer.Option("--config", "-c", help="Config of the service")]
_DataDir = Annotated[Path | None, typer.Option(help="Where the service keeps its data")]
_Json = Annotated[bool, typer.Option("--json", help="One JSON object per line")]


@app.callback()
def _silence() -> None:
    """Silences: alerts that match are told nobody until a time."""


@app.command()
def add(
    match: Annotated[list[str], typer.Argument(help="NAME=VALUE, all of them must hold: rule=same-error-3x team=red")],
    for_: Annotated[str, typer.Option("--for", help="How long: 30m, 2h, 1d")],
    reason: Annotated[str, typer.Option(help="Why")],
    who: Annotated[str | None, typer.Option(help="Whose word it is. Default: you")] = None,
    as_json: _Json = False,
    config: _Config = None,
    data_dir: _DataDir = None,
) -> None:
    """Tell nobody of alerts that match, for a while; `*` stands for any text in a value."""
    matchers = {}
    for written in match:
        name, sign, value = written.partition("=")
        if not sign:
            raise UsageError(f"`{written}`: write NAME=VALUE, for example `rule=same-error-3x`")
        matchers[name] = value
    asked = {"matchers": matchers, "for": for_, "who": who or getpass.getuser(), "reason": reason}
    _show(ask_service(data_folder(config, data_dir), "POST", "/v1/silences", asked), as_json)


@app.command("list")
def list_(as_json: _Json = False, config: _Config = None, data_dir: _DataDir = None) -> None:
    """The silences that hold."""
    found = ask_service(data_folder(config, data_dir), "GET", "/v1/silences")["silences"]
    for one in found:
        _show(one, as_json)
    if not found and not as_json:
        print("no silence holds")


@app.command()
def end(
    silence_id: Annotated[str, typer.Argument(help="The id of the silence")],
    config: _Config = None,
    data_dir: _DataDir = None,
) -> None:
    """End a silence; what still fires is told again."""
    ask_service(data_folder(config, data_dir), "DELETE", f"/v1/silences/{quote(silence_id, safe='')}")
    print(f"{printable(silence_id)}: ended")


def _show(one: dict[str, object], as_json: bool) -> None:
    if as_json:
        print(json.dumps(one))
        return
    matchers = one["matchers"]
    said = " ".join(f"{name}={value}" for name, value in matchers.items()) if isinstance(matchers, dict) else ""
    print(
        f"{one['id']}  {printable(said)}  until {one['ends_at']}  {printable(one['who'])}: {printable(one['reason'])}"
    )
