"""Dialect `codex`: Codex CLI's runtime spans and log events.

A run is about a thousand spans in some eighteen traces. One span in a hundred
tells of work: `handle_responses` has the usage of a call but neither model nor
conversation, which stand on spans above it; log events repeat the usage as
text and, for most of them, without a trace. A command that exits 1 is a
success to Codex: only the text of its output says otherwise.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from otel_cost.core.model.attributes import text
from otel_cost.core.model.step import Step
from otel_cost.core.model.vocabulary import Basis, Kind, Source
from otel_cost.core.normalise import Dialect, register
from otel_cost.core.normalise._log import flag_told, log_step
from otel_cost.core.normalise._metric import Counter
from otel_cost.core.normalise._read import as_text, dig, failure_of, opened_map, status_code, who_of
from otel_cost.core.normalise._usage import Counts, settle, whole

if TYPE_CHECKING:
    from otel_cost.core.model.attributes import Attributes
    from otel_cost.core.model.event import LogEvent, SpanEvent

_NAME: Final = "codex"


def read_span(span: SpanEvent) -> Step | None:
    """A model call, a tool call, a turn, or a span that names the model or the conversation of those below it."""
    attributes = span.attributes
    if "gen_ai.usage.input_tokens" in attributes:
        return _call(span)
    if span.name == "session_task.turn":
        return _turn(span)
    session = text(attributes, "conversation.id", "thread_id")
    tool = text(attributes, "tool_name")
    if (
        tool is not None
        and "call_id" in attributes
        and (span.name == tool or text(attributes, "codex.tool.phase") == "dispatch")
    ):
        return _tool(span, tool, session)
    if span.name == "try_run_sampling_request":
        step = _span_step(span, Kind.OTHER, session)
        step.requested_model = text(attributes, "model")
        return step
    # Whatever names the conversation joins its trace to the run.
    return None if session is None else _span_step(span, Kind.OTHER, session)


def _span_step(span: SpanEvent, kind: Kind, session: str | None) -> Step:
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
        session=session,
        who=who_of(span.attributes, span.resource),
    )


def _call(span: SpanEvent) -> Step:
    attributes = span.attributes
    get = attributes.get
    step = _span_step(span, Kind.INFERENCE, text(attributes, "conversation.id"))
    step.operation = "chat"
    step.requested_model = text(attributes, "model", "gen_ai.request.model")
    told = Counts(
        input=get("gen_ai.usage.input_tokens"),
        output=get("gen_ai.usage.output_tokens"),
        cache_read=get("gen_ai.usage.cache_read.input_tokens"),
        cache_write=get("gen_ai.usage.cache_write.input_tokens"),
        reasoning=get("codex.usage.reasoning_output_tokens"),
        total=get("codex.usage.total_tokens"),
    )
    _settle(step, told)
    return step


def _turn(span: SpanEvent) -> Step:
    attributes = span.attributes
    get = attributes.get
    step = _span_step(span, Kind.WORKFLOW, text(attributes, "conversation.id", "thread_id"))
    step.rollup = True
    step.requested_model = text(attributes, "model")
    prefix = "codex.turn.token_usage."
    told = Counts(
        input=get(f"{prefix}input_tokens"),
        output=get(f"{prefix}output_tokens"),
        cache_read=get(f"{prefix}cached_input_tokens"),
        cache_write=get(f"{prefix}cache_write_input_tokens"),
        reasoning=get(f"{prefix}reasoning_output_tokens"),
        total=get(f"{prefix}total_tokens"),
    )
    step.usage, step.basis, step.problem = settle(told, convention=Basis.INCLUSIVE)
    return step


def _tool(span: SpanEvent, tool: str, session: str | None) -> Step:
    step = _span_step(span, Kind.TOOL, session)
    step.operation = "execute_tool"
    step.tool = tool
    _fill_call_id(step, span.attributes)
    step.failed, step.error_type, step.error_message, step.status_code = failure_of(span)
    return step


def read_log(log: LogEvent) -> Step | None:
    """A finished answer, a request or stream that failed, a tool's result; the rest repeats or is no work."""
    attributes = log.attributes
    # The record's own event name is a place in Codex's source.
    match text(attributes, "event.name"):
        case "codex.sse_event":
            if text(attributes, "event.kind") == "response.completed" and "input_token_count" in attributes:
                return _answer_log(log)
            return _failure_log(log) if text(attributes, "error.message") else None
        case "codex.api_request" | "codex.websocket_request":
            status = status_code(attributes)
            refused = status is not None and status >= _FIRST_ERROR
            if refused or text(attributes, "error.message") or flag_told(attributes.get("success")) is False:
                # Lists of models and the like are asked for too.
                endpoint = text(attributes, "endpoint") or "/responses"
                return _failure_log(log) if endpoint.endswith(("/responses", "/chat/completions")) else None
            return None
        case "codex.tool_result":
            return _tool_log(log)
    return None


