"""Writer: effects go in from the engine's thread and reach the ledger in batches, off the hot path.

Closed runs that still wait here are found as if they were written. When the
ledger cannot be written the batch stays and is tried again; when too much waits,
`add` blocks, which is the push-back that the receivers hand on.
"""

from __future__ import annotations

import struct
import threading
import time
from bisect import bisect_left
from typing import TYPE_CHECKING, Final

import structlog

from otel_cost.edge.ledger import NO_OFFSETS, Batch, LedgerUnavailableError, PartitionMovedError
from otel_cost.edge.ledger.rows import key_digest, key_number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from otel_cost.core.model.effects import Effects
    from otel_cost.core.model.finding import Alert
    from otel_cost.edge.ledger import Ledger
    from otel_cost.edge.partitions import Offset, Partition, Partitions

_RETRY_S: Final = (0.5, 1.0, 2.0, 5.0)
_AT_A_START: Final = 5_000_000  # keys
_PROBES: Final = 5
_BITS: Final = tuple(1 << bit for bit in range(8))
_TWO_WORDS: Final = struct.Struct("<QQ").unpack

_log = structlog.get_logger(__name__)


class LedgerWriter:
    """One thread that owns the writing side of a ledger.

    `before()` is called before each commit, from the writer's thread: for what has to be on disk
    before the ledger's cursor passes it. It raises `LedgerUnavailableError` where that cannot be.
    `committed(cursor, offsets, alerts)` is called after each commit, from the writer's thread; alerts: those that
    nobody had written before.
    `failed(error)` likewise after each refused one (`error` None: it works again).
    `partitions`: where records are read from, if it is Kafka that keeps them; `moved()` is
    called when one of them is another worker's: what was not written is theirs to write.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        rows: int = 10_000,
        seconds: float = 1.0,
        most_rows: int = 200_000,
        committed: Callable[[int, Mapping[Partition, Offset], list[Alert]], None] = lambda _, __, ___: None,
        failed: Callable[[LedgerUnavailableError | None], None] = lambda _: None,
        before: Callable[[], None] = lambda: None,
        partitions: Partitions | None = None,
        moved: Callable[[], None] = lambda: None,
    ) -> None:
        self._ledger, self._rows, self._seconds, self._most = ledger, rows, seconds, most_rows
        self._committed, self._failed, self._before = committed, failed, before
        self._partitions, self._moved = partitions, moved
        self._reach = (0, 0)  # first positions that are needed, and that were not sent
        self._state = threading.Condition()
        self._waiting = Batch()
        self._going: Batch | None = None
        self._cursor: int | None = None
        self._since = 0.0
        self._flushing = self._closing = False
        self._keys = KeyFilter(ledger)
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self._thread.start()

    def add(self, effects: Effects, cursor: int, reach: tuple[int, int] = (0, 0)) -> None:
        """Take effects over; `cursor`: the journal position up to which everything is in what was added so far.

        `reach`: of records from partitions, the first position that is still needed, and the first not sent.
        """
        with self._state:
            while self._waiting.rows >= self._most and not self._closing:
                self._state.wait()
            if self._cursor is None:
                self._since = time.monotonic()
            self._waiting.add(effects)
            self._cursor, self._reach = cursor, reach
            for run in effects.closed:
                self._keys.add(run.summary.tenant, run.keys)
            if self._waiting.rows >= self._rows:
                self._state.notify_all()

    def hear(self, keys: Iterable[tuple[str, str]]) -> None:
        """Other services have closed runs with these keys: a late record finds them in the ledger."""
        with self._state:
            for tenant, key in keys:
                self._keys.add(tenant, (key,))

    def find(self, tenant: str, key: str) -> bytes | None:
        """What wakes a closed run, written or not. A key never seen costs about a microsecond."""
        if not self._keys.may_hold(tenant, key):
            return None
        with self._state:
            found = None
            for batch in (self._waiting, self._going):
                if batch is not None and (found := batch.asleep(tenant, key)) is not None:
                    batch.woken.add((tenant, found[0]))
                    break
        written = self._find_written(tenant, key)
        return written if found is None else found[1]

    def may_find(self, tenant: str, key: str) -> bool:
        """False: `find` finds nothing, and needs no disk to say so."""
        return self._keys.may_hold(tenant, key)

    def _find_written(self, tenant: str, key: str) -> bytes | None:
        """Without the answer nothing can be said of the run: it is waited for, as long as the ledger is away.

        Raises:
            LedgerUnavailableError: closing, and it is still away.
        """
        tries = 0
        while True:
            try:
                found = self._ledger.find_snapshot(tenant, key)
            except LedgerUnavailableError as error:
                self._failed(error)
                if self._pause(tries):
                    raise
                tries += 1
            else:
                if tries:
                    self._failed(None)
                return found

    def _pause(self, tries: int) -> bool:
        """Wait before another try; True: there is to be none."""
        with self._state:
            return self._state.wait_for(lambda: self._closing, _RETRY_S[min(tries, len(_RETRY_S) - 1)])

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Write what waits now; False if it could not be written in time."""
        with self._state:
            self._flushing = True
            self._state.notify_all()
            done = self._state.wait_for(lambda: self._cursor is None and self._going is None, timeout_s)
            self._flushing = False
            return done

    def close(self, timeout_s: float = 10.0) -> bool:
        """Write what waits and stop; False if something could not be written (a restart replays it)."""
        done = self.flush(timeout_s)
        with self._state:
            self._closing = True
            self._state.notify_all()
        self._thread.join(timeout_s)
        return done

    def _run(self) -> None:
        while True:
            with self._state:
                while not self._due():
                    if self._closing:
                        return
                    self._state.wait(self._seconds)
                batch, cursor = self._waiting, self._cursor or 0
                self._going, self._waiting, self._cursor = batch, Batch(), None
                offsets = NO_OFFSETS if self._partitions is None else self._partitions.offsets(*self._reach)
                batch.is_sure = self._keys.is_whole
            try:
                news = self._commit(batch, cursor, offsets)
            except PartitionMovedError as error:
                _log.warning("nothing was written of what others may have written", problem=str(error))
                news = set()
                self._moved()
            else:
                if news is not None:
                    self._committed(cursor, offsets, [batch.alerts[name] for name in batch.alerts if name in news])
            with self._state:
                for name in batch.woken:  # the ledger could not know when it was asked for them
                    self._ledger.woken(*name)
                self._going = None
                self._state.notify_all()
            if news is None:
                return
            batch.let_go(self._ledger.pause)

    def _due(self) -> bool:
        if self._cursor is None:
            return False
        late = time.monotonic() - self._since >= self._seconds
        return late or self._flushing or self._closing or self._waiting.rows >= self._rows

    def _commit(self, batch: Batch, cursor: int, offsets: Mapping[Partition, Offset]) -> set[tuple[str, str]] | None:
        """What `Ledger.commit` says once it is written; None: closing, and it still cannot be written."""
        tries = 0
        while True:
            try:
                self._before()
                news = self._ledger.commit(batch, cursor, offsets)
            except LedgerUnavailableError as error:
                self._failed(error)
                if self._pause(tries):
                    return None
                tries += 1
            else:
                if tries:
                    self._failed(None)
                return news


