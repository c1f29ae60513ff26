"""Google's Agent Development Kit: calls, thinking outside the output, agents and tools under names of its own."""

from __future__ import annotations

import json

from otel_cost.core.model.usage import Usage
from otel_cost.core.model.vocabulary import Basis, Kind
from otel_cost.core.normalise import normalise_span

SCOPE = "gcp.vertex.agent"
CALL = {
    "gen_ai.system": SCOPE,
    "gen_ai.request.model": "gemini-2.5-pro",
    "gen_ai.response.finish_reasons": ["stop"],
    "gen_ai.usage.input_tokens": 1196,
    "gen_ai.usage.output_tokens": 40,
    "gcp.vertex.agent.session_id": "s-1",
}
COUNTS = {
    "cached_content_token_count": 896,
    "candidates_token_count": 40,
    "prompt_token_count": 1196,
    "thoughts_token_count": 20,
    "total_token_count": 1256,
}


def test_thinking_is_outside_of_what_the_span_counts(span_of) -> None:
    told = CALL | {"gcp.vertex.agent.llm_response": json.dumps({"usage_metadata": COUNTS})}
    step = normalise_span(span_of(told, scope=SCOPE, name="call_llm"))
    assert step is not None
    assert (step.kind, step.provider, step.session) == (Kind.INFERENCE, None, "s-1")
    assert (step.usage, step.basis) == (Usage(input=1196, output=60, cache_read=896, reasoning=20), Basis.INCLUSIVE)


def test_a_response_of_other_numbers_adds_nothing(span_of) -> None:
    other = json.dumps({"usage_metadata": COUNTS | {"prompt_token_count": 7}})
    for said in ("{}", other):
        step = normalise_span(span_of(CALL | {"gcp.vertex.agent.llm_response": said}, scope=SCOPE, name="call_llm"))
        assert step is not None
        assert step.usage == Usage(input=1196, output=40)


def test_agents_and_tools(span_of) -> None:
    for name in ("agent_run [coder]", "invoke_agent coder"):
        step = normalise_span(span_of({}, scope=SCOPE, name=name))
        assert step is not None
        assert (step.kind, step.agent) == (Kind.AGENT, "coder")
    told = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "read_file",
        "gcp.vertex.agent.tool_call_args": "{}",
    }
    step = normalise_span(span_of(told, scope=SCOPE, name="execute_tool read_file"))
    assert step is not None
    assert (step.kind, step.tool, step.arguments) == (Kind.TOOL, "read_file", "{}")
    assert normalise_span(span_of({}, scope=SCOPE, name="invocation")).kind is Kind.WORKFLOW
