"""Shape of a tool call: what makes the next try the same call, although a comment or a description differs.

Hashes and sketches only, no content.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from otel_cost.core.detect._shape import error_shape, essential, keyed
from otel_cost.core.detect._sketch import Sketch

if TYPE_CHECKING:
    from otel_cost.core.model.event import HookEvent
    from otel_cost.core.model.step import Step

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
        if self.exact == other.exact or self.sketch.near(other.sketch):
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
    tool, arguments = event.call
    return None if tool is None or arguments is None else shape_of(tool, arguments)


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
    return essential(value)


def _as_text(value: Any) -> str:  # noqa: ANN401
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, separators=(",", ":"))
