"""What Claude Code, Codex and Qwen Code have in common: one shape of payload, one envelope."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from otel_cost.core.hooks._payload import (
    as_object,
    as_text,
    mapping,
    said_text,
    set_duration,
    set_people,
    set_traceparent,
    tells_failure,
    text,
)

if TYPE_CHECKING:
    from otel_cost.core.decide import Decision
    from otel_cost.core.model.event import HookEvent


def fill_common(event: HookEvent, payload: dict[str, Any]) -> bool:
    """Session, agent, tool and its arguments; False without a session."""
    session = text(payload, "session_id")
    if session is None:
        return False
    event.session = session
    event.agent_id, event.agent = text(payload, "agent_id"), text(payload, "agent_type")
    event.model = text(payload, "model", "to_model")
    fill_call(event, payload)
    calls = payload.get("tool_calls")
    if isinstance(calls, list) and len(calls) == 1 and isinstance(calls[0], dict):
        fill_call(event, calls[0])
    set_duration(event, payload.get("duration_ms"))
    set_traceparent(event, payload.get("traceparent"))
    set_people(event, payload)
    return True


def fill_call(event: HookEvent, payload: dict[str, Any]) -> None:
    event.tool = text(payload, "tool_name")
    event.tool_call_id = text(payload, "tool_call_id", "tool_use_id")
    event.arguments = as_text(payload.get("tool_input"))
    error = payload.get("error")
    if event.tool is not None and error:
        event.failed, event.error = True, as_text(error)


def output_text(response: Any) -> str | None:  # noqa: ANN401  # whatever the tool returned
    """What a tool returned, as text: a shell's two streams one after the other, the texts of an MCP result."""
    told = mapping(as_object(response))
    if "stdout" in told or "stderr" in told:
        return "\n".join(stream for key in ("stdout", "stderr") if (stream := text(told, key))) or None
    if tells_failure(told) is not None and (said := said_text(told.get("content", told.get("output")))):
        return said
    return said_text(response)


def envelope(event: HookEvent, verb: str, decision: Decision) -> dict[str, Any]:
    """A permission decision at the event before a tool."""
    return {
        "hookSpecificOutput": {
            "hookEventName": event.name,
            "permissionDecision": verb,
            "permissionDecisionReason": decision.words,
        }
    }


def context(event: HookEvent, decision: Decision) -> dict[str, Any]:
    """Words for the model beside whatever happens."""
    return {"hookSpecificOutput": {"hookEventName": event.name, "additionalContext": decision.words}}


def block(decision: Decision) -> dict[str, Any]:
    return {"decision": "block", "reason": decision.words}


def end(decision: Decision) -> dict[str, Any]:
    return {"continue": False, "stopReason": decision.words}
