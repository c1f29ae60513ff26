"""Patience: how long to wait for an answer, learned from timeouts.

A backend that is slower than the time-out has often taken what it did not answer in
time; asked again as impatiently it gets every record many times over. So a timeout
doubles the wait, up to a ceiling, and quick answers bring it back slowly.
"""

from __future__ import annotations

from typing import Final

CEILING_S: Final = 60.0
_EASE: Final = 0.98


class Patience:
    """Shared by the threads of one exporter; a lost update costs nothing."""

    def __init__(self, timeout_s: float, ceiling_s: float = CEILING_S) -> None:
        self._configured_s, self._ceiling_s = timeout_s, max(timeout_s, ceiling_s)
        self.timeout_s = timeout_s

    def timed_out(self, waited_s: float) -> None:
        """No answer within `waited_s`."""
        self.timeout_s = min(self._ceiling_s, max(self.timeout_s, 2 * waited_s))

    def answered(self, took_s: float) -> None:
        """An answer, whatever it said."""
        if self.timeout_s > self._configured_s and 4 * took_s < self.timeout_s:
            self.timeout_s = max(self._configured_s, self.timeout_s * _EASE)
