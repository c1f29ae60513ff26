"""What is measured: otel-cost, and an OpenTelemetry Collector that prices with as many statements as it takes.

A subject is a process that listens for OTLP and sends to the sink. CPU is that of its whole process tree, from ready
to gone: what a shutdown writes down belongs to the price.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
ROOT = Path(__file__).parents[2]


@dataclass
class Running:
    """A started subject. Endpoints are host:port."""

    process: subprocess.Popen[str]
    grpc: str
    http: str
    idle_s: float = 0.0  # CPU until it was ready
    peak_mb: float = field(default=0.0)

    def begin(self) -> None:
        self.idle_s = tree_cpu_s(self.process.pid)

    def watch(self) -> None:
        """Read what cannot be read any more once it is gone."""
        if self.process.poll() is not None:
            raise RuntimeError(f"the subject ended by itself with {self.process.returncode}")
        self.peak_mb = max(self.peak_mb, sum(peak_mb(pid) for pid in tree(self.process.pid)))

    def stop(self) -> float:
        """End it as an operator would; the CPU seconds since `begin`."""
        self.watch()
        children = sum(cpu_s(pid) for pid in tree(self.process.pid)[1:])
        self.process.send_signal(signal.SIGTERM)
        _, status, usage = os.wait4(self.process.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        busy = usage.ru_utime + usage.ru_stime + children - self.idle_s
        if busy <= 0:
            raise RuntimeError("the subject did nothing: was it another one that answered?")
        return busy


def start_otel_cost(
    folder: Path, sink_port: int, *, command: tuple[str, ...] = (), sets: tuple[str, ...] = ()
) -> Running:
    """`otel-cost serve`: durable acks, starter rules, ledger, one OTLP destination. `sets`: more of its config."""
    config = folder / "config.yaml"
    config.write_text(
        "receivers: {otlp: {protocols: {grpc: {endpoint: '127.0.0.1:0'}, http: {endpoint: '127.0.0.1:0'}}}}\n"
        "exporters:\n"
        f"  otlp_grpc: {{endpoint: '127.0.0.1:{sink_port}', tls: {{insecure: true}}, compression: none}}\n"
        "api: {endpoint: '127.0.0.1:0'}\n"
    )
    called = command or (sys.executable, "-m", "otel_cost")
    process = subprocess.Popen(
        [
            *called, "serve", "-c", str(config), "--data-dir", str(folder / "data"),
            *(part for one in sets for part in ("--set", one)),
        ],
        stdout=subprocess.PIPE,
        stderr=(folder / "stderr.log").open("w"),
        text=True,
        cwd=ROOT,
    )  # fmt: skip
    assert process.stdout is not None
    ready = re.search(r"grpc=(\S+) http=(\S+)", process.stdout.readline())
    if ready is None:
        raise RuntimeError(f"otel-cost did not start: {(folder / 'stderr.log').read_text()[-2000:]}")
    return Running(process, ready[1], ready[2])


# USD for a million tokens of input, cached input and output, as a list of models would have them.
PRICED = tuple((f"model-{number}", 0.1 * number, 0.01 * number, 0.4 * number) for number in range(1, 29))
PRICES = (("gpt-5-mini", 0.25, 0.025, 2.0), ("gpt-5-nano", 0.05, 0.005, 0.4), *PRICED)


def _statement(model: str, rates: tuple[float, float, float]) -> str:
    count = 'Double(span.attributes["gen_ai.usage.{}"])'
    fresh, cached, output = (
        count.format(name) for name in ("input_tokens", "cache_read.input_tokens", "output_tokens")
    )
    sums = f"({fresh} - {cached}) * {rates[0]}e-6 + {cached} * {rates[1]}e-6 + {output} * {rates[2]}e-6"
    return f'set(span.attributes["cost.usd"], {sums}) where span.attributes["gen_ai.request.model"] == "{model}"'


def start_collector(folder: Path, sink_port: int, *, binary: str, prices: bool = True) -> Running:
    """A Collector that receives, prices (thirty statements), batches and sends on. No disk, no trees, no rules."""
    grpc_port, http_port = _free_port(), _free_port()
    statements = "".join(f"          - '{_statement(model, rates)}'\n" for model, *rates in PRICES)  # type: ignore[arg-type]
    transform = f"  transform:\n    error_mode: ignore\n    trace_statements:\n      - statements:\n{statements}"
    config = folder / "collector.yaml"
    config.write_text(
        "receivers:\n  otlp:\n    protocols:\n"
        f"      grpc: {{endpoint: '127.0.0.1:{grpc_port}', max_recv_msg_size_mib: 64}}\n"
        f"      http: {{endpoint: '127.0.0.1:{http_port}'}}\n"
        f"processors:\n  batch:\n{transform if prices else ''}"
        f"exporters:\n  otlp:\n    endpoint: '127.0.0.1:{sink_port}'\n    tls: {{insecure: true}}\n"
        "    compression: none\n    sending_queue: {block_on_overflow: true}\n"
        "service:\n  telemetry: {logs: {level: warn}, metrics: {level: none}}\n  pipelines:\n    traces:\n"
        f"      receivers: [otlp]\n      processors: [{'transform, ' if prices else ''}batch]\n"
        "      exporters: [otlp]\n"
    )
    log = folder / "collector.log"
    process = subprocess.Popen(
        [binary, "--config", str(config)], stdout=log.open("w"), stderr=subprocess.STDOUT, text=True
    )
    for _ in range(200):
        if process.poll() is not None:
            raise RuntimeError(f"the Collector did not start: {log.read_text()[-2000:]}")
        try:
            socket.create_connection(("127.0.0.1", grpc_port), 0.2).close()
            break
        except OSError:
            time.sleep(0.1)
    return Running(process, f"127.0.0.1:{grpc_port}", f"127.0.0.1:{http_port}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def tree(pid: int) -> list[int]:
    """A process and everything below it."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            found += map(int, task.read_text().split())
    return found


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def tree_cpu_s(pid: int) -> float:
    return sum(map(cpu_s, tree(pid)))


def peak_mb(pid: int) -> float:
    found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0
