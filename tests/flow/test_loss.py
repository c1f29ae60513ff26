"""Several records of a call: one knows that it broke off or lost something, one has a root of its own above it."""

from __future__ import annotations

import itertools

import pytest
from money_helper import Desk, agent, chat, span, tool

FRAMEWORK = "openinference.instrumentation.langchain"


def framework(number: int, parent: int, tokens: tuple[int, int] | None, **more):
    told = {"openinference__span__kind": "LLM", "llm__provider": "anthropic", "llm__model_name": "claude-mint"}
    if tokens is not None:
        told |= {"llm__token_count__prompt": tokens[0], "llm__token_count__completion": tokens[1]}
    return span(number, parent, name="ChatAnthropic", **({"scope": FRAMEWORK} | told | more))


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_a_stream_that_the_sdk_saw_break_off_is_a_floor_whoever_calls_it_a_success(order) -> None:
    events = [
        agent(1),
        chat(2, 1, (700, 1), scope="framework", gen_ai__response__id="msg_1"),
        chat(3, 1, None, error=True, gen_ai__response__id="msg_1", gen_ai__usage__input_tokens=700),
    ]
    desk = Desk()
    desk.tell(*(events[place] for place in order))
    desk.close()
    (call,) = desk.lines("call")
    assert "incomplete" in call["flags"]
    assert [run["complete"] for run in desk.lines("run")] == [False]


def test_a_log_that_repeats_incomplete_numbers_is_as_incomplete() -> None:
    desk = Desk()
    google = {"scope": "opentelemetry.instrumentation.google_genai", "gen_ai__response__id": "r1"}
    desk.tell(
        tool(2, 1, scope=google["scope"]),
        chat(1, 0, (150, 10), **google),
        chat(3, 0, (150, 10), trace_id=2, scope="log", gen_ai__response__id="r1"),
    )
    desk.close()
    assert [call["flags"] for call in desk.lines("call") if call["kind"] == "inference"] == [["incomplete"]]


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_an_sdks_own_root_around_its_native_span_finds_the_frameworks_call(order) -> None:
    events = [
        span(1, 0, name="coder", session__id="s", openinference__span__kind="CHAIN", scope=FRAMEWORK, lasts=9),
        framework(2, 1, (900, 40), at=1, lasts=3, session__id="s"),
        framework(3, 0, None, at=1.5, trace_id=2, scope="openinference.instrumentation.anthropic", lasts=0.1),
        chat(4, 3, (900, 40), at=1.6, trace_id=2, scope="com.anthropic.sdk.python", lasts=2, gen_ai__response__id="m"),
    ]
    desk = Desk()
    desk.tell(*(events[place] for place in order))
    desk.close()
    (call,) = desk.lines("call")
    assert (call["usage"]["input"], call["flags"]) == (900, ["merged_by_guess"])
    assert len(desk.lines("run")) == 1
