"""Outbox: what is to be told, on disk before anybody is told it, each message once per channel.

A message has a key that is the same whenever the journal is read again (tenant and
alert id), so telling it a second time changes nothing. A channel is whatever tells:
a sink, a contact. What becomes of a message belongs to its channel alone.

    put(messages) → due(channel, now) → sent | later | drop | give_up

Messages of one group that go together are frozen as a batch when they are first
tried, so that a retry says the very same thing and the other side can tell.
Beside them stands what each channel was told last of each fingerprint, and what
people have said: silences and acknowledgements.

SQLite, because the rate is low, the promise is high, and a commit here must not
wait for the ledger's batch.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from otel_cost.core.rules.alerting import Matchers, Silence

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_VERSION: Final = 1
MAX_WAITING: Final = 100_000  # per channel; beyond it the oldest are given up, and counted
MAX_TOGETHER: Final = 100  # messages of one batch
KEEP_NS: Final = 90 * 86_400 * 10**9  # how long a key is remembered: longer than any journal is

_SCHEMA: Final = """
create table if not exists told (key text, channel text, at_ns integer not null, primary key (key, channel))
    without rowid;
create table if not exists waiting (
    key text, channel text, body text not null, at_ns integer not null, due_ns integer not null,
    tries integer not null default 0, grp text not null default '', batch text, primary key (key, channel))
    without rowid;
create index if not exists waiting_by_time on waiting (channel, due_ns);
create table if not exists dead (
    key text, channel text, body text not null, at_ns integer not null, why text not null,
    primary key (key, channel)) without rowid;
create table if not exists spoken (
    channel text, tenant text, fingerprint text, grp text not null, state text not null, body text not null,
    sent_ns integer not null, primary key (channel, tenant, fingerprint)) without rowid;
create table if not exists firing (
    tenant text, fingerprint text, body text not null, at_ns integer not null, primary key (tenant, fingerprint))
    without rowid;
create table if not exists silences (
    id text primary key, matchers text not null, until_ns integer not null, who text not null, reason text not null,
    at_ns integer not null) without rowid;
create table if not exists acks (
    tenant text, fingerprint text, who text not null, at_ns integer not null, primary key (tenant, fingerprint))
    without rowid;
create table if not exists counts (channel text, what text, count integer not null, primary key (channel, what))
    without rowid;
