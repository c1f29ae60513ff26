from __future__ import annotations

from typing import TYPE_CHECKING

from detect_helper import feed, model, tool

from otel_cost.core.model.charge import Charge, Item
from otel_cost.core.model.money import Rate
from otel_cost.core.model.usage import Usage
from otel_cost.core.model.vocabulary import Severity, Status

if TYPE_CHECKING:
    from otel_cost.core.detect import Observed


def call(tokens: int, cached: int | None = 0, written: int = 0, price: int = 10) -> Observed:
    """A call at `price` nano-USD per token, a tenth of it where read from the cache."""
    seen = model(usage=Usage(input=tokens, output=50, cache_read=cached, cache_write=written))
    read = cached or 0
    items = (
        Item("cache_read", "cache_read", read, Rate(1), read * price // 10, "test", None),
        Item("input", "input", tokens - read, Rate(1), price * (tokens - read), "test", None),
    )
    seen.nano = sum(item.nano for item in items)
    seen.charge = Charge(Status.PRICED, nano=seen.nano, items=items)
    return seen


def test_a_cache_that_is_never_read_again_costs_the_difference() -> None:
    warm = [call(10_000, written=10_000), call(11_000, cached=10_000)]
    cold = [call(12_000 + 1000 * n) for n in range(5)]
    fired, over = feed("cache_thrash", *warm, *cold, call(18_000, cached=16_000))
    # Missed: the whole last prompt, at 10 - 1 nano-USD a token.
    assert fired.wasted_nano == 9 * (11_000 + 12_000 + 13_000 + 14_000)
    assert (fired.onset_span_id, over.wasted_nano) == (b"\x02", 9 * (11_000 + 12_000 + 13_000 + 14_000 + 15_000))


def test_no_thrash() -> None:
    assert not feed("cache_thrash", *[call(10_000 + n) for n in range(9)]), "no cache was ever used"
    assert not feed("cache_thrash", *[call(10_000 + n, cached=None) for n in range(9)]), "the sender never tells"
    hot = [call(10_000 + 1000 * n, cached=9000 + 1000 * n, written=900) for n in range(9)]
    assert not feed("cache_thrash", *hot)


def test_a_result_carried_through_many_calls_is_told_once() -> None:
    calls = [call(1000), tool("list_files", {"path": "/"}, "x"), *[call(21_050 + 100 * n) for n in range(12)]]
    (finding,) = feed("costly_passenger", *calls)
    assert (finding.evidence["tokens"], finding.severity) == (20_000, Severity.NOTICE)
    assert finding.wasted_nano == 5 * 20_000 * 10  # five calls carried it by then
    assert finding.onset_span_id == b"\x01"


def test_a_small_result_or_one_of_several_is_not_blamed() -> None:
    small = [call(1000), tool("read", {"path": "a"}, "x"), *[call(2000) for _ in range(30)]]
    assert not feed("costly_passenger", *small)
    two = [call(1000), tool("a", {}, "x"), tool("b", {}, "y"), *[call(30_000) for _ in range(12)]]
    assert not feed("costly_passenger", *two)


def named(name: str, answered: str | None = None, *, price: int = 10) -> Observed:
    seen = call(1000, price=price)
    seen.step.requested_model, seen.step.response_model = name, answered
    return seen


def failure(name: str) -> Observed:
    return model(None, name=name, failed=True, error_type="APIError")


def test_a_dearer_model_after_an_error_is_a_warning_with_its_extra_price() -> None:
    (finding,) = feed("fallback_escalation", named("cheap"), failure("cheap"), named("dear", price=100))
    assert (finding.severity, finding.wasted_nano) == (Severity.WARNING, 90_000)
    assert finding.evidence["after"] == "error"


def test_another_model_than_asked_for_is_a_notice_once() -> None:
    findings = feed("fallback_escalation", named("gpt-5-mini", "gpt-5-pro"), named("gpt-5-mini", "gpt-5-pro"))
    assert [f.severity for f in findings] == [Severity.NOTICE]
    assert findings[0].wasted_nano is None


def test_no_fallback() -> None:
    dated = named("openai/gpt-5-mini", "gpt-5-mini-2025-08-07")
    assert not feed("fallback_escalation", dated, named("claude-haiku-4-5", "claude-haiku-4-5@20251001"))
    assert not feed("fallback_escalation", failure("a"), tool("bash", {}, "ok"), named("b")), "another turn"
    assert not feed("fallback_escalation", failure("a"), named("a")), "a plain retry"
