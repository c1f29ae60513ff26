"""Scenario 10, the second half: a backtest says what live enforcement says on the same input."""

from __future__ import annotations

import json
import re
import time
import urllib.error
import urllib.request
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from backtest_helper import SECOND, chat, evaluation, failing, request, span
from running import Process, until

from otel_cost.cli import run
from otel_cost.edge import kept_backtests

if TYPE_CHECKING:
    from pathlib import Path

STRICT = """
version: 1
budgets:
  - {name: run-cap, per: [run], limit: {usd: 0.05}, warn: [{at: 60%}], at_limit: {do: [{ask: {}}], hard_stop_at: 200%}}
  - {name: tried-cap, per: [run], limit: {usd: 0.01}, mode: shadow, at_limit: {do: [{stop: {}}]}}
loops:
  - {name: same-error-2x, detect: repeated_error, with: {count: 2}, do: [{deny: {scope: same_call}}]}
"""
LIVE = """
version: 1
budgets: [{name: run-cap, per: [run], limit: {usd: 0.12}, warn: [{at: 60%}], at_limit: {do: [{ask: {}}]}}]
loops: [{name: same-error-3x, detect: repeated_error, do: [{warn: {}}]}]
"""


def sent(start_ns: int) -> list[bytes]:
    """A run that loops, one that is merely dear, one that is cheap; each request an export of its own."""
    bodies = []
    for turn in range(6):
        at_ns = start_ns + turn * 3 * SECOND
        loop = [chat("loops", 10 + turn, at_ns, 2000), failing("loops", 30 + turn, at_ns + SECOND)]
        bodies.append(request(*loop, chat("dear", 50 + turn, at_ns, 3000), resource={"user.id": "ann"}))
        bodies.append(request(chat("cheap", 70 + turn, at_ns + SECOND, 10), resource={"user.id": "bob"}))
    return bodies


def backtest(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, list[dict[str, Any]], str]:
    code = run(["backtest", "--json", *map(str, arguments)])
    told = capsys.readouterr()
    return code, [json.loads(line) for line in told.out.splitlines()], told.err


def facts(alert: dict[str, Any]) -> tuple[object, ...]:
    names = ("id", "run_id", "rule", "kind", "severity", "action", "onset_span_id", "at_span_id", "summary")
    return (*(alert[name] for name in names), tuple(alert["span_ids"]))


def ask(api: str, **told: object) -> dict[str, Any]:
    question = urllib.request.Request(f"{api}/v1/decide", json.dumps(told).encode(), method="POST")
    with urllib.request.urlopen(question, timeout=10) as answer:
        said: dict[str, Any] = json.loads(answer.read())
    return said


def export(service: Process, bodies: list[bytes]) -> None:
    for body in bodies:
        headers = {"content-type": "application/json"}
        post = urllib.request.Request(f"http://{service.http}/v1/traces", body, headers, method="POST")
        urllib.request.urlopen(post, timeout=10).close()


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path, list[bytes]]:
    """Rules to be tested, a config with the live ones, the input as a file, and as bodies."""
    bodies = sent(time.time_ns() - 60 * SECOND)
    strict, live, config, input_ = (tmp_path / n for n in ("strict.yaml", "live.yaml", "live-config.yaml", "in.jsonl"))
    strict.write_text(STRICT)
    live.write_text(LIVE)
    config.write_text("rules: [live.yaml]\n")
    input_.write_bytes(b"\n".join(bodies) + b"\n")
    return strict, config, input_, bodies


