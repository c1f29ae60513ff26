"""Join: which steps tell of the same call, and who speaks for it. Counted once, whatever reported it.

A pure function of a set of steps: the order in which they came plays no part.
In order of certainty:

1. an equal entry in `ids` (response id, request id) is the same call; a tool call id is a hint (3);
2. a record inside another of its kind, with no tool or agent between, is the same call if both
   tell the same usage or only one of them tells any; with several telling children the outer one is a roll-up;
3. an equal entry in `hints` pairs records of different voices, one-to-one, nearest in time;
4. equal model, tokens and overlapping time pair records of different voices, one-to-one, and are
   flagged `merged_by_guess`. Four equal parallel calls of one client stay four: a voice never pairs with itself.

Tokens are equal too where one record knows nothing of a cache and leaves the cached part out that the other tells,
and where streaming layers are one output token apart.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from otel_cost.core.model.step import STANDARD_TERMS, Step, Terms
from otel_cost.core.model.vocabulary import MODEL_KINDS, Flag, Kind, Source

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from otel_cost.core.model.usage import Usage

Voice = tuple[Source, str]

# Ids that some providers count anew in each answer (`call_0`): a strong hint, but no proof.
REPEATABLE: Final = "tool_call:"

# An SDK's span lies inside the framework's span of the same call; clocks are one machine's, so little slack is needed.
_SPAN_SLACK_NS: Final = 50_000_000
# A log record is written when the answer is complete, or by the next flush of the same process.
_LOG_SLACK_NS: Final = 2_000_000_000
_SOURCE_ORDER: Final = {source: order for order, source in enumerate(Source)}


@dataclass(slots=True, eq=False)
class Group:
    """Steps of one call, in canonical order. `rollup`: it only sums up others and never bills."""

    steps: list[Step]
    rollup: bool = False
    flags: set[Flag] = field(default_factory=set)

    @property
    def voices(self) -> set[Voice]:
        return {voice(step) for step in self.steps}


def voice(step: Step) -> Voice:
    """Who tells it: one client never tells one call twice in the same voice under different ids.

    Some exporters send every span without its scope: then its words say who speaks.
    """
    return step.source, step.scope or step.dialect


def canonical(step: Step) -> tuple[object, ...]:
    """An order of steps that does not depend on their arrival."""
    return (
        step.start_ns,
        step.end_ns,
        _SOURCE_ORDER[step.source],
        step.scope,
        step.trace_id,
        step.span_id,
        step.ids,
        step.usage.input if step.usage else -1,
        step.usage.output if step.usage else -1,
    )


def guess_keys(step: Step) -> tuple[GuessKey, ...]:
    """What two records of one model call have in common when nothing names it: one of these. Empty: no guessing."""
    if step.kind not in MODEL_KINDS or step.rollup or step.partial:
        return ()
    usage = step.usage
    if usage is None:
        return _FAILED if step.failed else _SILENT
    exact = ("usage", usage.input, usage.output)
    apart = _counts_first_token(step)
    if not (usage.cache_read or usage.cache_write):
        return (exact, ("usage", usage.input, usage.output - 1)) if apart else (exact,)
    inputs = (usage.input, usage.uncached_input)
    outputs = (usage.output, usage.output - 1) if apart else (usage.output,)
    return tuple(("usage", told, output) for told in inputs for output in outputs)


GuessKey = tuple[str, int, int]
_FAILED: Final[tuple[GuessKey, ...]] = (("failed", 0, 0),)
_SILENT: Final[tuple[GuessKey, ...]] = (("silent", 0, 0),)


def _counts_first_token(step: Step) -> bool:
    """Anthropic's streams tell the first output token twice, and some clients add it up."""
    return "claude" in (step.response_model or step.requested_model or "")


def may_be_one(a: Step, b: Step) -> bool:
    """Could two records with a guess key in common be one call: other voice, same model, one inside the other?"""
    if voice(a) == voice(b) or (a.ids and b.ids and _clash(a.ids, b.ids)):
        return False
    if a.usage is not None and not _agree(a.usage, b.usage):
        return False
    if not _same_model(a, b):
        return False
    if Source.SPAN is a.source is b.source:
        return _inside(a, b, _SPAN_SLACK_NS) or _inside(b, a, _SPAN_SLACK_NS)
    return _inside(a, b, _LOG_SLACK_NS) or _inside(b, a, _LOG_SLACK_NS)


