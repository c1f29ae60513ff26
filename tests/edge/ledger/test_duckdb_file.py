"""The ledger's file: locked, versioned, replayed after a crash, and patient with a full disk."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import ledger_cases as cases
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "core" / "assemble"))

from test_snapshot import OF_VERSION_2

from otel_cost.core.model.effects import Effects
from otel_cost.core.model.outcome import Outcome, Result
from otel_cost.edge.ledger import Batch, LedgerUnavailableError, writer
from otel_cost.edge.ledger import duckdb as duckdb_ledger
from otel_cost.edge.ledger.duckdb import MIGRATIONS, DuckDbLedger, _stretches
from otel_cost.edge.ledger.writer import KeyFilter, LedgerWriter
from otel_cost.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_cost.core.model.call import Call
    from otel_cost.edge.ledger.rows import Shape


def batch_of(*calls, run_id: str = "r") -> Batch:
    batch = Batch()
    batch.add(Effects(calls=[("default", run_id, call) for call in calls]))
    return batch


def in_another_process(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).resolve().parents[3],
    )


OPEN_IT = """
    import pathlib, sys
    from otel_cost.edge.ledger.duckdb import DuckDbLedger
    from otel_cost.errors import UsageError
    try:
        DuckDbLedger(pathlib.Path(sys.argv[1]), read_only=sys.argv[2] == "ro")
    except UsageError as error:
        print(error)
"""


def test_a_second_process_is_told_who_holds_the_file(tmp_path: Path) -> None:
    ledger = DuckDbLedger(tmp_path / "ledger.duckdb")
    for mode in ("rw", "ro"):
        said = in_another_process(OPEN_IT, str(tmp_path / "ledger.duckdb"), mode).stdout
        assert "in use by another process (process " in said
        assert "data_dir" in said
    ledger.close()


def test_what_was_written_is_there_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "ledger.duckdb"
    ledger = DuckDbLedger(path)
    ledger.commit(batch_of(cases.a_call("a", nano=5)), 3)
    ledger.close()
    assert path.stat().st_mode & 0o777 == 0o600
    ledger = DuckDbLedger(path)
    # A replay after a crash tells the same call again, and more.
    ledger.commit(batch_of(cases.a_call("a", nano=5), cases.a_call("b", nano=6)), 4)
    assert (ledger.cursor(), ledger.report()[0]["cost_usd"]) == (4, "0.000000011")
    ledger.close()
    reader = DuckDbLedger(path, read_only=True)
    assert reader.report()[0]["calls"] == 2
    reader.close()


def test_the_tree_of_a_run_that_an_earlier_version_closed_is_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "ledger.duckdb"
    ledger = DuckDbLedger(path)
    call = cases.a_call("a", nano=5)
    batch = Batch()
    batch.add(Effects(closed=[cases.a_run([call], snapshot=OF_VERSION_2, run_id="r")]))
    ledger.commit(batch, 3)
    ledger.close()
    with duckdb.connect(str(path)) as db:
        db.execute(
            "INSERT INTO steps VALUES"
            " ('default', 'r', ?, ?, NULL, 'agent', 'main', 'main', 1, 2, false, NULL, NULL, NULL, NULL),"
            " ('default', 'r', ?, ?, ?, 'inference', 'm', 'main', 1, 2, false, ?, 5, 'priced', NULL)",
            [call.trace_id, b"root", call.trace_id, call.step.span_id, b"root", call.id],
        )
    ledger = DuckDbLedger(path)
    told = ledger.run("r")
    assert told is not None
    (top,) = told["tree"]  # type: ignore[misc]
    assert (top["name"], [below["call_id"] for below in top["children"]]) == ("main", [call.id])
    ledger.close()


def test_calls_of_before_the_crash_that_joined_another_are_gone_at_close(tmp_path: Path) -> None:
    path = tmp_path / "ledger.duckdb"
    ledger = DuckDbLedger(path)
    ledger.commit(batch_of(cases.a_call("a", nano=5), cases.a_call("b", nano=5)), 3)
    ledger.close()
    ledger = DuckDbLedger(path)
    batch = Batch()
    batch.add(Effects(closed=[cases.a_run([cases.a_call("a", nano=5)], run_id="r")]))
    ledger.commit(batch, 4)
    assert ledger.report()[0]["calls"] == 1
    ledger.close()


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.duckdb"
    DuckDbLedger(path).close()
    with duckdb.connect(str(path)) as db:
        db.execute("INSERT INTO schema_version VALUES (999)")
        db.execute("INSERT OR REPLACE INTO progress VALUES ('readable_by', 999)")
    with pytest.raises(UsageError, match=r"newer otel-cost \(schema 999"):
        DuckDbLedger(path)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.duckdb"
    path.write_bytes(b"not a database" * 1000)
    with pytest.raises(UsageError, match="not a DuckDB file"):
        DuckDbLedger(path)


FILL_THE_DISK = """
    import pathlib, resource, signal, sys
    sys.path.insert(0, sys.argv[2])
    import ledger_cases as cases
    from otel_cost.core.model.effects import Effects
    from otel_cost.edge.ledger import Batch, LedgerUnavailableError
    from otel_cost.edge.ledger.duckdb import DuckDbLedger
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    path = pathlib.Path(sys.argv[1])
    ledger = DuckDbLedger(path)
    def batch(first, count):
        made = Batch()
        made.add(Effects(calls=[("default", "r", cases.a_call(f"c{i}", nano=1)) for i in range(first, first + count)]))
        return made
    ledger.commit(batch(0, 10), 1)
    full = max(p.stat().st_size for p in path.parent.iterdir()) + 20_000
    resource.setrlimit(resource.RLIMIT_FSIZE, (full, resource.RLIM_INFINITY))
    refused = 0
    for _ in range(2):
        try:
            ledger.commit(batch(10, 5000), 2)
        except LedgerUnavailableError as error:
            refused += 1
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    ledger.commit(batch(10, 5000), 2)
    print(refused, ledger.report()[0]["calls"], ledger.cursor())
    ledger.close()
    print(DuckDbLedger(path).report()[0]["calls"])
