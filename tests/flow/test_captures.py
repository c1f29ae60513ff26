"""Real clients' bytes in, calls out: token for token what the bytes allow, and never more.

One replay per scenario, as `otel-cost replay` does it: the files of a scenario in arrival order.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from otel_cost.core.decode.otlp import decode_logs, decode_metrics, decode_traces
from otel_cost.core.enrich.lines import closed_lines
from otel_cost.core.model.effects import Signal
from otel_cost.edge.config import load_config
from otel_cost.edge.engine import build_engine
from otel_cost.edge.otlp_files import otlp_files, requests

SHARED = Path(os.environ.get("OTEL_COST_SHARED", Path(__file__).parents[3] / "shared"))
CAPTURES = SHARED / "captures"
COUNTS = ("input", "output", "cache_read", "cache_write", "reasoning")


def scenarios() -> list[str]:
    expected = CAPTURES / "expected.json"
    return sorted(json.loads(expected.read_text())) if expected.exists() else []


@cache
def expected() -> dict[str, dict[str, Any]]:
    return json.loads((CAPTURES / "expected.json").read_text())


def lines_of(scenario: str, only: Signal | None = None) -> list[dict[str, Any]]:
    """Everything that the engine says of one scenario, or of one signal of it."""
    client, _, name = scenario.partition("/")
    files, _ = otlp_files(sorted((CAPTURES / client).glob(f"{name}.[0-9][0-9].*")))
    engine = build_engine(load_config(environ={}))
    now_ns = 0
    for position, file in enumerate(files):
        for request in requests(file):
            if only not in {None, request.signal}:
                continue
            if request.signal is Signal.METRICS:
                points = decode_metrics(request.payload, "default", 0)
                now_ns = max([now_ns, *(point.time_ns for point in points)])
                engine.feed(request.signal, points, position, now_ns)
            elif request.signal is Signal.TRACES:
                spans = decode_traces(request.payload, "default", 0)
                assert not spans.rejected
                now_ns = max([now_ns, *(span.end_ns for span in spans.events)])
                engine.feed(request.signal, spans.events, position, now_ns)
            else:
                logs = decode_logs(request.payload, "default", 0)
                assert not logs.rejected
                now_ns = max([now_ns, *(log.time_ns for log in logs.events)])
                engine.feed(request.signal, logs.events, position, now_ns)
            engine.advance(now_ns)
    engine.close(now_ns)
    return [line for run in engine.take().closed for line in closed_lines(run)]


def tell(lines: list[dict[str, Any]]) -> dict[str, int]:
    """The figures of expected.json, from call lines alone."""
    calls = [line for line in lines if line["type"] == "call"]
    models = [call for call in calls if call["kind"] in {"inference", "embedding"}]
    told = [call["usage"] for call in models if call["usage"] is not None]
    return {
        **{count: sum(usage[count] or 0 for usage in told) for count in COUNTS},
        "calls": len(told),
        "failed": sum("failed" in call["flags"] and call["usage"] is None for call in models),
        "tools": sum(call["kind"] == "tool" for call in calls),
    }


@pytest.mark.skipif(not CAPTURES.exists(), reason="the shared captures are not here (OTEL_COST_SHARED)")
@pytest.mark.parametrize("scenario", scenarios())
def test_scenario_counts_what_the_bytes_allow(scenario: str) -> None:
    want, got = expected()[scenario], tell(lines_of(scenario))
    totals = [(want["input"], want["output"]), *map(tuple, want.get("also", ()))]
    assert (got["input"], got["output"]) in totals
    for count in ("cache_read", "cache_write", "reasoning"):
        if want[count] is not None:
            assert got[count] == want[count], count
    assert got["calls"] == want["calls"]
    assert got["failed"] in {want["failed"], *want.get("failed_also", ())}
    assert got["tools"] == want["tools"]


def metered() -> list[str]:
    return [name for name in scenarios() if list((CAPTURES / name).parent.glob(f"{Path(name).name}.*.metrics.*"))]


@pytest.mark.skipif(not CAPTURES.exists(), reason="the shared captures are not here (OTEL_COST_SHARED)")
@pytest.mark.parametrize("scenario", metered())
def test_metrics_alone_count_what_they_hold_and_never_more(scenario: str) -> None:
    want, lines = expected()[scenario], lines_of(scenario, Signal.METRICS)
    got = tell(lines)
    for count in COUNTS:
        assert got[count] <= (want[count] or 0), count
    calls = [line for line in lines if line["type"] == "call"]
    assert all(call["sources"] == ["metric"] and "aggregate" in call["flags"] for call in calls)
    if scenario.startswith(OWN_COUNTERS):
        assert [got[count] for count in COUNTS] == [want[count] or 0 for count in COUNTS]
    elif not scenario.startswith(NOT_MEASURED):
        assert (got["input"], got["output"]) == (want["input"], want["output"])


# Clients whose own counter tells every part, and one whose streams leave no tokens in the histogram.
OWN_COUNTERS = ("claude-", "codex-cli/", "gemini-cli/")
NOT_MEASURED = ("otel-openai-v2/streaming",)
