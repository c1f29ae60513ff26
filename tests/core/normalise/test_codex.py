from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from agents_helper import calls_of, log, span, step_of

from otel_cost.core.model.usage import Usage
from otel_cost.core.model.vocabulary import Flag, Kind, Source
from otel_cost.core.normalise import normalise_log, normalise_span

if TYPE_CHECKING:
    from otel_cost.core.model.event import LogEvent, SpanEvent

SCOPE = "codex_exec"
LOGS = "codex_otel.log_only"
HERE = {"conversation.id": "c-1"}
MODEL = {"model": "gpt-5.2-codex"}
COUNTS = {
    "gen_ai.usage.input_tokens": 900,
    "gen_ai.usage.cache_read.input_tokens": 800,
    "gen_ai.usage.cache_write.input_tokens": 0,
    "gen_ai.usage.output_tokens": 50,
    "codex.usage.reasoning_output_tokens": 20,
    "codex.usage.total_tokens": 950,
}
AS_TEXT = {
    "input_token_count": "900",
    "output_token_count": "50",
    "cached_token_count": 800,
    "cache_write_token_count": 0,
    "reasoning_token_count": 20,
    "tool_token_count": "950",
}


def event(name: str, attributes: dict[str, Any], **more: Any) -> LogEvent:
    # The record's own event name is a line of Codex's source.
    return log(LOGS, "event otel/src/some_file.rs:1", HERE | MODEL | {"event.name": name} | attributes, **more)


def completed(**more: Any) -> LogEvent:
    return event("codex.sse_event", {"event.kind": "response.completed"} | AS_TEXT | more)


def tree() -> list[SpanEvent]:
    """Turn, conversation, sampling, answer: what a model call's span has above it."""
    totals = {
        "input_tokens": 900,
        "cached_input_tokens": 800,
        "cache_write_input_tokens": 0,
        "output_tokens": 50,
        "reasoning_output_tokens": 20,
        "total_tokens": 950,
    }
    sums = {f"codex.turn.token_usage.{key}": value for key, value in totals.items()}
    turn = span(SCOPE, "session_task.turn", MODEL | sums, for_ms=100)
    run = span(SCOPE, "run_turn", HERE, under=turn)
    sampling = span(SCOPE, "try_run_sampling_request", MODEL, under=run)
    stream = span(SCOPE, "receiving_stream", {}, under=sampling)
    return [turn, run, sampling, stream]


def test_model_and_conversation_come_from_above_and_the_turn_does_not_bill() -> None:
    above = tree()
    answer = span(SCOPE, "handle_responses", COUNTS, under=above[-1])
    (call,) = calls_of(answer, *above)
    assert call.step.requested_model == "gpt-5.2-codex"
    assert call.step.usage == Usage(input=900, output=50, cache_read=800, cache_write=0, reasoning=20)


def test_the_event_without_a_trace_is_the_same_call() -> None:
    above = tree()
    answer = span(SCOPE, "handle_responses", COUNTS, under=above[-1])
    (call,) = calls_of(completed(), answer, *above)
    assert (call.sources, call.step.session) == ((Source.SPAN, Source.LOG), "c-1")
    assert not call.flags


def test_an_event_alone_is_a_call_with_numbers_read_from_text() -> None:
    (call,) = calls_of(completed())
    assert call.step.usage == Usage(input=900, output=50, cache_read=800, cache_write=0, reasoning=20)


def test_a_turn_with_nothing_told_below_it_is_billed_as_an_aggregate() -> None:
    turn, *_ = tree()
    (call,) = calls_of(turn)
    assert Flag.AGGREGATE in call.flags
    assert call.step.usage is not None
    assert call.step.usage.input == 900


@pytest.mark.parametrize(
    "name", ["handle_responses", "receiving", "append_items", "fs.get_metadata", "get_model_info", "auth"]
)
def test_runtime_spans_are_no_steps(name: str) -> None:
    assert normalise_span(span(SCOPE, name, {"codex.request.reasoning_effort": "default", **MODEL})) is None


FRAMED = "Chunk ID: 9f\nWall time: 0.1 seconds\nProcess exited with code {}\nOriginal token count: 3\nOutput:\n{}"


@pytest.mark.parametrize(
    ("output", "failed", "message"),
    [
        pytest.param(FRAMED.format(1, "boom\n"), True, "boom", id="framed"),
        pytest.param(FRAMED.format(0, "fine"), False, None, id="framed success"),
        pytest.param("Exit code: 127\nWall time: 1 seconds\nOutput:\nno such", True, "no such", id="older frame"),
        pytest.param('{"output": "bad", "metadata": {"exit_code": 2}}', True, "bad", id="json"),
        pytest.param(
            FRAMED.format(0, "log:\nProcess exited with code 1\n"),
            False,
            None,
            id="the command's own words do not count",
        ),
        pytest.param("Process exited with code 1", False, None, id="no frame"),
    ],
)
def test_a_command_failed_if_its_frame_says_so_though_codex_calls_it_a_success(
    output: str, failed: bool, message: str | None
) -> None:
    told = {"tool_name": "exec_command", "call_id": "call_1", "success": "true", "output": output, "arguments": "{}"}
    step = step_of(event("codex.tool_result", told))
    assert (step.failed, step.error_message) == (failed, message)


def test_a_tools_span_and_its_result_are_one_call() -> None:
    told = {"tool_name": "exec_command", "call_id": "call_1"}
    ran = span(SCOPE, "exec_command", HERE | told | {"codex.tool.phase": "dispatch"})
    inner = span(SCOPE, "unified_exec.exec_command", HERE | {"call_id": "call_1"}, under=ran)
    result = event("codex.tool_result", told | {"success": "false", "output": "denied"}, within=ran)
    (call,) = calls_of(inner, ran, result)
    assert (call.kind, call.failed, call.step.error_message) == (Kind.TOOL, True, "denied")


def test_each_refused_request_is_a_failed_call() -> None:
    refused = {"http.response.status_code": 500, "endpoint": "/responses", "attempt": 0}
    calls = calls_of(event("codex.api_request", refused), event("codex.api_request", refused, at_ms=1_500), completed())
    assert [call.failed for call in calls if call.step.usage is None] == [True, True]


@pytest.mark.parametrize(
    "told",
    [
        {"http.response.status_code": 200, "endpoint": "/responses"},
        {"http.response.status_code": 404, "endpoint": "/models"},
    ],
)
def test_requests_that_went_well_or_ask_no_model_are_no_steps(told: dict[str, Any]) -> None:
    assert normalise_log(event("codex.api_request", told)) is None


def test_a_stream_that_broke_off_had_begun() -> None:
    broken = event("codex.sse_event", {"event.kind": "response.output_text.delta", "error.message": "idle timeout"})
    assert step_of(broken).output_begun


def test_the_main_agent_has_no_name() -> None:
    told = {"tool_name": "exec_command", "call_id": "call_1", "success": "true"}
    assert step_of(event("codex.tool_result", told | {"agent_name": "/root"})).agent is None
    assert step_of(event("codex.tool_result", told | {"agent_name": "/root/tester"})).agent == "/root/tester"
