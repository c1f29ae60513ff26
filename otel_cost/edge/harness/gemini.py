"""Gemini CLI: `settings.json`, by the client; time-outs are milliseconds here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from otel_cost.edge.harness import Harness, Setup, State, _settings, home, is_ours, register

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_EVENTS: Final = ("BeforeAgent", "BeforeModel", "BeforeTool", "AfterTool")


def _path(environ: Mapping[str, str]) -> Path:
    return home(environ, "GEMINI_CLI_HOME") / ".gemini" / "settings.json"


def _hooks(setup: Setup) -> dict[str, dict[str, Any]]:
    hook = {"type": "command", "name": "otel-cost", "command": setup.client("gemini"), "timeout": setup.limit_ms}
    # AfterModel tells the tokens of a call at once, but is called for every chunk of the answer, one after the other.
    return dict.fromkeys((*_EVENTS, "AfterModel") if setup.live_usage else _EVENTS, hook)


def _is_ours(hook: dict[str, Any]) -> bool:
    return hook.get("name") == "otel-cost" or is_ours(hook.get("command"), "gemini")


def _is_off(root: dict[str, Any]) -> bool:
    config = root.get("hooksConfig")
    return isinstance(config, dict) and config.get("enabled") is False


def _install(text: str, setup: Setup) -> str:
    return _settings.install(text, _hooks(setup), _is_ours)


def _uninstall(text: str, _setup: Setup) -> str | None:
    return _settings.uninstall(text, _is_ours)


def _state(text: str, setup: Setup) -> State:
    return _settings.state(text, _hooks(setup), _is_ours, _is_off)


register(Harness(name="gemini", title="Gemini CLI", path=_path, install=_install, uninstall=_uninstall, state=_state))
