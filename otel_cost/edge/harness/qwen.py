"""Qwen Code: `settings.json` with Claude Code's event names; our client asks, the rest is told over HTTP, as there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from otel_cost.edge.harness import Harness, Setup, State, _settings, home, is_ours, register

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# Without UserPromptSubmit nothing could end a run.
_ASKED: Final = ("UserPromptSubmit", "PreToolUse")
_TOLD: Final = ("SessionStart", "PostToolUse", "PostToolUseFailure", "PostToolBatch", "SubagentStop")
_ROUTE: Final = "/v1/hooks/qwen"


def _path(environ: Mapping[str, str]) -> Path:
    return home(environ, "QWEN_HOME", ".qwen") / "settings.json"


def _hooks(setup: Setup) -> dict[str, dict[str, Any]]:
    asked = {"type": "command", "command": setup.client("qwen"), "timeout": setup.limit_s}
    told = {"type": "http", "url": setup.url.rstrip("/") + _ROUTE, "timeout": setup.limit_ms / 1000}
    return dict.fromkeys(_ASKED, asked) | dict.fromkeys(_TOLD, asked if setup.by_client else told)


def _is_ours(hook: dict[str, Any]) -> bool:
    url = hook.get("url")
    return (isinstance(url, str) and url.endswith(_ROUTE)) or is_ours(hook.get("command"), "qwen")


def _is_off(root: dict[str, Any]) -> bool:
    return root.get("disableAllHooks") is True


def _install(text: str, setup: Setup) -> str:
    return _settings.install(text, _hooks(setup), _is_ours)


def _uninstall(text: str, _setup: Setup) -> str | None:
    return _settings.uninstall(text, _is_ours)


def _state(text: str, setup: Setup) -> State:
    return _settings.state(text, _hooks(setup), _is_ours, _is_off, _ASKED)


register(Harness(name="qwen", title="Qwen Code", path=_path, install=_install, uninstall=_uninstall, state=_state))