def join(steps: Iterable[Step], over: Mapping[Step, Step]) -> list[Group]:
    """Group the steps of one connected component. `over`: nearest enclosing step of the same sort."""
    joiner = _Joiner(sorted(steps, key=canonical), _upwards(over))
    joiner.by_id()
    joiner.by_structure()
    joiner.by_hint()
    joiner.by_guess()
    return joiner.groups()


class _Joiner:
    """The four rules over one component, in order of certainty; a group swallows another, never the reverse."""

    def __init__(self, steps: list[Step], over: Mapping[Step, Step]) -> None:
        self.steps = steps
        self.over = over
        self.group_of = {step: Group([step]) for step in steps}

    def groups(self) -> list[Group]:
        groups = list({id(group): group for group in map(self.group_of.__getitem__, self.steps)}.values())
        for group in groups:
            group.steps.sort(key=canonical)
        return groups

    def merge(self, a: Group, b: Group) -> None:
        if a is b:
            return
        a.steps.extend(b.steps)
        a.flags |= b.flags
        a.rollup = a.rollup or b.rollup
        for step in b.steps:
            self.group_of[step] = a

    def by_id(self) -> None:
        first: dict[str, Step] = {}
        for step in self.steps:
            for key in step.ids:
                if not key.startswith(REPEATABLE):
                    self.merge(self.group_of[first.setdefault(key, step)], self.group_of[step])

    def by_structure(self) -> None:
        """Innermost parents first, so that a wrapper of a wrapper sees what became of the inner one."""
        below: dict[Step, list[Step]] = {}
        for step in self.steps:
            parent = self.over.get(step)
            if parent in self.group_of and parent is not None:
                below.setdefault(parent, []).append(step)
        for parent in sorted(below, key=lambda step: (-_depth(step, self.over), canonical(step))):
            own = self.group_of[parent]
            children = {id(g): g for g in map(self.group_of.__getitem__, below[parent]) if g is not own}
            if parent.kind is Kind.TOOL:
                self._fold_tool(own, parent, list(children.values()))
            else:
                self._fold_model(own, parent, list(children.values()))

    def _fold_tool(self, own: Group, parent: Step, children: list[Group]) -> None:
        for child in children:
            if all(step.partial or step.tool in {None, parent.tool} for step in child.steps):
                self.merge(own, child)

    def _fold_model(self, own: Group, parent: Step, children: list[Group]) -> None:
        telling = [child for child in children if _usage(child) is not None]
        failed = [c for c in children if _usage(c) is None and all(step.failed for step in c.steps)]
        mine = _usage(own)
        for child in children:
            if _usage(child) is None and not any(child is one for one in failed):
                self.merge(own, child)
        if len(telling) == 1 and (mine is None or _agree(mine, _usage(telling[0]))):
            self.merge(own, telling[0])
        elif telling:
            own.rollup = True
        elif mine is None and parent.failed and len(failed) == 1:
            self.merge(own, failed[0])
        elif mine is None and parent.failed and failed:
            own.rollup = True  # the tries are told one by one below it

    def by_hint(self) -> None:
        by_hint: dict[str, list[Step]] = {}
        for step in self.steps:
            for hint in (*step.hints, *(key for key in step.ids if key.startswith(REPEATABLE))):
                by_hint.setdefault(hint, []).append(step)
        for hint in sorted(by_hint, key=lambda hint: (not hint.startswith(REPEATABLE), hint)):
            self._pair(by_hint[hint], guess=False)

    def by_guess(self) -> None:
        """Those that tell the very same first: an equal call beside it is a better match than one that is nearly so."""
        told = [(step, keys) for step in self.steps if (keys := guess_keys(step))]
        for most in (1, None) if any(len(keys) > 1 for _, keys in told) else (1,):
            by_key: dict[GuessKey, list[Step]] = {}
            for step, keys in told:
                for key in keys[:most]:
                    by_key.setdefault(key, []).append(step)
            for key in sorted(by_key):
                self._pair(by_key[key], guess=True)

    def _pair(self, steps: Sequence[Step], *, guess: bool) -> None:
        """Merge pairs of different voices, nearest ends first; never two of one voice into one call."""
        pairs = [
            (abs(a.end_ns - b.end_ns), abs(a.start_ns - b.start_ns), i, j)
            for i, a in enumerate(steps)
            for j, b in enumerate(steps[i + 1 :], i + 1)
            if voice(a) != voice(b) and (not guess or may_be_one(a, b))
        ]
        for *_, i, j in sorted(pairs):
            one, other = self.group_of[steps[i]], self.group_of[steps[j]]
            if one is other or one.rollup or other.rollup or one.voices & other.voices:
                continue
            if _clash(_ids(one), _ids(other)):
                continue
            self.merge(one, other)
            if guess:
                one.flags.add(Flag.MERGED_BY_GUESS)


