"""Money: exact integers, one rounding, decimal strings outside.

A rate is an integer amount of femto-dollars per an integer quantity, so that
every published price and every product of multipliers stays exact. A charge is
rounded once, half to even, to nano-dollars; every total is a sum of rounded
charges. Floats appear only where a dashboard needs a double.
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

NANO_PER_USD: Final = 10**9
FEMTO_PER_USD: Final = 10**15
FEMTO_PER_NANO: Final = 10**6


class Rate(NamedTuple):
    """`femto` femto-dollars for each `per` units; kept in lowest terms by the loader."""

    femto: int
    per: int = 1

    def times(self, factor: Fraction) -> Rate:
        """The rate under a multiplier, exact."""
        return rate_of(Fraction(self.femto, self.per) * factor)

    def of(self, quantity: int) -> Fraction | int:
        """Femto-dollars of so many units, exact."""
        return self.femto * quantity if self.per == 1 else Fraction(self.femto * quantity, self.per)

    @property
    def usd(self) -> Fraction:
        """USD per one unit, exact."""
        return Fraction(self.femto, self.per * FEMTO_PER_USD)


def rate_of(femto_per_unit: Fraction) -> Rate:
    """Lowest terms of an exact amount of femto-dollars per unit."""
    return Rate(femto_per_unit.numerator, femto_per_unit.denominator)


def split_nano(total_nano: int, femto_parts: Sequence[Fraction | int]) -> list[int]:
    """Round the parts of one charge so that they add up to its rounded total.

    Largest remainder: every part is floored, then the units left over go to the
    parts that lost most (ties: the earlier part).
    """
    floors = [part // FEMTO_PER_NANO for part in femto_parts]
    left = total_nano - sum(floors)
    if left:
        lost = [part - floor * FEMTO_PER_NANO for part, floor in zip(femto_parts, floors, strict=True)]
        for i in sorted(range(len(floors)), key=lost.__getitem__, reverse=True)[:left]:  # stable
            floors[i] += 1
    return floors


def nano_to_text(nano: int) -> str:
    """Decimal string of USD, without trailing zeros: 22500000 -> '0.0225'."""
    return _plain(Decimal(nano).scaleb(-9))


def nano_to_float(nano: int) -> float:
    """USD as a double, for dashboards only."""
    return nano / NANO_PER_USD


def usd_to_nano(usd: str | Decimal | float) -> int:
    """Nano-dollars of a decimal amount of USD, half to even.

    Raises:
        ValueError: `usd` is not a finite number.
    """
    try:
        amount = Decimal(str(usd))
        return round(Fraction(amount) * NANO_PER_USD)
    except (ArithmeticError, ValueError, OverflowError) as error:
        message = f"{usd!r} is not an amount of USD"
        raise ValueError(message) from error


def exact_text(usd: Fraction) -> str:
    """Shortest decimal string of an exact amount; 28 significant digits where it does not end."""
    return _plain(Decimal(usd.numerator) / Decimal(usd.denominator))


def _plain(amount: Decimal) -> str:
    text = format(amount, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in {"-0", ""} else text
