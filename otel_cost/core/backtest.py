"""Backtest: what a set of rules would have done, from what one engine said under it and another under the live rules.

What a rule would have saved is not known: an agent that is stopped may be started
again. What is known is what was spent after the rule had first spoken, by whom it
spoke about: it can save no more than that.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from otel_cost.core.enrich.lines import Line, usd
from otel_cost.core.model.vocabulary import Category
from otel_cost.core.rules.kind import KINDS, Mode, decision_verbs
from otel_cost.core.rules.match import attribute_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from otel_cost.core.model.call import Call
    from otel_cost.core.model.effects import Effects
    from otel_cost.core.model.finding import Alert
    from otel_cost.core.model.run import ClosedRun
    from otel_cost.core.policy import Order
    from otel_cost.core.rules import RuleSet

CUTS: Final = frozenset({"ask", "deny", "stop"})
"""Decisions that may end a run before it has its result."""

_MOST_NAMED: Final = 20
_END_NS: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Fired:
    """An alert, and what it asked for, whatever the rule's mode."""

    alert: Alert
    actions: str  # verbs, strictest first; "": tell only
    shadow: bool
    keys: tuple[str, ...] = ()  # whom besides its run: `user:ann`, `*`
    until_ns: int | None = None


@dataclass(slots=True)
class Witness:
    """What one engine said. Feed it with every effect, in order."""

    rules: RuleSet
    fired: list[Fired] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)
    runs: dict[tuple[str, str], ClosedRun] = field(default_factory=dict)

    def note(self, effects: Effects, order: Callable[[Alert], Order | None]) -> list[Fired]:
        """Take effects over; the alerts among them that began to fire. `order`: what a budget's alert asks for."""
        news = [self._fired(alert, order(alert)) for alert in effects.alerts if alert.state == "firing"]
        self.alerts += effects.alerts
        self.fired += news
        for run in effects.closed:
            self.runs[run.summary.tenant, run.summary.run_id] = run
        return news

    def _fired(self, alert: Alert, order: Order | None) -> Fired:
        if order is not None:
            return Fired(alert, decision_verbs(order.actions), order.shadow, order.keys, order.until_ns)
        mode, actions = _rule_of(self.rules, alert.rule)
        return Fired(alert, alert.action or actions, mode is Mode.SHADOW)


@dataclass(slots=True)
class RuleResult:
    """What one rule would have done. `after`: calls spent after it had first spoken, by call id."""

    rule: str
    kind: str  # key of the rule file; "" for what needs no rule
    mode: str
    removed: bool = False  # only the live rules have it
    fires: int = 0
    live_fires: int = 0
    same: int = 0
    runs: set[tuple[str, str]] = field(default_factory=set)
    actions: dict[str, int] = field(default_factory=dict)
    after: dict[str, Call] = field(default_factory=dict)
    harmed: dict[tuple[str, str], list[Call]] = field(default_factory=dict)  # successful runs, what it would have cut
    unjudged: int = 0  # runs it would have cut of which nobody knows whether they succeeded

    def line(self) -> Line:
        """As `backtest --json` prints it."""
        cut = [call for calls in self.harmed.values() for call in calls]
        return {
            "type": "rule",
            "rule": self.rule,
            "kind": self.kind,
            "mode": self.mode,
            "removed": self.removed,
            "would_fire": self.fires,
            "runs": len(self.runs),
            "actions": self.actions,
            "after_first_fire_usd": usd(_sum(self.after.values())),
            "after_first_fire_calls": len(self.after),
            "after_first_fire_unpriced_calls": sum(call.is_hole for call in self.after.values()),
            "bound": "upper",
            "harmed_traces": _traces(cut),
            "harmed_traces_count": len({call.trace_id for call in cut}),
            "harmed_runs": sorted(run_id for _, run_id in self.harmed)[:_MOST_NAMED],
            "harmed_runs_count": len(self.harmed),
            "harmed_usd": usd(_sum(cut)),
            "cut_runs_unknown": self.unjudged,
            "live_fires": self.live_fires,
            "diff": {"new": self.fires - self.same, "gone": self.live_fires - self.same, "same": self.same},
        }


