"""Hook dialect `qwen`: Qwen Code, over HTTP.

Seen with 0.24.4. It asks with a prompt event before every model call, with an
empty prompt from the second on: only there can a run be ended. `continue: false`
at Stop makes it go on, context before a tool is ignored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from otel_cost.core.decide import Verb
from otel_cost.core.hooks import NOTHING, HookDialect, register
from otel_cost.core.hooks._claude import block, context, end, envelope, fill_common
from otel_cost.core.hooks._payload import as_text, framed_failure, mapping, said_text, text

if TYPE_CHECKING:
    from otel_cost.core.decide import Decision
    from otel_cost.core.model.event import HookEvent


def fill(event: HookEvent, payload: dict[str, Any]) -> bool:
    """`tool_call_id` is the model's own; `tool_use_id` is made up locally."""
    if not fill_common(event, payload):
        return False
    if event.event == "prompt" and payload.get("prompt") == "":
        event.event = "before_model"
    if event.name == "PostToolUse":
        response = mapping(payload, "tool_response")
        event.result = said_text(response.get("llmContent"))
        told = response.get("error")
        error = text(told, "message") or as_text(told) or (framed_failure(event.result) if event.result else None)
        event.failed, event.error = error is not None, error
    elif event.error is not None:
        event.error = framed_failure(event.error) or event.error
    return True


def answer(event: HookEvent, decision: Decision) -> dict[str, Any]:
    """A stop before a tool is a deny; the next prompt event is where it ends."""
    match decision.verb, event.event:
        case Verb.WARN, _:
            return context(event, decision)
        case Verb.ASK, _:
            return envelope(event, "ask", decision)
        case ((Verb.DENY | Verb.STOP), "before_tool"):
            return envelope(event, "deny", decision)
        case Verb.DENY, _:
            return block(decision)
        case Verb.STOP, _:
            return end(decision)
    return {}


register(
    HookDialect(
        name="qwen",
        harness="qwen_code",
        events={
            "SessionStart": ("session_start", frozenset({Verb.WARN})),
            "UserPromptSubmit": ("prompt", frozenset({Verb.WARN, Verb.DENY, Verb.STOP})),
            "PreToolUse": ("before_tool", frozenset({Verb.ASK, Verb.DENY, Verb.STOP})),
            "PostToolUse": ("after_tool", frozenset({Verb.WARN})),
            "PostToolUseFailure": ("after_tool", frozenset()),
            "PostToolBatch": ("after_batch", frozenset({Verb.WARN})),
            "SubagentStart": ("agent_start", frozenset()),
            "SubagentStop": ("agent_stop", frozenset()),
            "Stop": ("stop", frozenset()),
            "StopFailure": ("stop", frozenset()),
            "SessionEnd": ("session_end", frozenset()),
            "InstructionsLoaded": NOTHING,
            "MessageDisplay": NOTHING,
            "Notification": NOTHING,
        },
        fill=fill,
        answer=answer,
    )
)
