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

      - name: the strong model is for what the cheap one failed at
        spans:
          - {hook: before_model, model: opus, expect: downgrade, rule: strong-after-tests-fail}
          - {hook: before_model, model: haiku, expect: allow}
          - {hook: after_tool, tool: bash, arguments: pytest, error: 2 failed, times: 2}
          - {wait: 10m}
          - {hook: before_model, model: opus, expect: allow}
        no_decisions: [stop]

A test's input is spans in short form, what a harness asks and tells (`hook`), pauses (`wait`), news of the work
(`outcome`), OTLP files, or all of it (files first). Paths are relative to the test file. Each span in short form is
told when it ends, and time passes as it says; the spans of its agents come last.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, cast

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from pydantic import BaseModel, ConfigDict, Field, Tag, model_validator

from otel_cost.core.decide import Decision, Verb
from otel_cost.core.decode.otlp import decode_logs, decode_traces
from otel_cost.core.hooks import read_hook
from otel_cost.core.model.effects import Signal
from otel_cost.core.model.event import DEFAULT_TENANT
from otel_cost.core.model.money import nano_to_text, usd_to_nano
from otel_cost.core.model.outcome import Outcome, Result
from otel_cost.core.model.vocabulary import Category
from otel_cost.core.outcomes import keys_of
from otel_cost.core.price import layer_of
from otel_cost.core.rules.kind import VERBS, told_by
from otel_cost.document import nearest, parse_document, validate
from otel_cost.edge.files import BUNDLED, load_price_book, read_document
from otel_cost.edge.otlp_files import otlp_files, requests
from otel_cost.edge.rule_files import read_rules
from otel_cost.errors import DocumentError
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


Verbs = Literal["allow", "warn", "delay", "downgrade", "ask", "deny", "stop"]


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


class HookStep(_Strict):
    """What a harness that obeys every verb asks or tells, in the words of `/v1/decide`; `expect`: what it is told."""

    hook: Annotated[str, Field(min_length=1)]  # before_model, after_tool, prompt …
    run: str | None = None
    tool: str | None = None
    arguments: str | None = None
    result: str | None = None
    error: str | None = None
    failed: bool | str | tuple[str, ...] | None = None
    model: str | None = None
    agent: str | None = None
    user: str | None = None
    team: str | None = None
    workflow: str | None = None
    attributes: dict[str, str | int | bool] = {}
    after: Duration = _SECOND_NS
    times: Annotated[int, Field(ge=1, le=10_000)] = 1
    expect: Verbs | None = None  # each time
    rule: str | None = None  # that decides
    to: str | None = None  # the model that it is downgraded to


class Wait(_Strict):
    """Nothing happens for so long."""

    wait: Duration


class News(_Strict):
    """An outcome or an evaluation."""

    outcome: Annotated[str, Field(min_length=1)]
    value: Result = Result.FAILURE
    source: Literal["evaluation", "api"] = "evaluation"
    run: str | None = None
    after: Duration = _SECOND_NS


Step = Annotated[
    Annotated[ShortSpan, Tag("ShortSpan")]
    | Annotated[HookStep, Tag("HookStep")]
    | Annotated[Wait, Tag("Wait")]
    | Annotated[News, Tag("News")],
    told_by(usd="ShortSpan", hook="HookStep", wait="Wait", outcome="News"),
]


class Expected(_Strict):
    """An alert that must fire. What is not said is not looked at."""

    rule: str
    state: Literal["firing", "resolved"] = "firing"
    category: Category | None = None
    count: Annotated[int, Field(ge=1)] | None = None  # None: at least one
    kind: str | None = None
    severity: Literal["notice", "warning", "critical"] | None = None
    run: str | None = None
    action: str | None = None
    wasted_usd: Decimal | None = None


class Counter(_Strict):
    """Where a group of a budget must stand when the input is over. `group` may name a part of what it is made of.

    An empty value is the unattributed.
    """

    rule: str
    group: dict[str, str] = {}
    spent_usd: Decimal | None = None  # all of it
    counted_usd: Decimal | None = None  # what exceptions leave
    left_usd: Decimal | None = None
    limit_usd: Decimal | None = None


class Decided(_Strict):
    """A decision that a hook must be answered with. What is not said is not looked at."""

    decision: Verbs
    rule: str | None = None
    run: str | None = None
    count: Annotated[int, Field(ge=1)] | None = None  # None: at least one


