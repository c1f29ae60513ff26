"""Memory: how much of it the process has, and when to take in no more.

Three levels: below nine tenths of the limit all is well; above, what waits in memory
goes to disk and readiness says no; at the limit new requests are refused, retryably,
while everything that was accepted goes on.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_LOOK_S: Final = 0.25
_TRIM_S: Final = 10.0
_NEAR: Final = 0.9


class Level(IntEnum):
    """How tight memory is."""

    FREE = 0
    TIGHT = 1
    FULL = 2


def machine_bytes() -> int:
    """What this process may use at all: its control group's limit, else the machine's memory."""
    total = os.sysconf("SC_PHYS_PAGES") * _PAGE
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limit = int(Path(file).read_text())
        except (OSError, ValueError):
            continue
        return min(total, limit)
    return total


def resident_bytes() -> int:
    """Memory of this process that is not swapped out."""
    with open("/proc/self/statm", "rb") as file:  # a quarter of what pathlib costs  # noqa: PTH123
        return int(file.read().split()[1]) * _PAGE


class MemoryWatch:
    """Safe to use from many threads; looks at most four times a second."""

    def __init__(self, limit_bytes: int, resident: Callable[[], int] = resident_bytes) -> None:
        self.limit_bytes = limit_bytes
        self._resident = resident
        self._lock = threading.Lock()
        self._looked = self._trimmed = -_TRIM_S
        self._level = Level.FREE

    @property
    def level(self) -> Level:
        now = time.monotonic()
        if now - self._looked < _LOOK_S or not self._lock.acquire(blocking=False):
            return self._level
        try:
            self._looked = now
            self._level = self._judge()
            if self._level is not Level.FREE and now - self._trimmed >= _TRIM_S:
                self._trimmed = now
                _give_back()
                self._level = self._judge()
            return self._level
        finally:
            self._lock.release()

    def _judge(self) -> Level:
        try:
            used = self._resident()
        except OSError:  # no descriptor left to ask with
            return self._level
        if used >= self.limit_bytes:
            return Level.FULL
        return Level.TIGHT if used >= _NEAR * self.limit_bytes else Level.FREE


def _give_back() -> None:
    """Freed memory stays with the allocator until it is asked for."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):  # another C library
        return
