from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from agents_helper import calls_of, log, span, step_of

from otel_cost.core.model.usage import Usage
from otel_cost.core.model.vocabulary import Source
from otel_cost.core.normalise import normalise_span

if TYPE_CHECKING:
    from otel_cost.core.model.event import LogEvent, SpanEvent

SCOPE = "qwen-code"
ANSWER = {
    "session.id": "s-1",
    "model": "qwen3-coder-plus",
    "response_id": "chatcmpl-1",
    "input_token_count": 500,
    "output_token_count": 40,
    "cached_content_token_count": 100,
    "thoughts_token_count": 10,
    "total_token_count": 540,
    "duration_ms": 10,
}
USAGE = Usage(input=500, output=40, cache_read=100, reasoning=10)


def response(**more: Any) -> LogEvent:
    return log(SCOPE, "qwen-code.api_response", ANSWER | more)


def request(**more: Any) -> SpanEvent:
    told = {
        "session.id": "s-1",
        "gen_ai.request.model": "qwen3-coder-plus",
        "gen_ai.usage.input_tokens": 500,
        "gen_ai.usage.output_tokens": 40,
        "gen_ai.usage.cache_read.input_tokens": 100,
        "thoughts_token_count": 10,
        "gen_ai.response.id": "chatcmpl-1",
        "success": True,
    }
    return span(SCOPE, "qwen-code.llm_request", told | more)


def test_an_event_without_a_trace_is_a_call_of_its_session() -> None:
    (call,) = calls_of(response())
    assert (call.step.usage, call.step.session, call.sources) == (USAGE, "s-1", (Source.LOG,))


def test_span_and_event_are_one_call() -> None:
    (call,) = calls_of(request(), response())
    assert (call.step.usage, call.flags) == (USAGE, frozenset())


def test_without_a_response_id_raw_counts_pair_them() -> None:
    (call,) = calls_of(request(**{"gen_ai.response.id": None}), response(response_id=None))
    assert (call.step.usage, call.flags) == (USAGE, frozenset())


def test_a_record_bridged_to_a_span_is_the_same_call_as_the_tracers_span() -> None:
    bridged = span(SCOPE, "Qwen says hello", ANSWER | {"event.name": "qwen-code.api_response", "log.bridge": True})
    (call,) = calls_of(request(), bridged)
    assert (call.step.usage, call.sources) == (USAGE, (Source.SPAN,))
    assert normalise_span(span(SCOPE, "Config", {"event.name": "qwen-code.config", "log.bridge": True})) is None


def test_every_refused_try_is_a_failed_call_told_once() -> None:
    told = {"session.id": "s-1", "model": "qwen3-coder-plus", "status_code": "429", "error_message": "slow down"}
    counts = {key: None for key in request().attributes if key.startswith("gen_ai.usage.")}
    last = span(SCOPE, "qwen-code.llm_request", {"session.id": "s-1", "success": False} | counts, error="slow down")
    retried = log(SCOPE, "qwen-code.api_retry", told, at_ms=900)
    given_up = log(SCOPE, "qwen-code.api_error", told)
    calls = calls_of(retried, given_up, last)
    assert [(call.failed, call.step.status_code) for call in calls] == [(True, 429)] * 2


def test_a_tool_its_execution_and_its_event_are_one_call() -> None:
    whole = span(SCOPE, "qwen-code.tool", {"session.id": "s-1", "gen_ai.tool.name": "shell", "tool.call_id": "c-1"})
    failed = {"session.id": "s-1", "tool.call_id": "c-1", "error.type": "tool_execution_error"}
    part = span(SCOPE, "qwen-code.tool.execution", failed, under=whole, error="exploded")
    told = {"session.id": "s-1", "function_name": "shell", "call_id": "c-1", "function_args": '{"command": "x"}'}
    (call,) = calls_of(part, whole, log(SCOPE, "qwen-code.tool_call", told | {"success": True}))
    assert (call.failed, call.step.error_message, call.step.arguments) == (True, "exploded", '{"command": "x"}')


def test_the_main_thread_has_no_agent_name_and_a_subagent_has() -> None:
    assert step_of(request(**{"gen_ai.agent.name": "qwen-code"})).agent is None
    assert step_of(response(subagent_name="reviewer")).agent == "reviewer"


@pytest.mark.parametrize("name", ["hook", "tool.blocked_on_user"])
def test_waiting_and_hooks_are_no_steps(name: str) -> None:
    assert normalise_span(span(SCOPE, f"qwen-code.{name}", {"session.id": "s-1", "tool.name": "shell"})) is None
