"""OpenInference: kinds, models, what only the answer tells, and its traps."""

from __future__ import annotations

import json

import pytest

from otel_cost.core.model.step import Terms
from otel_cost.core.model.usage import Usage
from otel_cost.core.model.vocabulary import Basis, Flag, Kind
from otel_cost.core.normalise import normalise_span

OPENAI = "openinference.instrumentation.openai"
LANGCHAIN = "openinference.instrumentation.langchain"
AGENTS = "openinference.instrumentation.openai_agents"
CLAUDE = "openinference.instrumentation.claude_agent_sdk"

LLM = {
    "openinference.span.kind": "LLM",
    "llm.system": "openai",
    "llm.model_name": "gpt-5-mini-2025-08-07",
    "llm.invocation_parameters": '{"model": "gpt-5-mini"}',
    "llm.token_count.prompt": 4396,
    "llm.token_count.completion": 700,
    "llm.token_count.total": 5096,
    "llm.token_count.prompt_details.cache_read": 100,
    "llm.token_count.prompt_details.cache_write": 4096,
    "llm.token_count.completion_details.reasoning": 512,
    "llm.finish_reason": "stop",
    "session.id": "s1",
}


def test_a_model_call(span_of) -> None:
    step = normalise_span(span_of(LLM | {"llm.cost.total": 0.01}, scope=OPENAI))
    assert step is not None
    assert (step.kind, step.dialect, step.basis) == (Kind.INFERENCE, "openinference", Basis.INCLUSIVE)
    assert step.usage == Usage(input=4396, output=700, cache_read=100, cache_write=4096, reasoning=512)
    assert (step.requested_model, step.response_model) == ("gpt-5-mini", "gpt-5-mini-2025-08-07")
    assert (step.provider, step.session, step.reported_nano) == ("openai", "s1", 10_000_000)


def test_anthropic_counts_are_inclusive_here(span_of) -> None:
    step = normalise_span(
        span_of(LLM | {"llm.system": "anthropic", "llm.model_name": "claude-sonnet-4-5"}, scope=OPENAI)
    )
    assert step is not None
    assert step.usage is not None
    assert step.usage.input == 4396


@pytest.mark.parametrize(
    ("told", "kind", "operation"),
    [
        ("EMBEDDING", Kind.EMBEDDING, "embeddings"),
        ("TOOL", Kind.TOOL, "execute_tool"),
        ("AGENT", Kind.AGENT, "invoke_agent"),
        ("CHAIN", Kind.WORKFLOW, "invoke_workflow"),
        ("RETRIEVER", Kind.OTHER, "retrieval"),
        ("GUARDRAIL", Kind.OTHER, "guardrail"),
    ],
)
def test_kinds(span_of, told: str, kind: Kind, operation: str) -> None:
    step = normalise_span(span_of({"openinference.span.kind": told, "agent.name": "coder"}, scope=OPENAI, name="x"))
    assert step is not None
    assert (step.kind, step.operation) == (kind, operation)


def test_on_errors_the_model_named_is_the_one_asked_for(span_of) -> None:
    failed = {"openinference.span.kind": "LLM", "llm.system": "openai", "llm.model_name": "gpt-5-nano"}
    step = normalise_span(span_of(failed, scope=LANGCHAIN, error="500"))
    assert step is not None
    assert (step.requested_model, step.response_model, step.output_begun) == ("gpt-5-nano", None, False)


def test_an_empty_first_message_is_no_output(span_of) -> None:
    failed = {"openinference.span.kind": "LLM", "llm.output_messages.0.message.role": "assistant"}
    step = normalise_span(span_of(failed, scope=LANGCHAIN, error="429"))
    assert step is not None
    assert not step.output_begun
    begun = normalise_span(span_of(failed, scope=LANGCHAIN, error="cut", events=[("First Token Stream Event", {})]))
    assert begun is not None
    assert begun.output_begun
    said = failed | {"llm.output_messages.0.message.content": "So"}
    begun = normalise_span(span_of(said, scope=LANGCHAIN, error="cut"))
    assert begun is not None
    assert begun.output_begun


