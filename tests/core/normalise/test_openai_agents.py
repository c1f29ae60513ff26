"""The OpenAI Agents SDK as told by Traceloop's and OpenTelemetry's packages."""

from __future__ import annotations

import pytest

from otel_cost.core.model.usage import Usage
from otel_cost.core.model.vocabulary import Kind
from otel_cost.core.normalise import normalise_span

SCOPE = "opentelemetry.instrumentation.openai_agents"


def test_a_response_without_a_requested_model(span_of) -> None:
    call = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.response.model": "gpt-5-mini-2025-08-07",
        "gen_ai.response.id": "resp_1",
        "gen_ai.agent.name": "OpenAI Agent",
        "gen_ai.usage.input_tokens": 1936,
        "gen_ai.usage.output_tokens": 55,
        "gen_ai.usage.total_tokens": 1991,
        "gen_ai.usage.cache_read.input_tokens": 1536,
    }
    step = normalise_span(span_of(call, scope=SCOPE))
    assert step is not None
    assert (step.usage, step.model, step.ids) == (
        Usage(input=1936, output=55, cache_read=1536),
        "gpt-5-mini-2025-08-07",
        ("response:resp_1",),
    )
    assert (step.dialect, step.agent) == ("openai_agents", None)


@pytest.mark.parametrize("operation", ["unknown", "handoff", "guardrail"])
def test_turns_tasks_and_handoffs_are_no_steps(span_of, operation: str) -> None:
    turn = {"gen_ai.operation.name": operation, "gen_ai.provider.name": "openai", "gen_ai.agent.name": "OpenAI Agent"}
    assert normalise_span(span_of(turn, scope=SCOPE, name=operation)) is None


def test_the_run_around_the_agents_is_no_agent(span_of) -> None:
    root = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "OpenAI Agent"}
    step = normalise_span(span_of(root, scope=SCOPE))
    agent = normalise_span(span_of(root | {"gen_ai.agent.name": "coder"}, scope=SCOPE))
    wrapper = normalise_span(
        span_of({"traceloop.span.kind": "workflow", "traceloop.entity.name": "Agent Workflow"}, scope=SCOPE)
    )
    assert step is not None
    assert agent is not None
    assert wrapper is not None
    assert [step.kind, agent.kind, wrapper.kind] == [Kind.WORKFLOW, Kind.AGENT, Kind.WORKFLOW]
    assert agent.agent == "coder"


def test_a_failed_response_names_no_model_and_is_still_a_call(span_of) -> None:
    step = normalise_span(
        span_of({"gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai"}, scope=SCOPE, error="429")
    )
    assert step is not None
    assert (step.kind, step.failed, step.model) == (Kind.INFERENCE, True, None)
