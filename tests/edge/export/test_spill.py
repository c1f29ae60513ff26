"""A backend that is slow, away or wrong hurts nobody else: what it cannot take waits on disk, and nothing is lost."""

from __future__ import annotations

import itertools
import struct
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from export_backends import FAST_RETRY, Answer, HttpBackend, Request, eventually, records
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from otel_cost.core.model.effects import Outgoing, Signal
from otel_cost.core.model.event import Resource, Scope
from otel_cost.edge.export import _queue as queue_module
from otel_cost.edge.export import _spill as spill_module
from otel_cost.edge.export._contract import Unavailable
from otel_cost.edge.export._patience import Patience
from otel_cost.edge.export._queue import Destination
from otel_cost.edge.export._settings import RetryOnFailure, SendingQueue, Spill
from otel_cost.edge.export._spill import Spill as SpillFile
from otel_cost.edge.notify._outbox import Outbox
from otel_cost.edge.notify._told import ToldAlerts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Fake:
    """A backend by function: keeps what it takes, raises while `away`."""

    def __init__(self) -> None:
        self.away = False
        self.delay_s = 0.0
        self.tries = 0
        self.requests: list[bytes] = []
        self._lock = threading.Lock()

    def send(self, signal: Signal, payload: bytes) -> int:
        with self._lock:
            self.tries += 1
        if self.away:
            raise Unavailable("away", "connection")
        time.sleep(self.delay_s)
        with self._lock:
            self.requests.append(payload)
        return 0

    def close(self) -> None: ...

    def names(self) -> list[str]:
        return [
            span.name
            for body in list(self.requests)
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


def spans(count: int, first: int = 0, size: int = 0) -> list[Outgoing]:
    """Valid spans whose name is their number; `size`: bytes of ballast in each."""
    resource, scope = Resource(), Scope()
    return [
        Outgoing(
            Signal.TRACES,
            number,
            Span(
                trace_id=b"t" * 16, span_id=(number + 1).to_bytes(8, "big"), name=str(number), trace_state="x" * size
            ).SerializeToString(),
            resource=resource,
            scope=scope,
        )
        for number in range(first, first + count)
    ]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Destination]]:
    opened: list[Destination] = []

    def build(exporter: Fake, *, items: int = 100, resume_after: int = -1, **spill: Any) -> Destination:
        destination = Destination(
            "lagging",
            exporter,
            queue=SendingQueue(sizer="items", queue_size=items, spill=Spill(**spill)),
            retry=RetryOnFailure(initial_interval="5ms", max_interval="20ms"),
            spill=tmp_path / "spill",
            resume_after=resume_after,
        )
        destination.start()
        opened.append(destination)
        return destination

    yield build
    for destination in opened:
        destination.close()


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_module, "SPILL_EVERY_S", 0.02)


def balanced(destination: Destination) -> bool:
    return all(
        book.enqueued == book.sent + book.pending + sum(book.dropped.values()) for book in destination.books().values()
    )


def emptied(destination: Destination) -> None:
    """`drain` does not wait for a backend that was away a moment ago."""
    eventually(lambda: destination.drain(1) or destination.pending == 0, 60)


def test_a_full_queue_goes_to_disk_and_comes_back_in_order(start: Callable[..., Destination]) -> None:
    backend = Fake()
    backend.away = True
    destination = start(backend)
    for first in range(0, 2000, 50):
        destination.offer(spans(50, first))
        assert balanced(destination)
    # Memory and the journal are free although nothing was delivered.
    eventually(lambda: destination.size == 0)
    assert destination.cursor == 1999
    assert not destination.is_full
    assert destination.pending == 2000
    assert destination.oldest_pending_s > 0
    eventually(lambda: destination.is_broken)
    backend.away = False
    emptied(destination)
    eventually(lambda: sorted(map(int, backend.names())) == list(range(2000)))
    assert balanced(destination)
    assert destination.pending == 0
    # And back to memory.
    destination.offer(spans(10, 2000))
    emptied(destination)
    assert len(backend.names()) == 2010


def test_a_backend_that_is_away_is_asked_one_request_at_a_time(start: Callable[..., Destination]) -> None:
    backend = Fake()
    backend.away = True
    destination = start(backend)
    destination.offer(spans(2000))
    eventually(lambda: destination.is_broken and destination.size == 0)
    before, begun = backend.tries, time.monotonic()
    time.sleep(0.5)
    # At most one try per (spread) pause of 20 ms, however many wait.
    assert backend.tries - before <= (time.monotonic() - begun) / 0.01
    assert destination.books()[Signal.TRACES].resent > 0


