"""Token counts: what is taken, what is refused, and how the basis is decided."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_cost.core.model.attributes import PlainAttributes
from otel_cost.core.model.usage import Usage
from otel_cost.core.model.vocabulary import Basis, Reason
from otel_cost.core.normalise._usage import MOST_TOKENS, NOTHING_TOLD, answered, gather, ranked, settle, whole


@pytest.mark.parametrize(
    ("value", "count"),
    [
        (0, 0),
        (1200, 1200),
        ("1200", 1200),
        (" 7 ", 7),
        ("12.0", 12),
        (12.0, 12),
        ("-5", -5),
        (-5, -5),
        (12.5, None),
        ("12.5", None),
        ("1e3", None),
        ("1_000", None),
        ("many", None),
        (True, None),
        (float("nan"), None),
        (float("inf"), None),
        (10**18, None),
        (1e18, None),
        ([3], None),
    ],
)
def test_a_count_is_a_whole_number_however_it_is_written(value: object, count: int | None) -> None:
    assert whole(value) == count


def test_nothing_told_is_no_usage_and_no_problem() -> None:
    assert settle({}) == NOTHING_TOLD
    assert settle({"input": None, "output": ""}) == NOTHING_TOLD
    assert settle({"cache_read": 0}) == NOTHING_TOLD


def test_zero_told_is_usage() -> None:
    assert settle({"input": 0, "output": 0}).usage == Usage(input=0, output=0)


@pytest.mark.parametrize(
    ("told", "problem"),
    [
        ({"input": -5, "output": 100}, Reason.NEGATIVE_TOKENS),
        ({"input": 5, "output": "-1"}, Reason.NEGATIVE_TOKENS),
        ({"input": 5, "output": 1, "reasoning": -1}, Reason.NEGATIVE_TOKENS),
        ({"input": float("nan"), "output": 1}, Reason.INCONSISTENT_USAGE),
        ({"input": 10**18, "output": 1}, Reason.INCONSISTENT_USAGE),
        ({"input": "a lot", "output": 1}, Reason.INCONSISTENT_USAGE),
        ({"input": 10, "output": 5, "reasoning": 6}, Reason.INCONSISTENT_USAGE),
        ({"input": 10, "output": 5, "cache_write": 3, "cache_write_1h": 4}, Reason.INCONSISTENT_USAGE),
        ({"input": 10, "output": 5, "audio_input": 11}, Reason.INCONSISTENT_USAGE),
        ({"input": 10, "output": 5, "audio_input": 4, "image_input": 7}, Reason.INCONSISTENT_USAGE),
        ({"input": 10, "output": 5, "audio_output": 6}, Reason.INCONSISTENT_USAGE),
        (
            {"input": 10, "output": 5, "cache_read": 4, "audio_cache_read": 5, "audio_input": 6},
            Reason.INCONSISTENT_USAGE,
        ),
    ],
)
def test_what_contradicts_itself_is_refused_and_not_clamped(told: dict, problem: Reason) -> None:
    settled = settle(told, provider="openai")
    assert (settled.usage, settled.problem) == (None, problem)


CACHED = {"input": 40, "output": 10, "cache_read": 7500}


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("anthropic", "claude-sonnet-4-5"),
        ("aws.bedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0"),
        ("gcp.vertex_ai", "claude-opus-4-1@20250805"),
        (None, "claude-sonnet-4-5"),
    ],
)
def test_cache_above_input_proves_exclusive_where_the_provider_counts_so(provider: str | None, model: str) -> None:
    settled = settle(CACHED, provider=provider, model=model)
    assert settled.basis is Basis.EXCLUSIVE
    assert settled.usage == Usage(input=7540, output=10, cache_read=7500)


@pytest.mark.parametrize("provider", ["openai", "gcp.gemini", "deepseek", "gcp.vertex_ai", None])
def test_cache_above_input_is_impossible_elsewhere(provider: str | None) -> None:
    assert settle(CACHED, provider=provider, model="gpt-5").problem is Reason.INCONSISTENT_USAGE


def test_a_known_sender_is_believed_before_anything_is_proven() -> None:
    told = {"input": 1000, "output": 10, "cache_read": 300, "total": 1010}
    settled = settle(told, convention=Basis.EXCLUSIVE, provider="openai")
    assert (settled.basis, settled.usage) == (Basis.EXCLUSIVE, Usage(input=1300, output=10, cache_read=300))


@pytest.mark.parametrize(
    ("total", "basis", "total_input"),
    [(1010, Basis.INCLUSIVE, 1000), (1310, Basis.EXCLUSIVE, 1300), (None, Basis.INCLUSIVE, 1000)],
)
def test_totals_decide_where_the_sender_is_not_known(total: int | None, basis: Basis, total_input: int) -> None:
    settled = settle({"input": 1000, "output": 10, "cache_read": 300, "total": total}, provider="groq")
    assert settled.basis is basis
    assert settled.usage is not None
    assert settled.usage.input == total_input


def test_raw_key_names_of_anthropic_are_exclusive_and_of_nobody_else() -> None:
    told = {"input": 1000, "output": 10, "cache_read": 300}
    assert settle(told, provider="anthropic", raw_names=True).basis is Basis.EXCLUSIVE
    assert settle(told, provider="openai", raw_names=True).basis is Basis.INCLUSIVE


def test_cache_lifetimes_alone_make_up_the_writes() -> None:
    usage = settle({"input": 100, "output": 1, "cache_write_5m": 10, "cache_write_1h": 30}).usage
    assert usage is not None
    assert (usage.cache_write, usage.cache_write_1h) == (40, 30)


def test_reasoning_outside_output_is_added_once() -> None:
    usage = settle({"input": 1, "output": 82, "reasoning": 128}, reasoning_outside=True).usage
    assert usage is not None
    assert (usage.output, usage.reasoning) == (210, 128)


counts = st.integers(0, MOST_TOKENS)


@given(counts, counts, counts, counts, st.sampled_from([None, *Basis]), st.sampled_from(["openai", "anthropic", None]))
def test_settled_usage_always_fits_together(
    total_input: int, output: int, read: int, write: int, convention: Basis | None, provider: str | None
) -> None:
    settled = settle(
        {"input": total_input, "output": output, "cache_read": read, "cache_write": write},
        convention=None if convention is Basis.UNKNOWN else convention,
        provider=provider,
    )
    assert (settled.usage is None) == (settled.problem is Reason.INCONSISTENT_USAGE)
    if settled.usage is not None:
        assert settled.usage.uncached_input >= 0
        uncached = total_input - (read + write if settled.basis is Basis.INCLUSIVE else 0)
        assert settled.usage.uncached_input == uncached


FIELDS = ranked({"input": ("new", "old", "older")})


def test_two_names_of_one_count_are_never_added() -> None:
    def Told(**said):  # noqa: N802
        return PlainAttributes(said)

    assert gather(Told(new=5, old=5), FIELDS) == ({"input": 5}, False)
    assert gather(Told(older=7, old=5), FIELDS) == ({"input": 5}, True)
    assert gather(Told(new="", old=5), FIELDS) == ({"input": 5}, False)
    assert gather(Told(other=5), FIELDS) == ({}, False)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        pytest.param(
            {
                "prompt_tokens": 7550,
                "completion_tokens": 120,
                "total_tokens": 7670,
                "prompt_tokens_details": {
                    "cached_tokens": 0,
                    "cache_write_tokens": 7500,
                    "cache_creation_token_details": {
                        "ephemeral_5m_input_tokens": 1500,
                        "ephemeral_1h_input_tokens": 6000,
                    },
                },
                "completion_tokens_details": {"reasoning_tokens": 20},
            },
            Usage(input=7550, output=120, cache_read=0, cache_write=7500, cache_write_1h=6000, reasoning=20),
            id="OpenAI's shape with Anthropic's lifetimes",
        ),
        pytest.param(
            {"input_tokens": 50, "output_tokens": 9, "input_tokens_details": {"cached_tokens": 40}},
            Usage(input=50, output=9, cache_read=40),
            id="OpenAI Responses",
        ),
        pytest.param(
            {
                "input_tokens": 50,
                "output_tokens": 120,
                "cache_read_input_tokens": 10,
                "cache_creation_input_tokens": 7500,
                "cache_creation": {"ephemeral_1h_input_tokens": 6000},
            },
            Usage(input=7560, output=120, cache_read=10, cache_write=7500, cache_write_1h=6000),
            id="Anthropic",
        ),
        pytest.param(
            {
                "prompt_token_count": 8000,
                "candidates_token_count": 82,
                "thoughts_token_count": 128,
                "cached_content_token_count": 5000,
            },
            Usage(input=8000, output=210, cache_read=5000, reasoning=128),
            id="Gemini",
        ),
    ],
)
def test_a_providers_own_usage_object(usage: dict, expected: Usage) -> None:
    told, convention, outside = answered(usage)
    assert settle(told, convention=convention, reasoning_outside=outside).usage == expected