class KeyFilter:
    """The keys of closed runs: nearly every key of a new trace is new, and asking the disk is slow.

    Of those that were written before the start it keeps a number each, of those that are added Bloom filters: 8 MiB and
    five probes for 2.5 million keys, so that one new key in seven thousand costs a look-up in vain. The latest four
    are kept. Who speaks of an older run again begins another one, which takes its place in the ledger.
    """

    _SIZE: Final = 8 << 23  # bits
    _KEYS: Final = 2_500_000
    _MOST: Final = 4

    def __init__(self, ledger: Ledger) -> None:
        self._written = ledger.key_numbers(_AT_A_START)
        self.is_whole = len(self._written) < _AT_A_START  # knows every key there is
        self._filters = [bytearray(self._SIZE >> 3)]  # the latest last
        self._room = self._KEYS  # in that one

    def add(self, tenant: str, keys: tuple[str, ...]) -> None:
        size, masks = self._SIZE, _BITS
        for key in keys:
            if not self._room:
                self._room = self._KEYS
                self.is_whole = self.is_whole and len(self._filters) < self._MOST
                # Another list: others may be going through this one.
                self._filters = [*self._filters, bytearray(self._SIZE >> 3)][-self._MOST :]
            self._room -= 1
            bits = self._filters[-1]
            at, step = _TWO_WORDS(key_digest(tenant, key))
            for _ in range(_PROBES):
                at = (at + (step | 1)) % size
                bits[at >> 3] |= masks[at & 7]

    def may_hold(self, tenant: str, key: str) -> bool:
        """False: surely not there."""
        digest = key_digest(tenant, key)
        number, written = key_number(digest), self._written
        place = bisect_left(written, number)
        if place < len(written) and written[place] == number:
            return True
        first, step = _TWO_WORDS(digest)
        for bits in self._filters:
            at = first
            for _ in range(_PROBES):
                at = (at + (step | 1)) % self._SIZE
                if not bits[at >> 3] & _BITS[at & 7]:
                    break
            else:
                return True
        return False
