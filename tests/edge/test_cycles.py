"""Garbage that holds itself goes, and nobody waits for a look at everything while there is work."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING

import pytest

from otel_cost.edge.cycles import BETWEEN_S, QUIET_S, Cycles

if TYPE_CHECKING:
    from collections.abc import Iterator


class Ring:
    """Holds itself."""

    def __init__(self) -> None:
        self.own = self


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cycles(clock: Clock) -> Iterator[Cycles]:
    cycles = Cycles(clock)
    cycles.begin()
    yield cycles
    cycles.end()
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def dropped() -> weakref.ref[Ring]:
    return weakref.ref(Ring())


def test_the_interpreter_does_not_look_by_itself(cycles: Cycles) -> None:
    ring = dropped()
    kept = [[] for _ in range(200_000)]
    assert ring() is not None
    assert len(kept) == 200_000


def test_what_came_while_there_was_no_work_is_looked_through_at_once(cycles: Cycles) -> None:
    ring = dropped()
    cycles.tidy(busy=False, tight=False)
    assert ring() is None


@pytest.mark.parametrize(("wait", "tight", "gone"), [
    (BETWEEN_S, False, True), (QUIET_S, False, False), (BETWEEN_S - 1, True, False),
])  # fmt: skip
def test_what_was_passed_over_is_looked_through_when_it_is_quiet(
    cycles: Cycles, clock: Clock, wait: float, tight: bool, gone: bool
) -> None:
    ring = dropped()
    cycles.tidy(busy=True, tight=False)
    cycles.tidy(busy=False, tight=False)
    assert ring() is not None  # out of sight
    clock.now = wait
    cycles.tidy(busy=False, tight=tight)
    assert (ring() is None) is gone


def test_tight_memory_does_not_wait_for_quiet(cycles: Cycles, clock: Clock) -> None:
    ring = dropped()
    clock.now = BETWEEN_S
    cycles.tidy(busy=True, tight=False)
    assert ring() is not None
    cycles.tidy(busy=True, tight=True)
    assert ring() is None
