"""A destination tells its backend everything, once it can, and its books always balance."""

from __future__ import annotations

import threading
import time
from collections import Counter
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from export_backends import FAST_RETRY, Answer, GrpcBackend, HttpBackend, Request, eventually, records
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span
from prometheus_client import CollectorRegistry

from otel_cost.core.model.effects import Outgoing, Signal
from otel_cost.core.model.event import Resource, Scope
from otel_cost.edge.export import _queue as queue_module
from otel_cost.edge.export import build_exporters
from otel_cost.edge.export._answers import retry_after
from otel_cost.edge.export._contract import Refused, TooLarge, Unavailable
from otel_cost.edge.export._metrics import DestinationMetrics
from otel_cost.edge.export._queue import Destination
from otel_cost.edge.export._settings import Batch, RetryOnFailure, SendingQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Destination]]:
    """Build, start and finally close one destination."""
    started: list[Destination] = []

    def build(exporter_id: str, *, cursors: dict[str, int] | None = None, **given: Any) -> Destination:
        given.setdefault("retry_on_failure", FAST_RETRY)
        built = build_exporters({exporter_id: given}, dead_letters=tmp_path / "dead", cursors=cursors)
        destination = built[exporter_id]
        destination.start()
        started.append(destination)
        return destination

    yield build
    for destination in started:
        destination.close()


def to_grpc(start: Callable[..., Destination], backend: GrpcBackend, **given: Any) -> Destination:
    return start("otlp_grpc/test", endpoint=backend.endpoint, tls={"insecure": True}, **given)


def to_http(start: Callable[..., Destination], backend: HttpBackend, **given: Any) -> Destination:
    return start("otlp_http/test", endpoint=backend.url, **given)


def names(requests: list[Request]) -> list[str]:
    return [
        span.name
        for request in requests
        for of_resource in ExportTraceServiceRequest.FromString(request.body).resource_spans
        for of_scope in of_resource.scope_spans
        for span in of_scope.spans
    ]


def all_names(count: int, first: int = 0) -> list[str]:
    return [f"span-{number:05d}" for number in range(first, first + count)]


def balanced(destination: Destination) -> bool:
    return all(
        book.enqueued == book.sent + book.pending + sum(book.dropped.values()) for book in destination.books().values()
    )


def dead_letters(tmp_path: Path) -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = {}
    for file in sorted((tmp_path / "dead").rglob("*.pb")):
        found.setdefault(file.name.split(".")[1], []).append(file.read_bytes())
    return found


# --- bytes


@pytest.mark.parametrize("compression", ["none", "gzip"])
@pytest.mark.parametrize("transport", ["grpc", "http"])
def test_bytes_arrive_exactly_with_ours_behind(
    start: Callable[..., Destination],
    grpc_backend: GrpcBackend,
    http_backend: HttpBackend,
    transport: str,
    compression: str,
) -> None:
    raw = Span(trace_id=bytes(range(16)), span_id=b"\x00\xff" * 4, name="chat", flags=0x300).SerializeToString()
    raw += b"\xa2\x3f\x03new"  # a field of a later OTLP
    extra = b"\x4a\x05\x0a\x03key"
    resource_envelope = ResourceSpans(schema_url="https://x/1").SerializeToString() + b"\xa2\x3f\x01r"
    scope_envelope = ScopeSpans(schema_url="https://x/2").SerializeToString() + b"\xa2\x3f\x01s"
    record = Outgoing(
        Signal.TRACES, 1, raw, extra, Resource(envelope=resource_envelope), Scope(envelope=scope_envelope)
    )
    if transport == "grpc":
        destination = to_grpc(start, grpc_backend, compression=compression, headers={"X-Tenant": "a"})
        requests = grpc_backend.requests
    else:
        destination = to_http(start, http_backend, compression=compression, headers={"X-Tenant": "a"})
        requests = http_backend.requests
    destination.offer([record])
    assert destination.drain(10)
    (request,) = requests
    assert raw + extra in request.body
    (of_resource,) = ExportTraceServiceRequest.FromString(request.body).resource_spans
    (of_scope,) = of_resource.scope_spans
    assert of_scope.spans[0] == Span.FromString(raw + extra)
    del of_scope.spans[:]
    assert of_scope.SerializeToString() == scope_envelope
    assert request.headers["x-tenant"] == "a"
    assert request.path == (
        "/v1/traces" if transport == "http" else "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
    )


