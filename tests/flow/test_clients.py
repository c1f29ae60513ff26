"""Real clients against a server that says what it gave: what their telemetry comes to here, and what it cannot tell.

`tests/data/clients` has what they sent, without prompts, places and stack traces. `truth` is the server's own count,
`told` what the bytes allow: less where the client loses something, and then the run says that it is a floor.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from otel_cost.core.decode.otlp import decode_logs, decode_traces
from otel_cost.core.enrich.lines import closed_lines
from otel_cost.core.model.effects import Signal
from otel_cost.edge.config import load_config
from otel_cost.edge.engine import build_engine

FOLDER = Path(__file__).parents[1] / "data" / "clients"
EXPECTED: dict[str, dict[str, Any]] = json.loads((FOLDER / "expected.json").read_text())
COUNTS = ("input", "output", "cache_read", "cache_write", "reasoning")


def lines_of(name: str) -> list[dict[str, Any]]:
    engine = build_engine(load_config(environ={}))
    now_ns = 0
    for position, file in enumerate(sorted(FOLDER.glob(f"{name}.*.pb.gz"), reverse=True)):
        payload = gzip.decompress(file.read_bytes())
        if ".traces." in file.name:
            events, signal = decode_traces(payload, "default", 0).events, Signal.TRACES
            now_ns = max([now_ns, *(span.end_ns for span in events)])
        else:
            events, signal = decode_logs(payload, "default", 0).events, Signal.LOGS
            now_ns = max([now_ns, *(log.time_ns for log in events)])
        engine.feed(signal, events, position, now_ns)
        engine.advance(now_ns)
    engine.close(now_ns)
    return [line for run in engine.take().closed for line in closed_lines(run)]


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_client_counts_as_the_server_did(name: str) -> None:
    want, lines = EXPECTED[name], lines_of(name)
    calls = [line for line in lines if line["type"] == "call"]
    models = [call for call in calls if call["kind"] in {"inference", "embedding"}]
    told = [call["usage"] for call in models if call["usage"] is not None]
    got = {count: sum(usage[count] or 0 for usage in told) for count in COUNTS} | {
        "calls": len(told),
        "failed": sum("failed" in call["flags"] and call["usage"] is None for call in models),
        "tools": sum(call["kind"] == "tool" for call in calls),
    }
    assert got == want["told"]
    assert sum(call["reason"] == "missing_usage" for call in models) == want["holes"]
    assert sorted({flag for call in calls for flag in call["flags"]} - {"failed"}) == want["flags"]
    assert all(line["complete"] for line in lines if line["type"] == "run") == want["complete"]


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_less_than_the_truth_is_said_to_be_a_floor(name: str) -> None:
    """Never more than the server gave; and tokens that are missing are missing in a run that says so."""
    told, truth, broke_off = EXPECTED[name]["told"], EXPECTED[name]["truth"], EXPECTED[name]["truth"]["cut"]
    if not broke_off:  # of an answer that broke off the server's count is not known
        assert all(told[count] <= truth[count] for count in COUNTS)
        assert told["calls"] + EXPECTED[name]["holes"] <= truth["calls"] + truth["failed"]
    if (told["input"], told["output"]) != (truth["input"], truth["output"]):
        assert not EXPECTED[name]["complete"]
