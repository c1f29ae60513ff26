"""Runaway: a run takes far more than finished runs of the same workflow have taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from otel_cost.core.detect import Detector, register
from otel_cost.core.detect._episode import Settings
from otel_cost.core.detect._signs import USUAL
from otel_cost.core.model.finding import Finding
from otel_cost.core.model.vocabulary import Category, Severity

if TYPE_CHECKING:
    from collections.abc import Iterable

    from otel_cost.core.detect import Observed


class Runaway(Settings):
    """Money or calls of a run, against what runs of its workflow usually stay within."""

    share: Annotated[float, Field(gt=0, lt=1)] = 0.99
    """Share of the finished runs that have stayed within what counts as usual."""
    factor: Annotated[float, Field(gt=1)] = 1.5
    """How many times as much it must be."""
    min_runs: Annotated[int, Field(ge=1)] = 20
    """Finished runs without which nobody knows what is usual: a new workflow has budgets only."""


@dataclass(slots=True)
class State:
    """Nothing is kept of an agent: what counts is the run."""


def observe(state: State, seen: Observed, settings: Runaway) -> Iterable[Finding]:  # noqa: ARG001  the contract's shape
    """Feed one call; tell once of a run that has left what is usual behind. `wasted` is the money beyond that."""
    pace = seen.pace
    if pace is None or pace.usual is None or len(pace.usual.runs) < settings.min_runs or settings in pace.told:
        return ()
    nano, calls = pace.usual.at(settings.share)
    dear = nano is not None and pace.nano > settings.factor * nano
    if not dear and pace.calls <= settings.factor * calls:
        return ()
    pace.told.add(settings)
    step = seen.step
    return (
        Finding(
            detector=DETECTOR.name,
            span_ids=(step.span_id,),
            onset_span_id=step.span_id,
            at_span_id=step.span_id,
            wasted_nano=None if nano is None else max(0, pace.nano - nano),
            shape="runaway:money" if dear else "runaway:calls",
            summary=f"{pace.calls} calls, where runs of this workflow usually end by {calls}"
            if not dear
            else "the run costs more than runs of this workflow ever do",
            severity=Severity.WARNING,
            evidence={
                "calls": pace.calls,
                "usual_calls": calls,
                "usual_nano": nano,
                "finished_runs": len(pace.usual.runs),
            },
        ),
    )


DETECTOR = Detector(
    name="runaway",
    category=Category.WASTE,
    settings=Runaway,
    state=State,
    observe=observe,
    wakes=USUAL,
)
register(DETECTOR)
