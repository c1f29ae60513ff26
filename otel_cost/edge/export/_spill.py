"""Spill: what a destination cannot take yet, on disk, as the requests that it will get.

A journal of its own per destination: checksummed, cut into segments, locked. What is
here was enriched when it left the engine and says what was known then. A request
that is here holds back neither memory, nor the service's journal, nor any other destination.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import struct
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from otel_cost.core.model.effects import Signal
from otel_cost.edge.journal import Fsync, Journal, Record

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

SEGMENT_BYTES: Final = 16 << 20
_ITEMS: Final = struct.Struct("<I")
_CURSOR: Final = struct.Struct("<Q")


@dataclass(slots=True, eq=False)
class Spilled:
    """One export request on disk. `payload` is there while it is taken."""

    signal: Signal
    position: int
    items: int
    at_ns: int  # wall clock, when it was put here
    payload: bytes = b""


class Spill:
    """Requests in order, each until `done`. Not thread-safe but for `append`: its destination holds a lock.

    Raises:
        UsageError: the folder is another process's, or cannot be written.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._cursor_fd = os.open(folder / "delivered", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        # A missing or short file means the beginning; resending is allowed, skipping is not.
        written = os.pread(self._cursor_fd, _CURSOR.size, 0)
        self._delivered: int = _CURSOR.unpack(written)[0] if len(written) == _CURSOR.size else 0
        self._journal = Journal(
            folder,
            fsync=Fsync.ALWAYS,
            segment_bytes=SEGMENT_BYTES,
            max_bytes=max_bytes,
            resume_from=self._delivered,
        )
        self._waiting: deque[Spilled] = deque()
        self._taken: set[Spilled] = set()
        for record in self._journal.read(self._delivered):
            signal, items = Signal(record.kind), _ITEMS.unpack_from(record.payload)[0]
            self._waiting.append(Spilled(signal, record.position, items, record.received_ns))

    @property
    def is_empty(self) -> bool:
        return not self._waiting and not self._taken

    @property
    def size_bytes(self) -> int:
        """On disk; what is delivered leaves with its segment."""
        return self._journal.size_bytes

    @property
    def oldest_ns(self) -> int | None:
        """When the oldest request that is neither delivered nor dropped was put here."""
        return min((one.at_ns for one in (*self._taken, *itertools.islice(self._waiting, 1))), default=None)

    def pending(self) -> dict[Signal, int]:
        """Items by signal."""
        items = dict.fromkeys(Signal, 0)
        for one in (*self._waiting, *self._taken):
            items[one.signal] += one.items
        return items

    def write(self, signal: Signal, items: int, payload: bytes, at_ns: int) -> Spilled:
        """Durable when it returns; the caller then says `add`, under its lock.

        Raises:
            JournalFullError: no room; nothing was kept.
            JournalBrokenError: the disk failed.
        """
        record = Record(signal.value, "", at_ns, _ITEMS.pack(items) + payload)
        return Spilled(signal, self._journal.append(record), items, at_ns)

    def add(self, spilled: Spilled) -> None:
        self._waiting.append(spilled)

    def take(self) -> tuple[Spilled | None, list[Spilled]]:
        """The oldest request that nobody has taken, with its bytes; and those before it that turned out damaged."""
        lost: list[Spilled] = []
        while self._waiting:
            wanted = self._waiting.popleft()
            record = next(self._journal.read(wanted.position), None)
            if record is None or record.position != wanted.position:
                lost.append(wanted)
                continue
            wanted.payload = record.payload[_ITEMS.size :]
            self._taken.add(wanted)
            return wanted, lost
        return None, lost

    def done(self, spilled: Spilled) -> None:
        """Delivered, or dropped by policy: its bytes may go."""
        self._taken.discard(spilled)
        spilled.payload = b""
        self._forget((*self._taken, *itertools.islice(self._waiting, 1)))

    def drop_oldest(self) -> list[Spilled]:
        """Give up the oldest stretch that frees room; what was in it and not under way.

        What is under way (a few requests) is written down again behind all others before its
        stretch goes, so that no crash forgets what was not told to be dropped.

        Raises:
            JournalFullError, JournalBrokenError: the disk has no room for that; nothing was given up.
        """
        bound = self._journal.start + SEGMENT_BYTES
        if self._waiting:
            bound = max(bound, self._waiting[0].position + 1)
        for taken in sorted(self._taken, key=lambda one: one.position):
            if taken.position < bound:
                record = Record(taken.signal.value, "", taken.at_ns, _ITEMS.pack(taken.items) + taken.payload)
                taken.position = self._journal.append(record, beyond_cap=True)
        gone: list[Spilled] = []
        while self._waiting and self._waiting[0].position < bound:
            gone.append(self._waiting.popleft())
        self._forget((*self._taken, *itertools.islice(self._waiting, 1)))
        return gone

    def close(self) -> None:
        self._journal.close()
        os.close(self._cursor_fd)

    def _forget(self, needed: Iterable[Spilled]) -> None:
        self._delivered = min((one.position for one in needed), default=self._journal.end)
        with contextlib.suppress(OSError):  # an older cursor resends, no more
            os.pwrite(self._cursor_fd, _CURSOR.pack(self._delivered), 0)
        self._journal.release(self._delivered)
