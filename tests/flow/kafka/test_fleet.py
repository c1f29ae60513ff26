"""A fleet that is broken on purpose says what one node says; `tests/bench/fleet.py` does it with 200,000 spans."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

from fleet import run, told_as_expected


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_workers_a_broker_and_the_database_are_killed(tmp_path: Path) -> None:
    found = run(tmp_path, traces=150, spans=40, brokers=3, seconds=32)
    assert len(found["done"]) == 7
    assert found["said"] == found["expected"]
    assert len(found["expected_told"]) >= 15
    assert set(found["told"]) == set(found["expected_told"])
    assert told_as_expected(found), found  # each alert once
