"""Sketches: arguments as a few hashes, good enough to tell a reworded call from another one."""

from __future__ import annotations

from array import array
from collections import Counter
from typing import Final
from zlib import crc32

# Share of words that two calls have in common to be nearly the same.
NEAR: Final = 0.8
# A reworded command differs in its middle or its end; of a longer text the two ends stand for the whole.
_ENDS: Final = 200
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
_DEPTH: Final = 12
_NOWHERE: Final = b"/dev/null"  # a path that names nothing
_SHARED_NAMES: Final = 0.5


def sample(text: str) -> frozenset[int]:
    """A fair sample of a text's longer words, as hashes: enough to tell how much of it was said before."""
    words = text[:_SAMPLED_CHARS].lower().encode("utf-8", "replace").translate(_WORDS).split()
    return frozenset(sorted({crc32(word) for word in words if len(word) >= _LONG_WORD})[:_SAMPLE])


def _split(value: object, exact: list[str], free: list[str], key: str = "", depth: int = 0) -> None:
    """Sort the values of arguments into names and free text; what lies deeper than anybody writes is left out."""
    if depth > _DEPTH:
        return
    if isinstance(value, str):
        if len(value) > _NAME_CHARS or " " in value or "\n" in value:
            free.append(value)
        else:
            exact.append(f"{key}\0{value}")
    elif isinstance(value, dict):
        for name in sorted(value) if len(value) > 1 else value:
            _split(value[name], exact, free, name, depth + 1)
    elif isinstance(value, list):
        for one in value:
            _split(one, exact, free, key, depth + 1)
    else:
        exact.append(f"{key}\0{value}")


class Sketch:
    """What arguments name (ids, numbers, paths) and the words of their free text, as hashes."""

    __slots__ = ("exact", "names", "numbers", "words")

    exact: int  # of the values that are names by themselves
    names: bytes  # of the paths and file names in the free text
    numbers: int  # of the numbers in it
    words: bytes  # of all its words

    def __init__(self, arguments: object) -> None:
        exact: list[str] = []
        free: list[str] = []
        if isinstance(arguments, str):
            free.append(arguments)
        else:
            _split(arguments, exact, free)
        self.exact = crc32("\0".join(exact).encode("utf-8", "replace"))
        self.names = self.words = b""
        self.numbers = 0
        if not free:
            return
        text = " ".join(free)
        if len(text) > 2 * _ENDS:
            text = text[:_ENDS] + text[-_ENDS:]
        raw = text.encode("utf-8", "replace").translate(_WORDS)
        words = raw.split()
        self.words = array("I", map(crc32, words)).tobytes()
        names = {word for word in words if b"/" in word} if b"/" in raw else set()
        if b"." in raw:
            names.update([word for word in words if b"." in word and b"." in word[1:-1]])
        if names:
            names.discard(_NOWHERE)
            self.names = array("I", map(crc32, sorted(names))).tobytes()
        numbers = [word for word in words if word.isdigit()]
        self.numbers = crc32(b" ".join(numbers)) if numbers else 0

    def near(
        self, other: Sketch, least: float = NEAR, *, loose_names: bool = False, loose_numbers: bool = False
    ) -> bool:
        """Do both name the same things and share at least `least` of their words (Dice)?

        `loose_names`, `loose_numbers`: one more path or another number makes it no other thing.
        """
        if self.exact != other.exact:
            return False
        if self.words == other.words:
            return True
        if not loose_numbers and self.numbers != other.numbers:
            return False
        if self.names != other.names:
            if not loose_names:
                return False
            here, there = frozenset(array("I", self.names)), frozenset(array("I", other.names))
            if len(here & there) < _SHARED_NAMES * len(here | there):
                return False
        mine, theirs = len(self.words), len(other.words)
        if 2 * min(mine, theirs) < least * (mine + theirs):
            return False
        one, two = Counter(array("I", self.words)), Counter(array("I", other.words))
        shared = sum([min(count, two[word]) for word, count in one.items() if word in two])
        return 2 * shared >= least * (mine + theirs) / array("I").itemsize
