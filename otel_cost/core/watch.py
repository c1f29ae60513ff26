"""Watch: each agent's calls go through the detectors of the loaded rules; what they find becomes an alert.

A streak never crosses agents. Because children come before their parents, an
agent's calls may first be known only by the span they hang on; when that turns
out to be part of another agent's work, the two histories become one and are read anew.
"""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from otel_cost.core.assemble.summary import in_order, route, total, wasted
from otel_cost.core.decide import Verb
from otel_cost.core.detect import Observed
from otel_cost.core.detect._episode import loudness
from otel_cost.core.detect._memory import Memory
from otel_cost.core.detect._pace import Pace
from otel_cost.core.detect._traits import traits_of
from otel_cost.core.exemptions import Exemptions
from otel_cost.core.library import Library
from otel_cost.core.model.finding import Alert, Burnt
from otel_cost.core.model.money import nano_to_text
from otel_cost.core.model.vocabulary import MODEL_KINDS, Category, Kind, Source
from otel_cost.core.outcomes import judge, latest
from otel_cost.core.rules.kind import Mode
from otel_cost.core.rules.match import lookup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from pydantic import BaseModel

    from otel_cost.core.assemble.run import Run
    from otel_cost.core.model.call import Call
    from otel_cost.core.model.finding import Finding, Live
    from otel_cost.core.model.outcome import Outcome
    from otel_cost.core.rules.kinds.loops import Loop

    # A rule, and what is asked of its detector when a call is shown to it; `int` is the rule's place.
    Seeing = tuple[
        Loop, Callable[[Any, Observed, Any], Iterable[Finding]], BaseModel, int, Callable[[Any], bool] | None
    ]

# How much of one agent's history is kept for a re-reading; loops are far shorter.
_HISTORY: Final = 400
# Of so many open episodes it is asked which one a span belongs to, the newest first: every span that leaves asks.
_LOOKED_AT: Final = 32
# A run's workflow may be told late, by its root: every eighth call it is looked for again.
_LOOK_AGAIN: Final = 7
_SORTS: Final = 4096


@dataclass(slots=True, eq=False)
class Agent:
    """What has been seen of one agent of one run."""

    history: list[Observed] = field(default_factory=list)
    memory: Memory = field(default_factory=Memory)
    states: list[Any] = field(default_factory=list)  # one for each rule; None until its detector has seen a call
    busy: int = 0  # a bit for each rule whose detector sees every call for now
    fired: dict[tuple[str, bytes], int] = field(default_factory=dict)  # (rule, onset): said once as loud as that


@dataclass(slots=True, eq=False)
class Watched:
    """What has been seen of one run."""

    agents: dict[str, Agent] = field(default_factory=dict)
    fed: dict[str, Observed] = field(default_factory=dict)  # call id → as it was fed, of all histories
    hooked: dict[str, str] = field(default_factory=dict)  # a hook's own id → call id; telemetry's bears another one
    episodes: dict[str, int] = field(default_factory=dict)  # fingerprint → how many so far
    open: dict[str, Alert] = field(default_factory=dict)  # episode (rule and onset) → its firing alert
    live: dict[str, Live] = field(default_factory=dict)  # of those, what goes on after it was told of
    covered: set[str] = field(default_factory=set)  # episodes that a louder one tells of as well: paid for there
    early: set[str] = field(default_factory=set)  # episodes of which only an early notice was given
    pace: Pace = field(default_factory=Pace)
    last: tuple[Agent, Call] | None = None  # whose call came last: what is judged next is his
    nameless: set[bytes] = field(default_factory=set)  # names given to calls without a span


