"""Charging: what is priced, at which instant and tier, and what is refused rather than guessed."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from price_helper import called, shipped, usd, written

from otel_cost.core.model.step import Terms
from otel_cost.core.model.usage import Usage
from otel_cost.core.model.vocabulary import Kind, Reason, Status
from otel_cost.core.price import compile_book, layer_of, upstream_layer
from otel_cost.document import parse_document

if TYPE_CHECKING:
    from otel_cost.core.model.step import Step

LONG = Usage(input=300_000, output=1_000)


@pytest.mark.parametrize(
    ("model", "at", "expected"),
    [
        ("deepseek-chat", "2025-02-08T15:59:59.999Z", "0.00168"),
        ("deepseek-chat", "2025-02-08T16:00:00Z", "0.0038"),
        ("deepseek-chat", "2025-08-10T16:29:59Z", "0.0038"),
        ("deepseek-chat", "2025-08-10T16:30:00Z", "0.0019"),
        ("deepseek-chat", "2025-08-11T00:29:59Z", "0.0019"),
        ("deepseek-chat", "2025-08-11T00:30:00Z", "0.0038"),
        ("deepseek-reasoner", "2025-08-10T17:00:00Z", "0.0019"),
        ("deepseek-chat", "2025-09-05T16:00:00Z", "0.00728"),
        ("deepseek-chat", "2025-09-29T00:00:00Z", "0.00322"),
        ("deepseek-chat", "2023-01-01T00:00:00Z", "before_first_price"),
        ("deepseek-v4-flash", "2026-07-01T02:00:00Z", "0.00168"),  # peak hours began later
        ("deepseek-v4-flash", "2026-08-17T02:00:00Z", "0.00572"),
        ("deepseek-v4-flash", "2026-08-22T02:00:00Z", "0.00572"),  # the last dear Saturday
        ("deepseek-v4-flash", "2026-08-29T02:00:00Z", "0.00286"),
        ("deepseek-v4-flash", "2026-08-31T02:00:00Z", "0.00572"),
    ],
)
def test_hours_and_instants(model: str, at: str, expected: str) -> None:
    assert usd(shipped(), called("deepseek", model, at=at)) == expected


@pytest.mark.parametrize(
    ("provider", "model", "at", "expected"),
    [
        ("openai", "o3", "2025-06-09T23:59:59Z", "0.14"),
        ("openai", "o3", "2025-06-10T00:00:00Z", "0.028"),
        ("openai", "gpt-4o", "2024-07-01T00:00:00Z", "0.065"),
        ("openai", "gpt-4o-2024-08-06", "2024-08-07T00:00:00Z", "0.035"),
        ("openai", "gpt-5.6-terra", "2026-07-29T00:00:00Z", "0.04"),
        ("openai", "gpt-5.6-terra", "2026-07-30T00:00:00Z", "0.032"),
        ("anthropic", "claude-3-5-haiku-20241022", "2024-11-10T00:00:00Z", "0.015"),
        ("anthropic", "claude-3-5-haiku-20241022", "2024-12-10T00:00:00Z", "0.012"),
        ("mistral_ai", "mistral-large-latest", "2025-11-01T00:00:00Z", "0.026"),
        ("mistral_ai", "mistral-large-latest", "2026-01-01T00:00:00Z", "0.0065"),
        ("gcp.gemini", "gemini-flash-latest", "2025-10-10T00:00:00Z", "0.0055"),
        ("gcp.gemini", "gemini-flash-latest", "2025-01-10T00:00:00Z", "before_first_price"),
        ("cohere", "command-r-plus", "2024-08-01T00:00:00Z", "0.045"),
        ("x_ai", "grok-4", "2026-05-15T18:59:59Z", "0.045"),
        ("x_ai", "grok-4", "2026-05-15T19:00:00Z", "0.015"),  # the name is served as Grok 4.3
        ("x_ai", "grok-code-fast-1", "2025-10-01", "0.0035"),
        ("deepseek", "deepseek-chat", "2026-07-24T15:58:59Z", "0.00168"),
        ("deepseek", "deepseek-chat", "2026-07-24T15:59:00Z", "no_rate"),
        ("deepseek", "deepseek-v4-pro", "2026-10-08T02:00:00Z", "0.01716"),
        ("deepseek", "deepseek-v4-pro", "2026-10-07T02:00:00Z", "0.00858"),  # a public holiday
    ],
)
def test_history(provider: str, model: str, at: str, expected: str) -> None:
    assert usd(shipped(), called(provider, model, at=at)) == expected


@pytest.mark.parametrize(
    ("provider", "model", "at", "terms", "expected"),
    [
        ("openai", "gpt-5", "2025-09-01", {"service_tier": "priority"}, "0.045"),
        ("openai", "o3", "2025-06-09", {"service_tier": "flex"}, "0.07"),  # half of what it cost then
        ("openai", "gpt-5", "2026-11-01", {"service_tier": "auto"}, "0.0225"),
        ("openai", "gpt-5-nano", "2026-11-01", {"service_tier": "priority"}, "no_rate"),
        ("openai", "gpt-5-chat-latest", "2026-11-01", {"processing": "batch"}, "no_rate"),
        ("openai", "gpt-5", "2026-11-01", {"service_tier": "scale"}, "no_rate"),
        ("openai", "gpt-5.4", "2026-11-01", {"inference_geo": "eu"}, "0.044"),
        ("openai", "gpt-5", "2026-11-01", {"inference_geo": "eu"}, "0.0225"),
        ("openai", "gpt-5.4", "2026-11-01", {"inference_geo": "not_available"}, "0.04"),
        ("anthropic", "claude-sonnet-4-5", "2026-11-01", {"service_tier": "batch"}, "0.0225"),
        ("anthropic", "claude-3-opus-20240229", "2025-01-01", {"processing": "batch"}, "0.1125"),
        ("anthropic", "claude-sonnet-4-5", "2026-11-01", {"service_tier": "priority"}, "no_rate"),
        ("anthropic", "claude-haiku-4-5", "2026-11-01", {"speed": "fast"}, "no_rate"),
        ("anthropic", "claude-opus-4-6", "2026-04-01", {"speed": "fast"}, "0.45"),
        ("anthropic", "claude-sonnet-4-5", "2026-11-01", {"inference_geo": "us"}, "0.045"),
        ("anthropic", "claude-sonnet-4-6", "2026-11-01", {"inference_geo": "US"}, "0.0495"),
        ("anthropic", "claude-fable-5", "2026-11-01", {"inference_geo": "us", "processing": "batch"}, "0.0825"),
        ("gcp.vertex_ai", "claude-haiku-4-5", "2026-11-01", {"inference_geo": "us-east5"}, "0.0165"),
        ("gcp.vertex_ai", "claude-haiku-4-5", "2026-11-01", {"inference_geo": "global"}, "0.015"),
        ("gcp.gemini", "gemini-2.5-pro", "2026-11-01", {"service_tier": "flex"}, "0.01125"),
        ("gcp.gemini", "gemini-2.5-pro", "2026-11-01", {"service_tier": "priority"}, "0.0405"),
        ("gcp.gemini", "gemini-2.5-pro", "2025-06-01", {"processing": "batch"}, "no_rate"),
        ("groq", "llama-3.3-70b-versatile", "2026-11-01", {"service_tier": "on_demand"}, "0.00669"),
        ("aws.bedrock", "us.amazon.nova-pro-v1:0", "2026-11-01", {"service_tier": "flex"}, "0.0056"),
        ("aws.bedrock", "us.amazon.nova-pro-v1:0", "2026-11-01", {"service_tier": "priority"}, "0.0196"),
        ("aws.bedrock", "us.amazon.nova-pro-v1:0", "2025-11-01", {"service_tier": "flex"}, "no_rate"),
        ("aws.bedrock", "us.amazon.nova-lite-v1:0", "2026-11-01", {"service_tier": "flex"}, "no_rate"),
    ],
)
def test_terms(provider: str, model: str, at: str, terms: dict[str, str], expected: str) -> None:
    assert usd(shipped(), called(provider, model, at=at, terms=terms)) == expected


@pytest.mark.parametrize(
    ("provider", "model", "tokens", "expected"),
    [
        ("gcp.gemini", "gemini-2.5-pro", 200_000, "0.26"),
        ("gcp.gemini", "gemini-2.5-pro", 200_001, "0.5150025"),
        ("x_ai", "grok-4.5", 199_999, "0.405998"),
        ("x_ai", "grok-4.5", 200_000, "0.812"),  # their boundary is inclusive
    ],
)
def test_the_whole_call_moves_at_the_step(provider: str, model: str, tokens: int, expected: str) -> None:
    assert usd(shipped(), called(provider, model, usage=Usage(input=tokens, output=1_000))) == expected


def test_a_premium_of_one_platform_only() -> None:
    sonnet = "anthropic.claude-sonnet-4-5-20250929-v1:0"
    assert usd(shipped(), called("aws.bedrock", f"us.{sonnet}", at="2025-12-01", usage=LONG)) == "2.00475"
    assert usd(shipped(), called("anthropic", "claude-sonnet-4-6", at="2026-04-01", usage=LONG)) == "0.915"


@pytest.mark.parametrize(
    ("units", "expected"),
    [
        ((("web_search", 3),), "0.075"),
        ((("web_search", 0),), "0.045"),
        ((("web_fetch", 7),), "0.045"),
        ((("code_execution_seconds", 30),), "0.0491666666667"),  # five minutes at least
        ((("code_execution_seconds", 7200),), "0.145"),
        ((("teleport", 1),), "no_rate"),
        ((("web_search", -1),), "negative_tokens"),
    ],
)
def test_uses_inside_a_call(units: tuple[tuple[str, int], ...], expected: str) -> None:
    assert usd(shipped(), called("anthropic", "claude-sonnet-4-5", terms={"units": units})) == expected


def test_what_is_not_counted_in_tokens() -> None:
    heard = called("openai", "whisper-1", usage=None, terms={"units": (("audio_seconds", 90),)})
    assert usd(shipped(), heard) == "0.009"
    assert usd(shipped(), called("perplexity", "sonar")) == "0.016"  # tokens and one request


def test_media_inside_their_side() -> None:
    spoken = Usage(input=1_000, output=500, audio_input=400, audio_output=300)
    assert usd(shipped(), called("openai", "gpt-4o-audio-preview", usage=spoken)) == "0.0435"
    heard = Usage(input=1_000, output=0, cache_read=800, audio_input=500, audio_cache_read=400)
    # 100 text and 100 audio fresh, 400 and 400 cached
    assert usd(shipped(), called("gcp.gemini", "gemini-2.5-flash", usage=heard)) == "0.000182"


@pytest.mark.parametrize(
    ("usage", "reason"),
    [
        (Usage(input=-5, output=1), Reason.NEGATIVE_TOKENS),
        (Usage(input=5, output=-1), Reason.NEGATIVE_TOKENS),
        (Usage(input=100, output=1, cache_read=60, cache_write=60), Reason.INCONSISTENT_USAGE),
        (Usage(input=100, output=1, cache_write=60, cache_write_1h=61), Reason.INCONSISTENT_USAGE),
        (Usage(input=100, output=10, reasoning=11), Reason.INCONSISTENT_USAGE),
    ],
)
def test_impossible_usage_is_refused_not_clamped(usage: Usage, reason: Reason) -> None:
    charge = shipped().charge(called("anthropic", "claude-sonnet-4-5", usage=usage))
    assert (charge.status, charge.reason, charge.nano, len(charge.items)) == (Status.INVALID, reason, None, 0)


def test_why_there_is_no_price() -> None:
    assert usd(shipped(), called("openai", "gpt-5", usage=None)) == "missing_usage"
    assert usd(shipped(), called("openai", "gpt-5", usage=None, failed=True)) == "failed_call"
    assert usd(shipped(), called("openai", "gpt-5", usage=None, failed=True, output_begun=True)) == "missing_usage"
    assert usd(shipped(), called("openai", "gpt-5", problem=Reason.INCONSISTENT_USAGE)) == "inconsistent_usage"
    assert usd(shipped(), called(None, None, usage=None, kind=Kind.TOOL, tool="Bash")) == "no_rate"


def test_flags() -> None:
    unsplit = Usage(input=100, output=1, cache_write=50)
    assert set(shipped().charge(called("anthropic", "claude-sonnet-4-5", usage=unsplit)).flags) == {"ttl_unknown"}
    split = Usage(input=100, output=1, cache_write=50, cache_write_1h=0)
    assert not shipped().charge(called("anthropic", "claude-sonnet-4-5", usage=split)).flags
    both = shipped().charge(called("openai", "gpt-5", failed=True, rollup=True, kind=Kind.AGENT))
    assert (both.status, set(both.flags)) == (Status.PRICED, {"failed", "aggregate"})


def test_the_providers_own_figure_wins() -> None:
    told = called("openrouter", "who/knows", reported_nano=123, reported_by_provider=True)
    charge = shipped().charge(told)
    assert (charge.nano, [item.nano for item in charge.items], set(charge.flags)) == (123, [123], {"reported_cost"})
    assert usd(shipped(), called("openai", "gpt-5", reported_nano=123)) == "0.0225"


def turn(write: int, reported: str, **more: object) -> Step:
    """A first turn of Claude Code: 400 fresh tokens, 30 out, the rest into the cache for a time that nobody tells."""
    usage = Usage(input=400 + write, output=30, cache_write=write, **more)  # type: ignore[arg-type]
    return called("anthropic", "claude-sonnet-4-5", usage=usage, reported_nano=int(Decimal(reported) * 10**9))


@pytest.mark.parametrize(
    ("write", "reported", "hour", "cost", "flag"),
    [
        (14_000, "0.08565", 14_000, "0.08565", "estimated"),  # all of it for an hour
        (14_000, "0.06315", 4_000, "0.06315", "estimated"),  # 10,000 for five minutes
        (14_000, "0.05415", None, "0.05415", "ttl_unknown"),  # what everybody gets who does not know
        (14_000, "0.0857", None, "0.05415", "ttl_unknown"),  # no split comes to it
        (14_000, "0.08565225", None, "0.05415", "ttl_unknown"),  # more than there was to write
        (14_000, "0.04", None, "0.05415", "ttl_unknown"),
    ],
)
def test_a_stated_cost_proves_how_long_the_cache_lives(
    write: int, reported: str, hour: int | None, cost: str, flag: str
) -> None:
    charge = shipped().charge(turn(write, reported))
    assert charge.usage is not None
    assert (charge.usage.cache_write_1h, charge.exact_usd, set(charge.flags)) == (hour, Fraction(Decimal(cost)), {flag})
    assert sum(item.nano for item in charge.items) == charge.nano == int(Decimal(cost) * 10**9)


def test_a_stated_cost_with_other_uses_in_it_proves_nothing() -> None:
    step = turn(14_000, "0.08565")
    step.terms = Terms(units=(("web_search", 1),))
    charge = shipped().charge(step)
    assert (charge.nano, set(charge.flags)) == (64_150_000, {"ttl_unknown"})


def test_a_lifetime_is_proven_beside_the_users_own_rules_too() -> None:
    rule = "version: 1\ncontext: [{match: {service.name: x}, set: {processing: batch}}]"
    book = compile_book([upstream_layer(), layer_of(parse_document(rule, "mine.yaml"))])
    charge = book.charge(turn(14_000, "0.08565"))
    assert charge.usage is not None
    assert (charge.nano, charge.usage.cache_write_1h, set(charge.flags)) == (85_650_000, 14_000, {"estimated"})


def test_a_told_lifetime_needs_no_proof() -> None:
    charge = shipped().charge(turn(14_000, "0.08565", cache_write_1h=0))
    assert (charge.nano, charge.flags) == (54_150_000, frozenset())


RATES = st.decimals(min_value=0, max_value=100, places=6)
COUNTS = st.integers(0, 10**7)


@given(RATES, RATES, RATES, RATES, RATES, st.integers(1, 10**6), COUNTS, COUNTS, COUNTS, COUNTS, COUNTS, st.booleans())
def test_agrees_with_the_slow_obvious_way(
    into: Decimal, read: Decimal, write: Decimal, hourly: Decimal, out: Decimal, step: int,
    fresh: int, cached: int, written_5m: int, written_1h: int, output: int, long_is_dear: bool,
) -> None:  # fmt: skip
    factor = 2 if long_is_dear else 1
    book = written(
        f"""
version: 1
source: made up
providers:
  - id: seller
    models:
      - id: m
        prices:
          - input_mtok: {{base: {into}, tiers: [{{start: {step}, price: {into * factor}}}]}}
            cache_read_mtok: {read}
            cache_write_mtok: {write}
            cache_write_1h_mtok: {hourly}
            output_mtok: {out}
"""
    )
    total = fresh + cached + written_5m + written_1h
    usage = Usage(
        input=total, output=output, cache_read=cached, cache_write=written_5m + written_1h, cache_write_1h=written_1h
    )
    charge = book.charge(called("seller", "m", usage=usage))
    dear = into * factor if total > step else into
    obvious = (fresh * dear + cached * read + written_5m * write + written_1h * hourly + output * out) / Decimal(10**6)
    assert charge.exact_usd == Fraction(obvious)
    assert charge.nano == round(Fraction(obvious) * 10**9)
    assert sum(item.nano for item in charge.items) == charge.nano
