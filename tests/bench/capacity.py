"""How many workers, partitions, disks and databases for so many spans a second: one worker is measured.

    python tests/bench/capacity.py [--rates 1000,10000,100000,1000000] [--spans 30000] [--turn 3] [--measured FILE.json]

Measures one `otel-cost serve` (durable acks, starter rules, ledger, one OTLP destination): CPU per 1,000 spans of its
process tree, bytes of journal per span, bytes of ledger per call, memory per open run, and what the sorting stage of
Kafka costs beside it; then prints what each rate needs. What is not measured is an assumption, printed with its value
and an option of its own. `--measured` reads the measurements, or writes them if it is not there.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import grpc

sys.path.insert(0, str(Path(__file__).parent))

from engine_state import _alone
from load import Load, make_load
from subjects import Running, start_otel_cost

from otel_cost.core.decode.encode import encode_records
from otel_cost.core.decode.otlp import decode_traces
from otel_cost.edge.journal import Journal, Record

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
DAY_S = 86_400


@dataclass(frozen=True)
class Measured:
    """Of one worker."""

    span_bytes: float  # as encoded
    call_share: float  # of the spans, those that tell of a model or tool call
    zstd_ratio: float  # what Kafka keeps of them
    cpu_ms_per_1k: float  # process tree: receive, journal, engine, ledger, export
    sort_cpu_ms_per_1k: float  # decode and encode again: the first stage on Kafka, without its look-ups
    journal_bytes_per_span: float
    ledger_bytes_per_call: float  # DuckDB's file, steps, runs and snapshots included
    memory_bytes_per_open_run: float
    base_memory_mb: float
    spans_per_run: int


@dataclass(frozen=True)
class Assumed:
    """What is not measured here."""

    cores: float = 1.0  # that a worker can use: its engine is one thread
    utilisation: float = 0.6  # of it, planned; the rest is for replays, rebalances and bursts
    open_minutes: float = 5.0  # that a run stays open after it began
    kafka_hours: float = 24.0  # retention of the topics
    replicas: int = 3
    retention_days: int = 90
    postgres_factor: float = 5.0  # bytes of a call there per byte in DuckDB: rows and indexes instead of columns
    postgres_rows_per_s: float = 40_000  # that one primary takes, in batches, with its indexes
    broker_mb_per_s: float = 100.0  # written by one broker
    growth: float = 2.0  # partitions are not changed while runs are open


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", default="1000,10000,100000,1000000", help="spans a second, comma-separated")
    parser.add_argument("--spans", type=int, default=30_000)
    parser.add_argument("--turn", type=int, default=3, help="of so many spans two are calls")
    parser.add_argument("--measured", type=Path)
    for one in fields(Assumed):
        parser.add_argument(f"--{one.name.replace('_', '-')}", type=float, default=one.default)
    options = parser.parse_args()
    assumed = Assumed(**{one.name: getattr(options, one.name) for one in fields(Assumed)})
    if options.measured is not None and options.measured.exists():
        measured = Measured(**json.loads(options.measured.read_text()))
    else:
        measured = measure(options.spans, options.turn)
        if options.measured is not None:
            options.measured.write_text(json.dumps(asdict(measured), indent=2) + "\n")
    for title, told in (("measured", asdict(measured)), ("assumed", asdict(assumed))):
        print(f"{title}:")
        for name, value in told.items():
            print(f"  {name.replace('_', ' '):28s} {value:12,.3f}")
    print(markdown(measured, assumed, [float(rate) for rate in options.rates.split(",")]))


# --- one worker ------------------------------------------------------------------------------------------------------


def measure(spans: int, turn: int) -> Measured:
    load = make_load(spans, 500, turn=turn)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        empty = _served(folder / "empty", make_load(500, 500, turn=turn))
        full = _served(folder / "full", load)
        journal = _journalled(folder / "journal", load)
    few, many = (_alone(20_000, 50, times)[1] for times in (1, 6))
    runs_between = 5 * 20_000 // 50
    packed = b"".join(load.bodies)
    return Measured(
        span_bytes=load.span_bytes,
        call_share=load.calls / load.spans,
        zstd_ratio=len(zstd.compress(packed[: 4 << 20])) / len(packed[: 4 << 20]),
        cpu_ms_per_1k=(full.cpu_s - empty.cpu_s) / (load.spans - 500) * 1e6,
        sort_cpu_ms_per_1k=_sorted_cpu_s(load) / load.spans * 1e6,
        journal_bytes_per_span=journal / load.spans,
        ledger_bytes_per_call=(full.ledger_bytes - empty.ledger_bytes) / load.calls,
        memory_bytes_per_open_run=(many - few) * 2**20 / runs_between,
        base_memory_mb=empty.peak_mb,
        spans_per_run=50,
    )


@dataclass(frozen=True)
class _Served:
    cpu_s: float
    ledger_bytes: int
    peak_mb: float


def _served(folder: Path, load: Load) -> _Served:
    """One service from ready to gone under a load."""
    folder.mkdir(parents=True)
    command = [sys.executable, "-c", "from sink import main; main()"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent
    ) as sink:
        assert sink.stdout is not None
        assert sink.stdin is not None
        running = start_otel_cost(folder, int(sink.stdout.readline()))
        running.begin()
        _send(running, load)
        time.sleep(3)  # what is open stays open; what waits for company goes
        busy = running.stop()
        sink.stdin.close()
        sink.wait(30)
    return _Served(busy, (folder / "data" / "ledger.duckdb").stat().st_size, running.peak_mb)


def _send(running: Running, load: Load) -> None:
    with grpc.insecure_channel(running.grpc) as channel, ThreadPoolExecutor(4) as pool:
        export = channel.unary_unary(EXPORT)

        def one(body: bytes) -> None:
            for _ in range(100):
                try:
                    export(body, timeout=60)
                except grpc.RpcError as error:
                    if error.code() not in {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE}:
                        raise
                    time.sleep(0.2)
                else:
                    return
            raise RuntimeError("a request was refused a hundred times")

        list(pool.map(one, load.bodies))


def _journalled(folder: Path, load: Load) -> int:
    """Bytes on disk of a journal that holds all of it."""
    journal = Journal(folder, on_durable=lambda _: None)
    for body in load.bodies:
        journal.append(Record("traces", "default", 1, body), timeout_s=10)
    size = journal.size_bytes
    journal.close()
    return size


def _sorted_cpu_s(load: Load) -> float:
    """As the first stage does: decode, put each trace's spans together, encode."""
    began = time.process_time()
    for body in load.bodies:
        by_trace: dict[bytes, list[tuple[bytes, bytes, bytes]]] = {}
        for event in decode_traces(body, "default", 1).events:
            item = (event.resource.envelope, event.scope.envelope, event.raw)
            by_trace.setdefault(event.trace_id, []).append(item)
        for items in by_trace.values():
            encode_records(items)
    return time.process_time() - began


