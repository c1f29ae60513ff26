from __future__ import annotations

from typing import TYPE_CHECKING

from detect_helper import feed, model

from otel_cost.core.model.charge import Charge, Item
from otel_cost.core.model.money import Rate
from otel_cost.core.model.usage import Usage
from otel_cost.core.model.vocabulary import Severity, Status

if TYPE_CHECKING:
    from otel_cost.core.detect import Observed


def call(tokens: int, cached: int = 0) -> Observed:
    """A call at 10 nano-USD per token, 1 where cached."""
    seen = model(usage=Usage(input=tokens, output=50, cache_read=cached))
    items = (
        Item("cache_read", "cache_read", cached, Rate(1), cached, "test", None),
        Item("input", "input", tokens - cached, Rate(1), 10 * (tokens - cached), "test", None),
    )
    seen.charge = Charge(Status.PRICED, nano=sum(i.nano for i in items), items=items)
    return seen


def grow(start: int, step: int, calls: int) -> list[Observed]:
    return [call(start + step * n) for n in range(calls)]


def test_a_context_that_grows_twelvefold_fires_and_its_end_tells_all_carried_money() -> None:
    fired, over = feed("growing_context", *grow(20_000, 20_000, 12), call(5_000))
    assert (fired.state, fired.severity, fired.onset_span_id) == ("firing", Severity.WARNING, b"\x01")
    # Call n re-sends what calls 1 … n-1 added: 20k * (n - 1) tokens at 10 nano.
    assert fired.wasted_nano == sum(200_000 * n for n in range(8))
    assert over.wasted_nano == sum(200_000 * n for n in range(11))


def test_cached_tokens_are_carried_at_the_cached_price() -> None:
    calls = [call(20_000 + 20_000 * n, cached=20_000 * n) for n in range(9)]
    (fired,) = feed("growing_context", *calls)
    assert fired.wasted_nano == sum(20_000 * n for n in range(8))


def test_without_prices_the_waste_is_unknown() -> None:
    (fired,) = feed("growing_context", *[model(5, (20_000 * n, 9)) for n in range(1, 12)])
    assert fired.wasted_nano is None


def test_no_finding() -> None:
    assert not feed("growing_context", *grow(20_000, 100, 30)), "grows, but by little"
    assert not feed("growing_context", *grow(100, 100, 30)), "too small to matter"
    compacted = [call(tokens) for _ in range(5) for tokens in (20_000, 50_000, 90_000, 120_000)]
    assert not feed("growing_context", *compacted), "compacted in time"


def test_a_small_model_on_the_side_does_not_hide_the_growth() -> None:
    mixed = [one for big in grow(20_000, 20_000, 10) for one in (big, model(1, (300, 9), name="small"))]
    assert len(feed("growing_context", *mixed)) == 1


def test_half_of_the_window_makes_it_louder_once() -> None:
    calls = [model(10, (tokens, 100)) for tokens in range(10_000, 160_000, 10_000)]
    notice, warning = feed("growing_context", *calls)
    assert (notice.severity, warning.severity) == ("notice", "warning")
    assert notice.onset_span_id == warning.onset_span_id
    assert warning.evidence["last_input_tokens"] == 100_000
