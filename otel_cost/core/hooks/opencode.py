"""Hook dialect `opencode`: the plugin file that `hooks install opencode` writes.

Seen with 1.18.33. The plugin sends `{event, input, output}` of its call, stripped
of provider and keys, and carries out what it is answered: `deny` throws before the
tool, `stop` aborts the session and throws, `warn` adds to the tool's result,
`model` takes the place of the prompt's, `delay_ms` waits. A sub-agent is a session of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from otel_cost.core.decide import Verb
from otel_cost.core.hooks import NOTHING, HookDialect, register
from otel_cost.core.hooks._payload import as_text, mapping, set_duration, set_people, text
from otel_cost.core.model.vocabulary import Basis
from otel_cost.core.normalise._usage import Counts, settle, whole

if TYPE_CHECKING:
    from otel_cost.core.decide import Decision
    from otel_cost.core.model.event import HookEvent


def fill(event: HookEvent, payload: dict[str, Any]) -> bool:
    """Plugin calls name their session in the input, bus events in their properties."""
    given, made = mapping(payload, "input"), mapping(payload, "output")
    properties = mapping(given, "properties")
    message = mapping(made, "message")
    session = text(given, "sessionID") or text(properties, "sessionID") or text(message, "sessionID")
    if session is None and event.event != "other":
        return False
    event.session = session or ""
    event.tool, event.tool_call_id = text(given, "tool"), text(given, "callID")
    event.agent = text(given, "agent") or text(message, "agent")
    model = mapping(given, "model") or mapping(message, "model")
    event.model, event.provider = text(model, "modelID", "id"), text(model, "providerID")
    if event.event == "before_tool":
        event.arguments = as_text(made.get("args"))
    elif event.event == "after_tool":
        _fill_result(event, given, made)
    info = mapping(properties, "info")
    if event.name == "event:message.updated":
        _fill_message(event, info)
    elif event.event == "session_start":
        event.parent_session = text(info, "parentID")
    set_people(event, payload)
    if event.event in {"before_tool", "after_tool"}:
        event.agent = None  # the plugin names none there, and a session has one agent
    return True


def _fill_result(event: HookEvent, given: dict[str, Any], made: dict[str, Any]) -> None:
    event.arguments = as_text(given.get("args"))
    event.result = text(made, "output")
    metadata = mapping(made, "metadata")
    error = text(metadata, "error") or text(made, "error")
    code = whole(metadata.get("exit"))
    event.failed = bool(code) or error is not None
    if event.failed:
        event.error = error or event.result or f"exit {code}"


def _fill_message(event: HookEvent, info: dict[str, Any]) -> None:
    """A finished answer with its tokens; the event comes again for the same message."""
    times = mapping(info, "time")
    began, ended = times.get("created"), times.get("completed")
    if text(info, "role") != "assistant" or not isinstance(began, int) or not isinstance(ended, int):
        event.event = "other"
        return
    event.call_id = text(info, "id")
    event.model, event.provider = text(info, "modelID"), text(info, "providerID")
    event.agent = text(info, "agent", "mode")
    set_duration(event, ended - began)
    error = mapping(info, "error")
    if error:
        event.failed, event.error = True, text(mapping(error, "data"), "message") or text(error, "name")
    tokens = mapping(info, "tokens")
    cache = mapping(tokens, "cache")
    told = [whole(tokens.get(key)) or 0 for key in ("input", "output", "reasoning")]
    if not any(told):
        return
    parts = told[0] + told[1] + (whole(cache.get("read")) or 0) + (whole(cache.get("write")) or 0)
    total = whole(tokens.get("total"))
    event.usage, _, _ = settle(
        Counts(
            input=tokens.get("input"),
            output=tokens.get("output"),
            cache_read=cache.get("read"),
            cache_write=cache.get("write"),
            reasoning=tokens.get("reasoning"),
        ),
        convention=Basis.EXCLUSIVE,
        reasoning_outside=bool(told[2]) and (total == parts + told[2] or told[2] > told[1]),
    )


def answer(_event: HookEvent, decision: Decision) -> dict[str, Any]:
    """One key, which the plugin carries out."""
    match decision.verb:
        case Verb.WARN:
            return {"warn": decision.words}
        case Verb.DELAY:
            return {"delay_ms": decision.delay_ms or 0}
        case Verb.DOWNGRADE:
            return {"model": decision.model}
        case Verb.DENY:
            return {"deny": decision.words}
        case Verb.STOP:
            return {"stop": decision.words}
    return {}


register(
    HookDialect(
        name="opencode",
        harness="opencode",
        events={
            "event:session.created": ("session_start", frozenset()),
            "chat.message": ("prompt", frozenset({Verb.DELAY, Verb.DOWNGRADE, Verb.DENY, Verb.STOP})),
            "chat.params": ("before_model", frozenset({Verb.STOP})),
            "event:message.updated": ("after_model", frozenset()),
            "tool.execute.before": ("before_tool", frozenset({Verb.DELAY, Verb.DENY, Verb.STOP})),
            "tool.execute.after": ("after_tool", frozenset({Verb.WARN, Verb.STOP})),
            "event:session.idle": ("stop", frozenset()),
            "event:session.error": NOTHING,
            "event:session.status": NOTHING,
            "event:session.updated": NOTHING,
            "event:session.diff": NOTHING,
            "chat.headers": NOTHING,
            "experimental.chat.messages.transform": NOTHING,
            "experimental.chat.system.transform": NOTHING,
            "experimental.text.complete": NOTHING,
            "shell.env": NOTHING,
        },
        fill=fill,
        answer=answer,
    )
)