def test_logs_and_metrics_go_to_their_own_place(start: Callable[..., Destination], http_backend: HttpBackend) -> None:
    metrics = ExportMetricsServiceRequest()
    metric = metrics.resource_metrics.add().scope_metrics.add().metrics.add(name="tokens")
    metric.sum.data_points.add(as_int=1)
    metric.sum.data_points.add(as_int=2)
    whole = metrics.SerializeToString()
    destination = to_http(start, http_backend, logs_endpoint=f"{http_backend.url}/loki")
    destination.offer([*records(2, signal=Signal.LOGS), *(Outgoing(Signal.METRICS, 9, whole) for _ in range(2))])
    assert destination.drain(10)
    by_path = {request.path: request.body for request in http_backend.requests}
    assert set(by_path) == {"/loki", "/v1/metrics"}
    assert by_path["/v1/metrics"] == whole * 2
    books = destination.books()
    assert (books[Signal.LOGS].sent, books[Signal.METRICS].sent) == (2, 4)


def test_requests_stay_within_limits(start: Callable[..., Destination], http_backend: HttpBackend) -> None:
    destination = to_http(
        start,
        http_backend,
        sending_queue={"num_consumers": 1, "batch": {"max_size": 10, "min_size": 10, "max_bytes": 200}},
    )
    destination.offer(records(30))
    destination.offer([Outgoing(Signal.TRACES, 30, b"\x2a\xe8\x07" + b"x" * 1000, resource=Resource(), scope=Scope())])
    assert destination.drain(10)
    assert names(http_backend.requests) == [*all_names(30), "x" * 1000]
    counts = [len(names([request])) for request in http_backend.requests]
    assert max(counts) <= 10
    assert all(len(request.body) <= 200 for request in http_backend.requests[:-1])


# --- failures that pass


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_retryable_status_is_retried_until_taken(
    start: Callable[..., Destination], http_backend: HttpBackend, status: int, tmp_path: Path
) -> None:
    http_backend.answers.extend([Answer(status)] * 3)
    destination = to_http(start, http_backend)
    destination.offer(records(5))
    assert destination.drain(10)
    assert len(http_backend.requests) == 4
    assert len({request.body for request in http_backend.requests}) == 1
    assert destination.books()[Signal.TRACES].sent == 5
    assert destination.retries == 3
    assert dead_letters(tmp_path) == {}


def test_retry_after_is_waited_for(start: Callable[..., Destination], http_backend: HttpBackend) -> None:
    http_backend.answers.append(Answer(429, headers={"Retry-After": "1"}))
    destination = to_http(start, http_backend)
    begun = time.monotonic()
    destination.offer(records(1))
    assert destination.drain(10)
    assert time.monotonic() - begun >= 1


def test_retry_after_forms() -> None:
    assert retry_after("120") == 120
    assert retry_after(formatdate(1_000_060, usegmt=True), now=1_000_000) == 60
    assert retry_after(formatdate(1_000_000, usegmt=True), now=1_000_060) == 0
    assert [retry_after(odd) for odd in (None, "", "soon", "-5", "1e9")] == [None] * 5


def test_absurd_retry_after_is_clamped(
    start: Callable[..., Destination], http_backend: HttpBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_module, "MAX_RETRY_AFTER_S", 0.05)
    http_backend.answers.append(Answer(503, headers={"Retry-After": "31536000"}))
    destination = to_http(start, http_backend)
    destination.offer(records(1))
    assert destination.drain(10)


def test_backend_that_hangs_is_asked_again(start: Callable[..., Destination], http_backend: HttpBackend) -> None:
    http_backend.answers.append(Answer(hang_s=30))
    destination = to_http(start, http_backend, timeout="200ms")
    destination.offer(records(3))
    assert destination.drain(10)
    assert len(http_backend.requests) == 2
    assert destination.books()[Signal.TRACES].sent == 3


