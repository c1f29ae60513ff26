"""What re-sent context costs: the part of a call's input price that tokens from earlier turns make up."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from otel_cost.core.detect import Observed


def carried_nano(seen: Observed, tokens: int) -> int | None:
    """Cost [nano-USD, rounded down] of the first `tokens` input tokens of a model call.

    Caches hold prefixes, and what was said before is the prefix: carried tokens
    are counted at the cache-read price as far as those reach, then at the price of
    the rest. None where the call's cost is not known item by item.
    """
    if tokens <= 0:
        return 0
    charge = seen.charge
    if charge is None or charge.nano is None:
        return None
    cached = cached_nano = rest = rest_nano = 0
    for item in charge.items:
        if item.part == "cache_read":
            cached, cached_nano = cached + item.quantity, cached_nano + item.nano
        elif item.part in {"input", "cache_write"}:
            rest, rest_nano = rest + item.quantity, rest_nano + item.nano
    if not cached + rest:
        return None
    from_cache = min(tokens, cached)
    nano = cached_nano * from_cache // cached if cached else 0
    return nano + (rest_nano * min(tokens - from_cache, rest) // rest if rest else 0)
