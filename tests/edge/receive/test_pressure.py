"""Too much: who floods is told to slow down, others are not; what can pass later is never a 500."""

from __future__ import annotations

import contextlib
import gc
import sys
import threading
import time

import pytest

from otel_cost.core.model.effects import Signal
from otel_cost.edge.journal import Journal
from otel_cost.edge.memory import Level, MemoryWatch, machine_bytes, resident_bytes
from otel_cost.edge.receive.intake import Intake
from otel_cost.edge.receive.quota import Quotas
from otel_cost.edge.receive.refusals import OverloadedError, RateLimitedError, RefusalError
from otel_cost.edge.telemetry import ReceiverMetrics


@pytest.fixture
def stuck(tmp_path, build):
    """An intake whose journal does not get on until it is released."""
    from prometheus_client import CollectorRegistry

    release = threading.Event()
    journal = Journal(tmp_path / "journal", on_durable=lambda _: release.wait())
    intake = Intake(journal, ReceiverMetrics(CollectorRegistry()), in_flight_bytes=10_000)
    threads: list[threading.Thread] = []

    def send(tenant: str, body: bytes) -> None:
        before = intake._in_flight
        threads.append(
            threading.Thread(
                target=intake.accept, args=(Signal.TRACES, body), kwargs={"tenant": tenant, "transport": "x"}
            )
        )
        threads[-1].start()
        while intake._in_flight == before:
            time.sleep(0.001)

    yield intake, send
    release.set()
    for thread in threads:
        thread.join()
    journal.close()


def body(build, size: int) -> bytes:
    return build().traces("x" * size)


def test_a_flood_of_one_tenant_leaves_room_for_the_others(stuck, build) -> None:
    intake, send = stuck
    request = body(build, 900)
    send("quiet", request)
    for _ in range(5):
        send("flood", request)
    with pytest.raises(RateLimitedError) as refused:
        intake.accept(Signal.TRACES, request, tenant="flood", transport="x")
    assert (refused.value.http_status, refused.value.grpc_code) == (429, 8)
    assert refused.value.retry_info() is not None
    send("quiet", request)
    send("another", request)


def test_alone_a_tenant_may_use_everything(stuck, build) -> None:
    intake, send = stuck
    request = body(build, 900)
    for _ in range(10):
        send("only", request)
    with pytest.raises(OverloadedError) as refused:
        intake.accept(Signal.TRACES, request, tenant="only", transport="x")
    assert refused.value.http_status in {429, 503}


def test_a_quota_lets_bursts_through_and_then_says_when(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    quotas = Quotas({"a": 100}, lambda: now[0])
    for _ in range(10):
        quotas.admit("a", 100)
    with pytest.raises(RateLimitedError) as refused:
        quotas.admit("a", 1)
    assert refused.value.retry_after_s == pytest.approx(0.1)
    quotas.admit("b", 10**9)
    now[0] = 1.0
    quotas.admit("a", 5_000)  # larger than the bucket, and let through
    with pytest.raises(RateLimitedError) as refused:
        quotas.admit("a", 1)
    assert refused.value.retry_after_s == pytest.approx(49)


def test_memory_has_three_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    from otel_cost.edge import memory

    monkeypatch.setattr(memory, "_LOOK_S", 0.0)
    used = [0]
    watch = MemoryWatch(1000, lambda: used[0])
    said = []
    for used[0] in (0, 899, 900, 999, 1000, 5000, 10):
        said.append(watch.level)
    free, tight, full = Level.FREE, Level.TIGHT, Level.FULL
    assert said == [free, free, tight, tight, full, full, free]
    assert 0 < resident_bytes() < machine_bytes()


def test_memory_that_cannot_be_asked_for_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    from otel_cost.edge import memory

    monkeypatch.setattr(memory, "_LOOK_S", 0.0)

    def no_descriptor() -> int:
        raise OSError(24, "Too many open files")

    assert MemoryWatch(1000, no_descriptor).level is Level.FREE


def test_a_refused_request_is_gone_without_the_garbage_collector(tmp_path, build) -> None:
    """It does not run by itself in the service, and refusals come by the thousand when memory is short."""
    from prometheus_client import CollectorRegistry

    def admit(_tenant: str, _size: int) -> None:
        raise OverloadedError("full", 1.0)

    journal = Journal(tmp_path / "journal")
    intake = Intake(journal, ReceiverMetrics(CollectorRegistry()), admit=admit)
    request = body(build, 900)
    gc.collect()
    gc.disable()
    held = sys.getrefcount(request)
    try:
        for _ in range(3):
            with contextlib.suppress(RefusalError):
                intake.accept(Signal.TRACES, request, tenant="t", transport="x")
        assert sys.getrefcount(request) == held
    finally:
        gc.enable()
        journal.close()
