"""Series: what one group spent and when, exact to the nanosecond, cheap to sum over any stretch.

Entries may come in any order; a correction is one more entry with the difference.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_BUCKETS: Final = 64  # per window: sums of whole buckets, entries only at the two edges


class _Bucket:
    __slots__ = ("nanos", "runs", "times", "total")

    def __init__(self) -> None:
        self.times = array("q")
        self.nanos = array("q")
        self.runs: list[str] = []
        self.total = 0


class Series:
    """Entries of (time, nano-dollars, run) over about one window.

    `length_ns` is the longest stretch that will be asked for; it only sets how the entries are bundled.
    """

    __slots__ = ("_buckets", "_order", "_slid", "_width", "total")

    def __init__(self, length_ns: int) -> None:
        self.total = 0  # of everything that has not been forgotten
        self._width = max(1, length_ns // _BUCKETS)
        self._buckets: dict[int, _Bucket] = {}
        self._order: list[int] = []  # sorted bucket numbers
        self._slid: dict[int, tuple[int, int]] = {}  # length → (moment, sum) of the latest stretch asked for

    def add(self, at_ns: int, nano: int, run: str) -> None:
        number = at_ns // self._width
        bucket = self._buckets.get(number)
        if bucket is None:
            bucket = self._buckets[number] = _Bucket()
            self._order.insert(bisect_left(self._order, number), number)
        index = bisect_right(bucket.times, at_ns)
        bucket.times.insert(index, at_ns)
        bucket.nanos.insert(index, nano)
        bucket.runs.insert(index, run)
        bucket.total += nano
        self.total += nano
        for length_ns, (moment, total) in self._slid.items():
            if moment - length_ns < at_ns <= moment:
                self._slid[length_ns] = (moment, total + nano)

    def last(self, length_ns: int, at_ns: int) -> int:
        """Nano-dollars in (at - length, at], as `spent`; cheap while the moments that are asked for go forward."""
        moment, total = self._slid.get(length_ns, (-1, 0))
        if not moment <= at_ns <= moment + length_ns:
            total = self.spent(at_ns - length_ns, at_ns)
            if at_ns < moment:
                return total
        elif moment < at_ns:
            total += self.spent(moment, at_ns) - self.spent(moment - length_ns, at_ns - length_ns)
        self._slid[length_ns] = (at_ns, total)
        return total

    def spent(self, after_ns: int, until_ns: int) -> int:
        """Nano-dollars in (after, until]."""
        total = 0
        for bucket, low, high in self._between(after_ns, until_ns):
            total += bucket.total if high - low == len(bucket.times) else sum(bucket.nanos[low:high])
        return total

    def by_run(self, after_ns: int, until_ns: int) -> dict[str, int]:
        """The same, by run."""
        spent: dict[str, int] = {}
        for bucket, low, high in self._between(after_ns, until_ns):
            for index in range(low, high):
                run = bucket.runs[index]
                spent[run] = spent.get(run, 0) + bucket.nanos[index]
        return spent

    def times(self, after_ns: int, until_ns: int) -> Iterator[int]:
        """When something was spent in (after, until], in order."""
        for bucket, low, high in self._between(after_ns, until_ns):
            yield from bucket.times[low:high]

    def prune(self, until_ns: int) -> None:
        """Forget whole bundles that ended at or before `until_ns`."""
        while self._order and (self._order[0] + 1) * self._width <= until_ns:
            self.total -= self._buckets.pop(self._order.pop(0)).total
            self._slid.clear()

    def __len__(self) -> int:
        return sum(len(bucket.times) for bucket in self._buckets.values())

    def _between(self, after_ns: int, until_ns: int) -> Iterator[tuple[_Bucket, int, int]]:
        low = bisect_left(self._order, after_ns // self._width)
        high = bisect_right(self._order, until_ns // self._width)
        for number in self._order[low:high]:
            bucket = self._buckets[number]
            begin = number * self._width
            first = 0 if begin > after_ns else bisect_right(bucket.times, after_ns)
            last = len(bucket.times) if begin + self._width <= until_ns else bisect_right(bucket.times, until_ns)
            if first < last:
                yield bucket, first, last
