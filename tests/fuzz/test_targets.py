"""A short coverage-guided run of every target, from samples that make sense; longer ones by hand."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
sys.path.insert(0, str(HERE.parent / "bench"))

from load import export_requests

from needs import missing

if importlib.util.find_spec("atheris") is None:
    missing("atheris", "python -m pip install --group fuzz")

SEEDS = {
    "traces": export_requests(2, 2)[0],
    "logs": export_requests(1, 1)[0],
    "metrics": b"\x0a\x02\x12\x00",
    "json": b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"00","spanId":"01","name":"x"}]}]}]}',
    "hooks": b"\x01" + json.dumps({"session_id": "s", "hook_event_name": "PreToolUse", "tool_name": "Bash"}).encode(),
    "rules": b"version: 1\nloops:\n  - {name: a, detect: repeated_error, do: [{alert: }]}\n",
    "compression": b"\x28\xb5\x2f\xfd\x04\x00\x09\x00\x00x",
}


@pytest.mark.slow
@pytest.mark.parametrize("target", SEEDS)
def test_nothing_but_its_own_errors_comes_out(target: str, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "seed").write_bytes(SEEDS[target])
    done = subprocess.run(
        [sys.executable, str(HERE / "targets.py"), target, "-max_total_time=2", "-seed=1", str(corpus)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done " in done.stderr
