"""Visits: a hook call is answered on the thread that has read it, while the engine stands aside between two slices.

Handing the call over and the answer back costs two turns of the interpreter and of
the processor, and each may come milliseconds later where others want it, too. So a
call that is on its way asks the engine to stand aside at its next slice; when it has
been read, the engine mostly waits there already.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from otel_cost.edge.kept_hooks import Place


class Visit:
    """One call. `let_in` once from the engine's thread, all else from the thread that answers.

    `is_here`: it has been read. Either side may give it up; `_over` belongs to whoever gets it: to the
    visitor who comes in, or who leaves without, or to the engine that has waited long enough.
    """

    __slots__ = ("_admitted", "_has_left", "_is_here", "_left", "_over", "place")

    def __init__(self, *, is_here: bool) -> None:
        self.place: Place | None = None  # where the engine stands, once it lets in
        self._is_here, self._has_left = is_here, False
        self._admitted, self._over, self._left = threading.Lock(), threading.Lock(), threading.Lock()
        self._admitted.acquire()
        self._left.acquire()

    def let_in(self, place: Place | None, patience_s: float) -> bool:
        """Stand aside until the visitor has left. False: nobody came in time, and nobody will.

        Whoever stands at the door already is waited for: only their turn is still to come.
        """
        if self._over.locked():
            return True
        self.place = place
        self._admitted.release()
        if self._left.acquire(timeout=-1 if self._is_here else patience_s):
            return True
        if self._over.acquire(blocking=False):
            return False
        return self._left.acquire()

    @property
    def is_over(self) -> bool:
        """The engine has stood aside for it in vain."""
        return self._over.locked()

    def enter(self, timeout_s: float) -> bool:
        """True: the engine stands aside until `leave`. False: it could not in time, or no longer does."""
        self._is_here = True
        return self._admitted.acquire(timeout=timeout_s) and self._over.acquire(blocking=False)

    def leave(self) -> None:
        """The engine goes on, whether it was visited or not. May be called twice."""
        if not self._has_left:
            self._has_left = True
            self._over.acquire(blocking=False)
            self._left.release()
