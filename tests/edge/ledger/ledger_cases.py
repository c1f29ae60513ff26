"""Small runs, calls and alerts for everything that reads or writes a ledger."""

from __future__ import annotations

import hashlib

from otel_cost.core.assemble.run import Run
from otel_cost.core.assemble.snapshot import freeze
from otel_cost.core.assemble.tree import nodes
from otel_cost.core.model.call import Call
from otel_cost.core.model.charge import Charge, Item
from otel_cost.core.model.finding import Alert
from otel_cost.core.model.money import Rate
from otel_cost.core.model.run import ClosedRun, Later, RouteLeg, RunSummary, TraceSummary
from otel_cost.core.model.step import Step
from otel_cost.core.model.usage import Usage
from otel_cost.core.model.vocabulary import (
    Basis,
    Category,
    Flag,
    Kind,
    Reason,
    Severity,
    Source,
    Status,
)

NOON_NS = 1_790_000_000 * 10**9


def trace_of(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=16).digest()


def span_of(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=8).digest()


def a_call(
    name: str,
    *,
    trace: str = "t1",
    nano: int | None = 1_000_000,
    tenant: str = "default",
    model: str | None = "claude-haiku-4-5",
    kind: Kind = Kind.INFERENCE,
    start_s: float = 0,
    who: dict[str, str] | None = None,
    agent: str | None = "main",
    tool: str | None = None,
    reason: Reason | None = Reason.UNKNOWN_MODEL,
    flags: frozenset[Flag] = frozenset(),
    session: str | None = None,
    usage: Usage | None = None,
    failed: bool = False,
) -> Call:
    start_ns = NOON_NS + int(start_s * 10**9)
    step = Step(
        source=Source.SPAN,
        dialect="semconv",
        scope="test",
        kind=kind,
        tenant=tenant,
        trace_id=trace_of(trace),
        span_id=span_of(name),
        name=name,
        start_ns=start_ns,
        end_ns=start_ns + 10**9,
        operation="execute_tool" if kind is Kind.TOOL else "chat",
        provider=None if kind is Kind.TOOL else "anthropic",
        requested_model=None if kind is Kind.TOOL else model,
        session=session,
        usage=usage,
        agent=agent,
        tool=tool,
        who=who or {},
        failed=failed,
    )
    if kind is Kind.TOOL and nano is None:
        reason = Reason.NO_RATE
    items = (
        ()
        if nano is None
        else (
            Item("input", "input", 1000, Rate(10**6), nano - nano // 3, "https://prices.example/a", "2026-01-01"),
            Item("output", "output", 10, Rate(5 * 10**6, 3), nano // 3, "https://prices.example/a", None),
        )
    )
    charge = Charge(
        status=Status.UNPRICED if nano is None else Status.PRICED,
        reason=reason if nano is None else None,
        nano=nano,
        items=items,
        usage=usage or (None if nano is None else Usage(input=1000, output=10, cache_read=200)),
        basis=Basis.INCLUSIVE,
        price_book="book-1",
    )
    call_id = hashlib.blake2b(f"{tenant}\0{trace}\0{name}".encode(), digest_size=12).hexdigest()
    return Call(
        id=call_id,
        step=step,
        steps=(step,),
        charge=charge,
        kind=kind,
        flags=flags,
        failed=failed,
        agent=agent,
        trace_id=step.trace_id,
        who=step.who,
    )


def a_run(
    calls: list[Call],
    *,
    run_id: str | None = None,
    tenant: str = "default",
    who: dict[str, str] | None = None,
    snapshot: bytes | None = None,
    wasted_nano: int | None = 0,
    extra_keys: tuple[str, ...] = (),
) -> ClosedRun:
    """A closed run whose tree is one agent above all its calls."""
    traces = sorted({call.trace_id for call in calls})
    run_id = run_id or traces[0].hex()
    known = [call.nano for call in calls if call.nano is not None]
    legs: dict[str, RouteLeg] = {}
    for call in calls:
        if call.kind is Kind.INFERENCE:
            leg = legs.setdefault(call.step.model or "unknown", RouteLeg(call.step.model or "unknown", 0, None))
            leg.calls += 1
            leg.nano = leg.nano if call.nano is None else (leg.nano or 0) + call.nano
    summary = RunSummary(
        run_id=run_id,
        tenant=tenant,
        trace_ids=tuple(traces),
        start_ns=min(call.step.start_ns for call in calls),
        end_ns=max(call.step.end_ns for call in calls),
        nano=sum(known) if known else None,
        complete=not any(call.is_hole for call in calls),
        unpriced_calls=sum(call.is_hole and call.nano is None for call in calls),
        llm_calls=sum(call.kind is Kind.INFERENCE for call in calls),
        tool_calls=sum(call.kind is Kind.TOOL for call in calls),
        errors=sum(call.failed for call in calls),
        agents=("main",),
        session=None,
        who=who or {},
        wasted_nano=wasted_nano,
        model_route=tuple(legs.values()),
    )
    run = _as_engine_knows_it(tenant, calls)
    return ClosedRun(
        summary=summary,
        traces=[
            TraceSummary(
                run_id=run_id,
                tenant=tenant,
                trace_id=trace,
                nano=sum(c.nano or 0 for c in calls if c.trace_id == trace),
                llm_calls=1,
                tool_calls=0,
                errors=0,
            )
            for trace in traces
        ],
        calls=calls,
        steps=len(run.steps),
        nodes=Later(lambda: nodes(run)),
        snapshot=Later(lambda: freeze(run)) if snapshot is None else Later(lambda: snapshot),
        keys=(*(trace.hex() for trace in traces), *extra_keys),
    )


def _as_engine_knows_it(tenant: str, calls: list[Call]) -> Run:
    run = Run(tenant, lambda step: next(call.charge for call in calls if call.step is step), 0)
    for trace_id in sorted({call.trace_id for call in calls}):
        mine = [call for call in calls if call.trace_id == trace_id]
        root = Step(
            source=Source.SPAN,
            dialect="semconv",
            scope="test",
            kind=Kind.AGENT,
            tenant=tenant,
            trace_id=trace_id,
            span_id=span_of(f"agent{trace_id.hex()}"),
            name="main",
            agent="main",
            start_ns=NOON_NS,
            end_ns=NOON_NS + 10**10,
        )
        run.add_span(trace_id, root.span_id, b"", root)
        for call in mine:
            call.step.parent_id = root.span_id
            run.add_span(trace_id, call.step.span_id, root.span_id, call.step)
    run.calls = {call.id: call for call in calls}
    return run


def an_alert(
    spans: list[str],
    *,
    trace: str = "t1",
    run_id: str | None = None,
    wasted_nano: int | None = 500_000,
    onset: str | None = None,
    state: str = "firing",
    tenant: str = "default",
    rule: str = "same-error-3x",
    at_s: float = 5,
) -> Alert:
    fingerprint = hashlib.blake2b(f"{tenant}{rule}{trace}".encode(), digest_size=8).hexdigest()
    return Alert(
        id=f"{fingerprint}-1" if state == "firing" else f"{fingerprint}-1-{state}",
        tenant=tenant,
        run_id=run_id or trace_of(trace).hex(),
        trace_id=trace_of(trace),
        rule=rule,
        category=Category.LOOP,
        kind="repeated_error",
        state=state,
        seq=1,
        severity=Severity.WARNING,
        span_ids=tuple(span_of(name) for name in spans),
        onset_span_id=span_of(onset or spans[min(1, len(spans) - 1)]),
        at_span_id=span_of(spans[-1]),
        at_ns=NOON_NS + int(at_s * 10**9),
        wasted_nano=wasted_nano,
        action="deny",
        summary="Bash failed the same way 3 times",
        fingerprint=fingerprint,
        evidence={"repeats": 3},
    )
