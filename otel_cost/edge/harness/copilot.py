"""GitHub Copilot CLI: one file of our own among its hooks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from otel_cost.edge.harness import Harness, Setup, State, home, register
from otel_cost.edge.harness._json_text import parse

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_EVENTS: Final = ("preToolUse", "permissionRequest", "postToolUse", "userPromptSubmitted")


def _path(environ: Mapping[str, str]) -> Path:
    return home(environ, "COPILOT_HOME", ".copilot") / "hooks" / "otel-cost.json"


def _install(_text: str, setup: Setup) -> str:
    # A client that fails would deny every tool here: ours never leaves with anything but 0.
    hook = {"type": "command", "bash": setup.client("copilot"), "timeoutSec": setup.limit_s}
    return json.dumps({"version": 1, "hooks": {event: [hook] for event in _EVENTS}}, indent=2) + "\n"


def _uninstall(_text: str, _setup: Setup) -> str | None:
    return None


def _state(text: str, setup: Setup) -> State:
    hooks = parse(text).value.get("hooks", {})
    return State(installed=True, complete=text == _install("", setup), events=tuple(hooks))


register(Harness(name="copilot", title="Copilot CLI", path=_path, install=_install, uninstall=_uninstall, state=_state))