def test_what_is_left_at_the_end_is_sent_by_the_next_run_and_only_once(start: Callable[..., Destination]) -> None:
    backend = Fake()
    backend.away = True
    first = start(backend)
    first.offer(spans(500))
    eventually(lambda: first.is_broken)
    first.offer(spans(70, 500))
    assert not first.drain(5)
    first.close()
    assert first.cursor == 569
    backend.away = False
    second = start(backend, resume_after=first.cursor)
    assert second.books()[Signal.TRACES].recovered == 570
    second.offer(spans(20, 560))  # the journal tells the last ones again
    emptied(second)
    assert sorted(map(int, backend.names())) == list(range(580))
    assert second.books()[Signal.TRACES].dropped == {"already_delivered": 10}
    assert balanced(second)


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest"])
def test_a_full_spill_drops_by_its_policy_and_counts(
    start: Callable[..., Destination], monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    monkeypatch.setattr(spill_module, "SEGMENT_BYTES", 1 << 20)
    backend = Fake()
    backend.away = True
    destination = start(backend, max_bytes=64 << 20, when_full=policy)
    count, size = 90, 1_000_000
    for number in range(count):
        destination.offer(spans(1, number, size))
        if number % 10 == 9:
            eventually(lambda: destination.size < 100)
    destination.offer(spans(100, count))
    eventually(lambda: destination.size == 0)
    book = destination.books()[Signal.TRACES]
    assert not destination.is_full
    assert 10 <= book.dropped["spill_full"] <= 130
    assert destination.spilled_bytes <= 64 << 20
    assert balanced(destination)
    backend.away = False
    emptied(destination)
    arrived = sorted(map(int, backend.names()))
    assert len(arrived) == count + 100 - destination.books()[Signal.TRACES].dropped["spill_full"]
    assert (arrived[-1] == count + 99) if policy == "drop_oldest" else (arrived[0] == 0)


def test_what_is_under_way_when_the_oldest_is_dropped_outlasts_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spill_module, "SEGMENT_BYTES", 1 << 20)
    spill = SpillFile(tmp_path, 8 << 20)
    for number in range(30):
        spill.add(spill.write(Signal.TRACES, 1, bytes([number]) * 250_000, number))
    under_way = [spill.take()[0] for _ in range(2)]
    spill.done(under_way.pop(0))
    dropped = {one.at_ns for one in spill.drop_oldest()}
    assert len(dropped) >= 2
    assert spill.size_bytes < 8 << 20
    # As a crash leaves it: nothing more is said to it, and its lock goes with the process.
    spill.close()
    again = SpillFile(tmp_path, 8 << 20)
    found = []
    while (one := again.take()[0]) is not None:
        found.append((one.at_ns, one.payload[0]))
    assert sorted(found) == [(number, number) for number in range(1, 30) if number not in dropped]
    again.close()


def test_a_full_spill_that_refuses_loses_nothing(start: Callable[..., Destination]) -> None:
    backend = Fake()
    backend.away = True
    destination = start(backend, items=20, max_bytes=64 << 20, when_full="refuse")
    number = 0
    while not destination.is_full:
        destination.offer(spans(5, number, 1_000_000))
        number += 5
        time.sleep(0.01)
        assert number < 400
    backend.away = False
    emptied(destination)
    assert sorted(map(int, backend.names())) == list(range(number))
    assert not destination.is_full


def test_an_alert_that_was_delivered_is_not_sent_again_after_a_crash(tmp_path: Path) -> None:
    """Its request is after the cursor, as it is when the process dies before the cursor is written down."""
    outbox = Outbox(tmp_path / "outbox.sqlite")
    settings = {"queue": SendingQueue(), "retry": RetryOnFailure()}
    records_ = [
        Outgoing(Signal.LOGS, 5, b"\x62\x01a", resource=Resource(), scope=Scope(), key="t/one"),
        Outgoing(Signal.LOGS, 5, b"\x62\x01b", resource=Resource(), scope=Scope()),
    ]
    backends = []
    for life in range(2):
        backends.append(Fake())
        destination = Destination("d", backends[-1], told=ToldAlerts(outbox, "d"), **settings)
        destination.start()
        destination.offer(records_)
        assert destination.drain(10)
        assert balanced(destination)
        assert destination.books()[Signal.LOGS].dropped == ({"already_delivered": 1} if life else {})
        destination.close()
    assert b"\x62\x01a" in backends[0].requests[0]
    assert b"\x62\x01a" not in backends[1].requests[0]
    assert b"\x62\x01b" in backends[1].requests[0]
    outbox.close()


def test_what_waits_too_long_goes_to_disk_though_memory_has_room(start: Callable[..., Destination]) -> None:
    backend = Fake()
    backend.away = True
    destination = start(backend, after="100ms")
    destination.offer(spans(3))
    eventually(lambda: destination.cursor == 2)
    assert (destination.size, destination.pending) == (0, 3)
    backend.away = False
    emptied(destination)


def test_a_slow_backend_gets_everything_once_and_memory_stays_flat(start: Callable[..., Destination]) -> None:
    backend = Fake()
    backend.delay_s = 0.02
    destination = start(backend, items=500)
    most = 0
    for first in range(0, 20_000, 100):
        destination.offer(spans(100, first))
        most = max(most, destination.size)
        time.sleep(0.002)
    emptied(destination)
    assert sorted(map(int, backend.names())) == list(range(20_000))
    assert destination.books()[Signal.TRACES].resent == 0
    assert most < 5_000


