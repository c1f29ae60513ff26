"""Tree: a run's steps as they hang below each other, each with what it costs itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_cost.core.assemble.join import canonical
from otel_cost.core.model.run import Node
from otel_cost.core.model.vocabulary import MODEL_KINDS, Kind, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from otel_cost.core.assemble.run import Run
    from otel_cost.core.model.call import Call
    from otel_cost.core.model.step import Step


def nodes(run: Run) -> list[Node]:
    """The run's tree: every step once; a call's cost stands at the record that speaks for it."""
    return tree(run.tenant, run.id, run.steps, run.calls.values(), lambda step: above(run, step))


def above(run: Run, step: Step) -> bytes:
    """The nearest step above that is known; empty on top."""
    parent = run.place(step).parent
    return parent.span_id if parent is not None else b""


def tree(
    tenant: str, run_id: str, steps: Iterable[Step], calls: Collection[Call], parent: Callable[[Step], bytes]
) -> list[Node]:
    """The tree of steps and the calls they tell of, in canonical order."""
    call_of = {(step.trace_id, step.span_id): call for call in calls for step in call.steps if step.span_id}
    by_ids = {step: call for call in calls for step in call.steps if not step.span_id}
    lines = []
    for step in sorted(steps, key=canonical):
        call = call_of.get((step.trace_id, step.span_id)) if step.span_id else by_ids.get(step)
        speaks = call is not None and (
            (call.step.trace_id, call.step.span_id) == (step.trace_id, step.span_id)
            if step.span_id
            else not call.step.span_id
        )
        status: Status | None = None
        if call is not None:
            status = call.charge.status if speaks else Status.DUPLICATE
        elif step.rollup and step.usage is not None:
            status = Status.ROLLUP
        lines.append(
            Node(
                run_id=run_id,
                tenant=tenant,
                trace_id=step.trace_id,
                span_id=step.span_id,
                parent=parent(step),
                kind=step.kind,
                name=_name(step),
                agent=call.agent if call is not None else step.agent,
                start_ns=step.start_ns,
                end_ns=step.end_ns,
                failed=call.failed if speaks and call is not None else step.failed,
                call_id=call.id if call is not None and speaks else None,
                self_nano=call.nano if call is not None and speaks else None,
                status=status,
                likeness=step.likeness or (call.step.likeness if call is not None else None),
            )
        )
    return lines


def _name(step: Step) -> str:
    if step.kind in MODEL_KINDS:
        return step.model or step.name
    return step.name if step.kind is Kind.OTHER else step.tool or step.agent or step.model or step.name
