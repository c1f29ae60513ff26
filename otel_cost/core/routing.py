"""Routing: which destinations a trace goes to, whole or sampled, decided once per trace.

A trace waits until its root has come, until `timeout_ns` has passed or until too
much waits; then each destination's first matching route decides, and what comes later
follows. A destination that no route names gets everything at once; one that is
named gets what a route sends there and nothing else. A trace that starts to loop or
breaks a budget after it was left out is sent from then on.

    take(records) → advance(now) → close()
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Final, NamedTuple

from otel_cost.core.enrich.attributes import sample_rate_attribute
from otel_cost.core.model.effects import Signal
from otel_cost.core.model.vocabulary import Category
from otel_cost.core.rules.match import lookup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from otel_cost.core.model.effects import Outgoing
    from otel_cost.core.model.event import Resource
    from otel_cost.core.model.finding import Alert
    from otel_cost.core.rules.kinds.routes import Route

    Key = tuple[str, bytes]  # tenant, trace id
    Facts = Callable[[str, bytes], Mapping[str, object]]

_REMEMBERED: Final = 200_000  # decisions, so that late spans follow
_WHOLE: Final = Fraction(1)
_NOT: Final = Fraction(0)
_OVER: Final = frozenset({"budget_limit", "budget_hard_stop"})


@dataclass(slots=True)
class Shares:
    """What each routed destination is to take, and what it is not to get."""

    offered: dict[str, list[Outgoing]] = field(default_factory=dict)
    declined: dict[str, list[Outgoing]] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Waiting:
    since_ns: int
    records: list[Outgoing] = field(default_factory=list)
    size: int = 0
    position: int = 0  # the lowest


class _Verdict(NamedTuple):
    shares: Mapping[str, Fraction]  # by destination: of traces like this one, where it is among them; else 0
    resource: Resource | None


class Router:
    """One state for all routed destinations, those that some route names."""

    def __init__(self, routes: Sequence[Route], *, timeout_ns: int, most_bytes: int) -> None:
        self._timeout_ns, self._most_bytes = timeout_ns, most_bytes
        self.use(routes)
        self._waiting: OrderedDict[Key, _Waiting] = OrderedDict()  # the oldest first
        self._size = 0
        self._decided: OrderedDict[Key, _Verdict] = OrderedDict()
        self._looped: OrderedDict[tuple[str, str], None] = OrderedDict()  # (tenant, run)
        self._over: OrderedDict[tuple[str, str], None] = OrderedDict()

    def use(self, routes: Sequence[Route]) -> None:
        """Other routes from now on."""
        self._routes = tuple(routes)
        self.routed = tuple(dict.fromkeys(name for route in routes for name in route.to))

    def take(self, records: Iterable[Outgoing], alerts: Iterable[Alert], facts: Facts, now_ns: int) -> Shares:
        """Records that name a trace; others are none of its business."""
        out = Shares()
        for alert in alerts:
            self._hear(alert, facts)
        ended: dict[Key, None] = {}
        for record in records:
            key = (record.tenant, record.trace_id)
            known = self._decided.get(key)
            if known is not None:
                # With the root all of it is known.
                verdict = self._decide(key, record.resource, facts) if record.is_root else known
                self._sort(out, verdict, (record,))
                continue
            waiting = self._waiting.get(key)
            if waiting is None:
                waiting = self._waiting[key] = _Waiting(now_ns, position=record.position)
            waiting.records.append(record)
            size = len(record.raw) + len(record.extra)
            waiting.size += size
            self._size += size
            waiting.position = min(waiting.position, record.position)
            if record.is_root:
                ended[key] = None
        for key in ended:
            self._release(out, key, facts)
        self._advance(out, facts, now_ns)
        return out

    def close(self, facts: Facts) -> Shares:
        """End of input: everything is decided."""
        out = Shares()
        for key in list(self._waiting):
            self._release(out, key, facts)
        return out

    def position(self) -> int | None:
        """The oldest journal position of which a record waits here; None: none does."""
        return min((waiting.position for waiting in self._waiting.values()), default=None)

    def _advance(self, out: Shares, facts: Facts, now_ns: int) -> None:
        while self._waiting:
            key, waiting = next(iter(self._waiting.items()))
            if waiting.since_ns + self._timeout_ns > now_ns and self._size <= self._most_bytes:
                return
            self._release(out, key, facts)

    def _release(self, out: Shares, key: Key, facts: Facts) -> None:
        waiting = self._waiting.pop(key)
        self._size -= waiting.size
        self._sort(out, self._decide(key, waiting.records[-1].resource, facts), waiting.records)

    def _decide(self, key: Key, resource: Resource | None, facts: Facts) -> _Verdict:
        said = dict(facts(*key))
        run = (key[0], str(said.get("run", "")))
        said |= {"loop": run in self._looped, "over_budget": run in self._over}
        get = lookup(said, None, None if resource is None else resource.attributes)
        matching = [route for route in self._routes if route.match(get)]
        place = _place(key[1])
        shares = {}
        for name in self.routed:
            share = next((route.share for route in matching if name in route.to), _NOT)
            shares[name] = share if place < share else _NOT
        before = self._decided.pop(key, None)
        if before is not None:  # what was sent before is not taken back
            shares = {name: max(share, before.shares.get(name, _NOT)) for name, share in shares.items()}
        self._decided[key] = verdict = _Verdict(shares, resource)
        if len(self._decided) > _REMEMBERED:
            self._decided.popitem(last=False)
        return verdict

    def _sort(self, out: Shares, verdict: _Verdict, records: Sequence[Outgoing]) -> None:
        for name in self.routed:
            share = verdict.shares.get(name, _NOT)  # decided before other rules named it: it begins with the next trace
            if not share:
                out.declined.setdefault(name, []).extend(records)
            elif share == _WHOLE:
                out.offered.setdefault(name, []).extend(records)
            else:
                rate, said = 1 / share, sample_rate_attribute(1 / share)
                # A log record's attributes have another field number, and logs are not counted up.
                out.offered.setdefault(name, []).extend(
                    replace(one, extra=one.extra + said, sample_rate=rate) if one.signal is Signal.TRACES else one
                    for one in records
                )

    def _hear(self, alert: Alert, facts: Facts) -> None:
        """A run that loops or is over a budget is another one now, for what comes from here on."""
        run, key = (alert.tenant, alert.run_id), (alert.tenant, alert.trace_id)
        if alert.state != "firing":
            return
        if alert.category is Category.LOOP:
            _remember(self._looped, run)
        elif alert.category is Category.BUDGET and alert.kind in _OVER:
            _remember(self._over, run)
        else:
            return
        known = self._decided.get(key)
        if known is not None:
            self._decide(key, known.resource, facts)


def _remember(known: OrderedDict[tuple[str, str], None], run: tuple[str, str]) -> None:
    known[run] = None
    if len(known) > _REMEMBERED:
        known.popitem(last=False)


def _place(trace_id: bytes) -> Fraction:
    """Where a trace id falls between 0 and 1: the same for every process and every destination."""
    return Fraction(int.from_bytes(hashlib.blake2b(trace_id, digest_size=7).digest(), "big"), 1 << 56)
