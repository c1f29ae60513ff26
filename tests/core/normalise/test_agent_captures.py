"""What real agents and vendor SDKs sent: the same calls from every signal they tell them in, in any order."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import pytest
from agents_helper import calls_of

from otel_cost.core.decode.otlp import decode_logs, decode_traces
from otel_cost.core.model.effects import Signal
from otel_cost.core.model.vocabulary import MODEL_KINDS, Flag, Kind
from otel_cost.edge.otlp_files import otlp_files, requests

if TYPE_CHECKING:
    from pathlib import Path

    from otel_cost.core.model.call import Call
    from otel_cost.core.model.event import LogEvent, SpanEvent

BOTH = frozenset({Signal.TRACES, Signal.LOGS})
CLIENTS = {
    "claude-agent-sdk-plus-cli-telemetry": [BOTH, {Signal.TRACES}, {Signal.LOGS}],
    "claude-code": [BOTH, {Signal.TRACES}, {Signal.LOGS}],
    "codex-cli": [BOTH, {Signal.TRACES}, {Signal.LOGS}],
    "gemini-cli": [BOTH, {Signal.LOGS}],  # its spans alone leave thinking out
    "langfuse-openai": [{Signal.TRACES}],
    "langgraph-langsmith-otel": [{Signal.TRACES}],
    "vercel-ai-openai-responses": [{Signal.TRACES}],
}


def scenarios(shared: Path, client: str) -> dict[str, dict[str, Any]]:
    expected = json.loads((shared / "captures" / "expected.json").read_text())
    found = {name.partition("/")[2]: best for name, best in expected.items() if name.startswith(f"{client}/")}
    assert found
    return found


def events_of(shared: Path, client: str, scenario: str, signals: set[Signal]) -> list[SpanEvent | LogEvent]:
    files, _ = otlp_files(sorted((shared / "captures" / client).glob(f"{scenario}.[0-9][0-9].*")))
    events: list[SpanEvent | LogEvent] = []
    for request in (request for file in files for request in requests(file)):
        if request.signal in signals:
            decode = decode_traces if request.signal is Signal.TRACES else decode_logs
            events += decode(request.payload, "default", 0).events
    random.Random(scenario).shuffle(events)
    return events


@pytest.mark.parametrize("client", CLIENTS)
def test_calls_of_each_signal_and_of_all_together(shared: Path, client: str) -> None:
    for scenario, best in scenarios(shared, client).items():
        for signals in CLIENTS[client]:
            calls = calls_of(*events_of(shared, client, scenario, set(signals)))
            usages = [call.step.usage for call in calls if call.step.usage is not None]
            where = (client, scenario, sorted(signals))
            for field in ("input", "output", "cache_read", "cache_write", "reasoning"):
                if best[field] is not None:
                    assert sum(getattr(usage, field) or 0 for usage in usages) == best[field], (*where, field)
            models = [call for call in calls if call.kind in MODEL_KINDS]
            assert len(usages) == best["calls"], where
            assert sum(call.failed for call in models) == best["failed"], where
            assert sum(call.kind is Kind.TOOL for call in calls) == best["tools"], where
            assert all(call.step.model for call in models), where
            assert not any({Flag.CONFLICT, Flag.MERGED_BY_GUESS} & call.flags for call in models), where


@pytest.mark.parametrize("client", ["claude-code", "codex-cli", "gemini-cli", "claude-agent-sdk-plus-cli-telemetry"])
def test_commands_of_a_run_are_one_session_and_fail_where_the_client_calls_them_a_success(
    shared: Path, client: str
) -> None:
    calls = calls_of(*events_of(shared, client, "tool_loop", set(BOTH)))
    assert len({call.step.session for call in calls}) == 1
    assert all(call.failed and call.step.error_type for call in calls if call.kind is Kind.TOOL)


def test_spans_of_gemini_alone_are_known_to_be_short(shared: Path) -> None:
    calls: list[Call] = calls_of(*events_of(shared, "gemini-cli", "single", {Signal.TRACES}))
    assert [call.flags for call in calls] == [{Flag.INCOMPLETE}]
