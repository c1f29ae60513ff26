"""A copy of a service that is at work is a service: same money, same runs, and it goes on from there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))

from kill_loop import EXPORT, Senders
from load import export_requests
from running import Process, until

if TYPE_CHECKING:
    from collections.abc import Callable


def _command(*arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "otel_cost", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_backup_under_load_restore_and_forget(serve: Callable[..., Process], tmp_path: Path) -> None:
    service = serve("engine: {settle: 100ms}")
    first, later = export_requests(1_000, 50), export_requests(1_000, 50, seed=9)
    with grpc.insecure_channel(service.grpc) as channel:
        for body in first:
            channel.unary_unary(EXPORT, None, None)(body, timeout=10)
    senders = Senders(list(later))
    senders.aim(service.grpc)
    until(lambda: len(senders.acknowledged) > 5)
    copy = tmp_path / "copy"
    assert "bytes" in _command("backup", copy, "--data-dir", service.data)
    until(lambda: senders.done)
    assert service.stop() == 0

    (tmp_path / "second").mkdir()
    restored = tmp_path / "second" / "data"
    _command("restore", copy, "--data-dir", restored)
    again = Process(tmp_path / "second", "engine: {settle: 100ms}")
    # What came after the copy is sent once more, as its senders would: everything counts once.
    senders = Senders([*first, *later])
    senders.aim(again.grpc)
    until(lambda: senders.done)
    assert again.stop() == 0
    reports = [
        sorted(_command("report", "--by", "model,user", "--json", "--data-dir", folder).splitlines())
        for folder in (service.data, restored)
    ]
    assert reports[0] == reports[1]
    users = {json.loads(line)["user"] for line in reports[0]}
    gone = min(user for user in users if user)
    assert "runs deleted" in _command("forget", "--user", gone, "--data-dir", restored)
    left = _command("report", "--by", "user", "--json", "--data-dir", restored).splitlines()
    assert {json.loads(line)["user"] for line in left} == users - {gone}


@pytest.mark.slow
def test_what_is_to_be_forgotten_must_be_said(serve: Callable[..., Process]) -> None:
    service = serve()
    done = subprocess.run(
        [sys.executable, "-m", "otel_cost", "forget", "--data-dir", str(service.data)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "--run, --user, --tenant or --before" in done.stderr
    assert json.loads(_command("forget", "--before", "1d", "--json", "--data-dir", service.data)) == {"runs": 0}
