from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from agents_helper import calls_of, span, step_of

from otel_cost.core.model.usage import Usage
from otel_cost.core.model.vocabulary import Basis, Kind
from otel_cost.core.normalise import normalise_span

if TYPE_CHECKING:
    from otel_cost.core.model.event import SpanEvent

OWN = "langfuse.observation."


def fuse(kind: str, told: dict[str, Any] | None = None, name: str = "OpenAI-generation", **more: Any) -> SpanEvent:
    who = {"user.id": "u-1", "session.id": "s-1"}
    return span(
        "langfuse-sdk", name, who | {f"{OWN}type": kind, f"{OWN}model.name": "gpt-5-mini"} | (told or {}), **more
    )


@pytest.mark.parametrize(
    ("told", "usage", "basis"),
    [
        pytest.param(
            {
                "prompt_tokens": 1_000,
                "completion_tokens": 60,
                "total_tokens": 1_060,
                "prompt_tokens_details": {"cached_tokens": 800, "cache_write_tokens": 50},
                "completion_tokens_details": {"reasoning_tokens": 20},
            },
            Usage(input=1_000, output=60, cache_read=800, cache_write=50, reasoning=20),
            Basis.INCLUSIVE,
            id="OpenAI chat",
        ),
        pytest.param(
            {
                "input_tokens": 1_000,
                "output_tokens": 60,
                "input_tokens_details": {"cached_tokens": 800},
                "output_tokens_details": {"reasoning_tokens": 20},
            },
            Usage(input=1_000, output=60, cache_read=800, reasoning=20),
            Basis.INCLUSIVE,
            id="OpenAI responses",
        ),
        pytest.param(
            {
                "input_tokens": 150,
                "output_tokens": 60,
                "cache_read_input_tokens": 800,
                "cache_creation_input_tokens": 50,
                "cache_creation": {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 30},
            },
            Usage(input=1_000, output=60, cache_read=800, cache_write=50, cache_write_1h=30),
            Basis.EXCLUSIVE,
            id="Anthropic",
        ),
        pytest.param(
            {"input": 150, "output": 40, "total": 1_060, "input_cache_read": 800, "input_cache_creation": 50}
            | {"output_reasoning": 20},
            Usage(input=1_000, output=60, cache_read=800, cache_write=50, reasoning=20),
            Basis.EXCLUSIVE,
            id="LangChain handler",
        ),
        pytest.param(
            {"input": 100, "output": 40, "input_audio": 50, "input_ephemeral_1h_input_tokens": 30}
            | {"input_cache_creation": 0, "output_audio": 5},
            Usage(input=180, output=45, cache_write=30, cache_write_1h=30, audio_input=50, audio_output=5),
            Basis.EXCLUSIVE,
            id="buckets of audio and lifetimes",
        ),
        pytest.param(
            {"input": 1_000, "output": 60, "total": 1_060, "input_cached_tokens": 800},
            Usage(input=1_000, output=60, cache_read=800),
            Basis.INCLUSIVE,
            id="an application whose total says that its buckets overlap",
        ),
        pytest.param({"input": 9, "output": 6}, Usage(input=9, output=6), Basis.EXCLUSIVE, id="plain"),
    ],
)
def test_every_shape_of_usage_becomes_canonical(told: dict[str, Any], usage: Usage, basis: Basis) -> None:
    step = step_of(fuse("generation", {f"{OWN}usage_details": json.dumps(told)}))
    assert (step.usage, step.basis) == (usage, basis)


def test_an_error_without_usage_is_a_failed_call_and_its_cost_of_zero_no_report() -> None:
    told = {
        f"{OWN}level": "ERROR",
        f"{OWN}status_message": "Error code: 429 - slow down",
        f"{OWN}cost_details": '{"input": 0, "output": 0, "total": 0}',
    }
    step = step_of(fuse("generation", told))
    assert (step.failed, step.error_message) == (True, "Error code: 429 - slow down")
    assert (step.usage, step.reported_nano, step.output_begun) == (None, None, False)


def test_a_cost_is_reported_but_not_the_providers() -> None:
    step = step_of(fuse("generation", {f"{OWN}cost_details": '{"total": 0.25}'}))
    assert (step.reported_nano, step.reported_by_provider) == (250_000_000, False)


def test_agents_tools_and_sessions() -> None:
    agent = fuse("agent", name="invoke_agent coder")
    tool = fuse("tool", {f"{OWN}input": '{"x": 1}', f"{OWN}level": "ERROR"}, name="execute_tool grep", under=agent)
    (call,) = calls_of(tool, agent)
    assert (call.kind, call.step.tool, call.agent, call.failed) == (Kind.TOOL, "grep", "coder", True)
    assert (call.step.session, call.who["user"], call.step.arguments) == ("s-1", "u-1", '{"x": 1}')


def test_a_langgraph_agent_is_the_chain_that_bears_its_name() -> None:
    named = {f"{OWN}metadata.lc_agent_name": "coder"}
    root = fuse("chain", named, name="coder")
    assert step_of(root).kind is Kind.AGENT
    assert normalise_span(fuse("chain", named, name="model", under=root)) is None


@pytest.mark.parametrize("kind", ["span", "event", "retriever"])
def test_other_observations_are_no_steps(kind: str) -> None:
    assert normalise_span(fuse(kind)) is None


def test_the_tier_is_the_served_one() -> None:
    assert (
        step_of(fuse("generation", {f"{OWN}model.parameters": '{"service_tier": "flex"}'})).terms.service_tier == "flex"
    )
    assert step_of(fuse("embedding", {f"{OWN}model.parameters": '{"service_tier": "auto"}'})).terms.service_tier is None
