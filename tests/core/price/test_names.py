"""Names as clients send them find their model, and no name finds its neighbour's price."""

from __future__ import annotations

import pytest
from genai_prices.data import providers as listed
from price_helper import called, shipped, usd

GPT5_MINI, HAIKU, GEMINI_PRO = "0.0045", "0.015", "0.0225"  # 10,000 in, 1,000 out


@pytest.mark.parametrize(
    ("provider", "model", "expected"),
    [
        ("openai", "gpt-5-mini", GPT5_MINI),
        ("OpenAI", "GPT-5-mini", GPT5_MINI),
        ("openai.chat", "gpt-5-mini-2025-08-07", GPT5_MINI),
        ("openai.responses", "openai/gpt-5-mini", GPT5_MINI),
        ("azure.ai.openai", "gpt-5-mini", GPT5_MINI),
        ("az.ai.openai", "gpt-5-mini", GPT5_MINI),
        ("azure.ai.inference", "gpt-5-mini", GPT5_MINI),
        ("azure", "azure/gpt-5-mini", GPT5_MINI),
        ("litellm", "gpt-5-mini", GPT5_MINI),
        ("strands-agents", "openai/gpt-5-mini", GPT5_MINI),
        (None, "gpt-5-mini-20250807", GPT5_MINI),
        ("openrouter", "openai/gpt-5-mini", GPT5_MINI),
        ("anthropic.messages", "claude-haiku-4-5-20251001", HAIKU),
        (None, "anthropic/claude-haiku-4.5", HAIKU),
        ("gcp.vertex_ai", "publishers/anthropic/models/claude-haiku-4-5@20251001", HAIKU),
        ("vertex_ai", "claude-haiku-4-5@default", HAIKU),
        ("aws.bedrock", "global.anthropic.claude-haiku-4-5-20251001-v1:0", HAIKU),
        ("aws.bedrock", "us.anthropic.claude-haiku-4-5-20251001-v1:0", "0.0165"),
        ("amazon-bedrock", "jp.anthropic.claude-haiku-4-5-20251001-v1:0", "0.0165"),
        (None, "eu.anthropic.claude-haiku-4-5-20251001-v1:0", "0.0165"),
        (
            "aws.bedrock",
            "arn:aws:bedrock:us-east-1:123456789012:inference-profile/global.anthropic.claude-haiku-4-5-20251001-v1:0",
            HAIKU,
        ),
        ("aws.bedrock", "apac.anthropic.claude-3-5-sonnet-20241022-v2:0", "0.045"),
        ("gcp.gemini", "models/gemini-2.5-pro", GEMINI_PRO),
        ("gcp.gen_ai", "gemini-2.5-pro-preview-06-05", GEMINI_PRO),
        ("google.generative-ai", "gemini-2.5-pro", GEMINI_PRO),
        ("gcp.vertex_ai", "projects/p/locations/us-east5/publishers/google/models/gemini-2.5-pro", GEMINI_PRO),
        ("x_ai", "grok-4.3", "0.015"),
        ("xai", "xai/grok-4.3-latest", "0.015"),
        ("mistral_ai", "mistral-large-2512", "0.0065"),
        ("moonshot_ai", "kimi-k2-0905-preview", "0.0085"),
        ("ibm.watsonx.ai", "ibm/granite-3-8b-instruct", "0.0022"),
        ("groq", "openai/gpt-oss-120b", "0.0021"),
        ("azure.ai.openai", "gpt-4o-mini-2024-07-18.ft-0a1b", "0.0042"),
        ("openai", "ft:gpt-4.1-mini-2025-04-14:acme::AbC", "0.0112"),
    ],
)
def test_spelling(provider: str | None, model: str, expected: str) -> None:
    assert usd(shipped(), called(provider, model)) == expected


@pytest.mark.parametrize(
    ("provider", "model", "reason"),
    [
        ("openai", "gpt-5.7", "unknown_model"),
        ("openai", "gpt-5-mini-turbo", "unknown_model"),
        ("openai", "gpt-4.1-99", "unknown_model"),
        ("openai", "ft:gpt-5:acme::x", "unknown_model"),
        ("anthropic", "claude-opus-4-99", "unknown_model"),
        ("anthropic", "claude-sonnet-4-5-20251399", "unknown_model"),
        ("anthropic", "claude-2.2", "unknown_model"),
        ("gcp.gemini", "gemini-2.5-pro-ultra", "unknown_model"),
        ("gcp.gemini", "tunedModels/mine", "unknown_model"),
        ("mistral_ai", "mistral-large-2599", "unknown_model"),
        ("aws.bedrock", "us.anthropic.claude-haiku-4-9-20251001-v1:0", "unknown_model"),
        ("aws.bedrock", "arn:aws:bedrock:eu-west-1:1:application-inference-profile/x1y2", "unknown_model"),
        ("aws.bedrock", "arn:aws:bedrock:eu-west-1:1:provisioned-model/x1y2", "unknown_model"),
        ("azure.ai.openai", "my-prod-deployment", "unknown_model"),
        ("azure.ai.inference", "deepseek-chat", "unknown_model"),  # what Azure does not list it does not sell
        ("ollama", "llama3.1:8b", "unknown_provider"),
        ("vllm", "gpt-5-mini", "unknown_provider"),
        (None, "llama3.1:8b", "unknown_provider"),
        ("litellm", "gpt-oss-120b", "unknown_provider"),
        ("openai", None, "missing_model"),
        ("openai", " ", "missing_model"),
    ],
)
def test_unknown_stays_unknown(provider: str | None, model: str | None, reason: str) -> None:
    assert usd(shipped(), called(provider, model)) == reason


def test_the_model_that_was_served_is_priced() -> None:
    asked = called("azure.ai.openai", "gpt-5-mini-2025-08-07", requested_model="my-prod-deployment")
    assert usd(shipped(), asked) == GPT5_MINI
    assert usd(shipped(), called("openai", "gpt-5.7", requested_model="gpt-5")) == "unknown_model"


def test_a_bedrock_profile_counts_though_the_response_names_the_bare_model() -> None:
    bare = "claude-haiku-4-5-20251001"
    for profile, expected in (("global", HAIKU), ("us", "0.0165")):
        asked = called("aws.bedrock", bare, requested_model=f"{profile}.anthropic.{bare}-v1:0")
        assert usd(shipped(), asked) == expected


def test_who_bills_is_marked_where_the_provider_told_does_not_sell_the_model() -> None:
    charge = shipped().charge(called("openai", "anthropic/claude-haiku-4-5"))
    assert (charge.nano, set(charge.flags)) == (15_000_000, {"estimated"})


def test_every_listed_model_is_found_under_its_own_id() -> None:
    gone = {"gpt-oss-120b", "gpt-oss-20b", "gpt-oss-safeguard-20b", "gpt-4o:extended", "mistral-nemo:free"}
    names = shipped()._names
    lost = [
        (provider.id, model.id)
        for provider in listed
        for model in provider.models
        if model.id not in gone and getattr(names.find(provider.id, None, model.id), "owner", None) != provider.id
    ]
    assert not lost


def test_hostile_names_do_not_grow_memory() -> None:
    book = shipped()
    for number in range(20_000):
        book.charge(called("openai", f"gpt-{number}-hostile", terms={"inference_geo": f"geo{number}"}))
    assert len(book._young) + len(book._old) <= 2 * 8192
    assert len(book._plans) <= 8192
