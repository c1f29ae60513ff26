"""The OpenAI Agents SDK's own runner, its scripted model, and the real service between them."""

from __future__ import annotations

import asyncio
import itertools
import time
from types import SimpleNamespace
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

framework("agents")

from agents import (
    Agent,
    HostedMCPTool,
    RunConfig,
    Runner,
    ShellCallOutcome,
    ShellCommandOutput,
    ShellResult,
    ShellTool,
    function_tool,
    handoff,
    set_trace_processors,
)
from agents.mcp import MCPServer
from agents.testing import ModelStep, ScriptedModel, assistant_message, function_call
from agents.usage import Usage
from mcp.types import CallToolResult, TextContent
from mcp.types import Tool as MCPTool
from openai.types.responses import ResponseFunctionShellToolCall
from pydantic import BaseModel

from otel_cost import guard
from otel_cost.guard.openai_agents import guarded

if TYPE_CHECKING:
    from collections.abc import Callable

    from running import Process

    Serve = Callable[[str], Process]

MOST = 7
IDS = itertools.count()
ONCE = ({"tool": "run_tests", "args": {"target": "t"}},)


@pytest.fixture(autouse=True)
def _nothing_goes_to_openai() -> None:
    set_trace_processors([])


def stubborn(calls: Any = ONCE, most: int = MOST) -> ScriptedModel:
    """Calls the same tool (or several at once) whatever it is told, up to seven times, then gives up."""
    usage = Usage(requests=1, input_tokens=100, output_tokens=9, total_tokens=109)
    steps = [
        ModelStep(
            output=[function_call(call["tool"], call["args"], call_id=f"call_{next(IDS)}") for call in calls],
            usage=usage,
            response_id=f"resp_{next(IDS)}",
        )
        for _ in range(most)
    ]
    return ScriptedModel(
        [*steps, ModelStep(output=[assistant_message("I give up.")], usage=usage, response_id="resp_x")]
    )


class Scripted:
    """A guarded agent, and what came of it."""

    def __init__(self, calls: Any = ONCE, agent: dict[str, Any] | None = None, tool: Any = None, **how: Any) -> None:
        self.tests, self.model, self.small = FailingTests(), stubborn(calls), stubborn(calls)

        @function_tool(**(tool or {}))
        def run_tests(target: str) -> str:
            """Run the tests."""
            return self.tests(target)

        @function_tool
        def look(path: str) -> str:
            """Look at a file."""
            return f"{path} is fine"

        plain = Agent(name="worker", model=self.model, tools=[run_tests, look], **(agent or {}))
        self.agent = guarded(plain, models={"small-model": self.small}, **how)
        self.result: Any = None

    def run(self, way: str = "run", **config: Any) -> Any:
        settings = RunConfig(**config)
        match way:
            case "sync":
                self.result = Runner.run_sync(self.agent, "Make the tests pass.", run_config=settings, max_turns=20)
            case "run":
                self.result = asyncio.run(Runner.run(self.agent, "Go.", run_config=settings, max_turns=20))
            case _:
                self.result = asyncio.run(self._stream(settings))
        return self.result.final_output

    async def _stream(self, settings: RunConfig) -> Any:
        result = Runner.run_streamed(self.agent, "Make the tests pass.", run_config=settings, max_turns=20)
        async for _ in result.stream_events():
            pass
        return result

    @property
    def outputs(self) -> list[str]:
        return [str(item.output) for item in self.result.new_items if item.type == "tool_call_output_item"]


WAYS = ["sync", "run", "stream"]


@pytest.mark.parametrize("way", WAYS)
def test_the_fourth_try_is_refused_with_the_words_of_the_rule(serve: Serve, way: str) -> None:
    serve(DENY)
    agent = Scripted()
    assert agent.run(way) == "I give up."
    assert agent.tests.ran == 3
    assert agent.outputs[3:] == [DENY_TEXT] * (MOST - 3)


@pytest.mark.parametrize("way", WAYS)
def test_a_stop_ends_the_run_with_the_words_of_the_rule(serve: Serve, way: str) -> None:
    serve(STOP)
    agent = Scripted()
    assert agent.run(way) == STOP_TEXT
    assert (agent.tests.ran, len(agent.model.calls)) == (3, 3)


