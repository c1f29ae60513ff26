"""The shared ledger: a PostgreSQL database that several services write to and read from.

Each service is a node with a cursor of its own: how far its journal is written.
Rows are copied into staging tables and laid over what is there in one transaction
with that cursor, so that a batch that is committed again changes nothing.
"""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg.adapt import Loader
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg_pool import ConnectionPool

from otel_cost.core.assemble.parts import as_one
from otel_cost.edge.ledger import NO_OFFSETS, Heard, LedgerUnavailableError, PartitionMovedError
from otel_cost.edge.ledger.rows import (
    ALERTS,
    CALLS,
    CORRECTIONS,
    FACETS,
    INT,
    KEYS,
    OUTCOME_KEYS,
    OUTCOMES,
    RATES,
    RUN_JOINS,
    RUNS,
    SNAPSHOTS,
    TELLERS,
    TEXT,
    TRACES,
    Numbers,
    alert_rows,
    call_row,
    calls_to_write,
    closed_rows,
    correction_rows,
    fitting,
    former_names,
    join_rows,
    oldest_hour,
    outcome_key_rows,
    outcome_rows,
    teller_rows,
    told_ids,
    uuid_of,
)
from otel_cost.edge.ledger.sql import SPENDS, SqlLedger, chosen, forgetting, spend_of, waste
from otel_cost.edge.partitions import Offset, Partition
from otel_cost.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from psycopg.abc import Buffer

    from otel_cost.core.model.call import Call
    from otel_cost.edge.ledger import Batch, Selection
    from otel_cost.edge.ledger.rows import Shape, Values
    from otel_cost.edge.receive.homes import Name

Connection = psycopg.Connection[tuple[Any, ...]]

