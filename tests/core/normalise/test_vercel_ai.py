from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from agents_helper import calls_of, span, step_of

from otel_cost.core.model.usage import Usage
from otel_cost.core.model.vocabulary import Basis, Flag, Kind

if TYPE_CHECKING:
    from otel_cost.core.model.event import SpanEvent

LABELS = {
    "ai.telemetry.functionId": "coder",
    "ai.telemetry.metadata.userId": "u-1",
    "ai.telemetry.metadata.sessionId": "s-1",
    "ai.model.provider": "openai.responses",
    "ai.model.id": "gpt-5-mini",
}
DETAILED = {
    "ai.usage.inputTokens": 1_000,
    "ai.usage.inputTokenDetails.noCacheTokens": 150,
    "ai.usage.inputTokenDetails.cacheReadTokens": 800,
    "ai.usage.inputTokenDetails.cacheWriteTokens": 50,
    "ai.usage.outputTokens": 60,
    "ai.usage.outputTokenDetails.reasoningTokens": 20,
}


def ai(operation: str, told: dict[str, Any] | None = None, **more: Any) -> SpanEvent:
    return span("ai", operation, LABELS | {"ai.operationId": operation} | (told or {}), **more)


def test_an_inner_span_is_the_call_and_the_outer_one_only_sums_up() -> None:
    outer = ai("ai.generateText", DETAILED, for_ms=50)
    answer = {"ai.response.id": "resp_1", "ai.response.model": "gpt-5-mini-2025-08-07"}
    inner = ai("ai.generateText.doGenerate", DETAILED | answer, under=outer)
    (call,) = calls_of(inner, outer)
    assert call.step.usage == Usage(input=1_000, output=60, cache_read=800, cache_write=50, reasoning=20)
    assert (call.step.provider, call.step.response_model) == ("openai", "gpt-5-mini-2025-08-07")
    assert (call.agent, call.step.session, call.who["user"]) == ("coder", "s-1", "u-1")
    assert not call.flags


def test_an_outer_span_alone_is_billed_as_an_aggregate() -> None:
    (call,) = calls_of(ai("ai.streamText", DETAILED))
    assert Flag.AGGREGATE in call.flags


def test_embeddings_count_once() -> None:
    outer = ai("ai.embedMany", {"ai.usage.tokens": 64})
    (call,) = calls_of(ai("ai.embedMany.doEmbed", {"ai.usage.tokens": 64}, under=outer), outer)
    assert (call.kind, call.step.usage) == (Kind.EMBEDDING, Usage(input=64, output=0))


ANTHROPIC = {"ai.model.provider": "anthropic.messages", "ai.model.id": "claude-sonnet-4-5"}


@pytest.mark.parametrize(
    ("told", "usage", "basis"),
    [
        pytest.param(
            ANTHROPIC | DETAILED,
            Usage(input=1_000, output=60, cache_read=800, cache_write=50, reasoning=20),
            Basis.INCLUSIVE,
            id="version 6 adds the parts up",
        ),
        pytest.param(
            ANTHROPIC
            | {
                "ai.usage.inputTokens": 900,
                "ai.usage.outputTokens": 60,
                "ai.usage.totalTokens": 960,
                "ai.usage.cachedInputTokens": 800,
            },
            Usage(input=1_700, output=60, cache_read=800),
            Basis.EXCLUSIVE,
            id="version 5 hands Anthropic's counts through",
        ),
        pytest.param(
            {"ai.usage.inputTokens": 900, "ai.usage.outputTokens": 60, "ai.usage.cachedInputTokens": 800},
            Usage(input=900, output=60, cache_read=800),
            Basis.INCLUSIVE,
            id="version 5 hands OpenAI's counts through",
        ),
        pytest.param(
            {"ai.usage.promptTokens": 9, "ai.usage.completionTokens": 6},
            Usage(input=9, output=6),
            Basis.INCLUSIVE,
            id="version 3",
        ),
    ],
)
def test_each_version_counts_its_own_way(told: dict[str, Any], usage: Usage, basis: Basis) -> None:
    step = step_of(ai("ai.streamText.doStream", told))
    assert (step.usage, step.basis) == (usage, basis)


def test_lifetimes_of_cache_writes_come_from_the_providers_metadata() -> None:
    raw = {"cache_creation": {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 30}}
    told = {"ai.response.providerMetadata": json.dumps({"anthropic": {"usage": raw}})}
    step = step_of(ai("ai.generateText.doGenerate", ANTHROPIC | DETAILED | told))
    assert step.usage is not None
    assert (step.usage.cache_write, step.usage.cache_write_1h) == (50, 30)


def test_older_anthropic_cache_parts_come_from_the_providers_metadata() -> None:
    own = {"anthropic": {"cacheCreationInputTokens": 300, "cacheReadInputTokens": 700}}
    told = {
        "ai.usage.promptTokens": 10,
        "ai.usage.completionTokens": 6,
        "ai.response.providerMetadata": json.dumps(own),
    }
    step = step_of(ai("ai.generateText.doGenerate", ANTHROPIC | told))
    assert step.usage == Usage(input=1_010, output=6, cache_read=700, cache_write=300)


def test_the_tier_served_is_told() -> None:
    told = {"ai.response.providerMetadata": '{"openai":{"serviceTier":"flex"}}'}
    assert step_of(ai("ai.generateText.doGenerate", DETAILED | told)).terms.service_tier == "flex"


def test_every_failed_try_is_a_call() -> None:
    outer = ai("ai.generateText", for_ms=100)
    exception = [("exception", {"exception.type": "AI_APICallError", "exception.message": "slow down"})]
    tries = [
        ai("ai.generateText.doGenerate", under=outer, error="slow down", events=exception, at_ms=1_000 + n)
        for n in (0, 20)
    ]
    done = ai("ai.generateText.doGenerate", DETAILED, under=outer, at_ms=1_040)
    calls = calls_of(*tries, done, outer)
    assert [call.failed for call in calls] == [True, True, False]
    assert {call.step.error_type for call in calls if call.failed} == {"AI_APICallError"}


@pytest.mark.parametrize(("told", "begun"), [({}, False), ({"ai.response.msToFirstChunk": 12}, True)])
def test_a_failed_stream_had_begun_once_a_chunk_came(told: dict[str, Any], begun: bool) -> None:
    assert step_of(ai("ai.streamText.doStream", told, error="reset")).output_begun is begun


def test_a_tool_call() -> None:
    told = {
        "ai.toolCall.name": "grep",
        "ai.toolCall.id": "call_1",
        "ai.toolCall.args": "{}",
        "ai.toolCall.result": '"x"',
    }
    step = step_of(ai("ai.toolCall", told, error="boom"))
    assert (step.kind, step.tool, step.ids, step.failed) == (Kind.TOOL, "grep", ("tool_call:call_1",), True)
    assert (step.arguments, step.result) == ("{}", '"x"')


def test_keys_of_other_vendors_on_the_same_spans_change_nothing() -> None:
    other = {"openinference.span.kind": "LLM", "llm.token_count.prompt": 1_000, "gen_ai.usage.input_tokens": 1_000}
    outer = ai("ai.generateText", DETAILED | other)
    inner = ai("ai.generateText.doGenerate", DETAILED | other, under=outer)
    assert [call.step.dialect for call in calls_of(inner, outer)] == ["vercel_ai"]
