"""An alert's way to people through the running service: contact, silence, acknowledgement, over a kill."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
from backends import Receiver
from running import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from running import Process

RULES = """
version: 1
loops:
  - {{name: same-error-3x, detect: repeated_error, do: [{{alert: ops}}]}}
contacts:
  - name: ops
    webhook: {{url: "{url}"}}
    group_by: [rule]
    group_wait: 0s
    group_interval: 0s
"""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    one = Receiver()
    yield one
    one.stop()


def post(service: Process, path: str, body: object, method: str = "POST") -> dict[str, Any]:
    request = urllib.request.Request(
        service.api + path, json.dumps(body).encode(), {"Content-Type": "application/json"}, method=method
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.loads(answer.read())


def loop(service: Process, session: str) -> None:
    for call in range(3):
        post(
            service,
            "/v1/hooks/claude",
            {
                "hook_event_name": "PostToolUseFailure",
                "session_id": session,
                "tool_name": "Bash",
                "tool_use_id": f"toolu_{call}",
                "tool_input": {"command": "make test"},
                "error": f"Exit code 2: 3 tests failed in 0.{call}s",
            },
        )


def listed(service: Process) -> dict[str, dict[str, Any]]:
    return {alert["run_id"]: alert for alert in service.get("/v1/alerts")["alerts"]}


def command(service: Process, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "otel_cost", *arguments, "--data-dir", str(service.data)],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.mark.slow
def test_people_hear_of_it_once_and_what_they_say_counts(
    serve: Callable[..., Process], receiver: Receiver, tmp_path: Path
) -> None:
    (tmp_path / "rules.yaml").write_text(RULES.format(url=receiver.url))
    service = serve("rules: [rules.yaml]\napi: {external_url: https://cost.example.com}")
    loop(service, "s-1")
    until(lambda: receiver.runs() == [("s-1", "firing")])
    alert = receiver.got[0][1]["data"]["alerts"][0]
    assert alert["links"]["run"] == "https://cost.example.com/runs/s-1"
    assert alert["evidence"]["tools"] == {"Bash": 3}

    silenced = json.loads(command(service, "silence", "add", "run=s-2", "--for", "1h", "--reason", "known", "--json"))
    loop(service, "s-2")
    loop(service, "s-3")
    until(lambda: ("s-3", "firing") in receiver.runs())
    assert ("s-2", "firing") not in receiver.runs()
    until(lambda: {"s-2", "s-3"} <= listed(service).keys())
    assert listed(service)["s-2"]["silenced_by"] == silenced["id"]
    assert listed(service)["s-3"]["silenced_by"] is None
    assert "run=s-2" in command(service, "silence", "list")
    command(service, "silence", "end", silenced["id"])
    until(lambda: ("s-2", "firing") in receiver.runs())

    command(service, "ack", alert["id"], "--who", "ann")
    assert listed(service)["s-1"]["acknowledged_by"] == "ann"
    with pytest.raises(urllib.error.HTTPError) as wrong:
        post(service, "/v1/silences", {"matchers": {"rul": "x"}, "for": "2h", "who": "a", "reason": "b"})
    assert wrong.value.code == 400
    assert "did you mean `rule`" in json.loads(wrong.value.read())["error"]


@pytest.mark.slow
def test_a_receiver_that_is_away_and_a_kill_lose_and_double_nothing(
    serve: Callable[..., Process], receiver: Receiver, tmp_path: Path
) -> None:
    (tmp_path / "rules.yaml").write_text(RULES.format(url=receiver.url))
    receiver.away = True
    service = serve("rules: [rules.yaml]")
    loop(service, "s-1")
    until(lambda: service.get("/v1/alerts")["alerts"])
    service.stop(signal.SIGKILL)
    receiver.away = False
    again = serve("rules: [rules.yaml]")
    until(lambda: ("s-1", "firing") in receiver.runs())
    loop(again, "s-2")
    until(lambda: ("s-2", "firing") in receiver.runs())
    again.stop()
    firing = [run for run, state in receiver.runs() if state == "firing"]
    assert sorted(firing) == ["s-1", "s-2"]