# --- many of them ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What one rate needs. Bytes are of the whole fleet; disks hold `utilisation` of what they could."""

    rate: float
    workers: int
    partitions: int
    worker_memory_gb: float
    worker_disk_gb: float  # journal of an hour, for the tier without Kafka
    kafka_gb: float
    brokers: int
    ledger_rows_per_s: float
    ledger_gb: float
    databases: int


def plan(measured: Measured, assumed: Assumed, rate: float) -> Plan:
    """What `rate` spans a second need."""
    per_worker = (
        1000 * assumed.cores * assumed.utilisation / (measured.cpu_ms_per_1k + measured.sort_cpu_ms_per_1k) * 1000
    )
    workers = math.ceil(rate / per_worker)
    open_runs = rate / measured.spans_per_run * assumed.open_minutes * 60 / workers
    kept = measured.span_bytes * measured.zstd_ratio
    calls = rate * measured.call_share
    # A call, its step in the tree, and what its run, trace and keys add.
    rows = 2 * calls + 5 * rate / measured.spans_per_run
    duckdb_gb = calls * DAY_S * assumed.retention_days * measured.ledger_bytes_per_call / 1e9
    written_mb_s = 2 * rate * kept * assumed.replicas / 1e6  # the Collectors' topics, and the steps
    return Plan(
        rate=rate,
        workers=workers,
        partitions=12 * math.ceil(workers * assumed.growth / 12),
        worker_memory_gb=(measured.base_memory_mb * 2**20 + open_runs * measured.memory_bytes_per_open_run) / 1e9,
        worker_disk_gb=rate / workers * measured.journal_bytes_per_span * 3600 / 1e9 / assumed.utilisation,
        kafka_gb=2 * rate * kept * assumed.kafka_hours * 3600 * assumed.replicas / 1e9 / assumed.utilisation,
        brokers=max(int(assumed.replicas), math.ceil(written_mb_s / assumed.broker_mb_per_s / assumed.utilisation)),
        ledger_rows_per_s=rows,
        ledger_gb=duckdb_gb * (1 if workers == 1 else assumed.postgres_factor),
        databases=1 if workers == 1 else math.ceil(rows / assumed.postgres_rows_per_s / assumed.utilisation),
    )


def markdown(measured: Measured, assumed: Assumed, rates: list[float]) -> str:
    """A table of plans."""
    header = (
        "spans/s", "workers", "partitions", "memory each", "journal each, 1 h", "Kafka disk", "brokers",
        "ledger rows/s",
        f"ledger, {assumed.retention_days:.0f} d", "databases",
    )  # fmt: skip
    lines = ["", f"| {' | '.join(header)} |", f"|{'---:|' * len(header)}"]
    for one in (plan(measured, assumed, rate) for rate in rates):
        kafka = "–" if one.workers == 1 else _gb(one.kafka_gb)
        cells = (
            f"{one.rate:,.0f}", f"{one.workers:,}", "–" if one.workers == 1 else f"{one.partitions:,}",
            _gb(one.worker_memory_gb), _gb(one.worker_disk_gb), kafka, "–" if one.workers == 1 else f"{one.brokers:,}",
            f"{one.ledger_rows_per_s:,.0f}", _gb(one.ledger_gb),
            "DuckDB" if one.workers == 1 else f"{one.databases:,} PostgreSQL",
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _gb(amount: float) -> str:
    return f"{amount:,.1f} GB" if amount < 1000 else f"{amount / 1000:,.1f} TB"


if __name__ == "__main__":
    main()
