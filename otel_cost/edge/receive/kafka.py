"""Kafka: the receiver of a fleet, in two stages that every worker runs.

Collectors key their records by trace id at best, and a run can span many traces. The
first stage (`Sorter`) reads the Collectors' topics and writes the same records again, in
groups that belong together, under the run's home (`homes.py`). The second
(`StepReader`) reads these and feeds the engine: Kafka is its journal. How far it is lies
in the ledger, in the same transaction as the rows; what Kafka is told is a hint for
those who watch the lag.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Protocol

import structlog
from prometheus_client import Counter, Gauge
from pydantic import Field

from otel_cost.core.decode.encode import encode_records
from otel_cost.core.decode.otlp import decode_logs, decode_traces
from otel_cost.core.model.effects import Signal
from otel_cost.core.model.event import DEFAULT_TENANT
from otel_cost.edge.auth import TenantName  # read by pydantic at run time  # noqa: TC001
from otel_cost.edge.export._kafka import Connection, Encoded, Topic, client_library
from otel_cost.edge.export._settings import Duration, Settings
from otel_cost.edge.journal import Record
from otel_cost.edge.ledger import LedgerUnavailableError
from otel_cost.edge.partitions import Origin, Partition
from otel_cost.edge.telemetry import KAFKA
from otel_cost.errors import DecodeError, OtelCostError, whereabouts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from prometheus_client import CollectorRegistry

    from otel_cost.core.decode.otlp import Rejected
    from otel_cost.core.model.event import LogEvent, SpanEvent
    from otel_cost.edge.partitions import Offset
    from otel_cost.edge.receive.homes import Homes
    from otel_cost.edge.telemetry import ReceiverMetrics

RECORD_BYTES: Final = 512 * 1024  # a record of steps is not made larger than this; a larger span stays alone
_BATCH: Final = 500  # records of the Collectors that are sorted together
_POLL_S: Final = 0.2
_AGAIN_S: Final = 1.0
_LOOK_S: Final = 2.0
_WRITE_S: Final = 60.0

_log = structlog.get_logger(__name__)


class Named(Settings):
    """A topic of our own."""

    topic: Topic


class KafkaReceiver(Connection):
    """Takes OTLP from the topics that Collectors write."""

    traces: Encoded = Encoded(topic="otlp_spans")
    logs: Encoded = Encoded(topic="otlp_logs")
    steps: Named = Named(topic="otel-cost.steps")  # the same records, keyed by run
    dead_letter: Named = Named(topic="otel-cost.dead-letter")  # what cannot be decoded
    group_id: Annotated[str, Field(min_length=1)] = "otel-cost"
    group_instance_id: Annotated[str, Field(min_length=1)] | None = None  # a name that this worker keeps over restarts
    initial_offset: Literal["earliest", "latest"] = "earliest"  # of the Collectors' topics, for a new group
    session_timeout: Duration = 10.0
    heartbeat_interval: Duration = 3.0
    max_message_bytes: Annotated[int, Field(gt=0)] = 10_000_000
    tenant: TenantName = DEFAULT_TENANT
    tenant_header: str | None = None  # of the records, where a Collector that can be trusted writes whose they are


class NotWrittenError(OtelCostError):
    """Kafka did not take a record; the same may be written later."""


class KafkaMetrics:
    """What `/metrics` says of both stages."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.dead_letters = Counter(
            "otel_cost_kafka_dead_letters",
            "records written to the dead-letter topic",
            ("topic", "reason"),
            registry=registry,
        )
        self.records = Counter("otel_cost_kafka_records", "records read", ("topic",), registry=registry)
        self.rebalances = Counter(
            "otel_cost_kafka_rebalances", "changes of the partitions that this worker reads", registry=registry
        )
        self.lag = Gauge(
            "otel_cost_kafka_lag",
            "records that are there and not read",
            ("topic", "partition"),
            registry=registry,
        )


class Owner(Protocol):
    """Whose engine is fed. Called on the reader's thread."""

    def take_partitions(self, partitions: Sequence[Partition]) -> Mapping[Partition, Offset]:
        """These are ours from now on: where to read each from."""

    def give_partitions(self, partitions: Sequence[Partition], *, last: bool) -> Mapping[Partition, Offset]:
        """These are others' now: everything of them is written down. Where to read those from that stay.

        `last`: there is nothing more to come of any of them.
        """

    def feed(self, record: Record) -> None:
        """The next record of a partition."""

    def at_end(self, partition: Partition) -> None:
        """There is nothing more to read of it at present."""

    def is_full(self) -> bool:
        """Nothing more can be taken for the moment."""

    def has_moved(self) -> bool:
        """The ledger says that some of our partitions are others': asked for once each time."""


