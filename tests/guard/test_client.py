"""The guard's client against the real service: sync, async, and while nobody answers."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from guard_helper import ASK, DELAY, DENY, DENY_TEXT, DOWNGRADE, STOP, STOP_TEXT, WARN, repeated
from running import until

from otel_cost import guard
from otel_cost.guard import Guard, Run
from otel_cost.guard.client import LIMIT_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from running import Process

    Serve = Callable[[str], Process]


def fail(run: Run, tries: int = 3, tool: str = "bash", args: Any = None) -> None:
    """So many equal failing calls."""
    args = {"command": "make test"} if args is None else args
    for number in range(tries):
        assert run.before_tool(tool, args, call_id=f"c{number}").verb == "allow"
        run.after_tool(tool, args, call_id=f"c{number}", error=f"3 tests failed in 0.{number}s at line {number}")


def test_the_fourth_try_is_denied_and_another_tool_is_not(serve: Serve) -> None:
    serve(DENY)
    with guard.run(session_id="s", user="ann", workflow="refactor") as run:
        fail(run)
        denied = run.before_tool("bash", {"command": "make test  # once more"}, call_id="c9")
        assert (denied.verb, denied.text, denied.rule) == ("deny", DENY_TEXT, "same-error-3x")
        assert denied.refused
        assert denied.evidence["user"] == "ann"
        assert run.before_tool("read", {"path": "README.md"}).verb == "allow"


def test_asyncio_asks_the_same(serve: Serve) -> None:
    serve(DENY)

    async def main() -> list[str]:
        async with guard.run(session_id="s") as run:
            said = []
            for number in range(4):
                said.append((await run.abefore_tool("bash", {}, call_id=f"c{number}")).verb)
                await run.aafter_tool("bash", {}, call_id=f"c{number}", error=RuntimeError("no such module"))
            return said

    assert asyncio.run(main()) == ["allow"] * 3 + ["deny"]


@pytest.mark.parametrize("arguments", [{}, {"command": "make test"}, "make test", ["a", 1]])
@pytest.mark.parametrize("content", ["plain", "hash"])
def test_hashes_know_a_repeated_call_as_well(serve: Serve, content: Any, arguments: Any) -> None:
    process = serve(DENY)
    run = Guard(process.api, content=content).run("s")
    fail(run, args=arguments)
    assert run.before_tool("bash", arguments).verb == "deny"
    assert run.before_tool("bash", {"command": "ls -l /elsewhere"}).verb == "allow"


class Listener:
    """A service that writes down what it is asked, and answers as told."""

    def __init__(
        self, answer: dict[str, Any] | None = None, headers: str = "otel-cost-decision: x\r\n", wait_s: float = 0
    ) -> None:
        self.bodies: list[dict[str, Any]] = []
        self._answer, self._headers, self._wait_s = answer or {"decision": "allow"}, headers, wait_s
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                raw = b""
                while b"\r\n\r\n" not in raw or len(raw.partition(b"\r\n\r\n")[2]) < _length(raw):
                    raw += connection.recv(65536)
                self.bodies.append(json.loads(raw.partition(b"\r\n\r\n")[2]))
                time.sleep(self._wait_s)
                body = json.dumps(self._answer).encode()
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n{self._headers}\r\n"
                connection.sendall(head.encode() + body)

    def close(self) -> None:
        self._socket.close()


def _length(raw: bytes) -> int:
    return next(int(line[15:]) for line in raw.split(b"\r\n") if line.lower().startswith(b"content-length:"))


@pytest.fixture
def listener() -> Iterator[Callable[..., Listener]]:
    made: list[Listener] = []

    def make(**how: Any) -> Listener:
        made.append(Listener(**how))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_content_leaves_the_process_only_as_asked(listener: Callable[..., Listener]) -> None:
    heard = listener()
    secret = {"command": "cat secret-file"}
    for content in ("plain", "hash"):
        run = Guard(heard.url, content=content).run("s")  # type: ignore[arg-type]
        run.before_tool("bash", secret)
        run.after_tool("bash", secret, result="a secret-file of 12 lines", error="secret-file: 12 errors")
    plain, told = heard.bodies[:2], heard.bodies[2:]
    assert json.loads(plain[0]["args"]) == secret
    assert plain[1]["result"] == "a secret-file of 12 lines"
    assert "secret-file" not in json.dumps([told[0], told[1] | {"error": ""}])
    assert told[0]["args_hash"] == told[1]["args_hash"]
    assert "12" not in told[1]["error"]


def test_a_long_result_is_told_by_its_ends_and_a_hash(listener: Callable[..., Listener]) -> None:
    heard = listener()
    run = Guard(heard.url).run("s")
    for middle in "ab":
        run.after_tool("read", {}, result="x" * 50_000 + middle + "y" * 50_000)
    one, other = (body["result"] for body in heard.bodies)
    assert one != other
    assert len(one) < 17_000


def fired(serve: Serve, rules: str, **how: Any) -> Run:
    """A run whose rule has fired."""
    run = Guard(serve(rules).api, **how).run("s")
    fail(run)
    return run


def test_it_slows_down(serve: Serve) -> None:
    run = fired(serve, DELAY)
    for step in (run.before_model("m"), run.before_tool("bash", {"command": "ls"})):
        assert (step.verb, step.delay_ms) == ("delay", 300)
        began = time.monotonic()
        run.settle(step)
        assert 0.3 <= time.monotonic() - began < 2
    notes = run.take_notes()
    assert notes is not None
    assert notes.count("slowed down") == 1  # said once, though it holds for every step
    assert run.take_notes() is None


def test_it_changes_the_model(serve: Serve) -> None:
    run = fired(serve, DOWNGRADE)
    left = run.settle(run.before_model("big-model"))
    assert (left.verb, left.model) == ("downgrade", "small-model")
    assert "changed to small-model" in (run.take_notes() or "")


def test_it_warns_once(serve: Serve) -> None:
    run = fired(serve, WARN)
    for expected in ("Costs add up. Finish soon.", None):
        assert not run.settle(run.before_tool("bash", {})).refused
        assert run.take_notes() == expected


def test_where_nobody_can_agree_the_agent_may_only_answer(serve: Serve) -> None:
    run = fired(serve, ASK)
    assert run.settle(run.before_model("m")).verb == "allow"
    refused = run.settle(run.before_tool("bash", {"command": "ls"}))
    assert (refused.verb, refused.text) == ("deny", "The owner has to agree.")


def test_a_user_who_agrees_is_asked_once(serve: Serve) -> None:
    asked: list[str] = []

    def agree(answer: guard.Answer) -> bool:
        asked.append(answer.text)
        return True

    run = fired(serve, ASK, on_ask=agree)
    for _ in range(2):
        assert run.settle(run.before_tool("bash", {"command": "ls"})).verb == "allow"
    assert asked == ["The owner has to agree."]


def test_a_user_who_disagrees_ends_it(serve: Serve) -> None:
    async def disagree(_answer: guard.Answer) -> bool:
        return False

    run = fired(serve, ASK, on_ask=disagree)
    assert asyncio.run(run.asettle(run.before_model("m"))).verb == "deny"
    with pytest.raises(TypeError, match="coroutine"):
        run.settle(run.before_model("m"))


# --- while nobody answers ----------------------------------------------------------------------------------


def nowhere() -> str:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_nobody_there_is_no_objection_and_one_log_line(caplog: pytest.LogCaptureFixture) -> None:
    run = Guard(nowhere()).run("s")
    with caplog.at_level(logging.WARNING, "otel_cost.guard"):
        for _ in range(3):
            answer = run.before_tool("bash", {"command": "secret"})
    assert (answer.verb, answer.given) == ("allow", False)
    assert len(caplog.messages) == 1
    assert "going on without" in caplog.messages[0]
    assert "secret" not in caplog.text


def test_a_service_that_could_not_decide_has_not_answered(listener: Callable[..., Listener]) -> None:
    heard = listener(answer={}, headers="")
    assert not Guard(heard.url).run("s").before_tool("bash", {}).given


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_slow_service_is_not_waited_for(listener: Callable[..., Listener], way: str) -> None:
    heard = listener(answer={"decision": "stop"}, wait_s=3)
    run = Guard(heard.url, timeout_s=LIMIT_S).run("s")
    began = time.monotonic()
    answer = run.before_model("m") if way == "sync" else asyncio.run(run.abefore_model("m"))
    assert not answer.given
    assert 0.25 < time.monotonic() - began < 2.5


def test_a_stop_outlasts_the_service_also_in_another_process(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    process = serve(STOP)
    run = Guard(process.api).run("s")
    fail(run)
    assert run.before_tool("bash", {}).verb == "stop"
    process.stop()
    for client in (run.guard, Guard(process.api)):  # the second has only what was written down
        again = client.run("s").before_model("m")
        assert (again.verb, again.text, again.given) == ("stop", STOP_TEXT, False)
        assert client.run("another").before_model("m").verb == "allow"
    assert "a stop stands" in caplog.text


def test_a_rule_that_fails_closed_refuses_all_sessions(serve: Serve) -> None:
    process = serve(repeated("{deny: }", fail="closed"))
    known = Guard(process.api)
    assert known.run("s").before_model("m").verb == "allow"
    process.stop()
    for session in ("s", "another"):
        refused = known.run(session).before_model("m")
        assert (refused.verb, refused.given) == ("deny", False)
        assert "does not answer" in refused.text
        assert asyncio.run(known.run(session).abefore_tool("bash", {})).refused


def test_a_stop_that_was_lifted_is_forgotten(listener: Callable[..., Listener]) -> None:
    word = json.dumps({"why": "stop", "answers": {"before_model": {"decision": "stop", "text": "No."}}})
    stops = listener(headers=f"otel-cost-decision: stop\r\notel-cost-outage: {word}\r\n")
    lifts = listener(headers="otel-cost-decision: allow\r\n")
    client = Guard(stops.url)
    client.run("s").before_tool("x")
    stops.close()
    client._url = nowhere()
    assert client.run("s").before_model("m").verb == "stop"
    client._url = lifts.url
    client.run("s").before_tool("x")
    client._url = nowhere()
    assert client.run("s").before_model("m").verb == "allow"


@pytest.mark.parametrize(
    "answer", [{}, {"decision": "explode"}, [], {"decision": "delay", "delay_ms": "x", "text": 3, "evidence": []}]
)
def test_an_answer_that_is_none_is_no_objection(listener: Callable[..., Listener], answer: Any) -> None:
    heard = listener()
    heard._answer = answer
    said = Guard(heard.url).run("s").before_tool("bash", {})
    assert not said.refused
    assert said.delay_ms == 0


# --- what is told ------------------------------------------------------------------------------------------


def test_usage_counts_at_once(serve: Serve) -> None:
    process = serve(DENY)
    run = Guard(process.api).run("s", user="ann")
    run.after_model(
        "claude-sonnet-4-5",
        usage={"input": 1000, "output": 100, "cache_read": 400},
        response_id="m1",
        provider="anthropic",
    )
    run.after_model("claude-sonnet-4-5", error=TimeoutError(), provider="anthropic")
    until(lambda: process.get("/v1/runs/s")["llm_calls"] == 2)
    story = process.get("/v1/runs/s")
    assert story["cost_usd"] == "0.003420"[: len(story["cost_usd"])]


def test_threads_have_runs_of_their_own() -> None:
    seen: list[object] = []
    with guard.run("s") as run:
        assert guard.current_run() is run
        thread = threading.Thread(target=lambda: seen.append(guard.current_run()))
        thread.start()
        thread.join()
    assert guard.current_run() is None
    assert seen == [None]


def test_a_sub_agent_is_told_apart(listener: Callable[..., Listener]) -> None:
    heard = listener()
    run = Guard(heard.url).run("s")
    with run.inside("research", "call_7"):
        run.before_tool("search", {})
    run.before_tool("search", {})
    assert [(body.get("agent"), body.get("agent_id")) for body in heard.bodies] == [
        ("research", "call_7"),
        (None, None),
    ]


def test_importing_it_takes_nothing_but_the_standard_library() -> None:
    code = "import sys; import otel_cost.guard; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"duckdb", "grpc", "pydantic", "structlog", "starlette", "typer", "yaml", "opentelemetry", "google"}
    assert heavy.isdisjoint(run.stdout.split())
