"""Faults that need the whole: odd trees, huge traces, disks and descriptors that run out, strangers at the door.

Which fault is answered where: `docs/faults.md`.
"""

from __future__ import annotations

import contextlib
import json
import resource
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))

from kill_loop import EXPORT, span_ids
from load import export_requests
from money_helper import book
from running import Process, until

from otel_cost.cli import run
from otel_cost.core.assemble.runs import Caps
from otel_cost.core.decode.otlp import decode_traces
from otel_cost.core.model.effects import Signal
from otel_cost.core.rules import load_rules
from otel_cost.edge.books import check_books
from otel_cost.edge.export._watch import DestinationWatch
from otel_cost.pipeline import Engine, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from backends import OverGrpc, OverHttp

NOW = time.time_ns()
SECOND = 10**9


def chat(span_id: int, parent: int = 0, trace: int = 1, **fields: Any) -> Span:
    """A call of about 1,000 tokens in and 100 out; no two are alike, so that none passes for a wrapper of another."""
    span = Span(
        trace_id=trace.to_bytes(16, "big"),
        span_id=span_id.to_bytes(8, "big"),
        parent_span_id=parent.to_bytes(8, "big") if parent else b"",
        name="chat",
        start_time_unix_nano=fields.pop("start", NOW - 60 * SECOND + span_id),
        end_time_unix_nano=fields.pop("end", NOW - 59 * SECOND + span_id),
    )
    given = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-5-mini",
        "gen_ai.response.id": f"r-{trace}-{span_id}",
        "gen_ai.usage.input_tokens": 1000 + span_id,
        "gen_ai.usage.output_tokens": 100,
        **fields,
    }
    for key, value in given.items():
        pair = span.attributes.add(key=key)
        if isinstance(value, int):
            pair.value.int_value = value
        else:
            pair.value.string_value = str(value)
    return span


def request(*spans: Span) -> bytes:
    made = ExportTraceServiceRequest()
    made.resource_spans.add().scope_spans.add(spans=spans).scope.name = "faults"
    return made.SerializeToString()


@pytest.fixture
def replayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[dict[str, Any]]]:
    def replay(*spans: Span) -> list[dict[str, Any]]:
        file = tmp_path / "odd.traces.pb"
        file.write_bytes(request(*spans))
        assert run(["replay", "--json", str(file)]) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return replay


# --- odd trees and times

ODD = {
    "parent is itself": [chat(1, parent=1)],
    "parents in a circle": [chat(1, parent=2), chat(2, parent=1)],
    "parents in a wide circle": [chat(n, parent=n % 5 + 1) for n in range(1, 6)],
    "parent never arrives": [chat(1, parent=99), chat(2, parent=98)],
    "two roots": [chat(1), chat(2)],
    "end before start": [chat(1, start=NOW, end=NOW - SECOND)],
    "no times": [chat(1, start=0, end=0)],
    "1970": [chat(1, start=5, end=6)],
    "2262": [chat(1, start=2**63 - 10, end=2**63 - 1)],
    "after every calendar": [chat(1, start=2**64 - 10, end=2**64 - 1)],
    "tomorrow": [chat(1, start=NOW + 86_400 * SECOND, end=NOW + 86_401 * SECOND)],
}


@pytest.mark.parametrize("name", ODD)
def test_odd_trees_and_times_count_every_call_once(name: str, replayed: Callable[..., list[dict[str, Any]]]) -> None:
    lines = replayed(*ODD[name])
    calls = [line for line in lines if line["type"] == "call"]
    assert len(calls) == len(ODD[name])
    assert {call["status"] for call in calls} <= {"priced", "unpriced"}
    if name not in {"no times", "1970"}:  # before the first price there is none
        assert all(float(call["cost_usd"]) == pytest.approx(0.00045, rel=0.01) for call in calls)
    assert sum(line["llm_calls"] for line in lines if line["type"] == "run") == len(ODD[name])


@pytest.mark.slow
def test_a_huge_trace_is_put_to_sleep_and_others_do_not_notice() -> None:
    """Memory holds so many spans; what is beyond sleeps and wakes, and every call counts once."""
    asleep: dict[tuple[str, str], bytes] = {}

    class Snapshots:
        def find(self, tenant: str, key: str) -> bytes | None:
            return asleep.get((tenant, key))

    engine = Engine(book(), load_rules([]), Settings(caps=Caps(busy_ns=0, open_spans=600, open_steps=300)), Snapshots())
    calls: dict[str, Any] = {}
    count, at = 1_600, NOW
    for first in range(1, count, 200):
        spans = [chat(n, parent=count + 1, trace=1) for n in range(first, first + 200)]
        small = [chat(first, trace=first + 10)]
        for body in (request(*spans), request(*small)):
            at += SECOND
            engine.feed(Signal.TRACES, decode_traces(body, "t", at).events, at, at)
            engine.advance(at)
            effects = engine.take()
            calls |= {call.id: call for _, _, call in effects.calls}
            for closed in effects.closed:
                asleep |= {(closed.summary.tenant, key): closed.snapshot() for key in closed.keys}
            assert engine.runs.spans < 1_000  # the limit, and what is just at work
    engine.close(at)
    calls |= {call.id: call for _, _, call in engine.take().calls}
    assert len(calls) == count + count // 200


