"""Run the service until SIGTERM or Ctrl-C."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import structlog
import typer

from otel_cost.edge.allocator import give_back_early
from otel_cost.edge.config import Config, bound, load_config
from otel_cost.errors import OtelCostError
from otel_cost.service import Service


def serve(
    config: Annotated[list[Path] | None, typer.Option("--config", "-c", help="Config file; later ones win")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where journal and ledger live")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE, the last word on any key")] = None,
) -> None:
    """Run the service until SIGTERM or Ctrl-C. One line on stdout says when it is ready; logs go to stderr.

    SIGHUP reads the rules again, as does a change of their files.
    """
    give_back_early()  # before there are threads
    overrides = list(sets or [])
    if data_dir is not None:
        overrides.append(f"data_dir={data_dir.absolute()}")
    loaded = load_config(config or [], overrides)
    log_to_stderr(loaded.service.telemetry.logs.level)
    orders: queue.SimpleQueue[str] = queue.SimpleQueue()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: orders.put("stop"))
    signal.signal(signal.SIGHUP, lambda *_: orders.put("reload"))
    try:
        service = Service(loaded, reread=lambda: load_config(config or [], overrides))
        service.start()
    except OtelCostError as error:
        print(error, file=sys.stderr)
        _leave(2)
    print(ready_line(service, loaded), flush=True)
    while orders.get() == "reload":
        with contextlib.suppress(OtelCostError):  # the log has it; what was in force still is
            service.reload()
    service.stop()
    _leave(0)


def _leave(code: int) -> NoReturn:
    """End the process at once: everything is written and closed, or nothing was begun.

    Taking a million objects apart one by one would only keep people waiting, and DuckDB
    tells of each of its own that is still there, at more length than what went wrong.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def ready_line(service: Service, config: Config) -> str:
    """What other programs wait for; a protocol that is not served is left out."""
    said = [f"{protocol}={endpoint}" for protocol, endpoint in service.listens.items()]
    return " ".join(["otel-cost ready", *said, f"api=http://{bound(config.api.endpoint, service.api_port)}"])


def log_to_stderr(level: str) -> None:
    """Structured lines, one per event; readable on a terminal, JSON elsewhere."""
    terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            *([] if terminal else [structlog.processors.format_exc_info]),
            structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
