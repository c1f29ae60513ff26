"""What a small tenant notices of a flood: how long it waits for an acknowledgement alone, and beside a greedy tenant.

    python tests/bench/fairness.py [--seconds 15]

The flood comes over eight connections, each sending 500 spans as soon as the last were acknowledged; the small tenant
sends ten spans ten times a second. A refusal counts as one, and the request is sent again as senders do.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import grpc

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "flow"))

from load import make_load
from running import Process

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
CONFIG = """
auth:
  keys:
    - {{name: big, tenant: big, scopes: [ingest], hash: "sha256:{big}"}}
    - {{name: small, tenant: small, scopes: [ingest], hash: "sha256:{small}"}}
    - {{name: ops, scopes: [read, admin], hash: "sha256:{ops}"}}
"""


class Sender(threading.Thread):
    """One connection of a tenant until told to end; what it waited for each acknowledgement [ms]."""

    def __init__(self, target: str, tenant: str, bodies: list[bytes], pace_s: float = 0.0) -> None:
        super().__init__(daemon=True)
        self.waits: list[float] = []
        self.refused = 0
        self.ended = threading.Event()
        self._target, self._bodies, self._pace_s = target, bodies, pace_s
        self._key = [("authorization", f"Bearer {tenant}")]

    def run(self) -> None:
        with grpc.insecure_channel(self._target, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            export = channel.unary_unary(EXPORT, None, None)
            for turn in range(10**9):
                began = time.perf_counter()
                while not self.ended.is_set():
                    try:
                        export(self._bodies[turn % len(self._bodies)], timeout=60, metadata=self._key)
                        break
                    except grpc.RpcError:
                        self.refused += 1
                        self.ended.wait(0.2)
                if self.ended.is_set():
                    return
                self.waits.append((time.perf_counter() - began) * 1e3)
                self.ended.wait(max(0.0, self._pace_s - (time.perf_counter() - began)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=15)
    options = parser.parse_args()
    small, big = make_load(20_000, 10, seed=1).bodies, make_load(200_000, 500, seed=2).bodies
    hashes = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("big", "small", "ops")}
    with tempfile.TemporaryDirectory() as name:
        service = Process(Path(name), CONFIG.format(**hashes))
        try:
            for flood in (0, 8):
                floods = [Sender(service.grpc, "big", big[number::8]) for number in range(flood)]
                victim = Sender(service.grpc, "small", small[flood * 100 :], 0.1)
                for sender in (*floods, victim):
                    sender.start()
                time.sleep(options.seconds)
                for sender in (*floods, victim):
                    sender.ended.set()
                for sender in (*floods, victim):
                    sender.join(70)
                cuts = statistics.quantiles(victim.waits, n=100)
                spans = sum(len(sender.waits) for sender in floods) * 500 / options.seconds
                print(
                    f"beside {spans:8,.0f} spans/s of another tenant: {len(victim.waits)} requests, "
                    f"p50 {cuts[49]:.1f} p99 {cuts[98]:.1f} max {max(victim.waits):.1f} ms, "
                    f"{victim.refused} refused; of the other {sum(sender.refused for sender in floods)}"
                )
        finally:
            service.stop()


if __name__ == "__main__":
    main()