class _Stage:
    """A thread around a consumer that is made anew when it fails; what was not committed is read again."""

    name = ""

    def __init__(self, settings: KafkaReceiver, counts: KafkaMetrics) -> None:
        self._kafka = client_library("receivers.kafka")
        self._settings, self._counts = settings, counts
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"kafka-{self.name}", daemon=True)
        self._look_at = 0.0
        self.problem: str | None = "Kafka is not reached yet"

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        self._stopping.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._read()
            except Exception as error:  # noqa: BLE001  # whatever it is: from the last commit on, once more
                self.problem = f"kafka: {error}"
                _log.error("a stage of Kafka starts again", stage=self.name, problem=str(error), **whereabouts(error))
                self._stopping.wait(_AGAIN_S)

    def _read(self) -> None:
        raise NotImplementedError

    def _consumer(self, group: str, reset: str) -> Any:  # noqa: ANN401  # Consumer of an optional partition
        settings = self._settings
        said = settings.properties() | {
            "group.id": group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "enable.partition.eof": True,
            "auto.offset.reset": reset,
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": round(settings.session_timeout * 1000),
            "heartbeat.interval.ms": round(settings.heartbeat_interval * 1000),
            "fetch.message.max.bytes": settings.max_message_bytes,
            "queued.max.messages.kbytes": 65_536,
            "topic.metadata.refresh.interval.ms": 10_000,
        }
        if settings.group_instance_id is not None:
            said["group.instance.id"] = settings.group_instance_id
        return self._kafka.Consumer(said)

    def _error(self, error: Any) -> None:  # noqa: ANN401  # KafkaError
        if error.code() == self._kafka.KafkaError.UNKNOWN_TOPIC_OR_PART:
            self.problem = f"kafka: {error.str()}; create the topic: docs/scale-out.md"
        elif not error.retriable():
            raise self._kafka.KafkaException(error)
        else:
            self.problem = f"kafka: {error.str()}"

    def _look(self, consumer: Any) -> None:  # noqa: ANN401
        """How much there is that was not read; every few seconds."""
        if time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + _LOOK_S
        with suppress(self._kafka.KafkaException):
            for read in consumer.position(consumer.assignment()):
                _, end = consumer.get_watermark_offsets(read, cached=True)
                if read.offset >= 0 and end >= 0:
                    self._counts.lag.labels(read.topic, str(read.partition)).set(max(0, end - read.offset))

    def _forget_lag(self, partitions: Iterable[Any]) -> None:
        for partition in partitions:
            with suppress(KeyError):
                self._counts.lag.remove(partition.topic, str(partition.partition))