# In order, each once, each in one transaction; never edited after a release. Texts compare byte by byte, as everywhere
# else here. `node` is who wrote a row last, `changed` the transaction that did.
MIGRATIONS: Final = (
    """
    CREATE TABLE nodes (id INTEGER GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name TEXT COLLATE "C" NOT NULL UNIQUE);
    CREATE TABLE progress (
        node INTEGER NOT NULL, name TEXT COLLATE "C" NOT NULL, value BIGINT NOT NULL, PRIMARY KEY (node, name)
    );
    CREATE SEQUENCE numbers AS INTEGER INCREMENT 1000;
    CREATE TABLE facets (
        id INTEGER PRIMARY KEY, tenant TEXT COLLATE "C" NOT NULL, kind TEXT COLLATE "C" NOT NULL,
        operation TEXT COLLATE "C", provider TEXT COLLATE "C", model TEXT COLLATE "C",
        requested_model TEXT COLLATE "C", response_model TEXT COLLATE "C", agent TEXT COLLATE "C",
        tool TEXT COLLATE "C", org TEXT COLLATE "C", team TEXT COLLATE "C", "user" TEXT COLLATE "C",
        api_key TEXT COLLATE "C", project TEXT COLLATE "C", workflow TEXT COLLATE "C", attrs TEXT COLLATE "C",
        status TEXT COLLATE "C" NOT NULL, reason TEXT COLLATE "C", basis TEXT COLLATE "C" NOT NULL,
        flags TEXT COLLATE "C" NOT NULL, sources TEXT COLLATE "C" NOT NULL, price_book TEXT COLLATE "C" NOT NULL,
        hole BOOLEAN NOT NULL, incomplete BOOLEAN NOT NULL
    );
    CREATE TABLE rates (
        id INTEGER PRIMARY KEY, unit TEXT COLLATE "C" NOT NULL, part TEXT COLLATE "C" NOT NULL,
        femto TEXT COLLATE "C" NOT NULL, per TEXT COLLATE "C" NOT NULL, source TEXT COLLATE "C" NOT NULL,
        valid_from TEXT COLLATE "C"
    );
    CREATE TABLE call_rows (
        id UUID PRIMARY KEY, changed XID8 NOT NULL, start_ns BIGINT NOT NULL, end_ns BIGINT NOT NULL, nano BIGINT,
        reported_nano BIGINT, input BIGINT, cache_read BIGINT, cache_write BIGINT, output BIGINT, reasoning BIGINT,
        attempts INTEGER NOT NULL, facet INTEGER NOT NULL, node INTEGER NOT NULL, failed BOOLEAN NOT NULL,
        run_id TEXT COLLATE "C" NOT NULL, trace_id BYTEA, span_id BYTEA, session TEXT COLLATE "C",
        items TEXT COLLATE "C" NOT NULL
    );
    CREATE INDEX call_rows_run ON call_rows (run_id);
    CREATE INDEX call_rows_trace ON call_rows (trace_id);
    CREATE INDEX call_rows_start ON call_rows (start_ns);
    CREATE INDEX call_rows_facet ON call_rows (facet);
    CREATE INDEX call_rows_changed ON call_rows (changed);
    CREATE TABLE gone_calls (
        id UUID NOT NULL, tenant TEXT COLLATE "C" NOT NULL, node INTEGER NOT NULL, changed XID8 NOT NULL,
        at TIMESTAMPTZ NOT NULL DEFAULT now()
    );
    CREATE INDEX gone_calls_changed ON gone_calls (changed);
    CREATE VIEW calls AS SELECT c.id, c.run_id, c.trace_id, c.span_id, c.session, c.start_ns, c.end_ns, c.attempts,
        c.failed, c.nano, c.reported_nano, c.input, c.cache_read, c.cache_write, c.output, c.reasoning, f.tenant,
        f.kind, f.operation, f.provider, f.model, f.requested_model, f.response_model, f.agent, f.tool, f.org, f.team,
        f."user", f.api_key, f.project, f.workflow, f.attrs, f.status, f.reason, f.basis, f.flags, f.sources,
        f.price_book, f.hole, f.incomplete
        FROM call_rows c JOIN facets f ON f.id = c.facet;
    CREATE TABLE open_runs (
        node INTEGER NOT NULL, tenant TEXT COLLATE "C" NOT NULL, run_id TEXT COLLATE "C" NOT NULL,
        PRIMARY KEY (node, tenant, run_id)
    );
    CREATE TABLE runs (
        tenant TEXT COLLATE "C" NOT NULL, run_id TEXT COLLATE "C" NOT NULL, node INTEGER NOT NULL,
        start_ns BIGINT NOT NULL, end_ns BIGINT NOT NULL, nano BIGINT, wasted_nano BIGINT, session TEXT COLLATE "C",
        org TEXT COLLATE "C", team TEXT COLLATE "C", "user" TEXT COLLATE "C", api_key TEXT COLLATE "C",
        project TEXT COLLATE "C", workflow TEXT COLLATE "C", line TEXT COLLATE "C" NOT NULL,
        PRIMARY KEY (tenant, run_id)
    );
    CREATE INDEX runs_end ON runs (end_ns);
    CREATE TABLE run_keys (
        tenant TEXT COLLATE "C" NOT NULL, key TEXT COLLATE "C" NOT NULL, run_id TEXT COLLATE "C" NOT NULL,
        node INTEGER NOT NULL, changed XID8 NOT NULL, PRIMARY KEY (tenant, key)
    );
    CREATE INDEX run_keys_changed ON run_keys (changed);
    CREATE INDEX run_keys_run ON run_keys (tenant, run_id);
    CREATE TABLE snapshots (
        tenant TEXT COLLATE "C" NOT NULL, run_id TEXT COLLATE "C" NOT NULL, snapshot BYTEA NOT NULL,
        PRIMARY KEY (tenant, run_id)
    );
    CREATE TABLE traces (
        tenant TEXT COLLATE "C" NOT NULL, trace_id TEXT COLLATE "C" NOT NULL, run_id TEXT COLLATE "C" NOT NULL,
        nano BIGINT, line TEXT COLLATE "C" NOT NULL, PRIMARY KEY (tenant, trace_id)
    );
    CREATE INDEX traces_run ON traces (tenant, run_id);
    CREATE TABLE steps (
        tenant TEXT COLLATE "C" NOT NULL, run_id TEXT COLLATE "C" NOT NULL, trace_id BYTEA, span_id BYTEA,
        parent BYTEA, kind TEXT COLLATE "C" NOT NULL, name TEXT COLLATE "C" NOT NULL, agent TEXT COLLATE "C",
        start_ns BIGINT NOT NULL, end_ns BIGINT NOT NULL, failed BOOLEAN NOT NULL, call_id TEXT COLLATE "C",
        self_nano BIGINT, status TEXT COLLATE "C", likeness TEXT COLLATE "C"
    );
    CREATE INDEX steps_run ON steps (tenant, run_id);
    CREATE TABLE alerts (
        tenant TEXT COLLATE "C" NOT NULL, id TEXT COLLATE "C" NOT NULL, node INTEGER NOT NULL,
        run_id TEXT COLLATE "C" NOT NULL, trace_id BYTEA, at_ns BIGINT NOT NULL, episode TEXT COLLATE "C" NOT NULL,
        resolved BOOLEAN NOT NULL, wasted_nano BIGINT, span_ids TEXT COLLATE "C" NOT NULL,
        onset TEXT COLLATE "C" NOT NULL, line TEXT COLLATE "C" NOT NULL, changed XID8 NOT NULL,
        PRIMARY KEY (tenant, id)
    );
    CREATE INDEX alerts_changed ON alerts (changed);
    CREATE INDEX alerts_run ON alerts (tenant, run_id);
    CREATE INDEX alerts_trace ON alerts (trace_id);
    CREATE INDEX alerts_at ON alerts (at_ns);
    CREATE TABLE corrections (
        id TEXT COLLATE "C" PRIMARY KEY, tenant TEXT COLLATE "C" NOT NULL, run_id TEXT COLLATE "C" NOT NULL,
        trace_id BYTEA, at_ns BIGINT NOT NULL, line TEXT COLLATE "C" NOT NULL
    );
    CREATE INDEX corrections_run ON corrections (tenant, run_id);
    CREATE INDEX corrections_trace ON corrections (trace_id);
    CREATE TABLE outcomes (
        tenant TEXT COLLATE "C" NOT NULL, id TEXT COLLATE "C" NOT NULL, name TEXT COLLATE "C" NOT NULL,
        value TEXT COLLATE "C" NOT NULL, at_ns BIGINT NOT NULL, line TEXT COLLATE "C" NOT NULL,
        PRIMARY KEY (tenant, id)
    );
    CREATE TABLE outcome_keys (
        tenant TEXT COLLATE "C" NOT NULL, key TEXT COLLATE "C" NOT NULL, id TEXT COLLATE "C" NOT NULL,
        PRIMARY KEY (tenant, key, id)
    );
    CREATE INDEX outcome_keys_id ON outcome_keys (tenant, id);
    CREATE TABLE run_joins (
        tenant TEXT COLLATE "C" NOT NULL, key TEXT COLLATE "C" NOT NULL, run_id TEXT COLLATE "C" NOT NULL,
        PRIMARY KEY (tenant, key, run_id)
    );
    CREATE INDEX run_joins_run ON run_joins (tenant, run_id);
    CREATE TABLE partitions (
        topic TEXT COLLATE "C" NOT NULL, number INTEGER NOT NULL, needed BIGINT NOT NULL, sent BIGINT NOT NULL,
        epoch BIGINT NOT NULL, PRIMARY KEY (topic, number)
    );
    """,
    """
    CREATE TABLE homes (
        tenant TEXT COLLATE "C" NOT NULL, name TEXT COLLATE "C" NOT NULL, home TEXT COLLATE "C" NOT NULL,
        at TIMESTAMPTZ NOT NULL, PRIMARY KEY (tenant, name)
    );
    CREATE INDEX homes_at ON homes (at);
    ALTER TABLE alerts ADD COLUMN told BOOLEAN NOT NULL DEFAULT false;
    ALTER TABLE alerts ADD COLUMN claimed TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp();
    CREATE INDEX alerts_untold ON alerts (claimed) WHERE NOT told;
    """,
    """
    CREATE TABLE past_loops (
        tenant TEXT COLLATE "C" NOT NULL, loop TEXT COLLATE "C" NOT NULL, times BIGINT NOT NULL, runs BIGINT NOT NULL,
        nano BIGINT NOT NULL, first_ns BIGINT NOT NULL, last_ns BIGINT NOT NULL, kind TEXT COLLATE "C",
        rule TEXT COLLATE "C", summary TEXT COLLATE "C", PRIMARY KEY (tenant, loop)
    );
    """,
    "COMMENT ON TABLE steps IS 'trees of runs that closed before their snapshots told them'",
    """
    CREATE TABLE tellers (
        tenant TEXT COLLATE "C" NOT NULL, sender TEXT COLLATE "C" NOT NULL, hour BIGINT NOT NULL,
        in_session BOOLEAN NOT NULL, PRIMARY KEY (tenant, sender, hour)
    );
    """,
)

