"""Sink `file`: one JSON object per line, for whatever reads files."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from otel_cost.core.rules.kinds.contacts import File as Settings
from otel_cost.edge.notify import register
from otel_cost.edge.notify._contract import SinkKind, Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping


class FileSink:
    """Append one line per message; opened each time, so that log rotation needs no signal."""

    def __init__(self, settings: Settings) -> None:
        self._path = Path(settings.path)
        self._lock = threading.Lock()

    def send(self, message: Mapping[str, object]) -> None:
        """As `Sink.send`."""
        line = json.dumps(message, ensure_ascii=False, separators=(",", ":")) + "\n"
        try:
            with self._lock:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with self._path.open("a", encoding="utf-8", errors="replace") as file:
                    file.write(line)
        except OSError as error:
            raise Unavailable(f"{self._path}: {error}", "file") from error

    def close(self) -> None:
        """Nothing is held open."""


register(SinkKind(name="file", settings=Settings, build=FileSink))
