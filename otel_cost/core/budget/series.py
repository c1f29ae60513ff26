"""Series: what one group spent and when, exact to the nanosecond, cheap to sum over any stretch.

Entries may come in any order; a correction is one more entry with the difference.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_BLOCK: Final = 512  # entries: whole blocks are summed at once, single entries only at the two edges


class _Block:
    """Entries in order of time. Most series are one of these: few spend more often."""

    __slots__ = ("nanos", "runs", "times", "total")

    def __init__(self) -> None:
        self.times = array("q")
        self.nanos = array("q")
        self.runs: list[str] = []
        self.total = 0


class Series:
    """Entries of (time, nano-dollars, run)."""

    __slots__ = ("_blocks", "_firsts", "_last", "_latest_ns", "_slid", "_slid_ns", "total")

    def __init__(self) -> None:
        self.total = 0  # of everything that has not been forgotten
        self._last = _Block()
        self._blocks = [self._last]
        self._firsts: list[int] = []  # of each block but the first its first moment
        self._latest_ns = -1  # of all entries
        self._slid: dict[int, tuple[int, int]] = {}  # length → (moment, sum) of the latest stretch asked for
        self._slid_ns = -1  # the latest of those moments

    def add(self, at_ns: int, nano: int, run: str) -> None:
        last = self._last
        self.total += nano
        if at_ns >= self._latest_ns and at_ns > self._slid_ns and len(last.times) < _BLOCK:
            # In order of time, as nearly everything comes.
            last.times.append(at_ns)
            last.nanos.append(nano)
            last.runs.append(run)
            last.total += nano
            self._latest_ns = at_ns
            return
        self._insert(at_ns, nano, run)
        self._latest_ns = max(self._latest_ns, at_ns)
        for length_ns, (moment, total) in self._slid.items():
            if moment - length_ns < at_ns <= moment:
                self._slid[length_ns] = (moment, total + nano)

    def _insert(self, at_ns: int, nano: int, run: str) -> None:
        number = bisect_right(self._firsts, at_ns)
        block = self._blocks[number]
        if len(block.times) >= _BLOCK:
            half = _BLOCK if at_ns >= block.times[-1] else _BLOCK // 2  # at the end nothing has to move
            rest = _Block()
            rest.times, rest.nanos, rest.runs = block.times[half:], block.nanos[half:], block.runs[half:]
            del block.times[half:], block.nanos[half:], block.runs[half:]
            rest.total = sum(rest.nanos)
            block.total -= rest.total
            self._blocks.insert(number + 1, rest)
            self._firsts.insert(number, rest.times[0] if rest.times else at_ns)
            self._last = self._blocks[-1]
            if at_ns >= self._firsts[number]:
                block = rest
        index = bisect_right(block.times, at_ns)
        block.times.insert(index, at_ns)
        block.nanos.insert(index, nano)
        block.runs.insert(index, run)
        block.total += nano

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
        self._slid_ns = max(self._slid_ns, at_ns)
        return total

    def spent(self, after_ns: int, until_ns: int) -> int:
        """Nano-dollars in (after, until]."""
        total = 0
        for block, low, high in self._between(after_ns, until_ns):
            total += block.total if high - low == len(block.times) else sum(block.nanos[low:high])
        return total

    def by_run(self, after_ns: int, until_ns: int) -> dict[str, int]:
        """The same, by run."""
        spent: dict[str, int] = {}
        for block, low, high in self._between(after_ns, until_ns):
            for index in range(low, high):
                run = block.runs[index]
                spent[run] = spent.get(run, 0) + block.nanos[index]
        return spent

    def times(self, after_ns: int, until_ns: int) -> Iterator[int]:
        """When something was spent in (after, until], in order."""
        for block, low, high in self._between(after_ns, until_ns):
            yield from block.times[low:high]

    def prune(self, until_ns: int) -> None:
        """Forget what was spent at or before `until_ns`."""
        gone = bisect_right(self._firsts, until_ns)
        for block in self._blocks[:gone]:
            self.total -= block.total
        del self._blocks[:gone], self._firsts[:gone]
        first = self._blocks[0]
        index = bisect_right(first.times, until_ns)
        if index:
            lost = sum(first.nanos[:index])
            del first.times[:index], first.nanos[:index], first.runs[:index]
            first.total -= lost
            self.total -= lost
        if gone or index:
            self._slid.clear()
            self._slid_ns = -1

    def __len__(self) -> int:
        return sum(len(block.times) for block in self._blocks)

    def _between(self, after_ns: int, until_ns: int) -> Iterator[tuple[_Block, int, int]]:
        # A moment that two blocks share may lie in both.
        low, high = bisect_left(self._firsts, after_ns), bisect_right(self._firsts, until_ns)
        for block in self._blocks[low : high + 1]:
            times = block.times
            first, last = bisect_right(times, after_ns), bisect_right(times, until_ns)
            if first < last:
                yield block, first, last
