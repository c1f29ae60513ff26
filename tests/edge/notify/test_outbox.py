"""Each message is told once per channel, whatever dies in between; a dead channel holds up nobody."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from otel_cost.edge.notify._contract import Refused, Unavailable
from otel_cost.edge.notify._notifier import Notifier
from otel_cost.edge.notify._outbox import Message, Outbox

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    opened = Outbox(tmp_path / "outbox.sqlite")
    yield opened
    opened.close()


class Kept:
    """Keeps what it is told; fails while `failure` is set."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.told: list[object] = []
        self.failure = failure

    def send(self, message: Mapping[str, object]) -> None:
        if self.failure is not None:
            raise self.failure
        self.told.append(message["n"])

    def close(self) -> None: ...


def said(number: int, channel: str = "ops", at_ns: int = 1) -> Message:
    return Message(f"a/{number}", channel, {"n": number}, at_ns)


def eventually(true: object) -> None:
    deadline = time.monotonic() + 10
    while not true():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_key_is_taken_once_per_channel(outbox: Outbox) -> None:
    assert outbox.put([said(1), said(1), said(2), said(1, "other")]) == [said(1), said(2), said(1, "other")]
    assert outbox.put([said(1)]) == []
    outbox.sent(outbox.due("ops", 10))
    assert outbox.put([said(1)]) == []
    assert outbox.due("ops", 10) == []
    assert [message.key for message in outbox.due("other", 10)] == ["a/1"]
    books = outbox.counts()
    assert (books["ops"].sent, books["ops"].pending, books["other"].pending) == (2, 0, 1)


def test_what_is_not_due_waits(outbox: Outbox) -> None:
    outbox.put([said(1)])
    (message,) = outbox.due("ops", 5)
    outbox.later(message, 100)
    assert outbox.due("ops", 99) == []
    (again,) = outbox.due("ops", 100)
    assert again.tries == 1


def test_a_full_channel_gives_up_its_oldest_and_counts(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "outbox.sqlite", max_waiting=3)
    outbox.put(said(number, at_ns=number) for number in range(5))
    assert [message.body["n"] for message in outbox.due("ops", 10)] == [2, 3, 4]
    assert [(message.body["n"], why) for message, why in outbox.dead("ops")] == [(0, "outbox_full"), (1, "outbox_full")]
    assert outbox.counts()["ops"].dead == 2
    outbox.close()


def test_one_dead_channel_does_not_hold_up_the_other(outbox: Outbox) -> None:
    away, well, wrong = Kept(Unavailable("away", "connection")), Kept(), Kept(Refused("no", "http_404"))
    notifier = Notifier(outbox, {"away": away, "well": well, "wrong": wrong})
    notifier.start()
    outbox.put(said(number, channel) for number in range(3) for channel in ("away", "well", "wrong"))
    eventually(lambda: well.told == [0, 1, 2] and outbox.counts()["wrong"].dead == 3)
    assert outbox.counts()["away"].pending == 3
    away.failure = None
    eventually(lambda: sorted(away.told) == [0, 1, 2])
    notifier.close()


_CHILD = """
import sys, time
from pathlib import Path
from otel_cost.edge.notify._outbox import Message, Outbox
outbox = Outbox(Path(sys.argv[1]))
for number in range(int(sys.argv[2]), 10_000):
    outbox.put([Message(f"a/{number}", "ops", {"n": number}, number)])
    print(number, flush=True)
"""


def test_what_put_returned_from_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "outbox.sqlite"
    first = 0
    for _ in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(path), str(first)], stdout=subprocess.PIPE, text=True, env=os.environ
        )
        assert child.stdout is not None
        last = -1
        killer = threading.Timer(0.8, child.kill)
        for line in child.stdout:
            if not killer.is_alive() and child.returncode is None and last < 0:
                killer.start()
            last = int(line)
        killer.join()
        child.wait()
        child.stdout.close()
        first = last + 1
    outbox = Outbox(path)
    numbers = [message.body["n"] for message in outbox.due("ops", 10**18, 100_000)]
    # One more may have been on its way to the parent's pipe.
    assert numbers[:first] == list(range(first))
    assert len(numbers) <= first + 1
    outbox.close()
