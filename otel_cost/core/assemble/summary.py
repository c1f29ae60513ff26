"""Summary: a run rolled up. Every total is a sum of rounded charges, and holes are counted, not hidden."""

from __future__ import annotations

from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from otel_cost.core.assemble.join import REPEATABLE, canonical
from otel_cost.core.assemble.snapshot import freeze
from otel_cost.core.assemble.tree import nodes
from otel_cost.core.model.money import nano_to_text
from otel_cost.core.model.run import ClosedRun, Later, RouteLeg, RunSummary, TraceSummary
from otel_cost.core.model.vocabulary import MODEL_KINDS, Category, Kind, Status
from otel_cost.core.outcomes import judge, latest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from otel_cost.core.assemble.run import Run
    from otel_cost.core.model.call import Call


# Looking a member up on its class takes longer than most of what is done with it.
_AGENT: Final = Kind.AGENT
_TOOL: Final = Kind.TOOL
_PLACE: Final = attrgetter("step.start_ns", "step.span_id", "id")
_START: Final = attrgetter("start_ns")
_END: Final = attrgetter("end_ns")


def began_ns(run: Run) -> int:
    """When its first step started."""
    return min((step.start_ns for step in run.steps), default=0)


def total(calls: Iterable[Call]) -> int | None:
    """Sum of the priced calls, nano-USD; None if none is priced."""
    known = [nano for call in calls if (nano := call.charge.nano) is not None]
    return sum(known) if known else None


def in_order(calls: Iterable[Call]) -> list[Call]:
    """By start and span id, as the contract prints them."""
    return sorted(calls, key=_PLACE)


def summarise(run: Run) -> RunSummary:
    """A run as it stands now."""
    return _summary(run, in_order(run.calls.values()))


def _summary(run: Run, calls: list[Call]) -> RunSummary:
    model_calls = [call for call in calls if call.kind in MODEL_KINDS]
    holes = [call for call in calls if call.is_hole]
    told = run.steps or [call.step for call in calls]  # metrics make calls and no steps
    agents: dict[str, None] = {}
    for step in sorted((s for s in run.steps if s.kind is _AGENT), key=canonical):
        agents.setdefault(step.agent or step.name)
    agents |= dict.fromkeys(call.agent for call in calls if call.agent)
    nano, lost = total(calls), wasted(run)
    outcomes = latest(run.outcomes.values())
    judgement = judge(outcomes, nano, lost)
    return RunSummary(
        run_id=run.id,
        tenant=run.tenant,
        trace_ids=tuple(sorted(run.traces.keys() - {b""})),
        start_ns=min(map(_START, told), default=0),
        end_ns=max(map(_END, told), default=0),
        nano=nano,
        complete=not holes,
        unpriced_calls=sum(call.charge.status is not Status.PRICED for call in holes),
        llm_calls=len(model_calls),
        tool_calls=[call.kind for call in calls].count(_TOOL),
        errors=[call.failed for call in calls].count(True),
        agents=tuple(agents),
        session=min(run.sessions, default=None),
        who=run.who,
        wasted_nano=lost,
        model_route=route(model_calls),
        outcome=judgement.outcome,
        verdict=judgement.verdict,
        verdict_why=judgement.why,
        outcomes=tuple(outcomes),
    )


def facts(run: Run) -> dict[str, object]:
    """A run as it stands, in the words of matchers: dimensions (several values as a list), sums as decimal text."""
    calls = run.calls.values()
    cost, lost = total(calls), wasted(run)
    steps = [call.step for call in calls]
    listed: dict[str, Iterable[str | None]] = {
        "agent": (call.agent for call in calls),
        "model": (step.model for step in steps),
        "provider": (step.provider for step in steps),
        "tool": (step.tool for step in steps),
        "kind": (call.kind.value for call in calls),
    }
    return {
        **run.who,
        **{name: sorted({value for value in values if value}) for name, values in listed.items()},
        "tenant": run.tenant,
        "run": run.id,
        "session": min(run.sessions, default=None),
        "failed": any(call.failed for call in calls),
        "cost_usd": None if cost is None else nano_to_text(cost),
        "wasted_usd": None if lost is None else nano_to_text(lost),
        "llm_calls": sum(call.kind in MODEL_KINDS for call in calls),
        "tool_calls": sum(call.kind is Kind.TOOL for call in calls),
        "outcome": judge(latest(run.outcomes.values())).outcome if run.outcomes else None,
    }


def wasted(run: Run) -> int | None:
    """Money that the run's loops and waste have burnt, at least; None where an episode has a hole.

    Loops are told once each, so they add up; one dollar can be waste for several
    reasons at a time, so of those, and of both sorts, the largest figure stands.
    """
    if None in run.wasted.values():
        return None
    loops = sum(nano or 0 for episode, nano in run.wasted.items() if episode.startswith(Category.LOOP))
    return max([loops, *(nano or 0 for nano in run.wasted.values())])


def route(calls: Iterable[Call]) -> tuple[RouteLeg, ...]:
    """Models in the order of their first call, with what each took."""
    legs: dict[str, RouteLeg] = {}
    for call in calls:
        model = call.step.model or "unknown"
        leg = legs.get(model)
        if leg is None:
            leg = legs[model] = RouteLeg(model, 0, None)
        leg.calls += 1
        nano = call.charge.nano
        if nano is not None:
            leg.nano = (leg.nano or 0) + nano
    return tuple(legs.values())


def trace_summaries(run: Run) -> list[TraceSummary]:
    """One line for each trace that has calls, by its first call."""
    lines = []
    for trace in run.traces.values():
        calls = trace.calls.values()
        if not calls or not trace.id:
            continue
        kinds = [call.kind for call in calls]
        lines.append(
            (
                min(call.step.start_ns for call in calls),
                TraceSummary(
                    run_id=run.id,
                    tenant=run.tenant,
                    trace_id=trace.id,
                    nano=total(calls),
                    llm_calls=sum(map(MODEL_KINDS.__contains__, kinds)),
                    tool_calls=kinds.count(_TOOL),
                    errors=[call.failed for call in calls].count(True),
                ),
            )
        )
    return [line for _, line in sorted(lines, key=lambda pair: (pair[0], pair[1].trace_id))]


def close(run: Run) -> ClosedRun:
    """Everything to be written down about a run that is finished; of one that goes on: ask for `nodes` at once."""
    calls = in_order(run.calls.values())
    return ClosedRun(
        summary=_summary(run, calls),
        traces=trace_summaries(run),
        calls=calls,
        steps=len(run.steps),
        nodes=Later(partial(nodes, run)),
        snapshot=Later(partial(freeze, run)),
        joins=tuple(sorted(run.joins)),
        keys=(
            *(trace_id.hex() for trace_id in run.traces if trace_id),
            *(f"session:{session}" for session in sorted(run.sessions)),
            *([run.sender] if run.sender else ()),
            *dict.fromkeys(key for step in run.steps for key in step.ids if not key.startswith(REPEATABLE)),
        ),
    )
