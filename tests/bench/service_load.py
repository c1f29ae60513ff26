"""What the whole service costs per span: CPU-seconds of its process, throughput, ack latency, memory, loss.

    python tests/bench/service_load.py [--spans 100000] [--per-request 500] [--connections 8] [--rounds 3]

A client process sends agent spans of 845 bytes over gRPC to a running `otel-cost serve` with the shipped rules, a
ledger on disk, `fsync: always` and one OTLP destination. The sink and the client share the machine, so throughput is
for the whole set-up; CPU is the service's own, from ready to gone.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

sys.path.insert(0, str(Path(__file__).parent))

from load import export_requests

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--spans", type=int, default=100_000)
    parser.add_argument("--per-request", type=int, default=500)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    bodies = export_requests(options.spans, options.per_request)
    size = sum(map(len, bodies)) / options.spans
    print(f"{options.spans} spans of {size:.0f} B, {options.per_request} a request, {options.connections} connections")
    rounds = [_round(bodies, options.spans, options.connections) for _ in range(options.rounds)]
    for name in rounds[0]:
        values = [told[name] for told in rounds]
        print(f"{name:34s} median {statistics.median(values):12,.1f}   of {', '.join(f'{v:,.1f}' for v in values)}")


def _round(bodies: list[bytes], spans: int, connections: int) -> dict[str, float]:
    """One fresh service under load; figures by name."""
    sink = _Sink()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(
            "receivers: {otlp: {protocols: {grpc: {endpoint: '127.0.0.1:0'}}}}\n"
            "exporters:\n"
            f"  otlp_grpc: {{endpoint: '127.0.0.1:{sink.port}', tls: {{insecure: true}}, compression: none}}\n"
            "api: {endpoint: '127.0.0.1:0'}\n"
        )
        service = subprocess.Popen(
            [sys.executable, "-m", "otel_cost", "serve", "-c", str(config), "--data-dir", f"{folder}/data"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert service.stdout is not None
        ready = re.search(r"grpc=(\S+)", service.stdout.readline())
        assert ready, "the service did not start"
        idle = _cpu_s(service.pid)
        began = time.perf_counter()
        acks = _send(ready[1], bodies, connections)
        sent_s = time.perf_counter() - began
        while sink.bytes_seen < sum(map(len, bodies)) and time.perf_counter() - began < 300:
            time.sleep(0.05)
        delivered_s = time.perf_counter() - began
        time.sleep(1.5)  # the ledger's last batch
        peak_mb = _peak_mb(service.pid)
        service.send_signal(signal.SIGTERM)
        busy = _cpu_until_gone(service)
        sink.stop()
    return {
        "CPU-ms per 1,000 spans": (busy - idle) * 1e6 / spans,
        "accepted spans/s": spans / sent_s,
        "delivered spans/s": spans / delivered_s,
        "ack p50 [ms]": statistics.median(acks) * 1e3,
        "ack p99 [ms]": statistics.quantiles(acks, n=100)[98] * 1e3,
        "peak memory [MB]": peak_mb,
        "lost spans": spans - sink.spans(),
    }


def _send(endpoint: str, bodies: list[bytes], connections: int) -> list[float]:
    """Closed loop; seconds until each ack."""

    def one(part: list[bytes]) -> list[float]:
        times = []
        with grpc.insecure_channel(endpoint, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            export = channel.unary_unary(EXPORT, None, None)
            for body in part:
                began = time.perf_counter()
                export(body, timeout=120)
                times.append(time.perf_counter() - began)
        return times

    with ThreadPoolExecutor(connections) as pool:
        parts = pool.map(one, [bodies[n::connections] for n in range(connections)])
        return [seconds for part in parts for seconds in part]


class _Sink:
    """A gRPC backend that keeps bodies and counts spans afterwards."""

    def __init__(self) -> None:
        self._bodies: list[bytes] = []
        self._lock = threading.Lock()
        self.bytes_seen = 0
        self._server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.max_receive_message_length", -1)])
        handler = grpc.unary_unary_rpc_method_handler(self._take)
        for signal_name in ("trace.v1.Trace", "logs.v1.Logs"):
            service = f"opentelemetry.proto.collector.{signal_name}Service"
            self._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {"Export": handler})])
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def _take(self, body: bytes, _context: grpc.ServicerContext) -> bytes:
        with self._lock:
            self._bodies.append(body)
            self.bytes_seen += len(body)
        return b""

    def spans(self) -> int:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        ids = {
            span.span_id
            for body in self._bodies
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
            if span.span_id
        }
        return len(ids)

    def stop(self) -> None:
        self._server.stop(None)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _peak_mb(pid: int) -> float:
    found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def _cpu_until_gone(service: subprocess.Popen[str]) -> float:
    """CPU of the process, its shutdown included: closing runs is part of the price."""
    _, status, usage = os.wait4(service.pid, 0)
    service.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
