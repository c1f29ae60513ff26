"""The embedded ledger: one DuckDB file, one writer.

Rows go in as columns (Arrow), because DuckDB takes a value at a time a hundred
times slower. What a call says besides its numbers repeats a lot, so it is kept once
as a facet; the prices it was charged by likewise, as rates. A call's row is then
narrow: ids, times, tokens and nano-dollars.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import duckdb
from arro3.core import Array, DataType, Table

from otel_cost.core.budget import Spend
from otel_cost.core.detect._pace import Taken
from otel_cost.core.drift import Ran, facts_of_line
from otel_cost.core.enrich.lines import outcome_map, rfc3339, trace_line, usd
from otel_cost.core.enrich.records import alert_json, correction_json
from otel_cost.core.library import Seen
from otel_cost.core.model.money import Rate, exact_text, nano_to_text, usd_to_nano
from otel_cost.core.model.outcome import UNJUDGED, Verdict
from otel_cost.core.model.vocabulary import MODEL_KINDS, Flag, Kind, Reason, Status
from otel_cost.core.outcomes import judge, outcome_json, outcome_of, reaching
from otel_cost.core.per_outcome import ROUTE, Part, Silent, cost_per_outcome
from otel_cost.core.price.book import Items
from otel_cost.edge.ledger import (
    ATTRIBUTE,
    NO_OFFSETS,
    LedgerUnavailableError,
    PartitionMovedError,
    Row,
    checked_dimensions,
)
from otel_cost.edge.ledger.story import story, told_run, with_outcomes
from otel_cost.edge.partitions import Offset, Partition
from otel_cost.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from otel_cost.core.model.call import Call
    from otel_cost.core.model.charge import Item
    from otel_cost.core.model.outcome import Outcome
    from otel_cost.core.model.run import ClosedRun
    from otel_cost.edge.ledger import Batch, Selection

Connection = duckdb.DuckDBPyConnection

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
)

# The oldest schema whose code may still use a file of the newest one: migrations that only add tables and columns that
# may be empty leave it where it is, so that a version can be taken back.
READABLE_BY: Final = 3

_WHO: Final = ("org", "team", "user", "api_key", "project", "workflow")
_OF_RUNS: Final = frozenset((*_WHO, "session"))  # dimensions that a run may tell for its calls
_TEXT, _INT, _BLOB, _BOOL = DataType.utf8(), DataType.int64(), DataType.binary(), DataType.bool()
_MAX: Final = 2**63 - 1


class _Shape(NamedTuple):
    """How rows of one table travel: column names and Arrow types, in the order of the row tuples."""

    table: str
    columns: tuple[str, ...]
    types: tuple[DataType, ...]


def _shape(table: str, **columns: DataType) -> _Shape:
    return _Shape(table, tuple(columns), tuple(columns.values()))


_FACETS: Final = _shape(
    "facets", id=_INT, tenant=_TEXT, kind=_TEXT, operation=_TEXT, provider=_TEXT, model=_TEXT, requested_model=_TEXT,
    response_model=_TEXT, agent=_TEXT, tool=_TEXT, org=_TEXT, team=_TEXT, user=_TEXT, api_key=_TEXT, project=_TEXT,
    workflow=_TEXT, attrs=_TEXT, status=_TEXT, reason=_TEXT, basis=_TEXT, flags=_TEXT, sources=_TEXT,
    price_book=_TEXT, hole=_BOOL, incomplete=_BOOL,
)  # fmt: skip
_RATES: Final = _shape("rates", id=_INT, unit=_TEXT, part=_TEXT, femto=_TEXT, per=_TEXT, source=_TEXT, valid_from=_TEXT)
_CALLS: Final = _shape(
    "call_rows", id=_TEXT, facet=_INT, run_id=_TEXT, trace_id=_BLOB, span_id=_BLOB, session=_TEXT, start_ns=_INT,
    end_ns=_INT, attempts=_INT, failed=_BOOL, nano=_INT, reported_nano=_INT, input=_INT, cache_read=_INT,
    cache_write=_INT, output=_INT, reasoning=_INT, items=_TEXT,
)  # fmt: skip
_RUNS: Final = _shape(
    "runs", tenant=_TEXT, run_id=_TEXT, start_ns=_INT, end_ns=_INT, nano=_INT, wasted_nano=_INT, session=_TEXT,
    org=_TEXT, team=_TEXT, user=_TEXT, api_key=_TEXT, project=_TEXT, workflow=_TEXT, line=_TEXT,
)  # fmt: skip
_KEYS: Final = _shape("run_keys", tenant=_TEXT, key=_TEXT, run_id=_TEXT)
_SNAPSHOTS: Final = _shape("snapshots", tenant=_TEXT, run_id=_TEXT, snapshot=_BLOB)
_TRACES: Final = _shape("traces", tenant=_TEXT, trace_id=_TEXT, run_id=_TEXT, nano=_INT, line=_TEXT)
_STEPS: Final = _shape(
    "steps", tenant=_TEXT, run_id=_TEXT, trace_id=_BLOB, span_id=_BLOB, parent=_BLOB, kind=_TEXT, name=_TEXT,
    agent=_TEXT, start_ns=_INT, end_ns=_INT, failed=_BOOL, call_id=_TEXT, self_nano=_INT, status=_TEXT,
    likeness=_TEXT,
)  # fmt: skip
_ALERTS: Final = _shape(
    "alerts", id=_TEXT, tenant=_TEXT, run_id=_TEXT, trace_id=_BLOB, at_ns=_INT, episode=_TEXT, resolved=_BOOL,
    wasted_nano=_INT, span_ids=_TEXT, onset=_TEXT, line=_TEXT,
)  # fmt: skip
_CORRECTIONS: Final = _shape(
    "corrections", id=_TEXT, tenant=_TEXT, run_id=_TEXT, trace_id=_BLOB, at_ns=_INT, line=_TEXT
)
_OUTCOMES: Final = _shape("outcomes", tenant=_TEXT, id=_TEXT, name=_TEXT, value=_TEXT, at_ns=_INT, line=_TEXT)
_OUTCOME_KEYS: Final = _shape("outcome_keys", tenant=_TEXT, key=_TEXT, id=_TEXT)
_RUN_JOINS: Final = _shape("run_joins", tenant=_TEXT, key=_TEXT, run_id=_TEXT)

# A commit that cannot write its log is a TransactionException; there is no other writer to conflict with.
_NOT_NOW: Final = (duckdb.IOException, duckdb.OutOfMemoryException, duckdb.FatalException, duckdb.TransactionException)

# A report may run beside the engine for seconds: one thread for it, one for the writer. Checkpoints rewrite the
# key's index: four times rarer than by default makes a row a third cheaper.
_CONFIG: Final[dict[str, str | bool | int | float | list[str]]] = {
    "threads": 2,
    "memory_limit": "512MB",
    "checkpoint_threshold": "64MB",
    "preserve_insertion_order": False,
}


class DuckDbLedger:
    """`Ledger` in one file, or in memory (`path` None).

    Raises:
        UsageError: the file is in use by another process, is no DuckDB file, or was written by a newer version.
    """

    def __init__(self, path: Path | None = None, *, read_only: bool = False) -> None:
        self._path, self._read_only = path, read_only
        self._lock = threading.Lock()
        self._db = self._open()
        # Calls of open runs as they stand in the ledger: a closing run writes only what differs.
        self._written: dict[str, tuple[str, Call]] = {}  # call id → (run id, call)
        # Runs that this process did not see begin, so that rows of theirs may be left from before.
        self._inherited: set[tuple[str, str]] = set()
        self._facets: dict[tuple[object, ...], int] = {}
        self._rates: dict[tuple[object, ...], int] = {}
        with self._reading() as db:
            self._next_facet = _one(db, "SELECT coalesce(max(id), 0) + 1 FROM facets")
            self._next_rate = _one(db, "SELECT coalesce(max(id), 0) + 1 FROM rates")
            if not read_only:
                self._inherited.update(
                    db.execute(
                        "SELECT DISTINCT f.tenant, c.run_id FROM call_rows c JOIN facets f ON f.id = c.facet"
                        " ANTI JOIN runs r ON r.tenant = f.tenant AND r.run_id = c.run_id"
                    ).fetchall()
                )

    def _open(self) -> Connection:
        where = str(self._path) if self._path is not None else ":memory:"
        try:
            db = duckdb.connect(where, read_only=self._read_only, config=_CONFIG)
        except duckdb.IOException as error:
            raise UsageError(_why_not_opened(where, str(error))) from error
        try:
            self._migrate(db, where)
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
        with self._lock:
            self._db.close()

    # ---- writing ---------------------------------------------------------------

    def commit(self, batch: Batch, cursor: int, offsets: Mapping[Partition, Offset] = NO_OFFSETS) -> None:
        with self._lock:
            try:
                try:
                    self._commit(batch, cursor, offsets, trusting=True)
                except duckdb.ConstraintException:
                    # A call we took for new is there already: a resend that comes long after its run is forgotten.
                    self._commit(batch, cursor, offsets, trusting=False)
            except _NOT_NOW as error:
                raise LedgerUnavailableError(f"ledger cannot be written: {_first_line(error)}") from error

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
                raise PartitionMovedError(
                    f"partition {partition.number} of {partition.topic} is read by another worker now"
                )

    def _commit(self, batch: Batch, cursor: int, offsets: Mapping[Partition, Offset], *, trusting: bool) -> None:
        facets, rates = _New(self._facets, self._next_facet), _New(self._rates, self._next_rate)
        self._db.begin()
        try:
            written = self._write_calls(batch, facets, rates, trusting=trusting)
            self._write_closed(batch)
            self._write_told(batch)
            self._write_outcomes(batch)
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
        self._next_facet, self._next_rate = facets.keep(), rates.keep()
        self._remember(batch, written)

    def forget(self, selection: Selection) -> int:
        """Delete closed runs with all that hangs on them; how many. What is still open is written anew when it closes.

        Raises:
            LedgerUnavailableError: nothing was deleted.
        """
        conditions, values = ["true"], list[object]()
        for condition, value in (
            ("tenant = ?", selection.tenant),
            ("run_id = ?", selection.run_id),
            ("end_ns < ?", selection.before_ns),
        ):
            if value is not None:
                conditions.append(condition)
                values.append(value)
        if selection.user is not None:
            conditions.append(
                '("user" = ? OR (tenant, run_id) IN (SELECT (tenant, run_id) FROM calls WHERE "user" = ?))'
            )
            values += [selection.user, selection.user]
        with self._lock:
            try:
                return self._forget(f"SELECT tenant, run_id FROM runs WHERE {' AND '.join(conditions)}", values)  # noqa: S608  # our own text
            except _NOT_NOW as error:
                raise LedgerUnavailableError(f"ledger cannot be written: {_first_line(error)}") from error

    def forget_oldest(self, share: float) -> int:
        """Delete a share of the closed runs, the oldest; how many."""
        with self._lock:
            try:
                count = max(1, int(_one(self._db, "SELECT count(*) FROM runs") * share))
                return self._forget("SELECT tenant, run_id FROM runs ORDER BY end_ns LIMIT ?", [count])
            except _NOT_NOW as error:
                raise LedgerUnavailableError(f"ledger cannot be written: {_first_line(error)}") from error

    def _forget(self, chosen: str, values: Sequence[object]) -> int:
        db = self._db
        db.begin()
        try:
            db.execute("CREATE OR REPLACE TEMP TABLE doomed AS " + chosen, values)
            count = _one(db, "SELECT count(*) FROM doomed")
            db.execute(
                "DELETE FROM call_rows WHERE id IN (SELECT c.id FROM call_rows c JOIN facets f ON f.id = c.facet"
                " JOIN doomed d ON d.tenant = f.tenant AND d.run_id = c.run_id)"
            )
            # News that reaches none but these runs goes with them; what it says of other work stays.
            db.execute(
                "CREATE OR REPLACE TEMP TABLE reached AS SELECT DISTINCT k.tenant, k.id FROM outcome_keys k JOIN ("
                "SELECT tenant, key FROM run_joins SEMI JOIN doomed USING (tenant, run_id) UNION"
                " SELECT tenant, key FROM run_keys SEMI JOIN doomed USING (tenant, run_id)) USING (tenant, key)"
            )
            for table in ("run_keys", "snapshots", "traces", "steps", "alerts", "corrections", "run_joins", "runs"):
                db.execute(f"DELETE FROM {table} WHERE (tenant, run_id) IN (SELECT (tenant, run_id) FROM doomed)")  # noqa: S608
            db.execute(
                "DELETE FROM reached WHERE (tenant, id) IN (SELECT (k.tenant, k.id) FROM outcome_keys k JOIN ("
                "SELECT tenant, key FROM run_joins UNION ALL SELECT tenant, key FROM run_keys) USING (tenant, key))"
            )
            for table in ("outcome_keys", "outcomes"):
                db.execute(f"DELETE FROM {table} WHERE (tenant, id) IN (SELECT (tenant, id) FROM reached)")  # noqa: S608
            gone = {(str(tenant), str(run)) for tenant, run in db.execute("SELECT * FROM doomed").fetchall()}
            # Names of users and attributes live in facets: those that nothing speaks of any more go as well.
            db.execute("DELETE FROM facets WHERE id NOT IN (SELECT facet FROM call_rows)")
            db.execute("DROP TABLE doomed")
            db.execute("DROP TABLE reached")
            db.commit()
        except BaseException:
            self._roll_back()
            raise
        self._facets = {}  # some of them are gone; new calls write them again
        runs = {run for _, run in gone}
        self._written = {call_id: word for call_id, word in self._written.items() if word[0] not in runs}
        if count and self._path is not None:
            db.execute("CHECKPOINT")
        return count

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
                self._db.close()
                self._db = self._open()

    def _write_calls(self, batch: Batch, facets: _New, rates: _New, *, trusting: bool) -> list[tuple[str, Call]]:
        calls: dict[str, tuple[str, str, Call]] = {}
        gone: list[str] = []
        for (tenant, call_id), word in batch.calls.items():
            if word is None:
                gone.append(_uuid(call_id))
            else:
                calls[call_id] = (tenant, *word)
        written = self._written
        for (tenant, run_id), run in batch.closed.items():
            for call in run.calls:
                if call.id not in calls and written.get(call.id) != (run_id, call):
                    calls[call.id] = (tenant, run_id, call)
        # Looking for an old row of each call doubles the price of writing it, and nearly all are new.
        fresh: list[tuple[object, ...]] = []
        again: list[tuple[object, ...]] = []
        inherited = self._inherited
        for tenant, run_id, call in calls.values():
            new = trusting and call.id not in written and (tenant, run_id) not in inherited
            (fresh if new else again).append(_call_row(tenant, run_id, call, facets, rates))
        _load(self._db, _FACETS, facets.rows)
        _load(self._db, _RATES, rates.rows)
        if gone:
            with _staged(self._db, _shape("gone", id=_TEXT), [(one,) for one in gone]):
                self._db.execute("DELETE FROM call_rows WHERE id IN (SELECT id::UUID FROM staged)")
        _load(self._db, _CALLS, again, "INSERT OR REPLACE")
        _load(self._db, _CALLS, fresh)
        return [(run_id, call) for _, run_id, call in calls.values()]

    def _write_closed(self, batch: Batch) -> None:
        if not batch.closed:
            return
        runs = list(batch.closed.values())
        keys = {(run.summary.tenant, key): run.summary.run_id for run in runs for key in run.keys}
        key_rows = [(tenant, key, run_id) for (tenant, key), run_id in keys.items()]
        self._clear_before(runs, key_rows)
        _load(self._db, _RUNS, [_run_row(run) for run in runs], "INSERT OR REPLACE")
        _load(self._db, _KEYS, key_rows, "INSERT OR REPLACE")
        _load(
            self._db,
            _SNAPSHOTS,
            [(run.summary.tenant, run.summary.run_id, frozen) for run in runs if (frozen := run.snapshot())],
            "INSERT OR REPLACE",
        )
        traces = {(trace.tenant, trace.trace_id): trace for run in runs for trace in run.traces}
        _load(
            self._db,
            _TRACES,
            [(t.tenant, t.trace_id.hex(), t.run_id, t.nano, json.dumps(trace_line(t))) for t in traces.values()],
            "INSERT OR REPLACE",
        )
        _load(
            self._db,
            _STEPS,
            [
                (
                    node.tenant, node.run_id, node.trace_id or None, node.span_id or None, node.parent or None,
                    node.kind, node.name, node.agent, node.start_ns, node.end_ns, node.failed,
                    node.call_id, node.self_nano, node.status, node.likeness,
                )
                for run in runs
                for node in run.nodes()
            ],
        )  # fmt: skip

    def _clear_before(self, runs: Sequence[ClosedRun], key_rows: Sequence[tuple[str, str, str]]) -> None:
        """Take out what an earlier close of these runs wrote and this one does not say again.

        A run's list of calls is the whole truth only where this process has
        seen the run from its beginning or has woken it; rows of any other run are never touched.
        """
        closing = {(run.summary.tenant, run.summary.run_id) for run in runs}
        before: set[tuple[str, str]] = set()
        if key_rows:
            with _staged(self._db, _KEYS, key_rows):
                before.update(
                    self._db.execute(
                        "SELECT DISTINCT k.tenant, k.run_id FROM run_keys k JOIN staged s USING (tenant, key)"
                    ).fetchall()
                )
        stale = (before | closing) & self._inherited
        again = (before & closing) | stale
        if not again:
            return
        pair = _shape("pairs", tenant=_TEXT, run_id=_TEXT)
        with _staged(self._db, pair, sorted(again)):
            self._db.execute("DELETE FROM steps WHERE (tenant, run_id) IN (SELECT tenant, run_id FROM staged)")
        if not stale:
            return
        with _staged(self._db, pair, sorted(stale)):
            lost = self._db.execute(
                "SELECT c.id::VARCHAR FROM call_rows c JOIN facets f ON f.id = c.facet"
                " SEMI JOIN staged s ON s.tenant = f.tenant AND s.run_id = c.run_id"
            ).fetchall()
        kept = {_uuid(call.id) for run in runs for call in run.calls}
        gone = [(one,) for (one,) in lost if one.replace("-", "") not in kept]
        if gone:
            with _staged(self._db, _shape("gone", id=_TEXT), gone):
                self._db.execute("DELETE FROM call_rows WHERE id IN (SELECT id::UUID FROM staged)")
        if stale - closing:
            with _staged(self._db, pair, sorted(stale - closing)):
                for table in ("runs", "traces", "snapshots", "run_keys", "run_joins"):
                    self._db.execute(
                        f"DELETE FROM {table} WHERE (tenant, run_id) IN (SELECT tenant, run_id FROM staged)"  # noqa: S608  # our own names
                    )

    def _write_told(self, batch: Batch) -> None:
        _load(
            self._db,
            _ALERTS,
            [
                (
                    alert.id, alert.tenant, alert.run_id, alert.trace_id or None, alert.at_ns,
                    f"{alert.fingerprint}-{alert.seq}", alert.state == "resolved", alert.wasted_nano,
                    ",".join(span_id.hex() for span_id in alert.span_ids), alert.onset_span_id.hex(),
                    json.dumps(alert_json(alert)),
                )
                for alert in batch.alerts.values()
            ],
            "INSERT OR REPLACE",
        )  # fmt: skip
        lines = {
            _digest(line): (correction, line)
            for correction in batch.corrections
            for line in [json.dumps(correction_json(correction))]
        }
        _load(
            self._db,
            _CORRECTIONS,
            [
                (key, one.tenant, one.run_id, one.trace_id or None, one.at_ns, line)
                for key, (one, line) in lines.items()
            ],
            "INSERT OR IGNORE",
        )

    def _write_outcomes(self, batch: Batch) -> None:
        """News that is told again replaces what was known, unless it is older."""
        if batch.outcomes:
            rows = [
                (one.tenant, one.id, one.name, one.value, one.at_ns, json.dumps(outcome_json(one)))
                for one in batch.outcomes.values()
            ]
            with _staged(self._db, _OUTCOMES, rows):
                self._db.execute(
                    "INSERT INTO outcomes SELECT tenant, id, name, value, at_ns, line FROM staged"
                    " ON CONFLICT (tenant, id) DO UPDATE SET name = excluded.name, value = excluded.value,"
                    " at_ns = excluded.at_ns, line = excluded.line WHERE excluded.at_ns >= outcomes.at_ns"
                )
            keys = [(one.tenant, key, one.id) for one in batch.outcomes.values() for key in one.keys]
            _load(self._db, _OUTCOME_KEYS, sorted(set(keys)), "INSERT OR IGNORE")
        closed = {
            (tenant, key, run_id)
            for (tenant, run_id), run in batch.closed.items()
            for key in (*(f"trace:{t.hex()}" for t in run.summary.trace_ids), *run.joins)
        }
        closed |= {
            (tenant, key, run_id)
            for (tenant, run_id), run in batch.closed.items()
            for key in run.keys
            if key.startswith("session:")
        }
        _load(self._db, _RUN_JOINS, sorted(batch.joins | closed), "INSERT OR IGNORE")

    def _remember(self, batch: Batch, written: list[tuple[str, Call]]) -> None:
        for word in written:
            call = word[1]
            self._written[call.id] = word
            if isinstance(call.charge.items, Items):
                call.charge.items.forget()
        for _, call_id in (key for key, word in batch.calls.items() if word is None):
            self._written.pop(call_id, None)
        for key, run in batch.closed.items():
            self._inherited.discard(key)
            for call in run.calls:
                self._written.pop(call.id, None)

    # ---- reading ---------------------------------------------------------------

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        try:
            with self._db.cursor() as cursor:
                yield cursor
        except (duckdb.IOException, duckdb.OutOfMemoryException, duckdb.ConnectionException) as error:
            raise LedgerUnavailableError(f"ledger cannot be read: {_first_line(error)}") from error

    def _rows(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        with self._reading() as db:
            return db.execute(sql, list(parameters)).fetchall()

    def _named(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        with self._reading() as db:
            result = db.execute(sql, list(parameters))
            names = [column[0] for column in result.description or ()]
            return [dict(zip(names, row, strict=True)) for row in result.fetchall()]

    def cursor(self) -> int:
        rows = self._rows("SELECT value FROM progress WHERE name = 'journal'")
        return rows[0][0] if rows else 0

    def find_snapshot(self, tenant: str, key: str) -> bytes | None:
        rows = self._rows(
            "SELECT k.run_id, s.snapshot FROM run_keys k JOIN snapshots s USING (tenant, run_id)"
            " WHERE k.tenant = ? AND k.key = ?",
            [tenant, key],
        )
        if not rows:
            return None
        run_id, snapshot = rows[0]
        self._inherited.add((tenant, run_id))  # it is about to be woken: what it says next is its whole truth
        return bytes(snapshot)

    def closed_runs(
        self, since_ns: int | None = None, until_ns: int | None = None, tenant: str | None = None
    ) -> Iterator[tuple[str, str, bytes]]:
        names = self._rows(
            "SELECT tenant, run_id FROM runs WHERE end_ns >= ? AND start_ns < ? AND (?::VARCHAR IS NULL OR tenant = ?)"
            " ORDER BY start_ns, tenant, run_id",
            [_from(since_ns), _until(until_ns), tenant, tenant],
        )
        for owner, run_id in names:
            rows = self._rows("SELECT snapshot FROM snapshots WHERE tenant = ? AND run_id = ?", [owner, run_id])
            self._inherited.add((owner, run_id))
            yield owner, run_id, bytes(rows[0][0]) if rows else b""

    def closed_keys(self, limit: int) -> Iterator[tuple[str, str]]:
        with self._reading() as db:
            result = db.execute(
                "SELECT k.tenant, k.key FROM run_keys k JOIN runs r USING (tenant, run_id)"
                " ORDER BY r.end_ns DESC LIMIT ?",
                [limit],
            )
            while rows := result.fetchmany(10_000):
                yield from rows

    def sent_alerts(self) -> set[tuple[str, str]]:
        return set(self._rows("SELECT tenant, id FROM alerts"))

    def spends(self, since_ns: int) -> Iterator[tuple[str, Spend]]:
        dimensions = ", ".join(f'coalesce(f."{name}", r."{name}")' for name in _WHO)
        with self._reading() as db:
            result = db.execute(
                "SELECT replace(c.id::VARCHAR, '-', '')[:24], f.tenant, c.run_id, c.start_ns, c.nano, f.attrs, f.agent,"  # noqa: S608  # our own names
                " f.model, f.provider, f.tool, f.kind, f.status, c.failed, coalesce(c.session, r.session),"
                f" {dimensions} FROM call_rows c JOIN facets f ON f.id = c.facet"
                " LEFT JOIN runs r ON r.tenant = f.tenant AND r.run_id = c.run_id"
                " WHERE c.start_ns >= ? AND c.nano > 0 ORDER BY c.start_ns, c.id",
                [_from(since_ns)],
            )
            names = ("agent", "model", "provider", "tool", "kind", "status", "failed", "session", *_WHO)
            while rows := result.fetchmany(10_000):
                for call_id, tenant, run_id, start_ns, nano, attrs, *told in rows:
                    facts = (json.loads(attrs) if attrs else {}) | dict(zip(names, told, strict=True))
                    facts |= {"tenant": tenant, "run": run_id}
                    yield call_id, Spend(tenant, run_id, start_ns, nano, facts)

    def report(
        self,
        by: Sequence[str] = (),
        since_ns: int | None = None,
        until_ns: int | None = None,
        tenant: str | None = None,
    ) -> list[Row]:
        return self.reports([by], since_ns, until_ns, tenant)[0]

    def reports(
        self,
        asked: Sequence[Sequence[str]],
        since_ns: int | None = None,
        until_ns: int | None = None,
        tenant: str | None = None,
    ) -> list[list[Row]]:
        groupings = [checked_dimensions(by) for by in asked]
        if not groupings:
            return []
        names = tuple(dict.fromkeys(name for by in groupings for name in by))
        parameters: list[object] = []
        columns = "".join(f"{_dimension(name, parameters)} AS k{index}, " for index, name in enumerate(names))
        where, values = _span_of_time(since_ns, until_ns, tenant)
        sets = ", ".join(
            f"({', '.join(f'k{names.index(name)}' for name in sorted(by))})"
            for by in {frozenset(by) for by in groupings}
        )
        # A bit per key, the first the highest: it is not part of the grouping.
        place = f"grouping({', '.join(f'k{index}' for index in range(len(names)))})" if names else "0"
        has_waste = bool(self._rows("SELECT 1 FROM alerts WHERE wasted_nano > 0 LIMIT 1"))
        waste = "w.nano" if has_waste else "NULL::BIGINT"
        # Keys and tenants come as parameters; what is put into the text is ours.
        rows = self._rows(
            f"{f'WITH {_WASTE}' if has_waste else ''} SELECT {columns} {place}, sum(c.nano) AS nano, count(*),"  # noqa: S608
            " count(*) FILTER (f.hole AND c.nano IS NULL), count(*) FILTER (f.incomplete),"
            f" coalesce(sum(least({waste}, c.nano)) FILTER ({waste} IS NOT NULL), 0),"
            " coalesce(sum(c.input), 0), coalesce(sum(c.output), 0)"
            " FROM call_rows c JOIN facets f ON f.id = c.facet"
            + (" LEFT JOIN runs r ON r.tenant = f.tenant AND r.run_id = c.run_id" if _OF_RUNS & set(names) else "")
            + (" LEFT JOIN waste w ON w.id = c.id" if has_waste else "")
            + f" WHERE {where} GROUP BY GROUPING SETS ({sets})",
            [*parameters, *values],
        )
        found: dict[int, list[tuple[Any, ...]]] = {}
        for row in rows:
            found.setdefault(row[len(names)], []).append(row)
        return [
            [
                _told_sums(row, by, names)
                for row in sorted(found.get(_place(by, names), []), key=_dearest(by, names))
                if by or row[len(names) + 2]
            ]
            for by in groupings
        ]

    def spend_over_time(
        self, step_ns: int, since_ns: int, until_ns: int, tenant: str | None = None
    ) -> list[tuple[int, int]]:
        where, values = _span_of_time(since_ns, until_ns, tenant)
        facets = "" if tenant is None else "JOIN facets f ON f.id = c.facet"
        rows = self._rows(
            # Nothing of the caller's is in the text.
            f"SELECT c.start_ns // ? * ? AS step, sum(c.nano) FROM call_rows c {facets}"  # noqa: S608
            f" WHERE {where} AND c.nano IS NOT NULL GROUP BY step ORDER BY step",
            [step_ns, step_ns, *values],
        )
        return [(int(start), int(nano)) for start, nano in rows]

    def runs(
        self, top: int = 20, since_ns: int | None = None, until_ns: int | None = None, tenant: str | None = None
    ) -> list[Row]:
        rows = self._rows(
            "SELECT line FROM runs WHERE start_ns >= ? AND start_ns < ? AND (?::VARCHAR IS NULL OR tenant = ?)"
            " ORDER BY nano DESC NULLS LAST, start_ns DESC, run_id LIMIT ?",
            [_from(since_ns), _until(until_ns), tenant, tenant, top],
        )
        return self._judged([json.loads(line) for (line,) in rows])

    def alerts(self, limit: int = 100, since_ns: int | None = None, tenant: str | None = None) -> list[Row]:
        rows = self._rows(
            "SELECT line FROM alerts WHERE at_ns >= ? AND (?::VARCHAR IS NULL OR tenant = ?)"
            " QUALIFY row_number() OVER (PARTITION BY tenant, episode ORDER BY resolved DESC, at_ns DESC) = 1"
            " ORDER BY at_ns DESC, id LIMIT ?",
            [_from(since_ns), tenant, tenant, limit],
        )
        return [json.loads(line) for (line,) in rows]

    def loops(self, limit: int = 100, since_ns: int | None = None, tenant: str | None = None) -> list[Row]:
        return [
            {
                "tenant": of, "loop": loop, "kind": kind, "rule": rule, "summary": summary, "times": times,
                "runs": runs, "first_seen": rfc3339(first), "last_seen": rfc3339(last),
                "burn_usd": nano_to_text(nano),
            }
            for of, loop, times, runs, nano, first, last, kind, rule, summary in self._shapes(
                "at_ns >= ? AND (?::VARCHAR IS NULL OR tenant = ?)", limit, _from(since_ns), tenant, tenant
            )
        ]  # fmt: skip

    def shapes_of_finished_runs(self, most: int) -> Iterator[tuple[str, str, Seen]]:
        over = "EXISTS (FROM runs r WHERE r.tenant = a.tenant AND r.run_id = a.run_id)"
        for tenant, loop, times, runs, nano, *_ in reversed(self._shapes(over, most)):
            yield tenant, loop, Seen(times, runs, nano)

    def _shapes(self, condition: str, limit: int, *parameters: object) -> list[tuple[Any, ...]]:
        """Shapes over episodes (`a`) that meet a condition, the dearest first."""
        latest = ", ".join(
            f"arg_max(json_extract_string(line, '$.{name}'), at_ns)" for name in ("kind", "rule", "summary")
        )
        return self._rows(
            "SELECT tenant, loop, count(*) AS times, count(DISTINCT run_id),"  # noqa: S608  # our own words
            " coalesce(sum(wasted_nano), 0)::BIGINT AS nano,"
            f" min(begun_ns), max(at_ns), {latest}"
            " FROM (SELECT *, min(at_ns) OVER (PARTITION BY tenant, episode) AS begun_ns,"
            " json_extract_string(line, '$.evidence.loop') AS loop,"
            " json_extract_string(line, '$.category') AS category FROM alerts"
            " QUALIFY row_number() OVER (PARTITION BY tenant, episode ORDER BY resolved DESC, at_ns DESC) = 1"
            f") a WHERE loop IS NOT NULL AND category IN ('loop', 'waste') AND {condition}"
            " GROUP BY tenant, loop ORDER BY nano DESC, times DESC, loop LIMIT ?",
            [*parameters, limit],
        )

    def usual(self, most: int) -> Iterator[tuple[str, str, list[Taken]]]:
        rows = self._rows(
            "SELECT tenant, workflow, list(nano ORDER BY end_ns), list(calls ORDER BY end_ns) FROM (SELECT tenant,"
            " workflow, nano, end_ns, json_extract(line, '$.llm_calls')::BIGINT"
            " + json_extract(line, '$.tool_calls')::BIGINT AS calls FROM runs WHERE workflow IS NOT NULL"
            " QUALIFY row_number() OVER (PARTITION BY tenant, workflow ORDER BY end_ns DESC) <= ?)"
            " GROUP BY tenant, workflow",
            [most],
        )
        for tenant, workflow, nano, calls in rows:
            yield tenant, workflow, [Taken(*one) for one in zip(nano, calls, strict=True)]

    def run(self, run_or_trace_id: str, tenant: str | None = None) -> Row | None:
        found = self._rows(
            "SELECT tenant, run_id FROM runs WHERE run_id = ? AND (?::VARCHAR IS NULL OR tenant = ?)"
            " UNION ALL SELECT tenant, run_id FROM run_keys WHERE key = ? AND (?::VARCHAR IS NULL OR tenant = ?)"
            " UNION ALL SELECT DISTINCT tenant, run_id FROM calls"
            " WHERE (run_id = ? OR trace_id = ?) AND (?::VARCHAR IS NULL OR tenant = ?) LIMIT 1",
            [*[run_or_trace_id, tenant, tenant] * 2, run_or_trace_id, _id_bytes(run_or_trace_id), tenant, tenant],
        )
        if not found:
            return None
        owner, run_id = found[0]
        calls = self._calls_of(owner, run_id)
        lines = self._rows("SELECT line FROM runs WHERE tenant = ? AND run_id = ?", [owner, run_id])
        mine = [owner, run_id]
        traces = sorted({bytes.fromhex(str(call["trace_id"])) for call in calls if call["trace_id"]})
        return story(
            self._judged([json.loads(lines[0][0]) if lines else _open_run(owner, run_id, calls)])[0],
            self._lines("SELECT line FROM traces WHERE tenant = ? AND run_id = ? ORDER BY trace_id", mine),
            calls,
            self._nodes_of(owner, run_id),
            # What was said before two runs became one names the run of then; the trace stays.
            self._lines(
                f"SELECT line FROM alerts WHERE {_OF_RUN}"  # noqa: S608  # our own words
                " QUALIFY row_number() OVER (PARTITION BY episode ORDER BY resolved DESC, at_ns DESC) = 1"
                " ORDER BY at_ns, id",
                [*mine, traces],
            ),
            self._lines(f"SELECT line FROM corrections WHERE {_OF_RUN} ORDER BY at_ns, id", [*mine, traces]),  # noqa: S608
        )

    def outcomes(self, runs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], list[Outcome]]:
        if not runs:
            return {}
        with self._reading() as db, _staged(db, _shape("pairs", tenant=_TEXT, run_id=_TEXT), sorted(set(runs))):
            rows = db.execute(f"{_REACHED} SELECT tenant, run_id, start_ns, key, line FROM reached").fetchall()  # noqa: S608  # our own words
        return _by_run(rows)

    def news(self, limit: int = 100, since_ns: int | None = None, tenant: str | None = None) -> list[Row]:
        told = [
            outcome_of(json.loads(line))
            for (line,) in self._rows(
                "SELECT line FROM outcomes WHERE at_ns >= ? AND (?::VARCHAR IS NULL OR tenant = ?)"
                " ORDER BY at_ns DESC, id LIMIT ?",
                [_from(since_ns), tenant, tenant, limit],
            )
        ]
        keys = sorted({key for one in told for key in one.keys})
        near = self._rows(
            "SELECT DISTINCT tenant, run_id FROM run_joins WHERE list_contains(?::VARCHAR[], key)"
            " UNION SELECT DISTINCT tenant, run_id FROM run_keys WHERE list_contains(?::VARCHAR[], key)",
            [keys, keys],
        )
        reached: dict[tuple[str, str], list[str]] = {}
        for (owner, run_id), outcomes in sorted(self.outcomes([(row[0], row[1]) for row in near]).items()):
            for one in outcomes:
                reached.setdefault((owner, one.id), []).append(run_id)
        return [
            {
                **outcome_map(one),
                "tenant": one.tenant,
                "keys": list(one.keys),
                "runs": reached.get((one.tenant, one.id), []),
            }
            for one in told
        ]

    def outcomes_by_keys(self, tenant: str, keys: Sequence[str], start_ns: int) -> list[Outcome]:
        rows = self._rows(
            "SELECT k.key, o.line FROM outcome_keys k JOIN outcomes o USING (tenant, id)"
            " WHERE k.tenant = ? AND list_contains(?::VARCHAR[], k.key)",
            [tenant, list(keys)],
        )
        return reaching([(key, outcome_of(json.loads(line))) for key, line in rows], start_ns)

    def recorded(
        self, since_ns: int | None = None, until_ns: int | None = None, tenant: str | None = None
    ) -> Iterator[tuple[str, str, bytes, str]]:
        names = self._rows(
            "SELECT tenant, run_id FROM runs WHERE end_ns >= ? AND start_ns < ? AND (?::VARCHAR IS NULL OR tenant = ?)"
            " ORDER BY start_ns, tenant, run_id",
            [_from(since_ns), _until(until_ns), tenant, tenant],
        )
        for at in range(0, len(names), 100):
            some = names[at : at + 100]
            outcomes = self.outcomes(some)
            for owner, run_id in some:
                rows = self._rows("SELECT snapshot FROM snapshots WHERE tenant = ? AND run_id = ?", [owner, run_id])
                verdict = judge(outcomes.get((owner, run_id), ())).verdict
                if rows:
                    yield owner, run_id, bytes(rows[0][0]), verdict

    def finished(self, since_ns: int) -> Iterator[Ran]:
        since = [_from(since_ns)]
        of_runs = (
            "FROM call_rows c JOIN facets f ON f.id = c.facet"
            " JOIN runs r ON r.tenant = f.tenant AND r.run_id = c.run_id WHERE r.end_ns >= ?"
        )
        figures = {
            (owner, run_id): rest
            for owner, run_id, *rest in self._rows(
                f"SELECT f.tenant, c.run_id, median(c.input) FILTER (f.kind IN {_MODEL_KINDS}),"  # our own words
                f" count(*) FILTER (c.failed AND f.kind IN {_MODEL_KINDS}) + sum(c.attempts - 1),"
                f" list(DISTINCT f.attrs) FILTER (f.attrs IS NOT NULL) {of_runs} GROUP BY ALL",
                since,
            )
        }
        tools: dict[tuple[str, str], dict[str, int]] = {}
        for owner, run_id, tool, count in self._rows(
            f"SELECT f.tenant, c.run_id, coalesce(f.tool, 'unknown'), count(*) {of_runs}"
            " AND f.kind = 'tool' GROUP BY ALL",
            since,
        ):
            tools.setdefault((owner, run_id), {})[tool] = count
        loops: dict[tuple[str, str], dict[str, int]] = {}
        for owner, run_id, shape, nano in self._rows(
            "SELECT a.tenant, a.run_id, json_extract_string(a.line, '$.evidence.loop') AS shape, a.wasted_nano"
            " FROM alerts a JOIN runs r USING (tenant, run_id)"
            " WHERE r.end_ns >= ? AND a.wasted_nano > 0 AND shape IS NOT NULL"
            " QUALIFY row_number() OVER (PARTITION BY a.tenant, a.episode ORDER BY a.resolved DESC) = 1",
            since,
        ):
            mine = loops.setdefault((owner, run_id), {})
            mine[shape] = mine.get(shape, 0) + nano
        who = ", ".join(f'"{name}"' for name in _WHO)
        for owner, run_id, start_ns, end_ns, nano, text, *said in self._rows(
            f"SELECT tenant, run_id, start_ns, end_ns, nano, line, {who} FROM runs"  # noqa: S608
            " WHERE end_ns >= ? AND nano IS NOT NULL ORDER BY end_ns, start_ns, run_id",
            since,
        ):
            line = json.loads(text)
            if line["complete"]:
                context, retries, attrs = figures.get((owner, run_id), (None, 0, None))
                of_whom = {name: value for name, value in zip(_WHO, said, strict=True) if value is not None}
                more = {key: value for one in attrs or () for key, value in json.loads(one).items()}
                yield Ran(
                    tenant=owner,
                    run_id=run_id,
                    trace_id=bytes.fromhex(min(line["trace_ids"], default="")),
                    start_ns=start_ns,
                    end_ns=end_ns,
                    nano=nano,
                    facts=facts_of_line(line) | more | of_whom,
                    route=tuple(leg["model"] for leg in line["model_route"]),
                    context=round(context or 0),
                    llm_calls=line["llm_calls"],
                    retries=int(retries or 0),
                    tools=tools.get((owner, run_id), {}),
                    loops=loops.get((owner, run_id), {}),
                )

    def per_outcome(
        self,
        by: Sequence[str] = (),
        since_ns: int | None = None,
        until_ns: int | None = None,
        tenant: str | None = None,
    ) -> list[Row]:
        names = checked_dimensions(by, ROUTE)
        window = [_from(since_ns), _until(until_ns)]
        parameters: list[object] = [*window, *window, tenant, tenant]
        dimensions = [
            f"{'b.route' if name == ROUTE else _dimension(name, parameters)} AS k{i}" for i, name in enumerate(names)
        ]
        keys = [f"k{index}" for index in range(len(names))]
        parts = _PARTS.format(
            began=_BEGAN_BY_ROUTE if ROUTE in names else _BEGAN,
            session="session" if "session" in names else "NULL",
            columns="".join(f"{column}, " for column in dimensions),
            keys="".join(f", {key}" for key in keys),
            runs=_RUN_OF_PART if _OF_RUNS & set(names) else "",
        )
        with self._reading() as db:
            db.execute(f"CREATE OR REPLACE TEMP TABLE parts AS {parts}", parameters)
            told = db.execute("SELECT * EXCLUDE (is_told) FROM parts WHERE is_told ORDER BY ALL").fetchall()
            silent = db.execute(
                _SILENT.format(keys="".join(f"{key}, " for key in keys), group=", ".join(keys) or "()")
            ).fetchall()
            db.execute("DROP TABLE parts")
        of_runs = [
            Part((owner, run), tuple(rest[:-3]), None if rest[-3] is None else int(rest[-3]), *map(int, rest[-2:]))
            for owner, run, *rest in told
        ]
        of_others = [
            Silent(tuple(rest[:-5]), None if rest[-5] is None else int(rest[-5]), *map(int, rest[-4:]))
            for rest in silent
        ]
        return cost_per_outcome(of_runs, self.outcomes([part.run for part in of_runs]), names, of_others)

    def _judged(self, lines: list[Row]) -> list[Row]:
        """Run lines with what is known of them by now."""
        found = self.outcomes([(str(line["tenant"]), str(line["run_id"])) for line in lines])
        return [with_outcomes(line, found.get((str(line["tenant"]), str(line["run_id"])), [])) for line in lines]

    def _lines(self, sql: str, parameters: Sequence[object]) -> list[Row]:
        return [json.loads(line) for (line,) in self._rows(sql, parameters)]

    def _calls_of(self, tenant: str, run_id: str) -> list[Row]:
        rows = self._named(
            "SELECT replace(c.id::VARCHAR, '-', '')[:24] AS call_id, c.*, f.* EXCLUDE (id),"
            " coalesce(c.session, r.session) AS whose FROM call_rows c JOIN facets f ON f.id = c.facet"
            " LEFT JOIN runs r ON r.tenant = f.tenant AND r.run_id = c.run_id"
            " WHERE f.tenant = ? AND c.run_id = ? ORDER BY c.start_ns, c.span_id, c.id",
            [tenant, run_id],
        )
        wanted = sorted({int(item.split(":")[0]) for row in rows for item in str(row["items"]).split(",") if item})
        rates = {
            row[0]: row[1:]
            for row in self._rows(
                "SELECT id, unit, part, femto, per, source, valid_from FROM rates"
                " WHERE list_contains(?::INTEGER[], id)",
                [wanted],
            )
        }
        return [_told_call(row, rates) for row in rows]

    def _nodes_of(self, tenant: str, run_id: str) -> list[Row]:
        rows = self._named(
            "SELECT lower(hex(span_id)) AS span_id, lower(hex(trace_id)) AS trace_id, lower(hex(parent)) AS parent_id,"
            " call_id, kind, name, agent, start_ns, end_ns, failed, status, self_nano, likeness FROM steps"
            " WHERE tenant = ? AND run_id = ? ORDER BY start_ns, span_id",
            [tenant, run_id],
        )
        for row in rows:
            row["self_nano"] = None if row["self_nano"] is None else int(str(row["self_nano"]))
        return rows


class _New:
    """Numbers for values that repeat; new ones are kept only once their rows are committed."""

    _FULL: Final = 200_000  # then start over: a value that is numbered twice costs a row, nothing else

    def __init__(self, known: dict[tuple[object, ...], int], number: int) -> None:
        self._known, self._number = known, number
        self._new: dict[tuple[object, ...], int] = {}
        self.rows: list[tuple[object, ...]] = []

    def number(self, key: tuple[object, ...], row: Callable[..., tuple[object, ...]]) -> int:
        found = self._known.get(key) or self._new.get(key)
        if found is None:
            found = self._new[key] = self._number
            self._number += 1
            self.rows.append((found, *row(*key)))
        return found

    def keep(self) -> int:
        """Remember the new ones; the next free number."""
        if len(self._known) > self._FULL:
            self._known.clear()
        self._known.update(self._new)
        return self._number


def _call_row(tenant: str, run_id: str, call: Call, facets: _New, rates: _New) -> tuple[object, ...]:
    step, charge = call.step, call.charge
    usage = charge.usage or step.usage
    status, reason, nano, items = charge.status, charge.reason, charge.nano, charge.items
    if nano is not None and nano > _MAX:
        # Nine billion dollars for one call is a sender's mistake; it must not stop the ledger.
        status, reason, nano, items = Status.INVALID, Reason.INCONSISTENT_USAGE, None, ()
    steps = call.steps
    facet = facets.number(
        (
            tenant, call.kind, step.operation, step.provider, step.requested_model, step.response_model, call.agent,
            step.tool, tuple(call.who.items()), status, reason, charge.basis, call.flags,
            (steps[0].source,) if len(steps) == 1 else call.sources, charge.price_book,
        ),
        _facet_row,
    )  # fmt: skip
    return (
        _uuid(call.id),
        facet,
        run_id,
        step.trace_id or None,
        step.span_id or None,
        step.session,
        step.start_ns,
        step.end_ns,
        call.attempts,
        call.failed,
        nano,
        step.reported_nano,
        *(
            (None, None, None, None, None)
            if usage is None
            else (
                usage.input, usage.cache_read, usage.cache_write,
                usage.output, usage.reasoning,
            )
        ),
        ",".join([f"{rates.number(_rate_key(item), _rate_row)}:{item.quantity}:{item.nano}" for item in items]),
    )  # fmt: skip


def _facet_row(
    tenant: str, kind: Kind, operation: str | None, provider: str | None, requested: str | None,
    response: str | None, agent: str | None, tool: str | None, who: tuple[tuple[str, str], ...], status: Status,
    reason: Reason | None, basis: str, flags: frozenset[Flag], sources: tuple[str, ...], price_book: str,
) -> tuple[object, ...]:  # fmt: skip
    said = dict(who)
    dimensions = [said.pop(name, None) for name in _WHO]
    return (
        tenant, kind, operation, provider, response or requested, requested, response, agent, tool, *dimensions,
        json.dumps(said, sort_keys=True) if said else None, status, reason, basis, ",".join(sorted(flags)),
        ",".join(sources), price_book, _is_hole(kind, status, reason, flags), Flag.INCOMPLETE in flags,
    )  # fmt: skip


def _is_hole(kind: str, status: str, reason: str | None, flags: Iterable[str]) -> bool:
    """As `Call.is_hole`: money was or may have been spent that no total shows."""
    if status == Status.PRICED or kind not in MODEL_KINDS:
        return Flag.INCOMPLETE in flags
    return reason != Reason.FAILED_CALL


def _rate_key(item: Item) -> tuple[object, ...]:
    return item.unit, item.part, item.rate, item.source, item.valid_from


def _rate_row(unit: str, part: str, rate: Rate, source: str, valid_from: str | None) -> tuple[object, ...]:
    return unit, part, str(rate.femto), str(rate.per), source, valid_from


def _run_row(run: ClosedRun) -> tuple[object, ...]:
    summary = run.summary
    return (
        summary.tenant, summary.run_id, summary.start_ns, summary.end_ns, summary.nano,
        summary.wasted_nano, summary.session, *(summary.who.get(name) for name in _WHO),
        json.dumps(told_run(summary, is_open=False)),
    )  # fmt: skip


def _told_call(row: Row, rates: dict[int, tuple[Any, ...]]) -> dict[str, Any]:
    """A call line (`story.told_call`) from its row."""
    items = []
    for item in str(row["items"]).split(","):
        if item:
            number, quantity, nano = map(int, item.split(":"))
            unit, part, femto, per, source, valid_from = rates[number]
            items.append(
                {
                    "unit": unit,
                    "part": part,
                    "quantity": quantity,
                    "rate": exact_text(Rate(int(femto), int(per)).usd),
                    "usd": usd(nano),
                    "source": source,
                    "valid_from": valid_from,
                }
            )
    usage = {name: row[name] for name in ("input", "cache_read", "cache_write", "output", "reasoning")}
    told: dict[str, Any] = {
        name: row[name]
        for name in (
            "run_id", "tenant", "kind", "operation", "provider", "model", "requested_model", "response_model", "tool",
            "agent", "attempts", "status", "reason", "basis", "failed", "price_book",
        )
    }  # fmt: skip
    return told | {
        "type": "call",
        "id": row["call_id"],
        "trace_id": _hex(row["trace_id"]),
        "span_id": _hex(row["span_id"]),
        "start_time": rfc3339(row["start_ns"]),  # type: ignore[arg-type]  # BIGINT NOT NULL
        "end_time": rfc3339(row["end_ns"]),  # type: ignore[arg-type]
        "session": row["whose"],
        "cost_usd": usd(row["nano"]),  # type: ignore[arg-type]  # BIGINT or NULL
        "reported_usd": usd(row["reported_nano"]),  # type: ignore[arg-type]
        "usage": None if usage["input"] is None else usage,
        "flags": [flag for flag in str(row["flags"]).split(",") if flag],
        "sources": str(row["sources"]).split(","),
        "items": items,
    }


def _open_run(tenant: str, run_id: str, calls: list[dict[str, Any]]) -> Row:
    """A run line for a run that has not been closed, from the calls that have been written so far."""
    model_calls = [call for call in calls if call["kind"] in MODEL_KINDS]
    route: dict[str, dict[str, Any]] = {}
    for call in model_calls:
        leg = route.setdefault(
            call["model"] or "unknown", {"model": call["model"] or "unknown", "calls": 0, "cost_usd": None}
        )
        leg["calls"] += 1
        leg["cost_usd"] = _sum_usd([leg["cost_usd"], call["cost_usd"]])
    holes = [call for call in calls if _is_hole(call["kind"], call["status"], call["reason"], call["flags"])]
    return {
        "type": "run",
        "run_id": run_id,
        "tenant": tenant,
        "trace_ids": sorted({call["trace_id"] for call in calls if call["trace_id"]}),
        "cost_usd": _sum_usd([call["cost_usd"] for call in calls]),
        "complete": not holes,
        "unpriced_calls": sum(call["status"] != Status.PRICED for call in holes),
        "llm_calls": len(model_calls),
        "tool_calls": sum(call["kind"] == Kind.TOOL for call in calls),
        "errors": sum(call["failed"] for call in calls),
        "agents": list(dict.fromkeys(call["agent"] for call in calls if call["agent"])),
        "workflow": None,
        "user": None,
        "team": None,
        "session": next((call["session"] for call in calls if call["session"]), None),
        "wasted_usd": None,
        "outcome": None,
        "verdict": Verdict.UNKNOWN,
        "verdict_why": UNJUDGED.why,
        "outcomes": [],
        "model_route": list(route.values()),
        "start_time": min(call["start_time"] for call in calls),
        "end_time": max(call["end_time"] for call in calls),
        "open": True,
    }


def _sum_usd(amounts: Iterable[str | None]) -> str | None:
    known = [usd_to_nano(amount) for amount in amounts if amount is not None]
    return usd(sum(known)) if known else None


# ---- small tools ---------------------------------------------------------------


@contextmanager
def _staged(db: Connection, shape: _Shape, rows: Sequence[tuple[object, ...]]) -> Iterator[None]:
    """Rows as a table called `staged`, for the time of the block."""
    columns = zip(shape.columns, zip(*rows, strict=True), shape.types, strict=True)
    db.register("staged", Table.from_pydict({name: _array(name, list(row), kind) for name, row, kind in columns}))
    yield
    db.unregister("staged")  # after an error the roll-back takes it away


def _load(db: Connection, shape: _Shape, rows: Sequence[tuple[object, ...]], verb: str = "INSERT") -> None:
    if not rows:
        return
    names = ", ".join(f'"{name}"' for name in shape.columns)
    with _staged(db, shape, rows):
        db.execute(f"{verb} INTO {shape.table} ({names}) SELECT {names} FROM staged")  # noqa: S608  # our own names


_OF_RUN: Final = "tenant = ? AND (run_id = ? OR list_contains(?::BLOB[], trace_id))"

# Of a run's episodes those that its own figure counts (`core/assemble/summary.wasted`): its loops, or the largest
# single one if that is more. What each burnt is spread over the calls it burnt it on, to the nano-dollar: in proportion
# to their cost, the rest to the dearest. The calls are those of its spans from the onset on; where these have no
# price (tools), the model calls of the same run between them; where there are none, all calls of the run. Episodes are
# numbered (`e`): grouping by a number is several times faster than by names.
_WASTE: Final = """
told AS (
    SELECT tenant, run_id, trace_id, wasted_nano, onset, episode,
        list_transform(string_split(span_ids, ','), lambda x: unhex(x)) AS spans,
        json_extract_string(line, '$.category') = 'loop' AS is_loop
    FROM alerts WHERE wasted_nano > 0
    QUALIFY row_number() OVER (PARTITION BY tenant, episode ORDER BY resolved DESC, at_ns DESC) = 1
),
episodes AS (
    SELECT *, row_number() OVER () AS e, list_position(spans, unhex(onset)) AS onset_pos, len(spans) AS last_pos
    FROM told
    WINDOW run AS (PARTITION BY tenant, run_id)
    QUALIFY CASE
        WHEN coalesce(sum(wasted_nano) FILTER (is_loop) OVER run, 0) >= max(wasted_nano) OVER run THEN is_loop
        ELSE row_number() OVER (PARTITION BY tenant, run_id ORDER BY wasted_nano DESC, episode) = 1
    END
),
pairs AS (
    SELECT e.*, c.id, c.facet, c.nano, c.start_ns, c.span_id FROM episodes e JOIN call_rows c ON c.run_id = e.run_id
    UNION ALL
    SELECT e.*, c.id, c.facet, c.nano, c.start_ns, c.span_id
    FROM episodes e JOIN call_rows c ON c.trace_id = e.trace_id AND c.run_id <> e.run_id
),
suspects AS (
    SELECT e, wasted_nano, onset_pos, last_pos, p.id, nano, start_ns, list_position(spans, span_id) AS pos
    FROM pairs p JOIN facets f ON f.id = p.facet AND f.tenant = p.tenant
),
bounds AS (
    SELECT e, min(start_ns) FILTER (pos = 1) AS first_ns, max(start_ns) FILTER (pos = last_pos) AS last_ns
    FROM suspects GROUP BY e
),
levels AS (
    SELECT e, wasted_nano, id, nano,
        CASE WHEN pos >= onset_pos THEN 1 WHEN start_ns BETWEEN first_ns AND last_ns THEN 2 ELSE 3 END AS level
    FROM suspects JOIN bounds USING (e) WHERE nano > 0
),
blamed AS (
    SELECT * FROM levels JOIN (SELECT e, min(level) AS level FROM levels GROUP BY e) USING (e, level)
),
shares AS (
    SELECT e, id, wasted_nano, (wasted_nano::HUGEINT * nano) // whole AS share,
        row_number() OVER (PARTITION BY e ORDER BY nano DESC, id) AS place
    FROM blamed JOIN (SELECT e, sum(nano) AS whole FROM blamed GROUP BY e) USING (e)
),
waste AS (
    SELECT id, sum(share + CASE WHEN place = 1 THEN wasted_nano - given ELSE 0 END) AS nano
    FROM shares JOIN (SELECT e, sum(share) AS given FROM shares GROUP BY e) USING (e) GROUP BY id
)
"""


# What became of the runs in `staged`: by the keys they are known by. A response's id leads to closed runs only.
_REACHED: Final = """
WITH known AS (
    SELECT tenant, run_id, key FROM staged JOIN run_joins USING (tenant, run_id)
    UNION
    SELECT tenant, run_id, key FROM staged JOIN run_keys USING (tenant, run_id) WHERE starts_with(key, 'response:')
),
reached AS (
    SELECT n.tenant, n.run_id, n.key, o.line, coalesce(r.start_ns, (
        SELECT min(c.start_ns) FROM call_rows c JOIN facets f ON f.id = c.facet
        WHERE c.run_id = n.run_id AND f.tenant = n.tenant
    ), 0) AS start_ns
    FROM known n
    JOIN outcome_keys k ON k.tenant = n.tenant AND k.key = n.key
    JOIN outcomes o ON o.tenant = k.tenant AND o.id = k.id
    LEFT JOIN runs r ON r.tenant = n.tenant AND r.run_id = n.run_id
)
"""


_MODEL_KINDS: Final = str(tuple(sorted(kind.value for kind in MODEL_KINDS)))

_BEGAN: Final = "SELECT f.tenant, c.run_id, NULL AS route FROM sums c JOIN facets f ON f.id = c.facet"
_BEGAN_BY_ROUTE: Final = f"""
    SELECT tenant, run_id, string_agg(model, ' → ' ORDER BY first_ns, model) FILTER (is_model) AS route
    FROM (
        SELECT f.tenant, c.run_id, coalesce(f.model, 'unknown') AS model, f.kind IN {_MODEL_KINDS} AS is_model,
            min(c.first_ns) AS first_ns
        FROM sums c JOIN facets f ON f.id = c.facet GROUP BY ALL
    )