# Of advisory locks in the database. Commits share the first; what takes rows out that others may rely on has it alone.
_LOCK: Final = 0x6F74656C636F7374
_MIGRATING: Final = _LOCK + 1
_CLOSING: Final = _LOCK + 2  # runs close one transaction after the other: parts of one run may close at the same time
_HOMES_KEPT: Final = "7 days"
_PRUNE_S: Final = 3600.0
_ADOPTED_AFTER: Final = "30 seconds"
_BLOCK: Final = 1000  # numbers of facets and rates are drawn so many at a time: INCREMENT of the sequence
_FORGET_AT_ONCE: Final = 2_000  # runs in one transaction: nobody commits meanwhile
_ALL_NODES: Final = 0
_CONNECT_S: Final = 5

# A server that goes away or stands by, a full disk, a lost race between two writers, a right that was taken away:
# whatever it is, nothing was written, somebody has to be told, and it may work later.
_NOT_NOW: Final = psycopg.Error

_STAGED: Final = (
    FACETS, RATES, CALLS, RUNS, KEYS, SNAPSHOTS, TRACES, ALERTS, CORRECTIONS, OUTCOMES, OUTCOME_KEYS, RUN_JOINS,
    TELLERS,
)  # fmt: skip
_BY_NODE: Final = frozenset({"call_rows", "runs", "run_keys", "alerts"})
_HEARD: Final = frozenset({"call_rows", "run_keys", "alerts"})  # what others are told of
# Committed by others since a snapshot was taken: numbers of transactions alone would miss those that were under way.
_SINCE: Final = (
    "changed >= pg_snapshot_xmin(?::pg_snapshot) AND NOT pg_visible_in_snapshot(changed, ?::pg_snapshot) AND node <> ?"
)


