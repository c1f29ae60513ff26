"""What re-sent context costs: the part of a call's input price that tokens from earlier turns make up."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from otel_cost.core.model.charge import Charge


class Paid(NamedTuple):
    """A call's input, as it was paid for: tokens and nano-USD, from the cache and not."""

    cached: int
    cached_nano: int
    rest: int
    rest_nano: int

    def carried(self, tokens: int) -> int:
        """Cost [nano-USD, rounded down] of the first `tokens` input tokens.

        Caches hold prefixes, and what was said before is the prefix: carried tokens
        are counted at the cache-read price as far as those reach, then at the price of the rest.
        """
        from_cache = min(tokens, self.cached)
        nano = self.cached_nano * from_cache // self.cached if self.cached else 0
        return nano + (self.rest_nano * min(tokens - from_cache, self.rest) // self.rest if self.rest else 0)


def paid_for(charge: Charge | None) -> Paid | None:
    """What a call's input cost; None where the cost is not known item by item. Not free: ask when it matters."""
    if charge is None or charge.nano is None:
        return None
    cached = cached_nano = rest = rest_nano = 0
    for item in charge.items:
        if item.part == "cache_read":
            cached, cached_nano = cached + item.quantity, cached_nano + item.nano
        elif item.part in {"input", "cache_write"}:
            rest, rest_nano = rest + item.quantity, rest_nano + item.nano
    return Paid(cached, cached_nano, rest, rest_nano) if cached + rest else None


def carried_nano(charge: Charge | None, tokens: int) -> int | None:
    """Cost [nano-USD] of a call's first `tokens` input tokens; None where it is not known."""
    if tokens <= 0:
        return 0
    paid = paid_for(charge)
    return None if paid is None else paid.carried(tokens)