def test_a_request_from_disk_that_is_too_large_is_split(
    tmp_path: Path, http_backend: HttpBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_module, "BREAK_AFTER", 1)
    from otel_cost.edge.export import build_exporters

    away = threading.Event()
    away.set()

    def answer(request: Request) -> Answer:
        if away.is_set():
            return Answer(503)
        return Answer(413 if len(request.body) > 2000 else 200)

    http_backend.otherwise = answer
    settings = {
        "endpoint": http_backend.url,
        "retry_on_failure": FAST_RETRY,
        "sending_queue": {"sizer": "items", "queue_size": 10},
    }
    (destination,) = build_exporters({"otlp_http": settings}, spill=tmp_path / "spill").values()
    destination.start()
    destination.offer(spans(300))
    destination.offer([Outgoing(Signal.METRICS, 300, _metrics())])
    eventually(lambda: destination.size == 0)
    away.clear()
    emptied(destination)
    books = destination.books()
    assert (books[Signal.TRACES].sent, books[Signal.METRICS].sent) == (300, 2)
    destination.close()


def _metrics() -> bytes:
    request = ExportMetricsServiceRequest()
    metric = request.resource_metrics.add().scope_metrics.add().metrics.add(name="tokens")
    metric.sum.data_points.add(as_int=1)
    metric.sum.data_points.add(as_int=2)
    return request.SerializeToString()


def test_a_damaged_request_on_disk_is_counted_and_the_others_go_on(
    start: Callable[..., Destination], tmp_path: Path
) -> None:
    backend = Fake()
    backend.away = True
    first = start(backend)
    for number in range(3):
        first.offer(spans(200, number * 200))
        eventually(lambda: first.size == 0)
    first.close()
    (segment,) = (tmp_path / "spill").glob("*.journal")
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 0xFF
    segment.write_bytes(data)
    backend.away = False
    second = start(backend)
    emptied(second)
    recovered = second.books()[Signal.TRACES].recovered
    assert 0 < recovered < 600
    assert len(backend.names()) == recovered
    assert balanced(second)


def test_kill_at_any_write_of_the_spill_keeps_what_was_kept(tmp_path: Path) -> None:
    """Cut the file at every byte of its last record: what came before is read back, the torn one is not."""
    folder = tmp_path / "spill"
    spill = SpillFile(folder, 1 << 30)
    for number in range(3):
        spill.add(spill.write(Signal.TRACES, number + 1, bytes([number]) * 10, 5))
    spill.close()
    (segment,) = folder.glob("*.journal")
    whole = segment.read_bytes()
    last = len(whole) // 3 * 2
    for cut in itertools.chain(range(last, len(whole), 7), [len(whole)]):
        segment.write_bytes(whole[:cut])
        again = SpillFile(folder, 1 << 30)
        assert again.pending()[Signal.TRACES] == (6 if cut == len(whole) else 3)
        again.close()


def test_a_short_cursor_file_means_the_beginning(tmp_path: Path) -> None:
    spill = SpillFile(tmp_path, 1 << 30)
    spill.add(spill.write(Signal.TRACES, 1, b"a", 5))
    taken, _ = spill.take()
    assert taken is not None
    spill.done(taken)
    spill.close()
    assert struct.unpack("<Q", (tmp_path / "delivered").read_bytes())[0] > 0
    (tmp_path / "delivered").write_bytes(b"\x01")
    again = SpillFile(tmp_path, 1 << 30)
    assert again.pending()[Signal.TRACES] == 1
    again.close()


def test_patience_grows_with_timeouts_and_comes_back_slowly() -> None:
    patience = Patience(5.0)
    patience.timed_out(5.0)
    patience.timed_out(5.0)  # of the same generation: does not double twice
    assert patience.timeout_s == 10
    for _ in range(10):
        patience.timed_out(patience.timeout_s)
    assert patience.timeout_s == 60
    patience.answered(30)
    assert patience.timeout_s == 60
    for _ in range(500):
        patience.answered(0.1)
    assert patience.timeout_s == 5


def test_a_backend_slower_than_the_timeout_gets_each_record_a_bounded_number_of_times(
    tmp_path: Path, http_backend: HttpBackend
) -> None:
    from otel_cost.edge.export import build_exporters

    def slowly(_request: Request) -> Answer:
        time.sleep(0.5)
        return Answer()

    http_backend.otherwise = slowly
    settings = {"endpoint": http_backend.url, "retry_on_failure": FAST_RETRY, "timeout": "100ms"}
    (destination,) = build_exporters({"otlp_http": settings}, spill=tmp_path / "spill").values()
    destination.start()
    for first in range(0, 2000, 100):
        destination.offer(records(100, first))
        time.sleep(0.02)
    emptied(destination)
    assert destination.books()[Signal.TRACES].sent == 2000
    arrived = [
        span.name
        for request in http_backend.requests
        for resource in ExportTraceServiceRequest.FromString(request.body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    assert len(set(arrived)) == 2000
    assert len(arrived) - 2000 == destination.books()[Signal.TRACES].resent
    assert len(arrived) <= 2 * 2000 + 4 * 512 * 4  # only those that were under way while it learned
    destination.close()
