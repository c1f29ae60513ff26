"""Partitions: those of a topic that this worker reads, and how far each of them is done with.

A log of many partitions has no order, and the engine wants one: each record gets the
next position of this process as it is taken in, and this remembers which offset of
which partition that was. What is said by positions ("no open run needs anything before
this one") is then said by offsets, for whoever reads the partition next.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


class Partition(NamedTuple):
    """A partition of a topic."""

    topic: str
    number: int


class Offset(NamedTuple):
    """How far a partition is done with.

    `needed`: the first record that the next reader has to read, since a run that was open
    needs it. `sent`: the first that did not leave for the exporters. `epoch` counts
    readers: only the last one may move the others.
    """

    needed: int
    sent: int
    epoch: int = 0


class Origin(NamedTuple):
    """Where a record was read."""

    partition: Partition
    offset: int


@dataclass(slots=True, eq=False)
class _Reading:
    start: Offset
    next: int  # offset behind the last record taken in
    positions: list[int] = field(default_factory=list)  # of records that may be needed still, with their offsets
    offsets: list[int] = field(default_factory=list)
    behind_ns: int | None = 0  # receive time of the last record; None: there is nothing more to read at present


class Partitions:
    """The engine's thread takes records in; offsets are asked from any."""

    def __init__(self, first_position: int) -> None:
        self._lock = threading.Lock()
        self._reading: dict[Partition, _Reading] = {}
        self._next = first_position
        self._clock_ns = 0

    def __contains__(self, partition: Partition) -> bool:
        return partition in self._reading

    def __len__(self) -> int:
        return len(self._reading)

    def all(self) -> list[Partition]:
        """Those that are read."""
        with self._lock:
            return list(self._reading)

    def assign(self, offsets: Mapping[Partition, Offset]) -> None:
        """Read these, too, each from where it is needed."""
        with self._lock:
            self._reading |= {partition: _Reading(offset, offset.needed) for partition, offset in offsets.items()}

    def drop(self, partitions: Collection[Partition]) -> None:
        """Others read these now."""
        with self._lock:
            for partition in partitions:
                self._reading.pop(partition, None)
            self._clock_ns = 0

    def take(self, origin: Origin, received_ns: int) -> tuple[int, bool] | None:
        """The position of a record, and whether it left for the exporters before; None: not to be taken in (again)."""
        with self._lock:
            reading = self._reading.get(origin.partition)
            if reading is None or origin.offset < reading.next:
                return None
            position = self._next
            self._next += 1
            reading.positions.append(position)
            reading.offsets.append(origin.offset)
            reading.next = origin.offset + 1
            reading.behind_ns = received_ns
            return position, origin.offset < reading.start.sent

    def at_end(self, partition: Partition) -> None:
        """Everything that is there was taken in."""
        with self._lock:
            if partition in self._reading:
                self._reading[partition].behind_ns = None

    @property
    def are_behind(self) -> bool:
        """Is there more to read of any of them?"""
        with self._lock:
            return any(reading.behind_ns is not None for reading in self._reading.values())

    def clock(self, now_ns: int) -> int:
        """What time it is for the engine: while it lags, that of the partition that lags most. Never goes back."""
        with self._lock:
            behind = [reading.behind_ns for reading in self._reading.values() if reading.behind_ns is not None]
            self._clock_ns = max(self._clock_ns, min([now_ns, *behind]))
            return self._clock_ns

    def offsets(self, needed: int, sent: int) -> dict[Partition, Offset]:
        """How far each is done with, from two positions: the first that is needed, the first that was not sent."""
        with self._lock:
            said = {}
            for partition, reading in self._reading.items():
                at = bisect_left(reading.positions, min(needed, sent))
                del reading.positions[:at], reading.offsets[:at]
                start = reading.start
                said[partition] = Offset(
                    reading.offsets[0] if reading.offsets else reading.next,
                    max(self._offset(reading, sent), start.sent),
                    start.epoch,
                )
            return said

    @staticmethod
    def _offset(reading: _Reading, position: int) -> int:
        at = bisect_left(reading.positions, position)
        return reading.offsets[at] if at < len(reading.offsets) else reading.next
