"""Memory: the last tool calls of an agent, and which of them a new one repeats.

Where a client does not tell results, by how much the next prompt grew stands
for them, and what the model wrote for the arguments. Such a call is known one
model call later.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from otel_cost.core.detect._episode import WINDOW, Turns
from otel_cost.core.detect._shape import keyed
from otel_cost.core.detect._traits import traits_of
from otel_cost.core.detect._verbs import delegates
from otel_cost.core.model.vocabulary import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from otel_cost.core.detect import Observed
    from otel_cost.core.detect._traits import Traits

# Share of words that two calls of one group have in common; tuned on labelled runs.
NEAR: Final = 0.6
_ROUGH: Final = 8  # tokens


class Past(NamedTuple):
    """One tool call as it is remembered."""

    at: int  # its number among the agent's tool calls
    epoch: int  # successful writes that brought something new, before it
    span_id: bytes
    tool: str
    call: bytes | None
    outcome: bytes | None
    traits: Traits
    cost: int | None  # of its turn, nano-USD
    end_ns: int
    known_by: bytes  # span that made it known: its own, or the model call after it


class Repeats(NamedTuple):
    """A tool call and earlier ones that it repeats, newest first: same result, no newsworthy write in between."""

    now: Past
    same: list[Past]  # same arguments
    near: list[Past]  # these, and one with nearly the same arguments: one is enough to know


@dataclass(slots=True)
class Memory:
    """The last calls of one agent."""

    turns: Turns = field(default_factory=Turns)
    past: deque[Past] = field(default_factory=lambda: deque(maxlen=WINDOW - 1))
    outcomes: deque[bytes | None] = field(default_factory=lambda: deque(maxlen=WINDOW - 1))  # of `past`
    calls: int = 0
    epoch: int = 0
    tells: bool = False  # the sender tells results: one that is missing is empty
    unknown: list[tuple[Observed, int | None]] = field(default_factory=list)
    tokens: tuple[int, int] | None = None  # input and output of the last model call

    def note(self, seen: Observed) -> Iterator[Repeats]:
        """Take a call in; yield the tool calls that are known by now, each once."""
        cost = self.turns.add(seen)
        step = seen.step
        if step.kind is Kind.TOOL:
            traits = traits_of(seen)
            if traits.instruction is None and delegates(step.tool or ""):
                return  # "transferred to B" is no result
            outcome = traits.outcome
            if outcome is None and traits.size is not None:
                outcome = keyed(f"{step.tool}\0{traits.size}")
            if outcome is None and self.tells and traits.call is not None:
                outcome = b"empty"
            if outcome is None:
                if len(self.unknown) < WINDOW:
                    self.unknown.append((seen, cost))
                return
            self.tells = True
            yield self._repeats(seen, traits, traits.call, outcome, cost, step.span_id)
        elif step.usage is not None:
            if self.unknown:
                yield from self._guess(step.usage.input, step.span_id)
            self.tokens = (step.usage.input, step.usage.output)

    def _guess(self, tokens_now: int, known_by: bytes) -> Iterator[Repeats]:
        unknown, self.unknown = self.unknown, []
        if self.tokens is None:
            return
        before, said = self.tokens
        grown = tokens_now - before - said
        for seen, cost in unknown:
            traits = traits_of(seen)
            around = b"%d %d %d %d" % (len(unknown), said, grown, traits.failed)
            # Where the arguments are told, what came back may be known less well: counts are off by a token or two.
            outcome = around if traits.call is None else b"%d %d" % (len(unknown), grown // _ROUGH)
            yield self._repeats(seen, traits, traits.call or around, outcome, cost, known_by)

    def _repeats(
        self,
        seen: Observed,
        traits: Traits,
        call: bytes | None,
        outcome: bytes | None,
        cost: int | None,
        known_by: bytes,
    ) -> Repeats:
        self.calls += 1
        tool = seen.step.tool or seen.step.name
        same: list[Past] = []
        near: list[Past] = []
        new = True
        for one in reversed(self.past) if outcome in self.outcomes else ():
            if one.outcome != outcome or one.tool != tool:
                continue
            if seen.step.start_ns < one.end_ns:
                continue  # side by side: its result was not known yet
            equal = call is not None and one.call == call
            if not equal and (near or not near_calls(traits, one.traits)):
                continue
            new = False
            if one.epoch == self.epoch:
                if equal:
                    same.append(one)
                near.append(one)
        if new and traits.verb == "write" and not traits.failed:
            self.epoch += 1
        now = Past(
            self.calls, self.epoch, seen.step.span_id, tool, call, outcome, traits, cost, seen.step.end_ns, known_by
        )
        self.past.append(now)
        self.outcomes.append(outcome)
        return Repeats(now, same, near)


def near_calls(one: Traits, two: Traits) -> bool:
    """Are the arguments nearly the same? Not known where either has none."""
    return one.sketch is not None and two.sketch is not None and one.sketch.near(two.sketch, NEAR)
