"""Journal: what was acknowledged, on disk before the acknowledgement, in one order for ever.

An append-only file cut into segments. Appenders wait (those who `post` do not) while one writer thread
writes whatever has gathered and syncs it once (group commit); then the records
go to the consumer in journal order, then the appenders wake. A position is the
byte at which a record begins, counted over all segments that ever were, so it
says where to look and stays true when a neighbour is damaged.

Layout of a record, little-endian: magic, length of the body, check of the head,
check of the body; the body is version, kind, tenant, receive time and payload.
The checks are CRC-32 seeded with the segment's salt and the record's place:
payloads are written by strangers, and none of them can place bytes that pass
for a record after a torn write. Salt, first position and format are in the
segment's name, so that an empty or damaged segment needs no header to be read.

What a crash leaves behind: an empty segment (fine), a torn last record (cut off
at the next start, counted; it was never acknowledged), records that were
synced but not acknowledged (kept: the sender resends and duplicates are found by
their ids), segments that were released but not deleted (deleted later).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import queue
import re
import struct
import threading
import time
import zlib
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Self

from otel_cost.errors import OtelCostError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from otel_cost.edge.partitions import Origin

SEGMENT_BYTES: Final = 64 * 1024 * 1024
BATCH_BYTES: Final = 32 * 1024 * 1024  # one write; more waits for the next
INTERVAL_S: Final = 0.2  # fsync: interval
_ROOM_AGAIN: Final = 1024 * 1024  # free bytes beyond what was refused before a full disk counts as usable

_NAME: Final = re.compile(r"(\d{20})-([0-9a-f]{8})\.v1\.journal")
_MAGIC: Final = b"\xf5OCJ"  # 0xf5 occurs in no UTF-8 text
_HEAD: Final = struct.Struct("<4sIII")  # magic, body length, check of the head, check of the body
_PLACE: Final = struct.Struct("<IQ")  # body length, offset in the segment: what the check of the head covers
_BODY: Final = struct.Struct("<BBHq")  # version, length of kind, length of tenant, receive time
_VERSION: Final = 1
_MAX_PAYLOAD: Final = 2**32 - 2**17  # leaves room for kind and tenant in a 32-bit length
_MOST_POSTS: Final = 10_000  # records in line that nobody waits for
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class Fsync(StrEnum):
    """When bytes are forced to disk. Only `always` survives power loss; all survive the death of the process."""

    ALWAYS = "always"
    INTERVAL = "interval"
    NEVER = "never"


class JournalFullError(OtelCostError):
    """No room now: the disk, or (`capped`) the limit that was set. The same record may be taken later."""

    capped = False


class JournalBrokenError(OtelCostError):
    """The disk failed: nothing is taken until the process starts anew and finds out what is really there."""


@dataclass(slots=True, eq=False)
class Record:
    """One thing that was received. `position` is known once it is in the journal."""

    kind: str  # "traces", "logs", "metrics" (a `Signal`) or another name of at most 255 bytes
    tenant: str
    received_ns: int
    payload: bytes
    position: int = -1
    decoded: object = field(default=None, repr=False)  # in memory only: what the receiver has decoded already
    origin: Origin | None = None  # where it was read, if Kafka is what keeps it


@dataclass(slots=True)
class Health:
    """What went wrong with files, counted since the start."""

    torn_bytes: int = 0
    corrupt_records: int = 0
    corrupt_bytes: int = 0
    lost_posts: int = 0  # records that nobody waited for and that could not be written


@dataclass(slots=True)
class _Segment:
    base: int
    salt: int
    path: Path
    size: int  # bytes that count: durable ones in the last segment

    @property
    def end(self) -> int:
        return self.base + self.size


class _Waiter:
    """One appender in line: the record, and a lock that opens when its fate is known."""

    __slots__ = ("beyond_cap", "done", "error", "front", "posted", "record")

    def __init__(self, record: Record, *, posted: bool = False, beyond_cap: bool = False) -> None:
        self.record = record
        self.posted = posted  # nobody waits
        self.beyond_cap = beyond_cap
        self.front = _front(record)
        self.error: Exception | None = None
        self.done = threading.Lock()
        self.done.acquire()


class Journal:
    """An open journal; the only one on its folder.

    `on_durable` is called in the writer thread with each batch, in order; while it
    blocks nothing is acknowledged, which is how a slow consumer slows its senders.
    `resume_from` is the position a consumer has already seen: new records never
    get a smaller one, even if a power loss took the tail (`fsync: interval | never`).

    Raises:
        UsageError: another process holds the folder, or it cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        on_durable: Callable[[Sequence[Record]], None] | None = None,
        fsync: Fsync = Fsync.ALWAYS,
        interval_s: float = INTERVAL_S,
        segment_bytes: int = SEGMENT_BYTES,
        max_bytes: int | None = None,
        resume_from: int = 0,
    ) -> None:
        self.health = Health()
        self._folder = folder
        self._on_durable = on_durable
        self._fsync = Fsync(fsync)
        self._interval_s = interval_s
        # Only whole segments are released, so a small journal needs small ones.
        self._segment_bytes = segment_bytes if max_bytes is None else min(segment_bytes, max_bytes // 4)
        self._max_bytes = max_bytes
        self._files = threading.Lock()  # guards the list of segments and the quarantine
        self._quarantined: set[int] = set()
        self._broken: Exception | None = None
        self._full: str | None = None
        self._refused_bytes = 0  # what there was no room for when `_full` was set
        self._closed = False
        self._unsynced = False
        self._synced_at = time.monotonic()
        self._gate = threading.Lock()  # nobody joins the line once it is closed
        self._line: queue.SimpleQueue[_Waiter | None] = queue.SimpleQueue()
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock_fd = _lock(folder / "lock")
            try:
                self._segments = self._load()
                self._fd = self._open_last(resume_from)
            except OSError:
                os.close(self._lock_fd)
                raise
        except OSError as error:
            raise UsageError(f"data_dir: the journal in {folder} cannot be opened: {error}") from error
        self._writer = threading.Thread(target=self._write_for_ever, name="journal", daemon=True)
        self._writer.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    @property
    def end(self) -> int:
        """The position that the next record gets; all below it is durable."""
        with self._files:
            return self._segments[-1].end

    @property
    def start(self) -> int:
        """The first position that is still there."""
        with self._files:
            return self._segments[0].base

    @property
    def size_bytes(self) -> int:
        with self._files:
            return sum(segment.size for segment in self._segments)

    @property
    def problem(self) -> str | None:
        """Why nothing can be appended now (for readiness); None: it can."""
        if self._broken is not None:
            return str(self._broken)
        if self._closed:
            return "the journal is closed"
        if self._full is not None and self._fits(self._refused_bytes):
            free = os.statvfs(self._folder)
            if free.f_bavail * free.f_frsize > 2 * self._refused_bytes + _ROOM_AGAIN:
                self._full = None
        return self._full

    def append(self, record: Record, *, timeout_s: float | None = None, beyond_cap: bool = False) -> int:
        """Write `record` and return its position once it is as durable as `fsync` says.

        `beyond_cap`: also where `max_bytes` is reached, for what makes room or keeps what is there already.

        Raises:
            JournalFullError: no room; nothing was kept.
            JournalBrokenError: the disk failed; whether it was kept shows at the next start.
            TimeoutError: not durable after `timeout_s`; it may still become so.
            ValueError: kind, tenant or payload are too long for the format.
        """
        waiter = _Waiter(record, beyond_cap=beyond_cap)
        with self._gate:
            if self._closed:
                raise JournalBrokenError("the journal is closed")
            self._line.put(waiter)
        if not waiter.done.acquire(timeout=-1 if timeout_s is None else timeout_s):
            raise TimeoutError(f"the journal took longer than {timeout_s} s")
        if waiter.error is not None:
            raise waiter.error
        return record.position

    def post(self, record: Record) -> None:
        """Put a record in line and go on: it is written and synced with the next batch, in the order of calls.

        Never blocks and never fails: what finds no room is counted in `health.lost_posts`.
        """
        try:
            waiter = _Waiter(record, posted=True)
        except ValueError:
            self.health.lost_posts += 1
            return
        with self._gate:
            if self._closed or self._line.qsize() >= _MOST_POSTS:
                self.health.lost_posts += 1
            else:
                self._line.put(waiter)

    def read(self, from_position: int = 0) -> Iterator[Record]:
        """Every durable record at or after a position, in order, up to the end as it was at the call.

        A damaged record is put into the quarantine folder, counted, and skipped.
        May run beside appends and releases.
        """
        with self._files:
            segments = [(s.base, s.salt, s.path, s.size) for s in self._segments if s.end > from_position]
        return self._read(segments, from_position)

    def _read(self, segments: list[tuple[int, int, Path, int]], from_position: int) -> Iterator[Record]:
        for base, salt, path, size in segments:
            try:
                file = path.open("rb")
            except FileNotFoundError:  # released meanwhile: everything in it was done with
                continue
            with file:
                for offset, length, body in _scan(file.fileno(), salt, size, max(0, from_position - base)):
                    record = None if body is None else _unpack(body, base + offset)
                    if record is None:
                        self._quarantine(path, base, offset, length)
                    else:
                        yield record

    def release(self, position: int) -> None:
        """Delete the segments that lie wholly below `position`; the last one stays."""
        with self._files:
            gone = [segment for segment in self._segments[:-1] if segment.end <= position]
            for segment in gone:
                segment.path.unlink(missing_ok=True)
                self._segments.remove(segment)
            if gone:
                _sync_folder(self._folder)

    def close(self) -> None:
        """Write and sync what is in line, then let go of the folder. May be called twice."""
        with self._gate:
            if self._closed:
                return
            self._closed = True
            self._line.put(None)
        self._writer.join()
        os.close(self._fd)
        os.close(self._lock_fd)

    # Files

    def _load(self) -> list[_Segment]:
        segments = []
        for path in sorted(self._folder.iterdir()):
            name = _NAME.fullmatch(path.name)
            if name is not None:
                segments.append(_Segment(int(name[1]), int(name[2], 16), path, path.stat().st_size))
        return segments

    def _open_last(self, resume_from: int) -> int:
        """Descriptor of the segment to append to, its torn tail cut off."""
        if not self._segments:
            return self._create(resume_from)
        last = self._segments[-1]
        fd = os.open(last.path, os.O_RDWR | os.O_CLOEXEC)
        good = 0
        for offset, length, body in _scan(fd, last.salt, last.size, 0):
            if body is not None:
                good = offset + length
        if good < last.size:
            self.health.torn_bytes += last.size - good
            os.ftruncate(fd, good)
            last.size = good
        # What the page cache holds may not be on disk if the last process could not sync it: find out now.
        os.fsync(fd)
        if last.end < resume_from:
            os.close(fd)
            return self._create(resume_from)
        os.lseek(fd, good, os.SEEK_SET)
        return fd

    def _create(self, base: int) -> int:
        salt = int.from_bytes(os.urandom(4))
        path = self._folder / f"{base:020d}-{salt:08x}.v1.journal"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            # The name must be durable before anything in the file is acknowledged.
            _sync_folder(self._folder)
        except OSError:
            os.close(fd)
            path.unlink(missing_ok=True)
            raise
        self._segments.append(_Segment(base, salt, path, 0))
        return fd

    def _quarantine(self, path: Path, base: int, offset: int, length: int) -> None:
        with self._files:
            if base + offset in self._quarantined:
                return
            self._quarantined.add(base + offset)
            self.health.corrupt_records += 1
            self.health.corrupt_bytes += length
            folder = self._folder / "quarantine"
            # Keeping the damaged bytes is a courtesy: a full disk must not stop the replay.
            with contextlib.suppress(OSError):
                folder.mkdir(exist_ok=True, mode=0o700)
                with path.open("rb") as file:
                    file.seek(offset)
                    (folder / f"{base + offset:020d}.bytes").write_bytes(file.read(length))

    # The writer thread

    def _write_for_ever(self) -> None:
        open_ended = True
        while open_ended:
            batch, open_ended = self._gather()
            try:
                self._commit(batch)
                self._sync_if_due(closing=not open_ended)
            except Exception as error:  # noqa: BLE001 - a writer that dies in silence would hang every sender
                self._break(error)
            for waiter in batch:
                if self._broken is not None and waiter.error is None:
                    waiter.error = self._broken
                self.health.lost_posts += waiter.posted and waiter.error is not None
                waiter.done.release()

    def _gather(self) -> tuple[list[_Waiter], bool]:
        """Everything in line, or nothing when it is time to sync; False with the last batch."""
        batch: list[_Waiter] = []
        size = 0
        wait = None
        if self._unsynced and self._fsync is Fsync.INTERVAL:
            wait = max(0.0, self._synced_at + self._interval_s - time.monotonic())
        try:
            while size < BATCH_BYTES:
                waiter = self._line.get(timeout=wait) if not batch else self._line.get_nowait()
                if waiter is None:
                    return batch, False
                batch.append(waiter)
                size += len(waiter.record.payload)
        except queue.Empty:
            pass
        return batch, True

    def _commit(self, batch: list[_Waiter]) -> None:
        """Write, sync and hand over one batch; sets `error` on every waiter that is not kept."""
        if self._broken is not None or not batch:
            return
        try:
            written = self._write(batch)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            full = self._refuse(f"no room for the journal: {error}", sum(len(w.record.payload) for w in batch))
            for waiter in batch:
                waiter.error = waiter.error or full
            return
        if written and self._on_durable is not None:
            self._on_durable(written)

    def _write(self, batch: list[_Waiter]) -> list[Record]:
        segment = self._segments[-1]
        if segment.size >= self._segment_bytes:
            segment = self._roll()
        parts: list[bytes] = []
        kept: list[Record] = []
        offset = segment.size
        for waiter in batch:
            packed = _pack(waiter.front, waiter.record.payload, segment.salt, offset)
            size = sum(map(len, packed))
            if not waiter.beyond_cap and not self._fits(offset - segment.size + size):
                waiter.error = self._refuse(f"the journal holds journal.max_bytes = {self._max_bytes}", size)
                waiter.error.capped = True
                continue
            waiter.record.position = segment.base + offset
            kept.append(waiter.record)
            parts += packed
            offset += size
        if not kept:
            return kept
        try:
            _write_all(self._fd, b"".join(parts))
            if self._fsync is Fsync.ALWAYS:
                self._sync()
            else:
                self._unsynced = True
        except OSError:
            # Nothing of this batch is acknowledged: take it back, whole records too, and start from here.
            try:
                os.ftruncate(self._fd, segment.size)
                os.lseek(self._fd, segment.size, os.SEEK_SET)
            except OSError as error:
                raise JournalBrokenError(f"the journal cannot take back a failed write: {error}") from error
            raise
        with self._files:
            segment.size = offset
        if len(kept) == len(batch):
            self._full = None
        return kept

    def _sync(self) -> None:
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            if error.errno in _NO_ROOM and self._fsync is Fsync.ALWAYS:
                raise  # some file systems find room only now; what is lost is the batch, and it is taken back
            # After a failed sync the kernel may call the lost pages clean: a second sync would lie (fsync-gate).
            raise JournalBrokenError(f"the disk under the journal failed: {error}") from error
        self._unsynced = False
        self._synced_at = time.monotonic()

    def _sync_if_due(self, *, closing: bool) -> None:
        if not self._unsynced or self._broken is not None:
            return
        if closing or (self._fsync is Fsync.INTERVAL and time.monotonic() >= self._synced_at + self._interval_s):
            self._sync()

    def _roll(self) -> _Segment:
        """Begin a new segment; the old one is synced first, for later no descriptor is left to do it with."""
        if self._unsynced:
            self._sync()
        with self._files:
            old = self._fd
            self._fd = self._create(self._segments[-1].end)
            os.close(old)
            return self._segments[-1]

    def _fits(self, more: int) -> bool:
        return self._max_bytes is None or self.size_bytes + more <= self._max_bytes

    def _refuse(self, why: str, refused_bytes: int) -> JournalFullError:
        self._full, self._refused_bytes = why, refused_bytes
        return JournalFullError(why)

    def _break(self, error: Exception) -> None:
        broken = error if isinstance(error, JournalBrokenError) else JournalBrokenError(f"the journal stopped: {error}")
        self._broken = broken


def keep_aside(folder: Path, record: Record) -> bool:
    """Put the payload of a record that cannot be worked with into a folder, for whoever looks; False: no room."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(
            folder / f"{record.position:020d}.{record.kind}.pb",
            os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC,
            0o600,
        )
        try:
            _write_all(fd, record.payload)
        finally:
            os.close(fd)
    except OSError:
        return False
    return True


def _front(record: Record) -> bytes:
    kind, tenant = record.kind.encode(), record.tenant.encode()
    if len(kind) > 0xFF or len(tenant) > 0xFFFF or len(record.payload) > _MAX_PAYLOAD:
        raise ValueError(f"a record of {len(record.payload)} bytes, kind {kind[:40]!r}, does not fit the journal")
    return _BODY.pack(_VERSION, len(kind), len(tenant), record.received_ns) + kind + tenant


def _pack(front: bytes, payload: bytes, salt: int, offset: int) -> tuple[bytes, bytes, bytes]:
    length = len(front) + len(payload)
    head_check = zlib.crc32(_PLACE.pack(length, offset), salt)
    body_check = zlib.crc32(payload, zlib.crc32(front, head_check))
    return _HEAD.pack(_MAGIC, length, head_check, body_check), front, payload


def _unpack(body: bytes, position: int) -> Record | None:
    """The record of a body whose check is right; None: written by a version that we do not know."""
    version, kind, tenant, received_ns = _BODY.unpack_from(body)
    if version != _VERSION:
        return None
    at = _BODY.size
    return Record(
        body[at : at + kind].decode(),
        body[at + kind : at + kind + tenant].decode(),
        received_ns,
        body[at + kind + tenant :],
        position,
    )


def _scan(fd: int, salt: int, size: int, start: int) -> Iterator[tuple[int, int, bytes | None]]:
    """(offset, length with head, body) of each record that begins at or after `start`.

    The body is None for a stretch of bytes that is no record; the search goes on
    behind it for the next head that proves itself.
    """
    offset = 0
    while offset < size:
        length = _head(os.pread(fd, _HEAD.size, offset), salt, offset, size)
        if length is None:
            after = _next_head(fd, salt, size, offset + 1)
            if after > start:
                yield offset, after - offset, None
            offset = after
            continue
        if offset >= start:
            data = os.pread(fd, _HEAD.size + length, offset)
            _, _, head_check, body_check = _HEAD.unpack_from(data)
            body = data[_HEAD.size :]
            yield offset, len(data), body if zlib.crc32(body, head_check) == body_check else None
        offset += _HEAD.size + length


def _head(data: bytes, salt: int, offset: int, size: int) -> int | None:
    """The body's length if a head that fits stands here."""
    if len(data) < _HEAD.size:
        return None
    magic, length, head_check, _ = _HEAD.unpack(data)
    if magic != _MAGIC or head_check != zlib.crc32(_PLACE.pack(length, offset), salt):
        return None
    return length if length >= _BODY.size and offset + _HEAD.size + length <= size else None


def _next_head(fd: int, salt: int, size: int, offset: int) -> int:
    """Where the next head stands at or after `offset`; `size` if there is none."""
    step = 1024 * 1024
    while offset < size:
        # Blocks overlap by a head, so that none is cut in two.
        block = os.pread(fd, step + _HEAD.size - 1, offset)
        found = block.find(_MAGIC)
        while found >= 0:
            if _head(block[found : found + _HEAD.size], salt, offset + found, size) is not None:
                return offset + found
            found = block.find(_MAGIC, found + 1)
        offset += step
    return size


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _lock(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(fd, 20, 0).decode(errors="replace").strip()
        os.close(fd)
        raise UsageError(
            f"data_dir: {path.parent} is in use by process {holder or '?'}; stop it or give another --data-dir"
        ) from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd
