"""Scenario 1: the same error three times, told by hooks alone; the fourth try is denied before any telemetry came."""

from __future__ import annotations

import json
import urllib.request
from typing import TYPE_CHECKING, Any

from running import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from running import Process

RULES = """
version: 1
loops:
  - name: loud
    detect: exact_repeat
    severity: critical
    do: [{alert: }]
  - name: same-error-3x
    detect: repeated_error
    do: [{deny: {scope: same_call, text: "Same error three times. Change approach or report."}}, {alert: }]
"""


def ask(service: Process, path: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        service.api + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200
        return json.loads(answer.read())


def claude(event: str, call: int, tool: str = "Bash", **more: Any) -> dict[str, Any]:
    return {
        "hook_event_name": event,
        "session_id": "s-1",
        "cwd": "/home/user",
        "tool_name": tool,
        "tool_use_id": f"toolu_{tool}_{call}",
        "tool_input": {"command": "make test"} if tool == "Bash" else {"file_path": "README.md"},
        **more,
    }


def test_fourth_try_is_denied_and_another_tool_is_not(serve: Callable[..., Process], tmp_path: Path) -> None:
    (tmp_path / "deny.yaml").write_text(RULES)
    service = serve("rules: [deny.yaml]")
    for call in range(3):
        assert ask(service, "/v1/hooks/claude", claude("PreToolUse", call)) == {}
        failed = claude("PostToolUseFailure", call, error=f"Exit code 2: 3 tests failed in 0.{call}s at line {call}")
        ask(service, "/v1/hooks/claude", failed)
    denied = ask(service, "/v1/hooks/claude", claude("PreToolUse", 3))["hookSpecificOutput"]
    assert denied["permissionDecision"] == "deny"
    assert "Change approach" in denied["permissionDecisionReason"]
    assert ask(service, "/v1/hooks/claude", claude("PreToolUse", 9, tool="Read")) == {}
    until(lambda: service.get("/v1/alerts")["alerts"])
    alerts = [alert for alert in service.get("/v1/alerts")["alerts"] if alert["rule"] == "same-error-3x"]
    assert [alert["state"] for alert in alerts] == ["firing"]
    assert ask(service, "/v1/decide", {"session_id": "another", "event": "before_tool", "tool": "Bash"})[
        "decision"
    ] == ("allow")