class PostgresLedger(SqlLedger):
    """`Ledger` in a PostgreSQL database.

    Args:
        url: `postgresql://…`; what it leaves out the environment of libpq says.
        node: who writes; None: nobody, the database is only read.

    Raises:
        UsageError: it cannot be reached, or was written by a newer version, or (to read) by none yet.
    """

    _attribute = '(f.attrs::JSON ->> ?::VARCHAR) COLLATE "C"'
    _waste = waste(
        "(SELECT array_agg(decode(x, 'hex') ORDER BY n)"
        " FROM unnest(string_to_array(span_ids, ',')) WITH ORDINALITY AS u (x, n))",
        "decode(onset, 'hex')",
        "NUMERIC",
        "div",
    )
    _quotient = "div"
    _hex = "('x' || {})::bit(60)::bigint"

    def __init__(self, url: str, node: str | None = None) -> None:
        super().__init__()
        self._lock = threading.Lock()
        try:
            conninfo, where = _conninfo(url), shown_url(url)
        except psycopg.ProgrammingError:
            # What libpq says of it may quote the password.
            what = "not a URL that libpq reads: in a password and a name, write what is special as %XX"
            raise UsageError(f"ledger: {what}") from None
        try:
            with psycopg.connect(conninfo, autocommit=True) as db:
                _migrate(db, where, read_only=node is None)
                self._node = 0 if node is None else _node_of(db, node)
                self._seen = _snapshot(db)
                if node is not None:
                    self._inherited.update(_open_runs(db, self._node))
        except _NOT_NOW as error:
            raise UsageError(f"ledger: {where} cannot be used: {_first_line(error)}") from error
        # Calls of open runs as they stand in the ledger: a closing run writes only what differs.
        self._written: dict[str, tuple[str, Call]] = {}  # call id → (run id, call)
        self._opened = set(self._inherited)  # runs that are noted as open
        self._facets: dict[Values, int] = {}
        self._rates: dict[Values, int] = {}
        self._moves = False  # runs come from partitions, which move from node to node
        self._prune_at = 0.0
        self._forgotten = 0  # how often anybody has taken facets out
        self._free = _Blocks(self._draw)
        self._reads = ConnectionPool(
            conninfo,
            kwargs={"autocommit": True},
            min_size=0,
            max_size=8,
            timeout=_CONNECT_S,
            configure=_configure_reader if node is not None else _configure_only_reader,
            check=ConnectionPool.check_connection,
            max_idle=300,
            reconnect_timeout=_CONNECT_S,
            name="ledger",
            open=True,
        )
        self._writes = ConnectionPool(
            conninfo,
            min_size=0,
            max_size=1,
            timeout=_CONNECT_S,
            configure=_configure_writer,
            reconnect_timeout=_CONNECT_S,
            name="ledger-writer",
            open=True,
        )

    def close(self) -> None:
        with self._lock:
            self._writes.close()
            self._reads.close()

    # ---- writing ---------------------------------------------------------------

    def commit(
        self, batch: Batch, cursor: int, offsets: Mapping[Partition, Offset] = NO_OFFSETS
    ) -> set[tuple[str, str]]:
        with self._lock, self._writing() as db:
            if batch.closed:
                db.execute("SELECT pg_advisory_xact_lock(%s)", [_CLOSING])
            _move(db, offsets)
            batch = self._with_parts(db, batch)
            facets, rates = Numbers(self._facets, self._free), Numbers(self._rates, self._free)
            written = self._write_calls(db, batch, facets, rates)
            self._write_closed(db, batch)
            news = {(tenant, name) for tenant, name, new in _lay(db, ALERTS, alert_rows(batch), self._node) if new}
            _lay(db, CORRECTIONS, correction_rows(batch))
            _lay(db, OUTCOMES, outcome_rows(batch))
            _lay(db, OUTCOME_KEYS, outcome_key_rows(batch))
            _lay(db, RUN_JOINS, join_rows(batch))
            if batch.tellers:
                _lay(db, TELLERS, teller_rows(batch))
                db.execute("DELETE FROM tellers WHERE hour < %s", [oldest_hour(batch)])
            opened = self._note_open(db, batch, written)
            db.execute(
                "INSERT INTO progress VALUES (%s, 'journal', %s) ON CONFLICT (node, name)"
                " DO UPDATE SET value = greatest(progress.value, excluded.value)",
                [self._node, cursor],
            )
            _move(db, offsets)
            db.commit()
            facets.keep()
            rates.keep()
            self._opened = opened
            self._remember(batch, written)
            return news

    def take_partitions(self, partitions: Sequence[Partition]) -> dict[Partition, Offset]:
        if not partitions:
            return {}
        with self._lock, self._writing() as db:
            known = {}
            for partition in sorted(partitions):  # in one order, so that two takers never wait for each other
                row = db.execute(
                    "INSERT INTO partitions VALUES (%s, %s, 0, 0, 1) ON CONFLICT (topic, number)"
                    " DO UPDATE SET epoch = partitions.epoch + 1 RETURNING needed, sent, epoch",
                    [*partition],
                ).fetchone()
                known[partition] = Offset(*row) if row is not None else Offset(0, 0)
            # Of runs that others had begun to write this node will tell the whole truth.
            inherited = db.execute("SELECT DISTINCT tenant, run_id FROM open_runs").fetchall()
            db.commit()
            self._inherited.update((tenant, run_id) for tenant, run_id in inherited)
            self._written.clear()
            self._moves = True
        return known

    # ---- what all nodes know ---------------------------------------------------

    def find_homes(self, names: Collection[Name]) -> dict[Name, str]:
        tenants, keys = _columns(set(names))
        with self._reading() as db:
            rows = db.execute(
                "SELECT h.tenant, h.name, h.home FROM homes h"
                " JOIN (SELECT unnest(%s::text[]) AS tenant, unnest(%s::text[]) AS name) s USING (tenant, name)",
                [tenants, keys],
            ).fetchall()
        known = {(tenant, name): home for tenant, name, home in rows}
        return {name: home for name in names if (home := known.get((_plain(name[0]), _plain(name[1]))))}

    def claim_homes(self, homes: Mapping[Name, str]) -> dict[Name, str]:
        claims = sorted((_plain(tenant), _plain(name), _plain(home)) for (tenant, name), home in homes.items())
        with self._reading() as db:
            db.execute(
                "INSERT INTO homes SELECT unnest(%s::text[]), unnest(%s::text[]), unnest(%s::text[]), now()"
                " ON CONFLICT DO NOTHING",
                [list(column) for column in zip(*claims, strict=True)],
            )
            if time.monotonic() >= self._prune_at:
                self._prune_at = time.monotonic() + _PRUNE_S
                db.execute(f"DELETE FROM homes WHERE at < now() - interval '{_HOMES_KEPT}'")  # noqa: S608  # our own text
        return {**homes, **self.find_homes(homes.keys())}

    def note_told(self, alerts: Collection[tuple[str, str]]) -> None:
        with self._reading() as db:
            db.execute(
                "UPDATE alerts SET told = true FROM"
                " (SELECT unnest(%s::text[]) AS tenant, unnest(%s::text[]) AS id) s"
                " WHERE alerts.tenant = s.tenant AND alerts.id = s.id",
                _columns(set(alerts)),
            )

    def adopt_alerts(self, *, own: bool = False) -> list[tuple[str, str, str]]:
        with self._reading() as db:
            rows = db.execute(
                "UPDATE alerts SET claimed = clock_timestamp() WHERE NOT told AND (node = %s"  # noqa: S608  # our own text
                f" OR claimed < clock_timestamp() - interval '{_ADOPTED_AFTER}') RETURNING tenant, id, line",
                [self._node if own else _ALL_NODES],
            ).fetchall()
        return [(tenant, name, line) for tenant, name, line in rows]

    # ---- runs of several parts -------------------------------------------------

    def _with_parts(self, db: Connection, batch: Batch) -> Batch:
        """The batch with every closing run made one with the parts of it that other nodes have closed."""
        if not batch.closed or self.charge is None:
            return batch
        names = {(run.summary.tenant, _plain(key)): name for name, run in batch.closed.items() for key in run.keys}
        rows = db.execute(
            "SELECT DISTINCT k.tenant, k.key, k.run_id, p.snapshot FROM run_keys k"
            " JOIN (SELECT unnest(%s::text[]) AS tenant, unnest(%s::text[]) AS key) s USING (tenant, key)"
            " JOIN runs r ON r.tenant = k.tenant AND r.run_id = k.run_id"
            " JOIN snapshots p ON p.tenant = k.tenant AND p.run_id = k.run_id WHERE r.node <> %s",
            [*_columns(set(names)), self._node],
        ).fetchall()
        if not rows:
            return batch
        parts: dict[tuple[str, str], dict[tuple[str, str], bytes]] = {}  # closing run → other parts of it
        for tenant, key, run_id, snapshot in rows:
            parts.setdefault(names[tenant, key], {})[tenant, run_id] = bytes(snapshot)
        closed = dict(batch.closed)
        for name, others in parts.items():
            run = closed.pop(name)
            frozen = run.snapshot()
            whole = as_one([frozen, *others.values()], self.charge) if frozen else run
            closed[whole.summary.tenant, whole.summary.run_id] = whole
            self._inherited.update({name, *others})  # what they said and the whole does not is to go
        return replace(batch, closed=closed)

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """The connection that writes, in a transaction in which nobody takes out what it relies on."""
        try:
            with self._writes.connection() as db:
                row = db.execute("SELECT pg_advisory_xact_lock_shared(%s)", [_LOCK]).fetchone()
                row = db.execute(
                    "SELECT value FROM progress WHERE node = %s AND name = 'forgotten'", [_ALL_NODES]
                ).fetchone()
                forgotten = 0 if row is None else int(row[0])
                if forgotten != self._forgotten:
                    self._facets, self._forgotten = {}, forgotten  # some of them are gone: they are written again
                yield db
        except _NOT_NOW as error:
            raise LedgerUnavailableError(f"ledger cannot be written: {_first_line(error)}") from error

    def _draw(self) -> int:
        with self._reads.connection() as db:
            return _one(db, "SELECT nextval('numbers')")

    def _write_calls(
        self, db: Connection, batch: Batch, facets: Numbers, rates: Numbers
    ) -> list[tuple[str, str, Call]]:
        calls, gone = calls_to_write(batch, self._written)
        rows = [call_row(*word, facets, rates) for word in self._paced(calls.values())]
        _lay(db, FACETS, facets.rows)
        _lay(db, RATES, rates.rows)
        if gone:
            self._take_out(db, self._node, "c.id = ANY(%s::uuid[])", [uuid_of(one) for one in gone])
        _lay(db, CALLS, rows, self._node)
        return list(calls.values())

    @staticmethod
    def _take_out(db: Connection, node: int, which: str, *parameters: object) -> None:
        """Calls (`c`, facet `f`) that are none: budgets of all services but `node` have to take them back."""
        db.execute(
            f"WITH gone AS (DELETE FROM call_rows c USING facets f WHERE f.id = c.facet AND {which}"  # noqa: S608  # our own words
            " RETURNING c.id, f.tenant) INSERT INTO gone_calls (id, tenant, node, changed)"
            " SELECT id, tenant, %s, pg_current_xact_id() FROM gone",
            [*parameters, node],
        )
        db.execute("DELETE FROM gone_calls WHERE at < now() - INTERVAL '1 day'")  # everybody has heard of them

    def _write_closed(self, db: Connection, batch: Batch) -> None:
        if not batch.closed:
            return
        runs = list(batch.closed.values())
        rows = closed_rows(runs, self._paced)
        self._clear_before(db, batch, [row for shape, keys in rows if shape is KEYS for row in keys])
        for shape, some in rows:
            _lay(db, shape, some, self._node)

    def _clear_before(self, db: Connection, batch: Batch, key_rows: Sequence[Values]) -> None:
        """Take out what an earlier close of these runs wrote and this one does not say again.

        A run's list of calls is the whole truth only where this process has seen the run from its beginning or has
        woken it, and only of what this node wrote, or the one that closed the run: a run may have parts elsewhere.
        """
        closing = set(batch.closed)
        tenants, keys, _ = zip(*key_rows, strict=True) if key_rows else ((), (), ())
        before = set(
            db.execute(
                "SELECT DISTINCT k.tenant, k.run_id FROM run_keys k"
                " JOIN (SELECT unnest(%s::text[]) AS tenant, unnest(%s::text[]) AS key) s USING (tenant, key)",
                [list(map(_plain, tenants)), list(map(_plain, keys))],
            ).fetchall()
        )
        former = former_names(batch)
        _delete(db, "run_joins", former & self._opened)
        stale = (before | closing | former) & self._inherited
        again = (before & closing) | stale
        kept = list(told_ids(batch)) if self._moves or stale else []
        if self._moves:
            self._clear_traces(db, batch, kept)
        if not again:
            return
        _delete(db, "steps", again)
        if not stale:
            return
        self._take_out(
            db,
            _ALL_NODES,  # what is left over from before may have been heard of here, as others' calls
            "EXISTS (SELECT 1 FROM (SELECT unnest(%s::text[]) AS tenant, unnest(%s::text[]) AS run_id) s"
            " LEFT JOIN runs r USING (tenant, run_id) WHERE f.tenant = s.tenant AND c.run_id = s.run_id"
            " AND c.node IN (%s, coalesce(r.node, %s))) AND NOT c.id = ANY(%s::uuid[])",
            *_columns(stale),
            self._node,
            self._node,
            kept,
        )
        for table in ("runs", "traces", "snapshots", "run_keys", "run_joins"):
            _delete(db, table, stale - closing)

    def _clear_traces(self, db: Connection, batch: Batch, kept: list[str]) -> None:
        """Take out calls of closing runs' traces that the runs do not have: whoever wrote them knew but a part."""
        pairs = [(run.summary.tenant, trace_id) for run in batch.closed.values() for trace_id in run.summary.trace_ids]
        self._take_out(
            db,
            _ALL_NODES,
            "(f.tenant, c.trace_id) IN (SELECT unnest(%s::text[]), unnest(%s::bytea[]))"
            " AND NOT EXISTS (SELECT 1 FROM unnest(%s::uuid[]) AS k (id) WHERE k.id = c.id)",
            [_plain(tenant) for tenant, _ in pairs],
            [trace_id for _, trace_id in pairs],
            kept,
        )

    def _note_open(
        self, db: Connection, batch: Batch, written: Sequence[tuple[str, str, Call]]
    ) -> set[tuple[str, str]]:
        """Which runs this node has begun to write and not closed: a restart must know them."""
        closed = batch.closed.keys() | former_names(batch)
        begun = {(tenant, run_id) for tenant, run_id, _ in written}
        begun |= {(tenant, run_id) for tenant, _, run_id in batch.joins}
        begun -= closed | self._opened
        ended = closed & self._opened
        if begun:
            db.execute(
                "INSERT INTO open_runs SELECT %s, unnest(%s::text[]), unnest(%s::text[]) ON CONFLICT DO NOTHING",
                [self._node, *_columns(begun)],
            )
        _delete(db, "open_runs", ended, "AND t.node = %s", self._node)
        return (self._opened | begun) - ended

    def _remember(self, batch: Batch, written: Sequence[tuple[str, str, Call]]) -> None:
        for _, run_id, call in written:
            self._written[call.id] = (run_id, call)
            items = call.charge.items
            if not isinstance(items, tuple):
                items.forget()
        for (_, call_id), word in batch.calls.items():
            if word is None:
                self._written.pop(call_id, None)
        for key, run in batch.closed.items():
            self._inherited.discard(key)
            for call in run.calls:
                self._written.pop(call.id, None)

    # ---- taking out ------------------------------------------------------------

    def forget(self, selection: Selection) -> int:
        query, values = chosen(selection)
        gone = 0
        while some := self._forget(f"{query} LIMIT {_FORGET_AT_ONCE}", values, selection):
            gone += some
        return gone

    def forget_oldest(self, share: float) -> int:
        count = max(1, int(self._rows("SELECT count(*) FROM runs")[0][0] * share))
        return self._forget("SELECT tenant, run_id FROM runs ORDER BY end_ns LIMIT ?", [count], None)

    def _forget(self, query: str, values: Sequence[object], selection: Selection | None) -> int:
        with self._lock:
            try:
                with self._reads.connection() as db, db.transaction():
                    db.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
                    db.execute('CREATE TEMP TABLE doomed (tenant TEXT COLLATE "C", run_id TEXT COLLATE "C")')
                    db.execute(_ours(f"INSERT INTO doomed {query}"), list(values))
                    runs = {run_id for (run_id,) in db.execute("SELECT run_id FROM doomed").fetchall()}
                    for statement, parameters in forgetting(selection):
                        db.execute(_ours(statement), list(parameters))
                    if runs:
                        db.execute(
                            "INSERT INTO progress VALUES (%s, 'forgotten', 1) ON CONFLICT (node, name)"
                            " DO UPDATE SET value = progress.value + 1",
                            [_ALL_NODES],
                        )
                    db.execute("DROP TABLE doomed")
            except _NOT_NOW as error:
                raise LedgerUnavailableError(f"ledger cannot be written: {_first_line(error)}") from error
            self._written = {call_id: word for call_id, word in self._written.items() if word[0] not in runs}
        return len(runs)

    def used_bytes(self) -> int:
        """What the tables and their indexes take on the server, with the room that was freed in them."""
        rows = self._rows(
            "SELECT sum(pg_total_relation_size(name::regclass)) FROM (SELECT unnest(?::text[]) AS name) t",
            [[shape.table for shape in _STAGED]],
        )
        return int(rows[0][0])

    def back_up(self, folder: Path, beside: Callable[[], None]) -> None:  # noqa: ARG002  # as `Ledger` has it
        """Not ours to do.

        Raises:
            UsageError: always; it says what does.
        """
        raise UsageError("the ledger is in PostgreSQL: back it up with pg_dump, or as your server is backed up")

    # ---- hearing of others -----------------------------------------------------

    @property
    def is_shared(self) -> bool:
        return True

    def heard(self) -> Heard:
        with self._reading() as db, db.transaction():
            db.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            now = _snapshot(db)
            since = [self._seen, self._seen, self._node]

            def asked(sql: str) -> list[tuple[Any, ...]]:
                return db.execute(_ours(sql), since).fetchall()

            # A call that is gone may have been written again by somebody since.
            gone = asked(
                "SELECT DISTINCT tenant, left(replace(id::VARCHAR, '-', ''), 24) FROM gone_calls g"  # noqa: S608  # our own words
                f" WHERE {_SINCE} AND NOT EXISTS (SELECT 1 FROM call_rows c WHERE c.id = g.id)"
            )
            spends = map(
                spend_of, asked(f"{SPENDS} WHERE {_SINCE.replace('node', 'c.node')} ORDER BY c.start_ns, c.id")
            )
            heard = Heard(
                [
                    *((tenant, call_id, None) for tenant, call_id in gone),
                    *((one.tenant, call_id, one if one.nano > 0 else None) for call_id, one in spends),
                ],
                [(tenant, key) for tenant, key in asked(f"SELECT tenant, key FROM run_keys WHERE {_SINCE}")],  # noqa: S608
                [json.loads(line) for (line,) in asked(f"SELECT line FROM alerts WHERE {_SINCE} ORDER BY at_ns, id")],  # noqa: S608
            )
        self._seen = now
        return heard

    # ---- reading ---------------------------------------------------------------

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        try:
            with self._reads.connection() as db:
                yield db
        except _NOT_NOW as error:
            raise LedgerUnavailableError(f"ledger cannot be read: {_first_line(error)}") from error

    def cursor(self) -> int:
        rows = self._rows("SELECT value FROM progress WHERE node = ? AND name = 'journal'", [self._node])
        return int(rows[0][0]) if rows else 0

    def _rows(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        with self._reading() as db:
            return db.execute(_ours(sql), list(map(_plain, parameters))).fetchall()

    def _stream(self, sql: str, parameters: Sequence[object]) -> Iterator[list[tuple[Any, ...]]]:
        with self._reading() as db, db.transaction(), db.cursor(name="stream") as cursor:
            cursor.execute(_ours(sql), list(parameters))
            while rows := cursor.fetchmany(10_000):
                yield rows

    def _with_pairs(self, sql: str, pairs: Sequence[tuple[str, str]]) -> list[tuple[Any, ...]]:
        staged = "WITH staged AS (SELECT unnest(?::text[]) AS tenant, unnest(?::text[]) AS run_id),"
        return self._rows(f"{staged} {sql.strip().removeprefix('WITH')}", _columns(pairs))


class _Blocks:
    """Numbers that nobody else has, drawn a block at a time."""

    def __init__(self, draw: Callable[[], int]) -> None:
        self._draw, self._next, self._end = draw, 0, 0

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        if self._next >= self._end:
            self._next = self._draw()
            self._end = self._next + _BLOCK
        self._next += 1
        return self._next - 1


class _WholeNumbers(Loader):
    """Sums are whole: nothing here is a NUMERIC with a fraction."""

    def load(self, data: Buffer) -> int:
        return int(bytes(data))


# ---- opening -------------------------------------------------------------------


def shown_url(url: str) -> str:
    """Where a database is, without secrets."""
    said = conninfo_to_dict(url)
    host, name = said.get("host") or said.get("hostaddr") or "localhost", said.get("dbname") or ""
    return f"postgresql://{host}{f':{port}' if (port := said.get('port')) else ''}/{name}"


def _conninfo(url: str) -> str:
    """With what finds out in seconds that a server is gone; what the URL says wins."""
    ours: dict[str, Any] = {
        "application_name": "otel-cost",
        "connect_timeout": _CONNECT_S,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 20_000,
    }
    return make_conninfo("", **{**ours, **conninfo_to_dict(url)})


def _migrate(db: Connection, where: str, *, read_only: bool) -> None:
    with db.transaction():
        if not read_only:
            db.execute("SELECT pg_advisory_xact_lock(%s)", [_MIGRATING])
        known = db.execute("SELECT to_regclass('schema_version')").fetchone() != (None,)
        version = _one(db, "SELECT coalesce(max(version), 0) FROM schema_version") if known else 0
        if version > len(MIGRATIONS):
            raise UsageError(
                f"ledger: {where} was written by a newer otel-cost"
                f" (schema {version}, this one knows {len(MIGRATIONS)}): upgrade, or use another database"
            )
        if read_only:
            if version < len(MIGRATIONS):
                raise UsageError(f"ledger: nothing has been recorded in {where}: run `otel-cost serve` once")
            return
        db.execute("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)")
        for number, migration in enumerate(MIGRATIONS[version:], start=version + 1):
            db.execute(migration)
            db.execute("INSERT INTO schema_version VALUES (%s)", [number])


def _snapshot(db: Connection) -> str:
    """What is visible now, as a text that the database understands."""
    row = db.execute("SELECT pg_current_snapshot()::text").fetchone()
    return "" if row is None else str(row[0])


def _node_of(db: Connection, name: str) -> int:
    db.execute("INSERT INTO nodes (name) VALUES (%s) ON CONFLICT DO NOTHING", [name])
    row = db.execute("SELECT id FROM nodes WHERE name = %s", [name]).fetchone()
    return 0 if row is None else int(row[0])


def _open_runs(db: Connection, node: int) -> list[tuple[str, str]]:
    """Runs that this node had begun to write and not closed; a name that no call has any more is none."""
    db.execute(
        "WITH gone AS (DELETE FROM open_runs o WHERE node = %s"
        " AND NOT EXISTS (SELECT 1 FROM call_rows c WHERE c.run_id = o.run_id) RETURNING tenant, run_id)"
        " DELETE FROM run_joins j USING gone g WHERE j.tenant = g.tenant AND j.run_id = g.run_id"
        " AND NOT EXISTS (SELECT 1 FROM runs r WHERE r.tenant = g.tenant AND r.run_id = g.run_id)",
        [node],
    )
    rows = db.execute("SELECT tenant, run_id FROM open_runs WHERE node = %s", [node]).fetchall()
    return [(tenant, run_id) for tenant, run_id in rows]


def _configure_reader(db: Connection) -> None:
    db.adapters.register_loader("numeric", _WholeNumbers)


def _configure_only_reader(db: Connection) -> None:
    _configure_reader(db)
    db.read_only = True


def _configure_writer(db: Connection) -> None:
    for shape in _STAGED:
        columns = ", ".join(f'"{name}" {kind}' for name, kind in zip(shape.columns, shape.types, strict=True))
        db.execute(f"CREATE TEMP TABLE stage_{shape.table} ({columns}) ON COMMIT DELETE ROWS")
    db.commit()


# ---- small tools ---------------------------------------------------------------


def _lay(db: Connection, shape: Shape, rows: Sequence[Values], node: int | None = None) -> Iterable[tuple[Any, ...]]:
    """Lay rows over those that have the same key; without a key they are added. Of alerts: key, and whether it is new.

    In the order of their keys, so that two writers never wait for each other.
    """
    if not rows:
        return ()
    names = ", ".join(f'"{name}"' for name in shape.columns)
    with db.cursor().copy(f"COPY stage_{shape.table} ({names}) FROM STDIN (FORMAT BINARY)") as copy:
        copy.set_types(shape.types)
        for row in rows:
            copy.write_row([_fit(*one) for one in zip(shape.columns, row, shape.types, strict=True)])
    laid = db.execute(_LAY[shape.table], [node] if shape.table in _BY_NODE else [])
    said = laid.fetchall() if shape is ALERTS else ()
    db.execute(f"TRUNCATE stage_{shape.table}")
    return said


def _move(db: Connection, offsets: Mapping[Partition, Offset]) -> None:
    for partition, offset in sorted(offsets.items()):
        moved = db.execute(
            "UPDATE partitions SET needed = %s, sent = %s WHERE topic = %s AND number = %s AND epoch = %s RETURNING 1",
            [offset.needed, offset.sent, *partition, offset.epoch],
        ).fetchone()
        if moved is None:
            raise PartitionMovedError(partition)


def _lay_text(shape: Shape) -> str:
    names = [f'"{name}"' for name in shape.columns]
    taken = ["id::uuid" if shape is CALLS and name == '"id"' else name for name in names]
    more = ["node"] * (shape.table in _BY_NODE) + ["changed"] * (shape.table in _HEARD)
    values = ["%s"] * (shape.table in _BY_NODE) + ["pg_current_xact_id()"] * (shape.table in _HEARD)
    into, what = ", ".join(names + more), ", ".join(taken + values)
    text = f"INSERT INTO {shape.table} ({into}) SELECT {what} FROM stage_{shape.table}"  # noqa: S608  # our own names
    if not shape.key:
        return text
    text += f" ORDER BY {', '.join(shape.key)} ON CONFLICT ({', '.join(shape.key)}) DO "
    if shape in {CORRECTIONS, OUTCOME_KEYS, RUN_JOINS}:
        return text + "NOTHING"
    set_ = [f"{name} = excluded.{name}" for name in names + more if name.strip('"') not in shape.key]
    text += f"UPDATE SET {', '.join(set_)}"
    if shape is ALERTS:
        # Whoever wrote it first tells it, also after a restart; those who come to the same later add nothing.
        text += " WHERE alerts.node = excluded.node RETURNING alerts.tenant, alerts.id, xmax = 0"
    if shape is TELLERS:
        return text + " AND tellers.in_session"  # the last column
    # News that is told again replaces what was known, unless it is older.
    return text + (" WHERE excluded.at_ns >= outcomes.at_ns" if shape is OUTCOMES else "")


_LAY: Final = {shape.table: _lay_text(shape) for shape in _STAGED}


def _delete(db: Connection, table: str, pairs: set[tuple[str, str]], more: str = "", *parameters: object) -> None:
    """Rows of runs."""
    if pairs:
        db.execute(
            f"DELETE FROM {table} t USING (SELECT unnest(%s::text[]) AS tenant, unnest(%s::text[]) AS run_id) s"  # noqa: S608
            f" WHERE t.tenant = s.tenant AND t.run_id = s.run_id {more}",
            [*_columns(pairs), *parameters],
        )


def _columns(pairs: Sequence[tuple[str, str]] | set[tuple[str, str]]) -> list[list[str]]:
    return [[_plain(one) for one, _ in sorted(pairs)], [_plain(one) for _, one in sorted(pairs)]]


def _ours(sql: str) -> str:
    """The common text with psycopg's placeholders."""
    return sql.replace("%", "%%").replace("?", "%s")


def _plain(value: Any) -> Any:  # noqa: ANN401  # only text is looked at
    """Text that PostgreSQL takes: without NUL, in JSON without its escape."""
    if not isinstance(value, str):
        return value
    if "\0" in value:
        value = value.replace("\0", "\N{REPLACEMENT CHARACTER}")
    return value.replace("\\u0000", "\\ufffd") if "\\u0000" in value else value


def _fit(name: str, value: Any, kind: str) -> Any:  # noqa: ANN401  # of a column
    if kind == TEXT:
        return _plain(value)
    return fitting(name, value) if kind == INT else value


def _one(db: Connection, sql: str) -> int:
    row = db.execute(sql).fetchone()
    return int(row[0]) if row else 0


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
