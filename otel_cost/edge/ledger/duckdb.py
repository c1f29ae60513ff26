"""The embedded ledger: one DuckDB file, one writer.

Rows go in as columns (Arrow), because DuckDB takes a value at a time a hundred
times slower. Tables that grow with what is recorded have no key: DuckDB keeps all of
an index in memory while it writes, some 60 bytes a row, and a ledger of four million
calls could not be written any more. What replaces a row looks for it where it can be.
"""

from __future__ import annotations

import itertools
import shutil
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import duckdb
from arro3.core import Array, DataType, Table

from otel_cost.edge.ledger import NO_OFFSETS, Heard, LedgerUnavailableError, PartitionMovedError, names_of
from otel_cost.edge.ledger.rows import (
    ALERTS,
    BLOB,
    BOOL,
    CALLS,
    CORRECTIONS,
    FACETS,
    INT,
    MOST,
    OUTCOME_KEYS,
    OUTCOMES,
    RATES,
    RUN_JOINS,
    TELLERS,
    TEXT,
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
    shape,
    teller_rows,
    told_ids,
    uuid_of,
)
from otel_cost.edge.ledger.sql import SqlLedger, chosen, forgetting, waste
from otel_cost.edge.partitions import Offset, Partition
from otel_cost.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from otel_cost.core.model.call import Call
    from otel_cost.edge.ledger import Batch, Selection
    from otel_cost.edge.ledger.rows import Shape, Values

Connection = duckdb.DuckDBPyConnection


def _hash(tenant: str, name: str) -> str:
    """SQL for 32 bits of two texts: numbers are looked through ten times faster than what they stand for."""
    return f"('0x' || left(md5({tenant} || '/' || {name}), 8))::UINTEGER"


