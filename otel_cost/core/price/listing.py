"""Listing: what the book asks for a model at an instant, as a price list prints it, and where another list differs.

The other list is LiteLLM's model table (a JSON object by model name). It is only
ever compared: what differs is shown, and a person decides what to adopt.
"""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from otel_cost.core.model.money import FEMTO_PER_USD, exact_text
from otel_cost.core.model.step import STANDARD_TERMS, Terms
from otel_cost.core.model.vocabulary import Reason
from otel_cost.core.price.table import BEGINNING, UNITS, Price, rate_from

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from otel_cost.core.model.money import Rate
    from otel_cost.core.price.book import PriceBook

TIERS: Final = ("", "batch", "flex", "priority", "fast", "speed:fast")


class Listed(NamedTuple):
    """One price in force: `since` is None where it has no known start, `tier` is "" for the standard one."""

    tier: str
    unit: str  # a price file's field: input_mtok …
    price: Price
    source: str
    since: int | None


def listed(book: PriceBook, provider: str, model: str, at_ns: int, tier: str = "") -> list[Listed] | Reason:
    """Every price of a model at an instant on one tier, or why there is none."""
    terms = Terms(speed=tier.removeprefix("speed:")) if tier.startswith("speed:") else Terms(service_tier=tier or None)
    plan = book.plan(provider, None, model, terms)
    if isinstance(plan, Reason):
        return plan
    period = plan.at(at_ns)
    if isinstance(period, Reason):
        return period
    first = period.bands[0]
    found: list[Listed] = []
    for unit, (base, source, since) in first.quotes.items():
        steps: list[tuple[int, Rate]] = []
        for above, band in zip(period.steps, period.bands[1:], strict=True):
            rate = band.quotes[unit][0]
            if rate != (steps[-1][1] if steps else base):
                steps.append((above, rate))
        found.append(Listed(tier, unit, Price(base, tuple(steps)), source, None if since <= BEGINNING else since))
    return found


def written(price: Price, unit: str) -> str | dict[str, Any]:
    """A price as a price file has it: "1.25", or `{"base": …, "tiers": [{"start": …, "price": …}]}`."""
    base = _text(price.base, unit)
    if not price.steps:
        return base
    return {"base": base, "tiers": [{"start": above, "price": _text(rate, unit)} for above, rate in price.steps]}


def _text(rate: Rate | None, unit: str) -> str:
    return "null" if rate is None else exact_text(rate.usd * UNITS[unit].per)


# --- LiteLLM's table -------------------------------------------------------------------------------------------------

# Their field of a rate per token -> ours. A suffix names the size of the input or the tier it holds for.
_FIELDS: Final = {
    "input_cost_per_token": "input_mtok",
    "output_cost_per_token": "output_mtok",
    "cache_read_input_token_cost": "cache_read_mtok",
    "cache_creation_input_token_cost": "cache_write_mtok",
    "cache_creation_input_token_cost_above_1hr": "cache_write_1h_mtok",
    "input_cost_per_audio_token": "input_audio_mtok",
    "output_cost_per_audio_token": "output_audio_mtok",
    "output_cost_per_reasoning_token": "output_reasoning_mtok",
}
_FIELD: Final = re.compile(
    rf"(?P<field>{'|'.join(sorted(_FIELDS, key=len, reverse=True))})"
    r"(?:_above_(?P<above>\d+)k_tokens)?(?:_(?P<tier>batches|flex|priority))?"
)
_MODES: Final = {"chat", "completion", "responses", "embedding"}  # what is sold by the token
# Their names of sellers that ours does not know as senders' words.
_SELLERS: Final = {"bedrock_converse": "aws", "bedrock": "aws", "azure_ai": "azure", "text-completion-openai": "openai"}
_NEAR: Final = Fraction(1, 10**6)  # their table is written by floating point


class Difference(NamedTuple):
    """Where the two lists disagree about one price. `ours` None: our list has no such price.

    `kind`: `unknown_model` (the book does not know it), `not_sold` (no price at that
    instant or on that tier), `missing_rate`, `rate`, `long_context` (only what holds for long
    inputs differs), `zero` (they ask nothing).
    """

    kind: str
    provider: str
    model: str
    name: str  # their key
    tier: str
    unit: str
    ours: Price | None
    theirs: Price
    source: str  # ours


