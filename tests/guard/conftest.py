"""A running service with one rule, and the folder of the helpers."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode adds no folder by itself
sys.path.insert(0, str(Path(__file__).parents[1] / "flow"))

from running import Process

from otel_cost.guard import Guard
from otel_cost.guard.client import default_guard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(autouse=True)
def _own_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered for outages, and the service on this machine, are this test's own."""
    monkeypatch.setenv("OTEL_COST_DATA_DIR", str(tmp_path / "client"))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.delenv("OTEL_COST_API", raising=False)
    # A busy machine is no outage; tests of outages say how long they wait.
    monkeypatch.setitem(Guard.__init__.__kwdefaults__, "timeout_s", 30)
    default_guard.cache_clear()


@pytest.fixture(scope="session")
def _services() -> Iterator[dict[str, Process]]:
    """By their rules: tests whose runs have names of their own share one."""
    known: dict[str, Process] = {}
    yield known
    for process in known.values():
        if process.process.poll() is None:
            process.stop(signal.SIGKILL)


SHARING = {"test_langchain", "test_openai_agents", "test_pydantic_ai"}


@pytest.fixture
def serve(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    _services: dict[str, Process],
) -> Iterator[Callable[[str], Process]]:
    """Start the service with these rules; it is the one on this machine."""
    started: list[Process] = []
    shares = request.path.stem in SHARING

    def start(rules: str) -> Process:
        process = _services.get(rules) if shares else None
        if process is None or process.process.poll() is not None:
            folder = tmp_path_factory.mktemp("service") if shares else tmp_path
            (folder / "rules.yaml").write_text(rules)
            process = Process(folder, "rules: [rules.yaml]")
            if shares:
                _services[rules] = process
            else:
                started.append(process)
        monkeypatch.setenv("OTEL_COST_API", process.api)
        return process

    yield start
    for process in started:
        if process.process.poll() is None:
            process.stop(signal.SIGKILL)
