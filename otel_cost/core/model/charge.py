"""Charge: what one call costs, item by item, each with its source and date."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple, Protocol

from otel_cost.core.model.vocabulary import Basis, Flag, Reason, Status

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from otel_cost.core.model.money import Rate
    from otel_cost.core.model.usage import Usage


class Tariff(NamedTuple):
    """What lines of charges are reckoned by: few of them stand for all that is ever charged."""

    unit: str
    part: str
    rate: Rate
    source: str
    valid_from: str | None

    def item(self, quantity: int, nano: int) -> Item:
        """The line of a charge for so much of it; `nano`: its share, nano-USD."""
        return Item(self.unit, self.part, quantity, self.rate, nano, self.source, self.valid_from)


Share = tuple[Tariff, int, int]  # by what, how much of it, nano-USD


@dataclass(slots=True, unsafe_hash=True)
class Item:
    """One line of a charge. `part` groups units: input, cache_read, cache_write, output, reasoning, fee.

    Never changed once made; not frozen because that triples what making one costs.
    """

    unit: str  # price-book field without its scale: "input", "cache_read", "cache_write_1h", "web_search" …
    part: str
    quantity: int
    rate: Rate  # per one unit (one token, one search, one second)
    nano: int  # this item's share of the charge's rounded total
    source: str  # where the price was published
    valid_from: str | None  # RFC 3339 instant, or None where the price has no known start

    @property
    def exact_usd(self) -> Fraction:
        return self.rate.usd * self.quantity


class LazyItems(Protocol):
    """Items that are made when somebody looks at them, and what they say without making them."""

    def __iter__(self) -> Iterator[Item]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Item: ...

    def shares(self) -> Sequence[Share]: ...

    def forget(self) -> None:
        """Nobody will look soon: they are made again when somebody does."""


def shares_of(items: tuple[Item, ...] | LazyItems) -> Sequence[Share]:
    """What items say."""
    if not isinstance(items, tuple):
        return items.shares()
    return [
        (Tariff(item.unit, item.part, item.rate, item.source, item.valid_from), item.quantity, item.nano)
        for item in items
    ]


@dataclass(slots=True)
class Charge:
    """The price of one call, or the reason why there is none. `nano` is None unless `status` is priced.

    Never changed once made; not frozen because that costs as much again as pricing the call.
    """

    status: Status
    reason: Reason | None = None
    nano: int | None = None
    items: tuple[Item, ...] | LazyItems = ()  # may be made on demand: most charges are only added up
    usage: Usage | None = None
    basis: Basis = Basis.UNKNOWN
    flags: frozenset[Flag] = frozenset()
    price_book: str = ""

    @property
    def exact_usd(self) -> Fraction | None:
        """The sum before rounding; `price --json` alone shows it."""
        if self.status is not Status.PRICED:
            return None
        return sum((item.exact_usd for item in self.items), Fraction(0))
