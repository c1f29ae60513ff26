"""The senders of a data directory, kept over restarts, so that a silence that began before one is still told."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import structlog

from otel_cost.core.senders import Senders
from otel_cost.edge.files import replace_file

if TYPE_CHECKING:
    from pathlib import Path

_log = structlog.get_logger(__name__)


class KeptSenders(Senders):
    """`Senders` that can be written down."""

    def __init__(self, after_ns: int, path: Path) -> None:
        super().__init__(after_ns)
        self._path = path
        with contextlib.suppress(OSError):
            self.thaw(path.read_bytes())

    def keep(self) -> None:
        """Write them down; a failure is logged, and costs no more than a silence that is told late."""
        try:
            replace_file(self._path, self.frozen())
        except OSError as error:
            _log.warning("the senders cannot be written down", problem=str(error))
