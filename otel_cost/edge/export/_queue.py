"""Destination: everything between the engine and one backend — queue, spill, batches, retry, splitting, books.

Each destination has its own threads, queue and retry state, so that a slow or
dead backend holds up nobody but itself: what it cannot take goes from memory to
disk (`_spill.py`) when the queue is full or has waited too long, and from there to
the backend in order. Nothing leaves its books: at any time and for each signal,
enqueued = sent + dropped(policy) + pending.
"""

from __future__ import annotations

import random
import threading
import time
import traceback
from collections import deque
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from otel_cost.core.decode.encode import encode_records
from otel_cost.core.decode.otlp import count_metric_points, decode_logs, decode_traces
from otel_cost.core.model.effects import Outgoing, Signal
from otel_cost.edge.export._contract import ALL_SIGNALS, Refused, TooLarge, Unavailable
from otel_cost.edge.export._spill import Spill, Spilled
from otel_cost.edge.journal import JournalBrokenError, JournalFullError
from otel_cost.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from otel_cost.edge.export._contract import Exporter
    from otel_cost.edge.export._dead_letters import DeadLetters
    from otel_cost.edge.export._settings import RetryOnFailure, SendingQueue

MAX_RETRY_AFTER_S: Final = 300.0  # a backend that says "in a year" is asked again in five minutes
_MOST_CAUSES: Final = 8
SPLIT_AFTER: Final = (
    4  # equal overload answers to one request before smaller ones are tried (some say 429 for "too big")
)
_FRAMING: Final = 12  # bytes of tags and lengths around one record
_LOG_AGAIN_S: Final = 60.0
BREAK_AFTER: Final = 3  # failures in a row after which one request at a time asks whether the backend is back
SPILL_BYTES: Final = 1 << 20  # while spilling, memory gathers so much, or for so long, before it is written
SPILL_EVERY_S: Final = 1.0

# Why a record was not delivered although nothing failed; every other policy is a failure to send.
NOT_TAKEN: Final = "unsupported_signal"
RESUMED: Final = "already_delivered"
ROUTED: Final = "route"
SPILL_FULL: Final = "spill_full"

_log = structlog.get_logger(__name__)


class Told(Protocol):
    """Keys of records that are told once, kept over restarts."""

    def has(self, key: str) -> bool:
        """Was it delivered before this process began?"""

    def add(self, keys: Sequence[str]) -> None:
        """They are delivered now."""


@dataclass(slots=True)
class Books:
    """What became of the items of one signal (spans, log records, metric points)."""

    enqueued: int = 0
    sent: int = 0
    pending: int = 0
    recovered: int = 0  # of the enqueued: from the spill of an earlier run
    resent: int = 0  # tries beyond the first, in items
    dropped: dict[str, int] = field(default_factory=dict)  # by policy: why

    @property
    def failed(self) -> int:
        """Items dropped because sending failed for good."""
        return sum(count for policy, count in self.dropped.items() if policy not in {NOT_TAKEN, RESUMED, ROUTED})

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


class _Load:
    """One request to deliver: made of records, or read back from the spill."""

    __slots__ = ("items", "payload", "records", "signal")

    def __init__(self, signal: Signal, records: list[Outgoing] | None, payload: bytes, items: int) -> None:
        self.signal, self.records, self.payload, self.items = signal, records, payload, items

    @classmethod
    def of(cls, signal: Signal, records: list[Outgoing]) -> _Load:
        return cls(signal, records, _encode(signal, records), _count(signal, records))

    def halves(self) -> tuple[_Load, _Load] | None:
        """Two smaller requests; None: there is but one record in it."""
        records = _decode(self.signal, self.payload) if self.records is None else self.records
        if len(records) < 2:
            return None
        half = len(records) // 2
        return _Load.of(self.signal, records[:half]), _Load.of(self.signal, records[half:])


