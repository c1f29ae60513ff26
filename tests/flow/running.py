"""`otel-cost serve` as a process of its own, for tests that want the whole."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Process:
    """`otel-cost serve` on free ports."""

    def __init__(self, folder: Path, config: str = "") -> None:
        file = folder / "config.yaml"
        file.write_text(config)
        self.data = folder / "data"
        self.log = folder / "log.txt"
        sets = ["receivers.otlp.protocols.grpc.endpoint", "receivers.otlp.protocols.http.endpoint", "api.endpoint"]
        arguments = [part for key in sets for part in ("--set", f"{key}=127.0.0.1:0")]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "otel_cost", "serve", "-c", str(file), "--data-dir", str(self.data), *arguments],
            stdout=subprocess.PIPE,
            stderr=self.log.open("ab"),
            env=os.environ | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"},
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        ready = re.fullmatch(r"otel-cost ready grpc=(\S+) http=(\S+) api=(\S+)\n", line)
        assert ready, line + self.log.read_text()
        self.grpc, self.http, self.api = ready.groups()

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.api + path, timeout=60) as answer:
            body = answer.read().decode()
        return json.loads(body) if answer.headers["Content-Type"].startswith("application/json") else body

    def stop(self, how: int = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        code = self.process.wait(120)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


def until(true: Callable[[], object], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
