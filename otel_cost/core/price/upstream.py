"""Upstream: the pinned genai-prices data as a layer. Its data structures only, never its calculator or its updater."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from genai_prices import types as upstream
from genai_prices.data import providers as listed

from otel_cost.core.price.table import (
    ANY,
    BEGINNING,
    SECOND,
    UNITS,
    Hours,
    Layer,
    Model,
    Price,
    Provider,
    Row,
    Terms,
    rate_from,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import time

NAME: Final = "genai-prices"


def upstream_layer() -> Layer:
    """The whole of genai-prices as it is installed."""
    return Layer(f"{NAME} {version(NAME)}", tuple(_provider(provider) for provider in listed))


def _provider(provider: upstream.Provider) -> Provider:
    # What is installed was read, not the seller's page: that one only owns the price.
    owner = provider.pricing_urls
    source = f"{NAME} {version(NAME)}" + (f"; owner of the price: {owner[0]}" if owner else "")
    return Provider(
        provider.id,
        tuple(_model(model, source) for model in provider.models),
        fallback=tuple(provider.fallback_model_providers or ()) or None,
    )


def _model(model: upstream.ModelInfo, source: str) -> Model:
    conditional = (
        model.prices if isinstance(model.prices, list) else [upstream.ConditionalPrice(None, prices=model.prices)]
    )
    rows = [_row(one.prices, one.constraint, source, ANY, whole=True) for one in conditional]
    for variant in reversed(model.price_variants or ()):  # there the first that matches wins, here the last
        terms = _terms(variant.when)
        if terms is not None:
            rows.append(_row(variant.prices, variant.constraint, source, terms, whole=False))
    found = {"name": {model.id}, "stem": set[str](), "pattern": set[str]()}
    for kind, text in _clauses(model.match):
        found[kind].add(text if kind == "pattern" else text.lower())
    names, stems, patterns = (tuple(sorted(texts)) for texts in found.values())
    return Model(model.id, tuple(rows), names, stems, patterns)


def _row(
    prices: upstream.ModelPrice,
    constraint: upstream.StartDateConstraint | upstream.TimeOfDateConstraint | None,
    source: str,
    terms: Terms,
    *,
    whole: bool,
) -> Row:
    stated = {
        key: _price(value, UNITS[key].per)
        for key, value in vars(prices).items()
        if value is not None and not key.startswith("_")
    }
    if whole and not stated:
        # An entry without any price is their way of writing "free of charge".
        stated = {key: Price(rate_from(0, 1)) for key in ("input_mtok", "output_mtok")}
    start, daily = BEGINNING, None
    if isinstance(constraint, upstream.StartDateConstraint):
        date = constraint.start_date
        start = int(datetime(date.year, date.month, date.day, tzinfo=UTC).timestamp()) * SECOND
    elif constraint is not None:
        daily = Hours(_of_day(constraint.start_time), _of_day(constraint.end_time))
    return Row(stated, source, start, daily=daily, terms=terms, whole=whole)


def _price(value: object, per: int) -> Price:
    if isinstance(value, upstream.TieredPrices):
        return Price(
            rate_from(value.base, per), tuple((tier.start, rate_from(tier.price, per)) for tier in value.tiers)
        )
    return Price(rate_from(value, per))  # type: ignore[arg-type]  # ModelPrice keeps its prices untyped


def _of_day(moment: time) -> int:
    return (moment.hour * 3600 + moment.minute * 60 + moment.second) * SECOND


_MODES: Final = {
    ("processing", "batch"): "batch",
    ("service_tier", "flex"): "flex",
    ("service_tier", "priority"): "priority",
    ("service_tier", "fast"): "fast",
    ("speed", "fast"): "speed:fast",
}


def _terms(when: dict[str, str]) -> Terms | None:
    """None for what no span tells (their `route`, `search_type`) and for the standard tier under its other name."""
    ((key, value), *more) = when.items()
    mode = _MODES.get((key, value))
    return None if more or mode is None else Terms(mode)


def _clauses(logic: object) -> Iterator[tuple[str, str]]:
    """Their match clauses as whole names, stems and anchored patterns.

    Their `starts_with`, `contains` and `ends_with` match neighbours too
    (`claude-opus-4` would be found in `claude-opus-4-99`): they become stems, which
    only a date or version tag may follow. An unanchored pattern is not used.
    """
    match logic:
        case upstream.ClauseOr(or_=parts):
            for part in parts:
                yield from _clauses(part)
        case upstream.ClauseAnd(and_=parts):
            # In use as "starts with, but is not the speech model": the stem is enough, tags exclude the rest.
            for part in parts:
                if isinstance(part, upstream.ClauseStartsWith):
                    yield from _clauses(part)
        case upstream.ClauseEquals(equals=text):
            yield "name", text
        case upstream.ClauseStartsWith(starts_with=text) | upstream.ClauseContains(contains=text):
            yield "stem", text.rstrip("-@/:")
            yield "stem", re.sub(r"-(?:20\d\d-?|0)$", "", text)  # half a date, half of "-001": the tag begins there
        case upstream.ClauseEndsWith(ends_with=text):
            yield "stem", text.lstrip("/")
        case upstream.ClauseRegex(regex=text) if text.startswith("^") and text.endswith("$"):
            yield "pattern", text