"""


def test_a_full_disk_is_a_refusal_and_the_same_batch_works_later(tmp_path: Path) -> None:
    ran = in_another_process(FILL_THE_DISK, str(tmp_path / "ledger.duckdb"), str(Path(__file__).parent))
    assert ran.stdout.split() == ["2", "5010", "2", "5010"], ran.stderr


def test_writer_commits_in_its_own_time_and_finds_what_waits(tmp_path: Path) -> None:
    ledger = DuckDbLedger(tmp_path / "ledger.duckdb")
    committed: list[int] = []
    writer = LedgerWriter(ledger, seconds=3600, committed=lambda cursor, *_: committed.append(cursor))
    run = cases.a_run([cases.a_call("a", nano=5)], snapshot=b"frozen")
    writer.add(Effects(closed=[run]), 7)
    assert writer.find("default", run.keys[0]) == b"frozen"
    assert writer.find("other", run.keys[0]) is None
    assert ledger.cursor() == 0
    assert writer.flush()
    assert (ledger.cursor(), committed) == (7, [7])
    assert writer.find("default", run.keys[0]) == b"frozen"
    writer.add(Effects(calls=[("default", "r2", cases.a_call("b", trace="t2", nano=6))]), 8)
    assert writer.close()
    assert (ledger.cursor(), ledger.report()[0]["calls"]) == (8, 2)
    ledger.close()


def test_only_of_runs_that_were_written_before_it_is_looked_for_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To look whether a row is there DuckDB reads the whole table, which grows with all that was ever recorded."""
    ledger = DuckDbLedger(tmp_path / "ledger.duckdb")
    read: set[str] = set()
    replace = duckdb_ledger._replace

    def noted(db: Any, shape: Shape, rows: list, began: Sequence = ()) -> None:
        read.update([shape.table] if rows and not began else [])
        replace(db, shape, rows, began)

    monkeypatch.setattr(duckdb_ledger, "_replace", noted)

    def close(*calls: Call, run_id: str, is_sure: bool = True) -> None:
        batch = Batch()
        told = [("default", run_id, call) for call in calls]
        joins = [("default", run_id, f"trace:{cases.trace_of('t1').hex()}"), ("default", run_id, "session:s")]
        batch.add(Effects(calls=told, joins=joins))
        ledger.commit(batch, 1)
        batch = Batch()
        batch.add(Effects(closed=[cases.a_run([*calls], run_id=run_id, extra_keys=("session:s",))]))
        batch.is_sure = is_sure
        ledger.commit(batch, 2)

    close(cases.a_call("a", nano=5), run_id="s")
    assert read == set()
    assert ledger.find_snapshot("default", "session:s")
    close(cases.a_call("a", nano=5), cases.a_call("b", nano=6), run_id="s")
    assert read == {"runs", "run_keys", "snapshots", "traces", "run_joins"}
    # Not woken, and there nevertheless: written anew as a whole.
    close(cases.a_call("a", nano=5), cases.a_call("b", nano=7), run_id="s", is_sure=False)
    assert [(row["cost_usd"], row["calls"]) for row in ledger.report()] == [("0.000000012", 2)]
    rows = {table: ledger._rows(f"SELECT count(*) FROM {table}") for table in ("runs", "run_keys", "run_joins")}
    assert rows == {"runs": [(1,)], "run_keys": [(2,)], "run_joins": [(2,)]}
    ledger.close()


