"""Template: `{{name}}` in the text of a rule stands for what the rule's alert knows when it speaks.

    text: "{{run_id}} has spent {{spent_usd}} of {{limit_usd}} USD. Finish, or ask."

Names are checked when the rules load. What is not known at the time is said to be unknown.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

COMMON: Final = (
    "rule",
    "summary",
    "severity",
    "run_id",
    "tenant",
    "user",
    "team",
    "workflow",
    "agent",
    "cost_usd",
    "wasted_usd",
)
"""What every alert knows."""

_PLACE: Final = re.compile(r"\{\{\s*([\w.:-]+)\s*\}\}")
_LONGEST: Final = 200  # senders choose the values


def placeholders(text: str) -> list[str]:
    r"""The names that a text asks for.

    Raises:
        ValueError: braces that are none; "message\nhint".
    """
    rest = _PLACE.sub("", text)
    if "{{" in rest or "}}" in rest:
        raise ValueError("`{{` without a name and `}}`\nfor example `{{spent_usd}}`")
    return [found[1] for found in _PLACE.finditer(text)]


def filled(text: str, get: Callable[[str], object]) -> str:
    """The text with what is known in place of its names; lists are joined, mappings are told pair by pair."""
    if "{{" not in text:
        return text
    return _PLACE.sub(lambda found: _shown(get(found[1])), text)


def _shown(value: object) -> str:
    if value is None or value in ("", [], {}):
        return "unknown"
    if isinstance(value, dict):
        text = ", ".join(f"{key} {_shown(item)}" for key, item in value.items())
    elif isinstance(value, list | tuple):
        text = " → ".join(_shown(item) for item in value)
    else:
        text = " ".join(str(value).split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