def test_grpc_backend_that_hangs_is_asked_again(start: Callable[..., Destination], grpc_backend: GrpcBackend) -> None:
    release = threading.Event()
    grpc_backend.respond = lambda _body, _context: (
        b"" if len(grpc_backend.requests) > 1 else str(release.wait(5)).encode()
    )
    destination = to_grpc(start, grpc_backend, timeout="200ms")
    destination.offer(records(3))
    assert destination.drain(10)
    release.set()
    assert len(grpc_backend.requests) == 2


def test_backend_that_is_not_there_yet(start: Callable[..., Destination]) -> None:
    first = HttpBackend()
    port = first.port
    first.stop()
    destination = start("otlp_http/test", endpoint=f"http://127.0.0.1:{port}")
    destination.offer(records(4))
    eventually(lambda: destination.retries > 1)
    assert destination.pending == 4
    assert not destination.drain(0.01)
    backend = HttpBackend(port)
    try:
        assert destination.drain(10)
        assert sorted(names(backend.requests)) == all_names(4)
    finally:
        backend.stop()


def abort_with(context: grpc.ServicerContext, code: grpc.StatusCode, *metadata: tuple[str, bytes]) -> bytes:
    context.set_trailing_metadata(metadata)
    context.abort(code, "as the test wants")
    return b""


def retry_info_metadata(form: str) -> tuple[str, bytes]:
    info = RetryInfo(retry_delay=Duration(nanos=300_000_000))
    if form == "google.rpc.retryinfo-bin":
        return (form, info.SerializeToString())
    detail = AnyMessage()
    detail.Pack(info)
    return (form, Status(code=8, details=[detail]).SerializeToString())


@pytest.mark.parametrize("form", ["grpc-status-details-bin", "google.rpc.retryinfo-bin"])
def test_resource_exhausted_with_retry_info_waits(
    start: Callable[..., Destination], grpc_backend: GrpcBackend, form: str
) -> None:
    def respond(_body: bytes, context: grpc.ServicerContext) -> bytes:
        if len(grpc_backend.requests) == 1:
            return abort_with(context, grpc.StatusCode.RESOURCE_EXHAUSTED, retry_info_metadata(form))
        return b""

    grpc_backend.respond = respond
    destination = to_grpc(start, grpc_backend)
    begun = time.monotonic()
    destination.offer(records(8))
    assert destination.drain(10)
    assert time.monotonic() - begun >= 0.3
    assert [len(names([request])) for request in grpc_backend.requests] == [8, 8]


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED, grpc.StatusCode.DATA_LOSS])
def test_retryable_grpc_code_is_retried(
    start: Callable[..., Destination], grpc_backend: GrpcBackend, code: grpc.StatusCode
) -> None:
    grpc_backend.respond = lambda _, context: abort_with(context, code) if len(grpc_backend.requests) < 3 else b""
    destination = to_grpc(start, grpc_backend)
    destination.offer(records(1))
    assert destination.drain(10)
    assert len(grpc_backend.requests) == 3


def test_giving_up_is_a_choice_and_leaves_a_dead_letter(
    start: Callable[..., Destination], http_backend: HttpBackend, tmp_path: Path
) -> None:
    http_backend.otherwise = lambda _: Answer(503)
    destination = to_http(start, http_backend, retry_on_failure={**FAST_RETRY, "max_elapsed_time": "100ms"})
    destination.offer(records(2))
    assert destination.drain(10)
    assert destination.books()[Signal.TRACES].dropped == {"retry_time_exceeded": 2}
    assert dead_letters(tmp_path) == {"retry_time_exceeded": [http_backend.requests[0].body]}


# --- too large


def test_413_is_split_down_to_the_one_that_is_too_large(
    start: Callable[..., Destination], http_backend: HttpBackend, tmp_path: Path
) -> None:
    http_backend.otherwise = lambda request: Answer(413 if b"span-00013" in request.body else 200)
    destination = to_http(start, http_backend)
    destination.offer(records(64))
    assert destination.drain(10)
    book = destination.books()[Signal.TRACES]
    assert (book.sent, book.dropped, book.pending) == (63, {"too_large": 1}, 0)
    taken = [request for request in http_backend.requests if b"span-00013" not in request.body]
    assert sorted(names(taken)) == [name for name in all_names(64) if name != "span-00013"]
    (letter,) = dead_letters(tmp_path)["too_large"]
    assert names([Request("", {}, letter)]) == ["span-00013"]


