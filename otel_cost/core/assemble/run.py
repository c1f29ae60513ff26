"""Run: one open run. Steps go in, calls come out and change as later steps tell more.

The result depends on the set of steps, not on their order: every relation
between two steps (equal id, one above the other, equal hint, equal guess) is found
whichever comes first, related steps form a component, and a component is
joined anew, as a whole, whenever it grows. Nearly all components are one step.
"""

from __future__ import annotations

import copy
import hashlib
from bisect import bisect_left, insort
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from otel_cost.core.assemble.join import Group, GuessKey, Voice, canonical, guess_keys, join, may_be_one, speaker, voice
from otel_cost.core.assemble.meter import Meter
from otel_cost.core.assemble.trace import Place, Trace
from otel_cost.core.model.call import Call
from otel_cost.core.model.step import NEAR, Step, near_hints
from otel_cost.core.model.vocabulary import CALL_KINDS, MODEL_KINDS, Flag, Kind, Source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from otel_cost.core.model.charge import Charge
    from otel_cost.core.model.outcome import Outcome


@dataclass(slots=True, eq=False)
class Component:
    """Steps that may have to do with each other, and the calls they make."""

    steps: list[Step]
    calls: list[Call] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Change:
    """A call appeared (`old` None), went (`new` None) or says something else than before."""

    old: Call | None
    new: Call | None


