"""LiteLLM: two spans of a call, and an application's span it writes on."""

from __future__ import annotations

from otel_cost.core.model.step import Terms
from otel_cost.core.model.usage import Usage
from otel_cost.core.model.vocabulary import Basis, Flag, Kind
from otel_cost.core.normalise import normalise_span

SCOPE = "litellm"
MAIN = {
    "gen_ai.operation.name": "chat",
    "gen_ai.system": "anthropic",
    "gen_ai.request.model": "claude-sonnet-4-5",
    "gen_ai.response.model": "claude-sonnet-4-5",
    "gen_ai.response.id": "chatcmpl-1",
    "gen_ai.response.finish_reasons": '["tool_calls"]',
    "gen_ai.usage.input_tokens": 8340,
    "gen_ai.usage.output_tokens": 300,
    "gen_ai.usage.total_tokens": 8640,
    "gen_ai.cost.total_cost": 0.00987,
    "litellm.call_id": "l1",
    "llm.request.type": "completion",
    "metadata.user_api_key_user_id": "dev-1",
    "metadata.user_api_key_team_id": "",
    "metadata.usage_object": (
        "{'completion_tokens': 300, 'prompt_tokens': 8340, 'total_tokens': 8640,"
        " 'completion_tokens_details': {'reasoning_tokens': 180}, 'prompt_tokens_details':"
        " {'audio_tokens': None, 'cached_tokens': 7500, 'cache_creation_tokens': 800,"
        " 'cache_creation_token_details': {'ephemeral_1h_input_tokens': 800}}}"
    ),
}
RAW = {
    "llm.anthropic.messages": "[{'role': 'user', 'content': 'x'}]",
    "llm.anthropic.id": "msg_1",
    "llm.anthropic.model": "claude-sonnet-4-5",
    "llm.anthropic.usage": (
        "{'input_tokens': 40, 'cache_creation_input_tokens': 800, 'cache_read_input_tokens': 7500,"
        " 'cache_creation': {'ephemeral_1h_input_tokens': 800}, 'output_tokens': 300, 'service_tier': 'standard'}"
    ),
}
WHOLE = Usage(input=8340, output=300, cache_read=7500, cache_write=800, cache_write_1h=800, reasoning=180)


def test_details_come_from_the_repr_of_the_usage_object(span_of) -> None:
    step = normalise_span(span_of(MAIN, scope=SCOPE))
    assert step is not None
    assert (step.kind, step.basis, step.usage) == (Kind.INFERENCE, Basis.INCLUSIVE, WHOLE)
    assert (step.reported_nano, step.who, step.finish_reasons) == (9_870_000, {"user": "dev-1"}, ("tool_calls",))


def test_a_usage_object_of_other_numbers_is_a_conflict(span_of) -> None:
    step = normalise_span(span_of(MAIN | {"gen_ai.usage.input_tokens": 8000}, scope=SCOPE))
    assert step is not None
    assert (step.usage, step.flags) == (Usage(input=8000, output=300), {Flag.CONFLICT})


def test_the_raw_child_counts_as_its_provider_does(span_of) -> None:
    step = normalise_span(span_of(RAW, scope=SCOPE))
    assert step is not None
    assert (step.kind, step.provider, step.ids) == (Kind.INFERENCE, "anthropic", ("response:msg_1",))
    assert (step.basis, step.usage) == (
        Basis.EXCLUSIVE,
        Usage(input=8340, output=300, cache_read=7500, cache_write=800, cache_write_1h=800),
    )
    assert step.terms == Terms(service_tier="standard")


def test_embeddings_come_without_a_provider(span_of) -> None:
    raw = {
        "llm.None.object": "list",
        "llm.None.model": "text-embedding-3-large",
        "llm.None.usage": "{'prompt_tokens': 64, 'total_tokens': 64}",
    }
    step = normalise_span(span_of(raw, scope=SCOPE))
    assert step is not None
    assert (step.kind, step.provider, step.usage) == (Kind.EMBEDDING, None, Usage(input=64, output=0))


def test_an_empty_child_is_no_step(span_of) -> None:
    assert normalise_span(span_of({}, scope=SCOPE)) is None


def test_on_an_applications_span_it_is_a_sum_that_lost_something(span_of) -> None:
    step = normalise_span(span_of(MAIN | {"gen_ai.agent.name": "coder"}, scope="coding-agent"))
    assert step is not None
    assert (step.kind, step.agent, step.rollup, step.ids) == (Kind.AGENT, "coder", True, ())
    assert (step.usage, step.flags) == (WHOLE, {Flag.INCOMPLETE})
    nameless = normalise_span(span_of(MAIN, scope="coding-agent"))
    assert nameless is not None
    assert (nameless.kind, nameless.rollup) == (Kind.WORKFLOW, True)


def test_a_usage_text_that_is_no_repr_changes_nothing(span_of) -> None:
    step = normalise_span(span_of(MAIN | {"metadata.usage_object": "{'a': __import__('os')}"}, scope=SCOPE))
    assert step is not None
    assert step.usage == Usage(input=8340, output=300)
