"""Anthropic's own SDK: lifetimes told, request ids, compaction beside the counts."""

from __future__ import annotations

from otel_cost.core.model.step import Terms
from otel_cost.core.model.usage import Usage
from otel_cost.core.model.vocabulary import Basis
from otel_cost.core.normalise import normalise_span

SCOPE = "com.anthropic.sdk.python"
CALL = {
    "gen_ai.provider.name": "anthropic",
    "gen_ai.operation.name": "chat",
    "gen_ai.request.model": "claude-sonnet-4-5",
    "gen_ai.response.id": "msg_1",
    "anthropic.request.id": "req_1",
    "gen_ai.usage.input_tokens": 7550,
    "gen_ai.usage.output_tokens": 120,
    "gen_ai.usage.cache_write.input_tokens": 7500,
    "gen_ai.usage.cache_read.input_tokens": 0,
    "anthropic.usage.cache_creation.ephemeral_5m_input_tokens": 1500,
    "anthropic.usage.cache_creation.ephemeral_1h_input_tokens": 6000,
    "anthropic.response.service_tier": "standard",
    "anthropic.message.stop_reason": "tool_use",
}


def test_a_call(span_of) -> None:
    step = normalise_span(span_of(CALL, scope=SCOPE))
    assert step is not None
    assert (step.basis, step.usage) == (
        Basis.INCLUSIVE,
        Usage(input=7550, output=120, cache_read=0, cache_write=7500, cache_write_1h=6000),
    )
    assert (step.ids, step.hints) == (("response:msg_1",), ("request:req_1",))
    assert (step.terms, step.finish_reasons) == (Terms(service_tier="standard"), ("tool_use",))


def test_compaction_is_billed_beside_the_call(span_of) -> None:
    step = normalise_span(
        span_of(
            CALL | {"anthropic.usage.compaction.input_tokens": 5000, "anthropic.usage.compaction.output_tokens": 80},
            scope=SCOPE,
        )
    )
    assert step is not None
    assert step.usage is not None
    assert (step.usage.input, step.usage.output) == (12_550, 200)


def test_an_overloaded_call_without_a_message(span_of) -> None:
    failed = {key: CALL[key] for key in ("gen_ai.provider.name", "gen_ai.operation.name", "gen_ai.request.model")}
    step = normalise_span(
        span_of(failed | {"http.response.status_code": 529, "error.type": "overloaded_error"}, scope=SCOPE, error="")
    )
    assert step is not None
    assert (step.failed, step.error_type, step.status_code) == (True, "overloaded_error", 529)


def test_counting_tokens_is_no_call(span_of) -> None:
    count = {"gen_ai.provider.name": "anthropic", "gen_ai.request.model": "m", "gen_ai.usage.input_tokens": 9}
    assert normalise_span(span_of(count, scope=SCOPE, name="anthropic.messages.count_tokens")) is None
