"""Parts: a run that several engines have seen a piece of each, as one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_cost.core.assemble.snapshot import thaw
from otel_cost.core.assemble.summary import close

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from otel_cost.core.assemble.run import Run
    from otel_cost.core.model.charge import Charge
    from otel_cost.core.model.run import ClosedRun
    from otel_cost.core.model.step import Step


def as_one(snapshots: Sequence[bytes], charge: Callable[[Step], Charge]) -> ClosedRun:
    """The run whose parts these are. A call that two of them tell of counts once; `charge` prices what changes by it.

    Raises:
        ValueError: a snapshot is of a version this program does not know.
    """
    run, *others = sorted((thaw(one, charge, 0) for one in snapshots), key=lambda part: -len(part.steps))
    for part in others:
        if run.traces.keys() & part.traces.keys() - {b""}:
            _retell(run, part)  # spans of one trace came to two engines
        else:
            run.absorb(part)
    run.finish()
    return close(run)


def _retell(run: Run, part: Run) -> None:
    run.sessions |= part.sessions
    run.wasted |= part.wasted
    run.joins |= part.joins
    run.shapes |= part.shapes
    for step in part.steps:
        if step.span_id:
            run.add_span(step.trace_id, step.span_id, step.parent_id, step)
        else:
            run.add_step(step)
    for trace in part.traces.values():
        for span, parent in trace.parents.items():
            run.add_span(trace.id, span, parent, None)