ANTHROPIC_ANSWER = {
    "id": "msg_1",
    "type": "message",
    "model": "claude-sonnet-4-5",
    "usage": {
        "input_tokens": 200,
        "output_tokens": 700,
        "cache_read_input_tokens": 100,
        "cache_creation_input_tokens": 4096,
        "cache_creation": {"ephemeral_5m_input_tokens": 96, "ephemeral_1h_input_tokens": 4000},
        "service_tier": "priority",
        "server_tool_use": {"web_search_requests": 2},
    },
}


def test_the_answer_tells_id_tier_lifetime_and_searches(span_of) -> None:
    step = normalise_span(span_of(LLM | {"output.value": json.dumps(ANTHROPIC_ANSWER)}, scope=OPENAI))
    assert step is not None
    assert step.ids == ("response:msg_1",)
    assert step.terms == Terms(service_tier="priority", units=(("web_search", 2),))
    assert step.usage is not None
    assert (step.usage.cache_write, step.usage.cache_write_1h) == (4096, 4000)


def test_an_answer_of_other_counts_adds_no_details(span_of) -> None:
    answer = ANTHROPIC_ANSWER | {"usage": ANTHROPIC_ANSWER["usage"] | {"input_tokens": 201}}
    step = normalise_span(span_of(LLM | {"output.value": json.dumps(answer)}, scope=OPENAI))
    assert step is not None
    assert step.usage is not None
    assert (step.usage.input, step.usage.cache_write_1h) == (4396, None)


@pytest.mark.parametrize(
    "answer",
    [
        {"generations": [[{"message": {"kwargs": {"response_metadata": {"id": "msg_1"}}}}]], "llm_output": None},
        {"generations": [[{"message": {"data": {"response_metadata": {"id": "msg_1"}, "id": "lc_run--2"}}}]]},
        {"generations": [[{"text": "x"}]], "llm_output": {"id": "msg_1", "model": "claude"}},
    ],
)
def test_langchain_wraps_the_answer(span_of, answer: dict) -> None:
    step = normalise_span(span_of(LLM | {"output.value": json.dumps(answer)}, scope=LANGCHAIN))
    assert step is not None
    assert step.ids == ("response:msg_1",)


def test_a_model_that_answers_in_json_names_no_response(span_of) -> None:
    step = normalise_span(span_of(LLM | {"output.value": '{"id": "42", "title": "bug"}'}, scope=OPENAI))
    assert step is not None
    assert step.ids == ()


def test_automatic_function_calling_loses_usage(span_of) -> None:
    answer = {"response_id": "g1", "candidates": [], "automatic_function_calling_history": [{"role": "model"}]}
    scope = "openinference.instrumentation.google_genai"
    step = normalise_span(span_of(LLM | {"output.value": json.dumps(answer)}, scope=scope))
    assert step is not None
    assert (step.ids, step.flags) == (("response:g1",), {Flag.INCOMPLETE})
    whole = answer | {"automatic_function_calling_history": None}
    step = normalise_span(span_of(LLM | {"output.value": json.dumps(whole)}, scope=scope))
    assert step is not None
    assert step.flags == frozenset()


def test_tool_parameters_are_a_schema_and_no_arguments(span_of) -> None:
    tool = {
        "openinference.span.kind": "TOOL",
        "tool.name": "read_file",
        "tool.parameters": '{"type": "object"}',
        "input.value": '{"path": "a.py"}',
        "output.value": "ok",
    }
    step = normalise_span(span_of(tool, scope=AGENTS))
    assert step is not None
    assert (step.tool, step.arguments, step.result) == ("read_file", '{"path": "a.py"}', "ok")
    del tool["input.value"]
    step = normalise_span(span_of(tool, scope=AGENTS))
    assert step is not None
    assert step.arguments is None
    step = normalise_span(span_of(tool | {"tool.id": "toolu_1"}, scope=CLAUDE))
    assert step is not None
    assert (step.arguments, step.ids) == ('{"type": "object"}', ("tool_call:toolu_1",))


