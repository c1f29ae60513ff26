"""A backend that takes less than what comes: what is lost, what is sent twice, what it costs in memory and disk.

    python tests/bench/slow_backend.py [--spans 60000] [--rate 5000] [--timeout 5s] [--hang 0]

One exporter's backend takes `--rate` spans per second (or answers only after `--hang` seconds), the other all there
are. Senders go as fast as they are acknowledged.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import grpc

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "flow"))

from backends import OverGrpc
from kill_loop import EXPORT, span_ids
from load import export_requests
from running import Process, until

from otel_cost.edge.books import check_books


class Slow(OverGrpc):
    """Takes so many spans a second, one request at a time, or hangs before each answer."""

    def __init__(self, rate: int, hang_s: float) -> None:
        super().__init__()
        self._rate, self._hang_s = rate, hang_s
        self._turn = threading.Lock()

    def take(self, signal: str, body: bytes) -> None:
        super().take(signal, body)
        if self._hang_s:
            time.sleep(self._hang_s)
        elif signal == "traces":
            with self._turn:
                time.sleep(len(span_ids([body])) / self._rate)


def run(spans: int, rate: int, timeout: str, hang_s: float) -> dict[str, object]:
    """What was measured, by name."""
    fast, slow = OverGrpc(), Slow(rate, hang_s)
    bodies = export_requests(spans, 200)
    resident: list[float] = []
    done = threading.Event()
    with tempfile.TemporaryDirectory() as name:
        service = Process(
            Path(name),
            f"""
exporters:
  otlp_grpc/fast: {{endpoint: "127.0.0.1:{fast.port}", tls: {{insecure: true}}}}
  otlp_grpc/slow:
    endpoint: "127.0.0.1:{slow.port}"
    tls: {{insecure: true}}
    timeout: {timeout}
    sending_queue: {{queue_size: {4 << 20}}}
    retry_on_failure: {{initial_interval: 200ms, max_interval: 2s}}
""",
        )

        def watch() -> None:
            while not done.wait(0.2):
                pages = int(Path(f"/proc/{service.process.pid}/statm").read_text().split()[1])
                resident.append(pages * 4096 / 2**20)

        watcher = threading.Thread(target=watch)
        watcher.start()
        begun, refused = time.monotonic(), 0
        with grpc.insecure_channel(service.grpc) as channel:
            export = channel.unary_unary(EXPORT, None, None)
            for body in bodies:
                while True:
                    try:
                        export(body, timeout=30)
                        break
                    except grpc.RpcError:
                        refused += 1
                        time.sleep(0.2)
        sent_s = time.monotonic() - begun
        half = len(resident)
        sent = span_ids(bodies)
        until(lambda: len({span.span_id for span in fast.spans()}) == len(sent), 60)
        fast_s = time.monotonic() - begun
        until(lambda: len({span.span_id for span in slow.spans()}) == len(sent), 120 + 2 * spans / rate)
        slow_s = time.monotonic() - begun
        until(lambda: not check_books(service.get("/metrics"), at_rest=True), 30)
        done.set()
        watcher.join()
        service.stop()
    arrived = Counter(span.span_id for span in slow.spans())
    fast.stop()
    slow.stop()
    return {
        "spans": len(sent),
        "refused": refused,
        "lost at the slow one": len(sent - set(arrived)),
        "sent again to the slow one": sum(arrived.values()) - len(sent),
        "most times one span was sent": max(arrived.values()),
        "senders done after s": round(sent_s, 1),
        "fast backend has all after s": round(fast_s, 1),
        "slow backend has all after s": round(slow_s, 1),
        "memory MiB while sending, most": round(max(resident[:half])),
        "memory MiB while draining, most": round(max(resident[half:] or [0])),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--spans", type=int, default=60_000)
    parser.add_argument("--rate", type=int, default=5_000)
    parser.add_argument("--timeout", default="5s")
    parser.add_argument("--hang", type=float, default=0.0)
    options = parser.parse_args()
    for key, value in run(options.spans, options.rate, options.timeout, options.hang).items():
        print(f"{key:36s} {value}")


if __name__ == "__main__":
    main()
