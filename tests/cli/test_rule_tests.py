"""`otel-cost test`: rules are tested like code."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from otel_cost.cli import run

ROOT = Path(__file__).resolve().parents[2]
FAIL = '{tool: bash, arguments: make, error: "exit status 2"'


def written(folder: Path, tests: str, rules: str = "bundled:starter") -> Path:
    path = folder / "rules.test.yaml"
    path.write_text(f"version: 1\nrules: ['{rules}']\ntests:\n{tests}")
    return path


def test_the_shipped_rules_pass_their_tests(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["test", str(ROOT / "rules")]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(" passed, 0 failed")


@pytest.mark.parametrize(
    ("test", "said"),
    [
        ("alerts: [{rule: same-error-3x, count: 2}]", "same-error-3x: expected 2, fired 1"),
        ("alerts: [{rule: context-growth}]", "context-growth: did not fire"),
        ("no_alerts: [same-error-3x]", "same-error-3x: fired: "),
        ("no_alerts: ['*']", "same-error-3x: fired: "),
        ("alerts: [{rule: same-error-3x, action: deny}]", "did not fire; fired otherwise: kind repeated_error"),
        ("cost_usd: 0.5", "cost_usd: expected 0.5, is 0"),
    ],
)
def test_a_test_that_does_not_hold_fails_and_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], test: str, said: str
) -> None:
    file = written(tmp_path, f"  - {{name: t, spans: [{FAIL}, times: 3}}], {test}}}\n")
    assert run(["test", str(file), "--junit", str(tmp_path / "junit.xml")]) == 1
    out = capsys.readouterr().out
    assert f"FAIL {file}: t\n" in out
    assert said in out
    suite = ET.parse(tmp_path / "junit.xml").getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("1", "1")
    assert said in (suite.findtext("testcase/failure") or "")


def test_rules_are_those_the_file_names(tmp_path: Path) -> None:
    (tmp_path / "strict.yaml").write_text(
        "version: 1\nloops: [{name: two, detect: repeated_error, with: {count: 2}, do: [{deny: }]}]"
    )
    tests = f"  - {{name: t, spans: [{FAIL}, times: 2}}], alerts: [{{rule: two, count: 1, action: deny}}]}}\n"
    assert run(["test", str(written(tmp_path, tests, "strict.yaml"))]) == 0
    assert run(["check", str(tmp_path)]) == 0


def test_input_may_be_otlp_files(tmp_path: Path) -> None:
    sample = ROOT / "samples" / "same-error-loop.jsonl"
    tests = f"  - {{name: t, otlp: ['{sample}'], alerts: [{{rule: same-error-3x}}]}}\n"
    assert run(["test", str(written(tmp_path, tests))]) == 0


def test_what_does_not_load_is_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["test", str(written(tmp_path, "  - {name: t, spans: [{tol: x}]}\n"))]) == 2
    assert "unknown key `tol`\n    did you mean `tool`?" in capsys.readouterr().err
    assert run(["test", str(tmp_path / "nope.yaml")]) == 2
    (tmp_path / "empty").mkdir()
    assert run(["test", str(tmp_path / "empty")]) == 2


ESCALATION = """version: 1
budgets: [{name: cap, per: [run], limit: {usd: 5}, at_limit: {do: [{ask: }]}}]
escalation:
  - name: strong-later
    models: [opus]
    allow_if: {prior: {models: [haiku], failed: [tests_failed], count: 2}}
    else: {do: [{downgrade: {to: haiku}}]}
"""


@pytest.mark.parametrize(
    ("test", "said"),
    [
        (
            "spans: [{hook: before_model, model: opus, expect: allow}]",
            "spans[0] before_model: expected allow, is downgrade (strong-later: opus after 0 of 2 failures of haiku",
        ),
        (
            "spans: [{hook: before_model, model: opus, expect: downgrade, to: sonnet}]",
            "expected a downgrade to sonnet, it is to haiku",
        ),
        (
            "spans: [{hook: before_model, model: opus, rule: cap}]",
            "expected cap to decide, it is strong-later",
        ),
        (
            "spans: [{hook: before_model, model: opus}], no_decisions: [strong-later]",
            "was told downgrade (strong-later",
        ),
        ("spans: [{hook: before_model, model: opus}], no_decisions: ['*']", "was told downgrade"),
        (
            "spans: [{hook: before_model, model: opus, times: 2}], decisions: [{decision: downgrade, count: 1}]",
            "expected downgrade: 1 times, was 2",
        ),
        ("spans: [{usd: 1}], decisions: [{decision: deny}]", "expected deny: at least 1 times, was 0; told: no hooks"),
        ("spans: [{usd: 1}], no_alerts: [strong-latre]", "strong-latre: no rule is called so; did you mean `strong-la"),
        ("spans: [{usd: 1, run: r}], no_budgets: [cap]", "cap {'run': 'r'}: counted 1"),
        ("spans: [{usd: 1}], budgets: [{rule: cap, left_usd: 3}]", "cap: expected left_usd 3, is 4"),
        ("spans: [{usd: 6}], alerts: [{rule: cap, state: resolved}]", "cap: did not resolve"),
    ],
)
def test_decisions_and_counters_that_are_not_as_expected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], test: str, said: str
) -> None:
    (tmp_path / "mine.yaml").write_text(ESCALATION)
    assert run(["test", str(written(tmp_path, f"  - {{name: t, {test}}}\n", "mine.yaml"))]) == 1
    assert said in capsys.readouterr().out


def test_hooks_news_and_pauses_are_input_as_spans_are(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(ESCALATION.replace("[tests_failed]", "[tests_failed, quality]"))
    tests = """
  - name: t
    spans:
      - {usd: 6, run: r, model: haiku}
      - {hook: before_tool, run: r, tool: bash, expect: ask, rule: cap}
      - {hook: before_model, run: s, model: haiku, expect: allow}
      - {hook: after_tool, run: s, tool: bash, arguments: pytest, error: 1 failed}
      - {hook: before_model, run: s, model: opus, expect: downgrade, to: haiku}
      - {outcome: quality, run: s}
      - {hook: before_model, run: s, model: opus, expect: allow}
      - {wait: 2d}
      - {hook: before_tool, run: r, tool: bash, expect: allow}
    decisions: [{decision: ask, rule: cap, run: r, count: 1}, {decision: downgrade, count: 1}]
    no_decisions: [deny, stop]
    alerts: [{rule: cap, run: r, category: budget}, {rule: cap, state: resolved}]
"""
    assert run(["test", str(written(tmp_path, tests, "mine.yaml"))]) == 0
