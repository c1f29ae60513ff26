"""Rule tests: what a set of rules must and must not say about a given run, in virtual time.

    version: 1
    rules: [team.yaml]
    tests:
      - name: the third equal failure is told
        spans: [{tool: bash, error: "exit status 1", times: 3}]
        alerts: [{rule: same-error-3x, count: 1}]
        no_alerts: [context-growth]
      - name: the hour is shared, the loop is named
        spans: [{usd: 12, run: loop, team: core, times: 2}, {usd: 1, run: other, team: core}]
        alerts: [{rule: team-hourly, run: loop, action: delay}]
        budgets: [{rule: team-hourly, group: {team: core}, spent_usd: 25}]

A test's input is spans in short form, OTLP files, or both (files first). Paths are relative to the test file.
Each span in short form is told when it ends, and time passes as it says; the spans of its agents come last.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Literal, cast

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from pydantic import BaseModel, ConfigDict, Field, model_validator

from otel_cost.core.decode.otlp import decode_logs, decode_traces
from otel_cost.core.model.effects import Signal
from otel_cost.core.model.event import DEFAULT_TENANT
from otel_cost.core.model.money import nano_to_text, usd_to_nano
from otel_cost.core.price import layer_of
from otel_cost.document import parse_document, validate
from otel_cost.edge.files import BUNDLED, load_price_book, read_document
from otel_cost.edge.otlp_files import otlp_files, requests
from otel_cost.edge.rule_files import read_rules
from otel_cost.pipeline import Engine
from otel_cost.quantities import Duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from otel_cost.core.model.finding import Alert
    from otel_cost.core.price import Layer, PriceBook
    from otel_cost.core.rules import RuleSet

Row = dict[str, object]
_SECOND_NS = 10**9
_MOST_ROWS = 100_000
_MINT = "otel-cost-test"  # provider of calls whose price a test names
_WHO = {"user": "user.id", "team": "team.id", "workflow": "otel_cost.workflow", "project": "project.id"}


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ShortSpan(_Strict):
    """A model call or a tool call, one second long; `times` of them, one after the other."""

    tool: str | None = None
    arguments: str | None = None
    result: str | None = None
    model: str | None = None
    provider: str | None = None
    usd: Annotated[Decimal, Field(ge=0)] | None = None  # what a model call costs, whatever the price book says
    input: Annotated[int, Field(ge=0)] = 0  # tokens, cached ones included
    cache_read: Annotated[int, Field(ge=0)] | None = None
    output: Annotated[int, Field(ge=0)] = 0
    error: str | None = None
    run: str | None = None  # a conversation; spans without a name are one run
    user: str | None = None
    team: str | None = None
    workflow: str | None = None
    project: str | None = None
    after: Duration = _SECOND_NS  # pause before it
    times: Annotated[int, Field(ge=1, le=10_000)] = 1
    attributes: dict[str, str | int | bool] = {}  # further attributes, as sent

    @model_validator(mode="after")
    def _tool_or_model(self) -> ShortSpan:
        if (self.tool is None) == (self.model is None and self.usd is None):
            raise ValueError("a span is of a `tool` or of a `model`\na model call may say only what it costs: `usd`")
        if self.usd is not None and (self.provider or self.input or self.output or self.cache_read):
            raise ValueError("`usd` is the whole price\nleave out the provider and the tokens")
        return self

    @property
    def priced_model(self) -> str:
        """The model of a call that names its price."""
        return self.model or "any"


class Expected(_Strict):
    """An alert that must fire. What is not said is not looked at."""

    rule: str
    count: Annotated[int, Field(ge=1)] | None = None  # None: at least one
    kind: str | None = None
    severity: Literal["notice", "warning", "critical"] | None = None
    run: str | None = None
    action: str | None = None
    wasted_usd: Decimal | None = None


class Counter(_Strict):
    """Where a group of a budget must stand when the input is over. `group` may name a part of what it is made of."""

    rule: str
    group: dict[str, str] = {}
    spent_usd: Decimal | None = None  # all of it
    counted_usd: Decimal | None = None  # what exceptions leave


class RuleTest(_Strict):
    """One test."""

    name: str
    at: datetime = datetime(2026, 1, 1, tzinfo=UTC)  # when the first short span starts: prices have dates
    otlp: tuple[str, ...] = ()
    spans: tuple[ShortSpan, ...] = ()
    alerts: tuple[Expected, ...] = ()
    no_alerts: tuple[str, ...] = ()  # names of rules; `*`: none at all but those in `alerts`
    budgets: tuple[Counter, ...] = ()
    cost_usd: Decimal | None = None  # of all runs together

    @model_validator(mode="after")
    def _has_input(self) -> RuleTest:
        if not self.otlp and not self.spans:
            raise ValueError("a test needs `spans` or `otlp`")
        return self


class RuleTestFile(_Strict):
    """One file of tests over one set of rules."""

    version: Literal[1]
    rules: tuple[str, ...] = ("bundled:starter",)
    tests: Annotated[tuple[RuleTest, ...], Field(min_length=1)]


def run_file(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Run every test of one file: its name and what went wrong (nothing: it passed).

    Raises:
        UsageError: a file that is named is not there.
        DocumentError: the test file or its rules do not load.
    """
    file = validate(read_document(path), RuleTestFile)
    named = [entry if entry.startswith(BUNDLED) else str(path.parent / entry) for entry in file.rules]
    rules = read_rules(named, tells_nobody=True)
    book = load_price_book(extra=_minted(file.tests))
    for test in file.tests:
        yield test.name, _failures(test, *_run(test, rules, book, path.parent))


