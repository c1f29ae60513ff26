"""Right of way: while a harness waits for its answer, threads that can wait do not ask for the interpreter.

One thread runs Python at a time, and who gets it next is chance: beside telemetry a
hook call lost its turn several times, to one piece of decoding or of a commit each
time. Whoever answers hook calls takes the way; whoever has long work to do gives way
between two pieces of it. At most half of the time, and not for long at once, so that
neither a flood of calls nor one that is stuck keeps telemetry from going on.

And how long a thread keeps the interpreter where others want it is decided here, for
the whole process: not long where hook calls come (`hurry`), longer while one is
worked on, which mostly is all that it takes (`finish_first`), and longest where nobody
has asked for some time (`take_time`), since each change of threads costs CPU.
"""

from __future__ import annotations

import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LONGEST_S: Final = 0.02
# Beside telemetry hook calls are answered sooner with a short turn (`tests/bench/hook_latency.py`), and a span costs a
# tenth less with a long one (`tests/bench/compare.py`); one of 5 ms, which is Python's own, makes acks wait.
TURN_S: Final = 0.0001
LONG_TURN_S: Final = 0.0005
QUIET_TURN_S: Final = 0.002
QUIET_AFTER_S: Final = 600.0


def hurry() -> None:
    """Hook calls come, or one waits for another thread."""
    sys.setswitchinterval(TURN_S)


def finish_first() -> None:
    """A hook call is worked on."""
    sys.setswitchinterval(LONG_TURN_S)


def take_time() -> None:
    """There are no hook calls."""
    sys.setswitchinterval(QUIET_TURN_S)


@dataclass(slots=True, eq=False)
class _Taking:
    """From the first call that took the way to the last one that came while it had it."""

    since: float
    until: float
    holders: int = 0


class RightOfWay:
    """`taken` from one thread, where several may have it at a time; `give_way` from any other."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._taking: _Taking | None = None
        self._not_before = 0.0
        self._free = threading.Event()
        self._asked = -QUIET_AFTER_S  # when the way was last wanted

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Others wait, unless they have just done so for as long as has passed since."""
        now, taking = self._monotonic(), self._taking
        self._asked = now
        hurry()
        if taking is None or now >= taking.until:
            taking = None
            if now >= self._not_before:
                self._free.clear()
                taking = self._taking = _Taking(now, now + LONGEST_S)
                self._not_before = now + 2 * LONGEST_S
        if taking is None:
            yield
            return
        taking.holders += 1
        try:
            yield
        finally:
            taking.holders -= 1
            if not taking.holders and self._taking is taking:
                ended = min(self._monotonic(), taking.until)
                self._not_before = 2 * ended - taking.since
                self._taking = None
                self._free.set()

    def look_around(self) -> None:
        """From time to time, from any thread: where nobody wants the way any more, others may take their time."""
        if self._monotonic() - self._asked >= QUIET_AFTER_S:
            take_time()  # should a call come just now, the next one sees to it

    def give_way(self) -> None:
        """Wait until the way is free, if it is not; cheap where it is."""
        taking = self._taking
        if taking is not None and (left := taking.until - self._monotonic()) > 0:
            self._free.wait(left)
