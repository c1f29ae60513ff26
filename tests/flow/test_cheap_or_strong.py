"""Scenario 6, its cost part: the cheap model loops, the strong one wins; a success costs less with the strong one."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from backtest_helper import SECOND, chat, evaluation, request, span
from running import Process, until
from test_outcomes import CONFIG, post

from otel_cost.cli import run

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def attempt(name: str, model: str, calls: int, tokens: int, label: str, start_ns: int) -> list[dict[str, Any]]:
    work = {"otel_cost__workflow": "fix-bug", "team__id": "core"}
    spans = [chat(name, 2 + n, start_ns + n * SECOND, tokens, model, **work) for n in range(calls)]
    judged = span(name, 99, start_ns + calls * SECOND, {}, events=[evaluation("tests", start_ns, score__label=label)])
    return [*spans, judged]


def test_a_success_costs_less_with_the_strong_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    service = Process(tmp_path, CONFIG % "1h")
    now = time.time_ns() - 600 * SECOND
    spans = [
        one
        for n in range(5)
        # Twelve calls in circles for a cent each; one try of five gets there.
        for one in attempt(f"cheap-{n}", "gpt-5-mini", 12, 5000, "pass" if n == 4 else "fail", now)
    ]
    for n in range(2):
        spans += attempt(f"strong-{n}", "gpt-5", 1, 20_000, "pass", now)
    spans += [chat("unjudged", 2, now, 100, "gpt-5", otel_cost__workflow="fix-bug")]
    try:
        assert post(f"http://{service.http}/v1/traces", request(*spans))[0] == 200
        until(lambda: len(service.get("/v1/runs?top=50")["runs"]) == 8)
        until(lambda: len(service.get("/v1/report?per=outcome&by=model_route")["rows"]) == 3)
        where = ["--data-dir", str(service.data), "--json"]
        assert run(["report", "--per-outcome", "--by", "workflow,model_route", *where]) == 0
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert rows == service.get("/v1/report?per=outcome&by=workflow,model_route")["rows"]
        told = {(row["outcome"], row["model_route"]): row for row in rows}
        cheap, strong = told["tests", "gpt-5-mini"], told["tests", "gpt-5"]
        assert (cheap["tries"], cheap["successes"], strong["tries"], strong["successes"]) == (5, 1, 2, 2)
        # USD a million: 0.25 in and 2 out, twelve calls of 1,000 and 5,000; 1.25 and 10, one of 1,000 and 20,000.
        assert (cheap["cost_per_try_usd"], cheap["cost_per_success_usd"]) == ("0.123", "0.615")
        assert (strong["cost_per_try_usd"], strong["cost_per_success_usd"]) == ("0.20125", "0.20125")
        assert told[None, "gpt-5"]["tries"] == 1
        assert {row["workflow"] for row in rows} == {"fix-bug"}
        assert run(["report", "--per-outcome", "--by", "model_route", *where[:2]]) == 0
        table = capsys.readouterr().out
        assert "per success" in table
        assert "no outcome" in table
        assert run(["report", "--per-outcome", "--by", "colour", *where]) == 2
    finally:
        service.stop()
