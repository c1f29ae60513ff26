"""Cycle: two to six calls follow each other in the same order, round after round, with the same results."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import Field

from otel_cost.core.detect import Detector, register
from otel_cost.core.detect._episode import Episode, Settings
from otel_cost.core.detect._memory import Past, near_calls
from otel_cost.core.detect._signs import ECHO
from otel_cost.core.model.vocabulary import Category

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from otel_cost.core.detect import Observed
    from otel_cost.core.model.finding import Finding

LONGEST: Final = 6


class Cycle(Settings):
    """The same calls in the same order, their results equal from round to round."""

    rounds: Annotated[int, Field(ge=2)] = 3
    """Rounds that make it a loop."""


@dataclass(slots=True)
class State:
    """`runs[p]` = how many calls running have equalled the one p calls before."""

    runs: list[int] = field(default_factory=lambda: [0] * (LONGEST + 1))  # runs[0] is not used
    still: bool = True  # all of them are 0
    period: int = 0  # of the firing cycle; 0: none
    episode: Episode | None = None


def observe(state: State, seen: Observed, settings: Cycle) -> Iterable[Finding]:
    """Feed one call; yield when a cycle has gone round often enough, and when it is broken.

    Results that differ from round to round are no cycle: that is how edit and test alternate in honest work.
    """
    if not seen.echo and (state.still or not seen.repeats):
        return ()
    return _around(state, seen, settings)


def _around(state: State, seen: Observed, settings: Cycle) -> Iterator[Finding]:
    for repeats in seen.repeats:
        now, past = repeats.now, repeats.past
        size = len(past)
        for period in range(1, LONGEST + 1):
            equal = repeats.echo and size > period and _equal(past[size - 1 - period], now)
            state.runs[period] = state.runs[period] + 1 if equal else 0
        state.still = not any(state.runs)
        if state.episode is not None:
            if state.runs[state.period]:
                state.episode.add(now.span_id, now.cost, now.at)
                if state.episode.due(state.period * settings.rounds):
                    yield _finding(state, past, now.known_by, settings)
                continue
            yield _finding(state, past, now.known_by, settings)
            state.period, state.episode = 0, None
        for period in range(2, LONGEST + 1):
            length = period * max(2, settings.rounds - 1)  # one round short of it is worth a notice
            # One call that repeats itself has every period; it is `exact_repeat`'s.
            if state.runs[period] >= length - period and size >= length and state.runs[1] < period:
                state.period, state.episode = period, Episode(honest=period)
                for one in list(past)[-length:]:
                    state.episode.add(one.span_id, one.cost, one.at)
                yield _finding(state, past, now.known_by, settings)
                break


def _equal(one: Past, two: Past) -> bool:
    return (
        one.tool == two.tool
        and one.outcome == two.outcome
        and ((one.call is not None and one.call == two.call) or near_calls(one.traits, two.traits))
    )


def _finding(state: State, past: Sequence[Past], at_span_id: bytes, settings: Cycle) -> Finding:
    episode = state.episode or Episode()
    tools = [one.tool for one in list(past)[-state.period :]]
    start = tools.index(min(tools))  # wherever the round is entered, it is the same round
    route = " → ".join(tools[start:] + tools[:start])
    rounds = episode.repeats // state.period
    return episode.finding(
        DETECTOR.name,
        at_span_id,
        shape=f"{state.period}:{route}",
        summary=f"{route}: {rounds} rounds with the same results",
        evidence={"period": state.period, "rounds": rounds},
        count=state.period * settings.rounds,
    )


DETECTOR = Detector(
    name="cycle",
    category=Category.LOOP,
    settings=Cycle,
    state=State,
    observe=observe,
    wakes=ECHO,
    busy=lambda state: not state.still,
)
register(DETECTOR)