# In order, each once, each in one transaction; never edited after a release.
MIGRATIONS: Final = (
    """
    CREATE TABLE progress (name VARCHAR PRIMARY KEY, value BIGINT NOT NULL);
    CREATE TABLE facets (
        id INTEGER NOT NULL, tenant VARCHAR NOT NULL, kind VARCHAR NOT NULL, operation VARCHAR, provider VARCHAR,
        model VARCHAR, requested_model VARCHAR, response_model VARCHAR, agent VARCHAR, tool VARCHAR, org VARCHAR,
        team VARCHAR, "user" VARCHAR, api_key VARCHAR, project VARCHAR, workflow VARCHAR, attrs VARCHAR,
        status VARCHAR NOT NULL, reason VARCHAR, basis VARCHAR NOT NULL, flags VARCHAR NOT NULL,
        sources VARCHAR NOT NULL, price_book VARCHAR NOT NULL, hole BOOLEAN NOT NULL, incomplete BOOLEAN NOT NULL
    );
    CREATE TABLE rates (
        id INTEGER NOT NULL, unit VARCHAR NOT NULL, part VARCHAR NOT NULL, femto VARCHAR NOT NULL,
        per VARCHAR NOT NULL, source VARCHAR NOT NULL, valid_from VARCHAR
    );
    CREATE TABLE call_rows (
        id UUID PRIMARY KEY, facet INTEGER NOT NULL, run_id VARCHAR NOT NULL, trace_id BLOB, span_id BLOB,
        session VARCHAR, start_ns BIGINT NOT NULL, end_ns BIGINT NOT NULL, attempts INTEGER NOT NULL,
        failed BOOLEAN NOT NULL, nano BIGINT, reported_nano BIGINT, input BIGINT, cache_read BIGINT,
        cache_write BIGINT, output BIGINT, reasoning BIGINT, items VARCHAR NOT NULL
    );
    CREATE VIEW calls AS SELECT c.* EXCLUDE (facet, items), f.* EXCLUDE (id)
        FROM call_rows c JOIN facets f ON f.id = c.facet;
    CREATE TABLE runs (
        tenant VARCHAR NOT NULL, run_id VARCHAR NOT NULL, start_ns BIGINT NOT NULL, end_ns BIGINT NOT NULL,
        nano BIGINT, wasted_nano BIGINT, session VARCHAR, org VARCHAR, team VARCHAR, "user" VARCHAR,
        api_key VARCHAR, project VARCHAR, workflow VARCHAR, line VARCHAR NOT NULL, PRIMARY KEY (tenant, run_id)
    );
    CREATE TABLE run_keys (
        tenant VARCHAR NOT NULL, key VARCHAR NOT NULL, run_id VARCHAR NOT NULL, PRIMARY KEY (tenant, key)
    );
    CREATE TABLE snapshots (
        tenant VARCHAR NOT NULL, run_id VARCHAR NOT NULL, snapshot BLOB NOT NULL, PRIMARY KEY (tenant, run_id)
    );
    CREATE TABLE traces (
        tenant VARCHAR NOT NULL, trace_id VARCHAR NOT NULL, run_id VARCHAR NOT NULL, nano BIGINT,
        line VARCHAR NOT NULL, PRIMARY KEY (tenant, trace_id)
    );
    CREATE TABLE steps (
        tenant VARCHAR NOT NULL, run_id VARCHAR NOT NULL, trace_id BLOB, span_id BLOB, parent BLOB,
        kind VARCHAR NOT NULL, name VARCHAR NOT NULL, agent VARCHAR, start_ns BIGINT NOT NULL,
        end_ns BIGINT NOT NULL, failed BOOLEAN NOT NULL, call_id VARCHAR, self_nano BIGINT, status VARCHAR
    );
    CREATE TABLE alerts (
        id VARCHAR NOT NULL, tenant VARCHAR NOT NULL, run_id VARCHAR NOT NULL, trace_id BLOB, at_ns BIGINT NOT NULL,
        episode VARCHAR NOT NULL, resolved BOOLEAN NOT NULL, wasted_nano BIGINT, span_ids VARCHAR NOT NULL,
        onset VARCHAR NOT NULL, line VARCHAR NOT NULL, PRIMARY KEY (tenant, id)
    );
    CREATE TABLE corrections (
        id VARCHAR NOT NULL PRIMARY KEY, tenant VARCHAR NOT NULL, run_id VARCHAR NOT NULL, trace_id BLOB,
        at_ns BIGINT NOT NULL, line VARCHAR NOT NULL
    );
    """,
    """
    CREATE TABLE outcomes (
        tenant VARCHAR NOT NULL, id VARCHAR NOT NULL, name VARCHAR NOT NULL, value VARCHAR NOT NULL,
        at_ns BIGINT NOT NULL, line VARCHAR NOT NULL, PRIMARY KEY (tenant, id)
    );
    CREATE TABLE outcome_keys (
        tenant VARCHAR NOT NULL, key VARCHAR NOT NULL, id VARCHAR NOT NULL, PRIMARY KEY (tenant, key, id)
    );
    CREATE TABLE run_joins (
        tenant VARCHAR NOT NULL, key VARCHAR NOT NULL, run_id VARCHAR NOT NULL, PRIMARY KEY (tenant, key, run_id)
    );
    """,
    "ALTER TABLE steps ADD COLUMN likeness VARCHAR",
    """
    CREATE TABLE partitions (
        topic VARCHAR NOT NULL, number INTEGER NOT NULL, needed BIGINT NOT NULL, sent BIGINT NOT NULL,
        epoch BIGINT NOT NULL, PRIMARY KEY (topic, number)
    );
    """,
    """
    CREATE TABLE past_loops (
        tenant VARCHAR NOT NULL, loop VARCHAR NOT NULL, times BIGINT NOT NULL, runs BIGINT NOT NULL,
        nano BIGINT NOT NULL, first_ns BIGINT NOT NULL, last_ns BIGINT NOT NULL, kind VARCHAR, rule VARCHAR,
        summary VARCHAR, PRIMARY KEY (tenant, loop)
    );
    """,
    "COMMENT ON TABLE steps IS 'trees of runs that closed before their snapshots told them'",
    f"""
    DROP VIEW calls;
    CREATE TABLE keyless (
        id UUID NOT NULL, facet INTEGER NOT NULL, run_id VARCHAR NOT NULL, trace_id BLOB, span_id BLOB,
        session VARCHAR, start_ns BIGINT NOT NULL, end_ns BIGINT NOT NULL, attempts INTEGER NOT NULL,
        failed BOOLEAN NOT NULL, nano BIGINT, reported_nano BIGINT, input BIGINT, cache_read BIGINT,
        cache_write BIGINT, output BIGINT, reasoning BIGINT, items VARCHAR NOT NULL
    );
    INSERT INTO keyless SELECT * FROM call_rows;
    DROP TABLE call_rows;
    ALTER TABLE keyless RENAME TO call_rows;
    CREATE VIEW calls AS SELECT c.* EXCLUDE (facet, items), f.* EXCLUDE (id)
        FROM call_rows c JOIN facets f ON f.id = c.facet;
    CREATE TABLE keyless (
        tenant VARCHAR NOT NULL, run_id VARCHAR NOT NULL, start_ns BIGINT NOT NULL, end_ns BIGINT NOT NULL,
        nano BIGINT, wasted_nano BIGINT, session VARCHAR, org VARCHAR, team VARCHAR, "user" VARCHAR,
        api_key VARCHAR, project VARCHAR, workflow VARCHAR, line VARCHAR NOT NULL
    );
    INSERT INTO keyless SELECT * FROM runs;
    DROP TABLE runs;
    ALTER TABLE keyless RENAME TO runs;
    CREATE TABLE keyless (
        tenant VARCHAR NOT NULL, key VARCHAR NOT NULL, run_id VARCHAR NOT NULL, hash UINTEGER NOT NULL
    );
    INSERT INTO keyless SELECT *, {_hash("tenant", "key")} FROM run_keys;
    DROP TABLE run_keys;
    ALTER TABLE keyless RENAME TO run_keys;
    CREATE TABLE keyless (
        tenant VARCHAR NOT NULL, run_id VARCHAR NOT NULL, snapshot BLOB NOT NULL, hash UINTEGER NOT NULL
    );
    INSERT INTO keyless SELECT *, {_hash("tenant", "run_id")} FROM snapshots;
    DROP TABLE snapshots;
    ALTER TABLE keyless RENAME TO snapshots;
    CREATE TABLE keyless (
        tenant VARCHAR NOT NULL, trace_id VARCHAR NOT NULL, run_id VARCHAR NOT NULL, nano BIGINT, line VARCHAR NOT NULL
    );
    INSERT INTO keyless SELECT * FROM traces;
    DROP TABLE traces;
    ALTER TABLE keyless RENAME TO traces;
    CREATE TABLE keyless (tenant VARCHAR NOT NULL, key VARCHAR NOT NULL, run_id VARCHAR NOT NULL);
    INSERT INTO keyless SELECT * FROM run_joins;
    DROP TABLE run_joins;
    ALTER TABLE keyless RENAME TO run_joins;
    CREATE TABLE keyless (
        tenant VARCHAR NOT NULL, id VARCHAR NOT NULL, name VARCHAR NOT NULL, value VARCHAR NOT NULL,
        at_ns BIGINT NOT NULL, line VARCHAR NOT NULL
    );
    INSERT INTO keyless SELECT * FROM outcomes;
    DROP TABLE outcomes;
    ALTER TABLE keyless RENAME TO outcomes;
    CREATE TABLE keyless (tenant VARCHAR NOT NULL, key VARCHAR NOT NULL, id VARCHAR NOT NULL);
    INSERT INTO keyless SELECT * FROM outcome_keys;
    DROP TABLE outcome_keys;
    ALTER TABLE keyless RENAME TO outcome_keys;
    """,  # noqa: S608  # our own text
    """
    CREATE TABLE tellers (
        tenant VARCHAR NOT NULL, sender VARCHAR NOT NULL, hour BIGINT NOT NULL, in_session BOOLEAN NOT NULL
    );
    DELETE FROM run_joins j WHERE NOT EXISTS (FROM runs r WHERE r.tenant = j.tenant AND r.run_id = j.run_id)
        AND NOT EXISTS (FROM call_rows c WHERE c.run_id = j.run_id);
    """,
)

