"""Edit-test churn: a file is edited, the check fails, and again, without one check that passes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from otel_cost.core.detect import TOOLS, Detector, register
from otel_cost.core.detect._episode import Episode, Settings
from otel_cost.core.detect._traits import traits_of
from otel_cost.core.model.vocabulary import Category

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from otel_cost.core.detect import Observed
    from otel_cost.core.model.finding import Finding


class EditTestChurn(Settings):
    """Rounds of an edit of the same file followed by a failing check."""

    rounds: Annotated[int, Field(ge=2)] = 4
    """Rounds without a passing check that make it a loop."""


@dataclass(slots=True)
class State:
    """One agent's rounds since a check last passed or failed less."""

    calls: int = 0
    target: int | None = None  # the file that is edited round after round
    edited: bool = False  # since the last check
    failures: int | None = None
    tool: str = ""
    cost: int | None = 0  # of the present round so far, nano-USD
    episode: Episode = field(default_factory=Episode)


def observe(state: State, seen: Observed, settings: EditTestChurn) -> Iterable[Finding]:
    """Feed one call; yield when a file was edited in vain for so many rounds, and when a check passes.

    The errors may differ from round to round. A check that fails less than the one before is progress.
    """
    traits, cost = traits_of(seen), seen.cost
    state.calls += 1
    state.cost = None if cost is None or state.cost is None else state.cost + cost
    if traits.verb == "write" and not traits.failed:
        if state.target is None or traits.target is None or traits.target == state.target:
            state.target, state.edited = traits.target or state.target, True
        elif not state.episode.repeats:
            state.target, state.edited = traits.target, True
        return ()
    return _checked(state, seen, settings) if traits.verb == "check" else ()


def _checked(state: State, seen: Observed, settings: EditTestChurn) -> Iterator[Finding]:
    step, traits = seen.step, traits_of(seen)
    failed = traits.failed or bool(traits.failures)
    better = state.failures is not None and traits.failures is not None and traits.failures < state.failures
    state.failures = traits.failures
    if not failed or better:
        if state.episode.firing:
            yield _finding(state, step.span_id, settings)
        state.episode, state.target, state.edited, state.cost = Episode(), None, False, 0
        return
    if not state.edited:
        return
    state.edited, state.tool = False, step.tool or step.name
    state.episode.add(step.span_id, state.cost, state.calls)
    state.cost = 0
    if state.episode.due(settings.rounds):
        yield _finding(state, step.span_id, settings)


def _finding(state: State, at_span_id: bytes, settings: EditTestChurn) -> Finding:
    rounds = state.episode.repeats
    return state.episode.finding(
        DETECTOR.name,
        at_span_id,
        shape=f"edit → {state.tool}",
        summary=f"{rounds} rounds of editing one file and a failing {state.tool}",
        evidence={"tool": state.tool, "rounds": rounds, "failures": state.failures},
        count=settings.rounds,
    )


DETECTOR = Detector(
    name="edit_test_churn", category=Category.LOOP, settings=EditTestChurn, state=State, observe=observe, kinds=TOOLS
)
register(DETECTOR)
