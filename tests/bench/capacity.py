"""How many workers, partitions, disks and databases for so many spans a second: one worker is measured.

    python tests/bench/capacity.py [--rates 1000,10000,100000,1000000] [--spans 30000] [--turn 3] [--measured FILE.json]
    python tests/bench/capacity.py --slope 1,2,4

Measures one `otel-cost serve` (durable acks, starter rules, ledger, one OTLP destination): CPU per 1,000 spans of its
process tree, bytes of journal per span, bytes of ledger per call, memory per open run; the same with its ledger in a
PostgreSQL of its own, and what that takes; and what the sorting stage of Kafka costs beside it. Then it prints what
each rate needs. What is not measured is an assumption, printed with its value and an option of its own. `--measured`
reads the measurements, or writes them if it is not there.
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
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import grpc
import psycopg

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from engine_state import _alone
from load import Load, make_load
from subjects import TICKS, Running, start_otel_cost, tree_cpu_s

from otel_cost.core.decode.encode import encode_records
from otel_cost.core.decode.otlp import decode_traces
from otel_cost.edge.journal import Journal, Record
from postgres import running

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
    postgres_bytes_per_call: float  # the same in PostgreSQL, with its indexes
    postgres_worker_cpu_ms_per_1k: float  # of a worker that writes there
    postgres_cpu_ms_per_1k: float  # of the database for 1,000 spans
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
    database_cores: float = 16.0  # of one PostgreSQL
    large_tables: float = 4.0  # times the work of a row in tables beyond memory, against that of new ones
    broker_mb_per_s: float = 100.0  # written by one broker
    growth: float = 2.0  # partitions are not changed while runs are open


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", default="1000,10000,100000,1000000", help="spans a second, comma-separated")
    parser.add_argument("--spans", type=int, default=30_000)
    parser.add_argument("--turn", type=int, default=3, help="of so many spans two are calls")
    parser.add_argument("--measured", type=Path)
    parser.add_argument("--slope", metavar="1,2,4", help="only this: so many workers share one load and one PostgreSQL")
    for one in fields(Assumed):
        parser.add_argument(f"--{one.name.replace('_', '-')}", type=float, default=one.default)
    options = parser.parse_args()
    if options.slope:
        load = make_load(options.spans, 500, turn=options.turn)
        print(f"{load}\n\n| workers | CPU-ms per 1,000 spans | database | calls in the ledger |\n|---:|---:|---:|---:|")
        for one in (slope(load, int(workers)) for workers in options.slope.split(",")):
            cells = (one.workers, f"{one.cpu_ms_per_1k:.0f}", f"{one.database_cpu_ms_per_1k:.0f}", f"{one.calls:,}")
            print(f"| {' | '.join(map(str, cells))} |")
        return
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
        shared = _shared(folder / "shared", load)
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
        postgres_bytes_per_call=shared.ledger_bytes / load.calls,
        postgres_worker_cpu_ms_per_1k=(shared.cpu_s - empty.cpu_s) / load.spans * 1e6,
        postgres_cpu_ms_per_1k=shared.database_cpu_s / load.spans * 1e6,
        memory_bytes_per_open_run=(many - few) * 2**20 / runs_between,
        base_memory_mb=empty.peak_mb,
        spans_per_run=50,
    )


@dataclass(frozen=True)
class _Served:
    cpu_s: float
    ledger_bytes: int
    peak_mb: float
    database_cpu_s: float = 0.0


def _shared(folder: Path, load: Load) -> _Served:
    """The same with its ledger in a PostgreSQL that nobody else uses."""
    with running() as server:
        url = server.url()
        assert server.process is not None
        before, begun = _size(url), tree_cpu_s(server.process.pid)
        served = _served(folder, load, f"ledger={url}")
        # What its processes for connections took went to the parent when they ended.
        took = tree_cpu_s(server.process.pid) + _reaped_s(server.process.pid) - begun
        return replace(served, ledger_bytes=_size(url) - before, database_cpu_s=took)


@dataclass(frozen=True)
class Shared:
    """Some workers on one ledger, each with its share of one load."""

    workers: int
    cpu_ms_per_1k: float  # of all of them
    database_cpu_ms_per_1k: float
    calls: int  # that the ledger has


def slope(load: Load, workers: int) -> Shared:
    """What the same load costs when it is split among more workers: flat means that they do not hinder each other."""
    with running() as server, tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(workers) as pool:
        url = server.url()
        assert server.process is not None
        shares = [Load(load.bodies[n::workers], load.spans // workers, 0) for n in range(workers)]
        few = Load(load.bodies[:0], 0, 0)
        idle = _served(Path(scratch) / "idle", few, f"ledger={server.url()}")
        begun = tree_cpu_s(server.process.pid) + _reaped_s(server.process.pid)
        folders = [Path(scratch) / str(n) for n in range(workers)]
        served = list(pool.map(_served, folders, shares, [f"ledger={url}"] * workers))
        database = tree_cpu_s(server.process.pid) + _reaped_s(server.process.pid) - begun
        with psycopg.connect(url) as db:
            row = db.execute("SELECT count(*) FROM call_rows").fetchone()
    busy = sum(one.cpu_s - idle.cpu_s for one in served)
    return Shared(workers, busy / load.spans * 1e6, database / load.spans * 1e6, int(row[0]) if row else 0)


def _size(url: str) -> int:
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("CHECKPOINT")
        row = db.execute("SELECT pg_database_size(current_database())").fetchone()
        return int(row[0]) if row else 0


def _reaped_s(pid: int) -> float:
    """CPU of children that have ended."""
    said = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(said[13]) + int(said[14])) / TICKS


def _served(folder: Path, load: Load, *sets: str) -> _Served:
    """One service from ready to gone under a load."""
    folder.mkdir(parents=True)
    command = [sys.executable, "-c", "from sink import main; main()"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent
    ) as sink:
        assert sink.stdout is not None
        assert sink.stdin is not None
        worker = start_otel_cost(folder, int(sink.stdout.readline()), sets=sets)
        worker.begin()
        _send(worker, load)
        time.sleep(3)  # what is open stays open; what waits for company goes
        busy = worker.stop()
        sink.stdin.close()
        sink.wait(30)
    file = folder / "data" / "ledger.duckdb"
    return _Served(busy, file.stat().st_size if file.exists() else 0, worker.peak_mb)


def _send(worker: Running, load: Load) -> None:
    with grpc.insecure_channel(worker.grpc) as channel, ThreadPoolExecutor(4) as pool:
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
    calls_per_s: float
    ledger_gb: float
    database_cores: float
    databases: int  # 0: DuckDB


def plan(measured: Measured, assumed: Assumed, rate: float) -> Plan:
    """What `rate` spans a second need: one worker with its own ledger while that is enough, else a fleet."""
    core_s = assumed.cores * assumed.utilisation
    alone = rate * measured.cpu_ms_per_1k / 1e6 <= core_s
    of_fleet = measured.postgres_worker_cpu_ms_per_1k + measured.sort_cpu_ms_per_1k
    workers = 1 if alone else max(2, math.ceil(rate * of_fleet / 1e6 / core_s))
    open_runs = rate / measured.spans_per_run * assumed.open_minutes * 60 / workers
    kept = measured.span_bytes * measured.zstd_ratio
    calls = rate * measured.call_share
    per_call = measured.ledger_bytes_per_call if alone else measured.postgres_bytes_per_call
    written_mb_s = 2 * rate * kept * assumed.replicas / 1e6  # the Collectors' topics, and the steps
    database_s = rate * measured.postgres_cpu_ms_per_1k / 1e6 * assumed.large_tables
    database_cores = database_s / assumed.utilisation
    return Plan(
        rate=rate,
        workers=workers,
        partitions=12 * math.ceil(workers * assumed.growth / 12),
        worker_memory_gb=(measured.base_memory_mb * 2**20 + open_runs * measured.memory_bytes_per_open_run) / 1e9,
        worker_disk_gb=rate / workers * measured.journal_bytes_per_span * 3600 / 1e9 / assumed.utilisation,
        kafka_gb=2 * rate * kept * assumed.kafka_hours * 3600 * assumed.replicas / 1e9 / assumed.utilisation,
        brokers=max(int(assumed.replicas), math.ceil(written_mb_s / assumed.broker_mb_per_s / assumed.utilisation)),
        calls_per_s=calls,
        ledger_gb=calls * DAY_S * assumed.retention_days * per_call / 1e9,
        database_cores=0.0 if alone else database_cores,
        databases=0 if alone else math.ceil(database_cores / assumed.database_cores),
    )


def markdown(measured: Measured, assumed: Assumed, rates: list[float]) -> str:
    """A table of plans."""
    header = (
        "spans/s", "workers", "partitions", "memory each", "journal each, 1 h", "Kafka disk", "brokers",
        "calls/s",
        f"ledger, {assumed.retention_days:.0f} d", "databases",
    )  # fmt: skip
    lines = ["", f"| {' | '.join(header)} |", f"|{'---:|' * len(header)}"]
    for one in (plan(measured, assumed, rate) for rate in rates):
        kafka = "–" if one.workers == 1 else _gb(one.kafka_gb)
        cells = (
            f"{one.rate:,.0f}", f"{one.workers:,}", "–" if one.workers == 1 else f"{one.partitions:,}",
            _gb(one.worker_memory_gb), _gb(one.worker_disk_gb), kafka, "–" if one.workers == 1 else f"{one.brokers:,}",
            f"{one.calls_per_s:,.0f}", _gb(one.ledger_gb),
            "DuckDB" if not one.databases else f"{one.databases:,} PostgreSQL, {one.database_cores:,.0f} cores",
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _gb(amount: float) -> str:
    return f"{amount:,.1f} GB" if amount < 1000 else f"{amount / 1000:,.1f} TB"


if __name__ == "__main__":
    main()
