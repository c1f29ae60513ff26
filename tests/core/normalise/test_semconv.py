"""The conventions: what each operation becomes, old names beside new ones, failures."""

from __future__ import annotations

import pytest

from otel_cost.core.model.step import Terms
from otel_cost.core.model.usage import Usage
from otel_cost.core.model.vocabulary import Basis, Flag, Kind, Reason, Source
from otel_cost.core.normalise import normalise_log, normalise_span

CHAT = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "gpt-5-mini",
    "gen_ai.response.model": "gpt-5-mini-2025-08-07",
    "gen_ai.response.id": "r1",
    "gen_ai.response.finish_reasons": ["stop"],
    "gen_ai.conversation.id": "c1",
    "gen_ai.agent.name": "coder",
    "gen_ai.usage.input_tokens": 1000,
    "gen_ai.usage.output_tokens": 50,
}


def test_a_chat_span_says_everything_it_knows(span_of) -> None:
    step = normalise_span(span_of(CHAT, scope="my.app", name="chat gpt-5-mini"))
    assert step is not None
    assert (step.kind, step.source, step.dialect, step.rollup) == (Kind.INFERENCE, Source.SPAN, "semconv", False)
    assert (step.provider, step.requested_model, step.response_model) == (
        "openai",
        "gpt-5-mini",
        "gpt-5-mini-2025-08-07",
    )
    assert (step.usage, step.basis) == (Usage(input=1000, output=50), Basis.INCLUSIVE)
    assert (step.ids, step.session, step.agent) == (("response:r1",), "c1", "coder")
    assert step.finish_reasons == ("stop",)


def test_sentrys_names_of_details_are_known(span_of) -> None:
    details = {
        "gen_ai.usage.input_tokens.cached": 256,
        "gen_ai.usage.input_tokens.cache_write": 300,
        "gen_ai.usage.output_tokens.reasoning": 16,
    }
    step = normalise_span(span_of(CHAT | details))
    assert step is not None
    assert step.usage == Usage(input=1000, output=50, cache_read=256, cache_write=300, reasoning=16)


@pytest.mark.parametrize(
    ("operation", "kind", "rollup"),
    [
        ("generate_content", Kind.INFERENCE, False),
        ("text_completion", Kind.INFERENCE, False),
        ("embeddings", Kind.EMBEDDING, False),
        ("execute_tool", Kind.TOOL, False),
        ("invoke_agent", Kind.AGENT, True),
        ("invoke_workflow", Kind.WORKFLOW, True),
        ("create_agent", Kind.OTHER, False),
        ("retrieval", Kind.OTHER, False),
        ("search_memory", Kind.OTHER, False),
        ("something_new", Kind.INFERENCE, False),
    ],
)
def test_the_operation_decides(span_of, operation: str, kind: Kind, rollup: bool) -> None:
    step = normalise_span(span_of(CHAT | {"gen_ai.operation.name": operation}))
    assert step is not None
    assert (step.kind, step.rollup) == (kind, rollup)


def test_a_fetched_response_was_paid_for_before(span_of) -> None:
    step = normalise_span(span_of(CHAT | {"gen_ai.operation.name": "fetch_response"}))
    assert step is not None
    assert (step.kind, step.usage, step.ids) == (Kind.OTHER, None, ())


def test_an_agent_keeps_the_sum_but_is_no_response(span_of) -> None:
    step = normalise_span(span_of(CHAT | {"gen_ai.operation.name": "invoke_agent"}))
    assert step is not None
    assert (step.usage, step.ids, step.rollup) == (Usage(input=1000, output=50), (), True)


def test_spans_without_an_operation_are_known_by_what_they_carry(span_of) -> None:
    kinds = [
        normalise_span(span_of(attributes))
        for attributes in (
            {"gen_ai.system": "openai", "gen_ai.request.model": "gpt-5"},
            {"gen_ai.tool.name": "grep"},
            {"gen_ai.agent.name": "coder"},
            {"gen_ai.system": "openai"},
            {"http.method": "POST"},
        )
    ]
    assert [step and step.kind for step in kinds] == [Kind.INFERENCE, Kind.TOOL, Kind.AGENT, None, None]