# What many calls leave, in runs of ten, without making each of them.
MANY = (
    """INSERT INTO call_rows SELECT md5('c' || i)::UUID, 1, 'run' || i // 10, NULL, NULL, NULL, i, i, 1, false, 1, NULL,
        1, NULL, NULL, 1, NULL, '' FROM range({first}, {end}) t(i)""",
    """INSERT INTO run_keys BY NAME SELECT 'default' AS tenant, 'response:' || md5('k' || i) AS key,
        'run' || i // 10 AS run_id, 0 AS hash FROM range({first}, {end}) t(i)""",
    """INSERT INTO runs BY NAME SELECT 'default' AS tenant, 'run' || i AS run_id, i * 10 AS start_ns, i * 10 AS end_ns,
        '{{}}' AS line FROM range({first} // 10, {end} // 10) t(i)""",
    """INSERT INTO snapshots BY NAME SELECT 'default' AS tenant, 'run' || i AS run_id, 'x'::BLOB AS snapshot, 0 AS hash
        FROM range({first} // 10, {end} // 10) t(i)""",
    """INSERT INTO traces BY NAME SELECT 'default' AS tenant, md5('t' || i) AS trace_id, 'run' || i AS run_id,
        '{{}}' AS line FROM range({first} // 10, {end} // 10) t(i)""",
    """INSERT INTO run_joins SELECT 'default', 'trace:' || md5('t' || i), 'run' || i
        FROM range({first} // 10, {end} // 10) t(i)""",
    """INSERT INTO outcomes SELECT 'default', 'o' || i, 'tests', 'success', i, '{{}}'
        FROM range({first} // 10, {end} // 10) t(i)""",
    """INSERT INTO outcome_keys SELECT 'default', 'trace:' || md5('t' || i), 'o' || i
        FROM range({first} // 10, {end} // 10) t(i)""",
)


