"""Hook calls between two slices of a request: what comes of the request is the same, to the byte."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from money_helper import SECOND, T0

from otel_cost.core.decode.otlp import decode_traces
from otel_cost.core.enrich.lines import closed_lines
from otel_cost.core.enrich.records import alert_json
from otel_cost.core.hooks import hook_event
from otel_cost.core.model.effects import Signal
from otel_cost.edge.config import load_config
from otel_cost.edge.engine import build_engine
from otel_cost.edge.otlp_files import requests

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from otel_cost.pipeline import Engine


def told(shared: Path, between: Callable[[Engine], None]) -> tuple[list[Any], int]:
    """Everything that comes of the captured traces of one client, and how many slices that took."""
    engine = build_engine(load_config(environ={}))
    slices = 0
    said: list[Any] = []
    now_ns = T0
    files = sorted((shared / "captures" / "claude-code").glob("*.traces.*"))
    assert files
    for position, file in enumerate(files):
        for request in requests(file):
            spans = decode_traces(request.payload, "default", now_ns).events
            now_ns += SECOND
            for _ in engine.feeding(Signal.TRACES, spans, position, now_ns):
                slices += 1
                between(engine)
        for _ in engine.advancing(now_ns):
            between(engine)
    now_ns += 3600 * SECOND
    for _ in engine.advancing(now_ns):
        between(engine)
    engine.close(now_ns)
    effects = engine.take()
    said += [(out.signal, out.position, out.raw, out.extra) for out in effects.outgoing]
    said += [alert_json(alert) for alert in effects.alerts]
    said += [line for run in effects.closed if run.summary.session != "asks" for line in closed_lines(run)]
    return said, slices


def test_questions_in_between_change_nothing_of_others(shared: Path) -> None:
    asked = 0

    def ask(engine: Engine) -> None:
        nonlocal asked
        asked += 1
        name = "PostToolUse" if asked % 2 else "PreToolUse"
        payload = {"session_id": "asks", "hook_event_name": name, "tool_name": f"t{asked}", "tool_input": {"n": asked}}
        engine.hook(hook_event("claude", payload, T0 + asked), T0 + asked)

    whole, slices = told(shared, lambda _: None)
    assert slices > 20
    assert told(shared, ask)[0] == whole
    assert asked > slices
