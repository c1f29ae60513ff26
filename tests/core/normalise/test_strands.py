"""Strands: not the provider, content in events, two spellings of everything."""

from __future__ import annotations

from otel_cost.core.model.usage import Usage
from otel_cost.core.model.vocabulary import Kind
from otel_cost.core.normalise import normalise_span

SCOPE = "strands.telemetry.tracer"
CHAT = {
    "gen_ai.system": "strands-agents",
    "gen_ai.operation.name": "chat",
    "gen_ai.request.model": "claude-sonnet-4-5",
    "gen_ai.usage.prompt_tokens": 8340,
    "gen_ai.usage.input_tokens": 8340,
    "gen_ai.usage.completion_tokens": 300,
    "gen_ai.usage.output_tokens": 300,
    "gen_ai.usage.total_tokens": 8640,
    "gen_ai.usage.cache_read.input_tokens": 7500,
    "gen_ai.usage.cache_read_input_tokens": 7500,
    "gen_ai.usage.cache_creation.input_tokens": 800,
    "gen_ai.usage.cache_write_input_tokens": 800,
    "session.id": "s1",
}


def test_a_chat_counts_each_thing_once(span_of) -> None:
    step = normalise_span(span_of(CHAT, scope=SCOPE, events=[("gen_ai.choice", {"message": '[{"text": "done"}]'})]))
    assert step is not None
    assert step.usage == Usage(input=8340, output=300, cache_read=7500, cache_write=800)
    assert (step.provider, step.model, step.session, step.output_text) == (None, "claude-sonnet-4-5", "s1", "done")


def test_an_agent_sums_up_under_the_same_keys(span_of) -> None:
    step = normalise_span(
        span_of(CHAT | {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "coder"}, scope=SCOPE)
    )
    assert step is not None
    assert (step.kind, step.rollup, step.agent) == (Kind.AGENT, True, "coder")


def test_a_tools_content_is_in_events(span_of) -> None:
    tool = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "grep",
        "gen_ai.tool.call.id": "t1",
        "gen_ai.tool.status": "error",
    }
    events = [
        ("gen_ai.tool.message", {"role": "tool", "content": '{"pattern": "x"}', "id": "t1"}),
        ("gen_ai.choice", {"message": '[{"text": "no match"}]', "id": "t1"}),
    ]
    step = normalise_span(span_of(tool, scope=SCOPE, events=events))
    assert step is not None
    assert (step.arguments, step.result, step.failed) == ('{"pattern": "x"}', '[{"text": "no match"}]', True)


def test_turns_of_the_event_loop_are_no_steps(span_of) -> None:
    assert normalise_span(span_of({"gen_ai.operation.name": "execute_event_loop_cycle"}, scope=SCOPE)) is None
    swarm = normalise_span(span_of({"gen_ai.operation.name": "invoke_swarm"}, scope=SCOPE))
    assert swarm is not None
    assert swarm.kind is Kind.WORKFLOW


def test_counts_of_nothing_are_its_default_and_not_told(span_of) -> None:
    silent = CHAT | {key: 0 for key in CHAT if key.startswith("gen_ai.usage.")}
    step = normalise_span(span_of(silent, scope=SCOPE))
    assert step is not None
    assert (step.kind, step.usage, step.problem) == (Kind.INFERENCE, None, None)
