"""What clients write when a call fails, breaks off or tells nothing."""

from __future__ import annotations

import json

import pytest

from otel_cost.core.model.vocabulary import Flag, Kind
from otel_cost.core.normalise import normalise_span

COUNTS = {"gen_ai.usage.input_tokens": 700, "gen_ai.usage.output_tokens": 1}
CHAT = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "anthropic", "gen_ai.request.model": "claude-mint"}


def message(reason: str | None) -> str:
    usage = {"input_tokens": 700, "output_tokens": 1}
    return json.dumps({"id": "msg_1", "type": "message", "content": [], "stop_reason": reason, "usage": usage})


@pytest.mark.parametrize(("reason", "lost"), [(None, {Flag.INCOMPLETE}), ("end_turn", set())])
def test_openinference_keeps_the_counts_a_broken_stream_began_with(span_of, reason, lost) -> None:
    told = {
        "openinference.span.kind": "LLM",
        "llm.model_name": "claude-mint",
        "llm.provider": "anthropic",
        "llm.token_count.prompt": 700,
        "llm.token_count.completion": 1,
        "output.value": message(reason),
    }
    step = normalise_span(span_of(told, scope="openinference.instrumentation.anthropic"))
    assert step is not None
    assert (step.usage.input, step.flags) == (700, lost)


@pytest.mark.parametrize(("reason", "lost"), [("", {Flag.INCOMPLETE}), ("stop", set())])
def test_openllmetry_gives_a_broken_stream_an_empty_reason(span_of, reason, lost) -> None:
    said = json.dumps([{"role": "assistant", "parts": [], "finish_reason": reason}])
    told = CHAT | COUNTS | {"gen_ai.output.messages": said}
    step = normalise_span(span_of(told, scope="opentelemetry.instrumentation.anthropic"))
    assert step is not None
    assert step.flags == lost


def test_openllmetry_names_the_model_asked_as_the_one_that_answered(span_of) -> None:
    told = CHAT | {"gen_ai.response.model": "claude-mint", "error.type": "OverloadedError"}
    step = normalise_span(span_of(told, scope="opentelemetry.instrumentation.langchain", error="529"))
    assert step is not None
    assert (step.failed, step.output_begun) == (True, False)


def test_langsmith_leaves_an_error_green_that_carries_an_answer(span_of) -> None:
    told = {"langsmith.span.kind": "llm", "gen_ai.request.model": "claude-mint", "gen_ai.completion": "{}"}
    raised = {
        "exception.type": "Exception",
        "exception.message": "OverloadedError('no')Traceback (most recent call last)",
    }
    step = normalise_span(span_of(told, scope="langsmith", events=[("exception", raised)]))
    assert step is not None
    assert (step.failed, step.output_begun, step.error_type) == (True, False, "OverloadedError")
    counted = normalise_span(span_of(told | COUNTS, scope="langsmith", events=[("exception", raised)]))
    assert counted is not None
    assert not counted.failed  # what was raised and caught before the answer


def test_langfuse_quotes_what_langchain_notes(span_of) -> None:
    told = {
        "langfuse.observation.type": "generation",
        "langfuse.observation.metadata.ls_provider": '"anthropic"',
        "langfuse.observation.metadata.ls_model_name": '"claude-mint"',
        "langfuse.observation.metadata.lc_agent_name": '"coder"',
        "langfuse.observation.metadata.thread_id": '"t-1"',
    }
    step = normalise_span(span_of(told, scope="langfuse-sdk"))
    assert step is not None
    assert (step.provider, step.model, step.agent, step.session) == ("anthropic", "claude-mint", "coder", "t-1")


def test_litellm_puts_its_own_name_where_no_answer_gave_one(span_of) -> None:
    told = CHAT | {"gen_ai.response.id": "c-1", "litellm.call_id": "c-1", "llm.request.type": "completion"}
    step = normalise_span(span_of(told, scope="litellm", error="500"))
    assert step is not None
    assert (step.failed, step.output_begun, step.ids) == (True, False, ())


@pytest.mark.parametrize(
    ("scope", "template"),
    [
        ("logfire.openai_agents", {"logfire.msg_template": "Chat completion with {gen_ai.request.model!r}"}),
        ("opentelemetry.instrumentation.openai_agents", {}),
    ],
)
def test_zero_tokens_of_the_agents_sdk_are_no_count(span_of, scope, template) -> None:
    told = CHAT | {"gen_ai.usage.input_tokens": 0, "gen_ai.usage.output_tokens": 0} | template
    step = normalise_span(span_of(told, scope=scope))
    assert step is not None
    assert (step.kind, step.usage) == (Kind.INFERENCE, None)


def test_openlit_leaves_a_refused_call_nothing_but_its_name(span_of) -> None:
    step = normalise_span(span_of({}, scope="openlit.instrumentation.anthropic", name="chat claude-mint", error="429"))
    assert step is not None
    assert (step.kind, step.model, step.failed, step.output_begun) == (Kind.INFERENCE, "claude-mint", True, False)
    assert normalise_span(span_of({}, scope="openlit.instrumentation.anthropic", name="chat claude-mint")) is None


@pytest.mark.parametrize(
    ("cached", "flags"),
    [({}, {Flag.ESTIMATED, Flag.INCOMPLETE}), ({"gen_ai.usage.cache_read.input_tokens": 0}, set())],
)
def test_openlit_counts_the_words_of_a_stream_without_counts(span_of, cached, flags) -> None:
    told = CHAT | COUNTS | cached | {"gen_ai.request.stream": True}
    step = normalise_span(span_of(told, scope="openlit.instrumentation.openai"))
    assert step is not None
    assert step.flags == flags


def test_an_empty_finish_reason_is_no_end(span_of) -> None:
    step = normalise_span(span_of(CHAT | COUNTS | {"gen_ai.response.finish_reasons": [""]}, scope="any"))
    assert step is not None
    assert step.flags == {Flag.INCOMPLETE}


def test_logfire_tells_a_stream_at_its_end_and_its_request_span_is_plumbing(span_of) -> None:
    told = CHAT | {"logfire.span_type": "span", "request_data": '{"model":"claude-mint"}'}
    assert normalise_span(span_of(told, scope="logfire.openai")) is None
    assert normalise_span(span_of(told, scope="logfire.openai", error="429")) is not None
    ended = told | COUNTS | {"logfire.span_type": "log", "duration": 0.5}
    assert normalise_span(span_of(ended, scope="logfire.openai")) is not None


def test_llama_index_prepares_a_call_and_that_is_none(span_of) -> None:
    told = {"openinference.span.kind": "LLM", "llm.model_name": "claude-mint"}
    scope = "openinference.instrumentation.llama_index"
    assert normalise_span(span_of(told, scope=scope, name="OpenAI._prepare_chat_with_tools")) is None
    assert normalise_span(span_of(told, scope=scope, name="OpenAI.achat")) is not None