@pytest.mark.slow
def test_however_much_is_in_it_it_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No index that grows with the history: the keys of a million and a half calls took three times this memory."""
    monkeypatch.setattr(duckdb_ledger, "_MEMORY", "96MB")
    ledger = DuckDbLedger(tmp_path / "ledger.duckdb")
    for first in range(0, 1_500_000, 10_000):
        ledger._db.begin()
        for statement in MANY:
            ledger._db.execute(statement.format(first=first, end=first + 10_000))
        ledger._db.commit()
    run = cases.a_run([cases.a_call("a", nano=5)], run_id="new", snapshot=b"frozen")
    for is_sure in (True, False):
        batch = Batch()
        batch.add(Effects(calls=[("default", "new", cases.a_call("a", nano=5))], closed=[run]))
        batch.is_sure = is_sure
        ledger.commit(batch, 7)
    assert ledger.find_snapshot("default", run.keys[0]) == b"frozen"
    ledger.close()
    ledger = DuckDbLedger(tmp_path / "ledger.duckdb")
    assert (ledger.cursor(), ledger._rows("SELECT count(*) FROM call_rows")) == (7, [(1_500_001,)])
    ledger.close()


def test_what_was_written_with_keys_is_read_and_written_on(tmp_path: Path) -> None:
    now, path = tmp_path / "now.duckdb", tmp_path / "ledger.duckdb"
    ledger = DuckDbLedger(now)
    batch = batch_of(cases.a_call("a", nano=5), run_id="s")
    run = cases.a_run([cases.a_call("a", nano=5)], run_id="s", extra_keys=("session:s",))
    batch.add(Effects(closed=[run], joins=[("default", "s", "branch:b")], outcomes=[an_outcome(1, "success")]))
    ledger.commit(batch, 7)
    said = [ledger.report(), ledger.runs(), ledger.run("s"), ledger.key_numbers(9), ledger.news()]
    ledger.close()

    with duckdb.connect(path) as old:
        for statement in MIGRATIONS[:6]:
            old.execute(statement)
        old.execute("CREATE TABLE schema_version AS SELECT unnest([1, 2, 3, 4, 5, 6]) AS version")
        old.execute(f"ATTACH '{now}' AS now")
        tables = old.execute("SELECT table_name FROM duckdb_tables() WHERE database_name = 'ledger'").fetchall()
        for (table,) in tables:
            if table != "schema_version":
                columns = old.execute(
                    "SELECT string_agg('\"' || column_name || '\"', ', ') FROM duckdb_columns()"
                    " WHERE database_name = 'ledger' AND table_name = ?",
                    [table],
                ).fetchone()
                assert columns is not None
                old.execute(f"INSERT INTO {table} SELECT {columns[0]} FROM now.{table}")

    ledger = DuckDbLedger(path)
    assert [ledger.report(), ledger.runs(), ledger.run("s"), ledger.key_numbers(9), ledger.news()] == said
    assert ledger.find_snapshot("default", "session:s") == run.snapshot()
    again = cases.a_run([cases.a_call("a", nano=6)], run_id="s", extra_keys=("session:s",), snapshot=b"thawed")
    batch = batch_of(cases.a_call("a", nano=6), run_id="s")
    batch.add(Effects(closed=[again], outcomes=[an_outcome(0, "failure"), an_outcome(2, "failure", "other")]))
    ledger.commit(batch, 8)
    assert ledger.find_snapshot("default", "session:s") == b"thawed"
    assert [(row["cost_usd"], row["calls"]) for row in ledger.report()] == [("0.000000006", 1)]
    assert {(row["id"], row["value"]) for row in ledger.news()} == {("o", "success"), ("other", "failure")}
    ledger.close()


def an_outcome(at_s: int, value: str, name: str = "o") -> Outcome:
    return Outcome(
        id=name,
        tenant="default",
        name="tests",
        value=Result(value),
        at_ns=cases.NOON_NS + at_s * 10**9,
        source="api",
        keys=("session:s",),
    )


def test_a_call_is_one_row_whenever_it_is_written_again(tmp_path: Path) -> None:
    """It is looked for only where it can be: when it began, or had begun as it was told before."""
    ledger = DuckDbLedger(tmp_path / "ledger.duckdb")
    ledger.commit(batch_of(*(cases.a_call(f"c{hour}", start_s=hour * 200_000, nano=1) for hour in range(10))), 1)
    ledger.commit(batch_of(cases.a_call("c3", start_s=3 * 200_000, nano=2), cases.a_call("new", nano=1)), 2)
    ledger.commit(batch_of(cases.a_call("c4", start_s=4_000_000, nano=3)), 3)  # another record of it says so
    ledger.commit(batch_of(*(cases.a_call(f"c{hour}", start_s=hour * 200_000, nano=5) for hour in (0, 2, 6, 8, 9))), 4)
    assert [(row["cost_usd"], row["calls"]) for row in ledger.report()] == [("0.000000034", 11)]
    ledger.close()


def test_a_table_is_read_only_where_the_times_are() -> None:
    day = 86_400 * 10**9
    assert _stretches([]) == []
    assert _stretches([5, 3 * day, 1, day]) == [(1, day), (3 * day, 3 * day)]
    assert _stretches([2**63 + 5, 7]) == [(7, 7), (2**63 - 1, 2**63 - 1)]
    assert _stretches([at * 2 * day for at in range(9)]) == [(0, 16 * day)]


def test_keys_of_the_latest_runs_are_known_and_it_is_said_when_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(KeyFilter, "_KEYS", 100)
    monkeypatch.setattr(KeyFilter, "_SIZE", 1 << 16)
    ledger = DuckDbLedger(tmp_path / "ledger.duckdb")
    batch = Batch()
    runs = [cases.a_run([cases.a_call(f"c{n}", trace=f"t{n}", start_s=n)], run_id=f"r{n}") for n in range(150)]
    batch.add(Effects(closed=runs))
    ledger.commit(batch, 1)
    known = KeyFilter(ledger)
    assert known.is_whole
    assert not any(known.may_hold("other", key) for run in runs for key in run.keys)
    for n in range(1000):
        known.add("default", (f"later {n}",))
        assert all(known.may_hold("default", f"later {m}") for m in range(max(0, n - 300), n + 1))
        assert known.is_whole == known.may_hold("default", "later 0")
    assert not known.is_whole
    assert all(known.may_hold("default", key) for run in runs for key in run.keys)
    assert not any(known.may_hold("default", f"unknown {n}") for n in range(150))
    monkeypatch.setattr(writer, "_AT_A_START", 120)
    assert not KeyFilter(ledger).is_whole
    ledger.close()


def test_it_can_be_closed_while_others_read(tmp_path: Path) -> None:
    """Whoever comes too late is told so; closing fails for nobody's question, and waits for no long answer."""
    for number in range(20):
        ledger = DuckDbLedger(tmp_path / f"{number}.duckdb")
        closed = threading.Event()
        problems: list[Exception] = []

        def ask(ledger: DuckDbLedger = ledger, closed: threading.Event = closed, problems: list = problems) -> None:
            while not closed.is_set():
                try:
                    ledger.cursor()
                except LedgerUnavailableError:
                    pass
                except Exception as error:  # noqa: BLE001  # whatever else it is fails the test
                    problems.append(error)

        readers = [threading.Thread(target=ask) for _ in range(3)]
        for reader in readers:
            reader.start()
        time.sleep(0.01)
        try:
            ledger.close()
        finally:
            closed.set()
        for reader in readers:
            reader.join()
        assert not problems


