"""Hook calls in the journal: kept without a wait, read again in the places where they were taken in."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_cost.core.hooks import read_hook
from otel_cost.edge.journal import Fsync, Journal, Record
from otel_cost.edge.kept_hooks import KIND, KeptHook, Place, hook_record, in_order, read_kept

if TYPE_CHECKING:
    from pathlib import Path

BODY = json.dumps({"session_id": "s", "hook_event_name": "PreToolUse", "tool_name": "Bash"}).encode()


def event(body: bytes = BODY, at: int = 7):
    return read_hook("claude", body, at, "acme")


@given(st.dictionaries(st.text(max_size=9), st.text() | st.integers() | st.none(), max_size=5), st.integers(0, 2**62))
def test_a_call_is_read_as_it_came(more: dict[str, object], position: int) -> None:
    body = json.dumps({**more, **json.loads(BODY)}, indent=1).encode()  # line feeds are its own
    kept = read_kept(hook_record(event(body), Place(position, 3)))
    assert isinstance(kept, KeptHook)
    assert (kept.place, kept.event.raw, kept.event.tenant, kept.event.received_ns) == (
        Place(position, 3), body, "acme", 7,
    )  # fmt: skip


@pytest.mark.parametrize(
    "record",
    [
        Record("traces", "t", 1, BODY),
        Record("hook/2", "t", 1, b'{"dialect": "claude"}\n' + BODY),
        Record(KIND, "t", 1, b""),
        Record(KIND, "t", 1, b"\xff\n" + BODY),
        Record(KIND, "t", 1, b'{"dialect": "unheard-of", "position": 1, "slices": 0}\n' + BODY),
        Record(KIND, "t", 1, b'{"dialect": "claude", "position": null, "slices": 0}\n' + BODY),
        Record(KIND, "t", 1, b'{"dialect": "claude", "position": 1, "slices": 0}\n[]'),
    ],
)
def test_what_is_no_call_is_none(record: Record) -> None:
    assert read_kept(record) is None


def test_calls_come_in_the_order_in_which_they_were_taken_in(tmp_path: Path) -> None:
    places = [Place(50), Place(10, 2), Place(10, 1), Place(11), Place(10, 1), Place(0)]
    with Journal(tmp_path) as journal:
        for number, place in enumerate(places):
            journal.post(hook_record(event(at=number), place))
        journal.append(Record("traces", "t", 1, b"bytes"))
        told = in_order(journal.read())
    assert [(kept.place, kept.event.received_ns) for kept in told] == [
        (Place(0), 5), (Place(10, 1), 2), (Place(10, 1), 4), (Place(10, 2), 1), (Place(11), 3), (Place(50), 0),
    ]  # fmt: skip


def test_posts_keep_their_order_among_appends_and_outlive_a_close(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        for number in range(20):
            journal.post(Record(KIND, "t", number, b"x"))
            journal.append(Record("traces", "t", number, b"y"))
        journal.post(Record(KIND, "t", 20, b"last"))
    with Journal(tmp_path) as journal:
        read = [(record.received_ns, record.payload) for record in journal.read()]
    assert read == [*((number, body) for number in range(20) for body in (b"x", b"y")), (20, b"last")]


def test_a_post_waits_for_nobody_and_what_finds_no_room_is_counted(tmp_path: Path) -> None:
    held = threading.Event()
    with Journal(tmp_path, on_durable=lambda _: held.wait(20), fsync=Fsync.NEVER, max_bytes=100_000) as journal:
        journal.post(Record(KIND, "t", 1, b"blocks the writer"))
        for _ in range(5):
            journal.post(Record(KIND, "t", 1, b"z" * 40_000))
        journal.post(Record("k" * 300, "t", 1, b""))
        held.set()
        journal.append(Record("traces", "t", 1, b""))
        assert journal.health.lost_posts == 4
    journal.post(Record(KIND, "t", 1, b"too late"))
    assert journal.health.lost_posts == 5