class Sorter(_Stage):
    """The first stage: from the Collectors' topics to the topic of steps, each run's records under one key.

    It holds nothing: what was written is committed, what was not is read again, and the engine knows resends.
    """

    name = "sorter"

    def __init__(
        self,
        settings: KafkaReceiver,
        counts: KafkaMetrics,
        *,
        signals: Iterable[Signal],
        homes: Homes,
        keys_of: Callable[[SpanEvent | LogEvent], list[str]],
        redact: Callable[[Signal, bytes, str], bytes],
        metrics: ReceiverMetrics,
    ) -> None:
        super().__init__(settings, counts)
        topics = {Signal.TRACES: settings.traces.topic, Signal.LOGS: settings.logs.topic}
        self._signals = {topics[signal]: signal for signal in signals if signal in topics}
        self._homes, self._keys_of, self._redact, self._metrics = homes, keys_of, redact, metrics
        self._producer = self._kafka.Producer(
            settings.properties()
            | {
                "acks": "all",
                "enable.idempotence": True,
                "partitioner": "murmur2_random",  # as Java's clients, so that others may write here, too
                "linger.ms": 5,
                "compression.type": "zstd",
                "message.max.bytes": settings.max_message_bytes,
                "message.timeout.ms": round(_WRITE_S * 1000),
            }
        )

    def _read(self) -> None:
        consumer = self._consumer(f"{self._settings.group_id}.sort", self._settings.initial_offset)
        try:
            consumer.subscribe(list(self._signals), on_revoke=lambda _, partitions: self._forget_lag(partitions))
            while not self._stopping.is_set():
                batch = []
                for message in consumer.consume(_BATCH, _POLL_S):
                    error = message.error()
                    if error is None:
                        batch.append(message)
                    elif error.code() == self._kafka.KafkaError._PARTITION_EOF:  # noqa: SLF001  # its public name
                        self.problem = None
                    else:
                        self._error(error)
                if batch and not self._sort_until_done(consumer, batch):
                    return
                self._look(consumer)
        finally:
            consumer.close()

    def _sort_until_done(self, consumer: Any, batch: list[Any]) -> bool:  # noqa: ANN401
        """Sort a batch and commit it; False: told to stop before it could be."""
        work = self._prepared(batch)
        while True:
            try:
                self._write_all(work)
                break
            except (NotWrittenError, LedgerUnavailableError) as error:
                self.problem = f"kafka: {error}"
                _log.warning("records wait to be sorted", problem=str(error))
                if self._stopping.wait(_AGAIN_S):
                    return False
                consumer.pause(consumer.assignment())
                for message in consumer.consume(_BATCH, 0):  # stays a member; what slips through is read again
                    if message.error() is None:
                        place = (message.topic(), message.partition(), message.offset())
                        consumer.seek(self._kafka.TopicPartition(*place))
        consumer.resume(consumer.assignment())
        self.problem = None
        behind = {(message.topic(), message.partition()): message.offset() + 1 for message in batch}
        offsets = [self._kafka.TopicPartition(*partition, offset) for partition, offset in behind.items()]
        try:
            consumer.commit(offsets=offsets, asynchronous=False)
        except self._kafka.KafkaException as error:
            _log.warning("a commit failed; some records will come twice", problem=str(error))
        self._count(work)
        return True

    def _prepared(self, batch: list[Any]) -> _Work:
        work = _Work()
        for number, message in enumerate(batch):
            topic, signal, tenant = message.topic(), self._signals[message.topic()], self._tenant(message)
            received_ns, payload = message.timestamp()[1] * 1_000_000, message.value() or b""
            try:
                events, rejected = _decoded(signal, payload, tenant, received_ns)
                work.read.append((topic, signal, len(events), rejected))
                redacted = self._redact(signal, payload, tenant)
                if redacted is not payload:
                    events, _ = _decoded(signal, redacted, tenant, received_ns)
            except DecodeError as error:
                work.read.append((topic, signal, None, []))
                work.letters.append(_Letter(message, "undecodable", str(error)))
                continue
            if rejected:
                work.letters.append(_Letter(message, rejected[0].reason, rejected[0].message))
            for event in events:
                work.events.append((number, signal, received_ns, event))
                # What belongs to no run stays together with what came beside it.
                work.names.append((tenant, self._keys(event) or [f"{topic}/{message.partition()}"]))
        return work

    def _write_all(self, work: _Work) -> None:
        """Write a batch again, by home, and wait until Kafka has it.

        Raises:
            NotWrittenError, LedgerUnavailableError: not all of it is written.
        """
        failed: list[Any] = []

        def told(error: Any, _message: Any) -> None:  # noqa: ANN401
            if error is not None:
                failed.append(error)

        for key, headers, payload in _grouped(work.events, self._homes.settle(work.names)):
            self._write(self._settings.steps.topic, payload, key, headers, told)
        for letter in work.letters:
            message = letter.message
            self._write(self._settings.dead_letter.topic, message.value(), message.key(), letter.headers(), told)
        if self._producer.flush(_WRITE_S + 5):
            raise NotWrittenError("no answer from the brokers")
        if failed:
            raise NotWrittenError(failed[0].str())

    def _write(
        self, topic: str, value: bytes | None, key: bytes | None, headers: list[tuple[str, bytes]], told: object
    ) -> None:
        while True:
            try:
                self._producer.produce(topic, value, key, headers=headers, on_delivery=told)
            except BufferError:
                self._producer.poll(_POLL_S)
            except self._kafka.KafkaException as error:
                raise NotWrittenError(error.args[0].str()) from error
            else:
                return

    def _keys(self, event: SpanEvent | LogEvent) -> list[str]:
        try:
            return self._keys_of(event)
        except Exception as error:  # noqa: BLE001  # the engine will set it aside, wherever it meets it
            _log.warning("a record that cannot be read goes by its trace", **whereabouts(error))
            return [event.trace_id.hex()] if event.trace_id else []

    def _tenant(self, message: Any) -> str:  # noqa: ANN401
        wanted = self._settings.tenant_header
        for name, value in (message.headers() or ()) if wanted else ():
            if name == wanted and value:
                return str(value.decode(errors="replace"))[:64]
        return self._settings.tenant

    def _count(self, work: _Work) -> None:
        """Once it is written: a batch that is tried again counts once."""
        for topic, signal, events, rejected in work.read:
            self._counts.records.labels(topic).inc()
            if events is None:
                self._metrics.refused(signal, KAFKA, 0)
            else:
                self._metrics.decoded(signal, events, rejected)
                self._metrics.accepted(signal, KAFKA, events)
        for letter in work.letters:
            self._counts.dead_letters.labels(letter.message.topic(), letter.reason).inc()


