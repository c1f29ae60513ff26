"""Real receivers on loopback, over a real journal."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from prometheus_client import CollectorRegistry

from otel_cost.edge.journal import Journal, Record
from otel_cost.edge.receive.grpc import GrpcReceiver
from otel_cost.edge.receive.http import HttpReceiver
from otel_cost.edge.receive.intake import Intake
from otel_cost.edge.telemetry import ReceiverMetrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TRACE = bytes(range(1, 17))


@dataclass
class House:
    """One service: both doors, what came through them, and what it counted."""

    journal: Journal
    intake: Intake
    registry: CollectorRegistry
    delivered: list[Record]
    doors: list[GrpcReceiver | HttpReceiver] = field(default_factory=list)
    grpc: int = 0
    http: int = 0

    def open(self, **options) -> House:
        """Listen on free ports; options go to the HTTP receiver."""
        http = HttpReceiver(self.intake, ("127.0.0.1", 0), **options)
        grpc = GrpcReceiver(self.intake, "127.0.0.1:0", max_bytes=options.get("max_bytes", 2**20))
        self.doors += [http, grpc]
        self.http, self.grpc = http.start(), grpc.start()
        return self

    def close(self) -> None:
        for door in self.doors:
            door.stop()
        self.journal.close()

    @staticmethod
    def traces(*names: str, bad: int = 0) -> bytes:
        """An export request with spans of these names, and so many whose trace id is too short."""
        request = ExportTraceServiceRequest()
        spans = request.resource_spans.add().scope_spans.add().spans
        for number, name in enumerate(names, 1):
            spans.append(Span(trace_id=TRACE, span_id=number.to_bytes(8), name=name))
        for _ in range(bad):
            spans.append(Span(trace_id=b"short", span_id=b"12345678"))
        return request.SerializeToString()

    def count(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0

    def names(self) -> list[str]:
        """Names of the spans that were accepted, in journal order."""
        return [event.name for record in self.delivered for event in record.decoded.events]


@pytest.fixture(scope="session")
def closing() -> Iterator[list[threading.Thread]]:
    threads: list[threading.Thread] = []
    yield threads
    for thread in threads:
        thread.join()


@pytest.fixture
def build(tmp_path: Path, closing: list[threading.Thread]) -> Iterator[Callable[..., House]]:
    """Makes houses; options go to the intake."""
    built: list[House] = []

    def make(**options) -> House:
        delivered: list[Record] = []
        journal = Journal(tmp_path / f"journal{len(built)}", on_durable=delivered.extend)
        registry = CollectorRegistry()
        house = House(journal, Intake(journal, ReceiverMetrics(registry), **options), registry, delivered)
        built.append(house)
        return house

    yield make
    for house in built:  # closing takes a quarter of a second: nobody needs to wait for it
        closing.append(threading.Thread(target=house.close))
        closing[-1].start()


@pytest.fixture
def house(build: Callable[..., House]) -> House:
    """Both doors open, with a limit of 1 MiB and short patience."""
    return build().open(max_bytes=2**20, header_timeout_s=0.4, body_timeout_s=0.4, idle_timeout_s=1)
