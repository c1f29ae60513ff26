"""The engine stands aside for a visitor, and neither of the two can keep the other for ever."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from otel_cost.edge.kept_hooks import Place
from otel_cost.edge.visits import Visit


def test_the_engine_stands_aside_while_somebody_is_inside() -> None:
    visit = Visit(is_here=False)
    with ThreadPoolExecutor(1) as engine:
        let_in = engine.submit(visit.let_in, Place(7, 3), 0.01)
        assert visit.enter(5)
        assert visit.place == Place(7, 3)
        time.sleep(0.1)  # longer than it has patience
        assert not let_in.done()
        visit.leave()
        visit.leave()
        assert let_in.result(5)


def test_nobody_who_stands_at_the_door_is_shut_out() -> None:
    visit = Visit(is_here=False)
    with ThreadPoolExecutor(1) as visitor:
        entered = visitor.submit(visit.enter, 5)
        while not visit._is_here:
            time.sleep(0.001)
        with ThreadPoolExecutor(1) as engine:
            let_in = engine.submit(visit.let_in, None, 0.0)
            assert entered.result(5)
            visit.leave()
            assert let_in.result(5)


def test_who_comes_too_late_stays_outside() -> None:
    visit = Visit(is_here=False)
    assert visit.let_in(None, 0.01) is False
    assert visit.is_over
    assert not visit.enter(0.01)
    visit.leave()


def test_who_has_left_is_not_waited_for() -> None:
    visit = Visit(is_here=False)
    assert not visit.enter(0.01)
    visit.leave()
    assert visit.let_in(None, 60)


@pytest.mark.parametrize("seed", range(5))
def test_two_are_never_at_work_at_a_time(seed: int) -> None:
    """Any timing of the two: exactly one of them is at work, and both go on."""
    dice = random.Random(seed)
    at_work = threading.Lock()
    entered = 0
    with ThreadPoolExecutor(1) as engine:
        for _ in range(300):
            visit = Visit(is_here=False)

            def stand_aside(visit: Visit = visit, patience_s: float = dice.choice([0.0, 0.0001, 0.001])) -> None:
                with at_work:
                    pass
                visit.let_in(None, patience_s)
                assert at_work.acquire(blocking=False)
                at_work.release()

            aside = engine.submit(stand_aside)
            time.sleep(dice.choice([0, 0, 0.0001, 0.001]))
            if visit.enter(dice.choice([0.0, 0.0001, 0.001])):
                entered += 1
                with at_work:
                    time.sleep(dice.choice([0, 0.0005]))
            visit.leave()
            aside.result(5)
    assert 0 < entered < 300
