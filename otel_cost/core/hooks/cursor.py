"""Hook dialect `cursor`: Cursor, by the client. Written from its documents and untested: it was never seen running.

A stop denies every tool and sub-agent and refuses the next prompt; nothing else is said to end a turn, and a
`followup_message` at its end would begin another one. Only the events of any tool are installed: shell commands and
MCP calls have events of their own beside them, which are read where somebody sends them instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from otel_cost.core.decide import Verb
from otel_cost.core.hooks import NOTHING, HookDialect, register
from otel_cost.core.hooks._payload import as_object, as_text, reads_failed, said_text, set_duration, set_people, text

if TYPE_CHECKING:
    from otel_cost.core.decide import Decision
    from otel_cost.core.model.event import HookEvent

_SHELL: Final = frozenset({"beforeShellExecution", "afterShellExecution"})


def fill(event: HookEvent, payload: dict[str, Any]) -> bool:
    """A conversation is the session; a generation is one prompt with all that follows from it."""
    session = text(payload, "conversation_id", "session_id")
    if session is None:
        return False
    event.session = session
    event.model = text(payload, "model")
    event.agent, event.agent_id = text(payload, "subagent_type"), text(payload, "subagent_id")
    event.tool, event.tool_call_id = text(payload, "tool_name"), text(payload, "tool_use_id")
    arguments = payload.get("tool_input")
    if event.name in _SHELL:
        event.tool, arguments = "Shell", {"command": payload.get("command")}
    event.arguments = as_text(as_object(arguments))
    set_duration(event, payload.get("duration", payload.get("duration_ms")))
    set_people(event, {**payload, "user": payload.get("user") or payload.get("user_email")})
    if event.event == "after_tool":
        said = next((payload[key] for key in ("tool_output", "result_json", "output") if key in payload), None)
        event.result = said_text(as_object(said))
        event.error = as_text(payload.get("error_message"))
        if event.error is None and event.name in _SHELL and event.result and reads_failed(event.result):
            event.error = event.result
        event.failed = event.error is not None
    return True


def answer(event: HookEvent, decision: Decision) -> dict[str, Any]:
    """Refusals of tools and of prompts are written differently."""
    match decision.verb, event.event:
        case Verb.WARN, _:
            return {"additional_context": decision.words}
        case ((Verb.DENY | Verb.STOP), ("prompt" | "session_start")):
            return {"continue": False, "user_message": decision.words}
        case ((Verb.DENY | Verb.STOP), _):
            return {"permission": "deny", "user_message": decision.words, "agent_message": decision.words}
    return {}


_REFUSES: Final = frozenset({Verb.DENY, Verb.STOP})

register(
    HookDialect(
        name="cursor",
        harness="cursor",
        events={
            "sessionStart": ("session_start", frozenset({Verb.WARN, Verb.STOP})),
            "beforeSubmitPrompt": ("prompt", _REFUSES),
            "preToolUse": ("before_tool", _REFUSES),
            "beforeShellExecution": ("before_tool", _REFUSES),
            "beforeMCPExecution": ("before_tool", _REFUSES),
            "postToolUse": ("after_tool", frozenset({Verb.WARN})),
            "postToolUseFailure": ("after_tool", frozenset()),
            "afterShellExecution": ("after_tool", frozenset()),
            "afterMCPExecution": ("after_tool", frozenset()),
            "subagentStart": ("agent_start", _REFUSES),
            "subagentStop": ("agent_stop", frozenset()),
            "stop": ("stop", frozenset()),
            "sessionEnd": ("session_end", frozenset()),
            "beforeReadFile": NOTHING,
            "afterFileEdit": NOTHING,
            "afterAgentResponse": NOTHING,
            "afterAgentThought": NOTHING,
            "preCompact": NOTHING,
        },
        fill=fill,
        answer=answer,
    )
)
