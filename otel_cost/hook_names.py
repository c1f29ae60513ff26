"""Names of hook events: what a payload calls itself, for those who must know it before anything heavy is imported.

Only the standard library: the hook client reads this within its few milliseconds.
"""

from __future__ import annotations

from typing import Any

DIALECTS = ("claude", "codex", "gemini", "qwen", "copilot", "opencode", "cursor", "neutral")


def event_name(dialect: str, payload: dict[str, Any]) -> str:
    """The harness's own name of the event; "" where the payload is none of its.

    Copilot's payloads and opencode's plugin calls do not name themselves: their keys do.
    """
    if dialect == "copilot":
        return _copilot(payload)
    if dialect == "opencode":
        return _opencode(payload)
    name = payload.get("event" if dialect == "neutral" else "hook_event_name")
    return name if isinstance(name, str) else ""


def _copilot(payload: dict[str, Any]) -> str:
    said = payload.get("hookName")
    if isinstance(said, str) and said:
        return said
    for key, name in _COPILOT:
        if key in payload:
            return name
    if "toolName" in payload:
        return "preToolUse"
    if "agentName" in payload:
        return "subagentStop" if "stopReason" in payload or "response" in payload else "subagentStart"
    return "agentStop" if "stopReason" in payload else ""


_COPILOT = (
    ("notification_type", "notification"),
    ("toolResult", "postToolUse"),
    ("toolInput", "permissionRequest"),
    ("errorContext", "errorOccurred"),
    ("initialPrompt", "sessionStart"),
    ("source", "sessionStart"),
    ("prompt", "userPromptSubmitted"),
    ("reason", "sessionEnd"),
)


def _opencode(payload: dict[str, Any]) -> str:
    said = payload.get("event")
    given, made = payload.get("input"), payload.get("output")
    given = given if isinstance(given, dict) else {}
    made = made if isinstance(made, dict) else {}
    if isinstance(said, str) and said not in {"", "event"}:
        return said
    if isinstance(given.get("type"), str):
        return f"event:{given['type']}"
    if "tool" in given:
        return "tool.execute.before" if "args" in made and "args" not in given else "tool.execute.after"
    for key, name in _OPENCODE:
        if key in made:
            return name
    return ""


_OPENCODE = (
    ("message", "chat.message"),
    ("maxOutputTokens", "chat.params"),
    ("temperature", "chat.params"),
    ("headers", "chat.headers"),
    ("messages", "experimental.chat.messages.transform"),
    ("system", "experimental.chat.system.transform"),
    ("env", "shell.env"),
    ("text", "experimental.text.complete"),
)