def test_limit_is_learned(start: Callable[..., Destination], http_backend: HttpBackend) -> None:
    http_backend.otherwise = lambda request: Answer(413 if len(request.body) > 1000 else 200)
    destination = to_http(start, http_backend)
    destination.offer(records(256))
    assert destination.drain(10)
    before = len(http_backend.requests)
    destination.offer(records(256, first=256))
    assert destination.drain(10)
    assert all(len(request.body) <= 1000 for request in http_backend.requests[before:])
    assert destination.books()[Signal.TRACES].sent == 512


def test_grpc_resource_exhausted_without_retry_info_is_too_large(
    start: Callable[..., Destination], grpc_backend: GrpcBackend
) -> None:
    def respond(body: bytes, context: grpc.ServicerContext) -> bytes:
        return (
            abort_with(context, grpc.StatusCode.RESOURCE_EXHAUSTED) if len(names([Request("", {}, body)])) > 3 else b""
        )

    grpc_backend.respond = respond
    destination = to_grpc(start, grpc_backend)
    destination.offer(records(10))
    assert destination.drain(10)
    assert destination.books()[Signal.TRACES].sent == 10


def test_429_that_means_too_large_is_split_in_the_end(
    start: Callable[..., Destination], http_backend: HttpBackend
) -> None:
    http_backend.otherwise = lambda request: Answer(429 if len(names([request])) > 2 else 200)
    destination = to_http(start, http_backend)
    destination.offer(records(8))
    assert destination.drain(20)
    assert destination.books()[Signal.TRACES].sent == 8


# --- failures that stay


@pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 500])
def test_permanent_status_is_set_aside_not_resent(
    start: Callable[..., Destination], http_backend: HttpBackend, tmp_path: Path, status: int
) -> None:
    http_backend.otherwise = lambda _: Answer(status, headers={"Location": f"{http_backend.url}/elsewhere"})
    destination = to_http(start, http_backend)
    destination.offer(records(3))
    assert destination.drain(10)
    (request,) = http_backend.requests
    book = destination.books()[Signal.TRACES]
    assert (book.dropped, book.failed) == ({f"http_{status}": 3}, 3)
    assert dead_letters(tmp_path) == {f"http_{status}": [request.body]}
    http_backend.otherwise = lambda _: Answer()
    destination.offer(records(1, first=3))
    assert destination.drain(10)
    assert destination.books()[Signal.TRACES].sent == 1


def test_permanent_grpc_code_is_set_aside(
    start: Callable[..., Destination], grpc_backend: GrpcBackend, tmp_path: Path
) -> None:
    grpc_backend.respond = lambda _, context: abort_with(context, grpc.StatusCode.UNAUTHENTICATED)
    destination = to_grpc(start, grpc_backend)
    destination.offer(records(3))
    assert destination.drain(10)
    assert list(dead_letters(tmp_path)) == ["grpc_unauthenticated"]
    assert destination.books()[Signal.TRACES].dropped == {"grpc_unauthenticated": 3}


def partial(rejected: int) -> bytes:
    answer = ExportTraceServiceResponse(
        partial_success=ExportTracePartialSuccess(rejected_spans=rejected, error_message="no")
    )
    return answer.SerializeToString()


def test_partial_success_is_counted_and_not_resent(
    start: Callable[..., Destination], http_backend: HttpBackend, grpc_backend: GrpcBackend
) -> None:
    in_json = b'{"partialSuccess": {"rejectedSpans": "2", "errorMessage": "no"}}'
    http_backend.answers.append(Answer(200, partial(2), {"content-type": "application/x-protobuf"}))
    http_backend.answers.append(Answer(200, in_json, {"content-type": "application/json; charset=utf-8"}))
    grpc_backend.respond = lambda _, __: partial(2)
    for destination, offers in ((to_http(start, http_backend), 2), (to_grpc(start, grpc_backend), 1)):
        for number in range(offers):
            destination.offer(records(5, first=5 * number))
            assert destination.drain(10)
        book = destination.books()[Signal.TRACES]
        assert (book.sent, book.dropped) == (3 * offers, {"rejected": 2 * offers})
        assert balanced(destination)
    assert (len(http_backend.requests), len(grpc_backend.requests)) == (2, 1)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(Answer(200, b"ok", {"content-type": "text/html"}), id="text"),
        pytest.param(Answer(200, bytes(range(256)), {"content-type": "application/x-protobuf"}), id="garbage"),
        pytest.param(Answer(200, b"[" * 5000, {"content-type": "application/json"}), id="deep JSON"),
        pytest.param(Answer(200, b"[1]", {"content-type": "application/json"}), id="other JSON"),
        pytest.param(Answer(204), id="no content"),
        pytest.param(Answer(200, b"\0" * 5_000_000), id="large"),
    ],
)
def test_odd_success_is_success(start: Callable[..., Destination], http_backend: HttpBackend, answer: Answer) -> None:
    http_backend.answers.append(answer)
    destination = to_http(start, http_backend)
    for number in range(2):  # the connection is usable, or replaced
        destination.offer(records(1, first=number))
        assert destination.drain(10)
    assert destination.books()[Signal.TRACES].sent == 2


