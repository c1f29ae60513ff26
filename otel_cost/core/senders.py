"""Senders: who used to report and has gone silent.

A sender is (tenant, `service.name`). It is regular once it was heard in five different
minutes over at least ten; it is silent when nothing has come for `after` and for four
times the longest pause it ever made: what sleeps every night is not missed every night.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from otel_cost.core.own_alerts import own_alert
from otel_cost.quantities import duration_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from otel_cost.core.model.finding import Alert

_MINUTE_NS: Final = 60 * 10**9
_MINUTES: Final = 5
_OVER_NS: Final = 10 * _MINUTE_NS
_PAUSES: Final = 4
_MOST: Final = 10_000  # senders that are kept in mind; names beyond them are not watched


@dataclass(slots=True)
class _Sender:
    first_ns: int
    last_ns: int
    minutes: int = 1  # in which it was heard
    pause_ns: int = 0  # the longest
    silences: int = 0
    silent: bool = False


class Senders:
    """All of them. Times are Unix nanoseconds that do not go back."""

    def __init__(self, after_ns: int) -> None:
        """`after_ns` 0: nobody is missed."""
        self._after_ns = after_ns
        self._known: dict[tuple[str, str], _Sender] = {}

    def heard(self, tenant: str, services: Iterable[str], now_ns: int) -> Iterator[Alert]:
        """Something came; the end of a silence is told."""
        if not self._after_ns:
            return
        for service in services:
            sender = self._known.get((tenant, service))
            if sender is None:
                if len(self._known) < _MOST:
                    self._known[tenant, service] = _Sender(now_ns, now_ns)
                continue
            pause_ns = now_ns - sender.last_ns
            sender.minutes += now_ns // _MINUTE_NS != sender.last_ns // _MINUTE_NS
            sender.pause_ns = max(sender.pause_ns, pause_ns)
            sender.last_ns = max(sender.last_ns, now_ns)
            if sender.silent:
                sender.silent = False
                yield _alert(tenant, service, sender, now_ns, firing=False)

    def advance(self, now_ns: int) -> Iterator[Alert]:
        """Time has passed; whoever is missed now."""
        for (tenant, service), sender in self._known.items():
            gap_ns = now_ns - sender.last_ns
            if sender.silent or gap_ns < self._after_ns or gap_ns < _PAUSES * sender.pause_ns:
                continue
            if sender.minutes >= _MINUTES and sender.last_ns - sender.first_ns >= _OVER_NS:
                sender.silent = True
                sender.silences += 1
                yield _alert(tenant, service, sender, now_ns, firing=True)

    def frozen(self) -> bytes:
        """What a restart needs to go on from here."""
        rows = [
            [*key, s.first_ns, s.last_ns, s.minutes, s.pause_ns, s.silences, s.silent] for key, s in self._known.items()
        ]
        return json.dumps(rows).encode()

    def thaw(self, frozen: bytes) -> None:
        """Go on from `frozen`; what is not understood is left out."""
        try:
            self._known = {
                (str(tenant), str(service)): _Sender(first, last, minutes, pause, silences, bool(silent))
                for tenant, service, first, last, minutes, pause, silences, silent in json.loads(frozen)
            }
        except (ValueError, TypeError):
            self._known = {}


def _alert(tenant: str, service: str, sender: _Sender, now_ns: int, *, firing: bool) -> Alert:
    waited = duration_text((now_ns - sender.last_ns) // _MINUTE_NS * _MINUTE_NS)
    return own_alert(
        "sender_silent",
        tenant=tenant,
        subject=service,
        seq=sender.silences,
        firing=firing,
        at_ns=now_ns,
        summary=f"{service} used to report and has not for {waited}" if firing else f"{service} reports again",
        evidence={"service": service, "last_unix_nano": str(sender.last_ns)},
    )
