from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from agents_helper import calls_of, span, step_of

from otel_cost.core.model.usage import Usage
from otel_cost.core.model.vocabulary import Basis, Flag, Kind
from otel_cost.core.normalise import normalise_span

if TYPE_CHECKING:
    from otel_cost.core.model.event import SpanEvent

LABELS = {
    "langsmith.metadata.thread_id": "thread-1",
    "langsmith.metadata.lc_agent_name": "coder",
    "langsmith.metadata.user_id": "u-1",
    "langsmith.trace.session_name": "my-project",
}
PLAIN = {"gen_ai.usage.input_tokens": 1_000, "gen_ai.usage.output_tokens": 60, "gen_ai.usage.total_tokens": 1_060}


def smith(kind: str, told: dict[str, Any] | None = None, name: str = "ChatOpenAI", **more: Any) -> SpanEvent:
    return span("langsmith", name, LABELS | {"langsmith.span.kind": kind} | (told or {}), **more)


def llm(told: dict[str, Any] | None = None, **more: Any) -> SpanEvent:
    base = {"gen_ai.system": "openai", "gen_ai.request.model": "gpt-5-mini"}
    return smith("llm", base | PLAIN | (told or {}), **more)


def metadata(**inside: int) -> dict[str, str]:
    told = {"input_tokens": 1_000, "output_tokens": 60, "total_tokens": 1_060}
    details = {"input_token_details": inside, "output_token_details": {"reasoning": 20}}
    return {"langsmith.metadata.usage_metadata": json.dumps(told | details)}


@pytest.mark.parametrize(
    "told",
    [
        pytest.param(metadata(cache_read=800, cache_creation=50), id="json"),
        pytest.param(
            {
                "gen_ai.usage.input_token_details": "{'cache_read': 800, 'cache_creation': 50}",
                "gen_ai.usage.output_token_details": "{'reasoning': 20}",
            },
            id="repr",
        ),
        pytest.param(
            dict.fromkeys(PLAIN)
            | {"langsmith.usage_metadata": metadata(cache_read=800, cache_creation=50).popitem()[1]},
            id="json alone",
        ),
    ],
)
def test_details_are_read_from_wherever_they_are(told: dict[str, Any]) -> None:
    step = step_of(llm(told))
    assert step.usage == Usage(input=1_000, output=60, cache_read=800, cache_write=50, reasoning=20)
    assert (step.basis, step.flags) == (Basis.INCLUSIVE, frozenset())


def test_lifetimes_replace_a_sum_that_was_set_to_zero() -> None:
    inside = metadata(cache_read=0, cache_creation=0, ephemeral_5m_input_tokens=20, ephemeral_1h_input_tokens=30)
    usage = step_of(llm(inside)).usage
    assert usage is not None
    assert (usage.cache_write, usage.cache_write_1h) == (50, 30)


def test_disagreeing_totals_leave_a_flag() -> None:
    told = {"langsmith.metadata.usage_metadata": '{"input_tokens": 999, "output_tokens": 60}'}
    step = step_of(llm(told))
    assert step.usage is not None
    assert (step.usage.input, step.flags) == (1_000, {Flag.CONFLICT})


def completion(**metadata: object) -> dict[str, str]:
    message = {"kwargs": {"content": "hi", "response_metadata": metadata}}
    return {"gen_ai.completion": json.dumps({"generations": [[{"text": "hi", "message": message}]]})}


def test_the_completion_tells_who_answered_and_on_what_terms() -> None:
    step = step_of(llm(completion(id="msg_1", model_name="claude-sonnet-4-5-20250929", service_tier="priority")))
    assert (step.ids, step.response_model) == (("response:msg_1",), "claude-sonnet-4-5-20250929")
    assert (step.terms.service_tier, step.output_text) == ("priority", "hi")


def test_the_providers_own_span_in_a_trace_of_its_own_is_the_same_call() -> None:
    agent = smith("chain", name="coder", for_ms=100)
    told = completion(id="msg_1", model="claude-sonnet-4-5")
    framework = llm(told | {"gen_ai.system": "anthropic", "gen_ai.request.model": "claude-sonnet-4-5"}, under=agent)
    native = span(
        "com.anthropic.sdk.python",
        "anthropic.messages.create",
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": "claude-sonnet-4-5",
            "gen_ai.response.id": "msg_1",
            **PLAIN,
        },
        trace=b"n" * 16,
    )
    (call,) = calls_of(agent, framework, native)
    assert (call.agent, call.step.session, len(call.steps)) == ("coder", "thread-1", 2)


def test_an_error_is_taken_out_of_the_exception_that_wraps_it() -> None:
    glued = "RateLimitError('slow down')Traceback (most recent call last):\n  File x"
    event = [("exception", {"exception.type": "Exception", "exception.message": glued})]
    told = dict.fromkeys(PLAIN) | completion(status_code=429)
    step = step_of(llm(told, error="", events=event))
    assert (step.failed, step.error_type, step.error_message) == (True, "RateLimitError", "slow down")
    assert step.status_code == 429


def test_an_agent_is_the_chain_that_bears_its_name_and_other_chains_are_plumbing() -> None:
    root = smith("chain", name="coder")
    assert (step_of(root).kind, step_of(root).agent) == (Kind.AGENT, "coder")
    assert normalise_span(smith("chain", name="model", under=root)) is None
    assert step_of(smith("chain", name="pipeline")).kind is Kind.WORKFLOW


def test_calls_below_a_named_subagent_are_its_own() -> None:
    root = smith("chain", name="coder")
    tool = smith("tool", {"gen_ai.tool.name": "delegate"}, name="delegate", under=root)
    sub = smith("chain", {"langsmith.metadata.lc_agent_name": "tester"}, name="tester", under=tool)
    inner = llm({"langsmith.metadata.lc_agent_name": "tester"}, under=sub)
    calls = calls_of(root, tool, sub, inner)
    assert {call.step.tool: call.agent for call in calls} == {"delegate": "coder", None: "tester"}


def test_a_tool_whose_error_was_caught_failed() -> None:
    caught = {"output": {"content": "boom", "status": "error", "tool_call_id": "call_1"}}
    told = {"gen_ai.tool.name": "run", "gen_ai.tool.call.id": "call_1", "gen_ai.completion": json.dumps(caught)}
    step = step_of(smith("tool", told | {"gen_ai.prompt": '{"x": 1}'}))
    assert (step.failed, step.error_message, step.arguments) == (True, "boom", '{"x": 1}')


def test_who_pays() -> None:
    step = step_of(llm())
    assert (step.session, step.who) == ("thread-1", {"user": "u-1", "project": "my-project"})


@pytest.mark.parametrize("kind", ["retriever", "prompt", "parser"])
def test_other_runs_are_no_steps(kind: str) -> None:
    assert normalise_span(smith(kind)) is None
