"""Scenario 1: the same error three times, told by hooks alone; the fourth try is denied before any telemetry came."""

from __future__ import annotations

import json
import signal
import time
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
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


STOPS = """
version: 1
loops:
  - name: same-error-3x
    detect: repeated_error
    do: [{stop: {text: "Same error three times."}}, {alert: }]
"""


def stopped(answer: dict[str, Any]) -> bool:
    return answer.get("continue") is False


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_what_hooks_told_is_known_after_a_restart(serve: Callable[..., Process], tmp_path: Path, how: int) -> None:
    (tmp_path / "stop.yaml").write_text(STOPS)
    service = serve("rules: [stop.yaml]")
    for call in range(3):
        ask(service, "/v1/hooks/claude", claude("PostToolUseFailure", call, error="Exit code 2: 3 tests failed"))
    for call in range(2):
        failed = claude("PostToolUseFailure", call, error="Exit code 2: 3 tests failed", session_id="s-2")
        ask(service, "/v1/hooks/claude", failed)
    until(lambda: service.get("/v1/alerts")["alerts"])
    assert stopped(ask(service, "/v1/hooks/claude", claude("PreToolUse", 3)))
    written = ask(service, "/v1/decide", {"session_id": "child", "parent_session_id": "s-1", "event": "session_start"})
    assert written["decision"] == "stop"
    time.sleep(0.3)  # a call is written down just after its answer
    service.stop(how)

    again = serve("rules: [stop.yaml]")
    assert stopped(ask(again, "/v1/hooks/claude", claude("PreToolUse", 4)))
    assert stopped(ask(again, "/v1/hooks/claude", claude("PreToolUse", 5, tool="Read")))
    assert ask(again, "/v1/decide", {"session_id": "child", "event": "before_tool", "tool": "x"})["decision"] == "stop"
    assert ask(again, "/v1/hooks/claude", claude("PreToolUse", 1, session_id="s-2")) == {}
    if how == signal.SIGKILL:  # an open run goes on where it was: the third of its failures is the third
        failed = claude("PostToolUseFailure", 2, error="Exit code 2: 3 tests failed", session_id="s-2")
        ask(again, "/v1/hooks/claude", failed)
        assert stopped(ask(again, "/v1/hooks/claude", claude("PreToolUse", 3, session_id="s-2")))
        until(lambda: len(again.get("/v1/alerts")["alerts"]) == 2)
    firing = [alert for alert in again.get("/v1/alerts")["alerts"] if alert["state"] == "firing"]
    assert len({alert["id"] for alert in firing}) == len(firing)
    code = again.stop()
    assert code == 0, again.log.read_text()[-3000:]
    last = serve("rules: [stop.yaml]")
    (row,) = [row for row in last.get("/v1/report?by=kind")["rows"] if row["kind"] == "tool"]
    assert row["calls"] == (6 if how == signal.SIGKILL else 5)  # each once, however often it was read again
