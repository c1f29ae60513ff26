"""Low evaluation: a judge finds the work bad, it is done again, and is found no better."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import Field

from otel_cost.core.detect import Detector, register
from otel_cost.core.detect._episode import Episode, Settings
from otel_cost.core.model.outcome import Result
from otel_cost.core.model.vocabulary import MODEL_KINDS, Category, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from otel_cost.core.detect import Observed
    from otel_cost.core.model.finding import Finding


class LowEvaluation(Settings):
    """Evaluations (`gen_ai.evaluation.result`) of one name that stay low."""

    count: Annotated[int, Field(ge=2)] = 3
    """Low evaluations running, none better than the ones before, that make it a loop."""
    low: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Score below which an evaluation is low, of scores from 0 to 1; others count by their label."""
    better: Annotated[float, Field(gt=0, le=1)] = 0.05
    """By how much a score must beat the best one so far to be progress."""


@dataclass(slots=True)
class Judged:
    """What one judge has said since it was last content, or saw progress."""

    best: float | None = None
    calls: int = 0
    episode: Episode = field(default_factory=Episode)


@dataclass(slots=True)
class State:
    """One agent's judges, and what its model calls cost since the last evaluation [nano-USD]."""

    judges: dict[str, Judged] = field(default_factory=dict)
    spent: int | None = 0


_JUDGES: Final = 8


def observe(state: State, seen: Observed, settings: LowEvaluation) -> Iterable[Finding]:
    """Feed one call or evaluation; yield when it stayed low too often, and when it is content or sees progress."""
    outcome = seen.judged
    if outcome is None:
        if seen.step.kind in MODEL_KINDS and not seen.failed:
            state.spent = None if seen.nano is None or state.spent is None else state.spent + seen.nano
        return ()
    spent, state.spent = state.spent, 0
    judged = state.judges.get(outcome.name)
    if judged is None:
        if len(state.judges) >= _JUDGES:
            del state.judges[next(iter(state.judges))]
        judged = state.judges[outcome.name] = Judged()
    score = outcome.score if outcome.score is not None and 0 <= outcome.score <= 1 else None
    low = outcome.value is Result.FAILURE or (
        outcome.value is Result.UNKNOWN and score is not None and score < settings.low
    )
    progress = low and score is not None and judged.best is not None and score >= judged.best + settings.better
    span_id = seen.step.span_id
    over: Iterable[Finding] = ()
    if not low or progress:
        over = (_finding(outcome.name, judged, span_id, settings),) if judged.episode.firing else ()
        judged = state.judges[outcome.name] = Judged(best=score)
        if not low:
            return over
    judged.calls += 1
    judged.best = score if judged.best is None else max(judged.best, score or 0)
    judged.episode.add(span_id, spent, judged.calls)
    if judged.episode.due(settings.count):
        return (*over, _finding(outcome.name, judged, span_id, settings))
    return over


def _finding(name: str, judged: Judged, at_span_id: bytes, settings: LowEvaluation) -> Finding:
    best = judged.best
    return judged.episode.finding(
        DETECTOR.name,
        at_span_id,
        shape=f"evaluation:{name}",
        summary=f"{name} was low {judged.episode.repeats} times and did not get better",
        evidence={"evaluation": name, "best_percent": None if best is None else round(100 * best)},
        count=settings.count,
    )


DETECTOR = Detector(
    name="low_evaluation",
    category=Category.LOOP,
    settings=LowEvaluation,
    state=State,
    observe=observe,
    kinds=MODEL_KINDS | {Kind.OTHER},
)
register(DETECTOR)
