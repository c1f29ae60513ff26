"""What every test may ask for."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from postgres import Server

# CI decides over one change, so it must see the same examples twice; new ones are found by everybody else.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("dev", deadline=None)  # machines are noisy
settings.load_profile("ci" if os.environ.get("CI") else "dev")

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))  # importlib mode adds no folder by itself; `needs` is for all


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of captures, price cases and trajectories; a test that needs it is skipped without it."""
    folder = (ROOT / os.environ.get("OTEL_COST_SHARED", "../shared")).resolve()
    if not folder.is_dir():
        pytest.skip("no shared test data: set OTEL_COST_SHARED to its folder")
    return folder


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL server; `url()` is a new database in it."""
    from postgres import running

    with running() as server:
        yield server
