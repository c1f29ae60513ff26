"""Loops in labelled agent runs and in what real clients sent: found, and not found where there are none.

The bars are those that a release has to pass on runs that were kept back; on these runs it must do at least as well.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from otel_cost.core.detect import DETECTORS

if TYPE_CHECKING:
    from types import ModuleType


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    path = Path(__file__).parents[1] / "bench" / "score_loops.py"
    spec = importlib.util.spec_from_file_location("score_loops", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["score_loops"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def runs_folder(shared: Path) -> Path:
    folder = shared / "trajectories"
    if not folder.is_dir():
        pytest.skip("no labelled runs in the shared data")
    return folder


@pytest.fixture(scope="module")
def scores(bench: Any, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    rules = tmp_path_factory.mktemp("rules") / "rules.yaml"
    return bench.score(bench.judge_by_engine(runs_folder(shared), set(DETECTORS), rules))


def test_loops_of_all_labelled_runs(scores: dict[str, Any]) -> None:
    everything = scores["human+mechanical"]
    assert everything.tp + everything.fn > 100
    assert everything.f1 > 0.91
    assert everything.false_alarms <= 0.09


def test_loops_that_people_marked(scores: dict[str, Any]) -> None:
    human = scores["human"]
    assert human.f1 > 0.8
    assert human.recall > 0.8
    assert human.false_alarms < 0.22


def test_most_of_a_loop_s_money_is_saved_by_a_stop_at_the_alarm(scores: dict[str, Any]) -> None:
    assert scores["human+mechanical"].saved / scores["human+mechanical"].at_stake > 0.5


def test_loops_are_seen_without_content(bench: Any, shared: Path) -> None:
    verdicts = [bench.judge(run, set(DETECTORS)) for run in bench.read_runs(runs_folder(shared), content=False)]
    everything = bench.score(verdicts)["human+mechanical"]
    assert everything.f1 > 0.7
    assert everything.false_alarms < 0.15


def test_each_half_of_the_runs_scores_alike(bench: Any, shared: Path) -> None:
    verdicts = [bench.judge(run, set(DETECTORS)) for run in bench.read_runs(runs_folder(shared))]
    for fold in (0, 1):
        everything = bench.score(verdicts, fold)["human+mechanical"]
        assert everything.f1 > 0.85
        assert everything.false_alarms <= 0.12
