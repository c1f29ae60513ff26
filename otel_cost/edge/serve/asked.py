"""Asked: what several routes read from a query."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import TYPE_CHECKING, Final, TypeVar

from otel_cost.edge.serve.when import instant_ns
from otel_cost.errors import UsageError

if TYPE_CHECKING:
    from starlette.requests import Request

_MOST: Final = 1000

E = TypeVar("E", bound=StrEnum)


def times(request: Request) -> tuple[int | None, int | None]:
    """`since` and `until` in ns.

    Raises:
        UsageError: one of them is no time.
    """
    now_ns = time.time_ns()
    said = (request.query_params.get(name) for name in ("since", "until"))
    since_ns, until_ns = (instant_ns(written, now_ns) if written else None for written in said)
    return since_ns, until_ns


def one_of(request: Request, name: str, words: type[E]) -> E | None:
    """One of an enumeration's words; None where it is not asked for.

    Raises:
        UsageError: it is none of them.
    """
    written = request.query_params.get(name)
    if written is None:
        return None
    try:
        return words(written)
    except ValueError:
        raise UsageError(f"`{name}={written}` is none of: {', '.join(words)}") from None


def count(request: Request, name: str, default: int | None) -> int | None:
    """A number from 1 to 1000.

    Raises:
        UsageError: it is none.
    """
    written = request.query_params.get(name)
    if written is None:
        return default
    if not written.isascii() or not written.isdigit() or not 0 < int(written[:6]) <= _MOST:
        raise UsageError(f"`{name}={written}` is not a number from 1 to {_MOST}")
    return int(written)
