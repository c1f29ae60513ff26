"""Claude Code: `settings.json`, over HTTP; the two session events are sent by commands only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from otel_cost.edge.harness import Harness, Setup, State, _settings, home, is_ours, register

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_EVENTS: Final = (
    "UserPromptSubmit",
    "PreToolUse",
    "PostToolUse",
    "PostToolUseFailure",
    "PostToolBatch",
    "SubagentStop",
)
_ROUTE: Final = "/v1/hooks/claude"


def _path(environ: Mapping[str, str]) -> Path:
    return home(environ, "CLAUDE_CONFIG_DIR", ".claude") / "settings.json"


def _hooks(setup: Setup) -> dict[str, dict[str, Any]]:
    told = {"type": "command", "command": setup.client("claude"), "timeout": setup.limit_s}
    asked = {"type": "http", "url": setup.url.rstrip("/") + _ROUTE, "timeout": setup.limit_ms / 1000}
    return {**dict.fromkeys(_EVENTS, told if setup.by_client else asked), "SessionStart": told, "SessionEnd": told}


def _is_ours(hook: dict[str, Any]) -> bool:
    url = hook.get("url")
    return (isinstance(url, str) and url.endswith(_ROUTE)) or is_ours(hook.get("command"), "claude")


def _is_off(root: dict[str, Any]) -> bool:
    return root.get("disableAllHooks") is True


def _install(text: str, setup: Setup) -> str:
    return _settings.install(text, _hooks(setup), _is_ours)


def _uninstall(text: str, _setup: Setup) -> str | None:
    return _settings.uninstall(text, _is_ours)


def _state(text: str, setup: Setup) -> State:
    return _settings.state(text, _hooks(setup), _is_ours, _is_off)


register(Harness(name="claude", title="Claude Code", path=_path, install=_install, uninstall=_uninstall, state=_state))