@pytest.mark.parametrize("way", ["run", "stream"])
def test_a_stop_is_raised_where_the_output_is_no_text(serve: Serve, way: str) -> None:
    class Report(BaseModel):
        summary: str

    serve(STOP)
    agent = Scripted(agent={"output_type": Report})
    with pytest.raises(guard.Stopped, match="again and again"):
        agent.run(way)
    assert agent.tests.ran == 3


@pytest.mark.parametrize("way", ["run", "stream"])
def test_a_cheaper_model_takes_over(serve: Serve, way: str) -> None:
    serve(DOWNGRADE)
    agent = Scripted()
    agent.run(way)
    assert len(agent.model.calls) == 3
    assert agent.small.calls
    assert "changed to small-model" in str(agent.small.calls[0].input[-1])


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
    assert str(agent.model.calls[-1].input).count("Costs add up. Finish soon.") == 1


def test_parallel_calls_are_each_asked_about(serve: Serve) -> None:
    serve(DENY)
    agent = Scripted([*ONCE, *ONCE, {"tool": "look", "args": {"path": "a.py"}}])
    agent.run()
    assert agent.outputs[6:9] == [DENY_TEXT, DENY_TEXT, "a.py is fine"]


def words(_context: Any, error: Exception) -> str:
    return f"It went wrong: {error}"


@pytest.mark.parametrize("tool", [{}, {"failure_error_function": words}])
def test_what_the_sdk_hides_from_the_model_is_known_here_and_stays_hidden(serve: Serve, tool: Any) -> None:
    """Two errors in turn are no streak, though the SDK's own words for them are the same."""
    serve(DENY)
    agent = Scripted(tool=tool)
    errors = itertools.cycle(["no such module", "permission denied"])

    def fail(_target: str) -> str:
        agent.tests.ran += 1
        raise RuntimeError(next(errors) if agent.tests.ran < 5 else "disk full")

    counted = agent.tests
    agent.tests = fail  # type: ignore[assignment]
    fail.ran = 0  # type: ignore[attr-defined]
    agent.run()
    assert DENY_TEXT not in agent.outputs[:6]
    assert ("went wrong" in agent.outputs[0]) == bool(tool)
    assert ("no such module" in agent.outputs[0]) == bool(tool)
    assert counted.ran == 0


def test_an_exception_of_a_tool_that_is_not_caught_is_told_and_raised(serve: Serve) -> None:
    process = serve(DENY)
    agent = Scripted(tool={"failure_error_function": None})
    with pytest.raises(Exception, match="3 tests failed"):
        agent.run(group_id="talk-1")
    assert process.get("/v1/runs/talk-1")["errors"] == 1


def test_the_trace_names_the_run(serve: Serve) -> None:
    process = serve(STOP)
    Scripted(user="ann").run(group_id="talk-2", workflow_name="refactor")
    story = process.get("/v1/runs/talk-2")
    assert (story["user"], story["workflow"], story["llm_calls"], story["tool_calls"]) == ("ann", "refactor", 3, 3)


def test_without_tracing_a_run_is_counted_all_the_same(serve: Serve) -> None:
    serve(STOP)
    agent = Scripted()
    assert agent.run(tracing_disabled=True) == STOP_TEXT
    assert agent.tests.ran == 3


@pytest.mark.parametrize("wrapped", [False, True])
def test_an_agent_that_takes_over_is_guarded_too(serve: Serve, wrapped: bool) -> None:
    serve(STOP)
    tests = FailingTests()

    @function_tool
    def run_tests(target: str) -> str:
        return tests(target)

    worker = Agent(name="worker", model=stubborn(), tools=[run_tests])
    first = ScriptedModel([ModelStep(output=[function_call("transfer_to_worker", {}, call_id="h1")])])
    boss = Agent(name="boss", model=first, handoffs=[handoff(worker) if wrapped else worker])
    worker.handoffs = [boss]  # hands back: agents may go round
    result = asyncio.run(Runner.run(guarded(boss), "Go.", max_turns=20))
    assert (result.final_output, tests.ran) == (STOP_TEXT, 3)
    assert worker.model.calls  # type: ignore[union-attr]
    assert worker.tools == [run_tests]  # the agent itself is as it was


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


