"""Timers do not notice what is done to the machine's clock."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from otel_cost.edge.clock import SteadyClock

SECOND = 10**9
HOUR = 3600 * SECOND
START = 1_790_000_000 * SECOND


class Machine:
    def __init__(self) -> None:
        self.wall, self.boot = START, 0
        self.clock = SteadyClock(lambda: self.wall, lambda: self.boot)

    def wait(self, ns: int) -> int:
        self.wall += ns
        self.boot += ns
        return self.clock.now_ns()


def test_an_hour_forward_and_an_hour_back_do_not_move_it() -> None:
    machine = Machine()
    for step in (HOUR, -HOUR):
        before = machine.wait(SECOND)
        machine.wall += step
        after = machine.wait(SECOND)
        assert 0.4 * SECOND <= after - before <= 1.2 * SECOND


def test_a_step_is_made_up_for_in_time() -> None:
    machine = Machine()
    machine.wall += HOUR
    for _ in range(11 * 60):
        machine.wait(60 * SECOND)
    assert abs(machine.clock.now_ns() - machine.wall) < SECOND


def test_a_clock_that_was_years_off_is_followed_at_once() -> None:
    machine = Machine()
    machine.wall += 365 * 24 * HOUR
    assert machine.wait(SECOND) == machine.wall


@given(st.lists(st.tuples(st.integers(0, 10**12), st.integers(-(10**13), 10**13)), max_size=50))
def test_it_never_goes_back(steps: list[tuple[int, int]]) -> None:
    machine = Machine()
    last = machine.clock.now_ns()
    for elapsed, jump in steps:
        machine.wall += jump
        now = machine.wait(elapsed)
        assert now >= last
        last = now