def test_a_run_that_goes_on_for_days_holds_back_so_much_of_the_journal() -> None:
    """A session that is never quiet: it is written down now and then, and counts every call once all the same."""
    asleep: dict[tuple[str, str], bytes] = {}

    class Snapshots:
        def find(self, tenant: str, key: str) -> bytes | None:
            return asleep.get((tenant, key))

    engine = Engine(book(), load_rules([]), Settings(caps=Caps(behind=10_000)), Snapshots())
    calls: dict[str, Any] = {}
    written = 0
    for number in range(1, 101):
        at, position = NOW + number * SECOND, number * 1_000
        for trace, session in ((1, "for ever"), (number + 10, f"short {number}")):
            body = request(chat(number, trace=trace, **{"gen_ai.conversation.id": session}))
            engine.feed(Signal.TRACES, decode_traces(body, "t", at).events, position, at)
        engine.advance(at)
        effects = engine.take()
        calls |= {call.id: call for _, _, call in effects.calls}
        for closed in effects.closed:
            written += closed.summary.session == "for ever"
            asleep |= {(closed.summary.tenant, key): closed.snapshot() for key in closed.keys}
        oldest = engine.runs.position()
        assert oldest is not None
        assert position - oldest <= 10_000
    assert 8 <= written <= 10
    engine.close(NOW + 200 * SECOND)
    effects = engine.take()
    calls |= {call.id: call for _, _, call in effects.calls}
    assert len(calls) == 200
    (whole,) = (closed for closed in effects.closed if closed.summary.session == "for ever")
    assert whole.summary.llm_calls == 100


def test_a_run_beyond_its_own_cap_sleeps_once_it_is_quiet_and_counts_each_call_once() -> None:
    asleep: dict[tuple[str, str], bytes] = {}

    class Snapshots:
        def find(self, tenant: str, key: str) -> bytes | None:
            return asleep.get((tenant, key))

    engine = Engine(book(), load_rules([]), Settings(caps=Caps(busy_ns=10 * SECOND, run_steps=5)), Snapshots())
    calls: dict[str, Any] = {}
    woken = 0

    def feed(at: int, *spans: Any) -> int:
        """Runs that are open after it."""
        nonlocal calls, woken
        engine.feed(Signal.TRACES, decode_traces(request(*spans), "t", at).events, at, at)
        engine.advance(at)
        effects = engine.take()
        calls |= {call.id: call for _, _, call in effects.calls}
        for closed in effects.closed:
            woken += 1
            asleep.update({(closed.summary.tenant, key): closed.snapshot() for key in closed.keys})
        return len(engine.runs)

    large = [chat(n, parent=99, trace=1) for n in range(1, 8)]
    assert feed(NOW, *large, chat(20, trace=2)) == 2
    assert feed(NOW + 9 * SECOND, chat(21, trace=2)) == 2  # it was at work nine seconds ago
    assert feed(NOW + 11 * SECOND, chat(22, trace=2)) == 1  # the small one stays open
    assert feed(NOW + 12 * SECOND, *large, chat(8, parent=99, trace=1)) == 2  # seven of them are known
    engine.close(NOW + 13 * SECOND)
    calls |= {call.id: call for _, _, call in engine.take().calls}
    assert len(calls) == 8 + 3
    assert woken == 1


# --- doors


def _still_takes(service: Process) -> bool:
    with grpc.insecure_channel(service.grpc) as channel:
        channel.unary_unary(EXPORT, None, None)(request(chat(1)), timeout=10)
    return _post(service, request(chat(2)))[0] == 200


def _post(service: Process, body: bytes) -> tuple[int, Any]:
    told = urllib.request.Request(
        f"http://{service.http}/v1/traces", body, {"Content-Type": "application/x-protobuf"}, method="POST"
    )
    try:
        with urllib.request.urlopen(told, timeout=20) as answer:
            return answer.status, answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.headers


def _ready(service: Process) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(f"{service.api}/readyz", timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_other_protocols_at_a_door_are_turned_away(serve: Callable[..., Process]) -> None:
    service = serve()
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9)
    for endpoint, said in ((service.http, preface), (service.grpc, b"POST /v1/traces HTTP/1.1\r\nHost: x\r\n\r\n")):
        host, _, port = endpoint.partition(":")
        with socket.create_connection((host, int(port)), timeout=15) as door:
            door.sendall(said)
            heard = door.recv(4096)
            assert not heard.startswith(b"HTTP/1.1 200")
    for endpoint in (service.http, service.grpc):
        host, _, port = endpoint.partition(":")
        with socket.create_connection((host, int(port)), timeout=15) as door, pytest.raises((ssl.SSLError, OSError)):
            ssl.create_default_context().wrap_socket(door, server_hostname="localhost")
    assert _still_takes(service)


