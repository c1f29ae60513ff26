"""OpenTelemetry's google-genai: inclusive, thinking within output, a number as error type."""

from __future__ import annotations

from otel_cost.core.model.usage import Usage
from otel_cost.core.model.vocabulary import Basis, Kind
from otel_cost.core.normalise import normalise_span

SCOPE = "opentelemetry.instrumentation.google_genai"
CALL = {
    "gen_ai.operation.name": "generate_content",
    "gen_ai.provider.name": "gemini",
    "gen_ai.request.model": "gemini-2.5-pro",
}


def test_a_call(span_of) -> None:
    counts = {
        "gen_ai.usage.input_tokens": 4346,
        "gen_ai.usage.output_tokens": 900,
        "gen_ai.usage.cache_read.input_tokens": 4096,
        "gen_ai.usage.text.input_tokens": 4346,
        "gen_ai.usage.text.cache_read.input_tokens": 4096,
        "gen_ai.usage.reasoning.output_tokens": 640,
    }
    step = normalise_span(span_of(CALL | counts, scope=SCOPE))
    assert step is not None
    assert (step.kind, step.dialect, step.basis) == (Kind.INFERENCE, "google_genai", Basis.INCLUSIVE)
    assert step.usage == Usage(input=4346, output=900, cache_read=4096, reasoning=640)


def test_a_number_as_error_type_is_the_status(span_of) -> None:
    step = normalise_span(span_of(CALL | {"error.type": "429"}, scope=SCOPE, error="quota"))
    assert step is not None
    assert (step.failed, step.status_code, step.output_begun) == (True, 429, False)