def test_web_page_has_taken_nothing(
    start: Callable[..., Destination], http_backend: HttpBackend, tmp_path: Path
) -> None:
    http_backend.answers.append(Answer(200, b"\n<!doctype html><p>Sign in", {"content-type": "text/html"}))
    destination = to_http(start, http_backend)
    destination.offer(records(1))
    assert destination.drain(10)
    assert list(dead_letters(tmp_path)) == ["not_otlp"]


def test_full_dead_letter_folder_is_counted_all_the_same(tmp_path: Path, http_backend: HttpBackend) -> None:
    from otel_cost.edge.export._dead_letters import DeadLetters

    letters = DeadLetters(tmp_path / "small", max_bytes=10)
    assert letters.put(Signal.TRACES, "http_400", b"x" * 8)
    assert not letters.put(Signal.TRACES, "http_400", b"x" * 8)
    assert not DeadLetters(tmp_path / "small", max_bytes=10).put(Signal.TRACES, "http_400", b"x" * 8)
    (file,) = (tmp_path / "small").iterdir()
    assert file.stat().st_mode & 0o077 == 0


# --- queue, cursor, books


def test_one_dead_destination_does_not_hold_up_another(
    start: Callable[..., Destination], http_backend: HttpBackend, grpc_backend: GrpcBackend
) -> None:
    http_backend.otherwise = lambda _: Answer(503)
    dead, alive = to_http(start, http_backend), to_grpc(start, grpc_backend)
    for destination in (dead, alive):
        destination.offer(records(100))
    assert alive.drain(10)
    assert not dead.drain(0.05)
    assert (alive.pending, dead.pending) == (0, 100)


def test_full_queue_says_so_and_keeps_what_it_is_given(
    start: Callable[..., Destination], http_backend: HttpBackend
) -> None:
    http_backend.otherwise = lambda _: Answer(503)
    destination = to_http(start, http_backend, sending_queue={"sizer": "items", "queue_size": 10})
    destination.offer(records(9))
    assert not destination.is_full
    destination.offer(records(5, first=9))
    assert destination.is_full
    assert destination.size == 14
    http_backend.otherwise = lambda _: Answer()
    assert destination.drain(10)
    assert not destination.is_full
    taken = [request for request in http_backend.requests if request.body][-1:]
    assert set(names(taken)) <= set(all_names(14))
    assert destination.books()[Signal.TRACES].sent == 14


def test_cursor_never_passes_what_is_pending(start: Callable[..., Destination], http_backend: HttpBackend) -> None:
    http_backend.otherwise = lambda request: Answer(503 if b"span-00007" in request.body else 200)
    destination = to_http(start, http_backend, sending_queue={"batch": {"max_size": 1, "min_size": 1}})
    assert destination.cursor == -1
    destination.offer(records(3, first=10))
    assert destination.drain(10)
    assert destination.cursor == 12
    destination.offer([*records(3, first=20), *records(1, first=7)])  # a root that waited for its children
    eventually(lambda: destination.pending == 1)
    assert destination.cursor == 6
    assert destination.oldest_pending_s > 0
    http_backend.otherwise = lambda _: Answer()
    assert destination.drain(10)
    assert (destination.cursor, destination.oldest_pending_s) == (22, 0)


