"""LangChain's own agent, a scripted model, and the real service between them."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from guard_helper import (
    ASK,
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
from running import until

framework("langchain")

from langchain.agents import create_agent
from langchain.agents.middleware import ToolErrorMiddleware
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from otel_cost import guard
from otel_cost.guard.langchain import CostMiddleware

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from running import Process

    Serve = Callable[[str], Process]

MOST = 7
IDS = itertools.count()


class Stubborn(BaseChatModel):
    """Calls the same tool (or several at once) whatever it is told, up to seven times, then gives up."""

    model_name: str = "big-model"
    calls: Any = ({"name": "run_tests", "args": {"target": "t"}},)
    asked: Any = None

    @property
    def _llm_type(self) -> str:
        return "stub"

    def bind_tools(self, tools: Any, **_: Any) -> Stubborn:
        return self

    def _message(self, messages: list[Any]) -> AIMessage:
        self.asked.append((self.model_name, messages))
        number = len(self.asked)
        calls = [{**call, "id": f"call_{next(IDS)}"} for call in self.calls] if number <= MOST else []
        return AIMessage(
            "" if calls else "I give up.",
            tool_calls=calls,
            usage_metadata={"input_tokens": 100, "output_tokens": 9, "total_tokens": 109},
            response_metadata={
                "model_name": self.model_name,
                "model_provider": "openai",
                "id": f"chatcmpl-{next(IDS)}",
            },
        )

    def _generate(self, messages: list[Any], stop: Any = None, run_manager: Any = None, **_: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self._message(messages))])

    def _stream(self, messages: list[Any], stop: Any = None, run_manager: Any = None, **_: Any) -> Iterator[Any]:
        said = self._message(messages)
        calls = [
            {"name": call["name"], "args": json.dumps(call["args"]), "id": call["id"], "index": i}
            for i, call in enumerate(said.tool_calls)
        ]
        told = said.model_dump(include={"content", "usage_metadata", "response_metadata"})
        yield ChatGenerationChunk(message=AIMessageChunk(**told, tool_call_chunks=calls))


class Agent:
    """An agent with the middleware, and what came of it."""

    def __init__(self, middleware: CostMiddleware | None = None, **model: Any) -> None:
        self.tests = FailingTests()
        self.model = Stubborn(asked=[], **model)

        @tool
        def run_tests(target: str) -> str:
            """Run the tests."""
            return self.tests(target)

        @tool
        def look(path: str) -> str:
            """Look at a file."""
            return f"{path} is fine"

        errors = ToolErrorMiddleware(on_error=lambda error, _: str(error))
        self.agent = create_agent(self.model, [run_tests, look], middleware=[middleware or CostMiddleware(), errors])
        self.messages: list[Any] = []

    def run(self, way: str = "sync", **config: Any) -> Agent:
        given = {"messages": [HumanMessage("Make the tests pass.")]}
        match way:
            case "sync":
                self.messages = self.agent.invoke(given, config)["messages"]
            case "async":
                self.messages = asyncio.run(self.agent.ainvoke(given, config))["messages"]
            case "stream":
                for state in self.agent.stream(given, config, stream_mode="values"):
                    self.messages = state["messages"]
            case "astream":
                asyncio.run(self._astream(given, config))
        return self

    async def _astream(self, given: Any, config: Any) -> None:
        chunks = []
        async for mode, told in self.agent.astream(given, config, stream_mode=["values", "messages"]):
            if mode == "values":
                self.messages = told["messages"]
            else:
                chunks.append(told)
        assert chunks

    @property
    def refusals(self) -> list[str]:
        return [str(m.content) for m in self.messages if isinstance(m, ToolMessage) and m.content == DENY_TEXT]


WAYS = ["sync", "async", "stream", "astream"]


@pytest.mark.parametrize("way", WAYS)
def test_the_fourth_try_is_refused_with_the_words_of_the_rule(serve: Serve, way: str) -> None:
    serve(DENY)
    agent = Agent().run(way)
    assert agent.tests.ran == 3
    assert len(agent.refusals) == MOST - 3
    assert {m.status for m in agent.messages if isinstance(m, ToolMessage)} == {"error"}
    assert agent.messages[-1].content == "I give up."  # a deny lets the run go on


@pytest.mark.parametrize("way", WAYS)
def test_a_stop_ends_the_run_with_the_words_of_the_rule(serve: Serve, way: str) -> None:
    serve(STOP)
    agent = Agent().run(way)
    assert (agent.tests.ran, len(agent.model.asked)) == (3, 3)
    last = agent.messages[-1]
    assert last.content == STOP_TEXT
    assert last.response_metadata["otel_cost"]["rule"] == "same-error-3x"


def test_a_stop_ends_it_also_where_an_answer_of_a_form_is_waited_for(serve: Serve) -> None:
    process = serve(STOP)
    session = "s"
    with guard.run(session) as run:
        for number in range(3):
            run.after_tool("x", {}, error=f"no such thing {number}")
        model = Stubborn(asked=[], calls=())
        agent = create_agent(model, [], middleware=[CostMiddleware()], response_format={"title": "A", "type": "object"})
        last = agent.invoke({"messages": [HumanMessage("Hi.")]})["messages"][-1]
    assert last.content == STOP_TEXT
    assert model.asked == []
    until(lambda: process.get("/v1/alerts")["alerts"])


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_cheaper_model_takes_over(serve: Serve, way: str) -> None:
    serve(DOWNGRADE)
    agent = Agent().run(way)
    models = [name for name, _ in agent.model.asked]
    assert models == ["big-model"] * 3 + ["small-model"] * (MOST - 2)
    told = [messages[-1].content for _, messages in agent.model.asked if isinstance(messages[-1], HumanMessage)]
    assert [said for said in told if "changed to small-model" in said]


def test_models_are_taken_from_where_the_user_says(serve: Serve) -> None:
    serve(DOWNGRADE)
    small = Stubborn(asked=[], calls=(), model_name="from-the-map")
    Agent(CostMiddleware(models={"small-model": small})).run()
    assert {name for name, _ in small.asked} == {"from-the-map"}


def test_a_model_that_cannot_be_made_leaves_the_run_as_it_was(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    serve(repeated("{downgrade: {to: 'nobody:x'}}"))
    agent = Agent().run()
    assert {name for name, _ in agent.model.asked} == {"big-model"}
    assert "cannot change the model" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_run_that_burns_is_slowed_down(serve: Serve, way: str) -> None:
    serve(DELAY)
    began = time.monotonic()
    agent = Agent().run(way)
    steps = (MOST + 1 - 3) + (MOST - 3)  # model and tool calls after the third failure
    assert 0.3 * steps <= time.monotonic() - began < 0.3 * steps + 10
    assert agent.tests.ran == MOST
    assert any("slowed down" in str(message.content) for _, asked in agent.model.asked for message in asked)


def test_a_warning_reaches_the_model_once(serve: Serve) -> None:
    serve(WARN)
    agent = Agent().run()
    warned = [m for m in agent.messages if isinstance(m, ToolMessage) and "Costs add up." in str(m.content)]
    assert [m.content.count("Costs add up. Finish soon.") for m in warned] == [1]
    assert "3 tests failed" in warned[0].content


def test_nobody_to_ask_means_no_tools(serve: Serve) -> None:
    serve(ASK)
    agent = Agent().run()
    assert agent.tests.ran == 3
    assert agent.messages[-1].content == "I give up."


def test_parallel_calls_are_each_asked_about(serve: Serve) -> None:
    serve(DENY)
    calls = [{"name": "run_tests", "args": {"target": "t"}}] * 2 + [{"name": "look", "args": {"path": "a.py"}}]
    agent = Agent(calls=calls).run()
    turns = [m.content for m in agent.messages if isinstance(m, ToolMessage)]
    assert sum("3 tests failed" in said for said in turns[:6]) in {3, 4}  # the third and fourth may ask together
    assert turns[6:9] == [DENY_TEXT, DENY_TEXT, "a.py is fine"]


def test_the_run_has_the_name_and_the_people_that_the_config_tells(serve: Serve) -> None:
    process = serve(STOP)
    Agent(CostMiddleware(workflow="refactor")).run(metadata={"session_id": "thread-7", "user_id": "ann"})
    story = process.get("/v1/runs/thread-7")
    assert (story["user"], story["workflow"], story["llm_calls"]) == ("ann", "refactor", 3)
    Agent().run(configurable={"thread_id": "thread-8"})
    assert process.get("/v1/runs/thread-8")["tool_calls"] == 3


def test_runs_of_one_agent_do_not_count_together(serve: Serve) -> None:
    serve(STOP)
    agent = Agent()
    for _ in range(2):
        agent.model.asked.clear()
        agent.run()
        assert len(agent.model.asked) == 3


def test_an_agent_within_a_tool_has_streaks_of_its_own(serve: Serve) -> None:
    serve(DENY)
    inner = [Agent(CostMiddleware()), Agent(CostMiddleware())]

    @tool
    def research(number: int) -> str:
        """Ask another agent."""
        return str(inner[number].run().messages[-1].content)

    calls = ({"name": "research", "args": {"number": 0}}, {"name": "research", "args": {"number": 1}})
    model = Stubborn(asked=[object()] * (MOST - 1), calls=calls)
    create_agent(model, [research], middleware=[CostMiddleware()]).invoke({"messages": [HumanMessage("Go.")]})
    assert [one.tests.ran for one in inner] == [3, 3]


def test_an_exception_of_the_model_is_told_and_raised(serve: Serve) -> None:
    process = serve(DENY)

    class Broken(Stubborn):
        def _generate(self, *_: Any, **__: Any) -> Any:
            raise ConnectionError("nobody home")

    agent = create_agent(Broken(asked=[]), [], middleware=[CostMiddleware()])
    with pytest.raises(ConnectionError):
        agent.invoke({"messages": [HumanMessage("Hi.")]}, {"configurable": {"thread_id": "s"}})
    assert process.get("/v1/runs/s")["errors"] == 1


@pytest.mark.parametrize(("rules", "ran"), [(repeated("{stop: }"), MOST), (repeated("{stop: }", fail="closed"), 1)])
def test_nobody_answers(serve: Serve, rules: str, ran: int) -> None:
    """Fail-open goes on; where a rule fails closed, the run ends at its next step."""
    process = serve(rules)
    agent = Agent()
    real = agent.tests

    def and_then_none(target: str) -> str:
        if real.ran == 0:
            process.stop()
        return real(target)

    agent.tests = and_then_none  # type: ignore[assignment]
    agent.run()
    assert real.ran == ran
    assert ("does not answer" in agent.messages[-1].content) == (ran == 1)


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_strong_model_answers_only_after_two_named_failures_of_the_cheap_one(serve: Serve, way: str) -> None:
    serve(ESCALATION)
    agent = Agent().run(way)
    assert [name for name, _ in agent.model.asked] == ["small-model"] * 2 + ["big-model"] * (MOST - 1)


class Bound(Stubborn):
    """Like real clients: what is bound to it comes with each call."""

    def bind_tools(self, tools: Any, **_: Any) -> Any:
        return self.bind(tools=[one.name for one in tools])

    def _generate(self, messages: list[Any], stop: Any = None, run_manager: Any = None, **given: Any) -> ChatResult:
        assert given["tools"] == ["run_tests"]
        return super()._generate(messages, stop, run_manager)


class Graph:
    """A graph of one's own: a model node, a tool node, and nothing of LangChain's agents."""

    def __init__(self) -> None:
        tests, cost, model = FailingTests(), CostMiddleware(), Bound(asked=[])

        @tool
        def run_tests(target: str) -> str:
            """Run the tests."""
            return tests(target)

        asking = cost.guarded(model.bind_tools([run_tests]))
        tools = ToolNode(
            [run_tests],
            handle_tool_errors=True,
            wrap_tool_call=cost.wrap_tool_call,
            awrap_tool_call=cost.awrap_tool_call,
        )

        def think(state: MessagesState) -> dict[str, Any]:
            return {"messages": [asking.invoke(state["messages"])]}

        async def athink(state: MessagesState) -> dict[str, Any]:
            return {"messages": [await asking.ainvoke(state["messages"])]}

        graph = StateGraph(MessagesState)
        graph.add_node("think", RunnableLambda(think, athink))
        graph.add_node("tools", tools)
        graph.add_edge(START, "think")
        graph.add_conditional_edges("think", tools_condition)
        graph.add_edge("tools", "think")
        self.tests, self.model, self.graph = tests, model, graph.compile()

    def run(self, way: str) -> list[Any]:
        given = {"messages": [HumanMessage("Make the tests pass.")]}
        config: Any = {"configurable": {"thread_id": f"graph {next(IDS)}"}}
        if way == "sync":
            return self.graph.invoke(given, config)["messages"]
        return asyncio.run(self.graph.ainvoke(given, config))["messages"]


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_graph_of_ones_own_is_denied_stopped_and_downgraded(serve: Serve, way: str) -> None:
    serve(DENY)
    graph = Graph()
    messages = graph.run(way)
    assert graph.tests.ran == 3
    assert [m.content for m in messages if isinstance(m, ToolMessage)][3:] == [DENY_TEXT] * (MOST - 3)
    serve(STOP)
    graph = Graph()
    assert graph.run(way)[-1].content == STOP_TEXT
    assert (graph.tests.ran, len(graph.model.asked)) == (3, 3)
    serve(DOWNGRADE)
    graph = Graph()
    graph.run(way)
    assert [name for name, _ in graph.model.asked] == ["big-model"] * 3 + ["small-model"] * (MOST - 2)
