"""Call: one model call, tool call or fee that counts, once, whatever reported it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from otel_cost.core.model.vocabulary import MODEL_KINDS, Flag, Kind, Reason, Source, Status

if TYPE_CHECKING:
    from otel_cost.core.model.charge import Charge
    from otel_cost.core.model.step import Step


@dataclass(slots=True, eq=False)
class Call:
    """Steps that tell of the same thing, the one that speaks for them, and what it costs.

    `id` is a pure function of the tenant and the speaking record (trace and
    span id, else its ids, else its place in time), so that a replay writes the same row.
    """

    id: str
    step: Step
    steps: tuple[Step, ...]
    charge: Charge
    kind: Kind
    flags: frozenset[Flag] = frozenset()
    failed: bool = False
    attempts: int = 1
    agent: str | None = None
    agent_key: str = ""
    trace_id: bytes = b""
    who: dict[str, str] = field(default_factory=dict)

    @property
    def sources(self) -> tuple[Source, ...]:
        told = {step.source for step in self.steps}
        return tuple(source for source in Source if source in told)

    @property
    def nano(self) -> int | None:
        """What it costs, nano-USD; None: no price known."""
        return self.charge.nano

    @property
    def is_hole(self) -> bool:
        """Money was or may have been spent that no total shows: the run's sum is a floor.

        A failed call before any output costs nothing, and a tool without a fee has no price by nature.
        """
        if self.charge.status is Status.PRICED or self.kind not in MODEL_KINDS:
            return Flag.INCOMPLETE in self.flags
        return self.charge.reason is not Reason.FAILED_CALL
