"""Install, remove and inspect the hooks of coding agents."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import Annotated

import typer

from otel_cost.edge.harness import (
    DEFAULT_LIMIT_MS,
    DEFAULT_URL,
    HARNESSES,
    Harness,
    Setup,
    client_command,
    drop_backup,
    look,
    plan_install,
    plan_uninstall,
)
from otel_cost.errors import UsageError

app = typer.Typer(help=__doc__, no_args_is_help=True)

Named = Annotated[str, typer.Argument(metavar="HARNESS", help=", ".join(HARNESSES))]
Url = Annotated[str, typer.Option(help="Where the service's API is")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the diff and change nothing")]


@app.callback()
def _group() -> None:
    """Install, remove and inspect the hooks of coding agents."""


@app.command()
def install(
    harness: Named,
    url: Url = DEFAULT_URL,
    live_usage: Annotated[
        bool, typer.Option("--live-usage", help="Gemini CLI: tokens at once, for some 30 ms per chunk of an answer")
    ] = False,
    limit_ms: Annotated[
        int, typer.Option("--limit-ms", min=50, max=60_000, help="How long the harness waits before it goes on")
    ] = DEFAULT_LIMIT_MS,
    by_client: Annotated[
        bool,
        typer.Option(
            "--by-client",
            help="Claude Code, Qwen Code: ask by the client, which remembers a stop while the service is down (+30 ms)",
        ),
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Add our hooks to a harness's config; the diff is printed, the file backed up. Doing it twice changes nothing."""
    known = _harness(harness)
    setup = replace(_setup(known, url), live_usage=live_usage, limit_ms=limit_ms, by_client=by_client)
    edit = plan_install(known, setup)
    print(edit.diff(), end="")
    if not edit.changes:
        print(f"{known.title}: installed already in {setup.path}")
        return
    if dry_run:
        return
    backup = edit.carry_out()
    print(f"{known.title}: installed in {setup.path}" + (f", backup {backup}" if backup else ""))
    if known.advice:
        print(known.advice)


@app.command()
def uninstall(harness: Named, url: Url = DEFAULT_URL, dry_run: DryRun = False) -> None:
    """Take our hooks out again; everything else stays as it is."""
    known = _harness(harness)
    setup = _setup(known, url)
    edit = plan_uninstall(known, setup)
    print(edit.diff(), end="")
    if not edit.changes:
        print(f"{known.title}: nothing of ours in {setup.path}")
        return
    if dry_run:
        return
    edit.carry_out()
    drop_backup(setup)
    print(f"{known.title}: removed from {setup.path}")


@app.command()
def status(
    harness: Annotated[str | None, typer.Argument(metavar="[HARNESS]", help="All of them without")] = None,
    url: Url = DEFAULT_URL,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per harness")] = False,
) -> None:
    """Show where hooks are installed, and for Codex whether it trusts them."""
    for known in [_harness(harness)] if harness is not None else HARNESSES.values():
        setup = _setup(known, url)
        state = look(known, setup)
        word = "installed" if state.complete else "incomplete" if state.installed else "not installed"
        if as_json:
            told = {
                "harness": known.name,
                "state": word,
                "file": str(setup.path),
                "events": list(state.events),
                "notes": list(state.notes),
            }
            print(json.dumps(told | state.facts))
            continue
        print(f"{known.name:<10}{word:<15}{setup.path}")
        trust = state.facts.get("trust", {})
        for event in state.events:
            print(f"{'':<10}{event}" + (f" ({trust[event]})" if event in trust else ""))
        for note in state.notes:
            print(f"{'':<10}{note}")


def _harness(name: str) -> Harness:
    if name not in HARNESSES:
        raise UsageError(f"unknown harness `{name}`; known: {', '.join(HARNESSES)}")
    return HARNESSES[name]


def _setup(harness: Harness, url: str) -> Setup:
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"--url: `{url}` is no http URL")
    return Setup(path=harness.path(os.environ), url=url, command=client_command())
