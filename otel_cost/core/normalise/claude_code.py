"""Dialect `claude_code`: Claude Code's spans and log events, also of the CLI inside the Claude Agent SDK.

Token keys are bare and exclusive (Anthropic's own way). A span and a log event
tell of the same request; the newer CLI's event alone splits cache writes by
lifetime, and it alone states a cost, computed by the CLI: reported, not believed.
A failed tool shows only on the `.execution` span below it.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from otel_cost.core.decode.otlp import span_events
from otel_cost.core.model.attributes import text
from otel_cost.core.model.step import Step, Terms
from otel_cost.core.model.vocabulary import Basis, Kind, Source
from otel_cost.core.normalise import Dialect, register
from otel_cost.core.normalise._log import flag_told, log_step
from otel_cost.core.normalise._metric import Counter
from otel_cost.core.normalise._read import as_text, names, reported_nano, status_code, who_of
from otel_cost.core.normalise._usage import Counts, settle, whole

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_cost.core.model.attributes import Attributes
    from otel_cost.core.model.event import LogEvent, MetricPoint, SpanEvent
    from otel_cost.core.model.measure import Measure

_NAME: Final = "claude_code"


def read_span(span: SpanEvent) -> Step | None:
    """A request, a tool or a turn; waiting for the user and hooks cost nothing and are no steps."""
    reader = _SPANS.get(text(span.attributes, "span.type") or span.name.removeprefix("claude_code."))
    return None if reader is None else reader(span)


def _span_step(span: SpanEvent, kind: Kind) -> Step:
    attributes = span.attributes
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
        session=_session(attributes),
        agent=_agent(attributes),
        agent_id=text(attributes, "agent_id"),
        who=who_of(attributes, span.resource),
        failed=span.is_error or flag_told(attributes.get("success")) is False,
    )


def _turn(span: SpanEvent) -> Step:
    step = _span_step(span, Kind.WORKFLOW)
    step.operation = "invoke_agent"
    return step


def _request(span: SpanEvent) -> Step:
    attributes = span.attributes
    step = _span_step(span, Kind.INFERENCE)
    _fill_request(step, attributes)
    if "attempt" not in attributes:
        tries = sum(event.name == "gen_ai.request.attempt" for event in span_events(span.raw_events))
        step.attempts = max(tries, 1)
    if step.failed:
        _fill_failure(step, attributes)
        step.error_message = step.error_message or span.status_message or None
        step.output_begun = "ttft_ms" in attributes
    step.finish_reasons = names(attributes.get("gen_ai.response.finish_reasons") or attributes.get("stop_reason"))
    answer = text(attributes, "gen_ai.response.id")
    # After an API error this key holds the id of the request.
    if answer is not None and not step.failed and answer != text(attributes, "request_id"):
        step.ids = (f"response:{answer}",)
    return step


def _tool(span: SpanEvent) -> Step:
    attributes = span.attributes
    step = _span_step(span, Kind.TOOL)
    step.operation = "execute_tool"
    step.tool = text(attributes, "tool_name", "gen_ai.tool.name")
    _fill_call_id(step, attributes)
    step.result_size = whole(attributes.get("result_tokens"))
    details = {key: value for key in _TOOL_DETAILS if (value := text(attributes, key))}
    if details:
        step.arguments = json.dumps(details, ensure_ascii=False)
    if step.failed:
        _fill_tool_failure(step, attributes)
    return step


# What the tool span tells of its arguments, where OTEL_LOG_TOOL_DETAILS is set.
_TOOL_DETAILS: Final = ("full_command", "file_path", "skill_name", "subagent_type", "mcp_tool_name", "mcp_server_name")


def _execution(span: SpanEvent) -> Step:
    attributes = span.attributes
    step = _span_step(span, Kind.TOOL)
    step.operation = "execute_tool"
    step.partial = True
    _fill_call_id(step, attributes)
    if step.failed:
        _fill_tool_failure(step, attributes)
    return step


_SPANS: Final[dict[str, Callable[[SpanEvent], Step]]] = {
    "interaction": _turn,
    "llm_request": _request,
    "tool": _tool,
    "tool.execution": _execution,
}


def read_log(log: LogEvent) -> Step | None:
    """`api_request`, `api_error` and `tool_result`; a finished sub-agent only sums up what these have told."""
    name = log.name.removeprefix("claude_code.")
    if name in {"api_request", "api_error"}:
        return _request_log(log, failed=name == "api_error")
    return _tool_log(log) if name == "tool_result" else None


def _request_log(log: LogEvent, *, failed: bool) -> Step:
    attributes = log.attributes
    step = log_step(log, _NAME, Kind.INFERENCE, _session(attributes))
    step.agent = _agent(attributes)
    step.agent_id = text(attributes, "agent_id")
    step.failed = failed
    _fill_request(step, attributes)
    if failed:
        _fill_failure(step, attributes)
    else:
        step.reported_nano = reported_nano(attributes.get("cost_usd"))
    return step


def _tool_log(log: LogEvent) -> Step:
    attributes = log.attributes
    step = log_step(log, _NAME, Kind.TOOL, _session(attributes))
    step.agent = _agent(attributes)
    step.agent_id = text(attributes, "agent_id")
    step.operation = "execute_tool"
    step.tool = text(attributes, "tool_name")
    _fill_call_id(step, attributes)
    step.arguments = as_text(attributes.get("tool_input") or attributes.get("tool_parameters"))
    step.result_size = whole(attributes.get("tool_result_size_bytes"))
    step.failed = flag_told(attributes.get("success")) is False
    if step.failed:
        _fill_tool_failure(step, attributes)
    return step


def _fill_request(step: Step, attributes: Attributes) -> None:
    """Model, usage, terms and joins: the same keys on spans and log events."""
    get = attributes.get
    step.operation = "chat"
    step.provider = _PROVIDERS.get(text(attributes, "anthropic.provider") or "") or (
        text(attributes, "gen_ai.provider.name", "gen_ai.system") or "anthropic"
    )
    step.requested_model = text(attributes, "model", "gen_ai.request.model")
    told = Counts(
        input=get("input_tokens"),
        output=get("output_tokens"),
        cache_read=get("cache_read_tokens"),
        cache_write=get("cache_creation_tokens"),
        cache_write_5m=get("cache_creation_5m_tokens"),
        cache_write_1h=get("cache_creation_1h_tokens"),
    )
    step.usage, step.basis, step.problem = settle(told, convention=Basis.EXCLUSIVE, provider="anthropic")
    step.attempts = max(whole(get("attempt")) or 1, 1)
    if text(attributes, "speed") == "fast":
        step.terms = Terms(speed="fast")
    # Request ids are told by both voices, but a proxy may give the same one to every request: a hint, not an identity.
    mark = f"{_NAME}:{step.session}:"
    hints = [f"{mark}{request}"] if (request := text(attributes, "request_id")) else []
    if step.failed:
        hints.append(f"{mark}failed:{step.requested_model}")
    elif step.usage is not None:
        counts = (get(key) for key in ("input_tokens", "output_tokens", "cache_read_tokens", "cache_creation_tokens"))
        hints.append(f"{mark}{step.requested_model}:{':'.join(map(str, counts))}")
    step.hints = tuple(hints)


# `anthropic.provider` of the newer CLI: who serves, whatever gen_ai.provider.name says.
_PROVIDERS: Final = {
    "firstParty": "anthropic",
    "bedrock": "aws.bedrock",
    "vertex": "gcp.vertex_ai",
    "foundry": "azure.ai.inference",
}


def _fill_failure(step: Step, attributes: Attributes) -> None:
    step.status_code = status_code(attributes)
    step.error_type = text(attributes, "error.type", "error_type") or (
        str(step.status_code) if step.status_code is not None else None
    )
    step.error_message = text(attributes, "error", "error_message")


def _fill_tool_failure(step: Step, attributes: Attributes) -> None:
    """By default only the class of an error is told; it is a type, and must not hide another record's message."""
    step.error_type = text(attributes, "error_class", "error_type", "error.type")
    message = text(attributes, "error")
    if message is not None and " " in message:
        step.error_message = message
    else:
        step.error_type = step.error_type or message


