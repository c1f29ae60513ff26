"""One run told in many dialects: any split into requests, order and resending comes to the same calls and sums."""

from __future__ import annotations

import itertools
import json
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from money_helper import SECOND, Desk, agent, chat, claude_log, point, span, tool

from otel_cost.core.enrich.lines import closed_lines
from otel_cost.core.model.event import SpanEvent
from otel_cost.core.model.money import usd_to_nano
from otel_cost.edge.ledger.story import story_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_cost.core.model.event import LogEvent, MetricPoint

    Event = SpanEvent | LogEvent | MetricPoint

SDK = "opentelemetry.instrumentation.anthropic"
FRAMEWORK = "openinference.instrumentation.langchain"
GATEWAY = "litellm"


def framework(number: int, parent: int, tokens: tuple[int, int], cached: int, **more: Any) -> SpanEvent:
    """The same call as OpenInference tells it: inclusive counts under names of its own, no id of the answer."""
    told = {
        "openinference__span__kind": "LLM",
        "llm__provider": "anthropic",
        "llm__model_name": "claude-mint",
        "llm__token_count__prompt": tokens[0],
        "llm__token_count__completion": tokens[1],
        "llm__token_count__prompt_details__cache_read": cached,
    }
    return span(number, parent, scope=FRAMEWORK, name="ChatAnthropic", **(told | more))


def rollup(number: int, parent: int, tokens: tuple[int, int], **more: Any) -> SpanEvent:
    """The outer span of the Vercel AI SDK: the sum of its steps, under keys of its own."""
    told = {
        "ai__operationId": "ai.generateText",
        "ai__model__id": "claude-mint",
        "ai__model__provider": "anthropic.messages",
        "ai__usage__inputTokens": tokens[0],
        "ai__usage__outputTokens": tokens[1],
        "ai__usage__inputTokenDetails__noCacheTokens": tokens[0],
    }
    return span(number, parent, scope="ai", name="ai.generateText", **(told | more))


def step_of_rollup(number: int, parent: int, tokens: tuple[int, int], cached: int, **more: Any) -> SpanEvent:
    told = {
        "ai__operationId": "ai.generateText.doGenerate",
        "ai__usage__inputTokenDetails__cacheReadTokens": cached,
    }
    inner = rollup(number, parent, tokens, **(told | more))
    inner.name = "ai.generateText.doGenerate"
    return inner


def gateway(number: int, tokens: tuple[int, int], cached: int, answer: str, **more: Any) -> SpanEvent:
    """A proxy's span: a trace of its own, and the id of the answer."""
    trace_id = 1000 + number
    told = {"scope": GATEWAY, "trace_id": trace_id, "gen_ai__response__id": answer, "name": "litellm_request"}
    return chat(number, tokens=tokens, cached=cached, **(told | more))


def log(at: float, tokens: tuple[int, int], cached: int, request: str, session: str = "s") -> LogEvent:
    counts = {"input_tokens": tokens[0] - cached, "output_tokens": tokens[1], "cache_read_tokens": cached}
    return claude_log(session, at=at, request_id=request, cost_usd=0.5, service=None, **counts)


@dataclass
class Told:
    """What a made-up run says, and what it costs."""

    events: list[Event]
    nano: int


@st.composite
def runs(draw: st.DrawFn) -> Told:
    events: list[Event] = []
    numbers = itertools.count(2)
    nano = 0
    in_session = False
    session = {"gen_ai__conversation__id": "s"}
    events.append(span(1, name="app", lasts=500, session__id="s"))
    homes = [1]
    for _ in range(draw(st.integers(0, 2))):
        number = next(numbers)
        home = draw(st.sampled_from(homes))
        events.append(agent(number, home, lasts=500, **draw(st.sampled_from([{}, session]))))
        homes.append(number)
    for turn in range(draw(st.integers(1, 5))):
        at = 10.0 * turn
        home = draw(st.sampled_from(homes))
        tokens, cached = (draw(st.integers(1, 9)) * 100, draw(st.integers(1, 4)) * 10), draw(st.sampled_from([0, 50]))
        cost = (tokens[0] - cached) * 10 + cached + tokens[1] * 50
        answer = f"r{turn}"
        ways = draw(st.sets(st.sampled_from(["framework", "gateway", "rollup", "sdk"]), min_size=1))
        in_session = in_session or ways != {"gateway"}
        above = home
        if "rollup" in ways:
            number = next(numbers)
            events.append(rollup(number, above, tokens, at=at - 0.3, lasts=2.6))
            inner = next(numbers)
            events.append(
                step_of_rollup(inner, number, tokens, cached, at=at - 0.2, lasts=2.4, ai__response__id=answer)
            )
            above = inner
        if "framework" in ways:
            number = next(numbers)
            events.append(framework(number, above, tokens, cached, at=at - 0.1, lasts=2.2))
            above = number
        if "sdk" in ways:
            told = {"gen_ai__response__id": answer, "scope": SDK, "at": at, "lasts": 2}
            events.append(chat(next(numbers), above, tokens, cached, **told))
        # A framework alone does not name the answer: a guess needs time and tokens of its own, and these are.
        if "gateway" in ways:
            events.append(gateway(next(numbers), tokens, cached, answer, at=at + 0.1, lasts=1.5))
        nano += cost
        if draw(st.booleans()):
            failed = draw(st.booleans())
            events.append(tool(next(numbers), home, at=at + 3, error=failed))
        if draw(st.integers(0, 4)) == 0:
            events.append(chat(next(numbers), home, None, at=at + 5, scope=SDK, error=True, error__type="429"))
    if in_session and draw(st.booleans()):  # else nothing but the metric tells of the session's calls
        events.append(point(9000, 60, type="input", session__id="s", service=None))
    return Told(events, nano)


