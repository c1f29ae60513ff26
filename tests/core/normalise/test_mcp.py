"""MCP: a tool call is a tool call on either end; everything else is no step."""

from __future__ import annotations

import pytest

from otel_cost.core.model.vocabulary import Kind
from otel_cost.core.normalise import normalise_span

CALL = {
    "mcp.method.name": "tools/call",
    "mcp.session.id": "m1",
    "jsonrpc.request.id": 3,
    "gen_ai.tool.name": "search",
    "error.type": "tool_error",
}


def test_a_tool_call(span_of) -> None:
    step = normalise_span(span_of(CALL, scope="any.mcp"))
    assert step is not None
    assert (step.kind, step.dialect, step.tool, step.failed) == (Kind.TOOL, "mcp", "search", True)
    assert step.hints == ("jsonrpc:m1:3",)


def test_a_request_number_without_a_session_names_nothing(span_of) -> None:
    step = normalise_span(span_of({k: v for k, v in CALL.items() if k != "mcp.session.id"}))
    assert step is not None
    assert step.hints == ()


@pytest.mark.parametrize("method", ["initialize", "tools/list", "resources/read", "prompts/get"])
def test_everything_else_is_no_step(span_of, method: str) -> None:
    assert normalise_span(span_of({"mcp.method.name": method})) is None
