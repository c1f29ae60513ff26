"""Every snippet of `docs/integrations.md` runs as it stands, with a scripted model in place of a real one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from guard_helper import DENY, framework
from running import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from running import Process

TEXT = (Path(__file__).parents[2] / "docs" / "integrations.md").read_text()


def snippets(heading: str, language: str = "python") -> str:
    section = TEXT.split(f"## {heading}\n")[1].split("\n## ")[0]
    return "\n".join(re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL))


def play(code: str, **given: Any) -> dict[str, Any]:
    exec(compile(code, "integrations.md", "exec"), given)  # the project's own text
    return given


def test_langchain(serve: Callable[[str], Process]) -> None:
    framework("langchain")
    from langchain_core.tools import tool
    from test_langchain import Stubborn

    @tool
    def run_tests(target: str) -> str:
        """Run the tests."""
        return "all is well"

    process = serve(DENY)
    told = play(snippets("LangChain and LangGraph"), model=Stubborn(asked=[]), tools=[run_tests])
    assert told["result"]["messages"][-1].content == "I give up."
    assert told["node"].tools_by_name["run_tests"]
    story = process.get("/v1/runs/s-langchain")
    assert (story["user"], story["workflow"], story["tool_calls"]) == ("ann", "refactor", 7)


def test_openai_agents(serve: Callable[[str], Process]) -> None:
    framework("agents")
    from agents import Agent, function_tool, set_trace_processors
    from test_openai_agents import stubborn

    set_trace_processors([])

    @function_tool
    def run_tests(target: str) -> str:
        return "all is well"

    process = serve(DENY)
    told = play(snippets("OpenAI Agents SDK"), agent=Agent(name="a", model=stubborn(), tools=[run_tests]))
    assert told["result"].final_output == "I give up."
    until(lambda: [row["user"] for row in process.get("/v1/report?by=user")["rows"]] == ["ann"])


def test_pydantic_ai(serve: Callable[[str], Process]) -> None:
    framework("pydantic_ai")
    from test_pydantic_ai import Stubborn

    def run_tests(target: str) -> str:
        return "all is well"

    serve(DENY)
    told = play(snippets("Pydantic AI"), model=Stubborn().model("gpt-4o"), run_tests=run_tests)
    assert told["output"] == "I give up."


def test_own_loop(serve: Callable[[str], Process]) -> None:
    process = serve(DENY)
    told = play(snippets("Your own loop"))
    assert not told["answer"].refused
    story = process.get("/v1/runs/s-own")
    assert (story["cost_usd"], story["llm_calls"], story["errors"]) == ("0.0038", 1, 1)


def test_litellm() -> None:
    """What it does is tested with the proxy itself."""
    from test_litellm import CONFIG

    assert yaml.safe_load(snippets("LiteLLM's proxy", "yaml"))["guardrails"] == yaml.safe_load(CONFIG)["guardrails"]


@pytest.mark.parametrize("name", ["langchain", "openai-agents", "pydantic-ai"])
def test_extras_that_are_named_exist(name: str) -> None:
    import tomllib

    extras = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert f"otel-cost[{name}]" in TEXT
    assert name in extras
