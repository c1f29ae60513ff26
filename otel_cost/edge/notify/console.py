"""Sink `console`: one JSON object per line on standard error, where the service's log goes too."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from otel_cost.core.rules.kinds.contacts import Console as Settings
from otel_cost.edge.notify import register
from otel_cost.edge.notify._contract import SinkKind

if TYPE_CHECKING:
    from collections.abc import Mapping


class Console:
    """Print one line per message."""

    def __init__(self, _settings: Settings) -> None:
        pass

    def send(self, message: Mapping[str, object]) -> None:
        """As `Sink.send`. ASCII only: values can hold anything, terminals obey some of it."""
        sys.stderr.write(json.dumps(message, separators=(",", ":")) + "\n")

    def close(self) -> None:
        """Standard error stays open: it is not ours."""


register(SinkKind(name="console", settings=Settings, build=Console))