@pytest.mark.slow
def test_out_of_descriptors_it_waits_and_goes_on(serve: Callable[..., Process]) -> None:
    service = serve()
    open_now = len(list(Path(f"/proc/{service.process.pid}/fd").iterdir()))
    resource.prlimit(service.process.pid, resource.RLIMIT_NOFILE, (open_now + 30, open_now + 30))
    host, _, port = service.http.partition(":")
    held = [socket.create_connection((host, int(port)), timeout=10) for _ in range(120)]
    time.sleep(1)
    assert service.process.poll() is None
    for connection in held:
        connection.close()
    until(lambda: _still_takes(service))
    assert service.stop() == 0


@pytest.mark.slow
def test_above_the_soft_limit_of_memory_requests_wait_and_nothing_dies(serve: Callable[..., Process]) -> None:
    service = serve("engine: {memory_soft_limit: 16MiB}")
    status, headers = _post(service, request(chat(1)))
    assert (status, headers["Retry-After"]) == (503, "2")
    with grpc.insecure_channel(service.grpc) as channel, pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(EXPORT, None, None)(request(chat(1)), timeout=10)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert {key for key, _ in refused.value.trailing_metadata()} >= {
        "grpc-status-details-bin",
        "google.rpc.retryinfo-bin",
    }
    assert service.get("/healthz")
    assert _ready(service) == (503, {"ready": False, "problems": ["memory is near its soft limit"]})
    health = grpc.insecure_channel(service.grpc).unary_unary("/grpc.health.v1.Health/Check", None, None)
    until(lambda: health(b"", timeout=5) == b"\x08\x02")  # NOT_SERVING
    assert service.stop() == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 48 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("mounting a small file system needs root and CAP_SYS_ADMIN; run as root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_a_disk_that_is_really_full_refuses_and_recovers_by_itself(small_disk: Path) -> None:
    service = Process(small_disk)
    try:
        assert _post(service, request(chat(1)))[0] == 200
        until(lambda: service.get("/v1/report")["rows"])
        filler = small_disk / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(1 << 16))
        bodies = export_requests(300, 100)
        for body in bodies:
            status, headers = _post(service, body)
            assert status == 503
            assert int(headers["Retry-After"]) > 0
        assert service.process.poll() is None
        assert service.get("/healthz")
        assert _ready(service)[0] == 503
        filler.unlink()
        until(lambda: _post(service, bodies[0])[0] == 200)
        until(lambda: _ready(service)[0] == 200)
        until(lambda: not check_books(service.get("/metrics"), at_rest=True))
        assert service.stop() == 0
    finally:
        if service.process.poll() is None:
            service.process.kill()
            service.process.wait()


# --- destinations


@pytest.mark.slow
def test_a_backend_that_refuses_for_ever_is_told_of_and_the_other_goes_on(
    serve: Callable[..., Process], backends: tuple[OverGrpc, OverHttp]
) -> None:
    well, _ = backends
    service = serve(
        f"""
exporters:
  otlp_grpc/well: {{endpoint: "127.0.0.1:{well.port}", tls: {{insecure: true}}}}
  otlp_http/wrong: {{endpoint: "{"http"}://127.0.0.1:1", retry_on_failure: {{initial_interval: 50ms}}}}
engine: {{settle: 100ms}}
"""
    )
    bodies = export_requests(300, 100)
    for body in bodies:
        assert _post(service, body)[0] == 200
    until(lambda: {span.span_id for span in well.spans()} == span_ids(bodies))
    until(lambda: 'otel_cost_exporter_breaker_open{exporter="otlp_http/wrong"} 1.0' in service.get("/metrics"))


def test_a_destination_in_trouble_is_an_alert_and_so_is_its_end() -> None:
    class Lagging:
        name, pending = "honeycomb", 7
        trouble: str | None = "http_401"

    destination, watch = Lagging(), DestinationWatch(60 * SECOND)
    assert list(watch.advance([destination], 0)) == []  # type: ignore[list-item]
    assert list(watch.advance([destination], 59 * SECOND)) == []  # type: ignore[list-item]
    (alert,) = watch.advance([destination], 60 * SECOND)  # type: ignore[list-item]
    assert (alert.kind, alert.state, alert.evidence["reason"]) == ("exporter_failing", "firing", "http_401")
    assert list(watch.advance([destination], 61 * SECOND)) == []  # type: ignore[list-item]
    destination.trouble = None
    (back,) = watch.advance([destination], 62 * SECOND)  # type: ignore[list-item]
    assert (back.state, back.id) == ("resolved", f"{alert.id}-resolved")
