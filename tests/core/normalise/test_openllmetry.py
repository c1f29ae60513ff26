"""OpenLLMetry: wrappers, request types, names that mean nothing."""

from __future__ import annotations

import pytest

from otel_cost.core.model.usage import Usage
from otel_cost.core.model.vocabulary import Basis, Kind
from otel_cost.core.normalise import normalise_span

OPENAI = "opentelemetry.instrumentation.openai.v1"
CHAT = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "gpt-5-mini",
    "gen_ai.response.model": "unknown",
    "gen_ai.usage.input_tokens": 2398,
    "gen_ai.usage.output_tokens": 140,
    "gen_ai.usage.total_tokens": 2538,
    "gen_ai.usage.cache_read.input_tokens": 2048,
    "gen_ai.usage.reasoning_tokens": 64,
    "traceloop.association.properties.session_id": "s1",
    "traceloop.association.properties.user_id": "u1",
    "traceloop.workflow.name": "fix",
}


def test_a_chat(span_of) -> None:
    step = normalise_span(span_of(CHAT, scope=OPENAI))
    assert step is not None
    assert (step.kind, step.dialect, step.basis) == (Kind.INFERENCE, "openllmetry", Basis.INCLUSIVE)
    assert step.usage == Usage(input=2398, output=140, cache_read=2048, reasoning=64)
    assert (step.requested_model, step.response_model) == ("gpt-5-mini", None)
    assert (step.session, step.who) == ("s1", {"user": "u1", "workflow": "fix"})


def test_anthropic_is_inclusive_here_even_under_raw_names(span_of) -> None:
    old = {
        "llm.request.type": "completion",
        "gen_ai.system": "anthropic",
        "gen_ai.request.model": "claude-sonnet-4-5",
        "gen_ai.usage.prompt_tokens": 7550,
        "gen_ai.usage.completion_tokens": 120,
        "gen_ai.usage.cache_read_input_tokens": 7500,
    }
    step = normalise_span(span_of(old, scope="opentelemetry.instrumentation.anthropic"))
    assert step is not None
    assert (step.basis, step.usage) == (Basis.INCLUSIVE, Usage(input=7550, output=120, cache_read=7500))
    unknown = normalise_span(span_of(old, scope="somebody.else"))
    assert unknown is not None
    assert (unknown.basis, unknown.usage) == (Basis.EXCLUSIVE, Usage(input=15050, output=120, cache_read=7500))


@pytest.mark.parametrize(
    ("told", "kind"),
    [("workflow", Kind.WORKFLOW), ("agent", Kind.AGENT), ("tool", Kind.TOOL), ("task", None)],
)
def test_wrappers(span_of, told: str, kind: Kind | None) -> None:
    step = normalise_span(
        span_of({"traceloop.span.kind": told, "traceloop.entity.name": "grep"}, scope="traceloop.tracer")
    )
    assert (step and step.kind) == kind


def test_a_decorated_tool(span_of) -> None:
    tool = {
        "traceloop.span.kind": "tool",
        "traceloop.entity.name": "grep",
        "traceloop.entity.input": '{"pattern": "x"}',
        "traceloop.entity.output": "3 lines",
    }
    step = normalise_span(span_of(tool, scope="traceloop.tracer"))
    assert step is not None
    assert (step.tool, step.arguments, step.result) == ("grep", '{"pattern": "x"}', "3 lines")


@pytest.mark.parametrize(
    ("told", "kind"),
    [("chat", Kind.INFERENCE), ("completion", Kind.INFERENCE), ("embedding", Kind.EMBEDDING), ("rerank", Kind.OTHER)],
)
def test_request_types_of_old_versions(span_of, told: str, kind: Kind) -> None:
    step = normalise_span(
        span_of({"llm.request.type": told, "gen_ai.request.model": "m", "llm.usage.total_tokens": 3}, scope=OPENAI)
    )
    assert step is not None
    assert (step.kind, step.usage) == (kind, None)


def test_openais_official_instrumentation_is_not_meant(span_of) -> None:
    step = normalise_span(span_of(CHAT, scope="opentelemetry.instrumentation.openai_v2"))
    assert step is not None
    assert step.dialect == "semconv"
