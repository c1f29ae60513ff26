"""Export: enriched records to the backends of the user's choice, each with its own queue.

An exporter is one file in this folder whose last line is `register(ExporterKind(...))`;
files starting with an underscore are shared tools. A preset is an OTLP exporter
with a vendor's endpoint, headers and limits, and with the attributes its UI reads cost from.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

from otel_cost.edge.export._dead_letters import DeadLetters
from otel_cost.edge.export._queue import Destination
from otel_cost.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from pydantic import BaseModel

    from otel_cost.edge.export._contract import ExporterKind
    from otel_cost.edge.export._queue import Told

EXPORTERS: dict[str, ExporterKind] = {}  # by type; old names are keys too


def register(kind: ExporterKind) -> None:
    """Make a type of exporter known; a second one of the same name is a programming error."""
    for name in (kind.name, *kind.aliases):
        if name in EXPORTERS:
            raise ValueError(f"exporter {name!r} is registered twice")
        EXPORTERS[name] = kind


def exporter_kind(exporter_id: str) -> ExporterKind:
    """The type behind an id like `otlp_grpc/backend`.

    Raises:
        UsageError: there is no such type.
    """
    kind = EXPORTERS.get(exporter_id.partition("/")[0])
    if kind is None:
        known = ", ".join(sorted({known.name for known in EXPORTERS.values()}))
        raise UsageError(f"exporters: {exporter_id!r} is of no known type; known are {known}")
    return kind


def build_exporters(
    config: Mapping[str, BaseModel | Mapping[str, Any] | None],
    *,
    dead_letters: Path | None = None,
    spill: Path | None = None,
    told: Callable[[str], Told] | None = None,
    cursors: Mapping[str, int] | None = None,
) -> dict[str, Destination]:
    """Destinations by id, not yet started; a value is the kind's settings or what they are validated from.

    `dead_letters` is a folder with one folder per destination; without it what a backend
    refuses for good is only counted. `spill` likewise, for what waits on disk; without it a full
    queue pushes back. `told`: which alerts an exporter has delivered. `cursors`: how far each had
    delivered (`Destination.cursor`).

    Raises:
        UsageError: an unknown type.
        pydantic.ValidationError: settings that do not fit their type.
    """
    destinations = {}
    for exporter_id, given in config.items():
        kind = exporter_kind(exporter_id)
        settings = given if isinstance(given, kind.settings) else kind.settings.model_validate(given or {})
        folder = None if dead_letters is None else dead_letters / folder_name(exporter_id)
        destinations[exporter_id] = Destination(
            exporter_id,
            kind.build(settings),
            queue=settings.sending_queue,
            retry=settings.retry_on_failure,
            signals=kind.signals,
            extra_attributes=kind.extra_attributes,
            dead_letters=None if folder is None else DeadLetters(folder),
            spill=None if spill is None else spill / folder_name(exporter_id),
            told=None if told is None else told(exporter_id),
            resume_after=(cursors or {}).get(exporter_id, -1),
        )
    return destinations


def folder_name(exporter_id: str) -> str:
    """An exporter's folder below `spill` and `dead-letters`."""
    return exporter_id.replace("/", "_")


for _module in pkgutil.iter_modules(__path__):
    if not _module.name.startswith("_"):
        importlib.import_module(f"{__name__}.{_module.name}")
