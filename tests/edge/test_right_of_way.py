"""Whoever can wait does while a harness waits for its answer, and not for long."""

from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from otel_cost.edge import right_of_way
from otel_cost.edge.right_of_way import LONGEST_S, QUIET_AFTER_S, QUIET_TURN_S, TURN_S, RightOfWay, hurry

if TYPE_CHECKING:
    from concurrent.futures import Future


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def waits(way: RightOfWay, pool: ThreadPoolExecutor) -> Future[None]:
    """Another thread that has come to where it gives way, and is there."""
    asked = threading.Event()

    def give_way() -> None:
        asked.set()
        way.give_way()

    given = pool.submit(give_way)
    assert asked.wait(5)
    return given


def is_free(way: RightOfWay) -> bool:
    """Nobody would wait."""
    with ThreadPoolExecutor(1) as pool:
        given = waits(way, pool)
        time.sleep(0.05)
        done = given.done()
        if not done:
            way._free.set()  # let it go
            given.result(5)
            way._free.clear()
        return done


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(right_of_way, "LONGEST_S", 10.0)  # of a clock that stands still
    return Clock()


def test_others_wait_until_the_last_has_been_answered(clock: Clock) -> None:
    way = RightOfWay(clock)
    assert is_free(way)
    with ThreadPoolExecutor(1) as pool:
        with way.taken():
            with way.taken():
                given = waits(way, pool)
            time.sleep(0.05)
            assert not given.done()
        given.result(5)
    assert is_free(way)


def test_a_call_that_is_stuck_holds_up_nobody_for_long() -> None:
    way = RightOfWay()
    with way.taken():
        began = time.monotonic()
        way.give_way()
        waited = time.monotonic() - began
        assert waited >= LONGEST_S / 2
        began = time.monotonic()
        for _ in range(100):
            way.give_way()
        with way.taken():  # nor does another one that comes meanwhile
            way.give_way()
        assert time.monotonic() - began < 50 * LONGEST_S


def test_a_call_that_is_stuck_keeps_the_way_from_no_other(clock: Clock) -> None:
    way = RightOfWay(clock)
    with way.taken():
        clock.now += 20.0
        with way.taken():
            assert not is_free(way)
        assert is_free(way)
    assert is_free(way)


def test_telemetry_has_half_of_the_time(clock: Clock) -> None:
    way = RightOfWay(clock)
    with way.taken():
        clock.now += 0.003
    with way.taken():  # too early
        assert is_free(way)
    clock.now += 0.0031
    with way.taken():
        assert not is_free(way)


def test_turns_are_short_where_hook_calls_come_and_long_where_none_has_come_for_some_time(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[float] = []
    monkeypatch.setattr(sys, "setswitchinterval", said.append)
    way = RightOfWay(clock)
    way.look_around()
    assert said[-1] == QUIET_TURN_S
    with way.taken():
        assert said[-1] == TURN_S
    clock.now += QUIET_AFTER_S - 1
    way.look_around()
    assert said[-1] == TURN_S
    with way.taken():  # one that comes while another one still has the way, or telemetry has its half, counts as well
        clock.now += 1
        with way.taken():
            pass
    clock.now += QUIET_AFTER_S - 1
    way.look_around()
    assert said[-1] == TURN_S
    clock.now += 1
    hurry()  # by a call that did not want the way
    way.look_around()
    assert said[-1] == QUIET_TURN_S
