"""Settings in JSON with a `hooks` table, as Claude Code, Gemini CLI and Qwen Code keep them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from otel_cost.edge.harness import Setup, State
from otel_cost.edge.harness._json_text import append, parse, remove

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    Hook = dict[str, Any]


def install(text: str, hooks: Mapping[str, Hook], is_ours: Callable[[Hook], bool]) -> str:
    """Add the hook of each event where it does not stand already; another version of ours is replaced."""
    root = parse(text).value if text.strip() else {}
    for event, hook in hooks.items():
        standing = _ours(root, event, is_ours)
        if standing == [hook]:
            continue
        if standing:
            text = _without(text, event, is_ours)
        text = append(text, ("hooks", event), {"hooks": [hook]})
    for event in _events(root):
        if event not in hooks and _ours(root, event, is_ours):
            text = _without(text, event, is_ours)
    return text


def uninstall(text: str, is_ours: Callable[[Hook], bool]) -> str | None:
    """Take out every hook of ours, in groups of its own and in the user's; None: nothing else was there."""
    for event in _events(parse(text).value):
        text = _without(text, event, is_ours)
    return text if parse(text).value else None


def state(
    text: str,
    hooks: Mapping[str, Hook],
    is_ours: Callable[[Hook], bool],
    is_off: Callable[[dict[str, Any]], bool],
    by_client: Collection[str] = (),
) -> State:
    """What stands, against what `install` would write. `by_client`: events at which our client is to be asked."""
    root = parse(text).value if text.strip() else {}
    events = tuple(event for event in _events(root) if _ours(root, event, is_ours))
    notes = ["all hooks are switched off in this file"] if is_off(root) else []
    forgetful = [
        event for event in by_client if any(hook.get("type") == "http" for hook in _ours(root, event, is_ours))
    ]
    if forgetful:
        notes.append(f"{', '.join(forgetful)} over HTTP: a stop does not hold while the service is down; install again")
    complete = all(len(_ours(root, event, is_ours)) == 1 for event in hooks)
    return State(installed=bool(events), complete=complete, events=events, notes=tuple(notes))


def _events(root: Any) -> list[str]:  # noqa: ANN401  # whatever the user wrote
    hooks = root.get("hooks") if isinstance(root, dict) else None
    return [event for event, groups in hooks.items() if isinstance(groups, list)] if isinstance(hooks, dict) else []


def _ours(root: Any, event: str, is_ours: Callable[[Hook], bool]) -> list[Hook]:  # noqa: ANN401
    if event not in _events(root):
        return []
    return [hook for group in root["hooks"][event] for hook in _hooks(group) if is_ours(hook)]


def _hooks(group: Any) -> list[Hook]:  # noqa: ANN401
    hooks = group.get("hooks") if isinstance(group, dict) else None
    return [hook for hook in hooks if isinstance(hook, dict)] if isinstance(hooks, list) else []


def _without(text: str, event: str, is_ours: Callable[[Hook], bool]) -> str:
    """Groups that hold nothing but ours go as a whole; from a group of the user's only our item goes."""

    def only_ours(group: Any) -> bool:  # noqa: ANN401
        hooks = _hooks(group)
        return bool(hooks) and all(map(is_ours, hooks))

    text = remove(text, ("hooks", event), only_ours)
    root = parse(text).value
    for at, group in enumerate(root["hooks"][event] if event in _events(root) else ()):
        if any(map(is_ours, _hooks(group))):
            text = remove(text, ("hooks", event, at, "hooks"), lambda hook: isinstance(hook, dict) and is_ours(hook))
    return text


__all__ = ["Setup", "install", "state", "uninstall"]
