"""Clock: wall time for timers. It neither jumps nor goes back, whatever is done to the machine's clock.

A step of the wall clock (somebody sets it, NTP finds it an hour off) is made up for
little by little: no run is closed an hour early, no receive time is before the last.
Suspended time counts. A clock that is days off was never right and is followed at once.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_DAY_NS: Final = 86_400 * 10**9
_FASTER: Final = 10  # at most a tenth faster than time itself
_SLOWER: Final = 2  # at most half as fast


def _since_boot_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class SteadyClock:
    """Safe to use from many threads."""

    def __init__(self, wall_ns: Callable[[], int] = time.time_ns, boot_ns: Callable[[], int] = _since_boot_ns) -> None:
        self._wall_ns, self._boot_ns = wall_ns, boot_ns
        self._lock = threading.Lock()
        self._at, self._said = boot_ns(), wall_ns()

    def now_ns(self) -> int:
        """Unix nanoseconds."""
        with self._lock:
            at, wall = self._boot_ns(), self._wall_ns()
            elapsed = max(0, at - self._at)
            off = wall - (self._said + elapsed)
            if off > _DAY_NS:
                said = wall
            else:
                said = self._said + elapsed + max(-(elapsed // _SLOWER), min(elapsed // _FASTER, off))
            self._at, self._said = at, said
            return said


now_ns: Final = SteadyClock().now_ns
