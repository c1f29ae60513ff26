"""Killed at any moment, again and again: what was acknowledged is there, counted once, to the nano-dollar."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))

from kill_loop import run


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_again_and_again_under_load() -> None:
    """`tests/bench/kill_loop.py --rounds 100` does it a hundred times."""
    told = run(rounds=3, seed=11)
    assert told["problems"] == []
    assert told["missing"] == 0
    assert told["alerts"]
    # Only those whose delivery was not yet written down when the process died: of a request, each time.
    assert told["alert_records_sent_again_to_backend"] < told["alerts"] / 2
