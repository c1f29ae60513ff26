"""Hook routes over a real socket: always 200, and nothing that goes wrong stops an agent."""

from __future__ import annotations

import json
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient
from structlog.testing import capture_logs

from otel_cost.core.decide import ALLOWED, Decision, Verb
from otel_cost.edge.right_of_way import LONG_TURN_S, TURN_S
from otel_cost.edge.serve.hooks import hook_routes

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_cost.core.model.event import HookEvent

DENY = Decision(verb=Verb.DENY, rule="r", reason="why", text="Do not repeat.")
CALL = {"session_id": "s", "hook_event_name": "PreToolUse", "tool_name": "Bash", "tool_input": {"command": "secret"}}


def client(decide: Callable[[HookEvent], Decision], **more: Any) -> TestClient:
    """The routes over a service that decides on a thread of its own, as the real one does."""
    engine = ThreadPoolExecutor(1)
    return TestClient(
        Starlette(routes=[*hook_routes(lambda event: engine.submit(decide, event), now_ns=lambda: 42, **more)])
    )


def test_a_payload_in_its_dialect_is_answered_in_it() -> None:
    seen: list[HookEvent] = []

    def decide(event: HookEvent) -> Decision:
        seen.append(event)
        return DENY

    answer = client(decide).post("/v1/hooks/claude", json=CALL)
    assert answer.status_code == 200
    assert answer.json()["hookSpecificOutput"]["permissionDecision"] == "deny"
    assert answer.headers["otel-cost-decision"] == "deny"
    (event,) = seen
    assert (event.dialect, event.received_ns, event.session, json.loads(event.raw)) == ("claude", 42, "s", CALL)


def test_whoever_works_on_a_call_keeps_the_interpreter_longer_and_gives_it_back(monkeypatch) -> None:
    said: list[float] = []
    short = threading.Event()

    def note(seconds: float) -> None:
        said.append(seconds)
        if seconds == TURN_S:
            short.set()
        else:
            short.clear()

    monkeypatch.setattr(sys, "setswitchinterval", note)
    meanwhile: list[float] = []

    def decide(_event: HookEvent) -> Future[Decision]:
        meanwhile.append(said[-1])
        answer: Future[Decision] = Future()
        answer.set_result(DENY)
        return answer

    at_once = TestClient(Starlette(routes=hook_routes(decide)))
    assert at_once.post("/v1/hooks/claude", json=CALL).headers["otel-cost-decision"] == "deny"
    assert (meanwhile, said[-1]) == ([LONG_TURN_S], TURN_S)
    at_once.post("/v1/hooks/claude", content=b"{secret")
    assert said[-1] == TURN_S

    # While it waits for another thread, that one must get the interpreter soon.
    asleep = client(lambda _: DENY if short.wait(2) else ALLOWED)
    assert asleep.post("/v1/hooks/claude", json=CALL).headers["otel-cost-decision"] == "deny"
    assert said[-1] == TURN_S


def test_no_objection_is_an_empty_object() -> None:
    answer = client(lambda _: ALLOWED).post("/v1/hooks/claude", json=CALL)
    assert (answer.status_code, answer.text) == (200, "{}")
    assert "otel-cost-outage" not in answer.headers


def test_the_neutral_route_says_what_was_decided() -> None:
    answer = client(lambda _: DENY).post("/v1/decide", json={"event": "before_tool", "tool": "bash", "args": {}})
    assert answer.json() == {
        "decision": "deny", "reason": "why", "rule": "r", "text": "Do not repeat.", "evidence": {}, "shadow": [],
    }  # fmt: skip


def broken(_event: HookEvent) -> Decision:
    raise RuntimeError("secret")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/hooks/claude", b"{secret"),
        ("/v1/hooks/claude", b'{"secret": 1}'),
        ("/v1/hooks/claude", b'"secret"'),
        ("/v1/hooks/codex", b""),
        ("/v1/hooks/unheard-of", json.dumps(CALL).encode()),
        ("/v1/hooks/claude", b'{"session_id": "' + b"secret" * 200 + b'"}'),
    ],
)
def test_a_bad_payload_is_an_empty_object_and_a_log_line_without_content(path: str, body: bytes) -> None:
    with capture_logs() as logs:
        answer = client(lambda _: DENY, max_bytes=1000).post(path, content=body)
    assert (answer.status_code, answer.text) == (200, "{}")
    assert len(logs) == 1
    assert "secret" not in str(logs)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{secret", "not understood: the hook payload is no JSON"),
        (b'["secret"]', "not understood: the hook payload is no JSON object"),
        (b'{"session_id": "secret"}', "not understood: the payload lacks `event`"),
        (b'{"event": "' + b"secret" * 200 + b'"}', "hook payload too large or cut off"),
    ],
)
def test_who_asks_in_our_own_words_reads_why_there_was_no_objection(body: bytes, reason: str) -> None:
    with capture_logs() as logs:
        answer = client(lambda _: DENY, max_bytes=1000).post("/v1/decide", content=body)
    assert answer.status_code == 200
    assert answer.json() == {"decision": "allow", "reason": reason, "rule": None, "evidence": {}, "shadow": []}
    assert "otel-cost-decision" not in answer.headers  # it is no decision: what a client remembers stays as it is
    assert len(logs) == 1
    assert "secret" not in str(logs)


def test_a_neutral_decision_that_fails_is_allow_with_the_reason() -> None:
    answer = client(broken).post("/v1/decide", json={"event": "before_tool", "tool": "bash"})
    assert (answer.status_code, answer.json()["decision"]) == (200, "allow")
    assert answer.json()["reason"] == "it could not be decided"


def test_a_decision_that_fails_is_no_objection() -> None:
    with capture_logs() as logs:
        answer = client(broken).post("/v1/hooks/claude", json=CALL)
    assert (answer.status_code, answer.text) == (200, "{}")
    assert "otel-cost-decision" not in answer.headers  # what a client remembers stays as it is
    assert (logs[0]["log_level"], logs[0]["error"]) == ("error", "RuntimeError")
    assert "secret" not in str(logs)


def test_an_answer_that_takes_too_long_is_no_objection() -> None:
    held = threading.Event()

    def slow(_event: HookEvent) -> Decision:
        held.wait(5)
        return DENY

    began = time.monotonic()
    with capture_logs() as logs:
        answer = client(slow, limit_s=0.05).post("/v1/hooks/claude", json=CALL)
    took = time.monotonic() - began
    held.set()
    assert (answer.text, logs[0]["why"]) == ("{}", "not decided in time")
    assert took < 2


def test_what_stands_is_told_for_an_outage() -> None:
    stop = Decision(verb=Verb.STOP, rule="r", text="No more. ✓")
    answer = client(lambda _: Decision(outage=stop)).post("/v1/hooks/codex", json=CALL)
    assert answer.text == "{}"
    kept = json.loads(answer.headers["otel-cost-outage"])
    assert kept["why"] == "stop"
    assert kept["answers"]["PreToolUse"]["hookSpecificOutput"]["permissionDecisionReason"] == "No more. ✓"


def test_only_post_is_answered() -> None:
    assert client(lambda _: DENY).get("/v1/hooks/claude").status_code == 405
