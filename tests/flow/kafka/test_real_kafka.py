"""SDK → Collector → Kafka → otel-cost, with a real broker; what comes of it equals what one node says of the same."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import Consumer
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from running import Process, until
from work import work
from workers import Worker, steady, write

from needs import missing
from otel_cost.edge.books import check_books
from otel_cost.edge.ledger import Batch
from otel_cost.edge.ledger.duckdb import DuckDbLedger
from otel_cost.edge.partitions import Offset, Partition
from ports import free_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from brokers import Kafka

DEPLOY = Path(__file__).resolve().parents[3] / "deploy" / "collector"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def worker(kafka: Kafka, tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Starts workers on topics of the test's own."""
    made: list[Worker] = []

    def start(name: str, topics: str, more: str = "", **told: Any) -> Worker:
        if not made:
            kafka.create(**{f"{topics}_{topic}": 4 for topic in ("spans", "logs", "steps")}, **{f"{topics}_dead": 1})
        one = Worker(tmp_path, name, kafka.bootstrap, topics, more, **told)
        made.append(one)
        return one.start()

    yield start
    for one in made:
        one.kill()


def single(folder: Path, bodies: list[bytes], rules: str = "") -> dict[str, Any]:
    """What one node says of the same requests."""
    folder.mkdir()
    node = Process(folder, "engine: {settle: 500ms}\n" + rules)
    for body in bodies:
        request = urllib.request.Request(
            f"http://{node.http}/v1/traces", body, {"Content-Type": "application/x-protobuf"}
        )
        urllib.request.urlopen(request, timeout=60).close()
    said: dict[str, Any] = steady(lambda: told(node.get))
    node.stop()
    return said


def told(get: Callable[[str], Any]) -> dict[str, Any]:
    """The truth that must not depend on who works it out."""
    rows = get("/v1/report?by=model,user,session,kind")["rows"]
    alerts = get("/v1/alerts")["alerts"]
    return {
        "total": get("/v1/report")["rows"],
        "rows": sorted(map(str, rows)),
        "alerts": sorted((alert["rule"], alert["run_id"], alert["fingerprint"], alert["state"]) for alert in alerts),
    }


