"""Claude Code: `settings.json`. What can be refused is asked by our client, the rest is told over HTTP.

The client remembers a standing stop while nobody answers; HTTP takes 2 ms in place
of some 30. The two session events are sent to commands only. A hook before a switch
of models that runs into its time-out blocks the switch: the client gives up long before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from otel_cost.edge.harness import Harness, Setup, State, _settings, home, is_ours, register

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_ASKED: Final = ("SessionStart", "UserPromptSubmit", "PreToolUse", "PreModelSwitch", "SessionEnd")
_TOLD: Final = ("PostToolUse", "PostToolUseFailure", "PostToolBatch", "PostModelSwitch", "SubagentStop")
_SWITCH_S: Final = 5  # a client that starts slowly must not block a switch
_ROUTE: Final = "/v1/hooks/claude"


def _path(environ: Mapping[str, str]) -> Path:
    return home(environ, "CLAUDE_CONFIG_DIR", ".claude") / "settings.json"


def _hooks(setup: Setup) -> dict[str, dict[str, Any]]:
    asked = {"type": "command", "command": setup.client("claude"), "timeout": setup.limit_s}
    told = {"type": "http", "url": setup.url.rstrip("/") + _ROUTE, "timeout": setup.limit_ms / 1000}
    hooks = dict.fromkeys(_ASKED, asked) | dict.fromkeys(_TOLD, asked if setup.by_client else told)
    return hooks | {"PreModelSwitch": asked | {"timeout": max(setup.limit_s, _SWITCH_S)}}


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
    return _settings.state(text, _hooks(setup), _is_ours, _is_off, _ASKED)


register(Harness(name="claude", title="Claude Code", path=_path, install=_install, uninstall=_uninstall, state=_state))
