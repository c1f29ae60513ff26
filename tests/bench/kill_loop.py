"""Kill the service with SIGKILL again and again under load, then count: nothing acknowledged may be missing.

    python tests/bench/kill_loop.py [--rounds 10] [--seed 7]

Senders do what real ones do: what was not acknowledged is sent again. Some runs loop,
so that alerts are among what must be there once. At the end the ledger's total is
compared with a replay of the same requests, alert by alert and to the nano-dollar.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "flow"))

from backends import OverGrpc
from load import export_requests
from running import Process, until

from otel_cost.edge.books import check_books

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


def looping_runs(count: int, seed: int) -> list[bytes]:
    """One request per run: an agent whose tool fails the same way five times."""
    rng = random.Random(f"loops of {seed}")  # not the numbers of `export_requests`: a trace id would be in both
    bodies = []
    begun = time.time_ns() - 600 * 10**9
    for number in range(count):
        request = ExportTraceServiceRequest()
        spans = request.resource_spans.add().scope_spans.add()
        spans.scope.name = "kill.loop"
        trace_id, root = rng.randbytes(16), rng.randbytes(8)
        for turn in range(5):
            start = begun + number * 10**7 + turn * 10**6
            span = Span(
                trace_id=trace_id,
                span_id=rng.randbytes(8),
                parent_span_id=root,
                name="execute_tool run_tests",
                start_time_unix_nano=start,
                end_time_unix_nano=start + 10**5,
                status=Status(code=Status.STATUS_CODE_ERROR, message=f"AssertionError: expected {turn} items"),
            )
            for key, value in (
                ("gen_ai.operation.name", "execute_tool"),
                ("gen_ai.tool.name", "run_tests"),
                ("gen_ai.conversation.id", f"loop-{seed}-{number}"),
            ):
                span.attributes.add(key=key).value.string_value = value
            spans.spans.append(span)
        bodies.append(request.SerializeToString())
    return bodies


class Senders:
    """Threads that send until each request is acknowledged, over any number of restarts."""

    def __init__(self, bodies: list[bytes], threads: int = 2) -> None:
        self._left = list(reversed(bodies))
        self._lock = threading.Lock()
        self._target: str | None = None
        self._changed = threading.Condition(self._lock)
        self.acknowledged: list[bytes] = []
        self.failures = 0
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def aim(self, target: str | None) -> None:
        with self._changed:
            self._target = target
            self._changed.notify_all()

    @property
    def done(self) -> bool:
        return not any(thread.is_alive() for thread in self._threads)

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._target is None and self._left:
                    self._changed.wait()
                if not self._left:
                    return
                body, target = self._left.pop(), str(self._target)
            with grpc.insecure_channel(target) as channel:
                export = channel.unary_unary(EXPORT, None, None)
                try:
                    while True:
                        export(body, timeout=60)
                        with self._lock:
                            self.acknowledged.append(body)
                            if not self._left or self._target != target:
                                break
                            body = self._left.pop()
                except grpc.RpcError:
                    with self._changed:
                        self._left.append(body)
                        self.failures += 1
                        if self._target == target:
                            self._changed.wait(0.05)


def run(rounds: int, seed: int = 7, requests_per_round: int = 40) -> dict[str, object]:
    """Counts of what was sent, killed, found and missing; `problems` says what broke a promise."""
    rng = random.Random(seed)
    bodies = export_requests(rounds * requests_per_round * 20, 20, seed) + looping_runs(rounds * 4, seed)
    rng.shuffle(bodies)
    backend = OverGrpc()
    senders = Senders(bodies)
    config = (
        f"exporters: {{otlp_grpc/one: {{endpoint: '127.0.0.1:{backend.port}', tls: {{insecure: true}}}}}}\n"
        "engine: {settle: 200ms}\n"
    )
    problems: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for _ in range(rounds):
            service = Process(folder, config)
            before = len(senders.acknowledged)
            senders.aim(service.grpc)
            until(lambda before=before: len(senders.acknowledged) > before or senders.done)
            time.sleep(rng.uniform(0.0, 0.5))
            service.stop(signal.SIGKILL)
            senders.aim(None)
        service = Process(folder, config)
        senders.aim(service.grpc)
        until(lambda: senders.done, 300)
        sent = span_ids(bodies)
        until(lambda: sent <= {span.span_id for span in backend.spans()}, 180)
        until(lambda: not check_books(service.get("/metrics"), at_rest=True))
        if service.stop() != 0:
            problems.append("the last stop failed")
        problems += _compare(folder, bodies)
    backend.stop()
    arrived = Counter(span.span_id for span in backend.spans())
    alerts = Counter(
        attribute.value.string_value
        for record in backend.logs()
        if record.event_name == "otel_cost.alert"
        for attribute in record.attributes
        if attribute.key == "otel_cost.alert.id"
    )
    missing = len(sent - set(arrived))
    if missing:
        problems.append(f"{missing} acknowledged spans never arrived")
    return {
        "rounds": rounds,
        "spans": len(sent),
        "missing": missing,
        "sent_again_to_backend": sum(arrived.values()) - len(sent),
        "alerts": len(alerts),
        "alert_records_sent_again_to_backend": sum(alerts.values()) - len(alerts),
        "refused_or_cut_off": senders.failures,
        "problems": problems,
    }


def span_ids(bodies: list[bytes]) -> set[bytes]:
    return {
        span.span_id
        for body in bodies
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    }


def _compare(folder: Path, bodies: list[bytes]) -> list[str]:
    """The ledger against a replay of what was sent."""
    replayed = folder / "sent"
    replayed.mkdir()
    for number, body in enumerate(bodies):
        (replayed / f"{number:06d}.traces.pb").write_bytes(body)
    lines = [json.loads(line) for line in _command("replay", str(replayed), "--json").splitlines()]
    calls = [line for line in lines if line["type"] == "call" and line["cost_usd"] is not None]
    expected = sum(_nano(line["cost_usd"]) for line in calls)
    rows = [json.loads(line) for line in _command("report", "--json", "--data-dir", str(folder / "data")).splitlines()]
    found = sum(_nano(row["cost_usd"]) for row in rows if row.get("cost_usd"))
    problems = []
    if found != expected:
        problems.append(f"the ledger has {found} nano-USD, a replay of the same requests {expected}")
    wanted = Counter(line["run_id"] for line in lines if line["type"] == "alert" and line["state"] == "firing")
    told = Counter(_alert_runs(folder / "data" / "ledger.duckdb"))
    # What is waste or drift depends on the order of arrival; an error that repeats does not.
    problems += [
        f"run {run_id}: {told[run_id]} alerts, a replay has {wanted[run_id]}"
        for run_id in {run for run in wanted if run.startswith("loop-")}
        if told[run_id] != wanted[run_id]
    ]
    return problems


def _alert_runs(ledger: Path) -> list[str]:
    from otel_cost.edge.ledger.duckdb import DuckDbLedger

    opened = DuckDbLedger(ledger)
    try:
        return [str(row["run_id"]) for row in opened.alerts(1_000_000)]
    finally:
        opened.close()


def _command(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "otel_cost", *arguments], capture_output=True, text=True, check=True
    ).stdout


def _nano(usd: str) -> int:
    whole, _, part = usd.partition(".")
    return int(whole) * 10**9 + int(f"{part:0<9}"[:9])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    for key, value in run(options.rounds, options.seed).items():
        print(f"{key:36s} {value}")


if __name__ == "__main__":
    main()
