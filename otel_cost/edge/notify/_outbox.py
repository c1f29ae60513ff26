"""Outbox: what is to be told, on disk before anybody is told it, each message once per channel.

A message has a key that is the same whenever the journal is read again (tenant and
alert id), so telling it a second time changes nothing. A channel is whatever tells:
a sink, a contact. What becomes of a message belongs to its channel alone.

    put(messages) → due(channel, now) → sent | later | give_up

SQLite, because the rate is low, the promise is high, and a commit here must not
wait for the ledger's batch.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_VERSION: Final = 1
MAX_WAITING: Final = 100_000  # per channel; beyond it the oldest are given up, and counted
KEEP_NS: Final = 90 * 86_400 * 10**9  # how long a key is remembered: longer than any journal is

_SCHEMA: Final = """
create table if not exists told (key text, channel text, at_ns integer not null, primary key (key, channel))
    without rowid;
create table if not exists waiting (
    key text, channel text, body text not null, at_ns integer not null, due_ns integer not null,
    tries integer not null default 0, primary key (key, channel)) without rowid;
create index if not exists waiting_by_time on waiting (channel, due_ns);
create table if not exists dead (
    key text, channel text, body text not null, at_ns integer not null, why text not null,
    primary key (key, channel)) without rowid;
create table if not exists counts (channel text, what text, count integer not null, primary key (channel, what))
    without rowid;
"""


class Message(NamedTuple):
    """One thing to tell over one channel. `body` is JSON; times are Unix nanoseconds."""

    key: str
    channel: str
    body: dict[str, object]
    at_ns: int  # when it was said
    due_ns: int = 0  # not before; 0: at once
    tries: int = 0


@dataclass(slots=True)
class Counts:
    """What became of the messages of a channel since the data directory was new; put = pending + sent + dead."""

    pending: int = 0
    sent: int = 0
    dead: int = 0
    oldest_ns: int | None = None  # when the oldest pending one was said


class Outbox:
    """Safe to use from many threads. Every change is durable when its method returns."""

    def __init__(self, path: Path, *, max_waiting: int = MAX_WAITING) -> None:
        self._max_waiting = max_waiting
        path.touch(mode=0o600)
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("pragma journal_mode = wal")
        self._db.execute("pragma synchronous = full")
        self._db.executescript(_SCHEMA)
        self._db.execute(f"pragma user_version = {_VERSION}")
        self.put_event = threading.Condition()

    def put(self, messages: Iterable[Message]) -> list[Message]:
        """Take messages over; those whose key this channel had not had before."""
        fresh: list[Message] = []
        with self._lock, self._db:
            self._db.execute("begin immediate")
            for message in messages:
                taken = self._db.execute(
                    "insert or ignore into told values (?, ?, ?)", (message.key, message.channel, message.at_ns)
                ).rowcount
                if not taken:
                    continue
                fresh.append(message)
                self._db.execute(
                    "insert into waiting (key, channel, body, at_ns, due_ns) values (?, ?, ?, ?, ?)",
                    (message.key, message.channel, json.dumps(message.body), message.at_ns, message.due_ns),
                )
            for channel in {message.channel for message in fresh}:
                self._bound(channel)
        if fresh:
            with self.put_event:
                self.put_event.notify_all()
        return fresh

    def due(self, channel: str, now_ns: int, limit: int = 100) -> list[Message]:
        """What may be told now, the oldest first. They stay here until `sent` or `give_up`."""
        with self._lock:
            rows = self._db.execute(
                "select key, channel, body, at_ns, due_ns, tries from waiting where channel = ? and due_ns <= ?"
                " order by due_ns, at_ns, key limit ?",
                (channel, now_ns, limit),
            ).fetchall()
        return [Message(row[0], row[1], json.loads(row[2]), *row[3:]) for row in rows]

    def sent(self, messages: Iterable[Message]) -> None:
        """The other side has them."""
        with self._lock, self._db:
            self._db.execute("begin immediate")
            for message in messages:
                self._take_out(message, "sent")

    def later(self, message: Message, due_ns: int) -> None:
        """Not now; once more at `due_ns`."""
        with self._lock:
            self._db.execute(
                "update waiting set due_ns = ?, tries = tries + 1 where key = ? and channel = ?",
                (due_ns, message.key, message.channel),
            )

    def give_up(self, message: Message, why: str) -> None:
        """Never; kept aside as a dead letter, with the reason."""
        with self._lock, self._db:
            self._db.execute("begin immediate")
            self._bury(message.key, message.channel, why)

    def dead(self, channel: str) -> list[tuple[Message, str]]:
        """What was given up, and why."""
        with self._lock:
            rows = self._db.execute(
                "select key, channel, body, at_ns, why from dead where channel = ? order by at_ns", (channel,)
            ).fetchall()
        return [(Message(row[0], row[1], json.loads(row[2]), row[3]), row[4]) for row in rows]

    def counts(self) -> dict[str, Counts]:
        """The books, by channel."""
        books: dict[str, Counts] = {}
        with self._lock:
            for channel, what, count in self._db.execute("select channel, what, count from counts"):
                setattr(books.setdefault(channel, Counts()), what, count)
            for channel, count, oldest in self._db.execute(
                "select channel, count(*), min(at_ns) from waiting group by channel"
            ):
                book = books.setdefault(channel, Counts())
                book.pending, book.oldest_ns = count, oldest
        return books

    def forget(self, now_ns: int) -> None:
        """Drop the keys of messages that no journal can tell again."""
        with self._lock:
            self._db.execute(
                "delete from told where at_ns < ? and not exists"
                " (select 1 from waiting w where w.key = told.key and w.channel = told.channel)",
                (now_ns - KEEP_NS,),
            )

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def _bound(self, channel: str) -> None:
        (count,) = self._db.execute("select count(*) from waiting where channel = ?", (channel,)).fetchone()
        if count > self._max_waiting:
            rows = self._db.execute(
                "select key from waiting where channel = ? order by at_ns limit ?", (channel, count - self._max_waiting)
            ).fetchall()
            for (key,) in rows:
                self._bury(key, channel, "outbox_full")

    def _bury(self, key: str, channel: str, why: str) -> None:
        self._db.execute(
            "insert or replace into dead select key, channel, body, at_ns, ? from waiting"
            " where key = ? and channel = ?",
            (why, key, channel),
        )
        self._take_out(Message(key, channel, {}, 0), "dead")

    def _take_out(self, message: Message, what: str) -> None:
        gone = self._db.execute(
            "delete from waiting where key = ? and channel = ?", (message.key, message.channel)
        ).rowcount
        if gone:
            self._db.execute(
                "insert into counts values (?, ?, 1) on conflict (channel, what) do update set count = count + 1",
                (message.channel, what),
            )
