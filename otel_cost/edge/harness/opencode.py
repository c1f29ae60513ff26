"""opencode: one plugin file of our own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

from otel_cost.edge.harness import Harness, Setup, State, home, register

if TYPE_CHECKING:
    from collections.abc import Mapping

_PLUGIN: Final = Path(__file__).with_name("opencode_plugin.js")
_EVENTS: Final = ("chat.message", "tool.execute.before", "tool.execute.after", "event")


def _path(environ: Mapping[str, str]) -> Path:
    return home(environ, "XDG_CONFIG_HOME", ".config") / "opencode" / "plugin" / "otel-cost.js"


def _install(_text: str, setup: Setup) -> str:
    plugin = _PLUGIN.read_text(encoding="utf-8").replace('"@URL@"', json.dumps(setup.url.rstrip("/")))
    return plugin.replace('"@LIMIT_MS@"', str(setup.limit_ms))


def _uninstall(_text: str, _setup: Setup) -> str | None:
    return None


def _state(text: str, setup: Setup) -> State:
    return State(installed=True, complete=text == _install("", setup), events=_EVENTS)


register(Harness(name="opencode", title="opencode", path=_path, install=_install, uninstall=_uninstall, state=_state))