# The oldest schema whose code may still use a file of the newest one: migrations that only add tables and columns that
# may be empty leave it where it is, so that a version can be taken back.
READABLE_BY: Final = 7  # tables without keys

_TYPES: Final = {TEXT: DataType.utf8(), INT: DataType.int64(), BLOB: DataType.binary(), BOOL: DataType.bool()}

# A commit that cannot write its log is a TransactionException; there is no other writer to conflict with.
_NAMES: Final = shape("names", tenant=TEXT, run_id=TEXT)
_NOT_NOW: Final = (duckdb.IOException, duckdb.OutOfMemoryException, duckdb.FatalException, duckdb.TransactionException)
_NOT_TO_BE_READ: Final = (
    duckdb.IOException, duckdb.OutOfMemoryException, duckdb.ConnectionException, duckdb.InterruptException,
)  # fmt: skip
_CUTS, _CUT_S = 40, 0.05

# Once it is open: what a crash has left must be read, and old tables written anew, whatever that takes.
_MEMORY: Final = "512MB"
# A report may run beside the engine for seconds: one thread for it, one for the writer.
_CONFIG: Final[dict[str, str | bool | int | float | list[str]]] = {
    "threads": 2,
    "checkpoint_threshold": "64MB",
    "preserve_insertion_order": False,
}


