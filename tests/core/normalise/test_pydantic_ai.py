"""Pydantic AI: sums on agents, old versions, failed tries of a fallback."""

from __future__ import annotations

from otel_cost.core.model.usage import Usage
from otel_cost.core.model.vocabulary import Basis, Kind
from otel_cost.core.normalise import normalise_span

SCOPE = "pydantic-ai"
AGENT = {
    "gen_ai.operation.name": "invoke_agent",
    "model_name": "claude-sonnet-4-5",
    "agent_name": "coder",
    "gen_ai.agent.name": "coder",
    "gen_ai.agent.call.id": "run-1",
    "gen_ai.conversation.id": "c1",
    "gen_ai.aggregated_usage.input_tokens": 24220,
    "gen_ai.aggregated_usage.output_tokens": 480,
    "gen_ai.aggregated_usage.cache_creation.input_tokens": 8300,
    "gen_ai.aggregated_usage.details.ephemeral_1h_input_tokens": 6000,
}


def test_an_agents_sum_is_kept_apart(span_of) -> None:
    step = normalise_span(span_of(AGENT, scope=SCOPE))
    assert step is not None
    assert (step.kind, step.rollup, step.agent, step.agent_id) == (Kind.AGENT, True, "coder", "run-1")
    assert step.usage == Usage(input=24220, output=480, cache_write=8300, cache_write_1h=6000)
    assert step.model == "claude-sonnet-4-5"


def test_an_empty_sum_is_no_usage(span_of) -> None:
    empty = AGENT | {key: 0 for key in AGENT if key.startswith("gen_ai.aggregated_usage.")}
    step = normalise_span(span_of(empty, scope=SCOPE))
    assert step is not None
    assert step.usage is None


def test_old_versions_name_no_operation_and_sum_up_under_plain_keys(span_of) -> None:
    old = {
        "agent_name": "coder",
        "model_name": "gpt-5",
        "final_result": "ok",
        "gen_ai.usage.input_tokens": 500,
        "gen_ai.usage.output_tokens": 5,
    }
    agent = normalise_span(span_of(old, scope=SCOPE, name="agent run"))
    tool = normalise_span(
        span_of(
            {"gen_ai.tool.name": "grep", "tool_arguments": '{"p": 1}', "tool_response": "x"},
            scope=SCOPE,
            name="running tool",
        )
    )
    assert agent is not None
    assert tool is not None
    assert (agent.kind, agent.rollup, agent.usage) == (Kind.AGENT, True, Usage(input=500, output=5))
    assert (tool.kind, tool.tool, tool.arguments, tool.result) == (Kind.TOOL, "grep", '{"p": 1}', "x")


def test_a_chat_with_the_details_repeated(span_of) -> None:
    chat = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "anthropic",
        "gen_ai.system": "anthropic",
        "gen_ai.request.model": "claude-sonnet-4-5",
        "gen_ai.usage.input_tokens": 8340,
        "gen_ai.usage.output_tokens": 300,
        "gen_ai.usage.cache_creation.input_tokens": 800,
        "gen_ai.usage.cache_read.input_tokens": 7500,
        "gen_ai.usage.details.cache_creation_input_tokens": 800,
        "gen_ai.usage.details.cache_write_tokens": 800,
        "gen_ai.usage.details.cache_read_tokens": 7500,
        "gen_ai.usage.details.thinking_tokens": 180,
        "operation.cost": 0.00987,
    }
    step = normalise_span(span_of(chat, scope=SCOPE))
    assert step is not None
    assert (step.basis, step.flags) == (Basis.INCLUSIVE, frozenset())
    assert step.usage == Usage(input=8340, output=300, cache_read=7500, cache_write=800, reasoning=180)
    assert (step.reported_nano, step.reported_by_provider) == (9_870_000, False)


def test_a_failed_try_is_a_call(span_of) -> None:
    attempt = {
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-5-nano",
        "pydantic_ai.model_request.attempt": 0,
    }
    step = normalise_span(span_of(attempt, scope=SCOPE, error="500"))
    assert step is not None
    assert (step.kind, step.failed, step.usage, step.output_begun) == (Kind.INFERENCE, True, None, False)


def test_a_tool_that_asks_for_a_retry_failed(span_of) -> None:
    tool = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "run_tests"}
    raised = ("exception", {"exception.type": "ToolRetryError", "exception.message": "1 failed"})
    step = normalise_span(span_of(tool, scope=SCOPE, error="", events=[raised]))
    assert step is not None
    assert (step.failed, step.error_type, step.error_message) == (True, "ToolRetryError", "1 failed")