def speaker(group: Group) -> tuple[Step, frozenset[Flag]]:
    """One step that says everything its group knows, and the flags of the merged call.

    The most detailed usage speaks, unless its dialect marks it as incomplete;
    what it leaves out is filled from the others. The place in the tree is always a span's.
    """
    steps = group.steps
    if len(steps) == 1:
        return steps[0], steps[0].flags
    best = min(steps, key=_preference)
    flags = set(group.flags)
    for step in steps:
        # What one record lost another may have; one that repeats its numbers has lost as much. Hooks tell less anyhow.
        as_much = step is best or (step.source is not Source.HOOK and _totals(step) == _totals(best))
        flags |= step.flags if as_much else step.flags - {Flag.INCOMPLETE}
        if (
            step.usage is not None
            and best.usage is not None
            and Flag.INCOMPLETE not in step.flags
            and not (_same_input(step.usage, best.usage) and step.usage.output == best.usage.output)
        ):
            flags.add(Flag.CONFLICT)
    said = copy.copy(best)
    others = [step for step in steps if step is not best]
    for name in _FILLED:
        if getattr(said, name) is None:
            setattr(said, name, next((v for v in (getattr(o, name) for o in others) if v is not None), None))
    said.terms = _filled_terms([best, *others])
    if said.usage is not None:
        for other in others:
            if other.usage is not None:
                said.usage = _filled_usage(said.usage, other.usage)
    said.who = {key: value for step in reversed(steps) for key, value in step.who.items()} | best.who
    said.attempts = max(step.attempts for step in steps)
    said.reported_by_provider = any(
        step.reported_by_provider and step.reported_nano == said.reported_nano for step in steps
    )
    whole = [step for step in steps if not step.partial] or steps
    if said.kind is Kind.TOOL:
        said.failed = any(step.failed for step in steps)
    else:
        said.failed = all(step.failed for step in whole)
        if any(map(_broke_off, whole)):
            flags.add(Flag.INCOMPLETE)  # whoever calls that a success has counted what came until then
    said.output_begun = any(step.output_begun for step in steps)
    place = _place(best, steps)
    said.trace_id, said.span_id, said.parent_id = place.trace_id, place.span_id, place.parent_id
    said.start_ns, said.end_ns = place.start_ns, place.end_ns
    return said, frozenset(flags)


def _totals(step: Step) -> tuple[int, int] | None:
    return None if step.usage is None else (step.usage.input, step.usage.output)


def _broke_off(step: Step) -> bool:
    return step.failed and step.output_begun and (step.usage is None or Flag.INCOMPLETE in step.flags)


def _place(best: Step, steps: Sequence[Step]) -> Step:
    spans = [step for step in steps if step.source is Source.SPAN and not step.partial]
    if best in spans or not spans:
        return best
    return spans[0]


_FILLED: Final = (
    "provider",
    "requested_model",
    "response_model",
    "operation",
    "session",
    "agent",
    "agent_id",
    "tool",
    "tool_call_id",
    "arguments",
    "result",
    "result_size",
    "error_type",
    "error_message",
    "status_code",
    "output_text",
    "reported_nano",
)


def _preference(step: Step) -> tuple[object, ...]:
    usable = step.usage is not None
    return (
        step.partial and not usable,
        not usable,
        Flag.INCOMPLETE in step.flags,
        -(step.usage.details if step.usage else 0),
        step.model is None,
        _SOURCE_ORDER[step.source],
        canonical(step),
    )


