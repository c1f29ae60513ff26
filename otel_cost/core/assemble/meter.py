"""Meter: what usage metrics tell of a run, kept aside until it is known that nothing better does.

Points become amounts (a running total is told again and again, a request may be
sent twice), amounts add up in windows of one hour per model, and a window is one
step at the end: the sum of calls that nobody told one by one.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from otel_cost.core.model.measure import Measure, Sender
from otel_cost.core.model.step import STANDARD_TERMS, Step, Terms
from otel_cost.core.model.vocabulary import Basis, Flag, Kind, Source
from otel_cost.core.normalise._usage import Counts, settle

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from otel_cost.core.model.event import MetricPoint

HOUR_NS: Final = 3600 * 10**9
# Of one run. A sender that makes a series of every call is counted as far as this reaches, and marked.
_MOST_SERIES: Final = 4096
_MOST_TIMES: Final = 4096


@dataclass(slots=True)
class Series:
    """How far one series has been counted. Two copies of a point, and points out of order, add nothing."""

    seen: set[int] = field(default_factory=set)  # times of points that tell what was added
    totals: dict[int, tuple[int, int]] = field(default_factory=dict)  # since when → (until when, total so far)
    is_floor: bool = False  # nobody knows what had been counted before its first point

    def grow(self, point: MetricPoint, amount: int) -> tuple[int, int]:
        """What the point adds, and since when."""
        if not point.cumulative:
            if point.time_ns in self.seen or (len(self.seen) >= _MOST_TIMES and point.time_ns < min(self.seen)):
                return 0, 0
            self.seen.add(point.time_ns)
            if len(self.seen) > _MOST_TIMES:
                self.seen.remove(min(self.seen))
            return amount, point.start_ns or point.time_ns
        until, total = self.totals.get(point.start_ns, (0, 0))
        if until >= point.time_ns:
            return 0, 0
        self.totals[point.start_ns] = (point.time_ns, amount)
        if until:
            # Less than before under the same start: the sender has begun anew without saying so.
            return amount - total if amount >= total else amount, until
        if not point.start_ns:
            self.is_floor = True
            return 0, 0
        return amount, point.start_ns


@dataclass(slots=True)
class Window:
    """What one sender counted for one model in one hour. `told` is like what: its `part` and `amount` mean nothing."""

    told: Measure
    sender: Sender
    hour: int
    start_ns: int
    end_ns: int
    counts: dict[str, int] = field(default_factory=dict)
    floor: bool = False
    silent: bool = False  # spans or log records tell of the same calls

    @property
    def tokens(self) -> int:
        return self.counts.get("input", 0) + self.counts.get("output", 0)


@dataclass(slots=True)
class Meter:
    """All of one run's usage metrics. Pure state: nothing in it is a call yet."""

    series: dict[bytes, Series] = field(default_factory=dict)
    windows: dict[bytes, Window] = field(default_factory=dict)

    def add(self, point: MetricPoint, measure: Measure, sender: Sender) -> bool:
        """Count a point; False if it adds nothing."""
        key = _series_key(point, sender)
        series = self.series.get(key)
        if series is None:
            if len(self.series) >= _MOST_SERIES:
                for one in self.windows.values():
                    one.floor = True
                return False
            series = self.series[key] = Series()
        amount, since_ns = series.grow(point, measure.amount)
        if not amount:
            return False
        hour = point.time_ns // HOUR_NS
        told = replace(measure, part="", amount=0, who={})
        name = _hashed(told, sender, hour)
        window = self.windows.get(name)
        if window is None:
            told = replace(told, who=measure.who)
            window = Window(told, sender, hour, since_ns, point.time_ns)
            self.windows[name] = window
        window.start_ns = min(window.start_ns, since_ns)
        window.end_ns = max(window.end_ns, point.time_ns)
        window.counts[measure.part] = window.counts.get(measure.part, 0) + amount
        window.floor = window.floor or series.is_floor
        return True

    def silence(self, sender: Sender, hours: Collection[int], *, only_without_session: bool) -> bool:
        """Whoever may be this sender tells its calls one by one in these hours; True if that changes anything.

        A metric comes up to an export interval after the call, hence the hour on either side.
        """
        changed = False
        for window in self.windows.values():
            if window.silent or not may_be(sender, window.sender):
                continue
            if only_without_session and window.told.session is not None:
                continue
            first, last = window.start_ns // HOUR_NS - 1, window.hour + 1
            if any(first <= hour <= last for hour in hours):
                window.silent = changed = True
        return changed

    def steps(self, tenant: str) -> list[Step]:
        """One step for each window that counts; where two families of metrics tell of one model, one of them speaks."""
        spoken: dict[str, tuple[int, int, str, str]] = {}
        loud = {name: window for name, window in self.windows.items() if not window.silent}
        tokens: dict[tuple[str, str, str], int] = {}
        for one in loud.values():
            voice = (_model(one), one.told.scope, one.told.line)
            tokens[voice] = tokens.get(voice, 0) + one.tokens
        for one in loud.values():
            model, scope, line = voice = (_model(one), one.told.scope, one.told.line)
            rank = (one.told.rank, -tokens[voice], scope, line)
            spoken[model] = min(rank, spoken.get(model, rank))
        return [
            step
            for name, window in sorted(loud.items())
            if (window.told.scope, window.told.line) == spoken[_model(window)][2:]
            and (step := _step(tenant, name, window)) is not None
        ]

    def absorb(self, other: Meter) -> None:
        """Take over what another run that turned out to be the same has counted."""
        for key, series in other.series.items():
            mine = self.series.setdefault(key, series)
            if mine is not series:
                mine.seen |= series.seen
                for start, last in series.totals.items():
                    mine.totals[start] = max(last, mine.totals.get(start, last))
        for name, window in other.windows.items():
            mine_ = self.windows.setdefault(name, window)
            if mine_ is not window:
                mine_.start_ns, mine_.end_ns = min(mine_.start_ns, window.start_ns), max(mine_.end_ns, window.end_ns)
                mine_.silent = mine_.silent or window.silent
                for part, amount in window.counts.items():
                    mine_.counts[part] = mine_.counts.get(part, 0) + amount

    def state(self) -> dict[str, Any]:
        """Everything as plain data, for a snapshot."""
        return {
            "series": [
                (key, sorted(one.seen), [(start, *last) for start, last in one.totals.items()], one.is_floor)
                for key, one in self.series.items()
            ],
            "windows": [(name, asdict(window)) for name, window in self.windows.items()],
        }

    @classmethod
    def of_state(cls, state: dict[str, Any]) -> Meter:
        """The inverse of `state`."""
        meter = cls()
        for key, seen, totals, is_floor in state["series"]:
            last = {start: (until, total) for start, until, total in totals}
            meter.series[key] = Series(set(seen), last, is_floor)
        for name, said in state["windows"]:
            told = said["told"]
            told["kind"] = Kind(told["kind"])
            told["basis"] = None if told["basis"] is None else Basis(told["basis"])
            meter.windows[name] = Window(**said | {"told": Measure(**told), "sender": tuple(said["sender"])})
        return meter


