"""What a sink is: one `send` of one message. Outbox, grouping, cool-down and retry belong to its caller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from pydantic import BaseModel

# What the other side says of a message: the same two answers as an exporter's.
from otel_cost.edge.export._contract import Refused, Unavailable

__all__ = ["Refused", "Sink", "SinkKind", "Unavailable"]


class Sink(Protocol):
    """One way to tell somebody."""

    def send(self, message: Mapping[str, object]) -> None:
        """Deliver one message: an alert (`alert_json`, perhaps with `links`), or a group of them where it takes groups.

        A group is `{"type": "alerts", "id", "contact", "group": {…}, "status": "firing" | "resolved", "alerts": […]}`;
        its `id` is the same whenever it is sent again. Sent again it must do as little harm as the other side allows.

        Raises:
            Unavailable: try again later.
            Refused: never; the sink is misconfigured and its owner should know.
        """

    def close(self) -> None:
        """Free what is held."""


@runtime_checkable
class Remembering(Protocol):
    """A sink that keeps notes of what it told; without a file it must find out from the other side."""

    def remember_in(self, file: Path) -> None:
        """Read the notes and keep them there from now on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkKind:
    """A type of sink, as the key of a contact (`contacts: [{name: ops, file: {path: alerts.jsonl}}]`).

    `takes_groups`: people read it, so that alerts of one group are better told together.
    """

    name: str
    settings: type[BaseModel]
    build: Callable[[Any], Sink]
    takes_groups: bool = False
