"""Trace: one trace's tree, and the walk from a step up to whatever is above it.

Children arrive before their parents nearly everywhere, so a walk often ends at
a span that has not come; the step then waits there and walks again when it does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from otel_cost.core.assemble.packed import Parents
from otel_cost.core.model.vocabulary import MODEL_KINDS, Kind

if TYPE_CHECKING:
    from otel_cost.core.model.call import Call
    from otel_cost.core.model.step import Step

# Deeper than any real trace; a cycle of parent ids ends here too.
_MAX_DEPTH: Final = 4096


@dataclass(slots=True)
class Place:
    """What is above a step, as far as is known. Steps of one kind under one parent share it.

    `missing` is the span id at which the walk ended because that span has not
    come; b"" when it ended at a root.
    """

    parent: Step | None = None  # nearest step of any kind
    over: Step | None = None  # nearest step of the same sort with no boundary between: maybe the same call
    agent: Step | None = None  # nearest agent
    agents: tuple[Step, ...] = ()  # agents and workflows above, nearest first
    model: str | None = None  # nearest model named above, for leaves that name none
    missing: bytes = b""

    def same_as(self, other: Place) -> bool:
        """The same steps above, wherever the walk ended."""
        return (
            self.parent is other.parent
            and self.over is other.over
            and self.agents == other.agents
            and self.model == other.model
        )


@dataclass(slots=True, eq=False)
class Trace:
    """One trace of a run, by span ids."""

    id: bytes
    parents: Parents = field(default_factory=Parents)
    steps: dict[bytes, Step] = field(default_factory=dict)
    waiting: dict[bytes, list[Step]] = field(default_factory=dict)
    calls: dict[str, Call] = field(default_factory=dict)
    wasted_nano: int | None = 0
    _walked: dict[Kind, tuple[bytes, Place]] = field(default_factory=dict)  # the last walk of each kind, from where
    _twisted: bool = False

    def woken(self, span_id: bytes) -> list[Step]:
        """The steps whose walk had ended at this span, which has come; they are to walk again."""
        found = self.waiting.pop(span_id, [])
        if found:
            self._walked.clear()
        return found

    def retold(self, span_id: bytes, step: Step) -> None:
        """A span that is in the tree tells of other work than before, and so of other places below it."""
        self.steps[span_id] = step
        self._walked.clear()
        # One that was sent with two parents may be found above itself: nobody else can do with what it finds.
        self._twisted = self._twisted or self.parents.get(span_id) != step.parent_id

    def walk(self, step: Step) -> Place:
        """Look up from a step; it waits at the first span that has not come."""
        # What was found from the same parent is as true now: what could change it, `woken` and `retold`, forgets it.
        walked = self._walked.get(step.kind)
        if walked is not None and walked[0] == step.parent_id:
            place = walked[1]
            if place.missing:
                self.waiting[place.missing].append(step)
            return place
        place = Place()
        agents: list[Step] = []
        steps, parents = self.steps, self.parents
        boundary = False
        sort = MODEL_KINDS if step.kind in MODEL_KINDS else {step.kind}
        walls = _WALLS.get(step.kind, frozenset())
        node = step.parent_id
        for _ in range(_MAX_DEPTH):
            if not node:
                self._remember(step, place)
                break
            above = steps.get(node)
            if above is not None and above is not step:
                if place.parent is None:
                    place.parent = above
                if not boundary and place.over is None and above.kind in sort and not above.rollup:
                    place.over = above
                if above.kind in walls:
                    boundary = True
                if above.kind is Kind.AGENT:
                    agents.append(above)
                    if place.agent is None:
                        place.agent = above
                elif above.rollup:
                    agents.append(above)
                if place.model is None:
                    place.model = above.requested_model or above.response_model
            parent = parents.get(node)
            if parent is None:
                place.missing = node
                self.waiting.setdefault(node, []).append(step)
                self._remember(step, place)
                break
            node = parent
        if agents:
            place.agents = tuple(agents)
        return place

    def _remember(self, step: Step, place: Place) -> None:
        if not self._twisted:
            self._walked[step.kind] = (step.parent_id, place)


# What stands between two records of the same sort and makes them two things.
_WALLS: Final = {
    Kind.INFERENCE: frozenset({Kind.TOOL, Kind.AGENT}),
    Kind.EMBEDDING: frozenset({Kind.TOOL, Kind.AGENT}),
    Kind.TOOL: frozenset({Kind.INFERENCE, Kind.AGENT}),
}
