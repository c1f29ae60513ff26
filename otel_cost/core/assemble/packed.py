"""Parents of spans in 16 to 48 bytes an entry: the tree of a million-span trace must not be a million objects."""

from __future__ import annotations

import sys
from array import array
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_ID: Final = 8  # bytes
_ROOT: Final = bytes(_ID)
_FEW: Final = 128  # spans
_MIX: Final = 0x9E3779B97F4A7C15  # golden ratio: spreads counting span ids as well as random ones
_WORD: Final = 0xFFFFFFFFFFFFFFFF


class Parents:
    """Span id → parent id, both of eight bytes; parent b"" is a root.

    The first ones lie one after the other in two strings of bytes, 16 bytes a span: to search a kilobyte is faster
    than to compute where to look. With more, open addressing in two flat arrays, at most two thirds full: 24 to 48
    bytes a span. A span id is never 0 (OTLP), so 0 marks a free slot.
    """

    __slots__ = ("_above", "_keys", "_mask", "_spans", "_values", "count")

    def __init__(self) -> None:
        self.count = 0
        self._spans = bytearray()
        self._above = bytearray()
        self._mask = 0  # 0: few
        self._keys: array[int]
        self._values: array[int]

    def put(self, span: bytes, parent: bytes) -> bool:
        """Remember a span's parent; False, and nothing changes, if the span is known already."""
        if self._mask:
            return self._put(int.from_bytes(span, "big"), int.from_bytes(parent, "big"))
        spans = self._spans
        if spans.find(span) >= 0 and self._at(span) >= 0:  # nearly all are new: no call for them
            return False
        spans += span
        self._above += parent or _ROOT
        self.count += 1
        if self.count == _FEW:
            self._spread()
        return True

    def get(self, span: bytes) -> bytes | None:
        """The parent, b"" for a root, None for a span that has not come."""
        if self._mask:
            found = self._get(int.from_bytes(span, "big"))
            return None if found is None else found.to_bytes(_ID, "big") if found else b""
        at = self._at(span)
        if at < 0:
            return None
        parent = bytes(self._above[at : at + _ID])
        return b"" if parent == _ROOT else parent

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Every (span, parent), in no order that means anything."""
        words = iter(self.words())
        for span, parent in zip(words, words, strict=True):
            yield span.to_bytes(_ID, "big"), parent.to_bytes(_ID, "big") if parent else b""

    def words(self) -> array[int]:
        """Every span and its parent, one after the other, as integers; 0 is no parent."""
        keys, values = (self._keys, self._values) if self._mask else self._columns()
        words = array("Q", bytes(2 * _ID * len(keys)))
        words[::2], words[1::2] = keys, values
        if self.count < len(keys):
            words = array("Q", [word for at in range(0, len(words), 2) if words[at] for word in words[at : at + 2]])
        return words

    def _at(self, span: bytes) -> int:
        """Where one of the few is; what is found across two others is none."""
        at = self._spans.find(span)
        while at % _ID and at >= 0:
            at = self._spans.find(span, at + 1)
        return at

    def _put(self, span: int, parent: int) -> bool:
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
            self._move(self._keys, self._values, 2 * (mask + 1))
        return True

    def _get(self, span: int) -> int | None:
        keys, mask = self._keys, self._mask
        slot = (span * _MIX & _WORD) >> 32 & mask
        while found := keys[slot]:
            if found == span:
                return self._values[slot]
            slot = slot + 1 & mask
        return None

    def _columns(self) -> tuple[array[int], array[int]]:
        """The few as integers."""
        spans, above = array("Q", bytes(self._spans)), array("Q", bytes(self._above))
        if sys.byteorder == "little":
            spans.byteswap()
            above.byteswap()
        return spans, above

    def _spread(self) -> None:
        """No longer few."""
        spans, above = self._columns()
        self._spans, self._above = bytearray(), bytearray()
        self._move(spans, above, 2 * _FEW)

    def _move(self, spans: array[int], above: array[int], size: int) -> None:
        """Into arrays of `size` slots, a power of two."""
        self._mask, self.count = size - 1, 0
        self._keys, self._values = array("Q", bytes(size * _ID)), array("Q", bytes(size * _ID))
        for span, parent in zip(spans, above, strict=True):
            if span:
                self._put(span, parent)