@dataclass(slots=True, eq=False, weakref_slot=True)
class Run:
    """One run: the traces that share a conversation, or one trace. `charge` prices a speaking step."""

    tenant: str
    charge: Callable[[Step], Charge]
    position: int  # journal position of its first event: what is older is not needed for it
    active_ns: int = 0  # receive time of its last event
    traces: dict[bytes, Trace] = field(default_factory=dict)
    sessions: set[str] = field(default_factory=set)
    steps: list[Step] = field(default_factory=list)
    calls: dict[str, Call] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    moves: list[tuple[str, str]] = field(default_factory=list)  # agent key that turned out to be another
    told: dict[str, int | None] = field(default_factory=dict)  # call id → nano already written or sent
    carrier: dict[str, bytes] = field(default_factory=dict)  # call id → the span that carries its cost downstream
    wasted: dict[str, int | None] = field(default_factory=dict)  # episode → nano
    meter: Meter | None = None  # what metrics tell of it: counted only where nothing else tells of its model calls
    shapes: dict[str, str] = field(default_factory=dict)  # episode → what shape of loop it is, the same in every run
    joins: set[str] = field(default_factory=set)  # where its work ends up: `branch:…`, `commit:…`, `ticket:…`
    outcomes: dict[str, Outcome] = field(default_factory=dict)  # what became of it, as far as told while it is open
    sender: str = ""  # names a run that is known by nothing but who sent its metrics
    found_by: str | None = None  # the session by which `Runs` found it last
    absorbed_by: Run | None = None
    was_written: bool = False  # it has slept: what is written of it is no longer so, even if nothing is left of it
    relabelled: bool = False  # its id or who it is for has changed since the engine last looked
    _id: tuple[int, int, str] | None = None
    _who: dict[str, tuple[tuple[int, bytes], str]] = field(default_factory=dict)
    _who_said: dict[str, str] | None = None  # made when asked for, shared by every call of the run
    _ids: dict[str, Step] = field(default_factory=dict)
    _hints: dict[str, dict[Voice, list[Step]]] = field(default_factory=dict)
    _guesses: dict[GuessKey, Step | dict[Voice, list[Step]]] = field(default_factory=dict)
    _component: dict[Step, Component] = field(default_factory=dict)
    _place: dict[Step, Place] = field(default_factory=dict)
    _records: set[bytes] = field(default_factory=set)
    _names: dict[Step, str] = field(default_factory=dict)  # the record that gave a call its id
    _threads: dict[Step, str] = field(default_factory=dict)  # agent span → key of the agent at work
    _turns: dict[tuple[bytes, str], dict[str, list[tuple[int, int]]]] = field(default_factory=dict)
    _rollups: list[Step] = field(default_factory=list)
    _lone: set[Step] = field(default_factory=set)  # roll-ups that are billed
    _covers: set[Step] = field(default_factory=set)  # what sums up something that is told below it
    _adrift: dict[Step, None] = field(default_factory=dict)  # steps with usage whose parents have not all come
    _below: dict[Step, list[int]] = field(default_factory=dict)  # agent → (nano, priced calls) of what is below it
    _shares: dict[str, tuple[tuple[Step, ...], int]] = field(default_factory=dict)  # call → where it is in `_below`
    moved: set[str] = field(default_factory=set)  # calls that `_below` does not hold as they are now
    _metered: dict[str, Step] = field(default_factory=dict)  # calls that only metrics tell of
    _by_tool: bool = False  # a hook told of a tool call without naming it
    _near: bool = False  # a hook told of a tool call by an id that others may not know
    _closing: bool = False
    _named: tuple[str, set[str]] = ("", set())  # id and keys by which outcomes find it, as told

    @property
    def id(self) -> str:
        """The smallest conversation id, else the smallest trace id: the same in any order of arrival."""
        sessions, traces = len(self.sessions), len(self.traces)  # neither ever loses one
        known = self._id
        if known is not None and known[0] == sessions and known[1] == traces:
            return known[2]
        name = min(self.sessions) if sessions else min(self.traces.keys() - {b""}, default=b"").hex() or self.sender
        if name is not self.sender:
            self._id = (sessions, traces, name)
        return name

    @property
    def current(self) -> Run:
        """This run, or the one that it has become part of."""
        run = self
        while run.absorbed_by is not None:
            run = run.absorbed_by
        return run

    @property
    def who(self) -> dict[str, str]:
        """Who and what for: the earliest word on each dimension, whatever span said it."""
        if self._who_said is None:
            self._who_said = {dimension: said for dimension, (_, said) in self._who.items()}
        return self._who_said

    def _hear(self, step: Step) -> None:
        when = (step.start_ns, step.span_id)
        for dimension, said in step.who.items():
            known = self._who.get(dimension)
            if known is None or when < known[0]:
                self._who[dimension] = (when, said)
                self._who_said = None
                self.relabelled = self.relabelled or known is None or known[1] != said

    def join_session(self, session: str) -> None:
        """One more conversation id by which the run is known."""
        if session not in self.sessions:
            self.sessions.add(session)
            self.relabelled = True

    def new_keys(self) -> list[str]:
        """Keys by which outcomes find it under its present name, each told once."""
        name, told = self._named
        if name != self.id:
            self._named = (self.id, told := set())
        if len(told) == len(self.traces) - (b"" in self.traces) + len(self.sessions) + len(self.joins):
            return []
        keys = [f"trace:{trace_id.hex()}" for trace_id in self.traces if trace_id]
        keys += [f"session:{session}" for session in self.sessions]
        fresh = [key for key in (*keys, *self.joins) if key not in told]
        told.update(fresh)
        return sorted(fresh)

    def trace(self, trace_id: bytes) -> Trace:
        found = self.traces.get(trace_id)
        if found is None:
            found = self.traces[trace_id] = Trace(trace_id)
        return found

    def place(self, step: Step) -> Place:
        return self._place.get(step, _NOWHERE)

    def component(self, step: Step) -> list[Call] | None:
        """The calls that a step has a part in, or could have; None for a step that can be no call."""
        found = self._component.get(step)
        return None if found is None else found.calls

    def related(self, step: Step) -> list[Step]:
        """The other steps that may tell of the same call as this one."""
        component = self._component.get(step)
        return [] if component is None else [other for other in component.steps if other is not step]

    def stands_alone(self, step: Step) -> bool:
        """Is there nothing above a model call, in no conversation, but records of itself?"""
        while step.parent_id:
            place = self.place(step)
            if place.over is None or place.parent is not place.over:
                return False
            step = place.over
        return not step.session

    # ---- taking in -------------------------------------------------------

    def add_span(self, trace_id: bytes, span_id: bytes, parent_id: bytes, step: Step | None) -> bool:
        """Take a span and what it tells; False if this span has been here before.

        A resend that tells more than its first copy still counts: the richer of
        two copies speaks, whichever came first, and a disagreement is flagged.
        """
        trace = self.traces.get(trace_id)
        if trace is None:
            trace = self.trace(trace_id)
        if not trace.parents.put(span_id, parent_id):
            if step is not None:
                self._again(trace, span_id, step)
            return False
        woken = trace.woken(span_id) if trace.waiting else ()
        if step is not None:
            trace.steps[span_id] = step
            self.add_step(step)
        for waiting in woken:
            self._walk(waiting)
        return True

    def add_step(self, step: Step) -> None:
        """Take a step and everything that follows from it; a log record that was sent twice counts once."""
        if not step.span_id:
            record = _record(step)
            if record in self._records:
                return
            self._records.add(record)
        kind = step.kind
        if kind is _TOOL and (self._by_tool or self._near or step.source is not _SPAN):
            self._hint_by_tool(step)
        self.steps.append(step)
        if step.who:
            self._hear(step)
        place = _NOWHERE
        if step.parent_id:
            place = self._place[step] = self.trace(step.trace_id).walk(step)
            if kind is _TOOL:
                self._note_loss(place)
        if step.usage is not None:
            self._cover(step, place)
        if self._lone:
            self._take_back(step, place)
        if step.rollup:
            if step.usage is not None:
                self._rollups.append(step)
            return
        if kind not in CALL_KINDS:
            return
        related = self._related(step, place)
        if not related and not step.partial:
            # What `_settle` would come to, for the one record of a call that nearly every call is.
            name = self._names.get(step)
            if name is None:
                name = self._names[step] = call_id(self.tenant, (step,))
            self._component[step] = Component([step], [self._make(name, step, step.flags, (step,), place, None)])
        else:
            component = self._component[step] = Component([step])
            for other in related:
                component = self._unite(component, self._component[other])
            self._settle(component)
        if self._metered and kind in MODEL_KINDS:
            self.bill_metrics()

    def add_steps(self, steps: Sequence[Step]) -> None:
        """Take steps of spans that are all in their traces already: what encloses one may come after it."""
        for step in steps:
            self.add_step(step)
        for step in steps:
            over = self.place(step).over
            if over is not None and step in self._component and over in self._component:
                mine, above = self._component[step], self._component[over]
                if mine is not above:
                    self._settle(self._unite(mine, above))

    def _again(self, trace: Trace, span_id: bytes, step: Step) -> None:
        known = trace.steps.get(span_id)
        if known is None:  # the first copy told of no work
            self.add_step(step)
            trace.retold(span_id, step)
            return
        if _said(step) == _said(known):
            return
        if _said(step) > _said(known):
            for name in ("usage", "basis", "problem", "failed", "response_model", "reported_nano", "terms", "ids"):
                setattr(known, name, getattr(step, name))
        known.flags |= {Flag.CONFLICT}
        trace.retold(span_id, known)
        if known.usage is not None:
            self._cover(known, self.place(known))
        if known.rollup:
            self._bill_again(known)
        elif known in self._component:
            for key_ in known.ids:
                self._ids.setdefault(key_, known)
            self._settle(self._component[known])

    def _walk(self, step: Step) -> None:
        before = self._place.get(step)
        place = self._place[step] = self.trace(step.trace_id).walk(step)
        if before is not None and step.kind is Kind.AGENT and step in self._threads:
            self._thread_again(step, before, place)
        if before is not None and place.agent is not None and place.same_as(before):
            # Nothing but how far up the tree is known.
            if step.usage is not None:
                self._cover(step, place)
            if self._lone:
                self._take_back(step, place)
            return
        agent_was, agent_now = "", ""
        if before is not None:
            agent_was, agent_now = self._agent_key(step, before), self._agent_key(step, place)
            if agent_was != agent_now and (agent_was, agent_now) not in self.moves[-1:]:
                self.moves.append((agent_was, agent_now))
        if step.kind is _TOOL:
            self._note_loss(place)
        if step.usage is not None:
            self._cover(step, place)
        if self._lone:
            self._take_back(step, place)
        component = self._component.get(step)
        if component is None:
            return
        self.moved.update([call.id for call in component.calls])
        if step.rollup:
            if before is None or place.model != before.model:
                self._bill_again(step)
            return
        if place.over is not None and place.over in self._component:
            component = self._unite(component, self._component[place.over])
        if before is None or place.over is not before.over or place.model != before.model:
            self._settle(component)
        elif agent_was != agent_now or place.agent is not before.agent:
            self._reassign(component, step, place)

    def _note_loss(self, place: Place) -> None:
        """A tool inside a record that runs its tools itself: several requests, the last one's usage."""
        above = place.parent
        if above is not None and above.calls_tools and Flag.INCOMPLETE not in above.flags:
            above.flags |= {Flag.INCOMPLETE}
            if above in self._component:
                self._settle(self._component[above])

    def _reassign(self, component: Component, step: Step, place: Place) -> None:
        """Only whose call it is has become clearer: the call stays as it is."""
        agent = place.agent
        for call in component.calls:
            if step in call.steps:
                call.agent = call.step.agent or (agent.agent if agent is not None else call.agent)
                call.agent_key = self._whose(call.step, call.steps, place, call)
                self.changes.append(Change(call, call))

    def _related(self, step: Step, place: Place) -> list[Step]:
        """Known steps that may be the same call, each whichever came first."""
        found: list[Step] = []
        for key in step.ids:
            other = self._ids.setdefault(key, step)
            if other is not step:
                found.append(other)
        for hint in step.hints:
            found.extend(self._hinted(hint, step))
        for key_ in guess_keys(step):
            # One voice never tells a call twice, so only what others say is looked at, however much this one says.
            known = self._guesses.setdefault(key_, step)
            if known is not step:
                mine = voice(step)
                voices = {voice(known): [known]} if isinstance(known, Step) else known
                self._guesses[key_] = voices
                for other_voice, bucket in voices.items():
                    if other_voice != mine:
                        found.extend(other for other in bucket if may_be_one(step, other))
                voices.setdefault(mine, []).append(step)
        over = place.over
        if over is not None and over in self._component:
            found.append(over)
        return found

    def _hinted(self, hint: str, step: Step) -> Iterable[Step]:
        """Take a step in under a hint; all that bear it, once two voices do."""
        voices = self._hints.setdefault(hint, {})
        mine = voice(step)
        others = any(other != mine for other in voices)
        found = [other for bucket in voices.values() for other in bucket] if others else []
        voices.setdefault(mine, []).append(step)
        return found

    def _hint_by_tool(self, step: Step) -> None:
        """Where a hook names its tool calls by their tool only, that is what pairs them with spans and records.

        Where it has an id that others may lack, those are paired by tool and time.
        """
        if not self._near and step.source is Source.HOOK and step.hints and step.hints[0].startswith(NEAR):
            self._near = True
            for known in self.steps:
                if known.kind is Kind.TOOL and not known.ids and known in self._component:
                    for near in near_hints(known.tool, known.end_ns):
                        self._add_hint(known, near)
        elif self._near and not step.ids:
            step.hints += tuple(near for near in near_hints(step.tool, step.end_ns) if near not in step.hints)
        hint = f"tool:{step.tool}"
        if not self._by_tool and step.source is Source.HOOK and hint in step.hints:
            self._by_tool = True
            for known in self.steps:
                if known.kind is Kind.TOOL and known in self._component:
                    self._add_hint(known, f"tool:{known.tool}")
        elif self._by_tool and hint not in step.hints:
            step.hints += (hint,)

    def _add_hint(self, step: Step, hint: str) -> None:
        if hint not in step.hints:
            step.hints += (hint,)
            self._hints.setdefault(hint, {}).setdefault(voice(step), []).append(step)

    def _unite(self, a: Component, b: Component) -> Component:
        if a is b:
            return a
        if len(a.steps) < len(b.steps):
            a, b = b, a
        a.steps.extend(b.steps)
        a.calls.extend(b.calls)
        for step in b.steps:
            self._component[step] = a
        return a

    # ---- calls -----------------------------------------------------------

    def _settle(self, component: Component) -> None:
        """Join a component's steps anew and note what changed."""
        if len(component.steps) == 1:
            groups = [Group(list(component.steps))]
        else:
            over = {step: place.over for step in component.steps if (place := self.place(step)).over is not None}
            groups = join(component.steps, over)
        old = list(component.calls)
        made: list[tuple[Group, str, Call | None]] = []
        for group in groups:
            if group.rollup or (not self._closing and all(step.partial for step in group.steps)):
                continue
            name = self._name(group)
            before = next((call for call in old if call.id == name), None)
            if before is not None:
                old.remove(before)
            made.append((group, name, before))
        for call in old:
            self._drop(call)
        component.calls = [self._call(group, name, before) for group, name, before in made]

    def _name(self, group: Group) -> str:
        """A call keeps its id while the record that gave it is one of its own, so that corrections find it."""
        for step in group.steps:
            if step in self._names:
                return self._names[step]
        name = self._names[group.steps[0]] = call_id(self.tenant, group.steps)
        return name

    def _call(self, group: Group, name: str, before: Call | None) -> Call:
        said, flags = speaker(group)
        place = self.place(group.steps[0])
        for step in group.steps[1:]:
            if step.span_id == said.span_id:
                place = self.place(step)
        return self._make(name, said, flags, tuple(group.steps), place, before)

    def _make(
        self,
        name: str,
        said: Step,
        flags: frozenset[Flag],
        steps: tuple[Step, ...],
        place: Place,
        before: Call | None,
    ) -> Call:
        """Price what a call's records say, and put it into the run."""
        kind = said.kind
        if place.model is not None and kind in MODEL_KINDS and said.model is None:
            said = copy.copy(said)
            said.requested_model = place.model
        charge = self.charge(said)
        if said.failed:
            flags |= _FAILED
        if charge.flags:
            flags |= charge.flags
        agent = place.agent
        call = Call(
            name,
            said,
            steps,
            charge,
            kind,
            flags,
            said.failed,
            said.attempts,
            said.agent or (agent.agent if agent is not None else None),
            self._whose(said, steps, place, before),
            said.trace_id,
            said.who,
        )
        self._put(call, before)
        return call

    def _thread(self, agent: Step) -> str:
        """An agent that is invoked again and again under one parent, never twice at once, is one agent at work."""
        key = f"id:{agent.agent_id}" if agent.agent_id else f"span:{agent.span_id.hex()}"
        if not agent.agent_id:
            turns = self._turns.setdefault(_turn_of(agent, self.place(agent)), {})
            key = next((known for known, times in turns.items() if _is_apart(agent, times)), key)
            insort(turns.setdefault(key, []), (agent.start_ns, agent.end_ns))
        self._threads[agent] = key
        return key

    def _thread_again(self, agent: Step, before: Place, place: Place) -> None:
        """More is known of what is above an agent: whether it is one with others must not depend on what came first."""
        turn = _turn_of(agent, before)
        if agent.agent_id or turn == _turn_of(agent, place):
            return
        was = self._threads[agent]
        turns = self._turns.get(turn, {})
        times = turns.get(was, [])
        if (agent.start_ns, agent.end_ns) in times:
            times.remove((agent.start_ns, agent.end_ns))
        if not times:
            turns.pop(was, None)
        if not turns:
            self._turns.pop(turn, None)
        key = self._thread(agent)
        if key != was:
            self.moves.append((was, key))
            for call in self.trace(agent.trace_id).calls.values():
                if call.agent_key == was:
                    call.agent_key = key

    def _put(self, call: Call, before: Call | None) -> None:
        if before is not None and before.trace_id != call.trace_id:
            self.trace(before.trace_id).calls.pop(before.id, None)
        name = call.id
        self.calls[name] = call
        self.trace(call.trace_id).calls[name] = call
        self.moved.add(name)
        self.changes.append(Change(before, call))

    def _keep(self, call: Call) -> None:
        """A call of a run that this one took over; whatever changes of it is to be told."""
        self.calls.setdefault(call.id, call)
        self.moved.add(call.id)
        self.trace(call.trace_id).calls.setdefault(call.id, call)

    def _drop(self, call: Call) -> None:
        if self.calls.get(call.id) is call:
            del self.calls[call.id]
            self.moved.add(call.id)
            self.trace(call.trace_id).calls.pop(call.id, None)
            self.changes.append(Change(call, None))

    def _whose(self, said: Step, steps: tuple[Step, ...], place: Place, before: Call | None) -> str:
        """The agent of a call; a hook knows it while an ancestor of the span is missing, and whose that one is."""
        key = self._agent_key(said, place)
        was = before.agent_key if before is not None else key
        if (said.source is not _SPAN or len(steps) > 1) and key.startswith("span:"):
            hook = next((step for step in steps if step.source is Source.HOOK), None)
            if hook is not None:
                was, key = key, self._agent_key(hook, self.place(hook))
        if was != key and was.startswith("span:"):
            self.moves.append((was, key))
        return key

    def _agent_key(self, step: Step, place: Place) -> str:
        """Whose call it is, for detectors: the nearest agent, else the missing ancestor, else the run's own thread."""
        if step.agent_id:
            return f"id:{step.agent_id}"
        agent = place.agent
        if agent is not None:
            return self._threads.get(agent) or self._thread(agent)
        if place.missing:
            return f"span:{place.missing.hex()}"
        return f"name:{step.agent}" if step.agent and not step.parent_id else ""

    # ---- roll-ups that are the only record --------------------------------

    def bill_lone_rollups(self, before_ns: int | None = None) -> None:
        """Turn roll-ups with nothing below them into calls, flagged `aggregate`; take that back where something came.

        `before_ns`: only those that ended before (the others may still get children); None: all.
        """
        if not self._rollups:
            return
        covered = self._covered()
        for step in self._rollups:
            if step in covered:
                self._unbill(step)
            elif step not in self._component and (before_ns is None or step.end_ns <= before_ns):
                self._bill(step, None)

    def _bill(self, step: Step, before: Call | None) -> None:
        component = self._component[step] = Component([step])
        self._lone.add(step)
        lone = copy.copy(step)
        lone.kind = Kind.EMBEDDING if step.operation == "embeddings" else Kind.INFERENCE
        lone.rollup = False
        lone.flags = step.flags | {Flag.AGGREGATE}
        component.calls.append(self._call(Group([lone]), call_id(self.tenant, [lone]), before))

    def _unbill(self, step: Step) -> None:
        component = self._component.pop(step, None)
        self._lone.discard(step)
        for call in component.calls if component is not None else ():
            self._drop(call)

    def _bill_again(self, step: Step) -> None:
        """A roll-up says something else than before, or stands elsewhere: its bill follows, if there is one."""
        component = self._component.get(step)
        if component is not None:
            self._bill(step, next(iter(component.calls), None))

    def _take_back(self, step: Step, place: Place) -> None:
        """A step tells what a roll-up was billed for: at once, because what was told of it is wrong from now on."""
        if not self._lone or step.usage is None or not (step.rollup or step.kind in MODEL_KINDS):
            return
        for above in place.agents:
            if above in self._lone:
                self._unbill(above)
        if step.source is not Source.SPAN or place.missing:
            for rollup in self._rollups:
                if rollup in self._lone and (_told_in(step, rollup) or (place.missing and _may_hold(rollup, step))):
                    self._unbill(rollup)

    def _cover(self, step: Step, place: Place) -> None:
        """A step that tells usage, or stands elsewhere than before: what is above it sums it up."""
        if not (step.rollup or step.kind in MODEL_KINDS):
            return
        if place.agents:
            self._covers.update(place.agents)
        if place.missing:
            self._adrift[step] = None
        elif self._adrift:
            self._adrift.pop(step, None)

    def _covered(self) -> set[Step]:
        """Roll-ups that sum up something told on its own."""
        covered = {rollup for rollup in self._rollups if rollup in self._covers}
        open_ones = [rollup for rollup in self._rollups if rollup not in covered]
        if not open_ones:
            return covered
        told_apart = [
            call.step
            for call in self.calls.values()
            if call.step.source not in _TOLD_IN_PLACE and call.kind in MODEL_KINDS and call.step.usage is not None
        ]
        for rollup in open_ones:
            if any(_told_in(step, rollup) for step in told_apart) or any(
                _may_hold(rollup, step) for step in self._adrift
            ):
                covered.add(rollup)
        return covered

    def subtree_nano(self, agent: Step) -> int | None:
        """What the calls below an agent cost, nano-USD; None where none of them is priced."""
        below = self._below
        for name in self.moved:
            agents, nano = self._shares.pop(name, ((), 0))
            for above in agents:
                known = below[above]
                known[0] -= nano
                known[1] -= 1
            call = self.calls.get(name)
            if call is None or (cost := call.nano) is None or not (agents := self.place(call.steps[0]).agents):
                continue
            self._shares[name] = (agents, cost)
            for above in agents:
                known = below.setdefault(above, [0, 0])
                known[0] += cost
                known[1] += 1
        self.moved.clear()
        nano, priced = below.get(agent, (0, 0))
        return nano if priced else None

    # ---- usage that only metrics tell -------------------------------------

    def bill_metrics(self) -> None:
        """Turn what metrics counted into calls, flagged `aggregate`; take it back where another signal tells of calls.

        A hook that names a call without its usage takes nothing away from what a metric knows.
        """
        told_apart = any(
            call.kind in MODEL_KINDS
            and any(
                step.source in _COUNTED_APART or (step.source is Source.HOOK and step.usage is not None)
                for step in call.steps
            )
            for call in self.calls.values()
        )
        steps = [] if told_apart or self.meter is None else self.meter.steps(self.tenant)
        before = self._metered
        self._metered = {}
        for step in steps:
            name = call_id(self.tenant, [step])
            was = before.pop(name, None)
            self._metered[name] = step
            if was is None or (was.usage, was.end_ns) != (step.usage, step.end_ns):
                self._hear(step)
                self._call(Group([step]), name, self.calls.get(name))
        for name in before:
            self._drop(self.calls[name])

    def bill_metrics_again(self) -> None:
        """What was billed may have to be taken back; what was not waits for the end of the run."""
        if self._metered:
            self.bill_metrics()

    def finish(self) -> None:
        """Nothing more is expected: parts whose whole never came count for themselves, lone roll-ups are billed."""
        self._closing = True
        orphans = {
            id(component): component
            for step in self.steps
            if step.partial and (component := self._component.get(step)) is not None and not component.calls
        }
        for component in orphans.values():
            self._settle(component)
        self._closing = False
        self.bill_lone_rollups()
        if self.meter is not None:
            self.bill_metrics()

    def absorb(self, other: Run) -> None:
        """Take over another run that turned out to be the same: its traces, steps and what was told of them."""
        other.absorbed_by = self
        was, who_was = self.id, self.who
        for trace_id, trace in other.traces.items():
            trace.calls = {}
            self.traces[trace_id] = trace
        self.sessions |= other.sessions
        self.position = min(self.position, other.position)
        self.active_ns = max(self.active_ns, other.active_ns)
        self.was_written = self.was_written or other.was_written
        self.told |= other.told
        self.carrier |= other.carrier
        self.wasted |= other.wasted
        self.shapes |= other.shapes
        self.joins |= other.joins
        self.outcomes |= other.outcomes
        if other.meter is not None:
            self.meter = self.meter or Meter()
            self.meter.absorb(other.meter)
            for name in other._metered:
                self._keep(other.calls[name])
                self.changes.append(Change(other.calls[name], other.calls[name]))
            self._metered |= other._metered
        known = {step: call for call in other.calls.values() for step in call.steps}
        pending = [change for change in other.changes if change.new is None]
        moved = [step for step in other.steps if step.span_id or _record(step) not in self._records]
        self._records |= other._records
        for step in moved:
            self._take_over(step, other, known)
        for step in moved:  # what encloses a step may have been moved after it
            over = self.place(step).over
            if step in self._component and over is not None and over in self._component:
                self._unite(self._component[step], self._component[over])
        alone = {id(self._component[rollup]) for rollup in self._lone}
        for component in {id(c): c for s in moved if (c := self._component.get(s)) is not None}.values():
            if id(component) not in alone:
                self._settle(component)
        covered = self._covered() if self._lone else set()
        for rollup in self._rollups:
            if rollup in covered:
                self._unbill(rollup)
        self.changes.extend(pending)
        self.bill_metrics_again()
        self.relabelled = self.relabelled or self.id != was or self.who != who_was

    def _take_over(self, step: Step, other: Run, known: dict[Step, Call]) -> None:
        """One step of another run, with its place and the call it had a part in."""
        if step.kind is Kind.TOOL:
            self._hint_by_tool(step)
        self.steps.append(step)
        self._hear(step)
        if step in other._place:
            self._place[step] = other._place[step]
        if step.usage is not None:
            self._cover(step, self.place(step))
        if step in other._names:
            self._names[step] = other._names[step]
        if step.rollup:
            if step.usage is not None:
                self._rollups.append(step)
            if step in other._lone:
                self._lone.add(step)
                lone = self._component[step] = other._component[step]
                for call in lone.calls:
                    self._keep(call)
                    self.changes.append(Change(call, call))
            return
        if step.kind not in CALL_KINDS:
            return
        component = self._component[step] = Component([step])
        told = known.pop(step, None)
        if told is not None:
            component.calls.append(told)
            self._keep(told)
            for part in told.steps:
                known.pop(part, None)
        for related in self._related(step, self.place(step)):
            component = self._unite(component, self._component[related])