def may_be(one: Sender, other: Sender) -> bool:
    """Could the two be one process: nothing that both tell differs?"""
    return bool(one) and all(a == b or not a or not b for a, b in zip(one, other, strict=False))


def _model(window: Window) -> str:
    told = window.told
    return (told.requested_model or told.response_model or "").rpartition("/")[2].lower()


def _series_key(point: MetricPoint, sender: Sender) -> bytes:
    said = sorted((key, repr(point.attributes.get(key))) for key in point.attributes)
    return _hashed(sender, point.scope.name, point.name, said, *_resource(point))


def _resource(point: MetricPoint) -> Iterable[str]:
    attributes = point.resource.attributes
    return sorted(f"{key}={attributes.get(key)!r}" for key in attributes)


def _hashed(*parts: object) -> bytes:
    return hashlib.blake2b(repr(parts).encode(), digest_size=12).digest()


def _step(tenant: str, name: bytes, window: Window) -> Step | None:
    """A window as a step; None where nothing was used, as failed calls are counted."""
    told, counts = window.told, window.counts
    cost = counts.get("cost") or None
    if not any(counts.values()):
        return None
    said = Counts(**{part: count for part, count in counts.items() if part not in {"cost", "tool_input"}})  # type: ignore[typeddict-item]  # readers name fields of Counts
    if "tool_input" in counts:
        said["input"] = counts.get("input", 0) + counts["tool_input"]
    outside = told.reasoning_outside or counts.get("reasoning", 0) > counts.get("output", 0)
    usage, basis, problem = settle(
        said,
        convention=told.basis,
        provider=told.provider,
        model=told.requested_model,
        reasoning_outside=outside,
    )
    return Step(
        source=Source.METRIC,
        dialect=told.dialect,
        scope=told.scope,
        kind=told.kind,
        tenant=tenant,
        name=told.line,
        start_ns=window.start_ns,
        end_ns=window.end_ns,
        operation=told.operation,
        provider=told.provider,
        requested_model=told.requested_model,
        response_model=told.response_model,
        session=told.session,
        ids=(f"metric:{name.hex()}",),
        usage=usage,
        basis=basis,
        problem=problem,
        terms=STANDARD_TERMS if told.service_tier is None else Terms(service_tier=told.service_tier),
        reported_nano=cost,
        flags=frozenset({Flag.AGGREGATE, Flag.INCOMPLETE} if told.incomplete or window.floor else {Flag.AGGREGATE}),
        agent=told.agent,
        who=told.who,
    )