@dataclass(slots=True)
class Backtest:
    """The whole result. `shown`: every firing of the candidate rules, in order."""

    rules: list[RuleResult]
    shown: list[Fired]
    alerts: list[Alert]
    runs: int
    cost_nano: int | None
    incomplete_runs: int

    def total(self) -> Line:
        """All rules together; a call that several rules would have met counts once."""
        after = {call_id: call for rule in self.rules for call_id, call in rule.after.items()}
        harmed = {key for rule in self.rules for key in rule.harmed}
        return {
            "type": "backtest",
            "runs": self.runs,
            "cost_usd": usd(self.cost_nano),
            "incomplete_runs": self.incomplete_runs,
            "would_fire": sum(rule.fires for rule in self.rules),
            "live_fires": sum(rule.live_fires for rule in self.rules),
            "after_first_fire_usd": usd(_sum(after.values())),
            "bound": "upper",
            "harmed_runs_count": len(harmed),
        }


def compare(candidate: Witness, live: Witness) -> Backtest:
    """What the candidate rules would have done, and what they would have done otherwise than the live ones."""
    results = {name: RuleResult(name, kind, mode) for name, kind, mode in _named(candidate.rules)}
    runs = _Runs(candidate.runs.values())
    for fired in candidate.fired:
        name = fired.alert.rule
        result = results.setdefault(name, RuleResult(name, "", Mode.ENFORCE.value))
        result.fires += 1
        for verb in filter(None, fired.actions.split(",")):
            result.actions[verb] = result.actions.get(verb, 0) + 1
        run = runs.of(fired.alert)
        if run is not None:
            result.runs.add((run.summary.tenant, run.summary.run_id))
    for result in results.values():
        _follow(result, [fired for fired in candidate.fired if fired.alert.rule == result.rule], runs)
    ours = _marks(candidate)
    for name, kind, mode in _named(live.rules):
        results.setdefault(name, RuleResult(name, kind, mode, removed=True))
    for fired in live.fired:
        name = fired.alert.rule
        result = results.setdefault(name, RuleResult(name, "", Mode.ENFORCE.value))
        result.live_fires += 1
        mark = _mark(fired.alert)
        if ours.get(mark):
            ours[mark] -= 1
            result.same += 1
    told = [rule for rule in results.values() if rule.fires or rule.live_fires or not rule.removed]
    costs = [run.summary.nano for run in candidate.runs.values() if run.summary.nano is not None]
    return Backtest(
        rules=sorted(told, key=lambda one: (-(_sum(one.after.values()) or 0), -one.fires, one.rule)),
        shown=candidate.fired,
        alerts=candidate.alerts,
        runs=len(candidate.runs),
        cost_nano=sum(costs) if costs else None,
        incomplete_runs=sum(not run.summary.complete for run in candidate.runs.values()),
    )


def not_recorded(rules: RuleSet, live: RuleSet, said: Collection[str]) -> list[str]:
    """Rules that ask for what the ledger does not keep, each with what that is.

    Args:
        rules: those to be tested.
        live: those in force: attributes that they name are kept.
        said: names that recorded calls are known by.
    """
    missing = [
        f"{rule.name}: detector `{rule.detector.name}` reads arguments, results or messages of calls"
        for rule in rules.loops
        if not rule.detector.recorded
    ]
    missing += [
        f"{rule.name}: escalation asks in what way a call failed"
        for rule in rules.rules.get("escalation", ())
        if rule.mode is not Mode.OFF
    ]
    kept = live.attributes | set(said)
    users: dict[str, list[str]] = {}
    for name in sorted(rules.attributes):
        if name not in kept and (attribute_of(name) or name) not in kept:
            users[name] = [rule for rule, asked in _asking(rules) if name in asked]
    missing += [f"{', '.join(who) or 'a rule'}: attribute `{name}` was not kept" for name, who in users.items()]
    if rules.identity.sources and rules.identity != live.identity:
        missing.append("identity: it reads attributes that were not kept; who spent is kept as the live rules had it")
    return missing


def _asking(rules: RuleSet) -> Iterator[tuple[str, frozenset[str]]]:
    """Every rule with the names that it asks for."""
    for loop in rules.loops:
        yield loop.name, loop.match.names
    for budget in rules.budgets:
        yield budget.name, budget.budget.match.names | set(budget.budget.per)
    for exception in rules.exceptions:
        yield exception.name, exception.relief.match.names
    for drift in rules.regressions:
        yield drift.name, drift.match.names | set(drift.per)


