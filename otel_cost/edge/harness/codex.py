"""Codex CLI: `config.toml`, by the client; each hook with the hash by which Codex trusts it.

Codex skips a hook that it does not trust without a word. Its trust is a hash over
the hook, kept under the hook's place in the file: the user's own groups count, so
the hashes are written anew with every install.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from typing import TYPE_CHECKING, Any, Final

from otel_cost.edge.harness import Harness, Setup, State, home, is_ours, register
from otel_cost.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_EVENTS: Final = ("UserPromptSubmit", "PreToolUse", "PostToolUse", "PostModelRequest", "SubagentStop")
_BEGIN: Final = "# >>> otel-cost: written by `otel-cost hooks install codex` >>>"
_END: Final = "# <<< otel-cost <<<"
_BLOCK: Final = re.compile(rf"\n?{re.escape(_BEGIN)}\n.*?{re.escape(_END)}\n?", re.DOTALL)


def _path(environ: Mapping[str, str]) -> Path:
    return home(environ, "CODEX_HOME", ".codex") / "config.toml"


def trusted_hash(event: str, command: str, timeout: int, matcher: str | None = None) -> str:
    """The hash by which Codex 0.169 trusts a command hook; `event` in snake case."""
    handler = {"async": False, "command": command, "timeout": timeout, "type": "command"}
    identity: dict[str, Any] = {"event_name": event, "hooks": [handler]}
    if matcher is not None:
        identity["matcher"] = matcher
    written = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"sha256:{hashlib.sha256(written.encode()).hexdigest()}"


def _install(text: str, setup: Setup) -> str:
    bare = _BLOCK.sub("", text)
    config = _parsed(bare)
    command = setup.client("codex")
    lines = [_BEGIN]
    for event in _EVENTS:
        lines += [
            f"[[hooks.{event}]]",
            f"[[hooks.{event}.hooks]]",
            'type = "command"',
            f"command = {_quoted(command)}",
            f"timeout = {setup.limit_s}",
        ]
    for event in _EVENTS:
        place = f"{setup.path.absolute()}:{_snake(event)}:{len(_groups(config, event))}:0"
        lines += [
            f"[hooks.state.{_quoted(place)}]",
            f"trusted_hash = {_quoted(trusted_hash(_snake(event), command, setup.limit_s))}",
        ]
    block = "\n".join([*lines, _END]) + "\n"
    joined = f"{bare}{'' if not bare or bare.endswith(chr(10)) else chr(10)}{chr(10) if bare else ''}{block}"
    try:
        tomllib.loads(joined)
    except tomllib.TOMLDecodeError:
        raise UsageError(
            "hooks are written here as inline tables, beside which none can be added; write them as [[hooks.EVENT]]"
        ) from None
    return joined


def _uninstall(text: str, _setup: Setup) -> str | None:
    bare = _BLOCK.sub("", text)
    return bare if bare.strip() else None


def _state(text: str, setup: Setup) -> State:
    config = _parsed(text)
    trust = {}
    states = config.get("hooks", {}).get("state", {})
    for event in _hook_events(config):
        for group, hooks in enumerate(_groups(config, event)):
            for number, hook in enumerate(hooks.get("hooks", [])):
                if not is_ours(hook.get("command"), "codex"):
                    continue
                place = f"{setup.path.absolute()}:{_snake(event)}:{group}:{number}"
                expected = trusted_hash(_snake(event), hook["command"], hook.get("timeout", 600), hooks.get("matcher"))
                told = states.get(place, {}).get("trusted_hash") if isinstance(states, dict) else None
                trust[event] = "trusted" if told == expected else "modified" if told else "untrusted"
    doubted = [event for event, word in trust.items() if word != "trusted"]
    notes = []
    if doubted:
        notes.append(f"Codex skips {', '.join(doubted)}: not trusted as written; install again")
    if config.get("features", {}).get("hooks") is False:
        notes.append("all hooks are switched off in this file")
    return State(
        installed=bool(trust) or _BEGIN in text,
        complete=all(trust.get(event) == "trusted" for event in _EVENTS),
        events=tuple(trust),
        notes=tuple(notes),
        facts={"trust": trust},
    )


def _parsed(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"no TOML: {error}") from None


def _hook_events(config: dict[str, Any]) -> list[str]:
    hooks = config.get("hooks")
    return [event for event, groups in hooks.items() if isinstance(groups, list)] if isinstance(hooks, dict) else []


def _groups(config: dict[str, Any], event: str) -> list[dict[str, Any]]:
    return config["hooks"][event] if event in _hook_events(config) else []


def _snake(event: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", event).lower()


def _quoted(text: str) -> str:
    """A TOML basic string: JSON's escapes are among TOML's."""
    return json.dumps(text)


register(
    Harness(
        name="codex",
        title="Codex CLI",
        path=_path,
        install=_install,
        uninstall=_uninstall,
        state=_state,
        advice="Codex cannot be stopped inside a turn: a stop denies each tool and refuses the next prompt.",
    )
)