_FIRST_ERROR: Final = 400


def _log_step(log: LogEvent, kind: Kind) -> Step:
    attributes = log.attributes
    step = log_step(log, _NAME, kind, text(attributes, "conversation.id"))
    agent = text(attributes, "agent_name")
    step.agent = None if agent == _MAIN_AGENT else agent
    return step


_MAIN_AGENT: Final = "/root"


def _answer_log(log: LogEvent) -> Step:
    get = log.attributes.get
    step = _log_step(log, Kind.INFERENCE)
    step.operation = "chat"
    step.requested_model = text(log.attributes, "model", "slug")
    told = Counts(
        input=get("input_token_count"),
        output=get("output_token_count"),
        cache_read=get("cached_token_count"),
        cache_write=get("cache_write_token_count"),
        reasoning=get("reasoning_token_count"),
        total=get("tool_token_count"),  # named for tools, holds the sum of all
    )
    _settle(step, told)
    return step


def _failure_log(log: LogEvent) -> Step:
    attributes = log.attributes
    step = _log_step(log, Kind.INFERENCE)
    step.operation = "chat"
    step.requested_model = text(attributes, "model", "slug")
    step.failed = True
    step.status_code = status_code(attributes)
    step.error_type = str(step.status_code) if step.status_code is not None else text(attributes, "event.kind")
    step.error_message = text(attributes, "error.message")
    # A stream that answered the request and then broke off had begun, unless the answer was the failure.
    step.output_begun = text(attributes, "event.kind") not in {None, "response.failed"}
    return step


def _settle(step: Step, told: Counts) -> None:
    """Usage, and the hint that pairs a span with its log event: neither carries the id of the response."""
    step.usage, step.basis, step.problem = settle(told, convention=Basis.INCLUSIVE)
    if step.usage is not None:
        counts = (whole(told.get(key)) or 0 for key in ("input", "output", "cache_read", "reasoning"))
        step.hints = (f"{_NAME}:{':'.join(map(str, counts))}",)


def _tool_log(log: LogEvent) -> Step:
    attributes = log.attributes
    step = _log_step(log, Kind.TOOL)
    step.operation = "execute_tool"
    step.tool = text(attributes, "tool_name")
    _fill_call_id(step, attributes)
    step.arguments = as_text(attributes.get("arguments"))
    step.result = as_text(attributes.get("output"))
    code = exit_code(step.result)
    step.failed = flag_told(attributes.get("success")) is False or (code is not None and code != 0)
    if step.failed:
        step.error_type = f"exit_code_{code}" if code else None
        step.error_message = None if step.result is None else output_of(step.result)
    return step


def exit_code(output: str | None) -> int | None:
    """The exit code in the frame that Codex writes above a command's output; None where there is none.

    The output itself is not searched: it is the command's own and may quote anything.
    """
    if not output:
        return None
    head, framed, _ = output[:_FRAME].partition("\nOutput:\n")
    found = _EXIT_CODE.search(head) if framed else None
    if found is not None:
        return int(found[1])
    # The older shell tool answers in JSON.
    return whole(dig(opened_map(output), "metadata", "exit_code"))


def output_of(output: str) -> str:
    """A command's own words: the frame around them holds an id and times that differ in every try."""
    framed = output.partition("\nOutput:\n")[2].strip()
    if framed:
        return framed
    told = opened_map(output).get("output")
    return told if isinstance(told, str) and told else output


_FRAME: Final = 1024
_EXIT_CODE: Final = re.compile(r"^(?:Process exited with code|Exit code:) (-?\d{1,10})$", re.MULTILINE)


def _fill_call_id(step: Step, attributes: Attributes) -> None:
    step.tool_call_id = text(attributes, "call_id")
    if step.tool_call_id is not None:
        step.ids = (f"tool_call:{step.tool_call_id}",)


_COUNTER: Final = Counter(
    dialect=_NAME,
    name="codex.turn.token_usage",
    type_key="token_type",
    parts={
        "input": "input",
        "cached_input": "cache_read",
        "cache_write_input": "cache_write",
        "output": "output",
        "reasoning_output": "reasoning",
    },
)


register(
    Dialect(
        name=_NAME,
        scopes=(
            "codex_exec",
            "codex_cli",
            "codex-cli",
            "codex_otel",
            "codex_app_server",
            "codex-app-server",
            "codex_mcp",
        ),
        keys=("codex.",),
        span=read_span,
        log=read_log,
        metric=_COUNTER.read,
    )
)
