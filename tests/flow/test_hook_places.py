"""A call that was answered in the middle of a request is taken in at the same place when the journal is read again."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))

import pytest
from load import export_requests
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from running import until

from otel_cost.core.hooks import read_hook
from otel_cost.core.model.effects import Signal
from otel_cost.edge.clock import now_ns
from otel_cost.edge.config import load_config
from otel_cost.edge.kept_hooks import read_kept
from otel_cost.edge.visits import Visit
from otel_cost.service import Service

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from otel_cost.core.model.event import HookEvent
    from otel_cost.core.model.finding import Alert

BEGUN = now_ns()  # calls of another time would find their run closed as quiet for too long
ANY_PORT = ["receivers.otlp.protocols.grpc.endpoint", "receivers.otlp.protocols.http.endpoint", "api.endpoint"]


def service(folder: Path, config: str = "") -> Service:
    (folder / "config.yaml").write_text(f"data_dir: {folder / 'data'}\n{config}")
    sets = [f"{key}=127.0.0.1:0" for key in ANY_PORT]
    return Service(load_config([folder / "config.yaml"], sets, {}))


def hook(number: int) -> HookEvent:
    body = (
        '{"session_id": "asks", "hook_event_name": "PostToolUseFailure", "tool_name": "Bash",'
        f' "tool_use_id": "t{number}", "tool_input": {{"command": "make"}}, "error": "it broke"}}'
    )
    return read_hook("claude", body.encode(), BEGUN + number)


def visit(live: Service, event: HookEvent) -> Future[None]:
    """Another thread that reads a call and answers it itself; it stands at the door when this returns."""
    done: Future[None] = Future()

    def visited() -> None:
        with live.expect_hook() as decide:
            done.set_result(decide(event).result(20) and None)

    threading.Thread(target=visited, daemon=True).start()
    until(lambda: any(isinstance(one, Visit) for one in live._backlog.hooks))
    return done


def test_each_call_is_read_again_where_it_was(tmp_path: Path) -> None:
    for name in ("live", "again"):
        (tmp_path / name).mkdir()
    live = service(tmp_path / "live")
    number = 0
    feeding = live.engine.feeding

    def asked_in_between(*arguments: Any) -> Iterator[None]:
        nonlocal number
        for step, _ in enumerate(feeding(*arguments)):
            if step in {3, 4, 12}:
                if step == 4:
                    visit(live, hook(number))
                else:
                    live._backlog.put_hook(hook(number), Future())
                number += 1
            yield

    live.engine.feeding = asked_in_between  # type: ignore[method-assign]
    live.start()
    order: list[tuple[int, int]] = []
    try:
        for request, body in enumerate(export_requests(60, 20)):
            live._intake.accept(Signal.TRACES, body, tenant="default", transport="grpc")
            live.decide(hook(100 + request)).result(20)
        until(lambda: number == 9)
        until(lambda: sum(read_kept(record) is not None for record in live.journal.read()) == 12)
        kept = [one for record in live.journal.read() if (one := read_kept(record)) is not None]
        order = [(one.place.slices, one.event.received_ns) for one in sorted(kept)]
        shutil.copytree(tmp_path / "live" / "data" / "journal", tmp_path / "again" / "data" / "journal")
    finally:
        live.stop()
    assert {4, 5, 13} <= {slices for slices, _ in order}  # and wherever the three were that nothing held back

    again = service(tmp_path / "again")
    seen: list[int] = []
    take = again.engine.hook

    def noted(event: HookEvent, *arguments: Any) -> Any:
        seen.append(event.received_ns)
        return take(event, *arguments)

    again.engine.hook = noted  # type: ignore[method-assign]
    again.start()
    try:
        assert seen == [at for _, at in order]
        tools = [line for line in again.run_lines() if line["type"] == "call" and line["session"] == "asks"]
        assert len(tools) == 12
    finally:
        again.stop()


RULES = """
version: 1
loops:
  - {name: same-error, detect: repeated_error, with: {count: 3}, do: [{deny: {scope: same_call}}]}
  - {name: same-error-still, detect: repeated_error, with: {count: 6}, do: [{stop: {}}]}
  - {name: same-call, detect: exact_repeat, with: {count: 5}, do: [{warn: {}}]}
budgets:
  - {name: run-cap, per: [run], limit: {usd: 0.0005}, at_limit: {do: [{ask: {}}]}}
escalation:
  - name: strong
    models: ["*opus*"]
    allow_if: {prior: {models: ["*haiku*"], failed: [tool_failed], count: 4}}
    else: {do: [{deny: {}}]}
