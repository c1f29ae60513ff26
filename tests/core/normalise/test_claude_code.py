from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from agents_helper import calls_of, log, span, step_of

from otel_cost.core.model.usage import Usage
from otel_cost.core.model.vocabulary import Basis, Flag, Kind, Source
from otel_cost.core.normalise import normalise_log, normalise_span

if TYPE_CHECKING:
    from otel_cost.core.model.event import LogEvent, SpanEvent

TRACING = "com.anthropic.claude_code.tracing"
EVENTS = "com.anthropic.claude_code.events"
COMMON = {"session.id": "s-1", "user.id": "u-1"}
COUNTS = {"input_tokens": 20, "output_tokens": 5, "cache_read_tokens": 1_000, "cache_creation_tokens": 300}
MODEL = {"model": "claude-sonnet-4-5"}


def request(turn: SpanEvent | None = None, **more: Any) -> SpanEvent:
    told = COMMON | MODEL | COUNTS | {"span.type": "llm_request", "gen_ai.system": "anthropic", "success": True} | more
    return span(TRACING, "claude_code.llm_request", told, under=turn)


def api_request(**more: Any) -> LogEvent:
    return log(EVENTS, "api_request", COMMON | MODEL | COUNTS | {"duration_ms": 10, "cost_usd": 0.006} | more)


def test_bare_keys_are_exclusive_and_become_inclusive() -> None:
    step = step_of(request())
    assert step.usage == Usage(input=1_320, output=5, cache_read=1_000, cache_write=300)
    assert (step.basis, step.session, step.who["user"]) == (Basis.EXCLUSIVE, "s-1", "u-1")


def test_a_request_told_by_span_and_event_is_one_call_and_the_event_adds_lifetimes_and_cost() -> None:
    turn = span(TRACING, "claude_code.interaction", COMMON | {"span.type": "interaction"})
    split = {"cache_creation_5m_tokens": 0, "cache_creation_1h_tokens": 300}
    (call,) = calls_of(request(turn), api_request(**split), turn)
    assert call.sources == (Source.SPAN, Source.LOG)
    assert call.step.usage == Usage(input=1_320, output=5, cache_read=1_000, cache_write=300, cache_write_1h=300)
    assert (call.step.reported_nano, call.step.reported_by_provider) == (6_000_000, False)
    assert Flag.MERGED_BY_GUESS not in call.flags


def test_equal_requests_stay_as_many_as_there_are() -> None:
    assert len(calls_of(request(), request(), api_request(), api_request())) == 2


def test_a_refused_request_is_one_failed_call_whose_response_id_is_none() -> None:
    refused: dict[str, Any] = {"status_code": 400, "request_id": "req_1", "error": "too weird"}
    counts = dict.fromkeys(COUNTS)
    told = request(**counts, **refused, success=False, **{"gen_ai.response.id": "req_1"})
    event = log(EVENTS, "api_error", COMMON | MODEL | refused)
    (call,) = calls_of(told, event)
    assert call.failed
    assert (call.step.usage, call.step.ids, call.step.status_code) == (None, (), 400)
    assert call.step.error_message == "too weird"


def test_requests_with_the_same_request_id_stay_apart() -> None:
    # Proxies and gateways are seen to repeat one.
    refused: dict[str, Any] = dict.fromkeys(COUNTS) | {"request_id": "req_1", "success": False}
    assert len(calls_of(request(**refused), request(**refused))) == 2


@pytest.mark.parametrize("told", [{"attempt": 4}, {}])
def test_tries_are_counted_by_attribute_or_by_events(told: dict[str, int]) -> None:
    tried = span(
        TRACING,
        "claude_code.llm_request",
        COMMON | MODEL | COUNTS | told,
        events=[("gen_ai.request.attempt", {})] * 4,
    )
    assert step_of(tried).attempts == 4


def test_the_error_of_a_tool_comes_from_its_execution_and_its_result_event_is_the_same_call() -> None:
    tool = {"tool_name": "Bash", "tool_use_id": "toolu_1"}
    whole = span(TRACING, "claude_code.tool", COMMON | {"span.type": "tool"} | tool)
    waiting = span(TRACING, "claude_code.tool.blocked_on_user", COMMON, under=whole)
    failed = {"span.type": "tool.execution", "tool_use_id": "toolu_1", "success": False, "error": "ShellError"}
    part = span(TRACING, "claude_code.tool.execution", COMMON | failed, under=whole, error="ShellError")
    result = {"success": "false", "error": "Exit code 1: no such file", "tool_input": '{"command": "ls x"}'}
    event = log(EVENTS, "tool_result", COMMON | tool | result)
    (call,) = calls_of(part, waiting, whole, event)
    assert (call.kind, call.failed, call.step.tool, call.step.error_type) == (Kind.TOOL, True, "Bash", "ShellError")
    assert (call.step.arguments, call.step.error_message) == ('{"command": "ls x"}', "Exit code 1: no such file")


def test_a_subagents_calls_are_its_own_below_the_tool_that_started_it() -> None:
    turn = span(TRACING, "claude_code.interaction", COMMON | {"span.type": "interaction"})
    started = {"span.type": "tool", "tool_name": "Agent", "tool_use_id": "toolu_1"}
    agent = span(TRACING, "claude_code.tool", COMMON | started, under=turn)
    running = {"span.type": "tool.execution", "tool_use_id": "toolu_1"}
    execution = span(TRACING, "claude_code.tool.execution", COMMON | running, under=agent)
    inner_tool = {"span.type": "tool", "tool_name": "Bash", "tool_use_id": "toolu_2", "agent_id": "a-1"}
    inner = span(TRACING, "claude_code.tool", COMMON | inner_tool, under=execution)
    main, sub = request(turn), request(execution, agent_id="a-1", output_tokens=7)
    event = api_request(output_tokens=7, query_source="agent:builtin:general-purpose")
    calls = calls_of(main, sub, event, inner, execution, agent, turn)
    assert sorted(call.step.tool for call in calls if call.step.tool) == ["Agent", "Bash"]
    by_output = {call.step.usage.output: call for call in calls if call.step.usage}
    assert (by_output[7].agent, by_output[7].agent_key) == ("general-purpose", "id:a-1")
    assert by_output[5].agent is None


def test_a_conversation_of_a_subagent_does_not_split_the_session() -> None:
    assert step_of(request(**{"gen_ai.conversation.id": "a-1"})).session == "s-1"


def test_who_serves_goes_before_the_constant_provider_name() -> None:
    assert step_of(request(**{"anthropic.provider": "bedrock"})).provider == "aws.bedrock"


@pytest.mark.parametrize("name", ["hook", "tool.blocked_on_user"])
def test_waiting_and_hooks_are_no_steps(name: str) -> None:
    assert normalise_span(span(TRACING, f"claude_code.{name}", COMMON | {"span.type": name})) is None


@pytest.mark.parametrize("name", ["user_prompt", "subagent_completed", "assistant_response"])
def test_events_that_sum_up_or_only_report_are_no_steps(name: str) -> None:
    assert normalise_log(log(EVENTS, name, COMMON | {"total_tokens": 99})) is None