def decision_lines(fired: Fired, sessions: Iterable[str] = ()) -> Iterator[Line]:
    """What would have stood for a run from this alert on, a line per verb."""
    alert = fired.alert
    for verb in filter(None, fired.actions.split(",")):
        yield {
            "type": "decision",
            "decision": verb,
            "rule": alert.rule,
            "run_id": alert.run_id,
            "tenant": alert.tenant,
            "alert_id": alert.id,
            "at_unix_nano": str(alert.at_ns),
            "whom": list(fired.keys),
            "sessions": sorted(sessions),
            "shadow": fired.shadow,
        }


def _follow(result: RuleResult, firings: list[Fired], runs: _Runs) -> None:
    """What was spent after a rule's first word, and which successful runs it would have cut."""
    judged: set[tuple[str, str]] = set()
    for fired in firings:
        since_ns = runs.fired_ns(fired.alert)
        cuts = bool(CUTS & set(fired.actions.split(",")))
        for run in runs.concerned(fired):
            key = (run.summary.tenant, run.summary.run_id)
            rest = [call for call in run.calls if since_ns <= call.step.start_ns < (fired.until_ns or _END_NS)]
            for call in rest:
                result.after.setdefault(call.id, call)
            if not cuts or not rest or key in judged:
                continue
            judged.add(key)
            if run.summary.verdict == "worth_it":
                result.harmed[key] = rest
            elif run.summary.verdict != "waste":
                result.unjudged += 1


class _Runs:
    """Closed runs by what alerts name them by."""

    def __init__(self, runs: Iterable[ClosedRun]) -> None:
        self._all = list(runs)
        self._by_id = {(run.summary.tenant, run.summary.run_id): run for run in self._all}
        self._by_trace = {
            (run.summary.tenant, trace_id): run for run in self._all for trace_id in run.summary.trace_ids
        }

    def of(self, alert: Alert) -> ClosedRun | None:
        """The run that an alert is about, also where it has got another name since."""
        return self._by_trace.get((alert.tenant, alert.trace_id)) or self._by_id.get((alert.tenant, alert.run_id))

    def concerned(self, fired: Fired) -> Iterator[ClosedRun]:
        """Whom it speaks about: its run, or everybody of its group."""
        if not fired.keys:
            run = self.of(fired.alert)
            if run is not None:
                yield run
            return
        for run in self._all:
            who = {f"{name}:{value}" for name, value in run.summary.who.items()}
            if run.summary.tenant == fired.alert.tenant and ("*" in fired.keys or not who.isdisjoint(fired.keys)):
                yield run

    def fired_ns(self, alert: Alert) -> int:
        """When the thing happened that made it fire; where no span says it, when it was told."""
        run = self.of(alert) if alert.at_span_id else None
        ends = (
            [step.end_ns for call in run.calls for step in call.steps if step.span_id == alert.at_span_id]
            if run
            else []
        )
        return max(ends, default=alert.at_ns)


def _named(rules: RuleSet) -> Iterator[tuple[str, str, str]]:
    """(name, kind, mode) of every rule that can speak."""
    for kind, found in rules.rules.items():
        if not KINDS[kind].single:
            for rule in found:
                mode = getattr(rule, "mode", None)
                if isinstance(mode, Mode):
                    yield rule.name, kind, mode.value


def _rule_of(rules: RuleSet, name: str) -> tuple[Mode | None, str]:
    """Mode and decisions of a rule."""
    for found in rules.rules.values():
        for rule in found:
            if getattr(rule, "name", None) == name and isinstance(getattr(rule, "mode", None), Mode):
                actions: Any = getattr(rule, "actions", ())
                return rule.mode, decision_verbs(actions)
    return None, ""


def _marks(witness: Witness) -> dict[tuple[object, ...], int]:
    marks: dict[tuple[object, ...], int] = {}
    for fired in witness.fired:
        mark = _mark(fired.alert)
        marks[mark] = marks.get(mark, 0) + 1
    return marks


def _mark(alert: Alert) -> tuple[object, ...]:
    """What makes two alerts of two rule sets the same one."""
    place = alert.onset_span_id if alert.category in {Category.LOOP, Category.WASTE} else alert.at_span_id
    return alert.tenant, alert.rule, alert.kind, alert.run_id, alert.action, place


def _sum(calls: Iterable[Call]) -> int | None:
    known = [call.nano for call in calls if call.nano is not None]
    return sum(known) if known else None


def _traces(calls: Iterable[Call]) -> list[str]:
    return sorted({call.trace_id.hex() for call in calls if call.trace_id})[:_MOST_NAMED]