def differences(book: PriceBook, table: Mapping[str, Any], at_ns: int) -> Iterator[Difference]:
    """Every price of LiteLLM's table that the book does not ask at that instant; sellers it does not know are left out.

    Raises:
        ValueError: this is no such table.
    """
    if not any(isinstance(entry, dict) and "litellm_provider" in entry for entry in table.values()):
        raise ValueError("no entry has `litellm_provider`: this is not LiteLLM's model table")
    sellers = book.models()
    for name, entry in table.items():
        if not isinstance(entry, dict) or entry.get("mode") not in _MODES:
            continue
        told = str(entry.get("litellm_provider", ""))
        provider = _SELLERS.get(told) or book.provider(told)
        if provider is None or provider not in sellers:
            continue
        model = name.removeprefix(f"{told}/")
        plan = book.plan(provider, None, model, STANDARD_TERMS)
        # Under its own id where this seller lists it, so that what is adopted meets the entry that is there.
        known_as = plan.model if not isinstance(plan, Reason) and plan.model in sellers[provider] else model
        for tier, prices in _prices(entry).items():
            if tier and not prices.keys() & {"input_mtok", "output_mtok"}:
                continue
            mine = listed(book, provider, model, at_ns, tier)
            known = {} if isinstance(mine, Reason) else {one.unit: one for one in mine}
            for unit, theirs in prices.items():
                found = known.get(unit)
                kind = _kind(mine, None if found is None else found.price, theirs, known, unit)
                if kind is not None:
                    yield Difference(
                        kind, provider, known_as, name, tier, unit,
                        None if found is None else found.price, theirs, "" if found is None else found.source,
                    )  # fmt: skip


def _prices(entry: Mapping[str, Any]) -> dict[str, dict[str, Price]]:
    """Their prices as ours, by tier and unit."""
    bases: dict[tuple[str, str], Rate] = {}
    steps: dict[tuple[str, str], list[tuple[int, Rate]]] = {}
    for key, value in entry.items():
        match = _FIELD.fullmatch(key)
        if match is None or isinstance(value, bool) or not isinstance(value, int | float | Decimal):
            continue
        tier = {"batches": "batch", None: ""}.get(match["tier"], match["tier"])
        at = (tier, _FIELDS[match["field"]])
        rate = rate_from(Decimal(str(value)) * 10**6, 10**6)
        if match["above"]:
            steps.setdefault(at, []).append((int(match["above"]) * 1000, rate))
        else:
            bases[at] = rate
    prices: dict[str, dict[str, Price]] = {}
    for (tier, unit), base in bases.items():
        prices.setdefault(tier, {})[unit] = Price(base, tuple(sorted(steps.get((tier, unit), ()))))
    return prices


def _kind(
    mine: list[Listed] | Reason, ours: Price | None, theirs: Price, known: Mapping[str, Listed], unit: str
) -> str | None:
    """How two prices disagree; None: they agree, or theirs says nothing."""
    zero = theirs.base is not None and not theirs.base.femto
    if isinstance(mine, Reason):
        if zero:
            return None
        return "unknown_model" if mine in {Reason.UNKNOWN_MODEL, Reason.UNKNOWN_PROVIDER} else "not_sold"
    if ours is None:
        # A part that costs what its whole costs need not be listed; a price of nothing says as little.
        whole = known.get("output_mtok" if unit.startswith("output") else "input_mtok")
        return None if zero or (whole is not None and _same(whole.price, theirs)) else "missing_rate"
    if _same(ours, theirs):
        return None
    if zero:
        return "zero"
    return "long_context" if _equal(ours.base, theirs.base) else "rate"


def _same(left: Price, right: Price) -> bool:
    return _equal(left.base, right.base) and all(
        _equal(left.for_input(above + 1), right.for_input(above + 1)) for above, _ in (*left.steps, *right.steps)
    )


def _equal(left: Rate | None, right: Rate | None) -> bool:
    if left is None or right is None:
        return left is right
    return abs(left.usd - right.usd) <= _NEAR * max(left.usd, right.usd, Fraction(1, FEMTO_PER_USD))