class RuleTest(_Strict):
    """One test."""

    name: str
    at: datetime = datetime(2026, 1, 1, tzinfo=UTC)  # when the first short span starts: prices have dates
    otlp: tuple[str, ...] = ()
    spans: tuple[Step, ...] = ()  # and what else happens, in order of time
    alerts: tuple[Expected, ...] = ()
    no_alerts: tuple[str, ...] = ()  # names of rules; `*`: none at all but those in `alerts`
    decisions: tuple[Decided, ...] = ()
    no_decisions: tuple[str, ...] = ()  # verbs or names of rules; `*`: every hook is answered with allow
    budgets: tuple[Counter, ...] = ()
    no_budgets: tuple[str, ...] = ()  # rules that nothing is counted in
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
    document = read_document(path)
    if isinstance(document.value, dict) and "tests" not in document.value:
        hint = f"the tests of rules are a file of their own, NAME.test.yaml, with `rules: [{path.name}]`"
        raise DocumentError([document.problem((), "there are no `tests` in it", hint)])
    file = validate(document, RuleTestFile)
    named = [entry if entry.startswith(BUNDLED) else str(path.parent / entry) for entry in file.rules]
    rules = read_rules(named, tells_nobody=True)
    book = load_price_book(extra=_minted(file.tests))
    for test in file.tests:
        yield test.name, _failures(test, _run(test, rules, book, path.parent), rules)


def _minted(tests: Iterable[RuleTest]) -> list[Layer]:
    """Prices for calls that name their own: a billion tokens are a dollar, so that any amount is exact."""
    spans = [step for test in tests for step in test.spans if isinstance(step, ShortSpan)]
    models = sorted({span.priced_model for span in spans if span.usd is not None})
    if not models:
        return []
    lines = [
        f"      - {{id: {json.dumps(model)}, prices: [{{input_mtok: 0, output_mtok: 0.001}}]}}" for model in models
    ]
    head = f"version: 1\nproviders:\n  - id: {_MINT}\n    source: {_MINT}\n    read: 2026-01-01\n    models:"
    return [layer_of(parse_document("\n".join([head, *lines]), "the test's own prices"))]


class _Answer(NamedTuple):
    """What one hook was answered."""

    step: HookStep
    number: int  # of the step
    decision: Decision


@dataclass(slots=True)
class _Outcome:
    """What a test's input has led to."""

    alerts: list[Alert]
    answers: list[_Answer]
    nano: int
    standings: list[Row]


def _run(test: RuleTest, rules: RuleSet, book: PriceBook, base: Path) -> _Outcome:
    """Feed a test's input in virtual time."""
    engine = Engine(book, rules)
    now_ns = position = 0
    files, _ = otlp_files([base / name for name in test.otlp])
    for file in files:
        for request in requests(file):
            position += 1
            now_ns = _feed(engine, request.signal, request.payload, position, now_ns)
    answers: list[_Answer] = []
    stage = _Stage(round(test.at.timestamp()) * _SECOND_NS)
    for number, step in enumerate(test.spans, 1):
        for _ in range(step.times if isinstance(step, ShortSpan | HookStep) else 1):
            position += 1
            if isinstance(step, Wait):
                stage.now_ns += step.wait
            else:
                stage.now_ns += step.after
            engine.advance(stage.now_ns)
            if isinstance(step, ShortSpan):
                _feed(engine, Signal.TRACES, stage.span(step), position, stage.now_ns)
            elif isinstance(step, HookStep):
                event = read_hook("neutral", stage.hook(step), stage.now_ns)
                answers.append(_Answer(step, number, engine.hook(event, stage.now_ns)))
            elif isinstance(step, News):
                engine.learn(stage.news(step, number))
    now_ns = max(now_ns, stage.now_ns)
    for payload in stage.agents():
        position += 1
        now_ns = _feed(engine, Signal.TRACES, payload, position, now_ns)
    standings = engine.policy.standings(now_ns, limit=_MOST_ROWS)
    engine.close(now_ns)
    effects = engine.take()
    return _Outcome(effects.alerts, answers, sum(run.summary.nano or 0 for run in effects.closed), standings)