def test_a_long_question_does_not_keep_it_from_being_closed(tmp_path: Path) -> None:
    ledger = DuckDbLedger(tmp_path / "ledger.duckdb")
    answers: list[object] = []

    def ask() -> None:
        try:
            answers.append(ledger._rows("SELECT sum(hash(a.range + b.range)) FROM range(10_000_000) a, range(1_000) b"))
        except LedgerUnavailableError as error:
            answers.append(str(error))

    asking = threading.Thread(target=ask)
    asking.start()
    while not ledger._readers:
        time.sleep(0.01)
    ledger.close()
    asking.join(20)
    assert answers == ["ledger cannot be read: INTERRUPT Error: Interrupted!"]


def test_a_batch_that_is_written_is_freed_in_pieces() -> None:
    """Others come first between two of them; nothing of it is left, and what the ledger remembers is not touched."""
    batch = batch_of(*(cases.a_call(f"c{number}") for number in range(5)))
    calls = [word for word in batch.calls.values() if word is not None]
    batch.add(Effects(alerts=[cases.an_alert(["c1"])], closed=[cases.a_run([calls[0][1]])]))
    left: list[int] = []
    batch.let_go(lambda: left.append(len(batch.closed) + len(batch.calls) + len(batch.alerts)))
    assert left == [6, 5, 4, 3, 2, 1, 0]
    assert len(calls) == 5


def test_a_run_that_wakes_before_it_is_written_is_one_run_when_it_closes_again(tmp_path: Path) -> None:
    """Found among what waits, the ledger does not know it when it is asked; later it does."""
    ledger = DuckDbLedger(tmp_path / "ledger.duckdb")
    writer = LedgerWriter(ledger, seconds=3600)
    first, late = cases.a_call("a", nano=5), cases.a_call("b", start_s=9, nano=6)
    for position, calls in enumerate(([first], [first, late], [first, late])):
        run = cases.a_run(calls, run_id="s", extra_keys=("session:s",))
        writer.add(Effects(calls=[("default", "s", call) for call in calls], closed=[run]), position)
        if position == 0:
            assert writer.find("default", "session:s") == run.snapshot()
        assert writer.flush()
        if position == 1:
            assert writer.find("default", "session:s") == run.snapshot()
    tables = ("call_rows", "runs", "run_keys", "snapshots", "traces", "run_joins")
    rows = [ledger._rows(f"SELECT count(*) FROM {table}")[0][0] for table in tables]
    assert rows == [2, 1, 2, 1, 1, 2]
    assert ledger.find_snapshot("default", "session:s") == run.snapshot()
    assert writer.close()
    ledger.close()


def test_a_run_that_closes_again_under_another_name_is_one_run(tmp_path: Path) -> None:
    """It was known by its trace, then by its session: within one commit, and over two of them."""
    ledger = DuckDbLedger(tmp_path / "ledger.duckdb")
    writer = LedgerWriter(ledger, seconds=3600)
    for trace, flushes in (("t1", False), ("t2", True)):
        first = cases.a_call(f"a {trace}", trace=trace, nano=5)
        writer.add(Effects(closed=[cases.a_run([first])]), 1)
        assert writer.find("default", cases.trace_of(trace).hex())
        assert not flushes or writer.flush()
        late = cases.a_call(f"b {trace}", trace=trace, start_s=9, nano=6)
        run = cases.a_run([first, late], run_id=f"s {trace}", extra_keys=(f"session:s {trace}",))
        writer.add(Effects(closed=[run]), 2)
        assert writer.flush()
    assert sorted(ledger._rows("SELECT run_id FROM runs")) == [("s t1",), ("s t2",)]
    assert [(row["cost_usd"], row["calls"]) for row in ledger.report()] == [("0.000000022", 4)]
    assert writer.close()
    ledger.close()
