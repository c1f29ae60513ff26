"""What an exporter is: one `send`, once. Queue, retry, splitting and counting belong to `_queue.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from otel_cost.core.model.effects import Signal

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_cost.core.model.effects import Outgoing
    from otel_cost.edge.export._settings import Delivery

ALL_SIGNALS: Final = frozenset(Signal)
TRACES_ONLY: Final = frozenset({Signal.TRACES})


class Unavailable(Exception):  # noqa: N818
    """The same bytes may be taken later.

    `reason` is a short label for counters (`http_429`, `grpc_unavailable`, `connection`,
    `timeout`); `retry_after_s` what the other side asked for; `overload`: smaller
    requests may help (throttled, timed out).
    """

    def __init__(
        self, message: str, reason: str, *, retry_after_s: float | None = None, overload: bool = False
    ) -> None:
        super().__init__(message)
        self.reason, self.retry_after_s, self.overload = reason, retry_after_s, overload


class Refused(Exception):  # noqa: N818
    """These bytes will never be taken; `reason` as in `Unavailable`."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class TooLarge(Refused):
    """These bytes will never be taken together; fewer records may be."""


class Exporter(Protocol):
    """One backend's way to take an export request. `send` is called by several threads at once."""

    def send(self, signal: Signal, payload: bytes) -> int:
        """Deliver one encoded export request; the number of records the backend says it rejected.

        Raises:
            Unavailable: try again later.
            Refused: never (`TooLarge`: not in one piece).
        """

    def close(self) -> None:
        """Free connections; a `send` that is under way may raise whatever it likes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExporterKind:
    """A type of exporter, as `exporters:` names it.

    `extra_attributes` makes it a preset: encoded attribute fields that one vendor's
    UI reads, appended to a record behind ours; b"" where there is nothing to say.
    """

    name: str
    settings: type[Delivery]
    build: Callable[[Any], Exporter]
    aliases: tuple[str, ...] = ()
    signals: frozenset[Signal] = ALL_SIGNALS
    extra_attributes: Callable[[Outgoing], bytes] | None = None
