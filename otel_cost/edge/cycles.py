"""Cycles: when the interpreter may look for garbage that holds itself, which stops every thread while it does.

Open runs are millions of objects that live for minutes and hold no cycles; looking
through what came in the last seconds took 1.3 s, and every hook call waited. So
nobody looks by itself while a service runs: the engine, between two pieces of work,
passes over what is new, and looks through it where there was no work. All that was
passed over is looked through when nothing has happened for a while. Telemetry and
hook calls make no cycles; rare things do (a failed request).
"""

from __future__ import annotations

import gc
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

QUIET_S: Final = 20.0
BETWEEN_S: Final = 1800.0  # two looks at everything


class Cycles:
    """`begin`, `tidy` again and again from one thread, `end`. The collector is the whole process's."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._busy_at = self._looked_at = monotonic()

    def begin(self) -> None:
        """What is there now stays."""
        gc.collect()
        gc.freeze()
        gc.disable()

    def tidy(self, *, busy: bool, tight: bool) -> None:
        """Well below a millisecond, but for a look at everything when all has been quiet for a while.

        Args:
            busy: something has come in since the last time.
            tight: memory is, so that a look at everything is not put off.
        """
        now = self._monotonic()
        if busy:
            self._busy_at = now
        else:
            gc.collect(0)
        gc.freeze()  # constant time, however much there is
        due = now - self._looked_at >= BETWEEN_S
        if due and (tight or now - self._busy_at >= QUIET_S):
            self._looked_at = now
            gc.unfreeze()
            gc.collect()
            gc.freeze()

    def end(self) -> None:
        """As it was."""
        gc.unfreeze()
        gc.enable()
