"""What became of the work, from every side, through the running service."""

from __future__ import annotations

import hashlib
import hmac
import json
import signal
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
from backtest_helper import SECOND, chat, evaluation, request, span
from running import Process, until

from otel_cost.cli import run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONFIG = "outcomes: {github: {secret: s3cret}}\nengine: {settle: 0s, idle: %s}\n"


def post(url: str, body: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
    named = {"content-type": "application/json"} | {key.replace("_", "-"): value for key, value in headers.items()}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, named, method="POST"), timeout=10) as answer:
            return answer.status, json.loads(answer.read() or b"{}")
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def send(service: Process, *spans: dict[str, Any], **resource: object) -> None:
    said = {key.replace("__", "."): value for key, value in resource.items()}
    assert post(f"http://{service.http}/v1/traces", request(*spans, resource=said))[0] == 200


def tell(service: Process, **said: object) -> tuple[int, dict[str, Any]]:
    return post(f"{service.api}/v1/outcomes", json.dumps(said).encode())


def hooked(service: Process, event: str, payload: dict[str, Any], secret: str = "s3cret") -> tuple[int, dict[str, Any]]:
    body = json.dumps(payload).encode()
    signature = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return post(f"{service.api}/v1/outcomes", body, x_github_event=event, x_hub_signature_256=signature)


def test_a_webhook_in_a_form_as_github_sends_it_by_default(service: Process) -> None:
    now = time.time_ns() - 60 * SECOND
    send(service, chat("branched", 2, now, 10), vcs__ref__head__name="fix/form")
    pull = {"number": 4, "merged": False, "head": {"ref": "fix/form"}}
    payload = {"action": "closed", "pull_request": pull, "repository": {"full_name": "acme/shop"}}
    body = urllib.parse.urlencode({"payload": json.dumps(payload)}).encode()
    signed = "sha256=" + hmac.new(b"s3cret", body, hashlib.sha256).hexdigest()
    headers = {"x_github_event": "pull_request", "content_type": "application/x-www-form-urlencoded"}
    code, told = post(f"{service.api}/v1/outcomes", body, x_hub_signature_256=signed, **headers)
    assert (code, told["accepted"]) == (200, 1)
    until(lambda: verdict(service, "branched") == ("failure", "waste"))


def verdict(service: Process, name: str) -> tuple[str | None, str]:
    told = service.get(f"/v1/runs/{name}")
    return told["outcome"], told["verdict"]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Process]:
    made = Process(tmp_path, CONFIG % "1h")
    yield made
    made.stop()


def test_every_way_of_telling_reaches_its_run(service: Process) -> None:
    now = time.time_ns() - 60 * SECOND
    work = {"vcs__ref__head__name": "fix/cart", "vcs__repository__name": "shop", "vcs__ref__head__revision": "abcd"}
    send(service, chat("branched", 2, now, 10), **work)
    send(
        service,
        chat("judged", 2, now, 10),
        span("judged", 3, now, {}, events=[evaluation("ok", now, score__label="pass")]),
    )
    for name in ("by-session", "by-trace", "nobody"):
        send(service, chat(name, 2, now, 10))
    send(service, chat("ticket", 2, now, 10, ticket__id="PROJ-7"))
    until(lambda: len(service.get("/v1/runs?top=100")["runs"]) == 6)
    trace = service.get("/v1/runs/by-trace")["trace_ids"][0]
    assert tell(service, name="accepted", value="success", session_id="by-session")[0] == 200
    assert tell(service, name="accepted", value="failure", trace_id=trace)[0] == 200
    assert tell(service, name="resolved", value=True, ticket="proj-7")[0] == 200
    pull = {"number": 3, "merged": True, "head": {"ref": "fix/cart", "sha": "ffff"}, "html_url": "https://x/pull/3"}
    merged = {"action": "closed", "pull_request": pull, "repository": {"full_name": "acme/shop"}}
    assert hooked(service, "pull_request", merged)[1]["accepted"] == 1
    expected = {
        "branched": ("success", "worth_it"),
        "judged": ("success", "worth_it"),
        "by-session": ("success", "worth_it"),
        "by-trace": ("failure", "waste"),
        "ticket": ("success", "worth_it"),
        "nobody": (None, "unknown"),
    }
    until(lambda: {name: verdict(service, name) for name in expected} == expected)
    story = service.get(f"/v1/traces/{trace}")
    assert (story["verdict"], story["traces"][0]["verdict"]) == ("waste", "waste")
    assert story["verdict_why"] == "accepted: failure, says api"
    assert {
        run["run_id"]: (run["outcome"], run["verdict"]) for run in service.get("/v1/runs?top=100")["runs"]
    } == expected


