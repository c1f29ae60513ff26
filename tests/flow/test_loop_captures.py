"""Loops in what real clients sent: told of where the client shows one, and nowhere else."""

from __future__ import annotations

import json
import os
import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from otel_cost.core.decode.otlp import decode_logs, decode_metrics, decode_traces
from otel_cost.core.model.effects import Signal
from otel_cost.core.model.vocabulary import Category, Severity
from otel_cost.edge.config import load_config
from otel_cost.edge.engine import build_engine
from otel_cost.edge.otlp_files import otlp_files, requests

CAPTURES = Path(os.environ.get("OTEL_COST_SHARED", Path(__file__).parents[3] / "shared")) / "captures"
pytestmark = pytest.mark.skipif(not CAPTURES.exists(), reason="the shared captures are not here (OTEL_COST_SHARED)")


@cache
def scenarios() -> dict[str, dict[str, Any]]:
    """Every scenario with what is true of it and what its client shows."""
    if not (CAPTURES / "expected.json").exists():
        return {}
    told = json.loads((CAPTURES / "expected.json").read_text())
    return {
        name: json.loads((CAPTURES / f"{name}.meta.json").read_text())["truth"]["loop"] | {"shown": one["loop_visible"]}
        for name, one in sorted(told.items())
    }


def alarms(scenario: str) -> list[str]:
    """Kinds of the loop alerts at warning or louder."""
    client, _, name = scenario.partition("/")
    files, _ = otlp_files(sorted((CAPTURES / client).glob(f"{name}.[0-9][0-9].*")))
    engine = build_engine(load_config(environ={}))
    now_ns = 0
    for position, request in enumerate(request for file in files for request in requests(file)):
        events: Any
        if request.signal is Signal.METRICS:
            events = decode_metrics(request.payload, "default", 0)
            times = [point.time_ns for point in events]
        elif request.signal is Signal.TRACES:
            events = decode_traces(request.payload, "default", 0).events
            times = [span.end_ns for span in events]
        else:
            events = decode_logs(request.payload, "default", 0).events
            times = [log.time_ns for log in events]
        now_ns = max([now_ns, *times])
        engine.feed(request.signal, events, position, now_ns)
        engine.advance(now_ns)
    engine.close(now_ns)
    return [
        alert.kind
        for alert in engine.take().alerts
        if alert.category is Category.LOOP and alert.state == "firing" and alert.severity is not Severity.NOTICE
    ]


@pytest.mark.parametrize("scenario", [name for name, one in scenarios().items() if not one["present"]])
def test_no_alarm_without_a_loop(scenario: str) -> None:
    assert not alarms(scenario)


@pytest.mark.skipif("openai-agents-openinference/llm_retry" not in scenarios(), reason="that capture is not here")
@pytest.mark.parametrize("seed", range(6))
def test_an_agent_started_anew_for_each_try_is_one_agent_in_whatever_order_its_spans_come(seed: int) -> None:
    files, _ = otlp_files(sorted((CAPTURES / "openai-agents-openinference").glob("llm_retry.[0-9][0-9].*")))
    spans = [
        span
        for file in files
        for request in requests(file)
        if request.signal is Signal.TRACES
        for span in decode_traces(request.payload, "default", 0).events
    ]
    if seed:
        random.Random(seed).shuffle(spans)
    else:
        spans.sort(key=lambda span: span.start_ns)  # parents first
    engine = build_engine(load_config(environ={}))
    now_ns = max(span.end_ns for span in spans)
    for position, span in enumerate(spans):
        engine.feed(Signal.TRACES, [span], position, now_ns)
    engine.close(now_ns)
    loops = [alert for alert in engine.take().alerts if alert.category is Category.LOOP and alert.state == "firing"]
    assert [(alert.kind, len(alert.span_ids)) for alert in loops] == [("retry_storm", 4)]


@pytest.mark.slow
def test_nearly_every_loop_that_a_client_shows_is_found() -> None:
    loops = [name for name, one in scenarios().items() if one["present"] and one["shown"]]
    missed = [name for name in loops if not alarms(name)]
    assert len(loops) > 10
    assert len(missed) <= 0.1 * len(loops), missed