"""  # noqa: S608  # our own words
_RUN_OF_PART: Final = "LEFT JOIN runs r ON r.tenant = f.tenant AND r.run_id = c.run_id"

# What each run that began in a stretch of time spent under each group of the dimensions, and whether any news may be
# about it. `route`: the models it went through, in the order of their first call. Calls are added up by run and facet
# before names are looked at: there are far fewer of these.
_PARTS: Final = f"""
WITH near AS (
    SELECT run_id FROM call_rows GROUP BY run_id HAVING max(start_ns) >= ? AND min(start_ns) < ?
),
sums AS (
    SELECT facet, run_id, {{session}} AS session, min(start_ns) AS first_ns, sum(nano) AS nano, count(*) AS calls
    FROM call_rows SEMI JOIN near USING (run_id) GROUP BY ALL
),
began AS (
    {{began}} GROUP BY tenant, run_id
    HAVING min(first_ns) >= ? AND min(first_ns) < ? AND (?::VARCHAR IS NULL OR tenant = ?)
),
told AS (
    SELECT j.tenant, j.run_id FROM run_joins j SEMI JOIN outcome_keys USING (tenant, key)
    UNION
    SELECT k.tenant, k.run_id FROM run_keys k SEMI JOIN outcome_keys USING (tenant, key)
),
grouped AS (
    SELECT f.tenant, c.run_id, {{columns}} sum(c.nano) AS nano,
        coalesce(sum(c.calls) FILTER (f.kind IN {_MODEL_KINDS}), 0) AS model_calls,
        coalesce(sum(c.calls) FILTER (f.hole), 0) AS holes
    FROM sums c JOIN facets f ON f.id = c.facet
    JOIN began b ON b.tenant = f.tenant AND b.run_id = c.run_id {{runs}}
    GROUP BY f.tenant, c.run_id {{keys}}
)
SELECT g.*, t.run_id IS NOT NULL AS is_told FROM grouped g LEFT JOIN told t USING (tenant, run_id)
"""  # noqa: S608  # our own words

# The same, added up, for runs that no news is about: of a run that spends, what spends nothing makes no row of its own.
_SILENT: Final = """
WITH spent AS (SELECT *, nano IS NOT NULL OR model_calls + holes > 0 AS spends FROM parts WHERE NOT is_told)
SELECT {keys} sum(nano), sum(model_calls), sum(holes), count(*), count(*) FILTER (holes > 0)
FROM (SELECT *, bool_or(spends) OVER (PARTITION BY tenant, run_id) AS any_spends FROM spent)
WHERE spends OR NOT any_spends GROUP BY {group} HAVING count(*) > 0
"""


def _by_run(rows: Iterable[tuple[Any, ...]]) -> dict[tuple[str, str], list[Outcome]]:
    """Of (tenant, run id, start, shared key, line): the news that is about each run."""
    told: dict[tuple[str, str], list[tuple[str, Outcome]]] = {}
    starts: dict[tuple[str, str], int] = {}
    for tenant, run_id, start_ns, key, line in rows:
        starts[tenant, run_id] = start_ns
        told.setdefault((tenant, run_id), []).append((key, outcome_of(json.loads(line))))
    found = {run: reaching(news, starts[run]) for run, news in told.items()}
    return {run: news for run, news in found.items() if news}


def _dimension(name: str, parameters: list[object]) -> str:
    """SQL of a dimension. What a call does not say itself its run may: who it was for is a fact of the whole run."""
    if name.startswith(ATTRIBUTE):
        parameters.append(name.removeprefix(ATTRIBUTE))
        return "json_extract_string(f.attrs, '$.' || to_json(?::VARCHAR))"
    if name == "session":
        return "coalesce(c.session, r.session)"
    if name in _WHO:
        return f'coalesce(f."{name}", r."{name}")'
    return f'f."{name}"'


def _place(by: Sequence[str], names: Sequence[str]) -> int:
    """What `grouping` says of rows that are grouped by some of the names."""
    return sum(1 << (len(names) - 1 - index) for index, name in enumerate(names) if name not in by)


def _dearest(by: Sequence[str], names: Sequence[str]) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    """Sort key of rows of sums: dearest first, what has no price last, then by their keys."""

    def key(row: tuple[Any, ...]) -> tuple[Any, ...]:
        nano, keys = row[len(names) + 1], (row[names.index(name)] for name in by)
        return nano is None, -(nano or 0), *((one is None, one or "") for one in keys)

    return key


def _told_sums(row: tuple[Any, ...], by: Sequence[str], names: Sequence[str]) -> Row:
    nano, calls, unpriced, incomplete, wasted, spent_in, spent_out = row[len(names) + 1 :]
    return {
        **{name: row[names.index(name)] for name in by},
        "cost_usd": usd(nano),
        "calls": calls,
        "unpriced_calls": unpriced,
        "incomplete_calls": incomplete,
        "wasted_usd": usd(wasted),
        "input_tokens": int(spent_in),
        "output_tokens": int(spent_out),
    }


def _span_of_time(since_ns: int | None, until_ns: int | None, tenant: str | None) -> tuple[str, list[object]]:
    where = "c.start_ns >= ? AND c.start_ns < ?"
    values: list[object] = [_from(since_ns), _until(until_ns)]
    if tenant is not None:
        where += " AND f.tenant = ?"
        values.append(tenant)
    return where, values


def _from(ns: int | None) -> int:
    return -1 if ns is None else min(ns, _MAX)


def _until(ns: int | None) -> int:
    return _MAX if ns is None else min(ns, _MAX)


def _array(name: str, values: list[Any], kind: DataType) -> Array:
    """A column. Numbers that no 64 bits hold are a sender's mistake and must not stop the ledger.

    OTLP's times go to the year 2554, ours to 2262: the last instant stands for what is later. A count is left out.
    """
    try:
        return Array(values, kind)
    except OverflowError:
        beyond = _MAX if name.endswith("_ns") else None
        return Array([value if value is None or -_MAX <= value <= _MAX else beyond for value in values], kind)


def _uuid(call_id: str) -> str:
    """A call id (12 bytes in hex, made from the tenant too) as the text of a UUID, DuckDB's narrowest 16-byte key."""
    return call_id + "00000000"


def _hex(value: object) -> str | None:
    return value.hex() if isinstance(value, bytes) else None


def _id_bytes(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b"\0"  # no id looks like this


def _digest(line: str) -> str:
    return hashlib.blake2b(line.encode(), digest_size=12).hexdigest()


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
