from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from agents_helper import calls_of, log, span, step_of

from otel_cost.core.model.usage import Usage
from otel_cost.core.model.vocabulary import Flag, Kind, Source
from otel_cost.core.normalise import normalise_log, normalise_span

if TYPE_CHECKING:
    from otel_cost.core.model.event import LogEvent, SpanEvent

SCOPE = "gemini-cli"
SESSION = {"gen_ai.conversation.id": "s-1", "gen_ai.agent.name": "gemini-cli"}


def llm_call(told_in: int | None = 900, told_out: int | None = 40, trace: int = 1, **more: Any) -> SpanEvent:
    told = SESSION | {"gen_ai.operation.name": "llm_call", "gen_ai.request.model": "gemini-2.5-pro"}
    usage = {"gen_ai.usage.input_tokens": told_in, "gen_ai.usage.output_tokens": told_out}
    return span(SCOPE, "llm_call", told | (usage if told_in is not None else {}), trace=bytes([trace]) * 16, **more)


def api_response(thoughts: int = 60, tool: int = 0, at_ms: int = 1_012, **more: Any) -> LogEvent:
    told = {
        "session.id": "s-1",
        "model": "gemini-2.5-pro",
        "input_token_count": 900,
        "output_token_count": 40,
        "cached_content_token_count": 700,
        "thoughts_token_count": thoughts,
        "tool_token_count": tool,
        "total_token_count": 940 + thoughts + tool,
        "duration_ms": 10,
        "auth_type": "gemini-api-key",
        "status_code": 200,
    }
    return log(SCOPE, "gemini_cli.api_response", told | more, at_ms=at_ms)


def test_the_event_completes_the_span_that_leaves_out_thoughts_and_cache() -> None:
    (call,) = calls_of(llm_call(), api_response())
    assert call.sources == (Source.SPAN, Source.LOG)
    assert call.step.usage == Usage(input=900, output=100, cache_read=700, reasoning=60)
    assert not call.flags


def test_the_span_alone_is_known_to_be_short() -> None:
    (call,) = calls_of(llm_call())
    assert call.flags == {Flag.INCOMPLETE}


def test_a_call_broken_off_by_the_loop_guard_is_a_hole_beside_the_others() -> None:
    whole, hole = calls_of(llm_call(), api_response(), llm_call(None, None, trace=2, at_ms=2_000))
    assert whole.step.usage is not None
    assert (hole.step.usage, hole.failed, hole.flags) == (None, False, {Flag.INCOMPLETE})


def test_equal_calls_pair_with_the_nearest_event_each() -> None:
    first, second = llm_call(), llm_call(trace=2, at_ms=5_000)
    calls = calls_of(first, second, api_response(at_ms=5_011), api_response())
    assert len(calls) == 2
    for call in calls:
        span_step, log_step = sorted(call.steps, key=lambda step: step.source)[::-1]
        assert abs(span_step.end_ns - log_step.end_ns) < 10_000_000


@pytest.mark.parametrize(
    ("told", "usage"),
    [
        pytest.param({}, Usage(input=900, output=100, cache_read=700, reasoning=60), id="thoughts outside"),
        pytest.param(
            {"thoughts_token_count": 30, "total_token_count": 940},
            Usage(input=900, output=40, cache_read=700, reasoning=30),
            id="thoughts inside",
        ),
        pytest.param(
            {"total_token_count": None, "thoughts_token_count": 50},
            Usage(input=900, output=90, cache_read=700, reasoning=50),
            id="no total: the API's own way",
        ),
        pytest.param(
            {"tool_token_count": 5, "total_token_count": 1_005},
            Usage(input=905, output=100, cache_read=700, reasoning=60),
            id="tool prompts outside",
        ),
    ],
)
def test_the_total_tells_what_lies_outside(told: dict[str, Any], usage: Usage) -> None:
    assert step_of(api_response(**told)).usage == usage


