"""Dialect `mcp`: Model Context Protocol clients and servers; a tool call is one, told by up to three spans."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_cost.core.model.attributes import text
from otel_cost.core.model.vocabulary import Kind
from otel_cost.core.normalise import Dialect, register
from otel_cost.core.normalise.semconv import read_span

if TYPE_CHECKING:
    from otel_cost.core.model.event import SpanEvent
    from otel_cost.core.model.step import Step


def _span(span: SpanEvent) -> Step | None:
    """The step of a `tools/call`; listing, reading and pinging are no steps."""
    attributes = span.attributes
    if text(attributes, "mcp.method.name") != "tools/call":
        # A model or tool span may name an MCP server in passing.
        return read_span(span) if text(attributes, "gen_ai.operation.name") else None
    step = read_span(span, dialect="mcp", kind=Kind.TOOL, operation="execute_tool")
    if step is None:
        return None
    request, session = attributes.get("jsonrpc.request.id"), text(attributes, "mcp.session.id")
    if request is not None and session:
        # Numbers start at 0 in each session; with it they name one request on both its ends.
        step.hints = (f"jsonrpc:{session}:{request}",)
    return step


register(Dialect(name="mcp", keys=("mcp.method.name",), rank=25, span=_span))