def test_sdk_collector_kafka_worker(kafka: Kafka, worker: Callable[..., Worker], tmp_path: Path) -> None:
    otelcol = _otelcol()
    one = worker("w", "chain")
    grpc, http = free_ports(2)
    config = (DEPLOY / "kafka.yaml").read_text().replace("otlp_spans", "chain_spans").replace("otlp_logs", "chain_logs")
    (tmp_path / "kafka.yaml").write_text(config)
    told_to = {"LISTEN_GRPC": f"127.0.0.1:{grpc}", "LISTEN_HTTP": f"127.0.0.1:{http}", "KAFKA": kafka.bootstrap}
    with (tmp_path / "otelcol.log").open("wb") as log:
        collector = subprocess.Popen(
            [otelcol, "--config", str(tmp_path / "kafka.yaml")], stdout=log, stderr=log, env=os.environ | told_to
        )
    try:
        provider = TracerProvider()
        exporter = OTLPSpanExporter(f"127.0.0.1:{grpc}", insecure=True)
        provider.add_span_processor(BatchSpanProcessor(exporter))
        tracer = provider.get_tracer("agent")
        for number in range(20):
            talk = {"gen_ai.conversation.id": f"c-{number % 5}"}
            with tracer.start_as_current_span("work", attributes=talk):
                model = talk | {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai"}
                model |= {"gen_ai.request.model": "gpt-4o"}
                usage = {"gen_ai.usage.input_tokens": 1000, "gen_ai.usage.output_tokens": 100}
                with tracer.start_as_current_span("chat gpt-4o", attributes=model | usage):
                    pass
        provider.shutdown()
        until(lambda: one.get("/v1/report?by=session")["rows"] and one.metric("otel_cost_journalled_spans") == 40)
        rows = steady(lambda: one.get("/v1/report?by=session")["rows"])
        assert [(row["session"], row["cost_usd"], row["calls"]) for row in rows] == [
            (f"c-{number}", "0.014", 4) for number in range(5)
        ]
    finally:
        collector.terminate()
        collector.wait(90)


def test_what_cannot_be_decoded_goes_to_the_dead_letters(kafka: Kafka, worker: Callable[..., Worker]) -> None:
    one = worker("w", "poison")
    good = work(4, seed=1)
    write(kafka.bootstrap, "poison_spans", [*good[:4], b"\xff\xff no request", *good[4:]])
    until(lambda: one.metric("otel_cost_journalled_spans") == 160)
    letters = kafka.records("poison_dead")
    assert [letter.value() for letter in letters] == [b"\xff\xff no request"]
    headers = dict(letters[0].headers())
    assert headers["otel-cost.reason"] == b"undecodable"
    assert headers["otel-cost.topic"] == b"poison_spans"
    assert one.metric("otel_cost_kafka_dead_letters") == 1
    until(lambda: check_books(one.get("/metrics"), at_rest=True) == [])


def test_killed_and_started_again_it_says_what_one_node_says(
    kafka: Kafka, worker: Callable[..., Worker], tmp_path: Path
) -> None:
    bodies = work(120, seed=2)
    expected = single(tmp_path / "single", bodies)
    assert len(expected["alerts"]) >= 8
    one = worker("w", "killed")
    for third in range(3):
        write(kafka.bootstrap, "killed_spans", bodies[third * 80 : (third + 1) * 80])
        until(lambda: one.metric("otel_cost_journalled_spans") > 100)
        one.kill()
        write(kafka.bootstrap, "killed_spans", bodies[third * 80 : third * 80 + 10])  # sent once more
        one.start()
    assert in_the_end(one, expected) == expected


def test_a_topic_that_was_made_anew_is_told_of(kafka: Kafka, worker: Callable[..., Worker], tmp_path: Path) -> None:
    (tmp_path / "w" / "data").mkdir(parents=True)
    ledger = DuckDbLedger(tmp_path / "w" / "data" / "ledger.duckdb")
    partition = Partition("anew_steps", 2)
    ledger.take_partitions([partition])
    ledger.commit(Batch(), 0, {partition: Offset(1000, 1000, 1)})
    ledger.close()
    one = worker("w", "anew")
    said = "partition 2 of anew_steps ends at 0 and the ledger has read up to 1000: was the topic made anew?"
    until(lambda: said in one.log.read_text())
    assert not one.is_ready()


def in_the_end(one: Worker, expected: dict[str, Any]) -> dict[str, Any]:
    """What a worker says once it has read everything."""
    with suppress(AssertionError):  # the comparison says more
        until(lambda: one.get("/v1/report")["rows"] == expected["total"], 360)
    said: dict[str, Any] = steady(lambda: told(one.get))
    return said


def _otelcol() -> str:
    cache = Path(os.environ.get("OTEL_COST_CACHE") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "otel-cost")
    built = sorted(cache.expanduser().glob("collector-*/otelcol"), key=lambda path: path.stat().st_mtime)
    named = os.environ.get("OTELCOL")
    return named or (str(built[-1]) if built else missing("otelcol", "deploy/collector/build.sh (needs Go)"))


def test_enriched_spans_and_alerts_go_to_topics(kafka: Kafka, worker: Callable[..., Worker]) -> None:
    kafka.create(out_spans=2, out_logs=1)
    brokers = f'["{kafka.bootstrap}"]'
    more = f"exporters: {{kafka: {{brokers: {brokers}, traces: {{topic: out_spans}}, logs: {{topic: out_logs}}}}}}"
    one = worker("w", "enriched", more)
    bodies = work(10, seed=3)
    write(kafka.bootstrap, "enriched_spans", [*bodies, *bodies])
    until(lambda: one.metric("otelcol_exporter_sent_spans") == 400)
    spans = [
        span
        for record in kafka.records("out_spans")
        for resource in ExportTraceServiceRequest.FromString(record.value()).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    assert len({(span.trace_id, span.span_id) for span in spans}) == len(spans) == 400
    assert sum(said.key == "otel_cost.usd_exact" for span in spans for said in span.attributes) == 130
    logs = [
        log
        for record in kafka.records("out_logs")
        for resource in ExportLogsServiceRequest.FromString(record.value()).resource_logs
        for scope in resource.scope_logs
        for log in scope.log_records
    ]
    assert [log.event_name for log in logs] == ["otel_cost.alert"]
    until(lambda: check_books(one.get("/metrics"), at_rest=True) == [])


def test_partitions_that_come_and_go_change_nothing(
    kafka: Kafka, worker: Callable[..., Worker], tmp_path: Path
) -> None:
    bodies = work(120, seed=4)
    expected = single(tmp_path / "single", bodies)
    one = worker("w", "moving")
    for third in range(3):
        write(kafka.bootstrap, "moving_spans", bodies[third * 80 : (third + 1) * 80])
        until(lambda: one.metric("otel_cost_journalled_spans") > 100)
        other = Consumer(
            {
                "bootstrap.servers": kafka.bootstrap,
                "group.id": "moving",
                "partition.assignment.strategy": "cooperative-sticky",
                "enable.auto.commit": False,
            }
        )
        other.subscribe(["moving_steps"])  # takes partitions, does nothing, and gives them back
        deadline = time.monotonic() + 180
        while len(other.assignment()) < 2 and time.monotonic() < deadline:
            other.poll(0.1)
        assert len(other.assignment()) == 2
        other.close()
    until(lambda: one.metric("otel_cost_kafka_rebalances") >= 7)  # at first, and each time one away and one back
    assert in_the_end(one, expected) == expected
    until(lambda: check_books(one.get("/metrics"), at_rest=True) == [])
