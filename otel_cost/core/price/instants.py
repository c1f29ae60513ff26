"""Instants: RFC 3339 text to integer nanoseconds since the Unix epoch, and back."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FORM: Final = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[Tt ](\d\d:\d\d(?::\d\d)?)(?:\.(\d{1,9}))?\s?([Zz]|[+-]\d\d:?\d\d)?)?", re.ASCII
)


def parse_instant(text: str) -> int:
    """Nanoseconds of a date (its first moment, UTC) or a date with time; a time without offset is UTC.

    Raises:
        ValueError: not a moment of any calendar.
    """
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"`{text}` is not a time\nwrite it like 2025-09-05T16:00:00Z")
    date, clock, fraction, offset = found.groups()
    try:
        zone = "+00:00" if offset is None or offset in "Zz" else offset
        moment = datetime.fromisoformat(f"{date}T{clock or '00:00'}{zone}")
    except ValueError as error:
        raise ValueError(f"`{text}` is not a time: {error}") from error
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 10**9 + int((fraction or "0").ljust(9, "0"))


def instant_text(ns: int) -> str:
    """RFC 3339 text to the second, in UTC."""
    return (_EPOCH + timedelta(seconds=ns // 10**9)).strftime("%Y-%m-%dT%H:%M:%SZ")
