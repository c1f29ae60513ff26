"""Outlet: where everything leaves. A destination gets what its pipelines and routes name; how far each is, is kept."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Final

import structlog

from otel_cost.core.routing import Router
from otel_cost.edge.files import replace_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from otel_cost.core.model.effects import Effects, Outgoing, Signal
    from otel_cost.core.routing import Facts, Shares
    from otel_cost.core.rules.kinds.routes import Route
    from otel_cost.edge.export._queue import Destination

# Records that wait for their trace's root where routes decide; beyond it the oldest trace is decided at once.
ROUTER_BYTES: Final = 64 * 2**20

_log = structlog.get_logger(__name__)


class Outlet:
    """Between the engine, on whose thread it is called but for its cursors, and the destinations."""

    def __init__(
        self,
        destinations: Mapping[str, Destination],
        pipelines: Mapping[Signal, Sequence[str]],
        facts: Facts,
        *,
        trace_timeout_ns: int,
        cursors_file: Path,
    ) -> None:
        """`pipelines`: the destinations of each signal; `facts`: what routes may ask of a trace."""
        self._destinations = destinations
        self._takers = {signal: [destinations[name] for name in names] for signal, names in pipelines.items()}
        self._of_all = [one for one in destinations.values() if all(one in takers for takers in self._takers.values())]
        self._facts = facts
        self._trace_timeout_ns = trace_timeout_ns
        self._router: Router | None = None
        self._held: int | None = None  # the oldest position that the engine keeps back
        self._unrouted: int | None = None  # the oldest that waits for a route
        self._cursors_file = cursors_file
        self._saved: dict[str, int] = {}
        self._lock = threading.Lock()

    @property
    def full(self) -> list[str]:
        """Destinations that can keep nothing more."""
        return [name for name, destination in self._destinations.items() if destination.is_full]

    # ---- what leaves

    def route_by(self, routes: tuple[Route, ...], *, anew: bool = False) -> None:
        """Other routes from now on; what waits is decided by those before.

        `anew`: what was decided of traces that go on is forgotten.
        """
        self.decide_all()
        if self._router is not None and routes and not anew:
            self._router.use(routes)
            return
        timeout_ns = self._trace_timeout_ns
        self._router = Router(routes, timeout_ns=timeout_ns, most_bytes=ROUTER_BYTES) if routes else None

    def decide_all(self) -> None:
        """Nothing waits for its route any longer."""
        if self._router is not None:
            self._share_out(self._router, self._router.close(self._facts))
            self._unrouted = None

    def let_out(self, effects: Effects, now_ns: int, *, ahead: int, held: int | None) -> None:
        """Offer what the engine lets go. `ahead`: the position that it reads next; `held`: the oldest it keeps back."""
        if self._router is None:
            self.offer(effects.outgoing)
        else:
            of_traces = [record for record in effects.outgoing if record.trace_id]
            shares = self._router.take(of_traces, effects.alerts, self._facts, now_ns)
            others = [record for record in effects.outgoing if not record.trace_id]
            self._share_out(self._router, shares, others)
            routed = self._router.routed
            self.offer(effects.outgoing, [name for name in self._destinations if name not in routed])
        for destination in self._destinations.values():
            destination.pass_over(ahead - 1)
        # After the offer: a root that is held no more and offered not yet must not fall between the two.
        self._held = ahead if held is None else held
        self._unrouted = None if self._router is None else self._router.position()

    def offer(self, outgoing: list[Outgoing], names: Iterable[str] | None = None) -> None:
        """To each destination (`names`: to some) what its pipelines send there, whatever routes say."""
        if not outgoing:
            return
        for name in self._destinations if names is None else names:
            destination = self._destinations[name]
            if taken := self._taken_by(destination, outgoing):
                destination.offer(taken)

    def _share_out(self, router: Router, shares: Shares, others: Sequence[Outgoing] = ()) -> None:
        """To each destination that routes name what they send there, and what they have no say in."""
        for name in router.routed:
            destination = self._destinations[name]
            if declined := self._taken_by(destination, shares.declined.get(name, [])):
                destination.decline(declined)
            self.offer([*others, *shares.offered.get(name, ())], [name])

    def _taken_by(self, destination: Destination, records: list[Outgoing]) -> list[Outgoing]:
        if destination in self._of_all:
            return records
        return [record for record in records if destination in self._takers[record.signal]]

    # ---- how far each is

    def cursors(self) -> dict[str, int]:
        """The journal position up to which each destination has everything."""
        held, unrouted = self._held, self._unrouted
        routed = () if self._router is None else self._router.routed
        cursors = {}
        for name, destination in self._destinations.items():
            waiting = [held, unrouted if name in routed else None]
            cursors[name] = min([destination.cursor, *(position - 1 for position in waiting if position is not None)])
        return cursors

    def save_cursors(self) -> list[int]:
        """Write them down. An older note only means that more is sent again after a crash."""
        with self._lock:
            cursors = self.cursors()
            if cursors != self._saved:
                try:
                    replace_file(self._cursors_file, json.dumps(cursors).encode())
                except OSError as error:
                    _log.warning("the cursors of the exporters cannot be written", problem=str(error))
                else:
                    self._saved = cursors
            return list(cursors.values())


def load_cursors(file: Path) -> dict[str, int]:
    """As `save_cursors` has written them; none where there are none."""
    try:
        saved: dict[str, int] = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return saved