def _minted(tests: Iterable[RuleTest]) -> list[Layer]:
    """Prices for calls that name their own: a billion tokens are a dollar, so that any amount is exact."""
    models = sorted({span.priced_model for test in tests for span in test.spans if span.usd is not None})
    if not models:
        return []
    lines = [
        f"      - {{id: {json.dumps(model)}, prices: [{{input_mtok: 0, output_mtok: 0.001}}]}}" for model in models
    ]
    head = f"version: 1\nproviders:\n  - id: {_MINT}\n    source: {_MINT}\n    read: 2026-01-01\n    models:"
    return [layer_of(parse_document("\n".join([head, *lines]), "the test's own prices"))]


def _run(test: RuleTest, rules: RuleSet, book: PriceBook, base: Path) -> tuple[list[Alert], int, list[Row]]:
    """Feed a test's input; the alerts that fired, the cost of all runs [nano-USD] and where the budgets stand."""
    engine = Engine(book, rules)
    now_ns = 0
    files, _ = otlp_files([base / name for name in test.otlp])
    given = [(request.signal, request.payload) for file in files for request in requests(file)]
    given += [(Signal.TRACES, request) for request in _encoded(test)]
    for position, (signal, payload) in enumerate(given, 1):
        if signal is Signal.TRACES:
            spans = decode_traces(payload, DEFAULT_TENANT, 0).events
            now_ns = max([now_ns, *(span.end_ns for span in spans)])
            engine.feed(signal, spans, position, now_ns)
        elif signal is Signal.LOGS:
            logs = decode_logs(payload, DEFAULT_TENANT, 0).events
            now_ns = max([now_ns, *(log.time_ns for log in logs)])
            engine.feed(signal, logs, position, now_ns)
    standings = engine.policy.standings(now_ns, limit=_MOST_ROWS)
    engine.close(now_ns)
    effects = engine.take()
    alerts = [alert for alert in effects.alerts if alert.state == "firing"]
    return alerts, sum(run.summary.nano or 0 for run in effects.closed), standings


def _failures(test: RuleTest, alerts: list[Alert], nano: int, standings: list[Row]) -> list[str]:
    failures: list[str] = []
    for expected in test.alerts:
        of_rule = [alert for alert in alerts if alert.rule == expected.rule]
        fitting = [alert for alert in of_rule if _fits(expected, alert)]
        if expected.count is not None and len(fitting) != expected.count:
            failures.append(f"{expected.rule}: expected {expected.count}, fired {len(fitting)}{_but(of_rule, fitting)}")
        elif not fitting:
            failures.append(f"{expected.rule}: did not fire{_but(of_rule, fitting)}")
    wanted = {expected.rule for expected in test.alerts}
    failures += [
        f"{alert.rule}: fired: {alert.summary}"
        for alert in alerts
        if alert.rule in test.no_alerts or ("*" in test.no_alerts and alert.rule not in wanted)
    ]
    failures += [failure for counter in test.budgets for failure in _miscounted(counter, standings)]
    if test.cost_usd is not None and usd_to_nano(test.cost_usd) != nano:
        failures.append(f"cost_usd: expected {test.cost_usd}, is {nano_to_text(nano)}")
    return failures


