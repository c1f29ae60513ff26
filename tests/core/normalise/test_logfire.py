"""Logfire: templates as names, JSON beside the counts, streams told at their end."""

from __future__ import annotations

import pytest

from otel_cost.core.model.step import Terms
from otel_cost.core.model.usage import Usage
from otel_cost.core.model.vocabulary import Basis, Kind
from otel_cost.core.normalise import normalise_span

AGENTS = "logfire.openai_agents"
RESPONSES = {
    "logfire.msg_template": "Responses API with {gen_ai.request.model!r}",
    "gen_ai.operation.name": "chat",
    "gen_ai.system": "openai",
    "gen_ai.request.model": "gpt-5-mini",
    "gen_ai.response.model": "gpt-5-mini-2025-08-07",
    "response": '{"id": "resp_1", "model": "gpt-5-mini", "service_tier": "flex"}',
    "gen_ai.usage.input_tokens": 2398,
    "gen_ai.usage.output_tokens": 140,
    "gen_ai.usage.raw": (
        '{"input_tokens": 2398, "output_tokens": 140, "total_tokens": 2538,'
        ' "input_tokens_details": {"cached_tokens": 2048}, "output_tokens_details": {"reasoning_tokens": 64}}'
    ),
    "usage": '{"input_tokens": 2398}',
    "operation.cost": 0.0004,
}


def test_a_responses_call_takes_its_details_from_the_raw_usage(span_of) -> None:
    step = normalise_span(span_of(RESPONSES, scope=AGENTS))
    assert step is not None
    assert (step.kind, step.basis) == (Kind.INFERENCE, Basis.INCLUSIVE)
    assert step.usage == Usage(input=2398, output=140, cache_read=2048, reasoning=64)
    assert (step.ids, step.terms, step.reported_nano) == (("response:resp_1",), Terms(service_tier="flex"), 400_000)


@pytest.mark.parametrize("template", ["Turn {turn} for agent coder", "Task: fix", "OpenAI Agents trace: {name}"])
def test_sums_of_turns_and_tasks_are_not_read(span_of, template: str) -> None:
    turn = {"logfire.msg_template": template, "gen_ai.system": "openai", "usage": '{"input_tokens": 9}', "name": "x"}
    step = normalise_span(span_of(turn | {"group_id": "g1"}, scope=AGENTS))
    assert step is not None
    assert (step.kind, step.usage, step.session) == (Kind.WORKFLOW, None, "g1")


def test_agents_and_functions_bear_their_name_in_name(span_of) -> None:
    agent = normalise_span(span_of({"logfire.msg_template": "Agent run: {name!r}", "name": "coder"}, scope=AGENTS))
    tool = normalise_span(
        span_of(
            {
                "logfire.msg_template": "Function: {name}",
                "name": "grep",
                "input": '{"p": 1}',
                "output": "x",
                "error": '{"message": "no such file"}',
            },
            scope=AGENTS,
            error="",
        )
    )
    assert agent is not None
    assert tool is not None
    assert (agent.kind, agent.agent) == (Kind.AGENT, "coder")
    assert (tool.kind, tool.tool, tool.arguments, tool.result) == (Kind.TOOL, "grep", '{"p": 1}', "x")
    assert (tool.failed, tool.error_message) == (True, "no such file")


@pytest.mark.parametrize("template", ["Guardrail {name!r} {triggered=}", "Handoff: {from_agent} → {to_agent}"])
def test_guardrails_and_handoffs_are_no_steps(span_of, template: str) -> None:
    assert normalise_span(span_of({"logfire.msg_template": template, "gen_ai.system": "openai"}, scope=AGENTS)) is None


STREAM = {
    "gen_ai.system": "openai",
    "gen_ai.request.model": "gpt-5-mini",
    "gen_ai.operation.name": "chat",
    "request_data": '{"model": "gpt-5-mini", "stream": true}',
}


def test_a_stream_is_told_once_at_its_end(span_of) -> None:
    scope = "logfire.openai"
    assert normalise_span(span_of(STREAM | {"logfire.span_type": "span"}, scope=scope)) is None
    counts = {"gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 2, "duration": 0.5}
    told = normalise_span(span_of(STREAM | counts | {"logfire.span_type": "log"}, scope=scope))
    silent = normalise_span(span_of(STREAM | {"logfire.span_type": "log"}, scope=scope))
    failed = normalise_span(span_of(STREAM | {"logfire.span_type": "span"}, scope=scope, error="429"))
    assert told is not None
    assert silent is not None
    assert failed is not None
    assert (told.usage, silent.usage, failed.failed) == (Usage(input=10, output=2), None, True)


def test_anthropics_raw_usage_is_exclusive_whatever_the_sum_beside_it(span_of) -> None:
    raw = (
        '{"input_tokens": 40, "output_tokens": 300, "cache_read_input_tokens": 7500,'
        ' "cache_creation_input_tokens": 800, "cache_creation": {"ephemeral_1h_input_tokens": 800}}'
    )
    for told in (40, 8340):
        chat = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "anthropic",
            "gen_ai.request.model": "claude-sonnet-4-5",
            "gen_ai.usage.input_tokens": told,
            "gen_ai.usage.output_tokens": 300,
            "gen_ai.usage.raw": raw,
        }
        step = normalise_span(span_of(chat, scope="logfire.anthropic"))
        assert step is not None
        assert step.usage == Usage(input=8340, output=300, cache_read=7500, cache_write=800, cache_write_1h=800)


def test_the_model_named_on_a_failed_call_has_not_answered(span_of) -> None:
    failed = {key: value for key, value in RESPONSES.items() if "usage" not in key and key != "response"}
    step = normalise_span(span_of(failed, scope=AGENTS, error="429"))
    assert step is not None
    assert (step.requested_model, step.response_model, step.output_begun) == ("gpt-5-mini", None, False)