def test_what_is_wrong_is_refused_with_the_reason(service: Process) -> None:
    code, said = tell(service, name="x", value="success")
    assert (code, "nothing leads to a run" in said["error"]) == (400, True)
    code, said = tell(service, name="x", value="purple", run_id="r")
    assert (code, said["error"].startswith("value: ")) == (400, True)
    code, said = tell(service, name="x", value="success", run_id="r", sesion="y")
    assert (code, "unknown key" in said["error"]) == (400, True)
    assert post(f"{service.api}/v1/outcomes", b"{")[0] == 400
    assert post(f"{service.api}/v1/outcomes", b"{}", content_type="text/plain")[0] == 415
    assert hooked(service, "ping", {"zen": "x"}) == (200, {"accepted": 0, "outcomes": []})
    assert hooked(service, "ping", {"zen": "x"}, secret="wrong")[0] == 401


@pytest.mark.slow
def test_what_was_answered_survives_a_kill_and_reaches_a_run_that_is_closed(tmp_path: Path) -> None:
    first = Process(tmp_path, CONFIG % "1s")
    now = time.time_ns() - 60 * SECOND
    send(first, chat("done", 2, now, 10), vcs__ref__head__name="fix/1")
    until(lambda: [run["open"] for run in first.get("/v1/runs")["runs"]] == [False])
    assert tell(first, name="merged_pr", value="success", branch="fix/1")[0] == 200
    first.stop(signal.SIGKILL)
    second = Process(tmp_path, CONFIG % "1s")
    try:
        until(lambda: verdict(second, "done") == ("success", "worth_it"))
    finally:
        second.stop()


@pytest.mark.slow
def test_the_command_tells_the_service_else_the_ledger(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    service = Process(tmp_path, CONFIG % "1s")
    where = ["--data-dir", str(tmp_path / "data")]
    now = time.time_ns() - 60 * SECOND
    send(service, chat("one", 2, now, 10), chat("two", 2, now, 10))
    until(lambda: [run["open"] for run in service.get("/v1/runs")["runs"]] == [False, False])
    assert run(["outcome", "add", "accepted", "failure", "--run", "one", *where]) == 0
    until(lambda: verdict(service, "one") == ("failure", "waste"))
    assert run(["outcome", "add", "merged_pr", "--branch", "nowhere", *where]) == 0
    until(lambda: len(service.get("/v1/outcomes")["outcomes"]) == 2)
    service.stop()
    assert run(["outcome", "add", "accepted", "--run", "two", "--label", "thumbs up", *where]) == 0
    capsys.readouterr()
    for name, said in (
        ("one", "Waste: accepted: failure, says api."),
        ("two", "Worth it: accepted: success (thumbs up)"),
    ):
        assert run(["explain", name, *where]) == 0
        assert said in capsys.readouterr().out
    assert run(["outcome", "list", "--json", *where]) == 0
    listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["name"], one["value"], one["runs"]) for one in listed] == [
        ("accepted", "success", ["two"]),
        ("merged_pr", "success", []),
        ("accepted", "failure", ["one"]),
    ]
    assert run(["outcome", "list", *where]) == 0
    assert "none yet" in capsys.readouterr().out
    assert run(["outcome", "add", "accepted", "perhaps", "--run", "two", *where]) == 2
    assert "value: " in capsys.readouterr().err


def test_replay_shows_what_the_records_themselves_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    now = time.time_ns()
    judged = span("judged", 3, now, {}, events=[evaluation("correct", now, score__label="fail")])
    (tmp_path / "in.json").write_bytes(request(chat("judged", 2, now, 10), judged))
    assert run(["replay", "--json", str(tmp_path)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for kind in ("run", "trace"):
        (line,) = (line for line in lines if line["type"] == kind)
        assert (line["outcome"], line["verdict"]) == ("failure", "waste")
        assert line["verdict_why"] == "correct: failure (fail), says evaluation"