def test_each_try_that_failed_is_one_call() -> None:
    error = {"session.id": "s-1", "model": "gemini-2.5-pro", "status_code": 503, "error": "overloaded"}
    tries = [llm_call(None, None, trace=n, at_ms=n * 1_000, error="overloaded") for n in (1, 2)]
    events = [log(SCOPE, "gemini_cli.api_error", error, at_ms=n * 1_000 + 11) for n in (1, 2)]
    calls = calls_of(*tries, *events)
    assert [(call.failed, call.step.status_code) for call in calls] == [(True, 503)] * 2


def tool_call(result: dict[str, Any], arguments: dict[str, str], trace: int = 1) -> SpanEvent:
    told = {
        "gen_ai.operation.name": "tool_call",
        "gen_ai.tool.name": "run_shell_command",
        "gen_ai.tool.call_id": f"call-{trace}",
        "gen_ai.output.messages": json.dumps({"request": {"args": arguments}, **result}),
    }
    batch = span(SCOPE, "schedule_tool_calls", {}, trace=bytes([trace]) * 16)
    return span(SCOPE, "tool_call", SESSION | told, under=batch)


FAILED = {"status": "success", "response": {"resultDisplay": "boom", "data": {"exitCode": 1, "isError": True}}}


def test_a_command_that_exits_1_failed_though_the_cli_calls_it_a_success() -> None:
    step = step_of(tool_call(FAILED, {"command": "false"}))
    assert (step.failed, step.error_type, step.error_message) == (True, "exit_code_1", "boom")
    assert json.loads(step.arguments or "") == {"command": "false"}


def test_a_tool_that_the_cli_calls_an_error_failed() -> None:
    refused = {"status": "error", "response": {"error": {"message": "no such tool"}}}
    step = step_of(tool_call(refused, {}))
    assert (step.failed, step.error_message) == (True, "no such tool")


def test_tool_events_pair_with_the_span_of_equal_arguments() -> None:
    fine = {"status": "success", "response": {"data": {}}}
    spans = [tool_call(FAILED, {"command": "false"}), tool_call(fine, {"command": "true"}, trace=2)]
    told = {"session.id": "s-1", "function_name": "run_shell_command", "success": True}
    events = [
        log(SCOPE, "gemini_cli.tool_call", told | {"function_args": '{\n  "command": "true"\n}'}),
        log(
            SCOPE,
            "gemini_cli.tool_call",
            told | {"function_args": '{\n  "command": "false"\n}', "metadata": '{"exitCode": 1}'},
        ),
    ]
    calls = calls_of(*spans, *events)
    assert sorted((call.failed, len({step.arguments is None for step in call.steps})) for call in calls) == [
        (False, 1),
        (True, 1),
    ]
    assert all({step.failed for step in call.steps} == {call.failed} for call in calls)


def test_traces_of_one_session_are_one_run_with_calls_of_the_main_thread() -> None:
    told = SESSION | {"gen_ai.operation.name": "tool_call", "gen_ai.tool.name": "grep"}
    batch = span(SCOPE, "schedule_tool_calls", {}, trace=b"b" * 16)
    calls = calls_of(llm_call(), span(SCOPE, "tool_call", told, under=batch), batch)
    assert [call.agent_key for call in calls] == ["", ""]


@pytest.mark.parametrize("operation", ["schedule_tool_calls", "user_prompt", "system_prompt"])
def test_batches_and_prompts_are_no_steps(operation: str) -> None:
    assert normalise_span(span(SCOPE, operation, SESSION | {"gen_ai.operation.name": operation})) is None


def test_a_subagent_is_an_agent() -> None:
    told = {"gen_ai.operation.name": "agent_call", "gen_ai.agent.name": "investigator"}
    step = step_of(span(SCOPE, "agent_call", told))
    assert (step.kind, step.agent) == (Kind.AGENT, "investigator")


@pytest.mark.parametrize(
    "name", ["gemini_cli.api_request", "gen_ai.client.inference.operation.details", "loop_detected"]
)
def test_events_that_repeat_or_announce_are_no_steps(name: str) -> None:
    assert normalise_log(log(SCOPE, name, {"session.id": "s-1", "gen_ai.usage.input_tokens": 900})) is None
