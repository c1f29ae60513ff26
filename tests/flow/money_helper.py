"""Spans, log records and metrics made by hand, through the real engine, and what its effects come to in a ledger."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from otel_cost.core.enrich.lines import closed_lines
from otel_cost.core.model.attributes import PlainAttributes
from otel_cost.core.model.effects import Correction, Signal
from otel_cost.core.model.event import LogEvent, MetricPoint, Resource, Scope, SpanEvent
from otel_cost.core.model.money import usd_to_nano
from otel_cost.core.price import PriceBook, compile_book, layer_of
from otel_cost.core.rules import load_rules
from otel_cost.document import parse_document
from otel_cost.pipeline import Engine

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from otel_cost.core.model.finding import Alert
    from otel_cost.core.model.run import ClosedRun

    Event = SpanEvent | LogEvent | MetricPoint

SECOND = 10**9
HOUR = 3600 * SECOND
DAY = 24 * HOUR
T0 = int(datetime(2026, 3, 2, 9, tzinfo=UTC).timestamp()) * SECOND

# Uncached input 10 nano-dollars a token, read from cache 1, output 50; above 1000 tokens of input twice as much.
PRICES = """
version: 1
providers:
  - id: anthropic
    source: https://prices.example
    read: 2026-01-01
    models:
      - id: claude-mint
        prices:
          - {input_mtok: {base: 0.01, tiers: [{start: 1000, price: 0.02}]}, cache_read_mtok: 0.001,
             cache_write_mtok: 0.0125, output_mtok: 0.05}
      - {id: claude-small, prices: [{input_mtok: 0.001, output_mtok: 0.005}]}
