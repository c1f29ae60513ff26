"""What exact and near repeats share: episodes of calls that repeat each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from otel_cost.core.detect._episode import CALM, WINDOW, Episode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from otel_cost.core.detect import Observed
    from otel_cost.core.detect._memory import Past, Repeats
    from otel_cost.core.model.finding import Finding


@dataclass(slots=True)
class Group:
    """Calls that repeat each other. A group is known by the numbers of its calls."""

    members: set[int]
    tool: str
    outcome: bytes
    size: int | None  # of the result, in the sender's unit
    varied: bool
    episode: Episode
    needed: int = 0  # calls that make it a loop


@dataclass(slots=True)
class RepeatState:
    """One agent's groups of repeats, oldest first."""

    groups: list[Group] = field(default_factory=list)


def observe_repeats(
    state: RepeatState, seen: Observed, name: str, count: int, poll_factor: int, *, exact: bool
) -> Iterable[Finding]:
    """Feed one call; keep its group; fire at `count` members; close after three calls with news."""
    if not seen.echo and not state.groups:
        return ()
    return _grouped(state, seen, name, count, poll_factor, exact=exact)


def _grouped(
    state: RepeatState, seen: Observed, name: str, count: int, poll_factor: int, *, exact: bool
) -> Iterator[Finding]:
    for repeats in seen.repeats:
        earlier = repeats.same if exact else repeats.near
        group = _join(state, repeats, earlier) if earlier else None
        if group is not None:
            group.needed = count * poll_factor if repeats.now.traits.verb == "poll" else count
            if group.episode.due(group.needed) and (exact or group.varied):
                yield _finding(group, name, repeats.now.known_by)
        elif state.groups and not repeats.near:
            yield from _calm(state, name, repeats.now)


def _join(state: RepeatState, repeats: Repeats, earlier: Sequence[Past]) -> Group:
    now = repeats.now
    known = {one.at for one in earlier}
    group = next((group for group in state.groups if group.members & known), None)
    if group is None:
        group = Group(set(), now.tool, now.outcome, now.traits.size, False, Episode())
        state.groups.append(group)
        for one in reversed(earlier):
            _add(group, one)
    group.varied |= any(one.call != now.call for one in earlier)
    _add(group, now)
    return group


def _add(group: Group, one: Past) -> None:
    group.episode.add(one.span_id, one.cost, one.at, one.traits)
    group.members.add(one.at)
    group.members = {at for at in group.members if one.at - at < WINDOW}


def _calm(state: RepeatState, name: str, now: Past) -> Iterator[Finding]:
    for group in list(state.groups):
        episode = group.episode
        episode.quiet += 1
        told = episode.firing and not episode.early
        if (told and episode.quiet >= CALM) or now.at - episode.last >= WINDOW:
            state.groups.remove(group)
            if episode.firing:
                yield _finding(group, name, now.known_by)


def _finding(group: Group, name: str, at_span_id: bytes) -> Finding:
    episode = group.episode
    how = "with small changes" if group.varied else "unchanged"
    return episode.finding(
        name,
        at_span_id,
        shape=f"{group.tool}:{group.outcome.hex()}",
        summary=f"{group.tool} was called {episode.repeats} times {how}, with the same result",
        evidence={
            "tool": group.tool,
            "arguments": "varied" if group.varied else "same",
            "result": group.outcome.hex(),
            "result_size": group.size,
        },
        count=group.needed,
    )