_TOOL = Kind.TOOL
_SPAN = Source.SPAN
_FAILED = frozenset({Flag.FAILED})
_TOLD_IN_PLACE = frozenset({Source.SPAN, Source.METRIC})
_COUNTED_APART = frozenset({Source.SPAN, Source.LOG, Source.EVENT})
_NOWHERE = Place()
_NO_SPAN = bytes(8)
_LATE_NS = 2_000_000_000  # a log record is written at the end of what it tells, or a flush later


def _turn_of(agent: Step, place: Place) -> tuple[bytes, str]:
    """What turns of one agent have in common: who is above them, and its name."""
    above = place.agent.span_id if place.agent is not None else place.missing or _NO_SPAN
    return above, agent.agent or agent.name


def _is_apart(agent: Step, times: list[tuple[int, int]]) -> bool:
    """Does an agent's time overlap none of `times`, which are sorted and do not overlap each other?"""
    before = bisect_left(times, (agent.end_ns,)) - 1  # the last one that begins before the agent ends
    return before < 0 or times[before][1] <= agent.start_ns


def _told_in(step: Step, rollup: Step) -> bool:
    """Does a record without a place in the tree tell of work that a roll-up sums up?"""
    if step.source in _TOLD_IN_PLACE:
        return False
    return step.dialect == rollup.dialect and rollup.start_ns <= step.end_ns <= rollup.end_ns + _LATE_NS


