"""Allocator: memory that one burst took goes back to the system after it."""

from __future__ import annotations

import contextlib
import ctypes
from typing import Final

# Of glibc's malloc.h. Requests and batches are some 100 kB: each a mapping of its own, given back when it is freed,
# where by default the threshold grows with the largest that was freed and their room stays; and twenty threads that
# mostly wait need no heap each.
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_SETTINGS: Final = ((_M_ARENA_MAX, 2), (_M_MMAP_THRESHOLD, 256 * 1024))


def give_back_early() -> None:
    """Tell the C library so, where it is one that can be told; elsewhere nothing happens."""
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for setting, value in _SETTINGS:
            mallopt(setting, value)