def _feed(engine: Engine, signal: Signal, payload: bytes, position: int, now_ns: int) -> int:
    """Feed one request when its last event has ended; that moment, or `now_ns` if it is later."""
    if signal is Signal.TRACES:
        spans = decode_traces(payload, DEFAULT_TENANT, 0).events
        now_ns = max([now_ns, *(span.end_ns for span in spans)])
        engine.feed(signal, spans, position, now_ns)
    elif signal is Signal.LOGS:
        logs = decode_logs(payload, DEFAULT_TENANT, 0).events
        now_ns = max([now_ns, *(log.time_ns for log in logs)])
        engine.feed(signal, logs, position, now_ns)
    return now_ns


def _failures(test: RuleTest, got: _Outcome, rules: RuleSet) -> list[str]:
    failures = list(_unknown_names(test, rules))
    for expected in test.alerts:
        of_rule = [alert for alert in got.alerts if alert.rule == expected.rule and alert.state == expected.state]
        fitting = [alert for alert in of_rule if _fits(expected, alert)]
        what = "fired" if expected.state == "firing" else "resolved"
        if expected.count is not None and len(fitting) != expected.count:
            failures.append(
                f"{expected.rule}: expected {expected.count}, {what} {len(fitting)}{_but(of_rule, fitting)}"
            )
        elif not fitting:
            failures.append(
                f"{expected.rule}: did not {'fire' if what == 'fired' else 'resolve'}{_but(of_rule, fitting)}"
            )
    wanted = {expected.rule for expected in test.alerts}
    failures += [
        f"{alert.rule}: fired: {alert.summary}"
        for alert in got.alerts
        if alert.state == "firing"
        and (alert.rule in test.no_alerts or ("*" in test.no_alerts and alert.rule not in wanted))
    ]
    failures += _misdecided(test, got.answers)
    failures += [failure for counter in test.budgets for failure in _miscounted(counter, got.standings)]
    failures += [
        f"{row['rule']} {row['group']}: counted {row['spent_usd']}"
        for row in got.standings
        if row["rule"] in test.no_budgets
    ]
    if test.cost_usd is not None and usd_to_nano(test.cost_usd) != got.nano:
        failures.append(f"cost_usd: expected {test.cost_usd}, is {nano_to_text(got.nano)}")
    return failures


def _unknown_names(test: RuleTest, rules: RuleSet) -> Iterator[str]:
    """An expectation of a rule that does not exist could never fail, or never hold."""
    known = {str(getattr(rule, "name", None)) for of_kind in rules.rules.values() for rule in of_kind}
    known |= {"unknown_price", "*", *VERBS}
    asked = [expected.rule for expected in test.alerts] + [counter.rule for counter in test.budgets]
    asked += [*test.no_alerts, *test.no_decisions, *test.no_budgets]
    asked += [one.rule for one in test.decisions if one.rule]
    asked += [step.rule for step in test.spans if isinstance(step, HookStep) and step.rule]
    for name in dict.fromkeys(asked):
        if name not in known:
            yield f"{name}: no rule is called so; {nearest(name, sorted(known - {'*', *VERBS, 'None'}))}"


def _misdecided(test: RuleTest, answers: list[_Answer]) -> Iterator[str]:
    for step, number, decision in answers:
        where = f"spans[{number - 1}] {step.hook}"
        why = f" ({decision.rule}: {decision.reason})" if decision.rule else ""
        if step.expect is not None and str(decision.verb) != step.expect:
            yield f"{where}: expected {step.expect}, is {decision.verb}{why}"
        elif step.rule is not None and decision.rule != step.rule:
            yield f"{where}: expected {step.rule} to decide, it is {decision.rule or 'no rule'}"
        elif step.to is not None and decision.model != step.to:
            yield f"{where}: expected a downgrade to {step.to}, it is to {decision.model or 'none'}"
        told = {str(decision.verb), decision.rule}
        if (decision.verb is not Verb.ALLOW and told & {*test.no_decisions}) or (
            "*" in test.no_decisions and decision.verb is not Verb.ALLOW
        ):
            yield f"{where}: was told {decision.verb}{why}"
    for one in test.decisions:
        fitting = [
            answer
            for answer in answers
            if str(answer.decision.verb) == one.decision
            and one.rule in {None, answer.decision.rule}
            and one.run in {None, answer.step.run}
        ]
        if (not fitting) if one.count is None else len(fitting) != one.count:
            said = ", ".join(f"{answer.step.hook}: {answer.decision.verb}" for answer in answers[:20]) or "no hooks"
            wanted = f"{one.decision}{f' by {one.rule}' if one.rule else ''}"
            yield f"decisions: expected {wanted}: {one.count or 'at least 1'} times, was {len(fitting)}; told: {said}"