def _may_hold(rollup: Step, step: Step) -> bool:
    """Could a step whose parents never came be part of what a roll-up sums up? Then the sum is not billed beside it."""
    return (
        rollup is not step
        and rollup.trace_id == step.trace_id
        and rollup.start_ns <= step.start_ns
        and step.end_ns <= rollup.end_ns
    )


def _said(step: Step) -> tuple[object, ...]:
    """How much one copy of a span tells; the richer one speaks, in any order of arrival."""
    usage = step.usage
    return (
        usage is not None,
        usage.details if usage else 0,
        (usage.input, usage.output) if usage else (0, 0),
        not step.failed,
        step.response_model or "",
    )


def _record(step: Step) -> bytes:
    """What a log record without any id is known by: two that agree in all of it are one, sent twice."""
    usage = (step.usage.input, step.usage.output) if step.usage else ()
    where = (step.source, step.scope, step.trace_id, step.parent_id, step.session, step.name)
    return repr((where, step.start_ns, step.end_ns, step.ids, step.hints, usage, step.tool, step.failed)).encode()


def call_id(tenant: str, steps: Sequence[Step]) -> str:
    """Name of a call: a function of the first record that tells of it, the same on every replay."""
    first = steps[0] if len(steps) == 1 else min(steps, key=canonical)
    if first.span_id:
        told = first.trace_id + first.span_id
    elif first.ids:  # clients make up ids that are unique in their own session only
        told = f"{first.session}|{'|'.join(first.ids)}".encode()
    else:
        told = _record(first)
    name = _begun(tenant).copy()
    name.update(told)
    return name.hexdigest()


@lru_cache(maxsize=64)
def _begun(tenant: str) -> hashlib.blake2b:
    """The hash that every call id of a tenant begins with: a copy costs half of a new one."""
    return hashlib.blake2b(tenant.encode() + b"\0", digest_size=12)
