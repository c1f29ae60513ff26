"""Cursor: `hooks.json`, by the client. Written from its documents and untested, as its dialect is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from otel_cost.edge.harness import Harness, Setup, State, home, is_ours, register
from otel_cost.edge.harness._json_text import append, parse, remove

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_EVENTS: Final = (
    "sessionStart",
    "beforeSubmitPrompt",
    "preToolUse",
    "postToolUse",
    "postToolUseFailure",
    "subagentStart",
)
_EMPTY: Final = '{\n  "version": 1\n}\n'


def _path(environ: Mapping[str, str]) -> Path:
    return home(environ, "CURSOR_CONFIG_DIR", ".cursor") / "hooks.json"


def _is_ours(hook: Any) -> bool:  # noqa: ANN401  # whatever the user wrote
    return isinstance(hook, dict) and is_ours(hook.get("command"), "cursor")


def _standing(text: str) -> dict[str, list[Any]]:
    """Our hooks by event."""
    root = parse(text).value if text.strip() else {}
    hooks = root.get("hooks") if isinstance(root, dict) else None
    found = hooks.items() if isinstance(hooks, dict) else ()
    ours = {event: [hook for hook in listed if _is_ours(hook)] for event, listed in found if isinstance(listed, list)}
    return {event: listed for event, listed in ours.items() if listed}


def _install(text: str, setup: Setup) -> str:
    # It has no limit that is written in one unit everywhere: the client itself gives up in time.
    hook = {"command": setup.client("cursor")}
    text = text if text.strip() else _EMPTY
    standing = _standing(text)
    for event in dict.fromkeys((*_EVENTS, *standing)):
        ours = standing.get(event, [])
        if ours and (event not in _EVENTS or ours != [hook]):
            text = remove(text, ("hooks", event), _is_ours)
        if event in _EVENTS and ours != [hook]:
            text = append(text, ("hooks", event), hook)
    return text


def _uninstall(text: str, _setup: Setup) -> str | None:
    for event in _standing(text):
        text = remove(text, ("hooks", event), _is_ours)
    return None if parse(text).value in ({}, {"version": 1}) else text


def _state(text: str, _setup: Setup) -> State:
    standing = _standing(text)
    notes = ("written from Cursor's documents, untested",) if standing else ()
    return State(bool(standing), all(len(standing.get(event, ())) == 1 for event in _EVENTS), tuple(standing), notes)


register(
    Harness(
        name="cursor",
        title="Cursor",
        path=_path,
        install=_install,
        uninstall=_uninstall,
        state=_state,
        advice="Untested: written from Cursor's documents. A stop denies each tool and refuses the next prompt.",
    )
)
