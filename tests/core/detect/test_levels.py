"""Two levels: a notice one short of what makes a loop, the alert, and one end of both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from detect_helper import feed_all, model, tool
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_cost.core.decode.otlp import decode_traces
from otel_cost.core.model.effects import Signal
from otel_cost.core.model.usage import Usage
from otel_cost.edge.config import load_config
from otel_cost.edge.engine import build_engine

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from otel_cost.core.detect import Observed
    from otel_cost.core.model.finding import Alert

WORDS = ("alpha missing", "beta refused", "gamma invalid", "delta unknown", "epsilon denied", "zeta failed")


def edits(rounds: int) -> list[Observed]:
    return [
        call
        for n in range(rounds)
        for call in (
            tool("edit", {"path": "a.py", "new": f"try {n}"}, f"edited {n}"),
            tool("run_tests", {"target": "t"}, error=WORDS[n % len(WORDS)]),
        )
    ]


def whole(times: int) -> list[Observed]:
    return [tool("write_file", {"path": "a.py", "content": f"v{n}"}, f"wrote {n}") for n in range(times)]


def errors(count: int) -> list[Observed]:
    return [tool("bash", {"n": word}, error=word) for word in WORDS[:count]]


def rounds(count: int) -> list[Observed]:
    pair = (("read", "a.py", "text"), ("look", "b.py", "other"))
    return [tool(name, {"path": path}, result) for _ in range(count) for name, path, result in pair]


def handed(times: int) -> list[Observed]:
    return [tool("transfer_to_b", {"task": "fix the login bug"}, "done") for _ in range(times)]


def cold(calls: int) -> list[Observed]:
    warm = [model(usage=Usage(input=10_000, output=1, cache_read=0, cache_write=10_000))]
    return warm + [model(usage=Usage(input=11_000 + n, output=1, cache_read=0)) for n in range(calls)]


NEWS = tool("read", {"path": "z.py"}, "quite another thing")
PASSED = tool("run_tests", {"target": "t"}, "12 passed")
HIT = model(usage=Usage(input=12_000, output=1, cache_read=11_000))
OTHER_WORK = tool("transfer_to_b", {"task": "write down what the invoice says"}, "done")


@pytest.mark.parametrize(
    ("detector", "make", "count", "end"),
    [
        ("edit_test_churn", edits, 4, PASSED),
        ("recreate_churn", whole, 4, PASSED),
        ("error_cascade", errors, 5, NEWS),
        ("cycle", rounds, 3, NEWS),
        ("agent_ping_pong", handed, 4, OTHER_WORK),
        ("cache_thrash", cold, 4, HIT),
    ],
)
def test_a_notice_then_the_alert_then_one_end(
    detector: str, make: Callable[[int], list[Observed]], count: int, end: Observed
) -> None:
    def told(calls: list[Observed]) -> list[tuple[str, str, bool]]:
        end.step.start_ns = end.step.end_ns = 0  # after what came before, not beside it
        return [(one.state, one.severity.value, one.early) for one in feed_all(detector, *calls, end)]

    assert not told(make(count - 2))
    assert told(make(count - 1)) == [("firing", "notice", True), ("resolved", "notice", True)]
    assert told(make(count + 1)) == [
        ("firing", "notice", True),
        ("firing", "warning", False),
        ("resolved", "warning", False),
    ]


def alerts(folder: Path, rule: str, calls: int) -> tuple[list[Alert], Any, list[Any]]:
    """What is told of an agent that writes one file anew, the run, and the records that go on."""
    rules = folder / "rules.yaml"
    rules.write_text(f"version: 1\nloops:\n  - {{{rule}}}\n")
    engine = build_engine(load_config(environ={}), rules=[str(rules)])
    request = ExportTraceServiceRequest()
    spans = request.resource_spans.add().scope_spans.add().spans
    for number in range(2 * calls):
        span = spans.add(trace_id=b"t" * 16, span_id=bytes([number + 1] * 8), parent_span_id=b"12345678")
        span.start_time_unix_nano = 1_793_620_800 * 10**9 + number * 10**9
        span.end_time_unix_nano = span.start_time_unix_nano + 10**9
        said: dict[str, str | int] = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai"}
        said |= {"gen_ai.request.model": "gpt-4o", "gen_ai.usage.input_tokens": 1000, "gen_ai.usage.output_tokens": 100}
        if number % 2:
            said = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "write_file"}
            said["gen_ai.tool.call.arguments"] = f'{{"path": "a.py", "content": "v{number}"}}'
            said["gen_ai.tool.call.result"] = f"wrote {number}"
        for key, value in said.items():
            pair = span.attributes.add(key=key)
            if isinstance(value, int):
                pair.value.int_value = value
            else:
                pair.value.string_value = value
    events = decode_traces(request.SerializeToString(), "default", 0).events
    engine.feed(Signal.TRACES, events, 0, events[-1].end_ns)
    engine.close(events[-1].end_ns)
    effects = engine.take()
    return [alert for alert in effects.alerts if alert.category == "loop"], effects.closed[0], effects.outgoing


RULE = "name: again, detect: recreate_churn, mode: enforce, severity: critical, do: [{deny: {text: stop}}]"


def test_an_early_notice_asks_for_nothing_and_calls_nothing_waste(tmp_path: Path) -> None:
    (notice, over), run, leaving = alerts(tmp_path, RULE, 3)
    assert (notice.severity, notice.action, notice.wasted_nano) == ("notice", "", 0)
    assert notice.evidence["at_stake_usd"] == "0.007"  # two turns
    assert "loop" not in notice.evidence
    assert (over.state, over.wasted_nano, over.fingerprint, over.seq) == ("resolved", 0, notice.fingerprint, notice.seq)
    assert not run.summary.wasted_nano
    assert not any(b"otel_cost.loop" in one.extra for one in leaving)


def test_the_alert_after_it_is_as_loud_as_its_rule_says_and_acts(tmp_path: Path) -> None:
    (notice, alert, over), run, _ = alerts(tmp_path, RULE, 5)
    assert (notice.severity, alert.severity, over.severity) == ("notice", "critical", "critical")
    assert (alert.action, alert.wasted_nano, over.wasted_nano) == ("deny", 3 * 3_500_000, 4 * 3_500_000)
    assert (alert.fingerprint, alert.seq) == (notice.fingerprint, notice.seq)
    assert alert.id != notice.id
    assert run.summary.wasted_nano == 4 * 3_500_000


def test_a_rule_that_wants_notices_is_told_of_the_alert_too(tmp_path: Path) -> None:
    rule = "name: again, detect: recreate_churn, severity: notice"
    (early, alert, _), _, _ = alerts(tmp_path, rule, 5)
    assert (early.wasted_nano, alert.wasted_nano) == (0, 3 * 3_500_000)
    assert (early.severity, alert.severity) == ("notice", "notice")
