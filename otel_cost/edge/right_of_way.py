"""Right of way: while a harness waits for its answer, threads that can wait do not ask for the interpreter.

One thread runs Python at a time, and who gets it next is chance: beside telemetry a
hook call lost its turn several times, to one piece of decoding or of a commit each
time. Whoever answers hook calls takes the way; whoever has long work to do gives way
between two pieces of it. At most half of the time, and not for long at once, so that
neither a flood of calls nor one that is stuck keeps telemetry from going on. And who
has the interpreter keeps it for `TURN_S` where others want it, or for `LONG_TURN_S`
while a hook call is worked on, which mostly is all that it takes.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LONGEST_S: Final = 0.02
# A thread that waits for the interpreter gets it in a tenth of a millisecond instead of five: beside telemetry hook
# calls are answered sooner (`tests/bench/hook_latency.py`); what it costs in CPU is within the noise.
TURN_S: Final = 0.0001
LONG_TURN_S: Final = 0.0005


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

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Others wait, unless they have just done so for as long as has passed since."""
        now, taking = self._monotonic(), self._taking
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

    def give_way(self) -> None:
        """Wait until the way is free, if it is not; cheap where it is."""
        taking = self._taking
        if taking is not None and (left := taking.until - self._monotonic()) > 0:
            self._free.wait(left)