class Board(MCPServer):
    """An MCP server whose only tool fails the same way each time, as it says itself."""

    def __init__(self) -> None:
        super().__init__()
        self.ran = 0

    @property
    def name(self) -> str:
        return "board"

    async def connect(self) -> None: ...

    async def cleanup(self) -> None: ...

    async def list_tools(self, run_context: Any = None, agent: Any = None) -> list[Any]:
        schema = {"type": "object", "properties": {"target": {"type": "string"}}}
        return [MCPTool(name="run_tests", description="Run the tests.", input_schema=schema)]

    async def call_tool(self, tool_name: str, arguments: Any, meta: Any = None) -> Any:
        self.ran += 1
        said = f"3 tests failed in 0.{self.ran}s at /tmp/run-{self.ran}/t.py line {self.ran}"
        return CallToolResult(content=[TextContent(type="text", text=said)], is_error=True)

    async def list_prompts(self) -> Any: ...

    async def get_prompt(self, name: str, arguments: Any = None) -> Any: ...


@pytest.mark.parametrize("cloned", [False, True])
def test_tools_of_an_mcp_server_are_asked_about(serve: Serve, cloned: bool) -> None:
    serve(DENY)
    board = Board()
    agent = guarded(Agent(name="worker", model=stubborn(), mcp_servers=[board]))
    if cloned:
        agent = agent.clone(name="another", instructions="Be quick.")
    result = asyncio.run(Runner.run(agent, "Go.", max_turns=20))
    assert board.ran == 3
    outputs = [str(item.output) for item in result.new_items if item.type == "tool_call_output_item"]
    assert outputs[3:] == [DENY_TEXT] * (MOST - 3)


def test_commands_of_a_local_shell_are_asked_about(serve: Serve) -> None:
    serve(DENY)
    ran: list[Any] = []

    def shell(request: Any) -> ShellResult:
        ran.append(request.data.action.commands)
        outcome = ShellCallOutcome(type="exit", exit_code=2)
        said = ShellCommandOutput(stdout="", stderr=f"make: *** error {len(ran)}", outcome=outcome)
        return ShellResult(output=[said])

    action = {"commands": ["make test"], "timeout_ms": None, "max_output_length": None}
    call = {"type": "shell_call", "action": action, "status": "completed", "environment": None}
    calls = [call | {"id": f"s{number}", "call_id": f"call_{next(IDS)}"} for number in range(MOST)]
    steps = [ModelStep(output=[ResponseFunctionShellToolCall.model_validate(one)]) for one in calls]
    model = ScriptedModel([*steps, ModelStep(output=[assistant_message("I give up.")])])
    agent = guarded(Agent(name="worker", model=model, tools=[ShellTool(executor=shell)]))
    result = asyncio.run(Runner.run(agent, "Go.", max_turns=20))
    assert result.final_output == "I give up."
    assert len(ran) == 3
    assert str(model.calls[-1].input).count(DENY_TEXT) == MOST - 3


def test_a_hosted_tool_that_wants_approval_is_asked_about(serve: Serve) -> None:
    serve(DENY)
    asked: list[str] = []

    def approve(request: Any) -> dict[str, Any]:
        asked.append(request.data.name)
        return {"approve": True}

    wants = {"type": "mcp", "server_label": "x", "server_url": "http://127.0.0.1:1", "require_approval": "always"}
    tool = HostedMCPTool(tool_config=wants, on_approval_request=approve)
    agent = guarded(Agent(name="worker", model=stubborn(), tools=[tool]))
    with guard.run("hosted") as run:
        for number in range(3):
            run.after_tool("deploy", {"to": "prod"}, error=f"no such host {number}")

        async def both() -> list[Any]:
            calls = [
                SimpleNamespace(name=name, arguments=arguments, id=f"mcpr_{name}")
                for name, arguments in [("deploy", '{"to":"prod"}'), ("look", "{}")]
            ]
            requests = [SimpleNamespace(data=call) for call in calls]
            return [await agent.tools[0].on_approval_request(request) for request in requests]

        refused, approved = asyncio.run(both())
    assert refused == {"approve": False, "reason": DENY_TEXT}
    assert (approved, asked) == ({"approve": True}, ["look"])


@pytest.mark.parametrize("way", ["run", "sync"])
def test_a_strong_model_answers_only_after_two_named_failures_of_the_cheap_one(serve: Serve, way: str) -> None:
    serve(ESCALATION)
    agent = Scripted()
    agent.model.model = "big-model"  # as clients of the SDK say what they are
    agent.run(way)
    assert (len(agent.small.calls), len(agent.model.calls)) == (2, MOST + 1)
    assert agent.tests.ran == MOST + 2  # each of the two scripted models repeats itself seven times
