"""A running service and the backends behind it, and the folder of the helpers."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode adds no folder by itself

from backends import OverGrpc, OverHttp
from running import Process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def backends() -> Iterator[tuple[OverGrpc, OverHttp]]:
    one, other = OverGrpc(), OverHttp()
    yield one, other
    one.stop()
    other.stop()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def start(config: str = "") -> Process:
        started.append(Process(tmp_path, config))
        return started[-1]

    yield start
    for process in started:
        if process.process.poll() is None:
            process.stop(signal.SIGKILL)
