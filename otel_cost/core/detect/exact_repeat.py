"""Exact repeat: the same call brings the same result again, and the model pays to read it again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from otel_cost.core.detect import Detector, register
from otel_cost.core.detect._episode import Settings
from otel_cost.core.detect._repeat import RepeatState, observe_repeats
from otel_cost.core.detect._signs import ECHO
from otel_cost.core.model.vocabulary import Category

if TYPE_CHECKING:
    from collections.abc import Iterable

    from otel_cost.core.detect import Observed
    from otel_cost.core.model.finding import Finding


class ExactRepeat(Settings):
    """Same tool, same arguments, same result, within the last 20 tool calls."""

    count: Annotated[int, Field(ge=2)] = 3
    """Occurrences that make it a loop; other calls may lie in between."""
    poll_factor: Annotated[int, Field(ge=1)] = 4
    """How many times `count` a tool may be called whose name says that it waits or polls."""


def observe(state: RepeatState, seen: Observed, settings: ExactRepeat) -> Iterable[Finding]:
    """Feed one call; yield when a call was repeated often enough, and when the repeating has ended.

    A result that changed is no repeat (polling), nor is a call after a successful write (tests run
    after an edit).
    """
    return observe_repeats(state, seen, DETECTOR.name, settings.count, settings.poll_factor, exact=True)


DETECTOR = Detector(
    name="exact_repeat",
    category=Category.LOOP,
    settings=ExactRepeat,
    state=RepeatState,
    observe=observe,
    wakes=ECHO,
    busy=lambda state: bool(state.groups),
)
register(DETECTOR)
