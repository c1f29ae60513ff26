"""Pydantic AI's own agent, a scripted model, and the real service between them."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from guard_helper import (
    DELAY,
    DENY,
    DENY_TEXT,
    DOWNGRADE,
    ESCALATION,
    STOP,
    STOP_TEXT,
    WARN,
    FailingTests,
    framework,
    repeated,
)

framework("pydantic_ai")

from pydantic import BaseModel
from pydantic_ai import Agent, ModelRetry
from pydantic_ai.exceptions import ToolFailed
from pydantic_ai.messages import ModelRequest, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import DeltaToolCall, FunctionModel
from pydantic_ai.usage import RequestUsage

from otel_cost import guard
from otel_cost.guard.pydantic_ai import CostCapability

if TYPE_CHECKING:
    from collections.abc import Callable

    from running import Process

    Serve = Callable[[str], Process]

MOST = 7
IDS = itertools.count()


class Stubborn:
    """Calls the same tool (or several at once) whatever it is told, up to seven times, then gives up."""

    def __init__(self, calls: Any = ({"tool": "run_tests", "args": {"target": "t"}},)) -> None:
        self.calls, self.asked = calls, []  # type: ignore[var-annotated]

    def model(self, name: str) -> FunctionModel:
        def answer(messages: list[Any], _info: Any) -> ModelResponse:
            parts = [
                ToolCallPart(call["tool"], call["args"], f"call_{next(IDS)}") for call in self._next(name, messages)
            ]
            usage = RequestUsage(input_tokens=100, output_tokens=9)
            return ModelResponse(parts=parts or [TextPart("I give up.")], usage=usage, model_name=name)

        async def stream(messages: list[Any], _info: Any) -> Any:
            calls = self._next(name, messages)
            for index, call in enumerate(calls):
                yield {index: DeltaToolCall(call["tool"], json.dumps(call["args"]), tool_call_id=f"call_{next(IDS)}")}
            if not calls:
                yield "I give up."

        return FunctionModel(answer, stream_function=stream, model_name=name)

    def _next(self, name: str, messages: list[Any]) -> Any:
        self.asked.append((name, messages))
        return self.calls if len(self.asked) <= MOST else ()


class Scripted:
    """An agent with the capability, and what came of it."""

    def __init__(
        self, capability: CostCapability | None = None, output: Any = str, more: Any = (), **model: Any
    ) -> None:
        self.tests, self.stub = FailingTests(), Stubborn(**model)
        capability = capability or CostCapability(models=self.stub.model)
        self.agent = Agent(
            self.stub.model("big-model"), capabilities=[*more, capability], retries=20, output_type=output
        )
        self.messages: list[Any] = []

        @self.agent.tool_plain
        def run_tests(target: str) -> str:
            try:
                return self.tests(target)
            except RuntimeError as error:
                raise ModelRetry(str(error)) from None

        @self.agent.tool_plain
        def look(path: str) -> str:
            return f"{path} is fine"

    def run(self, way: str = "sync", **how: Any) -> Any:
        match way:
            case "sync":
                result = self.agent.run_sync("Make the tests pass.", **how)
            case "async":
                result = asyncio.run(self.agent.run("Make the tests pass.", **how))
            case _:
                result = asyncio.run(self._stream())
        self.messages = result.all_messages()
        return result.output if way != "stream" else self.messages[-1].parts[0].content

    async def _stream(self) -> Any:
        async with self.agent.run_stream("Make the tests pass.") as result:
            async for _ in result.stream_text():
                pass
        return result

    def said(self) -> list[str]:
        parts = (part for message in self.messages if isinstance(message, ModelRequest) for part in message.parts)
        return [str(part.content) for part in parts]


WAYS = ["sync", "async", "stream"]


@pytest.mark.parametrize("way", WAYS)
def test_the_fourth_try_is_refused_with_the_words_of_the_rule(serve: Serve, way: str) -> None:
    serve(DENY)
    agent = Scripted()
    assert agent.run(way) == "I give up."
    assert agent.tests.ran == 3
    assert sum(DENY_TEXT in said for said in agent.said()) == MOST - 3


@pytest.mark.parametrize("way", WAYS)
def test_a_stop_ends_the_run_with_the_words_of_the_rule(serve: Serve, way: str) -> None:
    serve(STOP)
    agent = Scripted()
    assert agent.run(way) == STOP_TEXT
    assert (agent.tests.ran, len(agent.stub.asked)) == (3, 3)
    assert agent.messages[-1].metadata["otel_cost"]["rule"] == "same-error-3x"


def test_a_stop_is_raised_where_the_output_is_no_text(serve: Serve) -> None:
    class Report(BaseModel):
        summary: str

    serve(STOP)
    agent = Scripted(output=Report)
    with pytest.raises(guard.Stopped, match="again and again"):
        agent.run()
    assert agent.tests.ran == 3


def test_a_cheaper_model_takes_over(serve: Serve) -> None:
    serve(DOWNGRADE)
    agent = Scripted()
    agent.run()
    assert [name for name, _ in agent.stub.asked] == ["big-model"] * 3 + ["small-model"] * (MOST - 2)
    assert "changed to small-model" in str(agent.stub.asked[3][1][-1])


def test_a_model_that_cannot_be_made_leaves_the_run_as_it_was(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    serve(DOWNGRADE)
    agent = Scripted(CostCapability())
    agent.run()
    assert {name for name, _ in agent.stub.asked} == {"big-model"}
    assert "cannot change the model" in caplog.text


def test_a_run_that_burns_is_slowed_down(serve: Serve) -> None:
    serve(DELAY)
    began = time.monotonic()
    agent = Scripted()
    agent.run()
    assert time.monotonic() - began >= 0.3 * ((MOST + 1 - 3) + (MOST - 3))
    assert agent.tests.ran == MOST


def test_a_warning_reaches_the_model_once(serve: Serve) -> None:
    serve(WARN)
    agent = Scripted()
    agent.run()
    assert sum("Costs add up. Finish soon." in str(messages) for _, messages in agent.stub.asked) == 1


def test_parallel_calls_are_each_asked_about(serve: Serve) -> None:
    serve(DENY)
    calls = [{"tool": "run_tests", "args": {"target": "t"}}] * 2 + [{"tool": "look", "args": {"path": "a.py"}}]
    agent = Scripted(calls=calls)
    agent.run()
    third = [str(part.content) for part in agent.messages[6].parts]
    assert third == [DENY_TEXT, DENY_TEXT, "a.py is fine"]


def test_the_conversation_names_the_run(serve: Serve) -> None:
    process = serve(STOP)
    Scripted(CostCapability(user="ann", workflow="refactor")).run(conversation_id="talk-1")
    story = process.get("/v1/runs/talk-1")
    assert (story["user"], story["workflow"], story["llm_calls"], story["tool_calls"]) == ("ann", "refactor", 3, 3)


def test_an_agent_within_a_tool_has_streaks_of_its_own(serve: Serve) -> None:
    serve(DENY)
    inner = [Scripted(), Scripted()]
    outer = Scripted(calls=[{"tool": "research", "args": {"number": number}} for number in (0, 1)])
    outer.stub.asked = [None] * (MOST - 1)

    @outer.agent.tool_plain
    async def research(number: int) -> str:
        return (await inner[number].agent.run("Go.")).output

    outer.run()
    assert [one.tests.ran for one in inner] == [3, 3]


def test_a_tool_that_says_it_failed_has_failed(serve: Serve) -> None:
    process = serve(STOP)
    agent = Scripted(calls=[{"tool": "broken", "args": {}}])

    @agent.agent.tool_plain
    def broken() -> str:
        raise ToolFailed("no such thing")

    assert agent.run(conversation_id="c") == STOP_TEXT
    assert process.get("/v1/runs/c")["errors"] == 3


@pytest.mark.parametrize(("rules", "ran"), [(repeated("{stop: }"), MOST), (repeated("{stop: }", fail="closed"), 1)])
def test_nobody_answers(serve: Serve, rules: str, ran: int) -> None:
    process = serve(rules)
    agent = Scripted()
    real = agent.tests

    def and_then_none(target: str) -> str:
        if real.ran == 0:
            process.stop()
        return real(target)

    agent.tests = and_then_none  # type: ignore[assignment]
    output = agent.run()
    assert real.ran == ran
    assert ("does not answer" in output) == (ran == 1)


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_strong_model_answers_only_after_two_named_failures_of_the_cheap_one(serve: Serve, way: str) -> None:
    serve(ESCALATION)
    agent = Scripted()
    agent.run(way)
    assert [name for name, _ in agent.stub.asked] == ["small-model"] * 2 + ["big-model"] * (MOST - 1)