def test_langchains_tool_message_is_unwrapped(span_of) -> None:
    message = {"type": "tool", "data": {"content": "not found", "tool_call_id": "call_1", "status": "error"}}
    tool = {"openinference.span.kind": "TOOL", "tool.name": "grep", "output.value": json.dumps(message)}
    step = normalise_span(span_of(tool, scope=LANGCHAIN))
    assert step is not None
    assert (step.result, step.tool_call_id, step.failed) == ("not found", "call_1", True)


def test_langchains_agents_are_chains_named_after_them(span_of) -> None:
    chain = {"openinference.span.kind": "CHAIN", "metadata": '{"lc_agent_name": "coder", "thread_id": "t"}'}
    agent = normalise_span(span_of(chain, scope=LANGCHAIN, name="coder"))
    node = normalise_span(span_of(chain, scope=LANGCHAIN, name="model"))
    call = normalise_span(span_of(LLM | {"metadata": chain["metadata"]}, scope=LANGCHAIN, name="ChatOpenAI"))
    assert agent is not None
    assert node is not None
    assert call is not None
    assert [(s.kind, s.agent) for s in (agent, node, call)] == [
        (Kind.AGENT, "coder"),
        (Kind.WORKFLOW, "coder"),
        (Kind.INFERENCE, "coder"),
    ]


def test_the_agents_sdk_root_is_a_run_and_no_agent(span_of) -> None:
    root = normalise_span(span_of({"openinference.span.kind": "AGENT"}, scope=AGENTS, name="fix-bug"))
    agent = normalise_span(
        span_of({"openinference.span.kind": "AGENT", "graph.node.id": "coder"}, scope=AGENTS, name="coder")
    )
    assert root is not None
    assert agent is not None
    assert (root.kind, root.agent, agent.kind, agent.agent) == (Kind.WORKFLOW, None, Kind.AGENT, "coder")


def test_the_claude_agent_sdk_sums_up_and_loses_output(span_of) -> None:
    query = LLM | {"openinference.span.kind": "AGENT", "llm.provider": "anthropic", "llm.cost.total": 0.5}
    step = normalise_span(span_of(query, scope=CLAUDE, name="ClaudeAgentSDK.query"))
    assert step is not None
    assert (step.kind, step.rollup, step.flags) == (Kind.AGENT, True, {Flag.INCOMPLETE})
    assert step.usage is not None
    assert (step.usage.input, step.model, step.reported_nano) == (4396, "gpt-5-mini-2025-08-07", 500_000_000)


def test_half_renamed_spans_of_the_collector(span_of) -> None:
    renamed = {
        "gen_ai.operation.name": "chat",
        "gen_ai.system": "openai",
        "gen_ai.request.model": "gpt-5-mini",
        "gen_ai.usage.input_tokens": 4396,
        "gen_ai.usage.output_tokens": 700,
        "llm.token_count.prompt_details.cache_read": 100,
    }
    step = normalise_span(span_of(renamed, scope=OPENAI))
    assert step is not None
    assert (step.kind, step.dialect) == (Kind.INFERENCE, "openinference")
    assert step.usage == Usage(input=4396, output=700, cache_read=100)


def test_both_dialects_on_one_span_that_disagree(span_of) -> None:
    step = normalise_span(
        span_of(LLM | {"gen_ai.usage.input_tokens": 4400, "gen_ai.usage.output_tokens": 700}, scope=OPENAI)
    )
    assert step is not None
    assert step.usage is not None
    assert (step.usage.input, step.flags) == (4400, {Flag.CONFLICT})
