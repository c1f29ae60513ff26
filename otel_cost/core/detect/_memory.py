"""Memory: the last tool calls of an agent, and which of them a new one repeats.

Where a client does not tell results, by how much the next prompt grew stands
for them, and what the model wrote for the arguments. Such a call is known one
model call later.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from otel_cost.core.detect._episode import COMPACTED, WINDOW
from otel_cost.core.detect._shape import keyed
from otel_cost.core.detect._signs import CHANTS, ECHO, EVERY, FAILED, FAULT, HANDS_OVER, MODEL, ORDERS, SHRUNK, USUAL
from otel_cost.core.detect._traits import traits_of
from otel_cost.core.model.vocabulary import MODEL_KINDS, Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_cost.core.detect import Observed
    from otel_cost.core.detect._traits import Traits

_TOOL: Final = Kind.TOOL
_ROUGH: Final = 8  # tokens
_EMPTY: Final = b"empty"
_TELLING: Final = 3  # tokens
_TELLING_CHARS: Final = 40
_ONE_OF_MANY: Final = 1 << 40  # of several calls of one turn each is only like those in its place
_WORDY: Final = 12  # tokens
_ADJACENT: Final = 2  # calls
_FEW: Final = 3  # tokens
_NEAR_SIZES: Final = 0.2


class Past(NamedTuple):
    """One tool call as it is remembered."""

    at: int  # its number among the agent's tool calls
    epoch: int  # successful writes that brought something new, before it
    span_id: bytes
    tool: str
    call: int | None
    outcome: bytes
    traits: Traits
    cost: int | None  # of its turn, nano-USD
    end_ns: int
    known_by: bytes  # span that made it known: its own, or the model call after it
    sizes: tuple[int, int] | None  # where nothing else is told: tokens that the model wrote for it and that came back


class Repeats(NamedTuple):
    """A tool call and earlier ones that it repeats, newest first: same result, no newsworthy write in between."""

    now: Past
    same: Sequence[Past]  # same arguments
    near: Sequence[Past]  # these, and one with nearly the same arguments: one is enough to know
    echo: bool  # some earlier call, whatever it asked, had this result
    past: Sequence[Past]  # the last calls, `now` included, newest last


@dataclass(slots=True)
class Memory:
    """The last calls of one agent. One is shared by all detectors.

    A turn costs [nano-USD] the model calls that led to a tool call, plus the tool's own price. Tools mostly have no
    price; what a repeated tool call costs is the model calls around it. Of tools called side by side the first
    carries the turn's model cost. None where a model call has no known price, or none was seen at all.
    """

    pending: int | None = None  # cost of the turn that is not over
    begun: bool = False  # a model call was seen
    tools: int = 0  # tool calls so far
    past: deque[Past] = field(default_factory=lambda: deque(maxlen=WINDOW - 1))
    outcomes: dict[bytes, int] = field(default_factory=dict)  # of `past`: how many have it
    calls: int = 0
    epoch: int = 0
    tells: bool = False  # the sender tells results: one that is missing is empty
    asks: bool = False  # the sender tells arguments: where they are missing there were none
    turn: int = 0  # tool calls since the last model call
    unknown: list[Observed] = field(default_factory=list)
    tokens: tuple[int, int] | None = None  # input and output of the last model call

    def look(self, seen: Observed) -> None:
        """Take a call in; tell in `seen` what its turn cost and which tool calls are known by now."""
        seen.repeats, seen.echo, seen.epoch = (), False, self.epoch
        if seen.step.kind is _TOOL:
            self._tool(seen)
        else:
            self._model(seen)
        if seen.echo:
            seen.signs |= ECHO
        if seen.pace is not None and seen.pace.usual is not None:
            seen.signs |= USUAL

    def _tool(self, seen: Observed) -> None:
        step, cost = seen.step, self.pending
        if self.begun:
            self.pending = 0
        seen.cost = cost if seen.nano is None else None if cost is None else cost + seen.nano
        self.tools += 1
        seen.number = self.tools
        traits = traits_of(seen)
        signs = seen.signs = EVERY | traits.signs
        if traits.failed:
            seen.signs |= FAILED | FAULT if traits.infrastructure else FAILED
        if signs & HANDS_OVER and not signs & ORDERS:
            return  # "transferred to B" is no result
        outcome = traits.outcome
        if traits.infrastructure and traits.failed:
            outcome = b"on the way %d" % self.calls  # the same fault is no result; `retry_storm` counts it
        if outcome is None and traits.size is not None:
            outcome = keyed(f"{step.tool}\0{traits.size}")
        if outcome is None and self.tells and traits.call is not None:
            outcome = _EMPTY
        self.turn += 1
        call, sizes = traits.call, None
        if call is not None:
            self.asks = True
        elif outcome is not None and traits.size is not None and not self.asks and self.tokens is not None:
            call, sizes, outcome = self._without_arguments(traits, outcome, self.tokens[1])
        if outcome is None:
            if len(self.unknown) < WINDOW:
                self.unknown.append(seen)
            return
        self.tells = True
        repeats = self._repeats(seen, traits, call, outcome, step.span_id, sizes)
        seen.repeats, seen.echo = (repeats,), repeats.echo

    def _model(self, seen: Observed) -> None:
        """Or what else is no tool."""
        step, nano, signs = seen.step, seen.nano, EVERY
        if nano is None and seen.failed:
            nano = 0  # a failed call is not billed
        before = self.pending if self.begun else 0
        self.begun, self.pending = True, None if nano is None or before is None else before + nano
        seen.cost, seen.number = None, self.tools
        if step.kind in MODEL_KINDS:
            signs |= MODEL
        # Of a call that went well there are no traits but those of its text.
        if seen.failed or seen.traits is not None or step.output_text is not None:
            traits = traits_of(seen)
            if traits.failed:
                signs |= FAILED | FAULT if traits.infrastructure else FAILED
            if traits.chant > 1:
                signs |= CHANTS
        usage = step.usage
        if usage is not None:
            if self.unknown:
                seen.repeats = known = self._guess(usage.input, step.span_id)
                seen.echo = known[0].echo if len(known) == 1 else any(repeats.echo for repeats in known)
            if usage.input < COMPACTED * (0 if self.tokens is None else self.tokens[0]):
                signs |= SHRUNK
            self.tokens, self.turn = (usage.input, usage.output), 0
        seen.signs = signs

    def _without_arguments(self, traits: Traits, outcome: bytes, said: int) -> tuple[int, tuple[int, int], bytes]:
        """Where results are told and arguments are not, what the model wrote for a call stands for them."""
        asked, size = said + self.turn * _ONE_OF_MANY, traits.size or 0
        short = size < _TELLING_CHARS and said < _WORDY
        if not traits.failed and (short or traits.verb in {"plan", "write"}):
            outcome = b"unknown %d" % self.calls
        return asked, (asked, size), outcome

    def _guess(self, tokens_now: int, known_by: bytes) -> Sequence[Repeats]:
        unknown, self.unknown = self.unknown, []
        if self.tokens is None:
            return ()
        before, said = self.tokens
        grown = tokens_now - before - said
        if grown < -_ROUGH * len(unknown):
            return ()  # the prompt was cut: nobody knows what came back
        known = []
        for seen in unknown:
            traits = traits_of(seen)
            call, sizes = traits.call, None
            if call is not None:
                # Where the arguments are told, what came back may be known less well: counts are off by a token or two.
                outcome = _EMPTY if grown <= _ROUGH * len(unknown) else b"%d %d" % (len(unknown), grown // _ROUGH)
            else:
                call, sizes = said, (said, grown)
                outcome = self._outcome_by_size(seen, len(unknown), sizes)
            repeats = self._repeats(seen, traits, call, outcome, known_by, sizes)
            known.append(repeats if len(unknown) == 1 else repeats._replace(past=tuple(self.past)))
        return known

    def _outcome_by_size(self, seen: Observed, side_by_side: int, sizes: tuple[int, int]) -> bytes:
        """What stands for a result of which only the size is known.

        A few tokens are an "ok" or a number, which other short calls get as well: they tell nothing.
        """
        traits, (said, grown) = traits_of(seen), sizes
        if not traits.failed and ((0 < grown < _TELLING and said < _WORDY) or traits.verb in {"plan", "write"}):
            return b"unknown %d" % self.calls
        last = self.past[-1] if self.past else None
        if last is not None and last.sizes is not None and abs(last.sizes[1] - grown) <= 1:
            grown = last.sizes[1]
        return b"%d %d %s" % (side_by_side, max(0, grown), (seen.step.error_type or str(traits.failed)).encode())

    def _repeats(
        self,
        seen: Observed,
        traits: Traits,
        call: int | None,
        outcome: bytes,
        known_by: bytes,
        sizes: tuple[int, int] | None,
    ) -> Repeats:
        self.calls += 1
        step, past = seen.step, self.past
        tool = step.tool or step.name
        same: Sequence[Past] = ()
        near: Sequence[Past] = ()
        echo = outcome in self.outcomes
        new = True
        if echo:
            same, near, new = self._earlier(traits, call, outcome, tool, step.start_ns, sizes)
        if new and traits.verb == "write" and not traits.failed:
            self.epoch += 1
        at, cost = self.calls, seen.cost
        now = Past(at, self.epoch, step.span_id, tool, call, outcome, traits, cost, step.end_ns, known_by, sizes)
        if len(past) == past.maxlen:
            gone = past[0].outcome
            left = self.outcomes.pop(gone) - 1
            if left:
                self.outcomes[gone] = left
        past.append(now)
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        return Repeats(now, same, near, echo, past)

    def _earlier(
        self,
        traits: Traits,
        call: int | None,
        outcome: bytes,
        tool: str,
        start_ns: int,
        sizes: tuple[int, int] | None,
    ) -> tuple[list[Past], list[Past], bool]:
        same: list[Past] = []
        near: list[Past] = []
        new = True
        for one in reversed(self.past):
            if one.outcome != outcome or one.tool != tool:
                continue
            if start_ns < one.end_ns:
                continue  # side by side: its result was not known yet
            equal = call is not None and one.call == call
            if sizes is not None:
                if one.sizes is None or not self._alike(tool, sizes, one.sizes, self.calls - one.at):
                    continue
            elif not equal and (near or not near_calls(traits, one.traits)):
                continue
            new = False
            if one.epoch == self.epoch:
                if equal:
                    same.append(one)
                near.append(one)
        return same, near, new

    def _alike(self, tool: str, now: tuple[int, int], before: tuple[int, int], back: int) -> bool:
        """May two calls of which only sizes are known be the same?

        Of equal size: unless another call of this size had another result, as in a batch over ids.
        Of nearly equal size, as after rewording: if they follow each other.
        """
        if now[0] == before[0]:
            others = (one.sizes for one in self.past if one.tool == tool and one.sizes is not None)
            return all(size != now[0] or abs(grown - now[1]) <= 1 for size, grown in others)
        return back <= _ADJACENT and abs(now[0] - before[0]) <= max(_FEW, _NEAR_SIZES * max(now[0], before[0]))


def near_calls(one: Traits, two: Traits) -> bool:
    """Are the arguments nearly the same? Not known where either has none.

    Thoughts and plans are answered alike whatever they say. Of what is refused, or brings nothing, it does
    not matter which number was tried; of what is refused, nor whether one more path was named. But nothing
    said is well done where something is written.
    """
    if one.sketch is None or two.sketch is None or two.verb == "plan":
        return False
    refused = one.refused and two.refused
    nothing = one.nothing and two.nothing and two.verb != "write"
    return one.sketch.near(two.sketch, loose_names=refused, loose_numbers=refused or nothing)
