"""Exporter `file`: export requests to a file, in the formats of the Collector's file exporter."""

from __future__ import annotations

import threading
from pathlib import Path  # read by pydantic at run time  # noqa: TC003
from typing import TYPE_CHECKING, Literal

from otel_cost.edge.export import register
from otel_cost.edge.export._contract import ExporterKind, Unavailable
from otel_cost.edge.export._otlp_json import request_to_json
from otel_cost.edge.export._settings import Delivery, SerialQueue

if TYPE_CHECKING:
    from otel_cost.core.model.effects import Signal


class Settings(Delivery):
    """`json`: one OTLP/JSON request per line; `proto`: each request behind its length in four bytes, big-endian."""

    path: Path
    format: Literal["json", "proto"] = "json"
    append: bool = True
    sending_queue: SerialQueue = SerialQueue()


class FileExporter:
    """Append whole requests; a failed write is taken back, so that the file stays readable."""

    def __init__(self, settings: Settings) -> None:
        self._json = settings.format == "json"
        self._lock = threading.Lock()
        settings.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = settings.path.open("ab" if settings.append else "wb", buffering=0)

    def send(self, signal: Signal, payload: bytes) -> int:
        """As `Exporter.send`."""
        entry = (
            request_to_json(signal, payload).encode() + b"\n"
            if self._json
            else len(payload).to_bytes(4, "big") + payload
        )
        with self._lock:
            start = self._file.seek(0, 2)
            try:
                written = self._file.write(entry)
                if written == len(entry):
                    return 0
                problem = "written in part"
            except OSError as error:
                problem = str(error)
            self._file.truncate(start)
        raise Unavailable(f"{self._file.name}: {problem}", "file")

    def close(self) -> None:
        with self._lock:
            self._file.close()


register(ExporterKind(name="file", settings=Settings, build=FileExporter))
