"""OpenLIT: exclusive Anthropic counts, a cost of zero, tool names on chat spans."""

from __future__ import annotations

import pytest

from otel_cost.core.model.usage import Usage
from otel_cost.core.model.vocabulary import Basis, Kind
from otel_cost.core.normalise import normalise_log, normalise_span

ANTHROPIC = "openlit.instrumentation.anthropic"
CHAT = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "anthropic",
    "gen_ai.request.model": "claude-sonnet-4-5",
    "gen_ai.response.id": "msg_1",
    "gen_ai.usage.input_tokens": 40,
    "gen_ai.usage.output_tokens": 300,
    "gen_ai.usage.cache_read.input_tokens": 7500,
    "gen_ai.usage.cache_creation.input_tokens": 800,
    "gen_ai.usage.cost": 0,
    "gen_ai.request.user": "",
    "gen_ai.tool.name": "read_file, grep",
    "gen_ai.tool.call.id": "call_1, call_2",
    "deployment.environment": "dev",
}


def test_anthropic_counts_leave_the_cache_out(span_of) -> None:
    step = normalise_span(span_of(CHAT, scope=ANTHROPIC))
    assert step is not None
    assert (step.basis, step.usage) == (
        Basis.EXCLUSIVE,
        Usage(input=8340, output=300, cache_read=7500, cache_write=800),
    )
    assert (step.kind, step.tool, step.ids) == (Kind.INFERENCE, None, ("response:msg_1",))
    assert (step.reported_nano, step.who) == (None, {"environment": "dev"})


def test_small_cache_parts_are_left_out_as_well(span_of) -> None:
    step = normalise_span(span_of(CHAT | {"gen_ai.usage.input_tokens": 90_000}, scope=ANTHROPIC))
    assert step is not None
    assert step.usage is not None
    assert step.usage.input == 98_300


def test_its_log_record_counts_the_same_way(log_of) -> None:
    step = normalise_log(log_of(CHAT, name="gen_ai.client.inference.operation.details", scope=ANTHROPIC))
    assert step is not None
    assert step.usage is not None
    assert (step.usage.input, step.basis) == (8340, Basis.EXCLUSIVE)


def test_openai_counts_are_inclusive_and_a_real_cost_is_kept(span_of) -> None:
    step = normalise_span(
        span_of(
            CHAT | {"gen_ai.provider.name": "openai", "gen_ai.usage.input_tokens": 9000, "gen_ai.usage.cost": 0.25},
            scope="openlit.instrumentation.openai",
        )
    )
    assert step is not None
    assert step.usage is not None
    assert (step.basis, step.usage.input, step.reported_nano) == (Basis.INCLUSIVE, 9000, 250_000_000)


@pytest.mark.parametrize(
    ("operation", "kind"),
    [("execute_task", Kind.WORKFLOW), ("model_request", Kind.INFERENCE), ("vectordb", Kind.OTHER)],
)
def test_operations_of_its_own(span_of, operation: str, kind: Kind) -> None:
    step = normalise_span(span_of(CHAT | {"gen_ai.operation.name": operation}, scope="openlit.instrumentation.crewai"))
    assert step is not None
    assert step.kind is kind


def test_a_framework_is_no_provider(span_of) -> None:
    step = normalise_span(
        span_of(CHAT | {"gen_ai.provider.name": "langchain"}, scope="openlit.instrumentation.langchain")
    )
    assert step is not None
    assert step.provider is None
