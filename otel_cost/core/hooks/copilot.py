"""Hook dialect `copilot`: GitHub Copilot CLI, by the client.

Seen with 1.0.102. Only an interrupting refusal of a permission request ends a run,
and a denied tool never comes to that request: a stop lets a call pass for which
the harness is known to ask leave, and denies every other. Calls bear no id;
`traceparent` names the agent's span.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from otel_cost.core.decide import Verb
from otel_cost.core.hooks import NOTHING, HookDialect, register
from otel_cost.core.hooks._payload import as_object, as_text, mapping, set_people, set_traceparent, text

if TYPE_CHECKING:
    from otel_cost.core.decide import Decision
    from otel_cost.core.model.event import HookEvent

_EXIT: Final = re.compile(r"\s*<[^<>\n]*\bexit code:? (-?\d+)[^<>\n]*>\s*$")


def fill(event: HookEvent, payload: dict[str, Any]) -> bool:
    """A sub-agent has a session of its own, except where it asks for permission."""
    session = text(payload, "sessionId")
    if session is None:
        return False
    parent = text(payload, "parentAgentId")
    event.agent_id, event.agent = text(payload, "agentId"), text(payload, "agentType", "agentName")
    event.session = session
    if parent is not None and event.agent_id and event.event not in {"agent_start", "agent_stop"}:
        event.session, event.parent_session, event.agent_id = event.agent_id, parent, None
    event.tool = text(payload, "toolName")
    arguments = payload.get("toolArgs", payload.get("toolInput"))
    event.arguments = as_text(as_object(arguments))
    set_traceparent(event, payload.get("traceparent"))
    set_people(event, payload)
    if event.event == "after_tool":
        result = mapping(payload, "toolResult")
        said = text(result, "textResultForLlm") or ""
        code = _EXIT.search(said)
        event.result = (said[: code.start()] if code else said) or None
        event.failed = (code is not None and int(code[1]) != 0) or text(result, "resultType") not in {None, "success"}
        if event.failed:
            event.error = event.result or text(result, "resultType")
    return True


def answer(event: HookEvent, decision: Decision) -> dict[str, Any]:
    """Flat objects: the envelope of its relatives does nothing here."""
    match decision.verb, event.event:
        case Verb.WARN, _:
            return {"additionalContext": decision.words}
        case Verb.ASK, _:
            return {"permissionDecision": "ask", "permissionDecisionReason": decision.words}
        case Verb.STOP, "before_tool" if decision.defer:
            return {}
        case ((Verb.DENY | Verb.STOP), "before_tool"):
            return {"permissionDecision": "deny", "permissionDecisionReason": decision.words}
        case Verb.DENY, "permission":
            return {"behavior": "deny", "message": decision.words}
        case Verb.STOP, "permission":
            return {"behavior": "deny", "message": decision.words, "interrupt": True}
        case ((Verb.DENY | Verb.STOP), "prompt"):
            return {"decision": "block", "reason": decision.words}
    return {}


register(
    HookDialect(
        name="copilot",
        harness="copilot",
        events={
            "sessionStart": ("session_start", frozenset({Verb.WARN})),
            "userPromptSubmitted": ("prompt", frozenset({Verb.WARN, Verb.DENY, Verb.STOP})),
            "preToolUse": ("before_tool", frozenset({Verb.WARN, Verb.ASK, Verb.DENY, Verb.STOP})),
            "permissionRequest": ("permission", frozenset({Verb.DENY, Verb.STOP})),
            "postToolUse": ("after_tool", frozenset({Verb.WARN})),
            "subagentStart": ("agent_start", frozenset()),
            "subagentStop": ("agent_stop", frozenset()),
            "agentStop": ("stop", frozenset()),
            "sessionEnd": ("session_end", frozenset()),
            "errorOccurred": NOTHING,
            "notification": NOTHING,
        },
        fill=fill,
        answer=answer,
    )
)
