"""Runs in short form through the real engine, in virtual time; a dollar is a billion tokens here."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from itertools import count
from typing import TYPE_CHECKING

from otel_cost.core.model.attributes import PlainAttributes
from otel_cost.core.model.effects import Signal
from otel_cost.core.model.event import HookEvent, Resource, Scope, SpanEvent
from otel_cost.core.price import PriceBook, compile_book, layer_of
from otel_cost.core.rules import load_rules
from otel_cost.core.rules.kind import VERBS
from otel_cost.document import parse_document
from otel_cost.pipeline import Engine

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from otel_cost.core.model.finding import Alert

SECOND = 10**9
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
T0 = int(datetime(2026, 3, 2, tzinfo=UTC).timestamp()) * SECOND  # a Monday

PRICES = """
version: 1
providers:
  - id: mint
    source: https://prices.example
    read: 2026-01-01
    models:
      - {id: nano-1, prices: [{input_mtok: 0, output_mtok: 0.001}]}
      - {id: nano-2, prices: [{input_mtok: 0, output_mtok: 0.001}]}
      - {id: strong-5, prices: [{input_mtok: 0, output_mtok: 0.001}]}
"""


@cache
def book() -> PriceBook:
    return compile_book([layer_of(parse_document(PRICES, "prices.yaml"))])


@dataclass(slots=True)
class Stage:
    """An engine under rules, and what it has said so far."""

    rules: str
    alerts: list[Alert] = field(default_factory=list)
    engine: Engine = field(init=False)
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def __post_init__(self) -> None:
        self.engine = Engine(book(), load_rules([parse_document(f"version: 1\n{self.rules}", "rules.yaml")]))

    def spend(
        self, run: str, at_ns: int, usd: float, *, tenant: str = "default", model: str = "nano-1", **attributes: object
    ) -> list[Alert]:
        """One model call of a run, a second long, told when it ends."""
        number = next(self._numbers)
        told = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "mint",
            "gen_ai.request.model": model,
            "gen_ai.usage.input_tokens": 1,
            "gen_ai.usage.output_tokens": round(usd * 10**9),
            "gen_ai.conversation.id": run,
            **{key.replace("__", "."): value for key, value in attributes.items()},
        }
        return self.feed(self.span(run, number, at_ns, told, tenant=tenant))

    def span(
        self, run: str, number: int, at_ns: int, told: dict[str, object], *, tenant: str = "default", parent: int = 1
    ) -> SpanEvent:
        return SpanEvent(
            tenant=tenant,
            received_ns=at_ns + SECOND,
            resource=Resource(),
            scope=Scope(name="test"),
            raw=b"",
            trace_id=run.encode().ljust(16, b"\x01")[:16],
            span_id=(number + 1).to_bytes(8, "big"),
            parent_id=parent.to_bytes(8, "big") if parent else b"",
            name="chat",
            kind=3,
            start_ns=at_ns,
            end_ns=at_ns + SECOND,
            status_code=0,
            status_message="",
            attributes=PlainAttributes(told),
        )

    def feed(self, *spans: SpanEvent) -> list[Alert]:
        now_ns = max(span.end_ns for span in spans)
        self.engine.feed(Signal.TRACES, spans, 1, now_ns)
        return self.said()

    def asked(
        self, run: str, at_ns: int, *, tenant: str = "default", verbs: Iterable[str] = VERBS[1:], **attributes: object
    ) -> str:
        """What a harness that obeys `verbs` is told before its next tool call of a run."""
        verbs = frozenset(verbs)
        event = HookEvent(
            tenant,
            at_ns,
            "any",
            "before_tool",
            run,
            b"",
            PlainAttributes({key.replace("__", "."): value for key, value in attributes.items()}),
            tool="bash",
            arguments="{}",
            carries=verbs,
            ever=verbs,
        )
        return str(self.engine.hook(event, at_ns).verb)

    def advance(self, now_ns: int) -> list[Alert]:
        self.engine.advance(now_ns)
        return self.said()

    def said(self) -> list[Alert]:
        fresh = self.engine.take().alerts
        self.alerts += fresh
        return fresh

    def told(self) -> list[tuple[str, str, str, str]]:
        return [(alert.rule, alert.kind, alert.state, alert.run_id) for alert in self.alerts]