"""


@cache
def book() -> PriceBook:
    return compile_book([layer_of(parse_document(PRICES, "prices.yaml"))])


def trace(number: int) -> bytes:
    return number.to_bytes(16, "big")


def sid(number: int) -> bytes:
    return number.to_bytes(8, "big") if number else b""


def span(
    number: int,
    parent: int = 0,
    *,
    at: float = 0,
    lasts: float = 1,
    trace_id: int = 1,
    scope: str = "sdk",
    name: str = "chat",
    error: bool = False,
    service: str | None = None,
    **told: object,
) -> SpanEvent:
    """A span; `at` and `lasts` in seconds. Attributes: `__` stands for a dot."""
    return SpanEvent(
        tenant="default",
        received_ns=0,
        resource=_resource(service),
        scope=Scope(scope),
        raw=Span(attributes=[KeyValue(key=key) for key in dotted(told)]).SerializeToString(),
        trace_id=trace(trace_id),
        span_id=sid(number),
        parent_id=sid(parent),
        name=name,
        kind=3,
        start_ns=T0 + round(at * SECOND),
        end_ns=T0 + round((at + lasts) * SECOND),
        status_code=2 if error else 0,
        status_message="",
        attributes=PlainAttributes(dotted(told)),
    )


def chat(
    number: int, parent: int = 0, tokens: tuple[int, int] | None = (100, 10), cached: int = 0, **more: Any
) -> SpanEvent:
    """A model call in the words of the conventions."""
    told: dict[str, object] = {
        "gen_ai__operation__name": "chat",
        "gen_ai__provider__name": "anthropic",
        "gen_ai__request__model": "claude-mint",
    }
    if tokens is not None:
        told |= {"gen_ai__usage__input_tokens": tokens[0], "gen_ai__usage__output_tokens": tokens[1]}
    if cached:
        told["gen_ai__usage__cache_read__input_tokens"] = cached
    return span(number, parent, **(told | more))


def agent(number: int, parent: int = 0, **more: Any) -> SpanEvent:
    told = {"gen_ai__operation__name": "invoke_agent", "gen_ai__agent__name": f"agent-{number}", "lasts": 100}
    return span(number, parent, name="invoke_agent", **(told | more))


def tool(number: int, parent: int = 0, tool: str = "bash", **more: Any) -> SpanEvent:
    told = {"gen_ai__operation__name": "execute_tool", "gen_ai__tool__name": tool}
    return span(number, parent, name=f"execute_tool {tool}", **(told | more))


def claude_log(session: str, *, at: float = 0, service: str | None = "claude-code", **told: object) -> LogEvent:
    """A request as Claude Code logs it: bare keys, input without its cached part."""
    said = {"event.name": "api_request", "session.id": session, "model": "claude-mint", "duration_ms": 1000}
    return LogEvent(
        tenant="default",
        received_ns=0,
        resource=_resource(service),
        scope=Scope("com.anthropic.claude_code.events"),
        raw=b"",
        trace_id=b"",
        span_id=b"",
        time_ns=T0 + round((at + 1) * SECOND),
        name="api_request",
        severity=9,
        body="claude_code.api_request",
        attributes=PlainAttributes(said | dotted(told)),
    )


def point(
    value: float,
    until: float,
    since: float | None = 0,
    *,
    name: str = "claude_code.token.usage",
    cumulative: bool = False,
    service: str | None = "claude-code",
    instance: str | None = None,
    **told: object,
) -> MetricPoint:
    """A data point; times in seconds, `since` None: the sender does not know since when it counts."""
    model_key = "gen_ai.request.model" if name.startswith("gen_ai.") else "model"
    return MetricPoint(
        tenant="default",
        received_ns=0,
        resource=_resource(service, instance),
        scope=Scope("com.anthropic.claude_code" if name.startswith("claude_code.") else "sdk"),
        name=name,
        start_ns=0 if since is None else T0 + round(since * SECOND),
        time_ns=T0 + round(until * SECOND),
        value=value,
        cumulative=cumulative,
        attributes=PlainAttributes({model_key: "claude-mint"} | dotted(told)),
    )


def dotted(told: dict[str, object]) -> dict[str, object]:
    return {key.replace("__", "."): value for key, value in told.items()}


@cache
def _resource(service: str | None, instance: str | None = None) -> Resource:
    said = {"service.name": service, "service.instance.id": instance}
    return Resource(PlainAttributes({key: value for key, value in said.items() if value is not None}))


@dataclass(slots=True)
class Desk:
    """An engine whose closed runs can be woken, and what a ledger would hold of what it said."""

    rules: str = ""
    archive: bool = True
    alerts: list[Alert] = field(default_factory=list)
    corrections: list[Correction] = field(default_factory=list)
    rows: dict[str, int | None] = field(default_factory=dict)  # call id → nano
    runs: dict[str, ClosedRun] = field(default_factory=dict)
    sleeping: dict[str, bytes] = field(default_factory=dict)
    outgoing: list[Any] = field(default_factory=list)
    now_ns: int = T0
    engine: Engine = field(init=False)

    def __post_init__(self) -> None:
        rules = load_rules([parse_document(f"version: 1\n{self.rules}", "rules.yaml")])
        self.engine = Engine(book(), rules, None, self if self.archive else None)

    def find(self, tenant: str, key: str) -> bytes | None:
        return self.sleeping.get(key)

    def tell(self, *events: Event) -> None:
        """One request each for what follows each other of one signal, in the order given."""
        for event in events:
            end = event.end_ns if isinstance(event, SpanEvent) else event.time_ns
            self.now_ns = max(self.now_ns, end)
            self.engine.feed(_signal(event), [event], 1, self.now_ns)
            self.engine.advance(self.now_ns)
            self.carry_out()

    def request(self, spans: Sequence[SpanEvent]) -> None:
        """Spans in one request."""
        self.now_ns = max([self.now_ns, *(one.end_ns for one in spans)])
        self.engine.feed(Signal.TRACES, spans, 1, self.now_ns)
        self.engine.advance(self.now_ns)
        self.carry_out()

    def wait(self, seconds: float) -> None:
        self.now_ns += round(seconds * SECOND)
        self.engine.advance(self.now_ns)
        self.carry_out()

    def close(self) -> None:
        self.engine.close(self.now_ns)
        self.carry_out()

    def carry_out(self) -> None:
        effects = self.engine.take()
        self.outgoing += effects.outgoing
        self.alerts += effects.alerts
        self.corrections += effects.corrections
        for _, call_id in effects.gone:
            self.rows.pop(call_id, None)
        for _, _, call in effects.calls:
            self.rows[call.id] = call.nano
        for run in effects.closed:
            self.runs[run.summary.run_id] = run
            self.sleeping |= dict.fromkeys(run.keys, run.snapshot())

    @property
    def total(self) -> int:
        return sum(nano or 0 for nano in self.rows.values())

    def downstream(self) -> int:
        """What a backend adds up that was sent every record and every correction, by call."""
        known: dict[str, int] = {}
        for one in self.outgoing:
            if one.signal is Signal.METRICS:
                continue
            record = (Span if one.signal is Signal.TRACES else LogRecord).FromString(one.raw + one.extra)
            said = {pair.key: pair.value.string_value for pair in record.attributes}
            if "otel_cost.correction.call_id" in said:
                new = said.get("otel_cost.correction.new_usd_exact")
                known[said["otel_cost.correction.call_id"]] = usd_to_nano(new) if new else 0
            elif "otel_cost.usd_exact" in said:
                known[one.call.id] = usd_to_nano(said["otel_cost.usd_exact"])
        return sum(known.values())

    @property
    def run(self) -> ClosedRun:
        (run,) = self.runs.values()
        return run

    def lines(self, kind: str) -> list[dict[str, Any]]:
        return [line for run in self.runs.values() for line in closed_lines(run) if line["type"] == kind]


def _signal(event: Event) -> Signal:
    return {SpanEvent: Signal.TRACES, LogEvent: Signal.LOGS, MetricPoint: Signal.METRICS}[type(event)]


def spoken(corrections: Iterable[Correction]) -> list[tuple[int | None, int | None]]:
    return [(one.old_nano, one.new_nano) for one in corrections]
