"""Windows: which stretch of time a charge counts in, in the time zone of the rules.

All times are integer nanoseconds since the Unix epoch; every stretch is half-open.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from datetime import tzinfo

SECOND_NS: Final = 10**9
HOUR_NS: Final = 3600 * SECOND_NS
DAY_NS: Final = 24 * HOUR_NS

Unit = Literal["h", "d", "w", "mo"]

# A rolling month is thirty days, so that its limit means the same in February.
LENGTH_NS: Final[dict[Unit, int]] = {"h": HOUR_NS, "d": DAY_NS, "w": 7 * DAY_NS, "mo": 30 * DAY_NS}


@dataclass(frozen=True, slots=True)
class Rolling:
    """The last stretch of this length: at `t` it is (t - length, t]."""

    length_ns: int


@dataclass(frozen=True, slots=True)
class Calendar:
    """The hour, day, ISO week or month that is running in a time zone."""

    unit: Unit
    zone: tzinfo = UTC
    _last: list[tuple[int, int]] = field(default_factory=list, compare=False, repr=False)  # most charges share a window

    @property
    def length_ns(self) -> int:
        """Nominal; what burn rates are measured against."""
        return LENGTH_NS[self.unit]

    def bounds(self, at_ns: int) -> tuple[int, int]:
        """[start, end) of the window that holds `at_ns`.

        Days are local: 23 or 25 hours long where clocks change. Consecutive windows touch, always.
        """
        if self._last and self._last[0][0] <= at_ns < self._last[0][1]:
            return self._last[0]
        found = self._bounds(at_ns)
        self._last[:] = [found]
        return found

    def _bounds(self, at_ns: int) -> tuple[int, int]:
        if self.unit == "h":
            offset_ns = self._offset_ns(at_ns)
            start = (at_ns + offset_ns) // HOUR_NS * HOUR_NS - offset_ns
            return start, start + HOUR_NS
        first = self._first_day(datetime.fromtimestamp(at_ns // SECOND_NS, self.zone).date())
        start, end = self._start(first), self._start(self._next(first))
        while at_ns >= end:  # clocks went back over midnight: the new day had begun before
            first = self._next(first)
            start, end = end, self._start(self._next(first))
        return start, end

    def _offset_ns(self, at_ns: int) -> int:
        offset = datetime.fromtimestamp(at_ns // SECOND_NS, self.zone).utcoffset() or timedelta()
        return round(offset.total_seconds()) * SECOND_NS

    def _first_day(self, day: date) -> date:
        if self.unit == "w":
            return day - timedelta(days=day.weekday())
        return day.replace(day=1) if self.unit == "mo" else day

    def _next(self, first: date) -> date:
        if self.unit == "mo":
            return (first + timedelta(days=31)).replace(day=1)
        return first + timedelta(days=7 if self.unit == "w" else 1)

    def _start(self, first: date) -> int:
        return _midnight_ns(first, self.zone)


@lru_cache(maxsize=1024)
def _midnight_ns(day: date, zone: tzinfo) -> int:
    return round(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp()) * SECOND_NS


@dataclass(frozen=True, slots=True)
class Lifetime:
    """Everything a group ever spends: what a run may cost in all."""


Window = Rolling | Calendar | Lifetime