def test_resumed_destination_is_not_told_again(start: Callable[..., Destination], http_backend: HttpBackend) -> None:
    destination = start("otlp_http/test", endpoint=http_backend.url, cursors={"otlp_http/test": 4})
    destination.offer(records(3))
    destination.offer(records(5, first=3))
    assert destination.drain(10)
    assert names(http_backend.requests) == all_names(3, first=5)
    assert destination.books()[Signal.TRACES].dropped == {"already_delivered": 5}
    assert balanced(destination)


def test_closed_destination_keeps_what_is_pending(
    start: Callable[..., Destination], http_backend: HttpBackend, tmp_path: Path
) -> None:
    http_backend.otherwise = lambda _: Answer(503)
    destination = to_http(start, http_backend, retry_on_failure={"initial_interval": "30s"})
    destination.offer(records(3))
    eventually(lambda: destination.retries == 1)
    begun = time.monotonic()
    destination.close()
    assert time.monotonic() - begun < 2
    assert (destination.pending, destination.cursor) == (3, -1)
    assert dead_letters(tmp_path) == {}


def test_metrics_balance(start: Callable[..., Destination], http_backend: HttpBackend) -> None:
    http_backend.answers.append(Answer(401))
    destination = to_http(start, http_backend)
    for number in range(2):
        destination.offer(records(4, first=4 * number))
        assert destination.drain(10)
    registry = CollectorRegistry()
    registry.register(DestinationMetrics(lambda: [destination]))
    of = {"exporter": "otlp_http/test"}
    assert registry.get_sample_value("otel_cost_exporter_enqueued_spans_total", of) == 8
    assert registry.get_sample_value("otelcol_exporter_sent_spans_total", of) == 4
    assert registry.get_sample_value("otelcol_exporter_send_failed_spans_total", of) == 4
    assert registry.get_sample_value("otel_cost_exporter_dropped_spans_total", {**of, "policy": "http_401"}) == 4
    assert registry.get_sample_value("otel_cost_exporter_pending_spans", of) == 0
    assert registry.get_sample_value("otelcol_exporter_queue_capacity", of) == 64 << 20


class Moody:
    """An exporter without a network, whose answer to each request is drawn."""

    def __init__(self, moods: list[str]) -> None:
        self._moods, self._lock = moods, threading.Lock()
        self.taken: Counter[str] = Counter()

    def send(self, _signal: Signal, payload: bytes) -> int:
        told = names([Request("", {}, payload)])
        with self._lock:
            mood = self._moods.pop() if self._moods else "take"
            if mood == "take":
                self.taken.update(told)
                return 0
        if mood == "partial":
            return 1
        if mood == "bug":
            raise ZeroDivisionError
        raise {
            "busy": Unavailable("busy", "http_429", overload=True),
            "down": Unavailable("down", "connection"),
            "refuse": Refused("no", "http_400"),
            "large": TooLarge("large", "http_413"),
        }[mood]

    def close(self) -> None:
        pass


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from(["take", "busy", "down", "refuse", "large", "partial", "bug"]), max_size=25),
    st.lists(st.integers(1, 40), min_size=1, max_size=8),
    st.integers(1, 4),
)
def test_nothing_is_lost_whatever_the_backend_does(moods: list[str], offers: list[int], consumers: int) -> None:
    exporter = Moody(moods)
    destination = Destination(
        "moody",
        exporter,
        queue=SendingQueue(num_consumers=consumers, batch=Batch(flush_timeout="1ms", max_size=16, min_size=8)),
        retry=RetryOnFailure(initial_interval="1ms", max_interval="1ms"),
    )
    destination.start()
    try:
        first = 0
        for count in offers:
            destination.offer(records(count, first=first))
            first += count
            assert balanced(destination)
        assert destination.drain(20)
        book = destination.books()[Signal.TRACES]
        assert (book.enqueued, book.pending) == (first, 0)
        assert balanced(destination)
        assert destination.cursor == first - 1
        assert destination.size == 0
        # One that was taken was taken once; what was not taken is in the books.
        assert set(exporter.taken.values()) <= {1}
        assert len(exporter.taken) <= book.sent
        assert len(exporter.taken) >= first - sum(book.dropped.values()) - 16 * book.dropped.get("rejected", 0)
    finally:
        destination.close()
