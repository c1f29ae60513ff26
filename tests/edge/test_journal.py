"""Journal: acknowledged records survive kills, damage and full disks; order and positions never change."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_cost.edge.journal import Fsync, Journal, JournalBrokenError, JournalFullError, Record
from otel_cost.errors import UsageError

ROOT = Path(__file__).resolve().parent.parent.parent


def record(payload: bytes, tenant: str = "acme", kind: str = "traces", received_ns: int = 7) -> Record:
    return Record(kind, tenant, received_ns, payload)


def payloads(journal: Journal, start: int = 0) -> list[bytes]:
    return [found.payload for found in journal.read(start)]


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.journal"))


def test_what_is_appended_is_read_again_after_a_restart(tmp_path: Path) -> None:
    sent = [record(b"one"), record(b"", "ümlaut", "logs", -5), record(b"x" * 100_000, "", "hook", 2**62)]
    with Journal(tmp_path / "j") as journal:
        positions = [journal.append(each) for each in sent]
        assert [r.position for r in journal.read()] == positions
    with Journal(tmp_path / "j") as journal:
        found = list(journal.read())
        assert [(r.kind, r.tenant, r.received_ns, r.payload, r.position) for r in found] == [
            (s.kind, s.tenant, s.received_ns, s.payload, p) for s, p in zip(sent, positions, strict=True)
        ]
        assert journal.append(record(b"more")) > positions[-1]
        assert payloads(journal, positions[2]) == [sent[2].payload, b"more"]
        assert payloads(journal, positions[2] + 1) == [b"more"]
        assert payloads(journal, journal.end) == []
        assert journal.health.torn_bytes == journal.health.corrupt_records == 0


def test_the_consumer_sees_every_record_once_in_order_before_its_appender_wakes(tmp_path: Path) -> None:
    delivered: list[Record] = []
    late: list[bytes] = []
    with Journal(tmp_path, on_durable=delivered.extend, segment_bytes=4000) as journal:

        def send(number: int) -> None:
            for turn in range(40):
                mine = record(b"%d/%d" % (number, turn))
                journal.append(mine)
                if mine not in delivered:
                    late.append(mine.payload)

        threads = [threading.Thread(target=send, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not late
        assert len(files(tmp_path)) > 2
        assert [r.position for r in delivered] == sorted({r.position for r in delivered})
        assert [r.payload for r in delivered] == payloads(journal)
        assert len(delivered) == 320


def test_many_appenders_share_a_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs = []

    def slow_sync(fd: int) -> None:
        syncs.append(fd)
        time.sleep(0.02)

    monkeypatch.setattr(os, "fdatasync", slow_sync)
    with Journal(tmp_path) as journal:
        threads = [threading.Thread(target=journal.append, args=(record(b"x"),)) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(payloads(journal)) == 20
    assert len(syncs) < 10


def test_nothing_is_acknowledged_before_the_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may_sync = threading.Event()
    monkeypatch.setattr(os, "fdatasync", lambda fd: may_sync.wait(10))
    delivered: list[Record] = []
    with Journal(tmp_path, on_durable=delivered.extend) as journal:
        with pytest.raises(TimeoutError):
            journal.append(record(b"slow"), timeout_s=0.05)
        assert not delivered
        assert payloads(journal) == []
        may_sync.set()
        journal.append(record(b"next"))
        assert [r.payload for r in delivered] == [b"slow", b"next"]


def test_segments_are_released_whole_and_positions_go_on(tmp_path: Path) -> None:
    with Journal(tmp_path, segment_bytes=300) as journal:
        positions = [journal.append(record(b"%03d" % n + b"." * 97)) for n in range(12)]
        assert len(files(tmp_path)) == 4
        journal.release(positions[5])
        assert payloads(journal)[0] == b"003" + b"." * 97  # its segment also holds record 5
        journal.release(journal.end)
        assert len(files(tmp_path)) == 1
    with Journal(tmp_path, segment_bytes=300) as journal:
        assert journal.append(record(b"x")) > positions[-1]


def test_a_released_segment_does_not_stop_a_running_read(tmp_path: Path) -> None:
    with Journal(tmp_path, segment_bytes=300) as journal:
        for n in range(9):
            journal.append(record(b"%d" % n + b"." * 99))
        reading = journal.read()
        assert next(reading).payload[:1] == b"0"
        journal.release(journal.end)
        assert [r.payload[:1] for r in reading][-1] == b"8"


def test_positions_never_fall_behind_what_a_consumer_has_seen(tmp_path: Path) -> None:
    with Journal(tmp_path, fsync=Fsync.NEVER) as journal:
        journal.append(record(b"kept"))
        kept = journal.end
        seen = journal.append(record(b"lost by the power cut"))
    os.truncate(files(tmp_path)[0], kept)
    with Journal(tmp_path, resume_from=seen + 1) as journal:
        assert journal.append(record(b"new")) > seen
        assert payloads(journal) == [b"kept", b"new"]
        assert payloads(journal, seen + 1) == [b"new"]


def test_a_second_process_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    with Journal(tmp_path), pytest.raises(UsageError, match=f"data_dir: .* in use by process {os.getpid()}"):
        Journal(tmp_path)
    Journal(tmp_path).close()


def test_a_folder_that_cannot_be_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be opened"):
        Journal(tmp_path / "file" / "journal")


def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal:
        journal.append(record(b"secret"))
        assert (tmp_path / "j").stat().st_mode & 0o077 == 0
        assert all(path.stat().st_mode & 0o077 == 0 for path in files(tmp_path / "j"))


# Damage


def test_a_torn_tail_is_cut_off_and_counted(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.append(record(b"one"))
        second = journal.append(record(b"two"))
        size = journal.size_bytes
    (path,) = files(tmp_path)
    os.truncate(path, size - 1)
    with Journal(tmp_path) as journal:
        assert journal.health.torn_bytes == size - 1 - second
        assert journal.append(record(b"again")) == second
        assert payloads(journal) == [b"one", b"again"]


def test_a_damaged_record_is_set_aside_and_the_rest_is_read(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        positions = [journal.append(record(b"number %d" % n)) for n in range(5)]
    (path,) = files(tmp_path)
    data = bytearray(path.read_bytes())
    data[positions[2] - 1] ^= 1  # the last byte of record 1
    data[positions[3] + 5] ^= 1  # the length of record 3
    path.write_bytes(data)
    with Journal(tmp_path) as journal:
        for _ in range(2):
            assert payloads(journal) == [b"number 0", b"number 2", b"number 4"]
        assert journal.health.corrupt_records == 2
        assert journal.health.corrupt_bytes == positions[2] - positions[1] + positions[4] - positions[3]
        assert journal.append(record(b"number 5")) > positions[4]
        assert len(list((tmp_path / "quarantine").iterdir())) == 2


def test_a_payload_cannot_pass_for_a_record_after_a_torn_write(tmp_path: Path) -> None:
    with Journal(tmp_path / "a") as journal:
        journal.append(record(b"forged", tenant="victim"))
    forged = files(tmp_path / "a")[0].read_bytes()
    with Journal(tmp_path / "b") as journal:
        journal.append(record(forged * 3, tenant="attacker"))
        size = journal.size_bytes
    os.truncate(files(tmp_path / "b")[0], size - 2)
    with Journal(tmp_path / "b") as journal:
        assert list(journal.read()) == []


@given(
    sizes=st.lists(st.integers(0, 400), min_size=1, max_size=12),
    damage=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=4),
    cut=st.none() | st.floats(0, 1),
    which=st.floats(0, 1, exclude_max=True),
)
@settings(max_examples=60, deadline=None)
def test_any_damage_costs_only_the_records_it_touches(tmp_path_factory, sizes, damage, cut, which) -> None:
    folder = tmp_path_factory.mktemp("journal")
    dice = random.Random(sum(sizes))
    sent = [dice.randbytes(size) for size in sizes]
    with Journal(folder, segment_bytes=600, fsync=Fsync.NEVER) as journal:
        starts = [journal.append(record(payload)) for payload in sent]
        ends = [*starts[1:], journal.end]
    paths = files(folder)
    path = paths[int(which * len(paths))]
    base = int(path.name[:20])
    data = bytearray(path.read_bytes())
    hurt: set[int] = set()
    for place, flip in damage:
        at = int(place * len(data))
        data[at] ^= flip
        hurt.add(base + at)
    intact_until = len(data)
    if cut is not None:
        intact_until = int(cut * len(data))
        hurt |= set(range(base + intact_until, base + len(data)))
        del data[intact_until:]
    path.write_bytes(data)
    with Journal(folder, segment_bytes=600, fsync=Fsync.NEVER) as journal:
        found = {r.position: r.payload for r in journal.read()}
        intact = {
            start: payload
            for start, end, payload in zip(starts, ends, sent, strict=True)
            if not hurt & set(range(start, end))
        }
        twice_flipped = {
            start: payload for start, payload in zip(starts, sent, strict=True) if found.get(start) == payload
        }
        assert intact.items() <= found.items()
        assert found == twice_flipped  # nothing invented
        new = journal.append(record(b"after"))
        assert [r.payload for r in journal.read(new)] == [b"after"]


# Failing disks


def test_a_full_disk_refuses_and_recovers_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    delivered: list[Record] = []
    write = os.write
    room = 10**6

    def write_until_full(fd: int, data: bytes) -> int:
        nonlocal room
        if room <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        done = write(fd, bytes(data)[:room])
        room -= done
        return done

    monkeypatch.setattr(os, "write", write_until_full)
    with Journal(tmp_path, on_durable=delivered.extend) as journal:
        journal.append(record(b"before"))
        room = 20  # a part of the record reaches the disk
        for _ in range(3):
            with pytest.raises(JournalFullError, match="No space left"):
                journal.append(record(b"refused"))
        room = 10**6
        assert journal.problem is None
        journal.append(record(b"after"))
        assert payloads(journal) == [b"before", b"after"] == [r.payload for r in delivered]
    with Journal(tmp_path) as journal:
        assert payloads(journal) == [b"before", b"after"]
        assert journal.health.torn_bytes == 0


def test_readiness_says_so_while_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Journal(tmp_path) as journal:
        assert journal.problem is None
        with monkeypatch.context() as broken:
            broken.setattr(os, "write", raise_os_error(errno.ENOSPC))
            broken.setattr(os, "statvfs", lambda _: os.statvfs_result((4096, 4096, 10, 0, 0, 0, 0, 0, 0, 255)))
            with pytest.raises(JournalFullError):
                journal.append(record(b"x"))
            assert "no room" in (journal.problem or "")
        assert journal.problem is None


def raise_os_error(number: int):
    def fail(*_args: object) -> int:
        raise OSError(number, os.strerror(number))

    return fail


def test_room_that_is_missed_only_at_the_sync_is_a_full_disk_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Journal(tmp_path) as journal:
        with monkeypatch.context() as broken:
            broken.setattr(os, "fdatasync", raise_os_error(errno.EDQUOT))
            with pytest.raises(JournalFullError):
                journal.append(record(b"refused"))
        journal.append(record(b"after"))
        assert payloads(journal) == [b"after"]


@pytest.mark.parametrize("call", ["fdatasync", "write"])
def test_an_io_error_stops_the_journal_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    with Journal(tmp_path) as journal:
        journal.append(record(b"good"))
        with monkeypatch.context() as broken:
            broken.setattr(os, call, raise_os_error(errno.EIO))
            with pytest.raises(JournalBrokenError):
                journal.append(record(b"bad"))
        for _ in range(2):  # the disk is fine again, but who knows what is on it
            with pytest.raises(JournalBrokenError):
                journal.append(record(b"later"))
        assert journal.problem
        assert payloads(journal) == [b"good"]
    with Journal(tmp_path) as journal:
        assert payloads(journal)[0] == b"good"
        journal.append(record(b"new"))


def test_a_write_that_cannot_be_taken_back_stops_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Journal(tmp_path) as journal:
        monkeypatch.setattr(os, "write", raise_os_error(errno.ENOSPC))
        monkeypatch.setattr(os, "ftruncate", raise_os_error(errno.ENOSPC))
        with pytest.raises(JournalBrokenError, match="take back"):
            journal.append(record(b"x"))


def test_a_full_journal_refuses_until_segments_are_released(tmp_path: Path) -> None:
    with Journal(tmp_path, max_bytes=4000) as journal:
        while journal.size_bytes < 3800:
            last = journal.append(record(b"x" * 100))
        with pytest.raises(JournalFullError, match=r"journal\.max_bytes = 4000"):
            journal.append(record(b"x" * 200))
        assert "max_bytes" in (journal.problem or "")
        journal.release(last)
        assert journal.problem is None
        journal.append(record(b"room again"))


def test_a_consumer_that_fails_stops_the_journal_and_nothing_is_lost(tmp_path: Path) -> None:
    def fail(_records: object) -> None:
        raise RuntimeError("bug")

    with Journal(tmp_path, on_durable=fail) as journal, pytest.raises(JournalBrokenError, match="bug"):
        journal.append(record(b"durable all the same"))
    with Journal(tmp_path) as journal:
        assert payloads(journal) == [b"durable all the same"]


def test_interval_syncs_without_further_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = threading.Event()
    monkeypatch.setattr(os, "fdatasync", lambda fd: synced.set())
    with Journal(tmp_path, fsync=Fsync.INTERVAL, interval_s=0.02) as journal:
        journal.append(record(b"x"))
        assert synced.wait(5)


def test_interval_syncs_under_steady_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs: list[int] = []
    monkeypatch.setattr(os, "fdatasync", syncs.append)
    with Journal(tmp_path, fsync=Fsync.INTERVAL, interval_s=0.02) as journal:
        until = time.monotonic() + 0.2
        appended = 0
        while time.monotonic() < until:
            journal.append(record(b"x"))
            appended += 1
        assert 2 <= len(syncs) < appended / 2


def test_a_closed_journal_says_so(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.close()
    journal.close()
    with pytest.raises(JournalBrokenError, match="closed"):
        journal.append(record(b"x"))


def test_what_does_not_fit_the_format_is_the_callers_mistake(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        with pytest.raises(ValueError, match="does not fit"):
            journal.append(record(b"x", tenant="t" * 70_000))
        journal.append(record(b"fine"))


# The death of the process

_VICTIM = """
import sys, threading
from pathlib import Path
from otel_cost.edge.journal import Journal, Record
journal = Journal(Path(sys.argv[1]), segment_bytes=20_000)
said = threading.Lock()
def run(me):
    n = 0
    while True:
        payload = b"%d/%d/" % (me, n) + b"x" * (n * 37 % 900)
        position = journal.append(Record("traces", "t", n, payload))
        with said:
            sys.stdout.write(f"{position} {me}/{n}\\n")
            sys.stdout.flush()
        n += 1
for me in range(4):
    threading.Thread(target=run, args=(me,)).start()
"""


@pytest.mark.parametrize("lives_s", [0.05, 0.2, 0.6])
def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path, lives_s: float) -> None:
    victim = subprocess.Popen([sys.executable, "-c", _VICTIM, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT)
    assert victim.stdout is not None
    first = victim.stdout.readline()
    time.sleep(lives_s)
    victim.send_signal(signal.SIGKILL)
    acked = [first, *victim.stdout.read().splitlines(keepends=True)]
    victim.wait()
    with Journal(tmp_path) as journal:
        found = {r.position: b"/".join(r.payload.split(b"/")[:2]) for r in journal.read()}
        whole = [line.split() for line in acked if line.endswith(b"\n")]
        assert len(whole) > 3
        for position, name in whole:
            assert found[int(position)] == name
        assert journal.health.corrupt_records == 0
