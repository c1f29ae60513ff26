"""Intake: nothing is lost between the door and the consumer, and the books balance."""

from __future__ import annotations

import errno
import os
import random
import threading

import pytest

from otel_cost.core.decode.otlp import decode_traces
from otel_cost.core.model.effects import Signal
from otel_cost.edge.receive.refusals import OverloadedError, RefusalError, short
from otel_cost.edge.telemetry import watch_journal


def accept(house, payload: bytes, tenant: str = "acme"):
    return house.intake.accept(Signal.TRACES, payload, tenant=tenant, transport="grpc")


def test_the_consumer_gets_what_was_decoded_and_a_replay_decodes_the_same(build) -> None:
    house = build(clock_ns=lambda: 42)
    answer = accept(house, house.traces("a", "b", bad=1))
    assert answer.rejected == 1
    (live,) = house.delivered
    (replayed,) = house.journal.read()
    assert (replayed.tenant, replayed.received_ns, replayed.position) == ("acme", 42, live.position)
    again = decode_traces(replayed.payload, replayed.tenant, replayed.received_ns)
    assert [e.raw for e in again.events] == [e.raw for e in live.decoded.events]
    assert again.rejected == live.decoded.rejected
    assert all((e.tenant, e.received_ns) == ("acme", 42) for e in live.decoded.events)


def test_too_much_at_once_is_refused_until_some_of_it_is_durable(build, monkeypatch) -> None:
    house = build(in_flight_bytes=1000)
    started, may_sync = threading.Event(), threading.Event()

    def wait(_fd: int) -> None:
        started.set()
        may_sync.wait(10)

    monkeypatch.setattr(os, "fdatasync", wait)
    first = threading.Thread(target=accept, args=(house, house.traces("x" * 900)))
    first.start()
    assert started.wait(5)
    with pytest.raises(OverloadedError, match="waiting for the disk"):
        accept(house, house.traces("y" * 900))
    may_sync.set()
    first.join()
    accept(house, house.traces("z" * 5000))  # alone, even a large one passes
    assert [name[0] for name in house.names()] == ["x", "z"]


def test_received_is_accepted_plus_refused_plus_rejected(build, monkeypatch) -> None:
    house = build()
    write, dice = os.write, random.Random(5)

    def sometimes_full(fd: int, data: bytes) -> int:
        if dice.random() < 0.3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data)

    monkeypatch.setattr(os, "write", sometimes_full)
    acknowledged: list[str] = []

    def send(me: int) -> None:
        for turn in range(25):
            names = [f"{me}/{turn}/{n}" for n in range(turn % 4)]
            try:
                accept(house, house.traces(*names, bad=turn % 2))
            except RefusalError:
                continue
            acknowledged.extend(names)

    threads = [threading.Thread(target=send, args=(me,)) for me in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sent_bad = 6 * sum(turn % 2 for turn in range(25))
    accepted = house.count("otelcol_receiver_accepted_spans_total", receiver="otlp", transport="grpc")
    refused = house.count("otelcol_receiver_refused_spans_total", receiver="otlp", transport="grpc")
    rejected = house.count("otel_cost_rejected_spans_total", reason="invalid_trace_id")
    assert rejected == sent_bad
    assert refused > 0
    assert accepted == len(acknowledged)
    assert house.count("otel_cost_received_spans_total") == accepted + refused + rejected
    assert sorted(house.names()) == sorted(acknowledged)
    on_disk = [e.name for r in house.journal.read() for e in decode_traces(r.payload, r.tenant, 0).events]
    assert on_disk == house.names()


def test_the_journal_is_in_the_metrics(build) -> None:
    house = build()
    watch_journal(house.registry, house.journal)
    accept(house, house.traces("a"))
    assert house.count("otel_cost_journal_size_bytes") == house.journal.size_bytes > 0
    assert house.count("otel_cost_journal_writable") == 1
    house.journal.close()
    assert house.count("otel_cost_journal_writable") == 0


@pytest.mark.parametrize("message", ["short", "ü" * 100, "x" * 5000, "ü" * 5000, "a\nb\x1b[31m\0"])
def test_messages_fit_into_headers(message: str) -> None:
    assert len(short(message).encode()) <= 1000
    assert short(message).isprintable()
