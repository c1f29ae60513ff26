"""Dialect `gemini_cli`: Gemini CLI's spans and log events.

There is no root: each model call and each batch of tools is a trace of its own.
A call's span leaves out thinking (which is outside its output count too) and
cached tokens, so it is marked incomplete and the log event speaks. A call that
the CLI's own loop guard breaks off has a span without usage, and no event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from otel_cost.core.model.attributes import text
from otel_cost.core.model.step import Step
from otel_cost.core.model.vocabulary import Basis, Flag, Kind, Source
from otel_cost.core.normalise import Dialect, register
from otel_cost.core.normalise._gemini import exit_type, failure_hint, read_event, session_of, tool_hints, usage_hint
from otel_cost.core.normalise._metric import gemini_counter
from otel_cost.core.normalise._read import as_text, dig, failure_of, opened, who_of
from otel_cost.core.normalise._usage import Counts, settle

if TYPE_CHECKING:
    from otel_cost.core.model.event import LogEvent, SpanEvent

_NAME: Final = "gemini_cli"
_CLIENT: Final = "gemini-cli"  # gen_ai.agent.name of everything but sub-agents


def read_span(span: SpanEvent) -> Step | None:
    """A model call, a tool call or a sub-agent; batches of tools and assembled prompts are no steps."""
    match text(span.attributes, "gen_ai.operation.name"):
        case "llm_call":
            return _call(span)
        case "tool_call":
            return _tool(span)
        case "agent_call":
            step = _span_step(span, Kind.AGENT)
            step.operation = "invoke_agent"
            step.agent_id = text(span.attributes, "gen_ai.agent.id")
            return step
    return None


def _span_step(span: SpanEvent, kind: Kind) -> Step:
    attributes = span.attributes
    failure = failure_of(span)
    agent = text(attributes, "gen_ai.agent.name")
    return Step(
        source=Source.SPAN,
        dialect=_NAME,
        scope=span.scope.name,
        kind=kind,
        tenant=span.tenant,
        trace_id=span.trace_id,
        span_id=span.span_id,
        parent_id=span.parent_id,
        name=span.name,
        start_ns=span.start_ns,
        end_ns=span.end_ns,
        session=session_of(attributes) or text(span.resource.attributes, "session.id"),
        agent=None if agent == _CLIENT else agent,
        who=who_of(attributes, span.resource),
        failed=failure.failed,
        error_type=failure.type,
        error_message=failure.message,
        status_code=failure.status_code,
    )


def _call(span: SpanEvent) -> Step:
    attributes = span.attributes
    get = attributes.get
    step = _span_step(span, Kind.INFERENCE)
    step.operation = "chat"
    step.provider = text(attributes, "gen_ai.provider.name", "gen_ai.system") or "gcp.gemini"
    step.requested_model = text(attributes, "gen_ai.request.model")
    step.response_model = text(attributes, "gen_ai.response.model")
    told_in, told_out = get("gen_ai.usage.input_tokens"), get("gen_ai.usage.output_tokens")
    step.usage, step.basis, step.problem = settle(Counts(input=told_in, output=told_out), convention=Basis.INCLUSIVE)
    step.flags = frozenset({Flag.INCOMPLETE})
    if step.usage is not None:
        step.hints = (usage_hint(step, told_in, told_out),)
    elif step.failed:
        step.hints = (failure_hint(step),)
        step.output_begun = "gen_ai.output.messages" in attributes
    return step


def _tool(span: SpanEvent) -> Step:
    attributes = span.attributes
    step = _span_step(span, Kind.TOOL)
    step.operation = "execute_tool"
    step.tool = text(attributes, "gen_ai.tool.name")
    step.tool_call_id = text(attributes, "gen_ai.tool.call_id", "gen_ai.tool.call.id")
    if step.tool_call_id is not None:
        step.ids = (f"tool_call:{step.tool_call_id}",)
    # One JSON holds the call, its result and, deep inside, whether the command failed.
    told = opened(attributes.get("gen_ai.output.messages"))
    response = dig(told, "response")
    step.arguments = as_text(dig(told, "request", "args"))
    shown = as_text(dig(response, "resultDisplay"))
    step.result = as_text(dig(response, "responseParts")) or shown
    code = dig(response, "data", "exitCode")
    refused = dig(told, "status") == "error"
    if refused or code or dig(response, "data", "isError") is True:
        step.failed = True
        step.error_type = step.error_type or as_text(dig(response, "errorType")) or exit_type(code)
        step.error_message = step.error_message or as_text(dig(response, "error", "message")) or shown
    step.hints = tool_hints(step)
    return step


def read_log(log: LogEvent) -> Step | None:
    """Answers, failures and tool calls; `gen_ai.client.inference.operation.details` repeats the answer's event."""
    return read_event(log, _NAME, log.name.removeprefix("gemini_cli."))


register(
    Dialect(
        name=_NAME,
        scopes=("gemini-cli",),
        keys=("gemini_cli.",),
        span=read_span,
        log=read_log,
        metric=gemini_counter(_NAME, "gemini_cli.", reasoning_outside=True),
    )
)