class StepReader(_Stage):
    """The second stage: from the topic of steps to the engine."""

    name = "reader"

    def __init__(self, settings: KafkaReceiver, counts: KafkaMetrics, owner: Owner) -> None:
        super().__init__(settings, counts)
        self._owner = owner
        self._rewind: Mapping[Partition, Offset] = {}
        self._reader: Any = None
        self._paused = False

    def hint(self, offsets: Mapping[Partition, Offset]) -> None:
        """Tell Kafka how far the ledger is, for those who watch the lag and for a ledger that is lost."""
        reader = self._reader
        if reader is None or not offsets:
            return
        places = [self._kafka.TopicPartition(*partition, offset.needed) for partition, offset in offsets.items()]
        with suppress(self._kafka.KafkaException, RuntimeError):  # it is closed, or a rebalance is under way
            reader.commit(offsets=places, asynchronous=True)

    def _read(self) -> None:
        settings, eof = self._settings, self._kafka.KafkaError._PARTITION_EOF  # noqa: SLF001  # its public name
        consumer = self._consumer(settings.group_id, "earliest")
        try:
            self._reader = consumer
            consumer.subscribe(
                [settings.steps.topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked
            )
            while not self._stopping.is_set():
                self._press(consumer)
                message = consumer.poll(_POLL_S)
                if message is not None:
                    error = message.error()
                    if error is None:
                        self._feed(message)
                    elif error.code() == eof:
                        self.problem = None
                        self._owner.at_end(Partition(message.topic(), message.partition()))
                    else:
                        self._error(error)
                if self._rewind:
                    self._seek(consumer)
                if self._owner.has_moved():
                    consumer.unsubscribe()  # gives everything up; what is ours by right comes again
                    consumer.subscribe(
                        [settings.steps.topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked
                    )
                self._look(consumer)
        finally:
            self._reader = None
            consumer.close()

    def _feed(self, message: Any) -> None:  # noqa: ANN401
        headers = dict(message.headers() or ())
        partition = Partition(message.topic(), message.partition())
        self._counts.records.labels(partition.topic).inc()
        self._owner.feed(
            Record(
                headers.get("signal", b"").decode(),
                headers.get("tenant", DEFAULT_TENANT.encode()).decode(),
                int(headers.get("received_ns") or message.timestamp()[1] * 1_000_000),
                message.value() or b"",
                origin=Origin(partition, message.offset()),
            )
        )
        self.problem = None

    def _press(self, consumer: Any) -> None:  # noqa: ANN401
        """Read nothing while the engine has enough to do, and stay a member."""
        if self._owner.is_full() != self._paused:
            self._paused = not self._paused
            (consumer.pause if self._paused else consumer.resume)(consumer.assignment())

    def _assigned(self, consumer: Any, partitions: list[Any]) -> None:  # noqa: ANN401
        self._counts.rebalances.inc()
        if not partitions:
            return
        offsets = self._owner.take_partitions([Partition(one.topic, one.partition) for one in partitions])
        places = [self._kafka.TopicPartition(*partition, offset.needed) for partition, offset in offsets.items()]
        for place in places:
            self._compare(consumer, place)
        consumer.incremental_assign(places)
        if self._paused:
            consumer.pause(places)
        _log.info("partitions taken", partitions=[f"{place.partition}@{place.offset}" for place in places])

    def _compare(self, consumer: Any, place: Any) -> None:  # noqa: ANN401
        """Is what the ledger has of a partition what there is?

        Raises:
            OtelCostError: the ledger is ahead, so that nothing would be read of what comes.
        """
        try:
            low, high = consumer.get_watermark_offsets(place, timeout=5)
        except self._kafka.KafkaException:
            return  # its leader is away; an offset that is not there is found out when it is read
        where = f"partition {place.partition} of {place.topic}"
        if place.offset > high:
            raise OtelCostError(
                f"{where} ends at {high} and the ledger has read up to {place.offset}: was the topic made anew?"
                " give it another name (`steps: {topic: …}`), or take its rows out of the table `partitions`"
            )
        if 0 < place.offset < low:
            _log.error(
                "records of open runs are gone: the topic keeps them too short", where=where, lost=low - place.offset
            )

    def _revoked(self, consumer: Any, partitions: list[Any]) -> None:  # noqa: ANN401
        self._counts.rebalances.inc()
        if not partitions:
            return
        self._forget_lag(partitions)
        self._rewind = self._owner.give_partitions(
            [Partition(one.topic, one.partition) for one in partitions], last=self._stopping.is_set()
        )
        consumer.incremental_unassign(partitions)
        _log.info("partitions given", partitions=[partition.partition for partition in partitions])

    def _seek(self, consumer: Any) -> None:  # noqa: ANN401
        rewind, self._rewind = self._rewind, {}
        for partition, offset in rewind.items():
            consumer.seek(self._kafka.TopicPartition(*partition, offset.needed))


@dataclass(slots=True)
class _Work:
    """A batch of the first stage, read."""

    # Which record of the batch it came in, signal, when that was written, and the event.
    events: list[tuple[int, Signal, int, SpanEvent | LogEvent]] = field(default_factory=list)
    names: list[tuple[str, list[str]]] = field(default_factory=list)  # of each event: tenant, keys
    letters: list[_Letter] = field(default_factory=list)
    # Of each record: topic, signal, events (None: it is no such request), what was rejected.
    read: list[tuple[str, Signal, int | None, list[Rejected]]] = field(default_factory=list)


@dataclass(slots=True, frozen=True)
class _Letter:
    """A record that holds something which cannot be decoded, on its way to the dead letters as it came."""

    message: Any
    reason: str
    told: str

    def headers(self) -> list[tuple[str, bytes]]:
        message = self.message
        said = {
            "otel-cost.reason": self.reason,
            "otel-cost.message": self.told[:1000],
            "otel-cost.topic": message.topic(),
            "otel-cost.partition": str(message.partition()),
            "otel-cost.offset": str(message.offset()),
        }
        return [*(message.headers() or ()), *((name, value.encode()) for name, value in said.items())]


def _decoded(
    signal: Signal, payload: bytes, tenant: str, received_ns: int
) -> tuple[Sequence[SpanEvent | LogEvent], list[Rejected]]:
    if signal is Signal.TRACES:
        spans = decode_traces(payload, tenant, received_ns)
        return spans.events, spans.rejected
    logs = decode_logs(payload, tenant, received_ns)
    return logs.events, logs.rejected


def _grouped(
    events: Sequence[tuple[int, Signal, int, SpanEvent | LogEvent]], homes: Sequence[str]
) -> Iterator[tuple[bytes, list[tuple[str, bytes]], bytes]]:
    """Records of the topic of steps: key, headers and request.

    What came in one record and has one home stays one request: a batch that is read again is written as before.
    """
    groups: dict[tuple[int, str, str, Signal], list[SpanEvent | LogEvent]] = {}
    sizes: dict[tuple[int, str, str, Signal], int] = {}
    received: dict[int, int] = {}
    for (number, signal, received_ns, event), home in zip(events, homes, strict=True):
        group = (number, event.tenant, home, signal)
        received[number] = received_ns
        if group in groups and sizes[group] + len(event.raw) > RECORD_BYTES:
            yield _record(group[1:], groups.pop(group), received_ns)
            sizes[group] = 0
        groups.setdefault(group, []).append(event)
        sizes[group] = sizes.get(group, 0) + len(event.raw)
    for group, of_it in groups.items():
        yield _record(group[1:], of_it, received[group[0]])


def _record(
    group: tuple[str, str, Signal], events: Sequence[SpanEvent | LogEvent], received_ns: int
) -> tuple[bytes, list[tuple[str, bytes]], bytes]:
    tenant, home, signal = group
    headers = {"signal": signal.value, "tenant": tenant, "received_ns": str(received_ns)}
    payload = encode_records((event.resource.envelope, event.scope.envelope, event.raw) for event in events)
    return f"{tenant}/{home}".encode(), [(name, value.encode()) for name, value in headers.items()], payload