"""


_COLUMNS: Final = "key, channel, body, at_ns, due_ns, tries, grp"


class Message(NamedTuple):
    """One thing to tell over one channel. `body` is JSON; times are Unix nanoseconds."""

    key: str
    channel: str
    body: dict[str, object]
    at_ns: int  # when it was said
    due_ns: int = 0  # not before; 0: at once
    tries: int = 0
    group: str = ""  # messages of one group may go together


class Spoken(NamedTuple):
    """What a channel was told last of one fingerprint; `sent_ns` 0: it was kept quiet."""

    channel: str
    tenant: str
    fingerprint: str
    group: str
    state: str
    body: dict[str, Any]
    sent_ns: int


@dataclass(slots=True)
class Counts:
    """What became of a channel's messages since the data directory was new.

    put = pending + sent + dropped (silenced, inhibited, told already) + dead.
    """

    pending: int = 0
    sent: int = 0
    dropped: int = 0
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
                    "insert into waiting (key, channel, body, at_ns, due_ns, grp) values (?, ?, ?, ?, ?, ?)",
                    (
                        message.key,
                        message.channel,
                        json.dumps(message.body),
                        message.at_ns,
                        message.due_ns,
                        message.group,
                    ),
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
                f"select {_COLUMNS} from waiting where channel = ? and due_ns <= ? order by due_ns, at_ns, key limit ?",  # noqa: S608  # our own names
                (channel, now_ns, limit),
            ).fetchall()
        return [_message(row) for row in rows]

    def due_group(self, channel: str, now_ns: int) -> tuple[str | None, list[Message]]:
        """(batch, messages) that go together: a batch that was tried before, else all that waits of a group (None)."""
        with self._lock:
            first = self._db.execute(
                "select batch, grp from waiting where channel = ? and due_ns <= ?"
                " order by batch is null, due_ns, at_ns, key limit 1",
                (channel, now_ns),
            ).fetchone()
            if first is None:
                return None, []
            batch, group = first
            where = "batch is null and grp = ?" if batch is None else "batch = ?"
            rows = self._db.execute(
                f"select {_COLUMNS} from waiting where channel = ? and {where} order by at_ns, key limit ?",  # noqa: S608
                (channel, group if batch is None else batch, MAX_TOGETHER),
            ).fetchall()
        return batch, [_message(row) for row in rows]

    def freeze(self, messages: Iterable[Message], batch: str) -> None:
        """From now on these go together, whatever comes."""
        with self._lock, self._db:
            self._db.execute("begin immediate")
            self._db.executemany(
                "update waiting set batch = ? where key = ? and channel = ?",
                [(batch, message.key, message.channel) for message in messages],
            )

    def sent(self, messages: Iterable[Message], spoken: Iterable[Spoken] = ()) -> None:
        """The other side has them; `spoken`: what it knows now."""
        self._settle(messages, "sent", spoken)

    def drop(self, messages: Iterable[Message], quiet: Iterable[Spoken] = ()) -> None:
        """Not to be told: somebody said so, or it was told already. `quiet`: what would have been."""
        self._settle(messages, "dropped", quiet)

    def _settle(self, messages: Iterable[Message], what: str, spoken: Iterable[Spoken]) -> None:
        with self._lock, self._db:
            self._db.execute("begin immediate")
            for message in messages:
                self._take_out(message, what)
            self._db.executemany(
                "insert or replace into spoken values (?, ?, ?, ?, ?, ?, ?)",
                [one._replace(body=json.dumps(one.body)) for one in spoken],  # type: ignore[arg-type]
            )

    def spoken(self, channel: str, tenant: str, fingerprint: str) -> Spoken | None:
        """What a channel was told last of a fingerprint."""
        with self._lock:
            row = self._db.execute(
                "select * from spoken where channel = ? and tenant = ? and fingerprint = ?",
                (channel, tenant, fingerprint),
            ).fetchone()
        return None if row is None else _spoken(row)

    def told_group_ns(self, channel: str, group: str) -> int:
        """When a group was told last; 0: never."""
        with self._lock:
            (last,) = self._db.execute(
                "select max(sent_ns) from spoken where channel = ? and grp = ?", (channel, group)
            ).fetchone()
        return last or 0

    def to_repeat(self, channel: str, before_ns: int) -> list[Spoken]:
        """Of one group, what is still firing, was told last before a time and has not been acknowledged."""
        with self._lock:
            rows = self._db.execute(
                "select s.* from spoken s join firing using (tenant, fingerprint) left join acks a"
                " using (tenant, fingerprint) where s.channel = ? and s.state = 'firing' and s.sent_ns <= ?"
                " and a.who is null order by s.grp, s.sent_ns, s.fingerprint",
                (channel, before_ns),
            ).fetchall()
        found = [_spoken(row) for row in rows]
        return [one for one in found if one.group == found[0].group][:MAX_TOGETHER]

    # ---- what holds now, and what people say of it -----------------------------

    def note(self, alerts: Iterable[dict[str, Any]], now_ns: int) -> None:
        """Keep which alerts are firing; an end takes the acknowledgement with it."""
        with self._lock, self._db:
            self._db.execute("begin immediate")
            for alert in alerts:
                key = (alert["tenant"], alert["fingerprint"])
                if alert["state"] == "firing":
                    self._db.execute(
                        "insert or replace into firing values (?, ?, ?, ?)", (*key, json.dumps(alert), now_ns)
                    )
                else:
                    self._db.execute("delete from firing where tenant = ? and fingerprint = ?", key)
                    self._db.execute("delete from acks where tenant = ? and fingerprint = ?", key)

    def firing(self) -> list[dict[str, Any]]:
        """Alerts that have not ended, the latest first."""
        with self._lock:
            rows = self._db.execute("select body from firing order by at_ns desc, fingerprint").fetchall()
        return [json.loads(body) for (body,) in rows]

    def acknowledge(self, tenant: str, fingerprint: str, who: str, now_ns: int) -> bool:
        """Somebody has it in hand: it is not told again. False: no such alert is firing."""
        with self._lock, self._db:
            known = self._db.execute(
                "select 1 from firing where tenant = ? and fingerprint = ?", (tenant, fingerprint)
            ).fetchone()
            if known:
                self._db.execute("insert or replace into acks values (?, ?, ?, ?)", (tenant, fingerprint, who, now_ns))
        return known is not None

    def acknowledged(self) -> dict[tuple[str, str], str]:
        """(tenant, fingerprint) → who has it in hand."""
        with self._lock:
            rows = self._db.execute("select tenant, fingerprint, who from acks").fetchall()
        return {(tenant, fingerprint): who for tenant, fingerprint, who in rows}

    def silence(self, one: Silence) -> None:
        """Keep a silence; one of the same id is replaced."""
        with self._lock:
            self._db.execute(
                "insert or replace into silences values (?, ?, ?, ?, ?, ?)",
                (one.id, json.dumps(dict(one.matchers.written)), one.until_ns, one.who, one.reason, one.at_ns),
            )

    def silences(self, now_ns: int) -> list[Silence]:
        """Those that hold, the earliest to end first."""
        with self._lock:
            rows = self._db.execute(
                "select id, matchers, until_ns, who, reason, at_ns from silences where until_ns > ?"
                " order by until_ns, id",
                (now_ns,),
            ).fetchall()
        return [
            Silence(
                id=row[0],
                matchers=Matchers.of(json.loads(row[1])),
                until_ns=row[2],
                who=row[3],
                reason=row[4],
                at_ns=row[5],
            )
            for row in rows
        ]

    def end_silence(self, silence_id: str, now_ns: int) -> bool:
        """From now on it holds no more; False: none of this id holds."""
        with self._lock:
            ended = self._db.execute(
                "update silences set until_ns = ? where id = ? and until_ns > ?", (now_ns, silence_id, now_ns)
            ).rowcount
        return ended > 0

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

    def mark(self, channel: str, keys: Iterable[str], now_ns: int) -> None:
        """Remember what a channel that keeps its own queue has told: an exporter."""
        with self._lock, self._db:
            self._db.execute("begin immediate")
            self._db.executemany(
                "insert or ignore into told values (?, ?, ?)", [(key, channel, now_ns) for key in keys]
            )

    def marked(self, channel: str) -> set[str]:
        """Every key that a channel has told."""
        with self._lock:
            rows = self._db.execute("select key from told where channel = ?", (channel,)).fetchall()
        return {str(key) for (key,) in rows}

    def forget(self, now_ns: int) -> None:
        """Drop the keys of messages that no journal can tell again."""
        with self._lock:
            self._db.execute(
                "delete from told where at_ns < ? and not exists"
                " (select 1 from waiting w where w.key = told.key and w.channel = told.channel)",
                (now_ns - KEEP_NS,),
            )
            self._db.execute("delete from spoken where sent_ns < ? and state <> 'firing'", (now_ns - KEEP_NS,))
            self._db.execute("delete from firing where at_ns < ?", (now_ns - KEEP_NS,))
            self._db.execute("delete from silences where until_ns < ?", (now_ns - KEEP_NS,))

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


def _message(row: tuple[Any, ...]) -> Message:
    key, channel, body, *rest = row
    return Message(key, channel, json.loads(body), *rest)


def _spoken(row: tuple[Any, ...]) -> Spoken:
    channel, tenant, fingerprint, group, state, body, sent_ns = row
    return Spoken(channel, tenant, fingerprint, group, state, json.loads(body), sent_ns)