"""


def random_hook(dice: random.Random, number: int) -> HookEvent:
    session, tool = dice.choice("abc"), dice.choice(["make", "look"])
    call = {"tool": tool, "args": {"command": tool}, "tool_call_id": f"h{number}"}
    usage = {"input": 9, "output": 5}
    events: list[dict[str, Any]] = [
        {"event": "before_tool", **call},
        {"event": "after_tool", **call, "error": f"broke {number}"},
        {"event": "after_tool", **call, "result": "fine"},
        {"event": "before_model", "model": dice.choice(["claude-opus-4-1", "claude-haiku-4-5"])},
        {"event": "after_model", "model": "claude-haiku-4-5", "provider": "anthropic", "usage": usage},
    ]
    told = dice.choice(events) | {"session_id": session}
    return read_hook("neutral", json.dumps(told).encode(), now_ns())


def random_request(dice: random.Random, number: int) -> bytes:
    """A few tool and model spans of some sessions, in traces that are theirs."""
    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    for place in range(dice.randint(1, 6)):
        session, tool = dice.choice("abc"), dice.choice(["make", "look"])
        span = scope.spans.add(trace_id=session.encode() * 16, span_id=(number * 100 + place + 1).to_bytes(8, "big"))
        span.start_time_unix_nano = now_ns()
        span.end_time_unix_nano = span.start_time_unix_nano + 10
        said: dict[str, Any] = {"gen_ai.conversation.id": session, "gen_ai.operation.name": "execute_tool"}
        if dice.random() < 0.4:
            said |= {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "anthropic"}
            said |= {"gen_ai.request.model": "claude-haiku-4-5"}
            said |= {"gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 10}
        else:
            said |= {"gen_ai.tool.name": tool, "gen_ai.tool.call.id": f"c{number}-{place}"}
            said |= {"gen_ai.tool.call.arguments": json.dumps({"command": tool})}
            if dice.random() < 0.6:
                span.status.code, span.status.message = 2, f"broke {number}"
        for key, value in said.items():
            held = span.attributes.add(key=key).value
            if isinstance(value, int):
                held.int_value = value
            else:
                held.string_value = value
    return request.SerializeToString()


def heard(service: Service) -> list[tuple[str, ...]]:
    """Every alert that the service tells from now on."""
    told: list[tuple[str, ...]] = []
    take = service._herald.take

    def noted(alerts: Iterable[Alert]) -> None:
        heard = list(alerts)
        told.extend((alert.rule, alert.id, alert.state, alert.run_id, alert.summary) for alert in heard)
        take(heard)

    service._herald.take = noted  # type: ignore[method-assign]
    return told


def stands(service: Service) -> list[tuple[str, ...]]:
    """What each session would be told now."""
    said = []
    for session in "abc":
        for tool in ("make", "look", "other"):
            body = {"session_id": session, "event": "before_tool", "tool": tool, "args": {"command": tool}}
            decision = service.decide(read_hook("neutral", json.dumps(body).encode(), now_ns())).result(20)
            said.append((str(decision.verb), decision.rule or "", decision.reason, decision.text or ""))
    return said


@pytest.mark.parametrize("seed", range(4))
def test_what_stands_and_what_was_told_is_a_function_of_the_journal(tmp_path: Path, seed: int) -> None:
    """Calls and spans of the same runs in any order, in the middle of requests, too; then a crash, and a new life."""
    dice = random.Random(seed)
    for name in ("live", "again"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rules.yaml").write_text(RULES)
    live = service(tmp_path / "live", "rules: [rules.yaml]\n")
    numbers = itertools.count()
    feeding = live.engine.feeding

    def asked_in_between(*arguments: Any) -> Iterator[None]:
        for _ in feeding(*arguments):
            chance = dice.random()
            if chance < 0.3:
                live._backlog.put_hook(random_hook(dice, next(numbers)), Future())
            elif chance < 0.6:
                visit(live, random_hook(dice, next(numbers)))
            yield

    live.engine.feeding = asked_in_between  # type: ignore[method-assign]
    told = heard(live)
    live.start()
    try:
        for request in range(20):
            live._intake.accept(Signal.TRACES, random_request(dice, request), tenant="default", transport="grpc")
            for _ in range(dice.randrange(3)):
                live.decide(random_hook(dice, next(numbers))).result(20)
            live._ask(lambda: None)
        for number in itertools.islice(numbers, 3):  # whatever the dice said, something stands in the end
            broken = {"session_id": "a", "event": "after_tool", "tool": "make", "args": {"command": "make"}}
            broken |= {"tool_call_id": f"h{number}", "error": "broke"}
            live.decide(read_hook("neutral", json.dumps(broken).encode(), now_ns())).result(20)
        made = next(numbers)
        until(lambda: sum(read_kept(record) is not None for record in live.journal.read()) == made)
        live._ask(lambda: None)
        shutil.copytree(tmp_path / "live" / "data" / "journal", tmp_path / "again" / "data" / "journal")
        standing = stands(live)
    finally:
        live.stop()
    again = service(tmp_path / "again", "rules: [rules.yaml]\n")
    retold = heard(again)
    again.start()
    try:
        known = list(retold)
        assert stands(again) == standing
    finally:
        again.stop()
    assert known
    assert set(standing) != {("allow", "", "", "")}
    assert told[: len(known)] == known


def after_tool(session: str) -> HookEvent:
    body = {"session_id": session, "event": "after_tool", "tool": "look", "args": {"at": "x"}}
    return read_hook("neutral", json.dumps(body).encode(), now_ns())


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Service]:
    """A service that is idle."""
    live = service(tmp_path)
    live.start()
    yield live
    live.stop()


def answering(live: Service) -> list[str]:
    """Names of the threads that took in calls, one after the other."""
    threads: list[str] = []
    take = live.engine.hook

    def noted(event: HookEvent, *arguments: Any) -> Any:
        threads.append(threading.current_thread().name)
        return take(event, *arguments)

    live.engine.hook = noted  # type: ignore[method-assign]
    return threads


def test_who_has_read_a_call_answers_it_while_the_engine_stands_aside(live: Service) -> None:
    threads = answering(live)
    for _ in range(2):  # of a run that is new, and of one that is open
        with live.expect_hook() as decide:
            answer = decide(after_tool("a"))
            assert answer.done()
    assert threads == ["MainThread"] * 2


def test_only_the_engines_thread_waits_for_the_ledger(live: Service) -> None:
    with live.expect_hook() as decide:
        decide(after_tool("a")).result(20)
    for run in list(live.engine.runs):
        run.active_ns = 0  # so quiet that it is put to sleep
    until(lambda: not len(live.engine.runs))
    live.flush()
    threads = answering(live)
    with live.expect_hook() as decide:
        decide(after_tool("a")).result(20)
    assert threads == ["engine"]
    (run,) = live.engine.runs
    assert len(run.steps) == 2  # it was awakened


def test_a_call_that_is_long_in_coming_holds_up_nothing_and_is_answered(live: Service) -> None:
    threads = answering(live)
    with live.expect_hook() as decide:
        began = time.monotonic()
        live._ask(lambda: None)
        live._ask(lambda: None)
        assert time.monotonic() - began < 2
        time.sleep(0.1)
        assert decide(after_tool("a")).done()
    assert threads == ["MainThread"]


def test_a_call_waits_in_line_where_the_engine_cannot_stand_aside(live: Service) -> None:
    threads = answering(live)
    held, busy = threading.Event(), threading.Event()
    live._backlog.put_question(lambda: (busy.set(), held.wait(20)), Future())
    assert busy.wait(20)
    with live.expect_hook() as decide:
        answer = decide(after_tool("a"))
        assert not answer.done()
        held.set()
        answer.result(20)
    assert threads == ["engine"]


def test_a_call_that_was_never_read_lets_the_engine_go_on(live: Service) -> None:
    for _ in range(3):
        with live.expect_hook():
            pass
        live._ask(lambda: None)


def test_a_list_of_all_open_runs_makes_no_call_wait_for_its_end(tmp_path: Path) -> None:
    live = service(tmp_path)
    live.start()
    try:
        for number in range(20):
            live.decide(
                read_hook("neutral", b'{"session_id": "s%d", "event": "after_tool", "tool": "x"}' % number, now_ns())
            )
        open_runs, answers = live.engine.open_runs, []

        def asked_in_between() -> Iterator[Any]:
            for number, run in enumerate(open_runs()):
                if number == 3:
                    told = b'{"session_id": "new", "event": "after_tool", "tool": "x"}'
                    answers.append(live.decide(read_hook("neutral", told, now_ns())))
                assert number <= 3 or answers[0].done()
                yield run

        live.engine.open_runs = asked_in_between  # type: ignore[method-assign]
        assert len(live.open_runs()) == 20  # as they were when it was asked
        assert len(answers) == 1
    finally:
        live.stop()
