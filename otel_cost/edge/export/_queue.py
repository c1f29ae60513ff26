"""Destination: everything between the engine and one backend — queue, batches, retry, splitting, books.

Each destination has its own threads, queue and retry state, so that a slow or
dead backend holds up nobody but itself. Nothing leaves its books: at any time
and for each signal, enqueued = sent + dropped(policy) + pending.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import structlog

from otel_cost.core.decode.encode import encode_records
from otel_cost.core.decode.otlp import count_metric_points
from otel_cost.core.model.effects import Outgoing, Signal
from otel_cost.edge.export._contract import ALL_SIGNALS, Refused, TooLarge, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from otel_cost.edge.export._contract import Exporter
    from otel_cost.edge.export._dead_letters import DeadLetters
    from otel_cost.edge.export._settings import RetryOnFailure, SendingQueue

MAX_RETRY_AFTER_S: Final = 300.0  # a backend that says "in a year" is asked again in five minutes
SPLIT_AFTER: Final = (
    4  # equal overload answers to one request before smaller ones are tried (some say 429 for "too big")
)
_FRAMING: Final = 12  # bytes of tags and lengths around one record
_LOG_AGAIN_S: Final = 60.0

# Why a record was not delivered although nothing failed; every other policy is a failure to send.
NOT_TAKEN: Final = "unsupported_signal"
RESUMED: Final = "already_delivered"

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Books:
    """What became of the items of one signal (spans, log records, metric points)."""

    enqueued: int = 0
    sent: int = 0
    pending: int = 0
    dropped: dict[str, int] = field(default_factory=dict)  # by policy: why

    @property
    def failed(self) -> int:
        """Items dropped because sending failed for good."""
        return sum(count for policy, count in self.dropped.items() if policy not in {NOT_TAKEN, RESUMED})

    def drop(self, policy: str, count: int) -> None:
        self.dropped[policy] = self.dropped.get(policy, 0) + count


@dataclass(slots=True, eq=False)
class _Chunk:
    """Records offered together, and how far they have been taken."""

    records: Sequence[Outgoing]
    size: int  # bytes
    position: int  # the lowest among the records
    since: float  # monotonic time of the offer
    taken: int = 0


@dataclass(slots=True, eq=False)
class _Batch:
    """Records of one signal on their way, until every one is delivered or dropped."""

    signal: Signal
    records: list[Outgoing]
    size: int
    position: int
    since: float


@dataclass(slots=True, eq=False)
class _Lane:
    """The waiting chunks of one signal."""

    chunks: deque[_Chunk] = field(default_factory=deque)
    records: int = 0
    size: int = 0


class Destination:
    """One backend, told everything that is offered, at least once."""

    def __init__(
        self,
        name: str,
        exporter: Exporter,
        *,
        queue: SendingQueue,
        retry: RetryOnFailure,
        signals: frozenset[Signal] = ALL_SIGNALS,
        extra_attributes: Callable[[Outgoing], bytes] | None = None,
        dead_letters: DeadLetters | None = None,
        resume_after: int = -1,
    ) -> None:
        """`resume_after`: a `cursor` kept from an earlier run; what is offered up to it was delivered then."""
        self.name, self.signals = name, signals
        self.capacity, self.sizer = queue.queue_size, queue.sizer
        self._exporter, self._extra, self._dead_letters = exporter, extra_attributes, dead_letters
        self._queue, self._retry, self._resume_after = queue, retry, resume_after
        self._max_bytes = queue.batch.max_bytes
        self._lock = threading.Lock()
        self._work_waits = threading.Condition(self._lock)
        self._idle = threading.Condition(self._lock)
        self._leader = threading.Lock()  # held by the one consumer that puts a batch together
        self._stop = threading.Event()
        self._lanes = {signal: _Lane() for signal in Signal}
        self._flying: set[_Batch] = set()
        self._books = {signal: Books() for signal in Signal}
        self._records = self._size = 0  # waiting and flying
        self._highest = resume_after
        self._draining = 0
        self._retries = self._failures = 0
        self._failed_at = self._not_before = 0.0
        self._logged: tuple[str, float] = ("", 0.0)
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begin to send."""
        for number in range(self._queue.num_consumers):
            thread = threading.Thread(target=self._work, name=f"export-{self.name}-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    # --- the engine's side

    def offer(self, outgoing: Sequence[Outgoing]) -> None:
        """Take records over; never blocks and never refuses.

        A full queue is said by `is_full`, on which the receivers refuse new requests
        (retryably), so that the queue overshoots by no more than what is already in the engine.
        """
        by_signal: dict[Signal, list[Outgoing]] = {}
        for record in outgoing:
            by_signal.setdefault(record.signal, []).append(record)
        for signal, records in by_signal.items():
            self._offer(signal, records)

    def _offer(self, signal: Signal, records: list[Outgoing]) -> None:
        position = min(record.position for record in records)
        highest = max(record.position for record in records)
        known: list[Outgoing] = []
        if position <= self._resume_after:
            known = [record for record in records if record.position <= self._resume_after]
            records = [record for record in records if record.position > self._resume_after]
        wanted = signal in self.signals
        if wanted and self._extra is not None:
            records = [self._with_extra(record, self._extra(record)) for record in records]
        items, skipped = _count(signal, records), _count(signal, known)
        with self._lock:
            books = self._books[signal]
            books.enqueued += items + skipped
            self._highest = max(self._highest, highest)
            if skipped:
                books.drop(RESUMED, skipped)
            if not records:
                return
            if not wanted:
                books.drop(NOT_TAKEN, items)
                return
            books.pending += items
            size = sum(len(record.raw) + len(record.extra) for record in records)
            lane = self._lanes[signal]
            was_empty = not lane.chunks
            lane.chunks.append(_Chunk(records, size, position, time.monotonic()))
            lane.records += len(records)
            lane.size += size
            self._records += len(records)
            self._size += size
            # A consumer that waits for a batch to grow sleeps through what does not complete it.
            if was_empty or lane.records >= self._queue.batch.min_size or lane.size >= self._max_bytes:
                self._work_waits.notify()

    @staticmethod
    def _with_extra(record: Outgoing, extra: bytes) -> Outgoing:
        if not extra:
            return record
        return Outgoing(record.signal, record.position, record.raw, record.extra + extra, record.resource, record.scope)

    # --- what others may know

    @property
    def size(self) -> int:
        """Bytes or records that wait or are on their way, as `sizer` counts."""
        return self._size if self.sizer == "bytes" else self._records

    @property
    def is_full(self) -> bool:
        return self.size >= self.capacity

    @property
    def pending(self) -> int:
        """Records that are neither delivered nor dropped."""
        return self._records

    @property
    def retries(self) -> int:
        """Requests that were sent again, or will be, because the backend could not take them."""
        return self._retries

    @property
    def cursor(self) -> int:
        """The journal position up to which everything offered so far is delivered or dropped by policy.

        Records are not offered in journal order (a root waits for its children): what
        the engine still holds back is for its driver to subtract before the journal releases.
        """
        with self._lock:
            positions = [chunk.position for lane in self._lanes.values() for chunk in lane.chunks]
            positions += [batch.position for batch in self._flying]
            return min(positions) - 1 if positions else self._highest

    @property
    def oldest_pending_s(self) -> float:
        """Age of the record that has waited longest; 0 where none waits."""
        with self._lock:
            since = [lane.chunks[0].since for lane in self._lanes.values() if lane.chunks]
            since += [batch.since for batch in self._flying]
            return time.monotonic() - min(since) if since else 0.0

    def books(self) -> dict[Signal, Books]:
        """A consistent copy of the books."""
        with self._lock:
            return {
                signal: Books(books.enqueued, books.sent, books.pending, dict(books.dropped))
                for signal, books in self._books.items()
            }

    # --- the end

    def drain(self, deadline_s: float) -> bool:
        """Send what waits without further delay; True when nothing is left, False when time is up."""
        with self._lock:
            self._draining += 1
            self._work_waits.notify_all()
            try:
                return self._idle.wait_for(lambda: not self._records, deadline_s)
            finally:
                self._draining -= 1

    def close(self) -> None:
        """Stop sending. What is pending stays pending: the journal still has it."""
        self._stop.set()
        with self._lock:
            self._work_waits.notify_all()
        self._exporter.close()
        for thread in self._threads:
            thread.join(timeout=2)

    # --- the consumers

    def _work(self) -> None:
        while True:
            with self._leader:
                batch = self._take()
            if batch is None:
                return
            self._deliver(batch)

    def _take(self) -> _Batch | None:
        """The next batch, once it is large or old enough; None at the end."""
        batch_settings = self._queue.batch
        with self._lock:
            while not self._stop.is_set():
                wait: float | None = None
                now = time.monotonic()
                for signal, lane in self._lanes.items():
                    if not lane.chunks:
                        continue
                    left = lane.chunks[0].since + batch_settings.flush_timeout - now
                    if (
                        left <= 0
                        or self._draining
                        or lane.records >= batch_settings.min_size
                        or lane.size >= self._max_bytes
                    ):
                        batch = self._cut(signal, lane)
                        self._flying.add(batch)
                        return batch
                    wait = left if wait is None else min(wait, left)
                self._work_waits.wait(wait)
            return None

    def _cut(self, signal: Signal, lane: _Lane) -> _Batch:
        """Take records from the front of a lane, within the limits of a request and at least one."""
        first = lane.chunks[0]
        records: list[Outgoing] = []
        size = wire = 0  # bytes of records; the same with what goes around them
        room = self._queue.batch.max_size
        resource = None
        position = first.position
        while lane.chunks:
            chunk = lane.chunks[0]
            end = min(len(chunk.records), chunk.taken + room - len(records))
            at = chunk.taken
            while at < end:
                record = chunk.records[at]
                own = len(record.raw) + len(record.extra)
                around = _FRAMING
                if record.resource is not resource and record.resource is not None:
                    around += len(record.resource.envelope) + _FRAMING
                if records and wire + own + around > self._max_bytes:
                    break
                resource = record.resource
                records.append(record)
                size += own
                wire += own + around
                at += 1
            if at > chunk.taken:
                position = min(position, chunk.position)
                chunk.taken = at
            if at < len(chunk.records):
                break
            lane.chunks.popleft()
        lane.records -= len(records)
        lane.size -= size
        return _Batch(signal, records, size, position, first.since)

    def _deliver(self, batch: _Batch) -> None:
        parts = [batch.records]
        while parts:
            records = parts.pop()
            done = self._deliver_part(batch.signal, records)
            if done is None:
                return  # closed; the batch stays pending
            if not done:
                half = len(records) // 2
                parts += (records[half:], records[:half])
        with self._lock:
            self._flying.discard(batch)
            self._records -= len(batch.records)
            self._size -= batch.size
            if not self._records:
                self._idle.notify_all()

    def _deliver_part(self, signal: Signal, records: list[Outgoing]) -> bool | None:
        """Send until taken or given up: True. False: to be sent in two halves. None: closed meanwhile."""
        payload = _encode(signal, records)
        begun = time.monotonic()
        last, equal = "", 0
        while self._wait_for_turn():
            sent_at = time.monotonic()
            try:
                rejected = self._exporter.send(signal, payload)
            except TooLarge as error:
                if len(records) == 1:
                    self._drop(signal, records, payload, "too_large", str(error))
                    return True
                # Later requests need not learn it again. Half of what was too large is never below half of the limit.
                self._max_bytes = min(self._max_bytes, max(len(payload) // 2, 1))
                return False
            except Refused as error:
                self._drop(signal, records, payload, error.reason, str(error))
                return True
            except Unavailable as error:
                if self._stop.is_set():
                    return None
                equal = equal + 1 if error.reason == last else 1
                last = error.reason
                if not self._retry.enabled:
                    self._drop(signal, records, payload, error.reason, str(error))
                    return True
                limit = self._retry.max_elapsed_time
                if limit and time.monotonic() - begun >= limit:
                    self._drop(signal, records, payload, "retry_time_exceeded", str(error))
                    return True
                self._back_off(sent_at, error)
                if error.overload and equal >= SPLIT_AFTER and len(records) > 1:
                    return False
            except Exception as error:  # a dead thread would stall the destination without a word  # noqa: BLE001
                if self._stop.is_set():
                    return None
                self._drop(signal, records, payload, "exporter_error", repr(error))
                return True
            else:
                self._settle(signal, records, rejected)
                return True
        return None

    def _wait_for_turn(self) -> bool:
        """Wait while the destination asks for a pause; False at the end."""
        while not self._stop.is_set():
            left = self._not_before - time.monotonic()
            if left <= 0:
                return True
            self._stop.wait(left)
        return False

    def _back_off(self, sent_at: float, error: Unavailable) -> None:
        retry = self._retry
        with self._lock:
            self._retries += 1
            if sent_at >= self._failed_at:  # else one of several that were under way when the first one failed
                self._failures += 1
            exponent = min(self._failures - 1, 64)
            delay = min(retry.initial_interval * retry.multiplier**exponent, retry.max_interval)
            spread = retry.randomization_factor
            delay *= random.uniform(1 - spread, 1 + spread)  # spreads retries, hides nothing  # noqa: S311
            if error.retry_after_s is not None:
                delay = max(delay, min(error.retry_after_s, MAX_RETRY_AFTER_S))
            now = time.monotonic()
            self._failed_at = now
            self._not_before = max(self._not_before, now + delay)
        self._tell("destination unavailable, will retry", error.reason, str(error))

    def _settle(self, signal: Signal, records: list[Outgoing], rejected: int) -> None:
        items = _count(signal, records)
        rejected = min(max(rejected, 0), items)
        with self._lock:
            recovered, self._failures = self._failures > 0, 0
            books = self._books[signal]
            books.pending -= items
            books.sent += items - rejected
            if rejected:
                books.drop("rejected", rejected)
        if rejected:
            self._tell("destination rejected records (partial success)", "rejected", f"{rejected} of {items}")
        elif recovered:
            self._logged = ("", 0.0)
            _log.info("destination takes requests again", exporter=self.name)

    def _drop(self, signal: Signal, records: list[Outgoing], payload: bytes, policy: str, message: str) -> None:
        kept = self._dead_letters is not None and self._dead_letters.put(signal, policy, payload)
        items = _count(signal, records)
        with self._lock:
            books = self._books[signal]
            books.pending -= items
            books.drop(policy, items)
        self._tell("request dropped" if not kept else "request set aside as dead letter", policy, message)

    def _tell(self, event: str, reason: str, message: str) -> None:
        """Log a failure when its reason changes, then once a minute: a dead backend fails on every request."""
        now = time.monotonic()
        logged, at = self._logged
        if reason != logged or now - at >= _LOG_AGAIN_S:
            self._logged = (reason, now)
            _log.warning(event, exporter=self.name, reason=reason, error=message)


def _count(signal: Signal, records: Sequence[Outgoing]) -> int:
    """Items as the books count them: spans, log records, or metric points."""
    if signal is Signal.METRICS:
        return sum(count_metric_points(record.raw) for record in records)
    return len(records)


def _encode(signal: Signal, records: Sequence[Outgoing]) -> bytes:
    """An export request. Metrics are whole requests, and concatenated requests are one request (a protobuf merge)."""
    if signal is Signal.METRICS:
        return b"".join(record.raw for record in records)
    return encode_records(
        (
            record.resource.envelope if record.resource is not None else b"",
            record.scope.envelope if record.scope is not None else b"",
            record.raw + record.extra,
        )
        for record in records
    )
