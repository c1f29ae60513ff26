"""report, explain and top: from the running service, else from the file it left."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

sys.path.insert(0, str(Path(__file__).parents[1] / "edge" / "ledger"))

import ledger_cases as cases

from otel_cost.cli import run
from otel_cost.cli._tables import money
from otel_cost.core.model.effects import Effects
from otel_cost.core.model.vocabulary import Kind
from otel_cost.edge.ledger import FILE, Batch
from otel_cost.edge.ledger.duckdb import DuckDbLedger
from otel_cost.edge.notify._outbox import Outbox
from otel_cost.edge.serve.api import ApiServer

RUN = cases.trace_of("t1").hex()
HOLD_IT = """
import duckdb, sys
held = duckdb.connect(sys.argv[1])
held.execute("create table t (a int)")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture(params=["file", "service"])
def data_dir(request, tmp_path):
    ledger = DuckDbLedger(tmp_path / FILE)
    calls = [
        cases.a_call("a", nano=2_000_000_000, who={"user": "=cmd()\x1b[31m"}),
        cases.a_call("hole", nano=None, model="[bold]acme", start_s=1),
        *(cases.a_call(f"t{i}", nano=None, kind=Kind.TOOL, tool="Bash", start_s=2 + i, failed=True) for i in range(3)),
        cases.a_call("b", nano=500_000_000, start_s=3.5),
    ]
    closed = cases.a_run(calls, wasted_nano=500_000_000)
    batch = Batch()
    batch.add(
        Effects(
            calls=[("default", RUN, call) for call in calls],
            closed=[closed],
            alerts=[cases.an_alert(["t0", "t1", "t2"], wasted_nano=500_000_000)],
        )
    )
    ledger.commit(batch, 1)
    if request.param == "file":
        ledger.close()
        yield str(tmp_path)
        return

    class Host:
        registry = CollectorRegistry()

        def problems(self):
            return []

        def open_run(self, tenant, key):
            return None

        def open_runs(self):
            return []

        def budgets(self, tenant, limit):
            return []

        def drift(self, tenant):
            return []

    host = Host()
    host.ledger, host.listens = ledger, {}
    host.outbox = Outbox(tmp_path / "outbox.sqlite")
    server = ApiServer(host, ("127.0.0.1", 0), data_dir=tmp_path)
    server.start()
    yield str(tmp_path)
    server.stop()
    ledger.close()


def test_report_as_json_is_one_object_per_row(data_dir, capsys) -> None:
    assert run(["report", "--by", "kind", "--json", "--data-dir", data_dir]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["kind"], row["cost_usd"], row["calls"], row["wasted_usd"]) for row in rows] == [
        ("inference", "2.5", 3, "0.5"),
        ("tool", None, 3, "0"),
    ]


def test_report_as_csv_runs_no_formula(data_dir, capsys) -> None:
    assert run(["report", "--by", "user", "--csv", "--data-dir", data_dir]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert rows[0]["user"].startswith("'=cmd()")
    assert rows[1]["user"] == ""


def test_report_as_a_table_is_plain_when_piped_and_no_sender_commands_the_terminal(data_dir, capsys) -> None:
    assert run(["report", "--by", "user,model", "--data-dir", data_dir]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "unattributed" in out
    assert "[bold]acme" in out
    assert "$2.00" in out


def test_report_refuses_what_is_no_dimension_and_no_time(data_dir, capsys) -> None:
    assert run(["report", "--by", "colour", "--data-dir", data_dir]) == 2
    assert "workflow" in capsys.readouterr().err
    assert run(["report", "--since", "soon", "--data-dir", data_dir]) == 2
    assert "is no time" in capsys.readouterr().err
    assert run(["report", "--since", "2300-01-01", "--data-dir", data_dir]) == 0


def test_explain_tells_the_story(data_dir, capsys) -> None:
    assert run(["explain", RUN, "--data-dir", data_dir]) == 0
    out = capsys.readouterr().out
    for words in (
        "It cost $2.50 at least: not all calls have a full price (1 × unknown model)",
        "$0.50 of it was wasted (20 %)",
        "Bash failed the same way 3 times",
        "from 14:13:23 on (Bash)",
        "wasted $0.50; decides deny",
        "└─",
        "no price",
        "1,000 input × $0.000000001",
    ):
        assert words in out, words
    assert "\x1b" not in out


def test_explain_as_json_is_the_apis_story(data_dir, capsys) -> None:
    assert run(["explain", RUN, "--json", "--data-dir", data_dir]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    story = json.loads(line)
    assert (story["run_id"], story["tree"][0]["subtree_usd"], len(story["calls"])) == (RUN, "2.5", 6)


def test_explain_of_an_unknown_run_says_where_to_look(data_dir, capsys) -> None:
    assert run(["explain", "no/such run", "--data-dir", data_dir]) == 2
    assert "otel-cost top" in capsys.readouterr().err


def test_top_lists_runs_dearest_first(data_dir, capsys) -> None:
    assert run(["top", "--since", "2020-01-01", "--json", "--data-dir", data_dir]) == 0
    assert [json.loads(line)["run_id"] for line in capsys.readouterr().out.splitlines()] == [RUN]
    assert run(["top", "--since", "2020-01-01", "--data-dir", data_dir]) == 0
    assert "$2.50 at least" in capsys.readouterr().out


def test_a_folder_without_a_ledger_is_said(tmp_path, capsys) -> None:
    assert run(["report", "--data-dir", str(tmp_path)]) == 2
    assert "otel-cost serve" in capsys.readouterr().err


def test_a_file_that_another_process_holds_and_no_service_answers_is_said(tmp_path, capsys) -> None:
    import subprocess

    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            HOLD_IT,
            str(tmp_path / FILE),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    try:
        assert run(["report", "--data-dir", str(tmp_path)]) == 2
        assert f"process {holder.pid}" in capsys.readouterr().err
    finally:
        holder.communicate(b"")


def test_money_too_small_for_the_table_is_not_shown_as_none_at_all() -> None:
    assert money("0.000000250") == "< $0.000001"
    assert money("0") == "$0.00"
    assert money("0.000001250") == "$0.000001"
    assert money("12.5") == "$12.50"
    assert money(None) == "unpriced"
