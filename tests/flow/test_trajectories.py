"""Loops in labelled agent runs: found, early, and not found where there are none, with the shipped rules.

The bars are those that a release has to pass on runs that were kept back; on these runs it must do at least as well.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.append(str(Path(__file__).parents[2]))  # `tests` is a package for those who measure

from tests.bench import score_loops as bench

if TYPE_CHECKING:
    from tests.bench.score_loops import Run, Score


@pytest.fixture(scope="module")
def runs(shared: Path) -> list[Run]:
    folder = shared / "trajectories"
    if not folder.is_dir():
        pytest.skip("no labelled runs in the shared data")
    return bench.read_runs(folder)


@pytest.fixture(scope="module")
def as_recorded(runs: list[Run]) -> dict[str, Score]:
    return bench.score(bench.judge(runs))


@pytest.mark.slow
def test_loops_of_all_labelled_runs(as_recorded: dict[str, Score]) -> None:
    everything = as_recorded["human+mechanical"]
    assert everything.tp + everything.fn > 100
    assert everything.f1 >= 0.95
    assert everything.false_alarms <= 0.05


def test_loops_that_people_marked(as_recorded: dict[str, Score]) -> None:
    human = as_recorded["human"]
    assert human.f1 >= 0.8
    assert human.false_alarms <= 0.15


def test_an_alarm_comes_while_it_saves_money(as_recorded: dict[str, Score]) -> None:
    everything = as_recorded["human+mechanical"]
    assert everything.delay <= 1
    assert everything.saved > 0.5


@pytest.mark.slow
def test_loops_are_seen_without_content(runs: list[Run]) -> None:
    everything = bench.score(bench.judge(bench.copies(runs, "without content")))["human+mechanical"]
    assert everything.f1 >= 0.8
    assert everything.false_alarms <= 0.1


@pytest.mark.slow
@pytest.mark.parametrize("how", ["without arguments", "without results"])
def test_loops_are_seen_with_half_of_the_content(runs: list[Run], how: str) -> None:
    everything = bench.score(bench.judge(bench.copies(runs, how)))["human+mechanical"]
    assert everything.f1 >= 0.85
    assert everything.false_alarms <= 0.1


@pytest.mark.slow
@pytest.mark.parametrize("how", bench.PERTURBED)
def test_loops_of_perturbed_copies(runs: list[Run], how: str) -> None:
    everything = bench.score(bench.judge(bench.copies(runs, how)))["human+mechanical"]
    assert everything.f1 >= 0.85
    assert everything.false_alarms <= 0.1