class _Fate(Enum):
    """What became of one try to deliver a request."""

    DONE = 1  # delivered, or dropped by policy
    SPLIT = 2  # to be sent in two halves
    PARK = 3  # the backend is away: to disk with it
    STOP = 4  # closed meanwhile


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
        spill: Path | None = None,
        told: Told | None = None,
        resume_after: int = -1,
    ) -> None:
        """`resume_after`: a `cursor` kept from an earlier run; what is offered up to it was delivered then.

        `spill`: a folder for what memory does not hold; without one a full queue is `is_full`.
        `told`: which records with a key were delivered, whatever the cursor says: alerts go once.

        Raises:
            UsageError: the spill of an earlier run cannot be opened.
        """
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
        self._logged: dict[str, float] = {}  # reason → when it was last said
        self._threads: list[threading.Thread] = []
        self._told = told
        self._spill_folder = spill
        self._spill: Spill | None = None
        self._spilling = False  # what comes goes to disk, behind what is there
        self._spill_problem: str | None = None
        self._spill_waits = threading.Condition(self._lock)
        self._probing = False
        self._refusal: str | None = None  # since the last success everything was refused for good, and why
        self._failing = ""  # why the last try was to no avail
        self.memory_is_tight = False  # set by the driver: what waits goes to disk
        if spill is not None and spill.is_dir():
            self._open_spill(spill)

    def _open_spill(self, folder: Path) -> Spill:
        spill = Spill(folder, self._queue.spill.max_bytes)
        for signal, items in spill.pending().items():
            self._books[signal].enqueued += items
            self._books[signal].recovered += items
            self._books[signal].pending += items
        self._spilling = not spill.is_empty
        self._spill = spill
        return spill

    def start(self) -> None:
        """Begin to send."""
        for number in range(self._queue.num_consumers):
            thread = threading.Thread(target=self._work, name=f"export-{self.name}-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()
        if self._spill_folder is not None:
            self._spiller = threading.Thread(target=self._spill_for_ever, name=f"spill-{self.name}", daemon=True)
            self._threads.append(self._spiller)
            self._spiller.start()

    # --- the engine's side

    def offer(self, outgoing: Sequence[Outgoing]) -> None:
        """Take records over; never blocks and never refuses.

        What memory does not hold goes to disk. Where there is no spill, or it is full and
        set to refuse, `is_full` says so, on which the receivers refuse new requests (retryably).
        """
        signals = [record.signal for record in outgoing]
        for signal in Signal:
            # Counting is cheap; to hash a member for each record would cost more than all the rest.
            if count := signals.count(signal):
                alike = count == len(signals)
                self._offer(signal, [record for record in outgoing if alike or record.signal is signal])

    def _offer(self, signal: Signal, records: list[Outgoing]) -> None:
        positions = [record.position for record in records]
        position, highest = min(positions), max(positions)
        known: list[Outgoing] = []
        if position <= self._resume_after:
            known = [record for record in records if record.position <= self._resume_after]
            records = [record for record in records if record.position > self._resume_after]
        if signal is Signal.LOGS and self._told is not None:
            again = [record for record in records if record.key and self._told.has(record.key)]
            if again:
                known += again
                records = [record for record in records if not (record.key and self._told.has(record.key))]
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
            size = sum([len(record.raw) + len(record.extra) for record in records])
            lane = self._lanes[signal]
            was_empty = not lane.chunks
            lane.chunks.append(_Chunk(records, size, position, time.monotonic()))
            lane.records += len(records)
            lane.size += size
            self._records += len(records)
            self._size += size
            # A consumer that waits for a batch to grow sleeps through what does not complete it.
            if self._spilling or self.size >= self.capacity:
                if self._size >= SPILL_BYTES:
                    self._spill_waits.notify()
            elif was_empty or lane.records >= self._queue.batch.min_size or lane.size >= self._max_bytes:
                self._work_waits.notify()

    @staticmethod
    def _with_extra(record: Outgoing, extra: bytes) -> Outgoing:
        if not extra:
            return record
        return Outgoing(record.signal, record.position, record.raw, record.extra + extra, record.resource, record.scope)

    def decline(self, outgoing: Sequence[Outgoing]) -> None:
        """Records that a route keeps from this destination; they are in its books, and go nowhere."""
        with self._lock:
            for record in outgoing:
                books, items = self._books[record.signal], _count(record.signal, [record])
                books.enqueued += items
                books.drop(ROUTED, items)
                self._highest = max(self._highest, record.position)

    def pass_over(self, position: int) -> None:
        """Everything up to a journal position has been offered, also where nothing of it was for this destination."""
        with self._lock:
            self._highest = max(self._highest, position)

    # --- what others may know

    @property
    def size(self) -> int:
        """Bytes or records that wait or are on their way, as `sizer` counts."""
        return self._size if self.sizer == "bytes" else self._records

    @property
    def is_full(self) -> bool:
        """Nothing more can be kept, neither in memory nor on disk."""
        return self.size >= self.capacity and (self._spill_folder is None or self._spill_problem is not None)

    @property
    def spilled_bytes(self) -> int:
        """What the spill takes on disk."""
        return 0 if self._spill is None else self._spill.size_bytes

    @property
    def is_broken(self) -> bool:
        """The backend is away; one request at a time asks for it."""
        return self._failures >= BREAK_AFTER

    @property
    def trouble(self) -> str | None:
        """Why nothing gets through at present; None: it does, or there is nothing to send."""
        return self._refusal or (self._failing if self.is_broken else None)

    @property
    def pending(self) -> int:
        """Items that are neither delivered nor dropped."""
        with self._lock:
            return sum(books.pending for books in self._books.values())

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
            waited = time.monotonic() - min(since) if since else 0.0
            oldest_ns = None if self._spill is None else self._spill.oldest_ns
            return waited if oldest_ns is None else max(waited, (time.time_ns() - oldest_ns) / 1e9)

    def books(self) -> dict[Signal, Books]:
        """A consistent copy of the books."""
        with self._lock:
            return {signal: replace(books, dropped=dict(books.dropped)) for signal, books in self._books.items()}

    # --- the end

    def drain(self, deadline_s: float) -> bool:
        """Send what waits without further delay; True when nothing is left, False when time is up.

        A backend that is away is not waited for where there is a spill.
        """
        with self._lock:
            self._draining += 1
            self._work_waits.notify_all()
            try:
                return self._idle.wait_for(self._is_idle, deadline_s) and self._is_done()
            finally:
                self._draining -= 1

    def _is_done(self) -> bool:
        return not self._records and (self._spill is None or self._spill.is_empty)

    def _is_idle(self) -> bool:
        return self._is_done() or (self._spill_folder is not None and self.is_broken)

    def close(self) -> None:
        """Stop sending. What is pending goes to the spill; without one it stays pending, and the journal has it."""
        self._stop.set()
        with self._lock:
            self._work_waits.notify_all()
            self._spill_waits.notify_all()
            self._idle.notify_all()
        self._exporter.close()
        for thread in self._threads:
            thread.join(timeout=2)
        if self._spill_folder is not None and not any(thread.is_alive() for thread in self._threads):
            self._spill_rest()
        if self._spill is not None:
            self._spill.close()
            self._spill = None

    # --- the consumers

    def _work(self) -> None:
        while True:
            with self._leader:
                work = self._take()
            if work is None:
                return
            if isinstance(work, Spilled):
                self._deliver_spilled(work)
            else:
                self._deliver(work)

    def _take(self) -> _Batch | Spilled | None:
        """The next batch, once it is large or old enough; from disk first. None at the end."""
        batch_settings = self._queue.batch
        with self._lock:
            while not self._stop.is_set():
                if self._spilling and self._spill is not None:
                    found, lost = self._spill.take()
                    for one in lost:
                        self._book_drop(one.signal, "spill_damaged", one.items)
                    if found is not None:
                        return found
                    if self._spill.is_empty and not self._flying:
                        self._spilling = False
                        continue
                    self._work_waits.wait(SPILL_EVERY_S)
                    continue
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
        parts = [_Load.of(batch.signal, batch.records)]
        may_park = self._spill_folder is not None
        while parts:
            load = parts.pop()
            fate = self._try(load, may_park=may_park)
            if fate is _Fate.SPLIT:
                parts += reversed(load.halves() or ())
            elif fate is _Fate.STOP:
                return  # closed; the batch stays pending
            elif fate is _Fate.PARK:
                parts.append(load)
                while parts and self._keep(parts[-1]):
                    parts.pop()
                may_park = False  # where the disk does not take them, memory keeps them
        self._landed(batch)

    def _deliver_spilled(self, spilled: Spilled) -> None:
        parts = [_Load(spilled.signal, None, spilled.payload, spilled.items)]
        while parts:
            load = parts.pop()
            fate = self._try(load, may_park=False)
            if fate is _Fate.SPLIT:
                parts += reversed(load.halves() or ())
            elif fate is not _Fate.DONE:
                return  # closed; the spill keeps it
        with self._lock:
            if self._spill is not None:
                self._spill.done(spilled)
            self._work_waits.notify()
            if self._is_idle():
                self._idle.notify_all()

    def _landed(self, batch: _Batch) -> None:
        with self._lock:
            self._flying.discard(batch)
            self._records -= len(batch.records)
            self._size -= batch.size
            if self._is_idle():
                self._idle.notify_all()

    def _try(self, load: _Load, *, may_park: bool) -> _Fate:
        """Send until taken or given up, or until it can be no longer tried here."""
        begun = time.monotonic()
        last, equal = "", 0
        while (turn := self._wait_for_turn(may_park=may_park)) is None:
            sent_at = time.monotonic()
            try:
                rejected = self._send(load)
            except TooLarge as error:
                if load.halves() is None:
                    self._drop(load, "too_large", str(error))
                    return _Fate.DONE
                # Later requests need not learn it again. Half of what was too large is never below half of the limit.
                self._max_bytes = min(self._max_bytes, max(len(load.payload) // 2, 1))
                return _Fate.SPLIT
            except Refused as error:
                self._refusal = error.reason
                self._drop(load, error.reason, str(error))
                return _Fate.DONE
            except Unavailable as error:
                if self._stop.is_set():
                    return _Fate.STOP
                equal = equal + 1 if error.reason == last else 1
                last = error.reason
                limit = self._retry.max_elapsed_time
                if not self._retry.enabled or (limit and time.monotonic() - begun >= limit):
                    why = "retry_time_exceeded" if self._retry.enabled else error.reason
                    self._drop(load, why, str(error))
                    return _Fate.DONE
                self._back_off(sent_at, error, load)
                if error.overload and equal >= SPLIT_AFTER and load.halves() is not None:
                    return _Fate.SPLIT
            except Exception as error:  # a dead thread would stall the destination without a word  # noqa: BLE001
                if self._stop.is_set():
                    return _Fate.STOP
                self._drop(load, "exporter_error", repr(error))
                return _Fate.DONE
            else:
                self._settle(load, rejected)
                return _Fate.DONE
            finally:
                self._probing = False
        return turn

    def _send(self, load: _Load) -> int:
        try:
            return self._exporter.send(load.signal, load.payload)
        except Exception as error:
            # Clients' own exceptions tend to hold themselves by their frames, and with them the request.
            reached: BaseException | None = error
            for _ in range(_MOST_CAUSES):
                if reached is None:
                    break
                traceback.clear_frames(reached.__traceback__)
                reached = reached.__cause__ or reached.__context__
            raise

    def _wait_for_turn(self, *, may_park: bool) -> _Fate | None:
        """None: send now. Waits while the destination asks for a pause, or another request asks whether it is back."""
        while not self._stop.is_set():
            with self._lock:
                left = self._not_before - time.monotonic()
                if may_park and self._spilling and self._failures:
                    return _Fate.PARK
                if left <= 0:
                    if not self.is_broken:
                        return None
                    if not self._probing:
                        self._probing = True
                        return None
                    left = 0.05
            self._stop.wait(min(left, 0.5))
        return _Fate.STOP

    # --- to disk

    def _spill_for_ever(self) -> None:
        while not self._stop.is_set():
            with self._lock:
                self._spill_waits.wait(SPILL_EVERY_S)
                if not self._spilling and not self._should_spill():
                    continue
                if not self._spilling:
                    self._spilling = True
                    _log.warning("destination lags; records wait on disk", exporter=self.name, bytes=self._size)
                    self._work_waits.notify_all()
            self._spill_waiting()

    def _should_spill(self) -> bool:
        if self.size >= self.capacity or (self.memory_is_tight and self._size >= SPILL_BYTES):
            return True
        since = [lane.chunks[0].since for lane in self._lanes.values() if lane.chunks]
        since += [batch.since for batch in self._flying]
        return bool(since) and time.monotonic() - min(since) >= self._queue.spill.after

    def _spill_waiting(self) -> None:
        """Everything that waits in memory, batch by batch; ends early where the disk does not take it."""
        while True:
            with self._lock:
                waiting = [(signal, lane) for signal, lane in self._lanes.items() if lane.chunks]
                if not waiting:
                    return
                batch = self._cut(*waiting[0])
                self._flying.add(batch)
            if not self._keep(_Load.of(batch.signal, batch.records)):
                # Back where it came from: closing, or no room and none to be made.
                with self._lock:
                    self._flying.discard(batch)
                    lane = self._lanes[batch.signal]
                    lane.chunks.appendleft(_Chunk(batch.records, batch.size, batch.position, batch.since))
                    lane.records += len(batch.records)
                    lane.size += batch.size
                return
            self._landed(batch)

    def _keep(self, load: _Load) -> bool:
        """Put a request on disk, or drop what the policy says; False: it is in memory as before."""
        assert self._spill_folder is not None  # noqa: S101  # by the callers
        try:
            with self._lock:
                spill = self._spill or self._open_spill(self._spill_folder)
                self._spilling = True
            made = spill.write(load.signal, load.items, load.payload, time.time_ns())
        except JournalFullError as error:
            return self._make_room(load, error)
        except (JournalBrokenError, UsageError) as error:
            self._spill_problem = str(error)
            self._tell("the spill cannot be written", "spill_broken", str(error))
            return False
        with self._lock:
            self._spill_problem = None
            spill.add(made)
            self._work_waits.notify()
        self._note_told(load)  # the spill brings it there, whatever happens to us
        return True

    def _make_room(self, load: _Load, full: JournalFullError) -> bool:
        policy = self._queue.spill.when_full
        if not full.capped or policy == "refuse":
            self._spill_problem = str(full)
            self._tell("the spill is full", SPILL_FULL, str(full))
            return False
        self._tell(f"the spill is full: {policy}", SPILL_FULL, str(full))
        with self._lock:
            if policy == "drop_newest" or self._spill is None:
                self._book_drop(load.signal, SPILL_FULL, load.items)
                return True
            try:
                gone = self._spill.drop_oldest()
            except (JournalFullError, JournalBrokenError) as error:
                self._spill_problem = str(error)
                return False
            for one in gone:
                self._book_drop(one.signal, SPILL_FULL, one.items)
        return bool(gone) and self._keep(load)

    def _spill_rest(self) -> None:
        """At the end: what was under way and what waits."""
        for batch in sorted(self._flying, key=lambda batch: batch.position):
            if not self._keep(_Load.of(batch.signal, batch.records)):
                return
            self._landed(batch)
        self._spill_waiting()

    def _back_off(self, sent_at: float, error: Unavailable, load: _Load) -> None:
        retry = self._retry
        with self._lock:
            self._retries += 1
            self._failing = error.reason
            self._books[load.signal].resent += load.items
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
            if self._draining and self._is_idle():
                self._idle.notify_all()
        self._tell("destination unavailable, will retry", error.reason, str(error))

    def _settle(self, load: _Load, rejected: int) -> None:
        rejected = min(max(rejected, 0), load.items)
        with self._lock:
            recovered, self._failures, self._refusal = self._failures > 0, 0, None
            books = self._books[load.signal]
            books.pending -= load.items
            books.sent += load.items - rejected
            if rejected:
                books.drop("rejected", rejected)
        self._note_told(load)
        if rejected:
            self._tell("destination rejected records (partial success)", "rejected", f"{rejected} of {load.items}")
        elif recovered:
            self._logged.clear()
            _log.info("destination takes requests again", exporter=self.name)

    def _note_told(self, load: _Load) -> None:
        if self._told is not None and load.signal is Signal.LOGS and load.records is not None:
            keys = [record.key for record in load.records if record.key]
            if keys:
                self._told.add(keys)

    def _drop(self, load: _Load, policy: str, message: str) -> None:
        kept = self._dead_letters is not None and self._dead_letters.put(load.signal, policy, load.payload)
        with self._lock:
            self._book_drop(load.signal, policy, load.items)
        self._tell("request dropped" if not kept else "request set aside as dead letter", policy, message)

    def _book_drop(self, signal: Signal, policy: str, items: int) -> None:
        self._books[signal].pending -= items
        self._books[signal].drop(policy, items)

    def _tell(self, event: str, reason: str, message: str) -> None:
        """Log a failure once a minute per reason: a dead backend fails on every request."""
        now = time.monotonic()
        if now - self._logged.get(reason, -_LOG_AGAIN_S) >= _LOG_AGAIN_S:
            self._logged[reason] = now
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


def _decode(signal: Signal, payload: bytes) -> list[Outgoing]:
    """The records of a request that was read back; of metrics, the whole as one."""
    if signal is Signal.METRICS:
        return [Outgoing(signal, -1, payload)]
    decoded = (decode_traces if signal is Signal.TRACES else decode_logs)(payload, "", 0)
    if decoded.rejected:  # not splittable without loss
        return [Outgoing(signal, -1, payload)]
    return [Outgoing(signal, -1, event.raw, b"", event.resource, event.scope) for event in decoded.events]