def _miscounted(counter: Counter, standings: list[Row]) -> Iterator[str]:
    group = {name: value or None for name, value in counter.group.items()}
    rows = [
        row
        for row in standings
        if row["rule"] == counter.rule and group.items() <= cast("dict[str, str | None]", row["group"]).items()
    ]
    where = f"{counter.rule} {counter.group}" if counter.group else counter.rule
    for name in ("spent_usd", "counted_usd", "left_usd", "limit_usd"):
        wanted = getattr(counter, name)
        if wanted is None:
            continue
        found = sum(usd_to_nano(str(row[name])) for row in rows)
        if found != usd_to_nano(wanted):
            yield f"{where}: expected {name} {wanted}, is {nano_to_text(found)}"


def _fits(expected: Expected, alert: Alert) -> bool:
    return (
        (expected.kind is None or alert.kind == expected.kind)
        and (expected.category is None or alert.category == expected.category)
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


class _Stage:
    """The runs of a test and its virtual time, encoded as clients would send them."""

    def __init__(self, at_ns: int) -> None:
        self.now_ns = at_ns
        self._began: dict[str | None, int] = {}
        self._number = 1

    def span(self, short: ShortSpan) -> bytes:
        """One request with one span, a second long, below the agent span of its run."""
        self._number += 1
        trace = self._trace(short.run)
        request = ExportTraceServiceRequest()
        span = request.resource_spans.add().scope_spans.add().spans.add(
            trace_id=trace, span_id=self._number.to_bytes(8, "big"), parent_span_id=b"\x01" * 8
        )  # fmt: skip
        span.start_time_unix_nano, span.end_time_unix_nano = self.now_ns, self.now_ns + _SECOND_NS
        self.now_ns += _SECOND_NS
        _describe(span, short, self._number)
        return request.SerializeToString()

    def hook(self, step: HookStep) -> bytes:
        """The body of a request to `/v1/decide`."""
        told: dict[str, object] = {
            "event": step.hook,
            "session_id": step.run,
            "trace_id": None if step.run else self._trace(None).hex(),
            "args": step.arguments,
            "tool": step.tool,
            "result": step.result,
            "error": step.error,
            "failed": list(step.failed) if isinstance(step.failed, tuple) else step.failed,
            "model": step.model,
            "agent": step.agent,
            "user": step.user,
            "team": step.team,
            "workflow": step.workflow,
            "attributes": step.attributes,
        }
        return json.dumps({key: value for key, value in told.items() if value is not None}).encode()

    def news(self, step: News, number: int) -> Outcome:
        """An outcome of a run."""
        keys = keys_of(session=step.run, trace=None if step.run else self._trace(None).hex())
        return Outcome(
            id=f"{step.outcome} {number}",
            tenant=DEFAULT_TENANT,
            name=step.outcome,
            value=step.value,
            at_ns=self.now_ns,
            source=step.source,
            keys=keys,
        )

    def agents(self) -> Iterator[bytes]:
        """The agent span of each run that has spans."""
        for run, start_ns in self._began.items():
            request = ExportTraceServiceRequest()
            root = request.resource_spans.add().scope_spans.add().spans.add(
                trace_id=self._trace(run), span_id=b"\x01" * 8, name="invoke_agent tested"
            )  # fmt: skip
            root.start_time_unix_nano, root.end_time_unix_nano = start_ns, self.now_ns
            root.attributes.extend(
                [_pair("gen_ai.operation.name", "invoke_agent"), _pair("gen_ai.agent.name", "tested")]
            )
            if run is not None:
                root.attributes.append(_pair("gen_ai.conversation.id", run))
            yield request.SerializeToString()

    def _trace(self, run: str | None) -> bytes:
        self._began.setdefault(run, self.now_ns)
        return (list(self._began).index(run) + 1).to_bytes(2, "big") * 8


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
