"""Escalation: a strong model is for what cheaper ones have failed at, in a way that has a name.

What is remembered of a run: which models it used, in order, and each failure with
its names. A failure belongs to the model that its agent used last before it. Hooks
are answered from it at once; a strong call that telemetry tells of becomes an alert.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right, insort
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, NamedTuple

import ormsgpack

from otel_cost.core.decide import ALLOWED, CALLS, SWITCH, Decision, Verb, carried
from otel_cost.core.decide.words import decisions_of
from otel_cost.core.failures import ways_of
from otel_cost.core.model.finding import Alert
from otel_cost.core.model.outcome import Result
from otel_cost.core.model.vocabulary import MODEL_KINDS, Category, Severity
from otel_cost.core.normalise._hook import hook_step
from otel_cost.core.rules.kind import Mode
from otel_cost.core.rules.match import lookup
from otel_cost.core.watch import evidence, facts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from otel_cost.core.assemble.run import Change, Run
    from otel_cost.core.exemptions import Exemptions
    from otel_cost.core.model.call import Call
    from otel_cost.core.model.event import HookEvent
    from otel_cost.core.model.outcome import Outcome
    from otel_cost.core.rules.kinds.escalation import EscalationRule

_MOST_STATES: Final = 20_000
_MOST_KEPT: Final = 1_000  # models used, failures, of one run
_MODEL_EVENTS: Final = frozenset({"session_start", "prompt", "agent_start", "before_model"})
_GATES: Final = _MODEL_EVENTS | CALLS | {SWITCH}
_END_NS: Final = 2**63 - 1
_VERSION: Final = 1


class Used(NamedTuple):
    """A model at work."""

    at_ns: int
    agent: str
    model: str


class Failure(NamedTuple):
    """A failure. `model`: of whom, where that is told with it; else of the model that was at work."""

    at_ns: int
    agent: str
    names: frozenset[str]
    model: str | None = None


@dataclass(slots=True, eq=False)
class _State:
    """What is remembered of one run."""

    keys: set[tuple[str, str]] = field(default_factory=set)
    used: list[Used] = field(default_factory=list)  # in order of time
    failures: dict[str, Failure] = field(default_factory=dict)
    errors: set[bytes] = field(default_factory=set)
    said: set[tuple[str, str]] = field(default_factory=set)  # rule and verb: warned, asked
    asked: dict[str, str] = field(default_factory=dict)  # by agent: the model that it last asked for
    asked_as: dict[str, str] = field(default_factory=dict)  # a model that answered → the name that was asked for
    granted: bool = False  # something ran after it was asked for
    asks_models: bool = False  # its harness asks before model calls
    told: dict[str, Alert] = field(default_factory=dict)  # by rule: its firing alert
    refused: dict[str, Alert] = field(default_factory=dict)  # by rule: that a hook asked, and was told otherwise


class Escalation:
    """The escalation rules of one rule set over all runs. Not thread-safe: it belongs to the engine."""

    def __init__(self, rules: Sequence[EscalationRule], exemptions: Exemptions) -> None:
        self._rules = list(rules)
        self._exemptions = exemptions
        self._states: OrderedDict[tuple[str, str], _State] = OrderedDict()
        self.active = bool(self._rules)
        self.news: list[Alert] = []  # of what hooks were told; whoever takes them empties it

    def use(self, rules: Sequence[EscalationRule], exemptions: Exemptions, now_ns: int) -> Iterator[Alert]:
        """Go by other rules from now on; what is known of runs stays known, alerts of rules that are gone end."""
        self._rules, self._exemptions, self.active = list(rules), exemptions, bool(rules)
        names = {rule.name for rule in rules}
        for state in dict.fromkeys(self._states.values()):
            for name in [name for name in state.told if name not in names]:
                alert = state.told.pop(name)
                yield replace(alert, id=f"{alert.id}-resolved", state="resolved", at_ns=now_ns)

    # --- what happens -------------------------------------------------------------------------------------------------

    def take(self, run: Run, change: Change, now_ns: int) -> Iterator[Alert]:
        """A call appeared, changed or went; its content is still there when it is seen first."""
        if not self._rules:
            return
        old, new = change.old, change.new
        state = self._state(run.tenant, _keys_of(run))
        known = state.failures.pop(old.id, None) if old is not None else None
        if new is None:
            return
        step = new.step
        names = ways_of(new, state.errors)
        if known is not None and (names or new.failed):
            names |= known.names  # the content of its first record is gone
        if names and len(state.failures) < _MOST_KEPT:
            model = step.model if step.kind in MODEL_KINDS else None
            state.failures[new.id] = Failure(step.end_ns, new.agent_key, names, model)
        if step.kind not in MODEL_KINDS or step.model is None:
            return
        if old is None or old.step.model != step.model:
            self._use(state, Used(step.start_ns, new.agent_key, step.model))
        if not new.failed:
            yield from self._strong(run, new, state, now_ns)

    def heard(self, event: HookEvent) -> None:
        """What a hook tells besides its step: a failure by name, a model that answered."""
        if not self._rules:
            return
        state = self._state(event.tenant, _keys_of_event(event, ()))
        label = _label(event)
        if event.event.startswith("after"):
            state.granted = True
            if event.model is not None and event.event == "after_model":
                self._use(state, Used(event.received_ns - event.duration_ns, label, event.model))
                asked = state.asked.get(label, event.model)
                if asked != event.model and len(state.asked_as) < _MOST_KEPT:  # a proxy has names of its own
                    state.asked_as[event.model] = asked
        if event.former_model is not None and not state.used:
            self._use(state, Used(0, label, event.former_model))  # at work all the time, and nothing had told of it
        if event.model is not None and event.event == "model_switched":
            self._use(state, Used(event.received_ns, label, event.model))
        if event.failures and hook_step(event) is None:  # else told with its step
            failure = Failure(event.received_ns, label, event.failures, event.model)
            self._fail(state, f"hook {event.received_ns} {len(state.failures)}", failure)

    def learn(self, outcome: Outcome, keys: Iterable[str]) -> None:
        """An evaluation or other news of the work. `keys`: `session:ID`, `trace:HEX` of its run."""
        wanted = [one for one in keys if one.startswith(("session:", "trace:"))]
        if not self._rules or not wanted:
            return
        state = self._state(outcome.tenant, wanted)
        if outcome.value is not Result.FAILURE:
            state.failures.pop(f"outcome {outcome.id}", None)
            return
        kind = "evaluation_failed" if outcome.source == "evaluation" else "outcome_failed"
        self._fail(state, f"outcome {outcome.id}", Failure(outcome.at_ns, "", frozenset({outcome.name, kind})))

    def looped(self, run: Run, alert: Alert) -> None:
        """A loop is a failure, too, called by its kind."""
        if self._rules and alert.state == "firing":
            names = frozenset({alert.kind, "loop"})
            self._fail(self._state(run.tenant, _keys_of(run)), alert.id, Failure(alert.at_ns, "", names))

    def forget(self, run: Run, now_ns: int) -> Iterator[Alert]:
        """The run is over, and its alerts with it; what is known of it stays for a while, should it go on."""
        if not self._rules:
            return
        state = self._states.get((run.tenant, _keys_of(run)[0]))
        if state is None:
            return
        for alert in (*state.told.values(), *state.refused.values()):
            yield replace(alert, id=f"{alert.id}-resolved", state="resolved", at_ns=now_ns)
        state.told, state.refused = {}, {}

    # --- over a restart -----------------------------------------------------------------------------------------------

    def keep(self) -> bytes:
        """What is known of runs, for `restore` in another process. Hashes and names only."""
        states = [
            [
                sorted(state.keys),
                [list(one) for one in state.used],
                [[key, one.at_ns, one.agent, sorted(one.names), one.model] for key, one in state.failures.items()],
                sorted(state.errors),
                state.asks_models,
            ]
            for state in dict.fromkeys(self._states.values())
            if state.used or state.failures
        ]
        return ormsgpack.packb([_VERSION, states])

    def restore(self, kept: bytes) -> None:
        """Know again what was kept; nothing of another version of it."""
        try:
            version, states = ormsgpack.unpackb(kept)
            for keys, used, failures, errors, asks_models in states if version == _VERSION and self._rules else ():
                state = self._state(keys[0][0], [key for _, key in keys])
                state.used = sorted(Used(*one) for one in used)
                state.failures = {
                    key: Failure(at, who, frozenset(names), model) for key, at, who, names, model in failures
                }
                state.errors, state.asks_models = set(errors), asks_models
        except (ValueError, TypeError, IndexError):
            return

    # --- the answer ---------------------------------------------------------------------------------------------------

    def words(
        self, event: HookEvent, ancestors: Sequence[str], run: Run | None, get: Callable[[str], object]
    ) -> tuple[list[Decision], list[Decision]]:
        """(what enforced rules say at this event, what rules in shadow mode would say)."""
        if not self._rules or event.event not in _GATES:
            return [], []
        state = self._state(event.tenant, _keys_of_event(event, ancestors, run))
        label = _label(event)
        state.asks_models |= event.event == "before_model"
        spoken: list[Decision] = []
        shadow: list[Decision] = []
        if event.event in CALLS and state.asks_models and event.model is None:
            return spoken, shadow  # it asks before each model call, and that is where it is told
        model = event.model or _at_work(state.used, label, _END_NS)
        if model is None:
            return spoken, shadow
        for rule in self._rules:
            if not rule.is_strong(model) or not rule.match(lambda name: model if name == "model" else get(name)):
                continue
            told, seen = self._ground(rule, state, _END_NS)
            if seen >= rule.count:
                continue
            whose = run.id if run is not None else event.session or event.trace_id.hex()
            alert = self._alert(rule, event.tenant, whose, model, told, seen)
            alert = replace(alert, at_ns=event.received_ns, evidence=self._seen_so_far(alert, run))
            exception = self._exemptions.covers(rule.name, get, event.received_ns)
            if exception is not None:
                self._exemptions.use(exception, rule.name, alert)
                continue
            words = [self._word(state, rule, decision, event) for decision, _ in decisions_of(alert, rule.actions)]
            words = [word for word in words if word.verb is not Verb.ALLOW]
            (shadow if rule.mode is Mode.SHADOW else spoken).extend(words)
            if words and whose and rule.name not in state.refused:
                asked = hashlib.blake2b(f"{alert.fingerprint} asked".encode(), digest_size=8).hexdigest()
                state.refused[rule.name] = refused = replace(
                    alert,
                    id=f"{asked}-1",
                    fingerprint=asked,
                    kind="escalation_asked",
                    severity=Severity.NOTICE,
                    summary=f"asked for {alert.summary}",
                )
                self.news.append(refused)
        return spoken, shadow

    def decided(self, event: HookEvent, ancestors: Sequence[str], decision: Decision) -> None:
        """What the harness was told: which model is at work from now on."""
        if not self._rules or event.event not in _MODEL_EVENTS:
            return
        state = self._state(event.tenant, _keys_of_event(event, ancestors))
        model = decision.model if decision.verb is Verb.DOWNGRADE else event.model
        if model is not None and decision.verb < Verb.DENY:
            self._use(state, Used(event.received_ns, _label(event), model))
            if event.event == "before_model" and len(state.asked) < _MOST_KEPT:
                state.asked[_label(event)] = model

    def _word(self, state: _State, rule: EscalationRule, decision: Decision, event: HookEvent) -> Decision:
        """A decision as far as its harness obeys it here; of warnings and questions what has not been said."""
        decision = carried(decision, event)
        key = (rule.name, str(decision.verb))
        if decision.verb is Verb.WARN and key in state.said:
            return ALLOWED
        if decision.verb is Verb.ASK:
            if (key in state.said and state.granted) or not event.event.startswith(("before", SWITCH)):
                return ALLOWED
            state.granted = False
        if decision.verb in {Verb.WARN, Verb.ASK}:
            state.said.add(key)
        return decision

    # --- inside -------------------------------------------------------------------------------------------------------

    def _strong(self, run: Run, call: Call, state: _State, now_ns: int) -> Iterator[Alert]:
        """A call of a strong model that telemetry tells of: was there ground for it when it began?"""
        for rule in self._rules:
            model = call.step.model or ""
            if rule.name in state.told or not rule.is_strong(model):
                continue
            get = lookup(facts(run, call))
            if not rule.match(get):
                continue
            told, seen = self._ground(rule, state, call.step.start_ns)
            if seen >= rule.count:
                continue
            alert = self._alert(rule, run.tenant, run.id, model, told, seen)
            span_id = call.step.span_id
            alert = replace(
                alert,
                trace_id=call.trace_id,
                span_ids=(span_id,) if span_id else (),
                onset_span_id=span_id,
                at_span_id=span_id,
                at_ns=now_ns,
                evidence=evidence(run, call) | alert.evidence,
            )
            exception = self._exemptions.covers(rule.name, get, call.step.start_ns)
            if exception is not None:
                self._exemptions.use(exception, rule.name, alert)
                continue
            state.told[rule.name] = alert
            yield alert

    def _alert(
        self, rule: EscalationRule, tenant: str, run_id: str, model: str, told: dict[str, int], seen: int
    ) -> Alert:
        fingerprint = hashlib.blake2b(f"{tenant}\0{rule.name}\0{run_id}".encode(), digest_size=8).hexdigest()
        ways = ", ".join(sorted(rule.failed)) or "any failure"
        prior = " or ".join(rule.prior)
        failures = "failure" if rule.count == 1 else "failures"
        return Alert(
            id=f"{fingerprint}-1",
            tenant=tenant,
            run_id=run_id,
            trace_id=b"",
            rule=rule.name,
            category=Category.POLICY,
            kind="escalation",
            state="firing",
            seq=1,
            severity=rule.severity,
            span_ids=(),
            onset_span_id=b"",
            at_span_id=b"",
            at_ns=0,
            wasted_nano=0,
            action=rule.action if rule.mode is Mode.ENFORCE else "",
            summary=f"{model} after {seen} of {rule.count} {failures} of {prior} ({ways})",
            fingerprint=fingerprint,
            evidence={
                "model": model,
                "prior_models": list(rule.prior),
                "failed_ways": sorted(rule.failed),
                "needed": rule.count,
                "seen": seen,
                "missing": rule.count - seen,
                "failures": told,
                "mode": rule.mode.value,
                "would_change": f"{rule.count - seen} more: {prior} has to fail by {ways}, or an exception",
            },
        )

    def _seen_so_far(self, alert: Alert, run: Run | None) -> dict[str, object]:
        last = max(run.calls.values(), key=lambda call: call.step.start_ns, default=None) if run is not None else None
        return alert.evidence if run is None or last is None else evidence(run, last) | alert.evidence

    def _ground(self, rule: EscalationRule, state: _State, until_ns: int) -> tuple[dict[str, int], int]:
        """The failures that count for a rule up to a moment: by name, and how many."""
        told: dict[str, int] = {}
        seen = 0
        for failure in state.failures.values():
            if failure.at_ns > until_ns:
                continue
            names = failure.names & rule.failed if rule.failed else failure.names
            model = failure.model or _at_work(state.used, failure.agent, failure.at_ns)
            if not names or not (rule.is_prior(model) or rule.is_prior(state.asked_as.get(model or ""))):
                continue
            seen += 1
            for name in sorted(names):
                told[name] = told.get(name, 0) + 1
        return told, seen

    def _fail(self, state: _State, key: str, failure: Failure) -> None:
        if key in state.failures or len(state.failures) < _MOST_KEPT:
            state.failures[key] = failure

    def _use(self, state: _State, used: Used) -> None:
        if len(state.used) >= _MOST_KEPT:
            del state.used[: _MOST_KEPT // 4]
        insort(state.used, used)

    def _state(self, tenant: str, keys: Sequence[str]) -> _State:
        """The state under any of these keys; several that turn out to be of one run become one."""
        names = [(tenant, key) for key in keys]
        found = list(dict.fromkeys(state for name in names if (state := self._states.get(name)) is not None))
        state = found[0] if found else _State()
        for other in found[1:]:
            state.used = sorted([*state.used, *other.used])
            state.failures |= other.failures
            state.errors |= other.errors
            state.asked |= other.asked
            state.asked_as |= other.asked_as
            state.said |= other.said
            state.told = other.told | state.told
            state.refused = other.refused | state.refused
            names += other.keys
        for name in names:
            self._states[name] = state
            self._states.move_to_end(name)
        state.keys.update(names)
        while len(self._states) > _MOST_STATES:
            self._states.popitem(last=False)
        return state


def _at_work(used: Sequence[Used], agent: str, at_ns: int) -> str | None:
    """The model that an agent used last before a moment; of an agent that has used none, its run's."""
    end = bisect_right(used, Used(at_ns, "\U0010ffff", ""))
    anybody: str | None = None
    for one in reversed(used[:end]):
        if one.agent == agent:
            return one.model
        anybody = anybody or one.model
    return anybody


def _keys_of(run: Run) -> list[str]:
    if run.sessions:
        return [f"session:{session}" for session in sorted(run.sessions)]
    return [f"trace:{trace_id.hex()}" for trace_id in sorted(run.traces) if trace_id] or [f"run:{run.id}"]


def _keys_of_event(event: HookEvent, ancestors: Sequence[str], run: Run | None = None) -> list[str]:
    keys = [f"session:{session}" for session in (event.session, *ancestors) if session]
    if event.trace_id and not keys:
        keys.append(f"trace:{event.trace_id.hex()}")
    return keys + (_keys_of(run) if run is not None else [])


def _label(event: HookEvent) -> str:
    return f"hook:{event.agent_id or event.agent or ''}"