def lines(desk: Desk) -> list[str]:
    said = [line for run in desk.runs.values() for line in closed_lines(run)]
    return sorted(json.dumps(line, sort_keys=True, default=str) for line in said)


def told_in(requests: Sequence[Sequence[Event]]) -> Desk:
    desk = Desk()
    for request in requests:
        for sort in (SpanEvent, object):
            some = [event for event in request if (type(event) is SpanEvent) is (sort is SpanEvent)]
            if sort is SpanEvent:
                desk.request(some)
            else:
                desk.tell(*some)
    desk.close()
    return desk


@settings(max_examples=150, deadline=None)
@given(runs(), st.integers(0, 2**32))
def test_any_split_order_and_duplication_gives_the_same_lines(told: Told, seed: int) -> None:
    rng = random.Random(seed)
    whole = told_in([told.events])
    shuffled = [*told.events, *rng.sample(told.events, len(told.events) // 2)]
    rng.shuffle(shuffled)
    cuts = sorted(rng.randrange(len(shuffled) + 1) for _ in range(rng.randrange(6)))
    requests = [shuffled[a:b] for a, b in itertools.pairwise([0, *cuts, len(shuffled)])]
    other = told_in(requests)
    assert lines(other) == lines(whole)
    assert whole.total == other.total == told.nano
    assert other.downstream() == whole.downstream() == told.nano


@settings(max_examples=100, deadline=None)
@given(runs())
def test_what_the_nodes_cost_themselves_adds_up_to_the_run(told: Told) -> None:
    for run in told_in([told.events]).runs.values():
        story = story_of(run, is_open=False)
        branches = list(story["tree"])
        for branch in branches:
            branches.extend(branch["children"])
        assert sum(usd_to_nano(one["self_usd"]) for one in branches if one["self_usd"]) == (run.summary.nano or 0)
        tops = [usd_to_nano(one["subtree_usd"]) for one in story["tree"] if one["subtree_usd"]]
        assert sum(tops) == (run.summary.nano or 0)
        # What a metric or a log tells belongs to no trace, and here a span tells all of it.
        assert sum(trace.nano or 0 for trace in run.traces) == (run.summary.nano or 0)


# --- One call in four dialects ---

TOKENS, CACHED, EXACT = (1200, 40), 1100, 100 * 20 + 1100 * 1 + 40 * 50  # above 1000 tokens input costs twice as much


def one_call() -> list[Event]:
    """SDK, framework, outer SDK span, log and gateway tell of one call; an agent sums it up."""
    usage = {"gen_ai__usage__input_tokens": TOKENS[0], "gen_ai__usage__output_tokens": TOKENS[1]}
    return [
        agent(1, lasts=20, at=-5, gen_ai__conversation__id="s", gen_ai__request__model="claude-mint", **usage),
        rollup(2, 1, TOKENS, at=-0.3, lasts=2.6),
        step_of_rollup(3, 2, TOKENS, CACHED, at=-0.2, lasts=2.4),
        framework(4, 3, TOKENS, CACHED, at=-0.1, lasts=2.2),
        chat(5, 4, TOKENS, CACHED, lasts=2, scope=SDK, gen_ai__response__id="r"),
        gateway(6, TOKENS, CACHED, "r", at=0.1, lasts=1.5),
        log(0.9, TOKENS, CACHED, "q"),
    ]


@settings(max_examples=150, deadline=None)
@given(st.permutations(range(7)), st.lists(st.integers(0, 6), max_size=7), st.booleans())
@example(list(range(7)), [], False)
def test_one_call_in_four_dialects_has_one_exact_cost(order: list[int], again: list[int], settled: bool) -> None:
    events = one_call()
    desk = Desk()
    for index in [*order, *again]:
        desk.tell(events[index])
        if settled:
            desk.wait(5)
    desk.close()
    calls = desk.lines("call")
    assert [call["cost_usd"] for call in calls] == ["0.0000051"]
    assert desk.total == desk.downstream() == EXACT
    assert calls[0]["sources"] == ["span", "log"]
    assert calls[0]["usage"] == {
        "input": 1200,
        "cache_read": 1100,
        "cache_write": None,
        "output": 40,
        "reasoning": None,
    }
    (run,) = desk.lines("run")
    assert (run["cost_usd"], run["llm_calls"], run["complete"], run["session"]) == ("0.0000051", 1, True, "s")


@pytest.mark.parametrize("leave_out", range(1, 7))  # the agent alone says which session the spans are of
def test_one_call_costs_the_same_whoever_is_silent(leave_out: int) -> None:
    desk = Desk()
    desk.tell(*(event for index, event in enumerate(one_call()) if index != leave_out))
    desk.close()
    assert desk.total == EXACT


def test_an_unknown_model_is_unpriced_and_said_so() -> None:
    desk = Desk()
    desk.tell(chat(1, gen_ai__request__model="claude-mint-2"))
    desk.wait(10)
    desk.close()
    (call,) = desk.lines("call")
    assert (call["status"], call["reason"], call["cost_usd"]) == ("unpriced", "unknown_model", None)
    (run,) = desk.lines("run")
    assert (run["cost_usd"], run["complete"], run["unpriced_calls"]) == (None, False, 1)
    assert [(alert.category, alert.severity) for alert in desk.alerts] == [("price", "notice")]


def test_time_is_that_of_the_data() -> None:
    desk = Desk()
    desk.tell(*one_call())
    desk.close()
    assert desk.run.summary.end_ns - desk.run.summary.start_ns == 20 * SECOND
