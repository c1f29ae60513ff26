"""Exporter `kafka`: export requests to Kafka topics, in the form that the Collector's Kafka receiver reads."""

from __future__ import annotations

import threading
from typing import Annotated, Any, Literal

from pydantic import Field

from otel_cost.core.model.effects import Signal
from otel_cost.edge.export import register
from otel_cost.edge.export._contract import ExporterKind, Refused, TooLarge, Unavailable
from otel_cost.edge.export._kafka import Connection, Encoded, client_library
from otel_cost.edge.export._settings import Delivery, Duration, RoomyBatch, SendingQueue, Settings


class ProducerSettings(Settings):
    """How records are written. A record counts as delivered when all replicas in sync have it."""

    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "zstd"
    max_message_bytes: Annotated[int, Field(gt=0)] = 1_000_000


class KafkaBatch(RoomyBatch):
    """One request is one record of the topic: below the size that brokers take by default."""

    max_bytes: Annotated[int, Field(gt=0)] = 900_000


class KafkaQueue(SendingQueue):
    """A queue whose requests fit a record."""

    batch: KafkaBatch = KafkaBatch()


class KafkaExporterSettings(Connection, Delivery):
    """`traces` gets the spans with their cost, `logs` log records, alerts and corrections."""

    traces: Encoded = Encoded(topic="otlp_spans")
    logs: Encoded = Encoded(topic="otlp_logs")
    metrics: Encoded = Encoded(topic="otlp_metrics")
    producer: ProducerSettings = ProducerSettings()
    timeout: Duration = 30.0
    sending_queue: KafkaQueue = KafkaQueue()


class KafkaExporter:
    """One producer; `send` waits until the brokers have answered."""

    def __init__(self, settings: KafkaExporterSettings) -> None:
        kafka = client_library("exporters.kafka")
        self._errors, self._failed = kafka.KafkaError, kafka.KafkaException
        self._topics = {signal: getattr(settings, signal.value).topic for signal in Signal}
        self._timeout_s = settings.timeout
        self._producer = kafka.Producer(
            settings.properties()
            | {
                "acks": "all",
                "enable.idempotence": True,
                "linger.ms": 5,
                "compression.type": settings.producer.compression,
                "message.max.bytes": settings.producer.max_message_bytes,
                "message.timeout.ms": round(settings.timeout * 1000),
            }
        )
        self._closed = threading.Event()
        self._poller = threading.Thread(target=self._poll, name="kafka-exporter", daemon=True)
        self._poller.start()

    def send(self, signal: Signal, payload: bytes) -> int:
        """As `Exporter.send`."""
        answered = threading.Event()
        problem: list[Any] = []

        def told(error: Any, _message: Any) -> None:  # noqa: ANN401  # KafkaError and Message
            problem.append(error)
            answered.set()

        try:
            self._producer.produce(self._topics[signal], payload, on_delivery=told)
        except BufferError as error:
            raise Unavailable("the producer's queue is full", "kafka_queue_full") from error
        except self._failed as error:
            self._raise(error.args[0])
        # The producer gives up by itself; a little more, for the answer to get here.
        if not answered.wait(self._timeout_s + 10):
            raise Unavailable("no answer from the brokers", "timeout")
        if problem[0] is not None:
            self._raise(problem[0])
        return 0

    def _raise(self, error: Any) -> None:  # noqa: ANN401  # KafkaError
        reason = f"kafka_{error.name().lower().lstrip('_')}"
        if error.code() in {self._errors.MSG_SIZE_TOO_LARGE, self._errors.RECORD_LIST_TOO_LARGE}:
            raise TooLarge(error.str(), reason)
        if error.code() in {self._errors.TOPIC_AUTHORIZATION_FAILED, self._errors.INVALID_MSG}:
            raise Refused(error.str(), reason)
        raise Unavailable(error.str(), reason)

    def _poll(self) -> None:
        while not self._closed.is_set():
            self._producer.poll(0.1)

    def close(self) -> None:
        self._producer.flush(1)
        self._closed.set()
        self._poller.join(2)


register(ExporterKind(name="kafka", settings=KafkaExporterSettings, build=KafkaExporter))
