"""Payloads: reading what a harness wrote, which may lack anything and hold anything."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

from otel_cost.core.model.attributes import PlainAttributes

if TYPE_CHECKING:
    from otel_cost.core.model.event import HookEvent

_NS_PER_MS: Final = 1_000_000
_MOST_MS: Final = 7 * 86_400_000
_MOST_ATTRIBUTES: Final = 64
_LONGEST_KEY: Final = 200


def text(payload: Any, *keys: str) -> str | None:  # noqa: ANN401  # whatever was sent
    """The first of `keys` that holds a non-empty text."""
    if isinstance(payload, dict):
        for key in keys:
            value = payload.get(key)
            if isinstance(value, str) and value:
                return value
    return None


def mapping(payload: Any, *path: str) -> dict[str, Any]:  # noqa: ANN401
    """The object at a path of keys; an empty one where there is none."""
    for key in path:
        payload = payload.get(key) if isinstance(payload, dict) else None
    return payload if isinstance(payload, dict) else {}


def as_text(value: Any) -> str | None:  # noqa: ANN401
    """Content as text, structures as JSON; None for nothing."""
    if value is None or value in ("", {}, []):
        return None
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def as_object(value: Any) -> Any:  # noqa: ANN401
    """The same, opened where an object or a list is written as JSON in a text."""
    if isinstance(value, str) and value[:1] in {"{", "["}:
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def said_text(value: Any) -> str | None:  # noqa: ANN401
    """A tool's answer as the model reads it: a text, or the texts of a list of parts, else JSON."""
    if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        texts = [part["text"] for part in value if isinstance(part.get("text"), str)]
        if texts:
            return "\n".join(texts)
    return as_text(value)


def whole_characters(value: Any) -> Any:  # noqa: ANN401
    """The same without halves of surrogate pairs, which JSON can spell and no encoding can write."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {whole_characters(key): whole_characters(one) for key, one in value.items()}
    return [whole_characters(one) for one in value] if isinstance(value, list) else value


def set_duration(event: HookEvent, told: Any) -> None:  # noqa: ANN401
    if isinstance(told, (int, float)) and not isinstance(told, bool) and 0 < told < _MOST_MS:
        event.duration_ns = round(told * _NS_PER_MS)


def set_people(event: HookEvent, payload: dict[str, Any]) -> None:
    """Who runs it, and what else is told in `attributes`, for rules that ask; most harnesses tell nothing."""
    names = {"user": "user.id", "team": "team.id", "workflow": "otel_cost.workflow"}
    told: dict[str, object] = {
        key[:_LONGEST_KEY]: value
        for key, value in list(mapping(payload, "attributes").items())[:_MOST_ATTRIBUTES]
        if isinstance(value, str | int | float)
    }
    told |= {name: value for key, name in names.items() if (value := text(payload, key))}
    if event.session:
        told["session.id"] = event.session
    event.attributes = PlainAttributes(told)


def set_traceparent(event: HookEvent, told: Any) -> None:  # noqa: ANN401
    """W3C Trace Context; anything else is ignored."""
    found = _TRACEPARENT.fullmatch(told) if isinstance(told, str) else None
    if found is not None and found[1].strip("0") and found[2].strip("0"):
        event.trace_id, event.parent_span_id = bytes.fromhex(found[1]), bytes.fromhex(found[2])


_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}.*")


# --- Failures that a result tells of -------------------------------------------------------------

_CODES: Final = ("exit_code", "exitCode", "exit", "returncode")


def tells_failure(response: Any) -> bool | None:  # noqa: ANN401
    """Does a structured result say itself that it failed: an exit code, MCP's `isError`? None: it says nothing."""
    told = mapping(as_object(response))
    for flag in ("isError", "is_error"):
        if isinstance(told.get(flag), bool):
            return bool(told[flag])
    for holder in (told, mapping(told, "metadata")):
        for key in _CODES:
            code = holder.get(key)
            if isinstance(code, int) and not isinstance(code, bool):
                return code != 0
    return None


# --- Failures told only in the text of a result --------------------------------------------------

_FIRST_LINE: Final = re.compile(
    r"\s*(?:error\b|traceback \(most recent|exception\b|fatal\b|failure:|panic:)", re.IGNORECASE
)
_LAST_LINES: Final = re.compile(
    r"^(?:[\w.]+(?:Error|Exception)\b(?::|$)|(?:/\S+|\w+): (?:line \d+: )?.*"
    r"(?:command not found|No such file or directory|Permission denied|cannot access|not found)$"
    r"|(?:FAILED|FAIL|ERROR)\b|=+ .*\b\d+ (?:failed|errors?)\b.*=+$"
    r"|npm ERR!|make(?:\[\d+\])?: \*\*\* |error(?:\[\w+\])?: )",
    re.MULTILINE,
)


def reads_failed(result: str) -> bool:
    """Does a command's output read as a failure? Asked only where the harness tells no exit code."""
    if _FIRST_LINE.match(result):
        return True
    return _LAST_LINES.search("\n".join(result.rstrip().splitlines()[-3:])) is not None


_FRAME_CODE: Final = re.compile(r"^Exit Code: *(-?\d+)", re.MULTILINE)
_FRAME_ERROR: Final = re.compile(r"^Error: *(?!\(none\))(\S.*)", re.MULTILINE)
_FRAME_OUTPUT: Final = re.compile(
    r"^Output: ?(.*?)(?=^(?:Error|Exit Code|Signal|Background PIDs|Process Group PGID): ?|\Z)", re.MULTILINE | re.DOTALL
)


def framed_failure(said: str) -> str | None:
    """The words of a failed command in the frame of Gemini CLI's shell tool; None: it went well."""
    code, error = _FRAME_CODE.search(said), _FRAME_ERROR.search(said)
    if (code is None or not int(code[1])) and error is None:
        return None
    output = _FRAME_OUTPUT.search(said)
    words = [output[1].strip() if output else "", error[1].strip() if error else ""]
    return "\n".join(word for word in words if word and word != "(empty)") or (
        f"Exit Code: {code[1]}" if code else said
    )
