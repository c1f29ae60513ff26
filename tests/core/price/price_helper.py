"""Steps and books for the tests of prices."""

from __future__ import annotations

from functools import cache
from typing import Any

from otel_cost.core.model.step import Step, Terms
from otel_cost.core.model.usage import Usage
from otel_cost.core.model.vocabulary import Kind, Source
from otel_cost.core.price import PriceBook, compile_book, layer_of
from otel_cost.core.price.instants import parse_instant
from otel_cost.document import parse_document
from otel_cost.edge.files import load_price_book

TEN_THOUSAND = Usage(input=10_000, output=1_000)


@cache
def shipped() -> PriceBook:
    return load_price_book()


def written(*files: str) -> PriceBook:
    """A book of nothing but these price files, the first one the earliest layer."""
    return compile_book(layer_of(parse_document(text, f"file{number}.yaml")) for number, text in enumerate(files))


def called(
    provider: str | None,
    model: str | None,
    *,
    at: str = "2026-11-01T12:00:00Z",
    usage: Usage | None = TEN_THOUSAND,
    terms: dict[str, Any] | None = None,
    **told: Any,
) -> Step:
    start = parse_instant(at)
    told = {"kind": Kind.INFERENCE, "response_model": model, "start_ns": start, "end_ns": start} | told
    return Step(
        source=Source.SPAN,
        dialect="test",
        scope="test",
        provider=provider,
        usage=usage,
        terms=Terms(**terms or {}),
        **told,
    )


def usd(book: PriceBook, step: Step) -> str:
    """The exact cost as text, or the reason why there is none."""
    charge = book.charge(step)
    return str(charge.reason) if charge.exact_usd is None else format(float(charge.exact_usd), ".12g")
