"""Library: shapes of loops that were seen before, and what runs of each workflow usually take.

A shape stays the same from trace to trace (detector, tools, error or result), so that an alert can say that
this has happened before, how often, and what it has cost. The history comes in as data when the engine starts
and grows as runs close.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from otel_cost.core.assemble.summary import total
from otel_cost.core.detect._pace import Taken, Usual
from otel_cost.core.model.money import nano_to_text
from otel_cost.core.model.vocabulary import CALL_KINDS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from otel_cost.core.assemble.run import Run

# Of each kind the most that is kept; the least recently met goes first.
MOST_SHAPES: Final = 20_000
_WORKFLOWS: Final = 2_000


V = TypeVar("V")


@dataclass(slots=True)
class Seen:
    """What is known of one shape from runs that are over."""

    episodes: int = 0
    runs: int = 0
    nano: int = 0  # of the episodes whose waste is known


class Library:
    """What finished runs have taught."""

    def __init__(self) -> None:
        self._shapes: dict[tuple[str, str], Seen] = {}
        self._usual: dict[tuple[str, str], Usual] = {}

    def learn_shape(self, tenant: str, shape: str, seen: Seen) -> None:
        """Take in what was known before the engine started."""
        _keep(self._shapes, (tenant, shape), seen, MOST_SHAPES)

    def learn_runs(self, tenant: str, workflow: str, taken: Iterable[Taken]) -> None:
        """Finished runs of a workflow, the oldest first; at most the last few count."""
        usual = self._usual.get((tenant, workflow)) or Usual()
        for one in taken:
            usual.add(one)
        _keep(self._usual, (tenant, workflow), usual, _WORKFLOWS)

    @property
    def has_usual(self) -> bool:
        return bool(self._usual)

    def usual(self, tenant: str, workflow: str | None) -> Usual | None:
        return None if workflow is None else self._usual.get((tenant, workflow))

    def seen(self, tenant: str, shape: str) -> dict[str, object]:
        """What an alert says of its shape's past; nothing where it has none."""
        known = self._shapes.get((tenant, shape))
        if known is None:
            return {}
        return {"seen": {"times": known.episodes, "runs": known.runs, "burn_usd": nano_to_text(known.nano)}}

    def close(self, run: Run) -> None:
        """A run is over."""
        met: set[str] = set()
        for episode, shape in run.shapes.items():
            known = self._shapes.pop((run.tenant, shape), None) or Seen()
            known.episodes += 1
            known.runs += shape not in met
            known.nano += run.wasted.get(episode) or 0
            met.add(shape)
            _keep(self._shapes, (run.tenant, shape), known, MOST_SHAPES)
        workflow = run.who.get("workflow")
        if workflow is not None:
            calls = [call for call in run.calls.values() if call.kind in CALL_KINDS]
            self.learn_runs(run.tenant, workflow, [Taken(total(calls), len(calls))])


def _keep(table: dict[tuple[str, str], V], key: tuple[str, str], value: V, most: int) -> None:
    table.pop(key, None)
    if len(table) >= most:
        del table[next(iter(table))]
    table[key] = value
