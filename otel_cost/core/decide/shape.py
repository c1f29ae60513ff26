"""Shape of a tool call: what makes the next try the same call, although a comment or a description differs.

Hashes and sketches only, no content.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from otel_cost.core.detect._shape import error_shape, keyed
from otel_cost.core.detect._sketch import Sketch

if TYPE_CHECKING:
    from otel_cost.core.model.event import HookEvent
    from otel_cost.core.model.step import Step

# Said about a call, not part of it. Harnesses leave them out of some of their events, models reword them.
_REMARKS: Final = frozenset({"description", "explanation", "justification", "is_background"})
_COMMANDS: Final = ("command", "cmd", "script")
# Share of words that two calls have in common to be nearly the same.
_NEAR: Final = 0.6
_MOST: Final = 16 * 1024  # a longer text counts as it is written


class CallShape(NamedTuple):
    """One tool call without its content."""

    tool: str
    exact: str  # of the arguments, comments and remarks left out
    folded: bytes  # paths, numbers, ids and times left out as well
    sketch: Sketch

    def is_same(self, other: CallShape, *, varied: bool) -> bool:
        """Would `other` be the same call again? `varied`: the tries differed before, so details do not count."""
        if self.tool != other.tool:
            return False
        if self.exact == other.exact or self.sketch.near(other.sketch, _NEAR):
            return True
        return varied and self.folded == other.folded


def shape_of(tool: str, arguments: str) -> CallShape:
    """The shape of a call to `tool` with `arguments`, JSON or plain text."""
    value = _essential(arguments)
    text = _as_text(value)
    return CallShape(tool, keyed(text).hex(), keyed(error_shape(text) if len(text) <= _MOST else text), Sketch(value))


def shape_of_event(event: HookEvent) -> CallShape | None:
    """The shape of what a hook event is about; None: it is about no tool, or its arguments are not told.

    A caller that sends a hash in place of arguments is known by that hash alone.
    """
    if event.tool is None:
        return None
    if event.arguments is not None:
        return shape_of(event.tool, event.arguments)
    return None if event.arguments_hash is None else shape_of(event.tool, event.arguments_hash)


def shape_of_step(step: Step) -> CallShape | None:
    """The shape of a tool call while its content is still there; None afterwards."""
    return None if step.tool is None or step.arguments is None else shape_of(step.tool, step.arguments)


def arguments_hash(arguments: str) -> str:
    """Sixteen hex digits that are the same for the same arguments, comments and remarks left out."""
    return keyed(_as_text(_essential(arguments))).hex()


def error_hash(tool: str | None, message: str) -> bytes:
    """What two failures of one tool have in common when they differ in paths, numbers and times only."""
    return keyed(f"{tool}\0{error_shape(message)}")


def _essential(arguments: str) -> Any:  # noqa: ANN401  # whatever the agent wrote
    if len(arguments) > _MOST or arguments[:1] not in {"{", "["}:
        return arguments
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    if not isinstance(value, dict):
        return value
    kept = {key: one for key, one in value.items() if key not in _REMARKS}
    for key in _COMMANDS:
        command = kept.get(key)
        if isinstance(command, str):
            kept[key] = without_comments(command)
        elif isinstance(command, list) and command and isinstance(command[-1], str):
            kept[key] = [*command[:-1], without_comments(command[-1])]
    return kept


def _as_text(value: Any) -> str:  # noqa: ANN401
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, separators=(",", ":"))


def without_comments(command: str) -> str:
    """A shell command without its comments and the white space at the ends of its lines."""
    if "#" in command and len(command) <= _MOST:
        command = "".join(_code(command))
    return "\n".join(line.rstrip() for line in command.strip().splitlines() if line.strip())


def _code(command: str) -> list[str]:
    kept: list[str] = []
    quote, before, commented, escaped = "", "\n", False, False
    for char in command:
        if commented:
            if char != "\n":
                continue
            commented = False
        elif escaped:
            escaped = False
        elif quote:
            escaped = char == "\\" and quote == '"'
            quote = "" if char == quote else quote
        elif char == "\\":
            escaped = True
        elif char in "'\"":
            quote = char
        elif char == "#" and (before.isspace() or before in ";&|("):
            commented = True
            continue
        kept.append(char)
        before = char
    return kept