class Watch:
    """The detectors of one rule set over every open run."""

    def __init__(
        self,
        rules: Sequence[Loop],
        exemptions: Exemptions | None = None,
        left: Callable[[Run, Call], tuple[str, int] | None] | None = None,
    ) -> None:
        """`left`: the budget that a run's spending meets first, and what is left of it [nano-USD]."""
        self._rules = list(rules)
        self._left = left
        self.library = Library()
        self._exemptions = exemptions or Exemptions(())
        self._seeing: dict[tuple[Kind, int, int], list[Seeing]] = {}
        self._busy_at_first = sum(
            1 << place
            for place, rule in enumerate(self._rules)
            if rule.detector.busy is not None and rule.detector.busy(rule.detector.state())
        )
        self._runs: dict[Run, Watched] = {}

    def use(self, rules: Sequence[Loop], exemptions: Exemptions, at_ns: int) -> Iterator[tuple[Run, Alert]]:
        """Watch by other rules from now on: what is remembered is read by them, what has been told stays told.

        Episodes of rules that are gone end; those that go on and that a new rule sees are told.
        """
        fresh = Watch(rules, exemptions)
        self._rules, self._seeing, self._exemptions = fresh._rules, fresh._seeing, exemptions
        self._busy_at_first = fresh._busy_at_first
        names = {rule.name for rule in rules}
        for run, watched in self._runs.items():
            last_call = max(run.calls.values(), key=lambda call: call.step.start_ns, default=None)
            get = None if last_call is None else lookup(facts(run, last_call))
            for episode, alert in list(watched.open.items()):
                lifted = None if get is None else exemptions.covers(alert.rule, get, at_ns)
                if lifted is not None:
                    exemptions.use(lifted, alert.rule, _told(watched, alert))
                if alert.rule not in names or lifted is not None:
                    del watched.open[episode]
                    ended = replace(alert, id=f"{alert.id}-resolved", state="resolved", at_ns=at_ns)
                    yield run, _told(watched, ended)
            for agent in watched.agents.values():
                self._forget_all(agent)
                going: dict[tuple[str, bytes], tuple[Loop, Finding]] = {}
                for observed in agent.history:
                    for rule, finding in self._findings(agent, observed):
                        key = (rule.name, finding.onset_span_id)
                        if finding.state == "firing":
                            going[key] = (rule, finding)
                        elif going.pop(key, None):
                            agent.fired[key] = _rank(rule, finding)  # over before the rule was there
                known = (_call_of(run, watched, seen) for seen in reversed(agent.history)) if going else ()
                last = next((call for call in known if call is not None), None)
                if last is not None:
                    for alert in self._alerts(run, watched, agent, list(going.values()), last, at_ns):
                        yield run, alert

    def feed(self, run: Run, call: Call, at_ns: int) -> Iterable[Alert]:
        """Show a call to the detectors, once; a call that turned out to have failed is read anew."""
        watched = self._runs.get(run)
        if watched is None:
            watched = self._runs[run] = Watched()
        known = watched.fed.get(call.id)
        if known is None and watched.hooked:
            known = next((watched.fed.get(watched.hooked.get(own, "")) for own in _own_ids(call)), None)
            if known is not None:
                watched.fed[call.id] = known
        if known is not None and (known.failed or not call.failed):
            return ()
        agent = watched.agents.get(call.agent_key)
        if agent is None:
            agent = watched.agents[call.agent_key] = self._agent()
        if known is not None:
            if known not in agent.history:
                return ()
            seen = self._observed(watched, call)
            if call.step.error_message is None:
                # The content of its first record is gone, and the later one brings none: what was kept must do.
                seen.traits = traits_of(known)
                seen.traits.failed = True
            agent.history[agent.history.index(known)] = watched.fed[call.id] = seen
            return self._read_anew(run, watched, agent, call, at_ns)
        observed = self._observed(watched, call)
        if len(agent.history) >= _HISTORY:
            if _when(observed) < _when(agent.history[0]):
                return ()  # so far back that nothing is remembered of its time, perhaps itself
            _forget(watched, agent)
        watched.fed[call.id] = observed
        watched.last = (agent, call)
        pace = observed.pace = watched.pace
        pace.calls += 1
        pace.nano += observed.nano or 0
        if pace.usual is None and pace.calls & _LOOK_AGAIN == 0 and self.library.has_usual:
            pace.usual = self.library.usual(run.tenant, run.who.get("workflow"))
        if call.step.source is Source.HOOK:
            watched.hooked |= dict.fromkeys(_own_ids(call), call.id)
        agent.history.append(observed)
        return self._observe(run, watched, agent, observed, call, at_ns)

    def judge(self, run: Run, outcome: Outcome) -> Iterable[Alert]:
        """Show the detectors what a judge has said of the work of the agent that was last at it."""
        watched = self._runs.get(run)
        if watched is None or watched.last is None:
            return ()
        agent, call = watched.last
        step = copy.copy(call.step)
        step.kind, step.start_ns, step.end_ns = Kind.OTHER, outcome.at_ns, outcome.at_ns
        step.span_id = step.span_id or bytes.fromhex(call.id)[:8]
        step.forget_content()
        observed = Observed(step, None, failed=False, judged=outcome)
        agent.history.append(observed)
        return self._observe(run, watched, agent, observed, call, outcome.at_ns)

    def move(self, run: Run, was: str, now: str, at_ns: int) -> Iterator[Alert]:
        """Two agents of a run are one: append where the histories follow each other, else read both anew."""
        watched = self._runs.get(run)
        moved = watched.agents.pop(was, None) if watched is not None else None
        if watched is None or moved is None or not moved.history:
            return
        agent = watched.agents.get(now)
        if agent is None:
            watched.agents[now] = moved
            return
        _fired_too(agent, moved.fired)
        calls = {id(observed): run.calls.get(call_id) for call_id, observed in watched.fed.items()}
        if not agent.history or _when(agent.history[-1]) <= _when(moved.history[0]):
            for observed in moved.history:
                agent.history.append(observed)
                call = calls.get(id(observed))
                if call is not None:
                    yield from self._observe(run, watched, agent, observed, call, at_ns)
            return
        agent.history = sorted([*agent.history, *moved.history], key=_when)
        last = next((c for o in reversed(agent.history) if (c := calls.get(id(o))) is not None), None)
        if last is not None:
            yield from self._read_anew(run, watched, agent, last, at_ns)

    def unite(self, stays: Run, went: Run) -> None:
        """Two runs are one; agents of the one that went are read on under the one that stays."""
        lost = self._runs.pop(went, None)
        if lost is None:
            return
        watched = self._runs.setdefault(stays, Watched())
        watched.fed |= lost.fed
        watched.hooked |= lost.hooked
        watched.open |= lost.open
        watched.live |= lost.live
        watched.covered |= lost.covered
        watched.early |= lost.early
        watched.pace.calls += lost.pace.calls
        watched.pace.nano += lost.pace.nano
        watched.pace.told |= lost.pace.told
        watched.nameless |= lost.nameless
        for key, agent in lost.agents.items():
            mine = watched.agents.get(key)
            if mine is None:
                watched.agents[key] = agent
            else:
                _fired_too(mine, agent.fired)
                mine.history = sorted([*mine.history, *agent.history], key=_when)
                self._forget_all(mine)
                for observed in mine.history:
                    for rule, finding in self._findings(mine, observed):
                        _fired_too(mine, {(rule.name, finding.onset_span_id): _rank(rule, finding)})

    def finish(self, run: Run, at_ns: int) -> Iterator[Alert]:
        """The run is over and so is every episode in it: each is closed with what it came to."""
        watched = self._runs.pop(run, None)
        if watched is None:
            return
        for episode, alert in watched.open.items():
            live = watched.live.get(episode)
            burnt = Burnt(alert.wasted_nano, alert.span_ids, 0) if live is None else live.now()
            if episode in watched.early:
                burnt = replace(burnt, wasted_nano=0)
            elif episode not in watched.covered:
                run.wasted[episode] = burnt.wasted_nano
            yield _told(
                watched,
                replace(
                    alert,
                    id=f"{alert.fingerprint}-{alert.seq}-resolved",
                    state="resolved",
                    at_ns=at_ns,
                    wasted_nano=burnt.wasted_nano,
                    span_ids=burnt.span_ids,
                    evidence=alert.evidence | ({"repeats": burnt.repeats} if "repeats" in alert.evidence else {}),
                ),
            )
        self.library.close(run)

    def loop_of(self, run: Run, span_id: bytes) -> tuple[Alert, int, bool] | None:
        """The loudest alert that fires about a call of a run.

        With it the round of its loop that the call is, from 1, and whether its rule had spoken by then.
        """
        watched = self._runs.get(run)
        if watched is None or not watched.open:
            return None
        found: tuple[Alert, int, bool] | None = None
        for episode, alert in islice(reversed(watched.open.items()), _LOOKED_AT):
            if episode in watched.early:
                continue
            live = watched.live.get(episode)
            burnt = Burnt(alert.wasted_nano, alert.span_ids, 0) if live is None else live.now()
            if span_id not in burnt.span_ids or (found and loudness(found[0].severity) >= loudness(alert.severity)):
                continue
            place = burnt.span_ids.index(span_id)
            had_spoken = alert.at_span_id not in burnt.span_ids[place + 1 :]
            if place == len(burnt.span_ids) - 1 and burnt.repeats:
                place = burnt.repeats - 1  # of very many spans not all are kept
            period = alert.evidence.get("period")
            found = alert, place // (period if isinstance(period, int) and period > 0 else 1) + 1, had_spoken
        return found

    def _agent(self) -> Agent:
        return Agent(states=[None] * len(self._rules), busy=self._busy_at_first)

    def _forget_all(self, agent: Agent) -> None:
        """But for its history, which is to be read anew."""
        agent.memory, agent.states, agent.busy = Memory(), [None] * len(self._rules), self._busy_at_first

    def _observed(self, watched: Watched, call: Call) -> Observed:
        """A call as detectors see it; one that no span tells of (a hook's, a log record's) gets a name among them."""
        if call.step.span_id:
            return Observed(call.step, call.charge.nano, call.failed, call.charge)
        step = copy.copy(call.step)
        step.span_id = name_among(call)
        watched.nameless.add(step.span_id)
        observed = Observed(step, call.nano, call.failed, call.charge)
        traits_of(observed)
        step.forget_content()
        return observed

    def _findings(self, agent: Agent, observed: Observed) -> list[tuple[Loop, Finding]]:
        """What the detectors say of an agent's next call: mostly nothing."""
        if observed.judged is None:
            agent.memory.look(observed)
        key = (observed.step.kind, observed.signs, agent.busy)
        seeing = self._seeing.get(key)
        if seeing is None:
            seeing = self._who_sees(*key)
        found = []
        states = agent.states
        for rule, observe, settings, place, busy in seeing:
            state = states[place]
            if state is None:
                state = states[place] = rule.detector.state()
            told = observe(state, observed, settings)
            if told:
                found += [(rule, finding) for finding in told]
            if busy is not None and bool(busy(state)) != agent.busy >> place & 1:
                agent.busy ^= 1 << place
        return found

    def _who_sees(self, kind: Kind, signs: int, busy: int) -> list[Seeing]:
        """The detectors that are to see a call; few sorts of calls make up nearly all."""
        seeing = [
            (rule, rule.detector.observe, rule.settings, place, rule.detector.busy)
            for place, rule in enumerate(self._rules)
            if kind in rule.detector.kinds and (rule.detector.wakes & signs or busy >> place & 1)
        ]
        if len(self._seeing) >= _SORTS:
            self._seeing.clear()
        self._seeing[kind, signs, busy] = seeing
        return seeing

    def _observe(
        self, run: Run, watched: Watched, agent: Agent, observed: Observed, call: Call, at_ns: int
    ) -> Iterable[Alert]:
        found = self._findings(agent, observed)
        return self._alerts(run, watched, agent, found, call, at_ns) if found else ()

    def _alerts(
        self, run: Run, watched: Watched, agent: Agent, found: list[tuple[Loop, Finding]], call: Call, at_ns: int
    ) -> Iterator[Alert]:
        for rule, finding in found:
            if rule.match.names and not rule.match(lookup(facts(run, call))):
                continue
            key = (rule.name, finding.onset_span_id)
            episode = f"{rule.detector.category}|{rule.name}|{finding.onset_span_id.hex()}"
            if finding.state == "firing":
                if finding.live is not None:
                    watched.live[episode] = finding.live
                rank = _rank(rule, finding)
                if agent.fired.get(key, -1) >= rank:
                    continue
                agent.fired[key] = rank
                if _inhibited(watched, rule, finding):
                    continue
                if finding.early:
                    watched.early.add(episode)
                else:
                    watched.early.discard(episode)
                for quieter in () if finding.early else _overlapping(watched, rule, finding):
                    if quieter != episode:
                        watched.covered.add(quieter)
                        run.wasted[quieter] = 0
            elif episode not in watched.open:
                continue  # it was not told of
            shape = ""
            if not finding.early:
                run.wasted[episode] = 0 if episode in watched.covered else finding.wasted_nano
                shape = run.shapes.setdefault(episode, _shape(rule, finding))
            alert = self._alert(run, watched, rule, finding, call, at_ns, watched.open.get(episode), shape)
            exception = self._exemptions.covers(rule.name, lookup(facts(run, call)), call.step.start_ns)
            if exception is not None:
                self._exemptions.use(exception, rule.name, _told(watched, alert))
                continue
            if finding.state == "firing":
                watched.open[episode] = alert
            else:
                watched.open.pop(episode, None)
            yield _told(watched, alert)

    def _read_anew(self, run: Run, watched: Watched, agent: Agent, call: Call, at_ns: int) -> Iterator[Alert]:
        self._forget_all(agent)
        for observed in list(agent.history):
            for alert in self._observe(run, watched, agent, observed, call, at_ns):
                if alert.state == "firing":
                    yield alert

    def _alert(
        self,
        run: Run,
        watched: Watched,
        rule: Loop,
        finding: Finding,
        call: Call,
        at_ns: int,
        known: Alert | None,
        shape: str,
    ) -> Alert:
        """`known`: the alert that told of this episode before.

        `shape`: what makes two episodes the same again; "" where it is too early to call it one, or waste.
        """
        if known is not None:
            fingerprint, seq = known.fingerprint, known.seq
        else:
            fingerprint = _hash(run.tenant, rule.name, run.id, call.agent_key, finding.shape)
            seq = watched.episodes[fingerprint] = watched.episodes.get(fingerprint, 0) + 1
        severity = finding.severity if finding.early else rule.severity or finding.severity
        name = f"{fingerprint}-{seq}"
        if finding.state != "firing":
            name += f"-{finding.state}"
        elif known is not None:
            name += f"-{severity.value}"
        return Alert(
            id=name,
            tenant=run.tenant,
            run_id=run.id,
            trace_id=call.trace_id,
            rule=rule.name,
            category=rule.detector.category,
            kind=finding.detector,
            state=finding.state,
            seq=seq,
            severity=severity,
            span_ids=finding.span_ids,
            onset_span_id=finding.onset_span_id,
            at_span_id=finding.at_span_id,
            at_ns=at_ns,
            wasted_nano=0 if finding.early else finding.wasted_nano,
            action=rule.action if rule.mode is Mode.ENFORCE and not finding.early else "",
            summary=finding.summary,
            fingerprint=fingerprint,
            evidence=evidence(run, call)
            | self._money(run, call, finding)
            | ({"loop": shape, **self.library.seen(run.tenant, shape)} if shape else {"at_stake_usd": _usd(finding)})
            | {"mode": rule.mode.value},
        )

    def _money(self, run: Run, call: Call, finding: Finding) -> dict[str, object]:
        """A finding's evidence with its money as text, and when the loop's turns will have used up a budget."""
        said: dict[str, object] = {
            f"{key[:-5]}_usd" if key.endswith("_nano") else key: nano_to_text(value)
            if key.endswith("_nano") and isinstance(value, int)
            else value
            for key, value in finding.evidence.items()
        }
        per_turn = finding.evidence.get("per_turn_nano")
        left = self._left(run, call) if self._left is not None and isinstance(per_turn, int) and per_turn else None
        if left is not None and isinstance(per_turn, int):
            budget, nano = left
            said["forecast"] = {
                "budget": budget,
                "left_usd": nano_to_text(nano),
                "turns": -(-nano // per_turn),
            }
        return said


def name_among(call: Call) -> bytes:
    """What a call is known by among the spans of a loop, also where no span tells of it."""
    return call.step.span_id or bytes.fromhex(call.id)[:8]


def _hash(*parts: str) -> str:
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()


def _rank(rule: Loop, finding: Finding) -> int:
    """How loud a finding is: an early one less than any other; where a rule says how loud, all others are equal."""
    return 0 if finding.early else 1 if rule.severity is not None else 1 + loudness(finding.severity)


def _usd(finding: Finding) -> str | None:
    return None if finding.wasted_nano is None else nano_to_text(finding.wasted_nano)


def _fired_too(agent: Agent, fired: Mapping[tuple[str, bytes], int]) -> None:
    for key, rank in fired.items():
        agent.fired[key] = max(rank, agent.fired.get(key, rank))


def _call_of(run: Run, watched: Watched, seen: Observed) -> Call | None:
    return next((run.calls.get(call_id) for call_id, one in watched.fed.items() if one is seen), None)


def _told(watched: Watched, alert: Alert) -> Alert:
    """An alert as the world is told: calls without a span have no span id."""
    if watched.nameless.isdisjoint((*alert.span_ids, alert.onset_span_id, alert.at_span_id)):
        return alert
    return replace(
        alert,
        span_ids=tuple(span_id for span_id in alert.span_ids if span_id not in watched.nameless),
        onset_span_id=b"" if alert.onset_span_id in watched.nameless else alert.onset_span_id,
        at_span_id=b"" if alert.at_span_id in watched.nameless else alert.at_span_id,
    )


def _inhibited(watched: Watched, rule: Loop, finding: Finding) -> bool:
    """Is this loop already told, as loud or louder, by another rule? One episode is one alarm and is paid for once."""
    if rule.detector.category is not Category.LOOP:
        return False
    if finding.early:
        return bool(_overlapping(watched, rule, finding))
    strictness = _strictness(rule.action if rule.mode is Mode.ENFORCE else "")
    loud = loudness(rule.severity or finding.severity)
    return any(
        episode not in watched.early
        and loudness(watched.open[episode].severity) >= loud
        and _strictness(watched.open[episode].action) >= strictness
        for episode in _overlapping(watched, rule, finding)
    )


def _overlapping(watched: Watched, rule: Loop, finding: Finding) -> list[str]:
    """Open episodes of loops that this one shares calls with."""
    if rule.detector.category is not Category.LOOP:
        return []
    spans = set(finding.span_ids)
    return [
        episode
        for episode, alert in watched.open.items()
        if alert.category is Category.LOOP and not spans.isdisjoint(alert.span_ids)
    ]


def _strictness(action: str) -> int:
    """How much an alert's action asks of the agent; its strictest verb stands first, "" is none."""
    first = action.partition(",")[0].strip()
    return Verb.of(first) if first else Verb.ALLOW


def facts(run: Run, call: Call) -> dict[str, object]:
    """What a rule's `match` may ask about a call; dimensions the call itself does not tell come from its run."""
    step = call.step
    return run.who | {
        **call.who,
        "tenant": run.tenant,
        "run": run.id,
        "session": step.session or min(run.sessions, default=None),
        "agent": call.agent,
        "model": step.model,
        "provider": step.provider,
        "tool": step.tool,
        "kind": call.kind.value,
        "status": call.charge.status.value,
        "failed": call.failed,
    }


def evidence(run: Run, call: Call) -> dict[str, object]:
    """What an owner needs to judge: who, on what route, with which tools, at what cost so far. No content."""
    calls = in_order(run.calls.values())
    said = run.who
    tools: dict[str, int] = {}
    for one in calls:
        if one.kind is Kind.TOOL:
            name = one.step.tool or "unknown"
            tools[name] = tools.get(name, 0) + 1
    cost, lost = total(calls), wasted(run)
    return {
        **{dimension: said[dimension] for dimension in ("user", "team", "workflow") if dimension in said},
        "agent": call.agent,
        "model_route": [leg.model for leg in route(c for c in calls if c.kind in MODEL_KINDS)],
        "tools": tools,
        "retries": sum(c.failed for c in calls if c.kind in MODEL_KINDS) + sum(c.attempts - 1 for c in calls),
        **_evals(run),
        "cost_usd": None if cost is None else nano_to_text(cost),
        "wasted_usd": None if lost is None else nano_to_text(lost),
    }


def _forget(watched: Watched, agent: Agent) -> None:
    """Let go of the oldest quarter of an agent's history."""
    gone = {id(observed) for observed in agent.history[: _HISTORY // 4]}
    del agent.history[: _HISTORY // 4]
    watched.fed = {call_id: observed for call_id, observed in watched.fed.items() if id(observed) not in gone}
    watched.hooked = {own: call_id for own, call_id in watched.hooked.items() if call_id in watched.fed}


def _own_ids(call: Call) -> list[str]:
    return [own for step in call.steps for own in step.ids]


def _shape(rule: Loop, finding: Finding) -> str:
    """What makes two episodes the same again, in whatever run; its words stay inside."""
    return _hash(rule.name, finding.detector, finding.shape)


def _evals(run: Run) -> dict[str, object]:
    """What is known of the run's outcome so far."""
    if not run.outcomes:
        return {}
    last = latest(run.outcomes.values())
    return {
        "evals": {one.name: one.value.value for one in last if one.source == "evaluation"},
        "outcome": judge(last).outcome,
    }


def _when(observed: Observed) -> tuple[int, int, bytes]:
    step = observed.step
    return step.end_ns, step.start_ns, step.span_id
