"""How long a service takes to be ready again after SIGKILL, with so many spans of open runs to be read again.

    python tests/bench/restart.py [--spans 100000]

What is read again is what open runs still need, at most an eighth of `journal.max_bytes`.
"""

from __future__ import annotations

import argparse
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path

import grpc

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "flow"))

from load import make_load
from running import Process

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--spans", type=int, default=100_000)
    options = parser.parse_args()
    load = make_load(options.spans, 500)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        service = Process(folder)
        with grpc.insecure_channel(service.grpc) as channel:
            export = channel.unary_unary(EXPORT, None, None)
            for body in load.bodies:
                export(body, timeout=60)
        size = sum(file.stat().st_size for file in (folder / "data" / "journal").iterdir() if file.is_file())
        service.stop(signal.SIGKILL)
        empty = Path(name) / "empty"
        empty.mkdir()
        took, cpu = [], []
        for where in (empty, folder):
            began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
            service = Process(where)
            took.append(time.monotonic() - began)
            service.stop(signal.SIGKILL)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    print(load)
    print(f"ready after {took[0]:.1f} s with nothing to read, {took[1]:.1f} s with {size / 2**20:,.0f} MiB of journal")
    print(f"CPU-seconds: {cpu[0]:.1f} and {cpu[1]:.1f}; per 1,000 spans {1e6 * (cpu[1] - cpu[0]) / load.spans:.1f} ms")
    print(f"an eighth of a journal of 10 GiB: {(cpu[1] - cpu[0]) * 1.25 * 2**30 / size / 60:.1f} CPU-minutes")


if __name__ == "__main__":
    main()
