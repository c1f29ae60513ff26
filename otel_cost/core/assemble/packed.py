"""Parents of spans in 16 bytes an entry: the tree of a million-span trace must not be a million objects."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_MIX: Final = 0x9E3779B97F4A7C15  # golden ratio: spreads counting span ids as well as random ones
_WORD: Final = 0xFFFFFFFFFFFFFFFF


class Parents:
    """Span id → parent id, both as unsigned 64-bit integers; parent 0 is a root.

    Open addressing in two flat arrays, at most two thirds full: 24 to 48 bytes a
    span. A span id is never 0 (OTLP), so 0 marks a free slot.
    """

    __slots__ = ("_keys", "_mask", "_values", "count")

    def __init__(self) -> None:
        self.count = 0
        self._mask = 15
        self._keys = array("Q", bytes(16 * 8))
        self._values = array("Q", bytes(16 * 8))

    def put(self, span: int, parent: int) -> bool:
        """Remember a span's parent; False, and nothing changes, if the span is known already."""
        keys, mask = self._keys, self._mask
        slot = (span * _MIX & _WORD) >> 32 & mask
        while found := keys[slot]:
            if found == span:
                return False
            slot = slot + 1 & mask
        keys[slot] = span
        self._values[slot] = parent
        self.count += 1
        if self.count * 3 > mask * 2:
            self._grow()
        return True

    def get(self, span: int) -> int | None:
        """The parent, 0 for a root, None for a span that has not come."""
        keys, mask = self._keys, self._mask
        slot = (span * _MIX & _WORD) >> 32 & mask
        while found := keys[slot]:
            if found == span:
                return self._values[slot]
            slot = slot + 1 & mask
        return None

    def items(self) -> Iterator[tuple[int, int]]:
        """Every (span, parent), in no order that means anything."""
        for span, parent in zip(self._keys, self._values, strict=True):
            if span:
                yield span, parent

    def _grow(self) -> None:
        old = list(self.items())
        size = (self._mask + 1) * 2
        self._mask = size - 1
        self._keys = array("Q", bytes(size * 8))
        self._values = array("Q", bytes(size * 8))
        self.count = 0
        for span, parent in old:
            self.put(span, parent)
