"""Which alerts an exporter has delivered, in the outbox: a replay of the journal does not send them again."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import structlog

from otel_cost.edge.clock import now_ns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_cost.edge.notify._outbox import Outbox

_log = structlog.get_logger(__name__)


class ToldAlerts:
    """One exporter's. `add` is called by its threads."""

    def __init__(self, outbox: Outbox, exporter: str) -> None:
        self._outbox, self._channel = outbox, f"exporter:{exporter}"
        self._before = outbox.marked(self._channel)

    def has(self, key: str) -> bool:
        """As `Told.has`."""
        return key in self._before

    def add(self, keys: Sequence[str]) -> None:
        """As `Told.add`; where it cannot be written down, an alert may be sent twice."""
        try:
            self._outbox.mark(self._channel, keys, now_ns())
        except sqlite3.Error as error:
            _log.warning("delivered alerts are not written down", exporter=self._channel, problem=str(error))