class DuckDbLedger(SqlLedger):
    """`Ledger` in one file, or in memory (`path` None).

    Raises:
        UsageError: the file is in use by another process, is no DuckDB file, or was written by a newer version.
    """

    _attribute = "json_extract_string(f.attrs, '$.' || to_json(?::VARCHAR))"
    _waste = waste(
        "list_transform(string_split(span_ids, ','), lambda x: unhex(x))", "unhex(onset)", "HUGEINT", "divide"
    )
    _quotient = "divide"
    _hex = "('0x' || {})::BIGINT"

    def __init__(self, path: Path | None = None, *, read_only: bool = False) -> None:
        super().__init__()
        self._path, self._read_only = path, read_only
        self._lock = threading.Lock()
        self._readers: set[Connection] = set()
        self._reading_changes = threading.Condition()
        self._is_closing = False
        self._db = self._open()
        # Calls of open runs as they stand in the ledger: a closing run writes only what differs.
        self._written: dict[str, tuple[str, Call]] = {}  # call id → (run id, call)
        # By open run, keys by which outcomes find it, as they stand in the ledger.
        self._joined: dict[tuple[str, str], set[str]] = {}
        self._facets: dict[Values, int] = {}
        self._rates: dict[Values, int] = {}
        with self._reading() as db:
            self._free_facets = itertools.count(_one(db, "SELECT coalesce(max(id), 0) + 1 FROM facets"))
            self._free_rates = itertools.count(_one(db, "SELECT coalesce(max(id), 0) + 1 FROM rates"))
            if not read_only:
                self._inherited.update(
                    db.execute(
                        "SELECT DISTINCT f.tenant, c.run_id FROM call_rows c JOIN facets f ON f.id = c.facet"
                        " ANTI JOIN runs r ON r.tenant = f.tenant AND r.run_id = c.run_id"
                    ).fetchall()
                )
                joins = db.execute("SELECT tenant, key, run_id FROM run_joins ANTI JOIN runs USING (tenant, run_id)")
                for tenant, key, run_id in joins.fetchall():
                    self._joined.setdefault((tenant, run_id), set()).add(key)

    def _open(self) -> Connection:
        where = str(self._path) if self._path is not None else ":memory:"
        try:
            db = duckdb.connect(where, read_only=self._read_only, config=_CONFIG)
        except duckdb.IOException as error:
            raise UsageError(_why_not_opened(where, str(error))) from error
        try:
            self._migrate(db, where)
            db.execute(f"SET memory_limit = '{_MEMORY}'")
        except BaseException:
            db.close()
            raise
        if self._path is not None and not self._read_only:
            self._path.chmod(0o600)
        return db

    def _migrate(self, db: Connection, where: str) -> None:
        known = _one(db, "SELECT count(*) FROM duckdb_tables() WHERE table_name = 'schema_version'")
        version = _one(db, "SELECT max(version) FROM schema_version") if known else 0
        if version > len(MIGRATIONS) and not self._is_readable(db):
            raise UsageError(
                f"{where}: written by a newer otel-cost (schema {version}, this one knows {len(MIGRATIONS)}): "
                "upgrade, or set another `data_dir`"
            )
        if self._read_only:
            if version < len(MIGRATIONS):
                raise UsageError(f"{where}: schema {version} is older than this otel-cost: run `otel-cost serve` once")
            return
        for number, migration in enumerate(MIGRATIONS[version:], start=version + 1):
            db.begin()
            db.execute("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)")
            db.execute(migration)
            db.execute("INSERT INTO schema_version VALUES (?)", [number])
            db.execute("INSERT OR REPLACE INTO progress VALUES ('readable_by', ?)", [READABLE_BY])
            db.commit()

    @staticmethod
    def _is_readable(db: Connection) -> bool:
        """Does a file of a newer version say that this one may still read and write it?"""
        oldest = db.execute("SELECT max(value) FROM progress WHERE name = 'readable_by'").fetchone()
        return oldest is not None and oldest[0] is not None and int(oldest[0]) <= len(MIGRATIONS)

    def close(self) -> None:
        with self._lock, self._closing():
            pass

    @contextmanager
    def _closing(self) -> Iterator[None]:
        """Close the connection; whoever comes to read waits until the block is over.

        DuckDB refuses to close while anybody reads, so readers are cut off and told that the ledger is away.
        """
        with self._reading_changes:
            self._is_closing = True
            try:
                for _ in range(_CUTS):
                    for reader in self._readers:
                        reader.interrupt()
                    if self._reading_changes.wait_for(lambda: not self._readers, _CUT_S):
                        break
                self._db.close()
                yield
            finally:
                self._is_closing = False
                self._reading_changes.notify_all()

    @property
    def is_shared(self) -> bool:
        return False

    def heard(self) -> Heard:
        return Heard()

    # ---- writing ---------------------------------------------------------------

    def commit(
        self, batch: Batch, cursor: int, offsets: Mapping[Partition, Offset] = NO_OFFSETS
    ) -> set[tuple[str, str]]:
        with self._lock:
            try:
                self._commit(batch, cursor, offsets)
            except _NOT_NOW as error:
                raise LedgerUnavailableError(f"ledger cannot be written: {_first_line(error)}") from error
        return set(batch.alerts)

    def take_partitions(self, partitions: Sequence[Partition]) -> dict[Partition, Offset]:
        with self._lock:
            try:
                self._db.begin()
                try:
                    for partition in partitions:
                        self._db.execute(
                            "INSERT INTO partitions VALUES (?, ?, 0, 0, 1) ON CONFLICT DO UPDATE SET epoch = epoch + 1",
                            [*partition],
                        )
                    self._db.commit()
                except BaseException:
                    self._roll_back()
                    raise
            except _NOT_NOW as error:
                raise LedgerUnavailableError(f"ledger cannot be written: {_first_line(error)}") from error
        rows = self._rows("SELECT topic, number, needed, sent, epoch FROM partitions")
        known = {Partition(topic, number): Offset(*offset) for topic, number, *offset in rows}
        return {partition: known[partition] for partition in partitions}

    def _move(self, offsets: Mapping[Partition, Offset]) -> None:
        for partition, offset in offsets.items():
            moved = self._db.execute(
                "UPDATE partitions SET needed = ?, sent = ? WHERE topic = ? AND number = ? AND epoch = ? RETURNING 1",
                [offset.needed, offset.sent, *partition, offset.epoch],
            ).fetchall()
            if not moved:
                raise PartitionMovedError(partition)

    def _commit(self, batch: Batch, cursor: int, offsets: Mapping[Partition, Offset]) -> None:
        facets, rates = Numbers(self._facets, self._free_facets), Numbers(self._rates, self._free_rates)
        self._db.begin()
        try:
            written = self._write_calls(batch, facets, rates)
            rewritten = self._write_closed(batch)
            self._write_told(batch)
            self._write_outcomes(batch)
            self._write_joins(batch, rewritten)
            self._write_tellers(batch)
            self._db.execute(
                "INSERT OR REPLACE INTO progress SELECT 'journal', greatest(?, coalesce(max(value), 0))"
                " FROM progress WHERE name = 'journal'",
                [cursor],
            )
            self._move(offsets)
            self._db.commit()
        except BaseException:
            self._roll_back()
            raise
        facets.keep()
        rates.keep()
        self._remember(batch, written)

    def forget(self, selection: Selection) -> int:
        """Delete closed runs with all that hangs on them; how many. What is still open is written anew when it closes.

        Raises:
            LedgerUnavailableError: nothing was deleted.
        """
        query, values = chosen(selection)
        with self._lock:
            try:
                return self._forget(query, values, selection)
            except _NOT_NOW as error:
                raise LedgerUnavailableError(f"ledger cannot be written: {_first_line(error)}") from error

    def forget_oldest(self, share: float) -> int:
        """Delete a share of the closed runs, the oldest; how many."""
        with self._lock:
            try:
                count = max(1, int(_one(self._db, "SELECT count(*) FROM runs") * share))
                return self._forget("SELECT tenant, run_id FROM runs ORDER BY end_ns LIMIT ?", [count], None)
            except _NOT_NOW as error:
                raise LedgerUnavailableError(f"ledger cannot be written: {_first_line(error)}") from error

    def _forget(self, query: str, values: Sequence[object], selection: Selection | None) -> int:
        db = self._db
        db.begin()
        try:
            db.execute("CREATE TEMP TABLE doomed AS " + query, values)
            doomed = db.execute("SELECT tenant, run_id FROM doomed").fetchall()
            for statement, parameters in forgetting(selection):
                db.execute(statement, parameters)
            db.execute("DROP TABLE doomed")
            db.commit()
        except BaseException:
            self._roll_back()
            raise
        self._facets = {}  # some of them are gone; new calls write them again
        runs = {run for _, run in doomed}
        self._written = {call_id: word for call_id, word in self._written.items() if word[0] not in runs}
        for name in doomed:
            self._joined.pop(name, None)
        if doomed and self._path is not None:
            db.execute("CHECKPOINT")
        return len(doomed)

    def used_bytes(self) -> int:
        """What the file holds, without the room that was freed in it."""
        with self._reading() as db:
            used, block = db.execute("SELECT used_blocks, block_size FROM pragma_database_size()").fetchone() or (0, 0)
            return int(used) * int(block)

    def back_up(self, folder: Path, beside: Callable[[], None]) -> None:
        """Copy the file into a folder; `beside` copies what must be of the same moment: nothing is committed then."""
        with self._lock:
            self._db.execute("CHECKPOINT")
            if self._path is not None:
                for file in (self._path, self._path.with_name(f"{self._path.name}.wal")):
                    if file.exists():
                        shutil.copyfile(file, folder / file.name)
            beside()

    def _roll_back(self) -> None:
        try:
            self._db.rollback()
        except duckdb.Error:
            # DuckDB gave the whole database up, as it does when its log cannot be written: it must be opened anew.
            if self._path is not None:
                with self._closing():
                    self._db = self._open()

    def _write_calls(self, batch: Batch, facets: Numbers, rates: Numbers) -> list[tuple[str, Call]]:
        calls, gone = calls_to_write(batch, self._written)
        inherited, written = self._inherited, self._written
        rows: list[Values] = []
        starts: list[int] = []  # of these calls, and of what was written of them before
        for tenant, run_id, call in self._paced(calls.values()):
            rows.append(call_row(tenant, run_id, call, facets, rates))
            start_ns = call.step.start_ns
            starts.append(start_ns)
            if call.id in written:
                starts.append(written[call.id][1].step.start_ns)
            elif (tenant, run_id) in inherited:  # another record of it may have been all that was known
                starts += (start_ns - _DAY_NS, start_ns + _DAY_NS)
        _load(self._db, FACETS, facets.rows)
        _load(self._db, RATES, rates.rows)
        if gone:
            with _staged(self._db, shape("gone", id=TEXT), [(uuid_of(one),) for one in gone]):
                self._db.execute("DELETE FROM call_rows WHERE id IN (SELECT id::UUID FROM staged)")
        _replace(self._db, CALLS, rows, _stretches(starts))
        return [(run_id, call) for _, run_id, call in calls.values()]

    def _write_closed(self, batch: Batch) -> set[tuple[str, str]]:
        """The runs of which there may have been rows already."""
        rewritten: set[tuple[str, str]] = set()
        if not batch.closed:
            return rewritten
        runs = list(batch.closed.values())
        stale: set[tuple[str, str]] = set()
        for name, run in batch.closed.items():
            known = {name, *names_of(run)} & self._inherited
            if known or not batch.is_sure:
                rewritten.add(name)
                stale |= known
        if stale:
            self._clear_before(batch, stale)
        for shape_, rows in closed_rows(runs, self._paced):
            at = shape_.columns.index("run_id")
            # To look whether there is a row the whole table is read: the more has been recorded, the longer it takes.
            _replace(self._db, shape_, [row for row in rows if (row[0], row[at]) in rewritten])
            _load(self._db, shape_, [row for row in rows if (row[0], row[at]) not in rewritten])
        return rewritten

    def _clear_before(self, batch: Batch, stale: set[tuple[str, str]]) -> None:
        """Take out what was written of these runs before, under whatever name, and they do not say again.

        A run's list of calls is the whole truth only where this process has
        seen the run from its beginning or has woken it; rows of any other run are never touched.
        """
        closing = set(batch.closed)
        _delete_runs(self._db, stale, "steps")
        with _staged(self._db, _NAMES, sorted(stale)):
            lost = self._db.execute(
                "SELECT c.id::VARCHAR FROM call_rows c JOIN facets f ON f.id = c.facet"
                " SEMI JOIN staged s ON s.tenant = f.tenant AND s.run_id = c.run_id WHERE c.start_ns >= ?",
                [min(MOST, *(run.summary.start_ns for run in batch.closed.values())) - _DAY_NS],
            ).fetchall()
        kept = told_ids(batch)
        gone = [(one,) for (one,) in lost if one.replace("-", "") not in kept]
        if gone:
            with _staged(self._db, shape("gone", id=TEXT), gone):
                self._db.execute("DELETE FROM call_rows WHERE id IN (SELECT id::UUID FROM staged)")
        if stale - closing:
            _delete_runs(self._db, stale - closing, "runs", "traces", "snapshots", "run_keys", "run_joins")

    def _write_told(self, batch: Batch) -> None:
        _load(self._db, ALERTS, alert_rows(batch), "INSERT OR REPLACE")
        _load(self._db, CORRECTIONS, correction_rows(batch), "INSERT OR IGNORE")

    def _write_outcomes(self, batch: Batch) -> None:
        """News that is told again replaces what was known, unless it is older."""
        if batch.outcomes:
            with _staged(self._db, OUTCOMES, outcome_rows(batch)):
                self._db.execute(
                    "DELETE FROM outcomes o USING staged s"
                    " WHERE o.tenant = s.tenant AND o.id = s.id AND o.at_ns <= s.at_ns"
                )
                self._db.execute(
                    "INSERT INTO outcomes SELECT tenant, id, name, value, at_ns, line FROM staged s"
                    " WHERE NOT EXISTS (SELECT 1 FROM outcomes o WHERE o.tenant = s.tenant AND o.id = s.id)"
                )
            _replace(self._db, OUTCOME_KEYS, outcome_key_rows(batch))

    def _write_joins(self, batch: Batch, rewritten: set[tuple[str, str]]) -> None:
        fresh: list[Values] = []
        again: list[Values] = []
        for row in join_rows(batch):
            tenant, key, run_id = row
            if (tenant, run_id) in rewritten or (tenant, run_id) in self._inherited:
                again.append(row)
            elif key not in self._joined.get((tenant, run_id), ()):
                fresh.append(row)
        _replace(self._db, RUN_JOINS, again)
        _load(self._db, RUN_JOINS, fresh)
        if former := former_names(batch) & self._joined.keys():
            _delete_runs(self._db, former, "run_joins")

    def _write_tellers(self, batch: Batch) -> None:
        if batch.tellers:
            _load(self._db, TELLERS, teller_rows(batch))  # what is told again after a restart stands there twice
            self._db.execute("DELETE FROM tellers WHERE hour < ?", [oldest_hour(batch)])

    def _remember(self, batch: Batch, written: list[tuple[str, Call]]) -> None:
        for word in written:
            call = word[1]
            self._written[call.id] = word
            items = call.charge.items
            if not isinstance(items, tuple):
                items.forget()
        for _, call_id in (key for key, word in batch.calls.items() if word is None):
            self._written.pop(call_id, None)
        for tenant, key, run_id in batch.joins:
            self._joined.setdefault((tenant, run_id), set()).add(key)
        for name, run in batch.closed.items():
            for known in (name, *names_of(run)):
                self._joined.pop(known, None)
            self._inherited.discard(name)
            for call in run.calls:
                self._written.pop(call.id, None)

    # ---- reading ---------------------------------------------------------------

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        try:
            with self._reading_changes:
                self._reading_changes.wait_for(lambda: not self._is_closing)
                cursor = self._db.cursor()
                self._readers.add(cursor)
            try:
                yield cursor
            finally:
                with self._reading_changes:
                    cursor.close()
                    self._readers.discard(cursor)
                    self._reading_changes.notify_all()
        except _NOT_TO_BE_READ as error:
            raise LedgerUnavailableError(f"ledger cannot be read: {_first_line(error)}") from error

    def _rows(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        with self._reading() as db:
            return db.execute(sql, list(parameters)).fetchall()

    def _asleep(self, tenant: str, key: str) -> tuple[str, bytes] | None:
        rows = self._rows(
            f"SELECT run_id FROM run_keys WHERE hash = {_hash('?', '?')}"  # noqa: S608  # our own text
            " AND tenant = ? AND key = ? ORDER BY rowid DESC LIMIT 1",
            [tenant, key, tenant, key],
        )
        if not rows:
            return None
        ((run_id,),) = rows
        snapshot = self._snapshot_of(tenant, run_id)
        return (run_id, snapshot) if snapshot else None

    def _snapshot_of(self, tenant: str, run_id: str) -> bytes:
        rows = self._rows(
            f"SELECT snapshot FROM snapshots WHERE hash = {_hash('?', '?')}"  # noqa: S608  # our own text
            " AND tenant = ? AND run_id = ?",
            [tenant, run_id, tenant, run_id],
        )
        return bytes(rows[0][0]) if rows else b""

    def cursor(self) -> int:
        rows = self._rows("SELECT value FROM progress WHERE name = 'journal'")
        return rows[0][0] if rows else 0

    def _stream(self, sql: str, parameters: Sequence[object]) -> Iterator[list[tuple[Any, ...]]]:
        with self._reading() as db:
            result = db.execute(sql, list(parameters))
            while rows := result.fetchmany(10_000):
                yield rows

    def _with_pairs(self, sql: str, pairs: Sequence[tuple[str, str]]) -> list[tuple[Any, ...]]:
        with self._reading() as db, _staged(db, shape("pairs", tenant=TEXT, run_id=TEXT), pairs):
            return db.execute(sql).fetchall()


# ---- small tools ---------------------------------------------------------------


@contextmanager
def _staged(db: Connection, shape: Shape, rows: Sequence[Values]) -> Iterator[None]:
    """Rows as a table called `staged`, for the time of the block."""
    columns = zip(shape.columns, zip(*rows, strict=True), shape.types, strict=True)
    db.register("staged", Table.from_pydict({name: _array(name, list(row), kind) for name, row, kind in columns}))
    yield
    db.unregister("staged")  # after an error the roll-back takes it away


def _delete_runs(db: Connection, names: Collection[tuple[str, str]], *tables: str) -> None:
    """Delete the rows of runs, by tenant and run id."""
    with _staged(db, _NAMES, sorted(names)):
        for table in tables:
            db.execute(
                f"DELETE FROM {table} WHERE (tenant, run_id) IN (SELECT tenant, run_id FROM staged)"  # noqa: S608  # our own names
            )


def _load(db: Connection, shape: Shape, rows: Sequence[Values], verb: str = "INSERT") -> None:
    if rows:
        with _staged(db, shape, rows):
            _insert(db, shape, verb)


def _replace(db: Connection, shape: Shape, rows: Sequence[Values], began: Sequence[tuple[int, int]] = ()) -> None:
    """Rows, in the place of those with the same keys; `began`: between which times those did, where that is known."""
    if not rows:
        return
    hashed = _HASHED.get(shape.table)
    with _staged(db, shape, rows):
        if hashed is not None:
            _delete_hashed(db, shape, rows, hashed)
        else:
            same = " AND ".join(f't."{key}" = s."{key}"' + ("::UUID" if shape is CALLS else "") for key in shape.key)
            delete = f"DELETE FROM {shape.table} t USING staged s WHERE {same}"  # noqa: S608  # our own names
            for first, last in began:
                db.execute(f"{delete} AND t.start_ns BETWEEN ? AND ?", [first, last])
            if not began:
                db.execute(delete)
        _insert(db, shape, "INSERT")


def _delete_hashed(db: Connection, shape: Shape, rows: Sequence[Values], hashed: str) -> None:
    """What has the keys of rows that are staged: few numbers are looked for, which is ten times faster than a join."""
    table, names = shape.table, ("tenant", hashed)
    keys = {tuple(row[shape.columns.index(name)] for name in names) for row in rows}
    # What is put into these texts are our own names.
    hashes = db.execute(f"SELECT list({_hash(*names)}) FROM staged").fetchall()[0]  # noqa: S608  # see above
    near = db.execute(
        f"SELECT list(rowid) FROM {table} WHERE hash = ANY(?::UINTEGER[])",  # noqa: S608  # see above
        hashes,
    ).fetchall()[0]
    if near[0]:  # nearly never
        found = db.execute(
            f"SELECT rowid, {', '.join(names)} FROM {table} WHERE rowid = ANY(?::BIGINT[])",  # noqa: S608  # see above
            near,
        )
        there = [number for number, *key in found.fetchall() if tuple(key) in keys]
        db.execute(f"DELETE FROM {table} WHERE rowid = ANY(?::BIGINT[])", [there])  # noqa: S608  # see above


def _insert(db: Connection, shape: Shape, verb: str) -> None:
    """What is staged, into its table."""
    names = values = ", ".join(f'"{name}"' for name in shape.columns)
    if (hashed := _HASHED.get(shape.table)) is not None:
        names, values = f"{names}, hash", f"{values}, {_hash('tenant', hashed)}"
    db.execute(f"{verb} INTO {shape.table} ({names}) SELECT {values} FROM staged")  # noqa: S608  # our own names


# Tables of which single rows are looked for again and again, by tenant and this column.
_HASHED: Final = {"run_keys": "key", "snapshots": "run_id"}


def _stretches(times: Iterable[int]) -> list[tuple[int, int]]:
    """Stretches that hold all of these times [ns], apart from each other and few.

    Calls are written in the order of time, more or less: a DuckDB table is read only where such times are.
    """
    found: list[tuple[int, int]] = []
    for time in sorted(min(time, MOST) for time in times):  # as they are written, see `fitting`
        if found and time - found[-1][1] <= _DAY_NS:
            found[-1] = found[-1][0], time
        else:
            found.append((time, time))
    return found if len(found) <= _MOST_STRETCHES else [(found[0][0], found[-1][1])]


_DAY_NS: Final = 86_400 * 10**9
_MOST_STRETCHES: Final = 4


def _array(name: str, values: list[Any], kind: str) -> Array:
    try:
        return Array(values, _TYPES[kind])
    except OverflowError:
        return Array([fitting(name, value) for value in values], _TYPES[kind])


def _one(db: Connection, sql: str) -> int:
    row = db.execute(sql).fetchone()
    return int(row[0]) if row else 0


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _why_not_opened(where: str, said: str) -> str:
    if "lock" in said:
        holder = said.partition("(PID ")[2].partition(")")[0]
        who = f" (process {holder})" if holder else ""
        return f"{where}: in use by another process{who}: stop it, or set another `data_dir`"
    if "not a valid DuckDB" in said:
        return f"{where}: not a DuckDB file: move it away, or set another `data_dir`"
    return f"{where}: cannot be opened: {said.partition(chr(10))[0]}"