def test_deprecated_names_are_read_and_never_added(span_of) -> None:
    old = {
        "gen_ai.system": "openai",
        "gen_ai.request.model": "gpt-4o-mini",
        "gen_ai.usage.prompt_tokens": 1000,
        "gen_ai.usage.completion_tokens": 200,
    }
    step = normalise_span(span_of(old))
    assert step is not None
    assert (step.provider, step.usage) == ("openai", Usage(input=1000, output=200))
    both = normalise_span(span_of(old | {"gen_ai.usage.input_tokens": 1000, "gen_ai.usage.output_tokens": 200}))
    assert both is not None
    assert (both.usage, both.flags) == (Usage(input=1000, output=200), frozenset())


def test_where_names_disagree_the_new_one_wins_with_a_flag(span_of) -> None:
    step = normalise_span(span_of(CHAT | {"gen_ai.usage.prompt_tokens": 999}))
    assert step is not None
    assert step.usage is not None
    assert (step.usage.input, step.flags) == (1000, {Flag.CONFLICT})


def test_cache_creation_and_cache_write_are_one_thing(span_of) -> None:
    step = normalise_span(
        span_of(
            CHAT
            | {
                "gen_ai.provider.name": "anthropic",
                "gen_ai.usage.cache_creation.input_tokens": 600,
                "gen_ai.usage.cache_write.input_tokens": 600,
                "gen_ai.usage.cache_creation.ephemeral_1h_input_tokens": 400,
            }
        )
    )
    assert step is not None
    assert step.usage == Usage(input=1000, output=50, cache_write=600, cache_write_1h=400)


@pytest.mark.parametrize(
    "key",
    [
        "anthropic.usage.cache_creation.ephemeral_1h_input_tokens",
        "gen_ai.usage.cache_creation.ephemeral_1h_input_tokens",
        "gen_ai.usage.cache_creation.ephemeral_1h_input_tokens.input_tokens",
        "gen_ai.usage.cache_creation.ephemeral_1h.input_tokens",
        "gen_ai.usage.details.ephemeral_1h_input_tokens",
    ],
)
def test_spellings_of_the_hour_long_cache(span_of, key: str) -> None:
    step = normalise_span(span_of(CHAT | {"gen_ai.usage.cache_creation.input_tokens": 600, key: 600}))
    assert step is not None
    assert step.usage is not None
    assert step.usage.cache_write_1h == 600


def test_modalities(span_of) -> None:
    step = normalise_span(
        span_of(
            CHAT
            | {
                "gen_ai.usage.cache_read.input_tokens": 200,
                "gen_ai.usage.audio.input_tokens": 300,
                "gen_ai.usage.audio.cache_read.input_tokens": 100,
                "gen_ai.usage.image.input_tokens": 200,
                "gen_ai.usage.audio.output_tokens": 20,
            }
        )
    )
    assert step is not None
    assert step.usage == Usage(
        input=1000,
        output=50,
        cache_read=200,
        audio_input=300,
        audio_cache_read=100,
        image_input=200,
        audio_output=20,
    )


def test_problems_are_named_and_leave_no_usage(span_of) -> None:
    step = normalise_span(span_of(CHAT | {"gen_ai.usage.cache_read.input_tokens": 2000}))
    assert step is not None
    assert (step.usage, step.problem) == (None, Reason.INCONSISTENT_USAGE)


def test_half_a_usage_is_flagged(span_of) -> None:
    half = {key: value for key, value in CHAT.items() if key != "gen_ai.usage.output_tokens"}
    step = normalise_span(span_of(half))
    assert step is not None
    assert step.flags == {Flag.INCOMPLETE}
    embedded = normalise_span(span_of(half | {"gen_ai.operation.name": "embeddings"}))
    assert embedded is not None
    assert (embedded.flags, embedded.usage) == (frozenset(), Usage(input=1000, output=0))


