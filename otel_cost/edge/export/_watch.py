"""Watch: a destination that has been away or has refused everything for a minute is told of, and its return too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from otel_cost.core.model.event import DEFAULT_TENANT
from otel_cost.core.own_alerts import own_alert

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from otel_cost.core.model.finding import Alert
    from otel_cost.edge.export._queue import Destination

AFTER_NS: Final = 60 * 10**9


@dataclass(slots=True)
class _Trouble:
    since_ns: int
    why: str
    seq: int = 0  # seconds of Unix time of the alert: two episodes differ, over restarts too


class DestinationWatch:
    """Asked once a second or so."""

    def __init__(self, after_ns: int = AFTER_NS) -> None:
        self._after_ns = after_ns
        self._troubles: dict[str, _Trouble] = {}

    def advance(self, destinations: Iterable[Destination], now_ns: int) -> Iterator[Alert]:
        for destination in destinations:
            name, why = destination.name, destination.trouble
            trouble = self._troubles.get(name)
            if why is None:
                if trouble is not None:
                    del self._troubles[name]
                    if trouble.seq:
                        yield self._alert(destination, trouble, now_ns, firing=False)
                continue
            if trouble is None:
                trouble = self._troubles[name] = _Trouble(now_ns, why)
            if not trouble.seq and now_ns - trouble.since_ns >= self._after_ns:
                trouble.seq, trouble.why = now_ns // 10**9, why
                yield self._alert(destination, trouble, now_ns, firing=True)

    @staticmethod
    def _alert(destination: Destination, trouble: _Trouble, now_ns: int, *, firing: bool) -> Alert:
        name = destination.name
        return own_alert(
            "exporter_failing",
            tenant=DEFAULT_TENANT,
            subject=name,
            seq=trouble.seq,
            firing=firing,
            at_ns=now_ns,
            summary=f"exporter {name} does not deliver: {trouble.why}" if firing else f"exporter {name} delivers again",
            evidence={"exporter": name, "reason": trouble.why, "pending": destination.pending},
        )
