"""The reckoning of `tests/bench/capacity.py`: sums that hold for any measurement."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

from capacity import Assumed, Measured, markdown, plan

ONE = Measured(
    span_bytes=1000.0,
    call_share=0.5,
    zstd_ratio=0.25,
    cpu_ms_per_1k=100.0,
    sort_cpu_ms_per_1k=20.0,
    journal_bytes_per_span=1000.0,
    ledger_bytes_per_call=200.0,
    postgres_bytes_per_call=1000.0,
    postgres_worker_cpu_ms_per_1k=100.0,
    postgres_cpu_ms_per_1k=30.0,
    memory_bytes_per_open_run=50_000.0,
    base_memory_mb=200.0,
    spans_per_run=50,
)


def test_workers_follow_the_processor_and_partitions_the_workers() -> None:
    # 100 CPU-ms per 1,000 spans at 60 % of one core: 6,000 spans a second; in a fleet 120, and so 5,000.
    assert [plan(ONE, Assumed(), rate).workers for rate in (6000, 6001, 10_001)] == [1, 2, 3]
    million = plan(ONE, Assumed(), 1_000_000)
    assert (million.workers, million.partitions) == (200, 408)
    assert plan(replace(ONE, postgres_worker_cpu_ms_per_1k=40.0), Assumed(), 1_000_000).workers == 100
    assert plan(ONE, Assumed(cores=2.0), 1_000_000).workers == 100


def test_disks_and_databases_follow_the_rate() -> None:
    one, ten = (plan(ONE, Assumed(), rate) for rate in (10_000, 100_000))
    assert ten.kafka_gb == pytest.approx(10 * one.kafka_gb)
    # Twice 2.5 MB/s after compression, three copies, a day, at 60 % of the disk.
    assert one.kafka_gb == pytest.approx(2 * 10_000 * 250 * 86_400 * 3 / 1e9 / 0.6)
    assert one.ledger_gb == pytest.approx(5000 * 86_400 * 90 * 1000 / 1e9)
    assert (ten.database_cores, ten.databases) == (pytest.approx(20.0), 2)
    assert plan(ONE, Assumed(large_tables=1.0), 100_000).database_cores == pytest.approx(5.0)
    assert plan(ONE, Assumed(), 1_000_000).databases == 13
    # What a worker holds does not depend on how many there are.
    assert ten.worker_memory_gb == pytest.approx(one.worker_memory_gb, rel=0.1)


def test_one_worker_needs_neither_kafka_nor_a_database() -> None:
    one = plan(ONE, Assumed(), 1000)
    assert (one.databases, one.database_cores) == (0, 0)
    assert one.ledger_gb == pytest.approx(500 * 86_400 * 90 * 200 / 1e9)
    table = markdown(ONE, Assumed(), [1000, 1_000_000]).splitlines()
    assert "DuckDB" in table[3]
    assert table[3].count("–") == 3
    assert "13 PostgreSQL, 200 cores" in table[4]
    assert "1,000,000" in table[4]