def _fill_call_id(step: Step, attributes: Attributes) -> None:
    step.tool_call_id = text(attributes, "tool_use_id", "gen_ai.tool.call.id")
    if step.tool_call_id is not None:
        step.ids = (f"tool_call:{step.tool_call_id}",)


def _session(attributes: Attributes) -> str | None:
    # A sub-agent's gen_ai.conversation.id is its own; session.id is the run's.
    return text(attributes, "session.id", "gen_ai.conversation.id")


def _agent(attributes: Attributes) -> str | None:
    """The sub-agent's type; None for the main thread."""
    source = text(attributes, "query_source", "query_source_safe") or ""
    told = text(attributes, "agent.name", "gen_ai.agent.name")
    return told or (source.rpartition(":")[2] or None if source.startswith("agent:") else None)


_COUNTER: Final = Counter(
    dialect=_NAME,
    name="claude_code.token.usage",
    type_key="type",
    parts={"input": "input", "output": "output", "cacheRead": "cache_read", "cacheCreation": "cache_write"},
    cost="claude_code.cost.usage",
    basis=Basis.EXCLUSIVE,
    provider="anthropic",
)


def read_metric(point: MetricPoint) -> Measure | None:
    """Tokens by type, and the CLI's own idea of their cost; cache writes come as one sum, whatever their lifetime."""
    measure = _COUNTER.read(point)
    provider = _PROVIDERS.get(text(point.attributes, "anthropic.provider") or "")
    return measure if measure is None or provider is None else replace(measure, provider=provider)


register(
    Dialect(
        name=_NAME,
        scopes=("com.anthropic.claude_code",),
        keys=("claude_code.",),
        span=read_span,
        log=read_log,
        metric=read_metric,
    )
)
