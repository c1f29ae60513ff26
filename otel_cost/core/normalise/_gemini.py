"""Log events of Gemini CLI and of its fork Qwen Code: the same shapes under two prefixes.

They are the complete record of a model call: the spans, where there are any,
leave thinking and cached tokens out. Records of answers bear no trace id and no
call bears an id, so records and spans are paired by hints.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Final

from otel_cost.core.model.attributes import text
from otel_cost.core.model.vocabulary import Basis, Kind
from otel_cost.core.normalise._log import flag_told, log_step
from otel_cost.core.normalise._read import as_text, names, opened, opened_map, status_code
from otel_cost.core.normalise._usage import Counts, settle, whole

if TYPE_CHECKING:
    from otel_cost.core.model.attributes import Attributes, Value
    from otel_cost.core.model.event import LogEvent
    from otel_cost.core.model.step import Step


def read_event(log: LogEvent, dialect: str, event: str) -> Step | None:
    """The step of `api_response`, `api_error`, `api_retry` or `tool_call`; `event` is the name without its prefix."""
    match event:
        case "api_response":
            return _answer(log, dialect)
        case "api_error":
            step = _failure(log, dialect)
            step.hints = (failure_hint(step),)
            return step
        case "api_retry":
            return _failure(log, dialect)  # a try that no span tells of
        case "tool_call":
            return _tool(log, dialect)
    return None


def _call(log: LogEvent, dialect: str) -> Step:
    attributes = log.attributes
    step = log_step(log, dialect, Kind.INFERENCE, session_of(attributes))
    step.operation = "chat"
    step.requested_model = text(attributes, "model", "model_name")
    step.provider = provider_of(attributes)
    step.status_code = status_code(attributes)
    step.agent = text(attributes, "subagent_name")
    return step


def _answer(log: LogEvent, dialect: str) -> Step:
    attributes = log.attributes
    step = _call(log, dialect)
    step.response_model = step.requested_model
    if (answer := text(attributes, "response_id")) is not None:
        step.ids = (f"response:{answer}",)
    step.usage, step.basis, step.problem = settle(counts_of(attributes), convention=Basis.INCLUSIVE)
    step.finish_reasons = names(attributes.get("finish_reasons"))
    step.hints = (usage_hint(step, attributes.get("input_token_count"), attributes.get("output_token_count")),)
    return step


def counts_of(attributes: Attributes) -> Counts:
    """What an answer's event counts.

    Gemini's own API keeps thoughts and tool prompts out of its input and output
    counts; an OpenAI-compatible server behind Qwen Code may keep thoughts within.
    The total tells which.
    """
    get = attributes.get
    told_in, told_out = whole(get("input_token_count")), whole(get("output_token_count"))
    thoughts, tool = whole(get("thoughts_token_count")) or 0, whole(get("tool_token_count")) or 0
    told = Counts(
        input=get("input_token_count"),
        output=get("output_token_count"),
        cache_read=get("cached_content_token_count"),
        reasoning=get("thoughts_token_count"),
    )
    if told_in is None or told_out is None or min(told_in, told_out, thoughts, tool) < 0:
        return told
    total = whole(get("total_token_count"))
    if thoughts and (thoughts > told_out or total != told_in + told_out):
        told["output"] = told_out + thoughts
    if tool and total != told_in + told_out + thoughts:
        told["input"] = told_in + tool
    return told


def _failure(log: LogEvent, dialect: str) -> Step:
    attributes = log.attributes
    step = _call(log, dialect)
    step.failed = True
    step.error_type = text(attributes, "error_type", "error.type") or (
        str(step.status_code) if step.status_code is not None else None
    )
    step.error_message = text(attributes, "error", "error_message", "error.message")
    return step


def _tool(log: LogEvent, dialect: str) -> Step:
    attributes = log.attributes
    step = log_step(log, dialect, Kind.TOOL, session_of(attributes))
    step.operation = "execute_tool"
    step.agent = text(attributes, "subagent_name")
    step.tool = text(attributes, "function_name")
    step.tool_call_id = text(attributes, "call_id", "gen_ai.tool.call.id")
    if step.tool_call_id is not None:
        step.ids = (f"tool_call:{step.tool_call_id}",)
    step.arguments = as_text(attributes.get("function_args"))
    step.result_size = whole(attributes.get("content_length"))
    outcome = opened_map(attributes.get("metadata"))
    told_failed = flag_told(attributes.get("success")) is False
    # A command that exits 1 is a success to the CLI; what it knows better it puts into the metadata.
    step.failed = told_failed or outcome.get("isError") is True or bool(outcome.get("exitCode"))
    if step.failed:
        step.error_type = text(attributes, "error_type") or exit_type(outcome.get("exitCode"))
        step.error_message = text(attributes, "error", "error_message")
    step.hints = tool_hints(step)
    return step


def exit_type(code: Value) -> str | None:
    """An error type for a command's exit code."""
    told = whole(code)
    return f"exit_code_{told}" if told else None


def session_of(attributes: Attributes) -> str | None:
    return text(attributes, "session.id", "gen_ai.conversation.id")


def provider_of(attributes: Attributes) -> str | None:
    """Who serves, as far as the way of logging in tells."""
    return _AUTH.get(text(attributes, "auth_type") or "")


_AUTH: Final = {
    "gemini-api-key": "gcp.gemini",
    "oauth-personal": "gcp.gemini",
    "cloud-shell": "gcp.gemini",
    "compute-default-credentials": "gcp.gemini",
    "vertex-ai": "gcp.vertex_ai",
}


# Hints: what the span and the event of one call have in common. Both tell the raw counts.


def usage_hint(step: Step, told_in: Value, told_out: Value) -> str:
    return f"{step.dialect}:{step.session}:{whole(told_in)}:{whole(told_out)}"


def failure_hint(step: Step) -> str:
    return f"{step.dialect}:{step.session}:failed"


def tool_hints(step: Step) -> tuple[str, ...]:
    """By tool and arguments, where they are told, before by tool alone; hints are tried in alphabetical order."""
    mark = f"{step.dialect}:{step.session}:tool"
    by_name = f"{mark}~:{step.tool}"
    arguments = opened(step.arguments)
    if not isinstance(arguments, dict):
        return (by_name,)
    canonical = json.dumps(arguments, sort_keys=True).encode()
    return f"{mark}:{step.tool}:{hashlib.blake2b(canonical, digest_size=8).hexdigest()}", by_name
