from __future__ import annotations

from detect_helper import feed, model, tool
from hypothesis import given
from hypothesis import strategies as st

from otel_cost.core.detect._pace import Pace, Taken, Usual


def usual(*runs: tuple[int | None, int]) -> Usual:
    known = Usual()
    for nano, calls in runs:
        known.add(Taken(nano, calls))
    return known


def run(pace: Pace, *costs: int | None) -> list[object]:
    calls = []
    for nano in costs:
        call = tool() if nano is None else model(nano)
        call.pace = pace
        calls.append(call)
    told = []
    for call in calls:  # the pace is that of the moment
        pace.calls += 1
        pace.nano += call.nano or 0
        told += feed("runaway", call)
    return told


def test_a_run_that_costs_more_than_any_before_is_told_of_once() -> None:
    pace = Pace(usual=usual(*[(100, 10)] * 20))
    (finding,) = run(pace, *[40] * 6)
    assert (finding.wasted_nano, finding.shape, finding.evidence["usual_nano"]) == (60, "runaway:money", 100)


def test_calls_count_where_nothing_has_a_price() -> None:
    (finding,) = run(Pace(usual=usual(*[(None, 10)] * 20)), *[None] * 30)
    assert (finding.wasted_nano, finding.shape, finding.evidence["calls"]) == (None, "runaway:calls", 16)


def test_a_new_workflow_has_no_usual() -> None:
    assert not run(Pace(usual=usual(*[(100, 10)] * 19)), *[1000] * 30)
    assert not run(Pace(), *[1000] * 30)


def test_old_runs_are_forgotten() -> None:
    known = usual(*[(1, 1)] * 500, *[(100, 10)] * 200)
    assert known.at(0.01) == (100, 10)


@given(st.lists(st.integers(1, 1000), min_size=20, max_size=60), st.integers(1, 1000))
def test_what_has_happened_before_is_never_a_runaway(before: list[int], cost: int) -> None:
    pace = Pace(usual=usual(*[(nano, 5) for nano in before]))
    assert bool(run(pace, cost)) == (cost > 1.5 * sorted(before)[min(len(before) - 1, int(0.99 * len(before)))])
