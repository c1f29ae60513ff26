"""Write a dated exception from an alert."""

from __future__ import annotations

import getpass
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pydantic import SecretStr


def allow(
    alert: Annotated[str, typer.Argument(help="Id or fingerprint of the alert; a decision's evidence has it, too")],
    for_: Annotated[str, typer.Option("--for", help="How long, from now: 30m, 2h, 3d")],
    reason: Annotated[str, typer.Option(help="Why; it is shown wherever the exception is used")],
    owner: Annotated[str | None, typer.Option(help="Who answers for it. Default: you")] = None,
    usd: Annotated[str | None, typer.Option(help="So much on top of the limit, instead of lifting the rule")] = None,
    out: Annotated[Path | None, typer.Option(help="Write it here, for review, and put nothing in force")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object")] = False,
    config: Annotated[list[Path] | None, typer.Option("--config", "-c", help="Config of the service")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where the service keeps its data")] = None,
) -> None:
    """Write a dated exception from an alert. The running service obeys it at once, else the next start does.

    A budget is relaxed for the group of the alert, a loop or an escalation rule is lifted for its run.
    """
    from otel_cost.cli._service import ask_service, place_of
    from otel_cost.edge.allow import FOLDER, exception_of, find_alert, read_wish, write_exception
    from otel_cost.edge.serve import discovery
    from otel_cost.errors import UsageError

    said: dict[str, Any] = {"alert": alert, "for": for_, "reason": reason, "owner": owner or _me(), "usd": usd}
    wanted = {key: value for key, value in said.items() if value is not None}
    wish = read_wish(wanted)
    folder, database = place_of(config, data_dir)
    service = discovery.find(folder)
    if service is not None and out is None:
        done = ask_service(folder, "POST", "/v1/exceptions", wanted)
    else:
        found = find_alert(wish, _alerts(folder, database, service))
        made = exception_of(wish, found, None, time.time_ns())
        target = out if out is not None else folder / FOLDER
        if out is not None and out.suffix:
            raise UsageError(f"--out {out}: name a folder; the file is called as the exception")
        done = {
            "exception": json.loads(json.dumps(made, default=str)),
            "file": str(write_exception(target, made, found)),
        }
    if as_json:
        print(json.dumps(done))
        return
    made = done["exception"]
    who = ", ".join(f"{name} {value}" for name, value in made["match"].items()) or "everyone"
    gives = f"{made['grant']['usd']} USD more" if "grant" in made else "no limit"
    print(f"{made['name']}: {gives} for {who} under {', '.join(made['applies_to'])} until {made['expires']}")
    print(f"written to {done['file']}")


def _alerts(folder: Path, database: SecretStr | None, service: str | None) -> list[dict[str, Any]]:
    from otel_cost.cli._service import ask_service
    from otel_cost.edge.ledger.opening import read_ledger

    if service is not None:
        alerts: list[dict[str, Any]] = ask_service(folder, "GET", "/v1/alerts?limit=1000")["alerts"]
        return alerts
    ledger = read_ledger(database, folder)
    try:
        return ledger.alerts(10_000)
    finally:
        ledger.close()


def _me() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