def _miscounted(counter: Counter, standings: list[Row]) -> Iterator[str]:
    rows = [
        row
        for row in standings
        if row["rule"] == counter.rule and counter.group.items() <= cast("dict[str, str]", row["group"]).items()
    ]
    where = f"{counter.rule} {counter.group}" if counter.group else counter.rule
    for name, wanted in (("spent_usd", counter.spent_usd), ("counted_usd", counter.counted_usd)):
        if wanted is None:
            continue
        found = sum(usd_to_nano(str(row[name])) for row in rows)
        if found != usd_to_nano(wanted):
            yield f"{where}: expected {name} {wanted}, is {nano_to_text(found)}"


def _fits(expected: Expected, alert: Alert) -> bool:
    return (
        (expected.kind is None or alert.kind == expected.kind)
        and (expected.severity is None or alert.severity.value == expected.severity)
        and (expected.run is None or alert.run_id == expected.run)
        and (expected.action is None or alert.action == expected.action)
        and (expected.wasted_usd is None or alert.wasted_nano == usd_to_nano(expected.wasted_usd))
    )


def _but(of_rule: list[Alert], fitting: list[Alert]) -> str:
    """What fired instead, so that the difference is seen."""
    other = [alert for alert in of_rule if alert not in fitting]
    seen = (
        f"kind {alert.kind}, run {alert.run_id}, severity {alert.severity}, action {alert.action or 'none'}, wasted "
        f"{'unknown' if alert.wasted_nano is None else nano_to_text(alert.wasted_nano)}"
        for alert in other
    )
    return f"; fired otherwise: {'; '.join(seen)}" if other else ""


def _encoded(test: RuleTest) -> Iterator[bytes]:
    """The short spans, an export request each: children of one agent span per run, in the conventions' words."""
    at_ns = round(test.at.timestamp()) * _SECOND_NS
    began: dict[str | None, int] = {}
    number = 1
    for short in test.spans:
        for _ in range(short.times):
            number += 1
            began.setdefault(short.run, at_ns)
            at_ns += short.after
            trace = (list(began).index(short.run) + 1).to_bytes(1, "big")
            request = ExportTraceServiceRequest()
            span = request.resource_spans.add().scope_spans.add().spans.add(
                trace_id=trace * 16, span_id=number.to_bytes(8, "big"), parent_span_id=b"\x01" * 8
            )  # fmt: skip
            span.start_time_unix_nano, span.end_time_unix_nano = at_ns, at_ns + _SECOND_NS
            at_ns += _SECOND_NS
            _describe(span, short, number)
            yield request.SerializeToString()
    for index, (run, start_ns) in enumerate(began.items(), 1):
        request = ExportTraceServiceRequest()
        root = request.resource_spans.add().scope_spans.add().spans.add(
            trace_id=index.to_bytes(1, "big") * 16, span_id=b"\x01" * 8, name="invoke_agent tested"
        )  # fmt: skip
        root.start_time_unix_nano, root.end_time_unix_nano = start_ns, at_ns
        root.attributes.extend([_pair("gen_ai.operation.name", "invoke_agent"), _pair("gen_ai.agent.name", "tested")])
        if run is not None:
            root.attributes.append(_pair("gen_ai.conversation.id", run))
        yield request.SerializeToString()


def _describe(span: Span, short: ShortSpan, number: int) -> None:
    told: dict[str, str | int | bool | None]
    if short.tool is not None:
        span.name = f"execute_tool {short.tool}"
        told = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": short.tool,
            "gen_ai.tool.call.id": f"call_{number}",
            "gen_ai.tool.call.arguments": short.arguments,
            "gen_ai.tool.call.result": short.result,
        }
    else:
        span.name = f"chat {short.priced_model}"
        told = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": short.provider if short.usd is None else _MINT,
            "gen_ai.request.model": short.priced_model,
            "gen_ai.usage.input_tokens": short.input,
            "gen_ai.usage.cache_read.input_tokens": short.cache_read,
            "gen_ai.usage.output_tokens": short.output if short.usd is None else usd_to_nano(short.usd),
        }
    told |= {key: getattr(short, name) for name, key in _WHO.items()} | {"gen_ai.conversation.id": short.run}
    if short.error is not None:
        told["error.type"] = "error"
        span.status.CopyFrom(Status(code=Status.STATUS_CODE_ERROR, message=short.error))
    told |= short.attributes
    span.attributes.extend(_pair(key, value) for key, value in told.items() if value is not None)


def _pair(key: str, value: str | int | bool) -> KeyValue:
    if isinstance(value, bool):
        return KeyValue(key=key, value=AnyValue(bool_value=value))
    return KeyValue(
        key=key, value=AnyValue(int_value=value) if isinstance(value, int) else AnyValue(string_value=value)
    )
