"""Hook dialect `claude`: Claude Code, over HTTP or by the client.

Seen with 2.1.330. `continue: false` before a tool runs the tool once more unless
the same answer denies it; after a failed tool it is ignored, and the event after
the batch is where it works. At Stop any words make the agent go on. A refused
switch of models leaves the session with the model that it had; only a person at
the terminal can be asked about one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from otel_cost.core.decide import Verb
from otel_cost.core.hooks import NOTHING, HookDialect, register
from otel_cost.core.hooks._claude import block, context, end, envelope, fill_common, output_text
from otel_cost.core.hooks._payload import tells_failure, text

if TYPE_CHECKING:
    from otel_cost.core.decide import Decision
    from otel_cost.core.model.event import HookEvent


def fill(event: HookEvent, payload: dict[str, Any]) -> bool:
    """Sub-agents share their parent's session and are told apart by `agent_id`."""
    if not fill_common(event, payload):
        return False
    if event.name == "PostToolUse":
        response = payload.get("tool_response")
        event.result = output_text(response)
        if tells_failure(response) and event.result:
            event.failed, event.error = True, event.result
    event.unattended, event.former_model = payload.get("source") == "sdk", text(payload, "from_model")
    return True


def answer(event: HookEvent, decision: Decision) -> dict[str, Any]:
    """In one envelope before a tool, at the top level elsewhere."""
    match decision.verb, event.event:
        case Verb.WARN, _:
            return context(event, decision)
        case Verb.DENY, "model_switch":
            return block(decision)
        case Verb.ASK, "model_switch" if event.unattended:
            return block(decision)
        case Verb.ASK, _:
            return envelope(event, "ask", decision)
        case Verb.DENY, "before_tool":
            return envelope(event, "deny", decision)
        case Verb.DENY, "prompt":
            return block(decision)
        case Verb.STOP, "before_tool":
            return envelope(event, "deny", decision) | end(decision)
        case Verb.STOP, "permission":
            refusal = {"behavior": "deny", "message": decision.words, "interrupt": True}
            return {"hookSpecificOutput": {"hookEventName": event.name, "decision": refusal}}
        case Verb.STOP, _:
            return end(decision)
    return {}


register(
    HookDialect(
        name="claude",
        harness="claude_code",
        events={
            "SessionStart": ("session_start", frozenset({Verb.WARN})),
            "UserPromptSubmit": ("prompt", frozenset({Verb.WARN, Verb.DENY, Verb.STOP})),
            "PreToolUse": ("before_tool", frozenset({Verb.WARN, Verb.ASK, Verb.DENY, Verb.STOP})),
            "PermissionRequest": ("permission", frozenset({Verb.STOP})),
            "PostToolUse": ("after_tool", frozenset({Verb.WARN, Verb.STOP})),
            "PostToolUseFailure": ("after_tool", frozenset({Verb.WARN})),
            "PostToolBatch": ("after_batch", frozenset({Verb.WARN, Verb.STOP})),
            "SubagentStart": ("agent_start", frozenset()),
            "SubagentStop": ("agent_stop", frozenset()),
            "Stop": ("stop", frozenset()),
            "StopFailure": ("stop", frozenset()),
            "SessionEnd": ("session_end", frozenset()),
            "Notification": NOTHING,
            "MessageDisplay": NOTHING,
            "PreCompact": NOTHING,
            "PreModelSwitch": ("model_switch", frozenset({Verb.ASK, Verb.DENY})),
            "PostModelSwitch": ("model_switched", frozenset()),
        },
        fill=fill,
        answer=answer,
    )
)
