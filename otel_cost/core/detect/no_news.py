"""No news: a stretch of calls, whatever they are, that all bring back what was known already."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import Field

from otel_cost.core.detect import Detector, register
from otel_cost.core.detect._episode import CALM, Episode, Settings
from otel_cost.core.detect._signs import ECHO
from otel_cost.core.model.vocabulary import Category

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from otel_cost.core.detect import Observed
    from otel_cost.core.model.finding import Finding


class NoNews(Settings):
    """Repeats of any earlier calls, close together."""

    count: Annotated[int, Field(ge=2)] = 3
    """Calls without news that make it a loop."""
    alike: Annotated[int, Field(ge=2)] = 2
    """As many if they all brought back the same."""
    gap: Annotated[int, Field(ge=1)] = 5
    """Tool calls from one call without news to the next, at most."""


_TOOLS: Final = 6


@dataclass(slots=True)
class State:
    """One agent's present stretch of calls without news."""

    stretch: Episode | None = None
    tools: set[str] = field(default_factory=set)
    told: dict[bytes, int] = field(default_factory=dict)  # results that the stretch brought back, and how often


def observe(state: State, seen: Observed, settings: NoNews) -> Iterable[Finding]:
    """Feed one call; yield when a stretch is long enough, and when it has ended.

    A call brings no news if an earlier one was the same or nearly the same and had the same result,
    and nothing was written in between. `wasted` counts these calls only.
    """
    if state.stretch is None and not seen.echo:
        return ()
    return _stretched(state, seen, settings)


def _stretched(state: State, seen: Observed, settings: NoNews) -> Iterator[Finding]:
    for repeats in seen.repeats:
        now, near = repeats.now, repeats.near
        stretch = state.stretch
        if not near or now.traits.verb == "poll":
            if stretch is not None:
                stretch.quiet += 1
                if stretch.quiet >= (CALM if stretch.firing else settings.gap):
                    state.stretch = None
                    if stretch.firing:
                        yield _finding(state, stretch, now.known_by)
            continue
        if stretch is None:
            # The call that is repeated is the last honest one: it opens the episode and is not waste.
            stretch = state.stretch = Episode()
            state.told.clear()
            state.tools.clear()
            stretch.add(near[0].span_id, near[0].cost, near[0].at)
        stretch.add(now.span_id, now.cost, now.at, now.traits)
        if len(state.tools) < _TOOLS:
            state.tools.add(now.tool)
        alike = state.told[now.outcome] = state.told.get(now.outcome, 0) + 1
        if (stretch.repeats > settings.count or alike >= settings.alike) and not stretch.firing:
            yield _finding(state, stretch, now.known_by)


def _finding(state: State, stretch: Episode, at_span_id: bytes) -> Finding:
    tools = ", ".join(sorted(state.tools))
    return stretch.finding(
        DETECTOR.name,
        at_span_id,
        shape=tools,
        summary=f"{stretch.repeats - 1} calls brought nothing new",
        evidence={"tools_in_loop": tools},
    )


DETECTOR = Detector(
    name="no_news",
    category=Category.LOOP,
    settings=NoNews,
    state=State,
    observe=observe,
    wakes=ECHO,
    busy=lambda state: state.stretch is not None,
)
register(DETECTOR)