def _filled_terms(steps: Sequence[Step]) -> Terms:
    """Each of the terms from the first record that tells it."""
    told = [step.terms for step in steps if step.terms != STANDARD_TERMS]
    if len(told) < 2:
        return told[0] if told else STANDARD_TERMS
    return Terms(
        service_tier=next((terms.service_tier for terms in told if terms.service_tier), None),
        processing=next((terms.processing for terms in told if terms.processing), None),
        speed=next((terms.speed for terms in told if terms.speed), None),
        inference_geo=next((terms.inference_geo for terms in told if terms.inference_geo), None),
        units=next((terms.units for terms in told if terms.units), ()),
    )


def _filled_usage(usage: Usage, other: Usage) -> Usage:
    """Details that only the other record tells, where both tell the same totals."""
    if (usage.input, usage.output) != (other.input, other.output):
        return usage
    news = {
        name: getattr(other, name)
        for name in usage.__slots__
        if getattr(usage, name) is None and getattr(other, name) is not None
    }
    if "cache_write_1h" in news and usage.cache_write is not None and usage.cache_write != other.cache_write:
        del news["cache_write_1h"]
    merged = replace(usage, **news) if news else usage
    return usage if merged.uncached_input < 0 else merged


def _usage(group: Group) -> Usage | None:
    return next((step.usage for step in group.steps if step.usage is not None), None)


def _agree(a: Usage, b: Usage | None) -> bool:
    """The same call by its numbers; streaming layers are known to disagree by one output token."""
    return b is not None and abs(a.output - b.output) <= 1 and _same_input(a, b)


def _same_input(a: Usage, b: Usage) -> bool:
    return a.input == b.input or _leaves_out_cached(a, b) or _leaves_out_cached(b, a)


def _leaves_out_cached(a: Usage, b: Usage) -> bool:
    """Does `a` know nothing of a cache, and has counted what `b` tells without its cached part?"""
    return a.cache_read is None and a.cache_write is None and a.input == b.uncached_input


def _ids(group: Group) -> tuple[str, ...]:
    return tuple(key for step in group.steps for key in step.ids)


def _clash(a: Sequence[str], b: Sequence[str]) -> bool:
    """Two records name the call by the same sort of id, and differently: they are two calls."""
    sorts = {key.partition(":")[0]: key for key in a}
    return any(sorts.get(key.partition(":")[0], key) != key for key in b) and not set(a) & set(b)


def _same_model(a: Step, b: Step) -> bool:
    mine = {_bare(model) for model in (a.requested_model, a.response_model) if model}
    other = {_bare(model) for model in (b.requested_model, b.response_model) if model}
    return not mine or not other or any(x.startswith(y) or y.startswith(x) for x in mine for y in other)


@lru_cache(maxsize=1024)
def _bare(model: str) -> str:
    """A model's name without who hosts it: `openai/gpt-5`, `us.anthropic.claude-sonnet-4-5-v1:0`."""
    name = model.rpartition("/")[2].lower()
    return _HOSTS.sub("", name) or name


_HOSTS: Final = re.compile(r"^(?:[a-z][a-z-]*\.)+")


def _inside(inner: Step, outer: Step, slack_ns: int) -> bool:
    return outer.start_ns - slack_ns <= inner.start_ns and inner.end_ns <= outer.end_ns + slack_ns


def _upwards(over: Mapping[Step, Step]) -> Mapping[Step, Step]:
    """Without what goes in a circle: there nobody is above anybody, and each is a call of its own."""
    circular: set[Step] = set()
    safe: set[Step] = set()
    for start in over:
        path: dict[Step, None] = {}
        step: Step | None = start
        while step is not None and step not in safe and step not in path:
            path[step] = None
            step = over.get(step)
        if step is not None and step in path:
            walked = list(path)
            circular.update(walked[walked.index(step) :])
        safe.update(path)
    return {step: above for step, above in over.items() if step not in circular} if circular else over


def _depth(step: Step, over: Mapping[Step, Step]) -> int:
    depth, seen = 0, {step}
    while (step := over.get(step, step)) not in seen:
        seen.add(step)
        depth += 1
    return depth
