"""Sketches: arguments as a few hashes, good enough to tell a reworded call from another one."""

from __future__ import annotations

import json
from array import array
from itertools import pairwise
from typing import Final
from zlib import crc32

# A reworded command differs in its middle or its end; of a longer text the two ends stand for the whole.
_ENDS: Final = 200
# Bottom-k: the smallest hashes of a set are a fair sample of it, and of its overlap with another.
_SIZE: Final = 40
# A value without spaces up to this length is a name, an id, a number: another value is another thing.
_NAME_CHARS: Final = 60
_SAMPLED_CHARS: Final = 1500
_SAMPLE: Final = 64
_LONG_WORD: Final = 4
_KEPT: Final = b"/._-~*"
_WORDS: Final = bytes(
    byte if byte >= 0x80 or chr(byte).isalnum() or byte in _KEPT else ord(" ")  # not ASCII: part of a word
    for byte in range(256)
)


def sample(text: str) -> frozenset[int]:
    """A fair sample of a text's longer words, as hashes: enough to tell how much of it was said before."""
    words = text[:_SAMPLED_CHARS].lower().encode("utf-8", "replace").translate(_WORDS).split()
    return frozenset(sorted({crc32(word) for word in words if len(word) >= _LONG_WORD})[:_SAMPLE])


class Sketch:
    """What arguments name exactly (ids, numbers, paths) and, of their free text, words and pairs of words."""

    __slots__ = ("_shingles", "exact", "hashes")

    def __init__(self, arguments: object) -> None:
        exact: list[str] = []
        free: list[str] = []
        if isinstance(arguments, dict):
            for key in sorted(arguments) if len(arguments) > 1 else arguments:
                value = arguments[key]
                if isinstance(value, str):
                    if len(value) > _NAME_CHARS or " " in value or "\n" in value:
                        free.append(value)
                    else:
                        exact.append(f"{key}\0{value}")
                elif isinstance(value, (dict, list)):
                    free.append(json.dumps(value))
                else:
                    exact.append(f"{key}\0{value}")
        else:
            free.append(arguments if isinstance(arguments, str) else json.dumps(arguments))
        self._shingles: frozenset[int] | None = None
        self.exact = crc32("\0".join(exact).encode("utf-8", "replace"))
        self.hashes = b""
        if not free:
            return
        text = " ".join(free)
        if len(text) > 2 * _ENDS:
            text = text[:_ENDS] + text[-_ENDS:]
        words = text.encode("utf-8", "replace").translate(_WORDS).split()
        names = sorted({word for word in words if b"/" in word or b"." in word[1:-1] or word.isdigit()})
        self.exact = crc32(b"\0".join(names), self.exact)
        self.hashes = array("I", map(crc32, words)).tobytes()

    @property
    def shingles(self) -> frozenset[int]:
        """A fair sample of the words and pairs of words; made when two sketches are first compared."""
        if self._shingles is None:
            hashes = array("I", self.hashes)
            shingles = set(hashes)
            shingles.update([(one * 31 + two) & 0xFFFFFFFF for one, two in pairwise(hashes)])
            self._shingles = frozenset(sorted(shingles)[:_SIZE])
        return self._shingles

    def near(self, other: Sketch, least: float) -> bool:
        """Do both name the same things and share at least `least` of their words (Jaccard)?"""
        if self.exact != other.exact:
            return False
        if self.hashes == other.hashes:
            return True
        mine, theirs = self.shingles, other.shingles
        return len(mine & theirs) >= least * len(mine | theirs)