def test_a_backtest_says_what_the_service_says_under_the_same_rules(
    files: tuple[Path, Path, Path, list[bytes]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strict, config, input_, bodies = files
    code, lines, _ = backtest(capsys, "--rules", strict, "--against", input_, "-c", config)
    assert code == 0
    expected = {facts(line) for line in lines if line["type"] == "alert" and line["state"] == "firing"}
    assert {fact[2] for fact in expected} == {"run-cap", "tried-cap", "same-error-2x"}
    folder = tmp_path / "serve"
    folder.mkdir()
    service = Process(folder, f"rules: [{strict}]\n")
    try:
        export(service, bodies)
        until(lambda: len(service.get("/v1/alerts?limit=1000")["alerts"]) >= len(expected))
        live = service.get("/v1/alerts?limit=1000")["alerts"]
        assert {facts(alert) for alert in live} == expected
        # Decisions: what stands for each run is the strictest that the backtest says.
        order = ["allow", "warn", "delay", "downgrade", "ask", "deny", "stop"]
        said: dict[str, str] = {}
        for line in lines:
            if line["type"] == "decision" and not line["shadow"]:
                said[line["run_id"]] = max(said.get(line["run_id"], "allow"), line["decision"], key=order.index)
        for name in ("loops", "dear", "cheap"):
            answer = ask(service.api, session_id=name, event="before_tool", tool="bash", args={"command": "make test"})
            assert answer["decision"] == said.get(name, "allow"), name
            if name == "dear":
                assert [one["rule"] for one in answer["shadow"]] == ["tried-cap"]
    finally:
        service.stop()


def test_each_rule_has_its_count_its_upper_bound_and_its_difference(
    files: tuple[Path, Path, Path, list[bytes]], capsys: pytest.CaptureFixture[str]
) -> None:
    strict, config, input_, _ = files
    code, lines, _ = backtest(capsys, "--rules", strict, "--against", input_, "-c", config)
    assert code == 0
    rules = {line["rule"]: line for line in lines if line["type"] == "rule"}
    loop = rules["same-error-2x"]
    assert (loop["would_fire"], loop["live_fires"], loop["actions"], loop["bound"]) == (1, 0, {"deny": 1}, "upper")
    # The second failure ends 5 s after the start; from then on four turns: 1,000 in and 2,000 out of gpt-5 each.
    assert loop["after_first_fire_usd"] == "0.085"
    assert loop["cut_runs_unknown"] == 1
    assert (rules["same-error-3x"]["would_fire"], rules["same-error-3x"]["diff"]["gone"]) == (0, 1)
    assert rules["same-error-3x"]["removed"]
    cap = rules["run-cap"]
    fired = Counter(line["rule"] for line in lines if line["type"] == "alert" and line["state"] == "firing")
    assert (cap["would_fire"], cap["live_fires"]) == (fired["run-cap"], 4)
    assert cap["diff"]["new"] == cap["would_fire"] - cap["diff"]["same"] > 0
    (total,) = (line for line in lines if line["type"] == "backtest")
    assert (total["runs"], total["would_fire"]) == (3, fired.total())
    assert total["cost_usd"] == "0.3231"


def test_several_rule_files_and_folders_in_one_go(
    files: tuple[Path, Path, Path, list[bytes]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strict, config, input_, _ = files
    more = tmp_path / "more.yaml"
    more.write_text("version: 1\nbudgets: [{name: other-cap, per: [run], limit: {usd: 0.001}}]\n")
    code, lines, _ = backtest(capsys, "--rules", strict, more, "--against", input_, "-c", config)
    assert code == 0
    assert {"other-cap", "run-cap"} <= {line["rule"] for line in lines if line["type"] == "rule"}


def test_the_page_needs_nothing_and_shows_no_script_of_a_sender(
    files: tuple[Path, Path, Path, list[bytes]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strict, config, _, _ = files
    evil = tmp_path / "evil.jsonl"
    evil.write_bytes(request(chat("<script>alert(1)</script>", 1, 10**18, 10**6)))
    page = tmp_path / "page.html"
    arguments = ["--rules", strict, "--against", evil, "-c", config, "--html", page]
    assert run(["backtest", *map(str, arguments)]) == 0
    html = page.read_text()
    assert "<script" not in html
    assert "<svg" in html
    assert "http" not in html.replace("http-equiv", "")
    assert "run-cap" in capsys.readouterr().out


def test_a_report_is_kept_for_the_page_where_a_service_keeps_its_data(
    files: tuple[Path, Path, Path, list[bytes]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    strict, config, _, _ = files
    evil = tmp_path / "evil.jsonl"
    evil.write_bytes(request(chat("<script>alert(1)</script>", 1, 10**18, 10**6)))
    (tmp_path / "service").mkdir()
    service = Process(tmp_path / "service", "rules: []")
    try:
        kept_and_shown(service, strict, config, evil, tmp_path, capsys)
    finally:
        service.stop()


def kept_and_shown(
    service: Process, strict: Path, config: Path, evil: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = service.data
    asked = ["--rules", strict, "--against", evil, "-c", config]
    code, lines, err = backtest(capsys, *asked, "--data-dir", data)
    assert code == 0
    (report_id,) = re.findall(r"/backtests/(\S+)", err)
    ((file,), (total,)) = (data / "backtests").iterdir(), [line for line in lines if line["type"] == "backtest"]
    assert file.stat().st_mode & 0o777 == 0o600
    (listed,) = service.get("/v1/backtests")["backtests"]
    assert (listed["id"], listed["total"]) == (report_id, total)
    assert str(strict) in listed["about"]["Rules"]
    assert service.get(f"/v1/backtests/{report_id}")["alerts"]
    assert report_id in service.get("/backtests")
    page = service.get(f"/backtests/{report_id}")
    assert "<script>" not in page
    assert "run-cap" in page
    assert "Dollars spent after each rule" in page
    # Over all tenants together: not for who sees one.
    assert service.get("/v1/backtests?tenant=default")["backtests"] == []
    for path in (f"/backtests/{report_id}?tenant=x", f"/v1/backtests/{report_id}?tenant=x", "/backtests/..%2Fapi"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            service.get(path)
    assert backtest(capsys, *asked, "--data-dir", data, "--no-keep")[0] == 0
    assert backtest(capsys, *asked, "--data-dir", tmp_path / "nowhere")[0] == 0
    assert not (tmp_path / "nowhere").exists()
    assert len(service.get("/v1/backtests")["backtests"]) == 1


def test_the_oldest_reports_go_and_what_is_none_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_backtests, "KEPT", 2)
    report: dict[str, Any] = dict.fromkeys(kept_backtests._SHOWN, 0)
    ids = [
        kept_backtests.keep_report(tmp_path, report | {"made_at": f"2026-11-0{day}T09:00:00.000000000Z"})
        for day in (1, 3, 2)
    ]
    assert [one["id"] for one in kept_backtests.kept_reports(tmp_path)] == [ids[1], ids[2]]
    (tmp_path / f"{ids[1]}.json").write_text("{}")
    assert [one["id"] for one in kept_backtests.kept_reports(tmp_path)] == [ids[2]]
    assert kept_backtests.kept_report(tmp_path, f"../{tmp_path.name}/{ids[2]}") is None


def test_what_cannot_be_decoded_is_exit_1_and_unusable_arguments_are_exit_2(
    files: tuple[Path, Path, Path, list[bytes]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strict, config, input_, _ = files
    broken = tmp_path / "x.json"
    broken.write_text("{")
    code, lines, err = backtest(capsys, "--rules", strict, "--against", broken, "--against", input_, "-c", config)
    assert code == 1
    assert "no JSON" in err
    assert any(line["type"] == "rule" for line in lines)
    assert backtest(capsys, "--rules", strict, "--against", tmp_path / "none", "-c", config)[0] == 2
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("version: 1\nloops: [{name: x, detect: repeated_eror}]\n")
    code, _, err = backtest(capsys, "--rules", wrong, "--against", input_, "-c", config)
    assert code == 2
    assert "wrong.yaml:2" in err


def test_harm_is_the_successful_work_that_a_rule_would_have_cut(
    files: tuple[Path, Path, Path, list[bytes]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strict, config, _, _ = files
    start_ns = 1_790_000_000 * SECOND
    bodies = []
    for name, label in (("good", "pass"), ("bad", "fail")):
        calls = [chat(name, 2 + turn, start_ns + turn * SECOND, 6000) for turn in range(3)]
        judged = span(name, 9, start_ns, {}, events=[evaluation("tests", start_ns, score__label=label)])
        bodies.append(request(*calls, judged))
    input_ = tmp_path / "judged.jsonl"
    input_.write_bytes(b"\n".join(bodies))
    code, lines, _ = backtest(capsys, "--rules", strict, "--against", input_, "-c", config)
    assert code == 0
    cap = next(line for line in lines if line.get("rule") == "run-cap" and line["type"] == "rule")
    assert (cap["harmed_runs"], cap["harmed_traces_count"], cap["cut_runs_unknown"]) == (["good"], 1, 0)
    assert cap["harmed_traces"] == [b"good".hex().ljust(32, "0")]
    assert cap["harmed_usd"] == "0.12250"[:6]


# --- over the ledger ---

STORED = """
version: 1
budgets:
  - {name: run-cap, per: [run], limit: {usd: 0.05}, warn: [{at: 60%}], at_limit: {do: [{ask: {}}], hard_stop_at: 200%}}
  - {name: team-cap, per: [team], limit: {usd: 0.1, window: 1d}, at_limit: {do: [{deny: {scope: all}}]}}
loops:
  - {name: context, detect: growing_context, with: {turns: 3}, do: [{warn: {}}]}
"""


def growing(start_ns: int) -> list[bytes]:
    """What `sent` sends, and a run whose context grows; teams are told by the resource."""
    bodies = sent(start_ns)
    for turn in range(6):
        call = chat(
            "grows",
            90 + turn,
            start_ns + turn * 4 * SECOND,
            100,
            gen_ai__usage__input_tokens=20_000 * (turn + 1),
        )
        bodies.append(request(call, resource={"team.id": "core"}))
    return bodies


@pytest.mark.slow
def test_over_the_ledger_it_says_what_it_says_over_the_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bodies = growing(time.time_ns() - 600 * SECOND)
    stored, config, input_ = tmp_path / "stored.yaml", tmp_path / "live-config.yaml", tmp_path / "in.jsonl"
    stored.write_text(STORED)
    (tmp_path / "live.yaml").write_text(LIVE)
    config.write_text("rules: [live.yaml]\n")
    input_.write_bytes(b"\n".join(bodies) + b"\n")
    _, over_files, _ = backtest(capsys, "--rules", stored, "--against", input_, "-c", config)
    folder = tmp_path / "serve"
    folder.mkdir()
    service = Process(folder, f"rules: [{tmp_path / 'live.yaml'}]\nengine: {{settle: 0s, idle: 1s}}\n")
    told = []
    try:
        export(service, bodies)
        until(lambda: [run["open"] for run in service.get("/v1/runs?top=100")["runs"]] == [False] * 4)
        where = ["--rules", stored, "-c", config, "--data-dir", service.data]
        told.append(backtest(capsys, *where))
        assert backtest(capsys, *where, "--since", "2020-01-01")[0] == 0
    finally:
        service.stop()
    told.append(backtest(capsys, *where))
    names = ("rule", "kind", "run_id", "severity", "action", "at_span_id", "span_ids", "state")
    expected = [[line[name] for name in names] for line in over_files if line["type"] == "alert"]
    assert {row[0] for row in expected} == {"run-cap", "team-cap", "context"}
    for code, lines, _ in told:
        assert code == 0
        alerts = [[line[name] for name in names] for line in lines if line["type"] == "alert"]
        assert sorted(map(str, alerts)) == sorted(map(str, expected))
        for kind in ("rule", "backtest"):
            figures = [
                {key: line[key] for key in line if not key.startswith("live") and key not in {"diff", "removed"}}
                for line in lines
                if line["type"] == kind and not line.get("removed")
            ]
            of_files = [
                {key: line[key] for key in line if not key.startswith("live") and key not in {"diff", "removed"}}
                for line in over_files
                if line["type"] == kind and not line.get("removed")
            ]
            assert sorted(map(str, figures)) == sorted(map(str, of_files))


def test_over_the_ledger_rules_that_ask_for_what_is_not_kept_are_refused_by_name(
    files: tuple[Path, Path, Path, list[bytes]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, config, _, bodies = files
    folder = tmp_path / "serve"
    folder.mkdir()
    service = Process(folder, "engine: {settle: 0s, idle: 1s}\n")
    try:
        export(service, bodies)
        until(lambda: [run["open"] for run in service.get("/v1/runs")["runs"]] == [False] * 3)
    finally:
        service.stop()
    rules = tmp_path / "asks.yaml"
    rules.write_text(
        "version: 1\nidentity: {team: [squad.name]}\n"
        "loops: [{name: same-error, detect: repeated_error}, {name: grows, detect: growing_context}]\n"
        "budgets: [{name: by-branch, per: ['attr:git.branch'], limit: {usd: 1, window: 1d}}]\n"
    )
    code, lines, err = backtest(capsys, "--rules", rules, "-c", config, "--data-dir", folder / "data")
    assert (code, lines) == (2, [])
    assert "same-error: detector `repeated_error` reads arguments, results or messages" in err
    assert "by-branch: attribute `attr:git.branch` was not kept" in err
    assert "identity: it reads attributes that were not kept" in err
    assert "--against DIR" in err
    assert "grows:" not in err
    code, _, err = backtest(capsys, "--rules", rules, "-c", config, "--data-dir", tmp_path / "nothing")
    assert code == 2
    assert "nothing has been recorded" in err
