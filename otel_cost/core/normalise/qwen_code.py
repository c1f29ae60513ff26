"""Dialect `qwen_code`: Qwen Code's log events, shaped like Gemini CLI's, and the spans of its newer versions.

Records of older versions carry no trace id: the session makes the run. Where a
backend takes no logs its bridge sends each record as a span (`log.bridge`). A
command that fails is a success to it, so its loops show only in repeated arguments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from otel_cost.core.model.attributes import text
from otel_cost.core.model.event import LogEvent
from otel_cost.core.model.vocabulary import Kind, Source
from otel_cost.core.normalise import Dialect, register
from otel_cost.core.normalise._gemini import failure_hint, read_event, session_of, tool_hints, usage_hint
from otel_cost.core.normalise._log import flag_told
from otel_cost.core.normalise._metric import gemini_counter
from otel_cost.core.normalise._usage import Counts, settle, whole
from otel_cost.core.normalise.semconv import read_span as read_plain_span

if TYPE_CHECKING:
    from otel_cost.core.model.event import SpanEvent
    from otel_cost.core.model.step import Step

_NAME: Final = "qwen_code"
_PREFIX: Final = "qwen-code."
_CLIENT: Final = "qwen-code"  # gen_ai.agent.name of the main thread


def read_span(span: SpanEvent) -> Step | None:
    """A model call, a tool, a turn, a sub-agent, or a record that came as a span; hooks and waiting are no steps."""
    if span.attributes.get("log.bridge") is True:
        return _bridged(span)
    name = span.name.removeprefix(_PREFIX)
    kind = _KINDS.get(name)
    if kind is None:
        return None
    step = read_plain_span(span, dialect=_NAME, kind=kind, operation=_OPERATIONS[kind])
    if step is None:
        return None
    attributes = span.attributes
    step.session = session_of(attributes)
    step.agent = text(attributes, "subagent_name") or (None if step.agent == _CLIENT else step.agent)
    if kind is Kind.TOOL:
        step.partial = name == "tool.execution"
        if step.tool_call_id is None and (call_id := text(attributes, "tool.call_id", "call_id")) is not None:
            step.tool_call_id = call_id
            step.ids = (f"tool_call:{call_id}",)
        if not step.partial:
            step.hints = tool_hints(step)
    elif kind is Kind.INFERENCE:
        _fill_call(step, span)
    return step


_KINDS: Final = {
    "llm_request": Kind.INFERENCE,
    "tool": Kind.TOOL,
    "tool.execution": Kind.TOOL,
    "interaction": Kind.WORKFLOW,
    "subagent": Kind.AGENT,
}
_OPERATIONS: Final = {
    Kind.INFERENCE: "chat",
    Kind.TOOL: "execute_tool",
    Kind.WORKFLOW: "invoke_workflow",
    Kind.AGENT: "invoke_agent",
}


def _fill_call(step: Step, span: SpanEvent) -> None:
    attributes = span.attributes
    get = attributes.get
    step.attempts = max(whole(get("attempt")) or 1, 1)
    told_in, told_out = get("gen_ai.usage.input_tokens"), get("gen_ai.usage.output_tokens")
    if step.usage is not None:
        told = Counts(
            input=told_in,
            output=told_out,
            cache_read=get("gen_ai.usage.cache_read.input_tokens"),
            cache_write=get("gen_ai.usage.cache_creation.input_tokens"),
            reasoning=get("thoughts_token_count"),
        )
        thoughts = whole(get("thoughts_token_count")) or 0
        outside = thoughts > step.usage.output
        settled = settle(told, provider=step.provider, model=step.model, reasoning_outside=outside)
        step.usage, step.basis, step.problem = settled
        step.hints = (usage_hint(step, told_in, told_out),)
    elif step.failed or flag_told(get("success")) is False:
        step.hints = (failure_hint(step),)
        step.output_begun = step.output_begun or "ttft_ms" in attributes


def _bridged(span: SpanEvent) -> Step | None:
    record = LogEvent(
        tenant=span.tenant,
        received_ns=span.received_ns,
        resource=span.resource,
        scope=span.scope,
        raw=span.raw,
        trace_id=span.trace_id,
        span_id=b"",
        time_ns=span.start_ns,  # when the record was written: the bridge adds the duration behind it
        name=text(span.attributes, "event.name") or "",
        severity=0,
        body=span.name,
        attributes=span.attributes,
    )
    step = read_log(record)
    if step is not None:
        step.source, step.span_id, step.parent_id = Source.SPAN, span.span_id, span.parent_id
        step.scope = f"{step.scope} log bridge"  # another voice than the tracer's, which may tell of the same call
    return step


def read_log(log: LogEvent) -> Step | None:
    """Answers, failures and tool calls."""
    return read_event(log, _NAME, log.name.removeprefix(_PREFIX))


register(
    Dialect(
        name=_NAME,
        scopes=("qwen-code",),
        keys=(_PREFIX,),
        span=read_span,
        log=read_log,
        metric=gemini_counter(_NAME, _PREFIX, reasoning_outside=False),
    )
)