@pytest.mark.parametrize(
    ("attributes", "terms"),
    [
        ({"openai.request.service_tier": "priority"}, Terms(service_tier="priority")),
        ({"openai.request.service_tier": "auto"}, Terms()),
        (
            {"openai.request.service_tier": "priority", "openai.response.service_tier": "default"},
            Terms(service_tier="default"),
        ),
        ({"gen_ai.openai.response.service_tier": "flex"}, Terms(service_tier="flex")),
        ({"anthropic.response.service_tier": "batch"}, Terms(service_tier="batch")),
        (
            {"anthropic.usage.server_tool_use.web_search_requests": "3", "anthropic.usage.inference_geo": "us"},
            Terms(units=(("web_search", 3),), inference_geo="us"),
        ),
    ],
)
def test_the_tier_served_beats_the_tier_asked_for(span_of, attributes: dict, terms: Terms) -> None:
    step = normalise_span(span_of(CHAT | attributes))
    assert step is not None
    assert step.terms == terms


FAILED = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "gpt-5-mini",
    "error.type": "RateLimitError",
}


@pytest.mark.parametrize(
    ("more", "begun"),
    [
        ({}, False),
        ({"gen_ai.output.messages": "[]"}, False),
        ({"gen_ai.output.messages": '[{"role": "assistant", "parts": []}]'}, True),
        ({"gen_ai.response.id": "r1"}, True),
        ({"gen_ai.response.time_to_first_chunk": 0.2}, True),
        ({"gen_ai.completion.0.content": "so"}, True),
        ({"gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 1}, True),
    ],
)
def test_a_failed_call_tells_whether_its_output_had_begun(span_of, more: dict, begun: bool) -> None:
    step = normalise_span(span_of(FAILED | more, error="429"))
    assert step is not None
    assert (step.failed, step.error_type, step.error_message, step.output_begun) == (
        True,
        "RateLimitError",
        "429",
        begun,
    )


def test_a_tool_call(span_of) -> None:
    step = normalise_span(
        span_of(
            {
                "gen_ai.operation.name": "execute_tool",
                "gen_ai.tool.name": "grep",
                "gen_ai.tool.call.id": "call_1",
                "gen_ai.tool.call.arguments": {"pattern": "def"},
                "gen_ai.tool.call.result": "calc.py:1",
                "gen_ai.agent.name": "OpenAI Agent",
            }
        )
    )
    assert step is not None
    assert (step.tool, step.tool_call_id, step.ids) == ("grep", "call_1", ("tool_call:call_1",))
    assert (step.arguments, step.result, step.agent) == ('{"pattern":"def"}', "calc.py:1", None)


def test_the_words_of_an_answer_come_without_its_ids(span_of) -> None:
    messages = '[{"role": "assistant", "parts": [{"type": "text", "content": "a"}, {"type": "tool_call", "id": "x"}]}]'
    step = normalise_span(span_of(CHAT | {"gen_ai.output.messages": messages}))
    assert step is not None
    assert step.output_text == "a"


def test_a_details_record_joins_its_span_by_response_id(log_of) -> None:
    step = normalise_log(log_of(CHAT, name="gen_ai.client.inference.operation.details", scope="my.app"))
    assert step is not None
    assert (step.source, step.kind, step.ids) == (Source.LOG, Kind.INFERENCE, ("response:r1",))
    assert step.usage == Usage(input=1000, output=50)


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("gen_ai.choice", {"gen_ai.system": "openai"}),
        ("gen_ai.user.message", {"gen_ai.system": "openai"}),
        ("gen_ai.client.operation.exception", FAILED),
        ("gen_ai.client.inference.operation.details", {"gen_ai.operation.name": "chat", "gen_ai.input.messages": "[]"}),
        ("gen_ai.client.inference.operation.details", CHAT | {"gen_ai.operation.name": "invoke_agent"}),
    ],
)
def test_records_of_content_are_no_steps(log_of, name: str, attributes: dict) -> None:
    assert normalise_log(log_of(attributes, name=name, scope="my.app")) is None
