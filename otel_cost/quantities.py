"""Quantities as people write them in rules and config: durations `500ms`, sizes `64MiB`, shares `50%`.

Each is a pydantic type that takes text and gives an exact number of its unit.
"""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Final

from pydantic import BeforeValidator, InstanceOf, PlainSerializer, WithJsonSchema

_NS: Final = {
    "ns": 1,
    "us": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
    "d": 86_400 * 10**9,
    "w": 7 * 86_400 * 10**9,
}
_BYTES: Final = {"": 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def duration_ns(written: object) -> int:
    """`200ms`, `5s`, `1h30m` → nanoseconds; units ns, us, ms, s, m, h, d, w.

    Raises:
        ValueError: anything else; a bare number too, except 0, because its unit would be a guess.
    """
    if written == 0 and not isinstance(written, bool):
        return 0
    text = str(written).strip()
    if re.fullmatch(r"(?:\d+(?:\.\d+)?(?:ns|us|ms|s|m|h|d|w))+", text):
        parts = re.findall(r"([\d.]+)([a-z]+)", text)
        return round(sum(Fraction(number) * _NS[unit] for number, unit in parts))
    message = f"`{_short(text)}` is not a duration\nwrite a number and a unit (ms, s, m, h, d, w), for example `5s`"
    raise ValueError(message)


def duration_text(nanoseconds: int) -> str:
    """Nanoseconds → the shortest way to write them: `5s`, `30m`."""
    unit = next((unit for unit in ("w", "d", "h", "m", "s", "ms", "us") if nanoseconds % _NS[unit] == 0), "ns")
    return f"{nanoseconds // _NS[unit]}{unit}" if nanoseconds else "0s"


def size_bytes(written: object) -> int:
    """`64MiB`, `1GB`, `1048576` → bytes.

    Raises:
        ValueError: anything else.
    """
    text = str(written).strip()
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text)
    if found and found[2] in _BYTES and not isinstance(written, bool):
        return int(Fraction(found[1]) * _BYTES[found[2]])
    message = f"`{_short(text)}` is not a size\nwrite bytes, or a number with KiB, MiB or GiB, for example `64MiB`"
    raise ValueError(message)


def share(written: object) -> Fraction:
    """`50%` or `0.5` → one half, exact; may be above one.

    Raises:
        ValueError: anything else, or below zero.
    """
    text = str(written).strip()
    if isinstance(written, Fraction):
        return written
    if re.fullmatch(r"\d+(?:\.\d+)?%", text):
        return Fraction(text[:-1]) / 100
    if isinstance(written, int | float | Decimal) and not isinstance(written, bool) and written >= 0:
        return Fraction(text)
    message = f"`{_short(text)}` is not a share\nwrite a percentage, for example `80%`"
    raise ValueError(message)


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:39]}…"


Duration = Annotated[
    int,
    BeforeValidator(duration_ns),
    PlainSerializer(duration_text, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": r"^(\d+(\.\d+)?(ns|us|ms|s|m|h|d|w))+$", "examples": ["5s", "1h"]}),
]
"""Nanoseconds."""

Size = Annotated[
    int,
    BeforeValidator(size_bytes),
    WithJsonSchema({"type": ["integer", "string"], "examples": ["64MiB", 1048576]}),
]
"""Bytes."""

Share = Annotated[
    InstanceOf[Fraction],
    BeforeValidator(share),
    WithJsonSchema({"type": ["string", "number"], "examples": ["80%", 0.8]}),
]
"""A part of a whole, exact: 80% is 4/5."""
