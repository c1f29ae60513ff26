"""Policy: every call is counted in the budgets of the loaded rules; levels that are crossed become alerts.

A call counts at its own start, for those it and its run are known to be for; when
more becomes known, it moves. Nothing here asks what time it is.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil
from typing import TYPE_CHECKING, Any, Final

from otel_cost.core.assemble.summary import total
from otel_cost.core.budget import CALL_NS, KEEP_NS, Budgets, BurnLevel, Crossing, ShareLevel, Spend
from otel_cost.core.budget.window import DAY_NS, Calendar, Rolling
from otel_cost.core.enrich.lines import rfc3339
from otel_cost.core.model.finding import Alert
from otel_cost.core.model.money import exact_text, nano_to_text
from otel_cost.core.model.vocabulary import MODEL_KINDS, Category, Reason, Severity
from otel_cost.core.price.instants import parse_instant
from otel_cost.core.rules.kind import Action, Mode, Stop, Warn, decision_verbs
from otel_cost.core.rules.match import attribute_of
from otel_cost.core.watch import evidence
from otel_cost.quantities import duration_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from otel_cost.core.assemble.run import Change, Run
    from otel_cost.core.budget import Budget, Standing, Use
    from otel_cost.core.model.attributes import Attributes
    from otel_cost.core.model.call import Call
    from otel_cost.core.rules import RuleSet
    from otel_cost.core.rules.kind import Actions
    from otel_cost.core.rules.kinds.budgets import BudgetRule

# What `watch.facts` says of a call itself, one by one: asked for every call.
_FACTS: Final[dict[str, Callable[[Run, Call], object]]] = {
    "session": lambda run, call: call.step.session or min(run.sessions, default=None),
    "agent": lambda _, call: call.agent,
    "model": lambda _, call: call.step.model,
    "provider": lambda _, call: call.step.provider,
    "tool": lambda _, call: call.step.tool,
    "kind": lambda _, call: call.kind.value,
    "status": lambda _, call: call.charge.status.value,
    "failed": lambda _, call: call.failed,
}
# What 64 bits do not hold is a sender's mistake, and must not stop the engine.
_MOST: Final = 2**62
_NOT_KNOWN: Final = frozenset({Reason.UNKNOWN_MODEL, Reason.UNKNOWN_PROVIDER})
_MOST_NOTICES: Final = 10_000
_SLICE: Final = 500  # counters that are looked at at a time: a millisecond


@dataclass(frozen=True, slots=True)
class Order:
    """What an alert asks of those who answer harnesses. `keys`: whom besides the alert's run (`user:ann`, `*`)."""

    actions: Actions
    sessions: tuple[str, ...]  # of the alert's run
    shadow: bool
    closed: bool
    keys: tuple[str, ...]
    until_ns: int | None  # the end of the window, where that is known


Elsewhere = tuple[str, str, Spend | None]
"""A call that another service counts: tenant, call id, what it costs; None: nothing, or there is no such call."""


class Policy:
    """The budgets and exceptions of one rule set over all runs. Not thread-safe: it belongs to the engine."""

    def __init__(self, rules: RuleSet) -> None:
        self._rules = {(rule.name, rule.budget.variant): rule for rule in rules.budgets}
        self._exceptions = {one.name: one for one in rules.exceptions}
        self._budgets = Budgets([rule.budget for rule in self._rules.values()])
        self._asked = tuple((name, attribute_of(name) or name, _FACTS.get(name)) for name in self._budgets.asked)
        self._attributes = tuple((name, attribute_of(name) or name) for name in sorted(rules.attributes))
        self._unknown_price = rules.defaults.unknown_price
        self._noticed: set[tuple[str, str | None, str | None]] = set()
        self._runs: dict[tuple[str, str], Run] = {}  # open ones that have spent something
        self._names: dict[Run, str] = {}
        self._open: dict[str, tuple[Alert, Order]] = {}  # by fingerprint
        self._told: dict[str, tuple[int, int]] = {}  # fingerprint → episodes so far, when the last one was told
        self._over: dict[str, int] = {}  # fingerprint → when the last episode ended, where others told of it alone
        self._muted: set[str] = set()  # episodes that are found here after their end was told
        self._swept_ns = 0
        self._found: dict[str, Crossing] = {}  # what a recount says stands
        self._crossed_by: dict[str, tuple[Run | None, Call | None]] = {}  # by which calls that were read again
        self._kept: set[tuple[str, str]] = set()  # calls of which more was known before a restart than is known yet
        self._reads = False  # what happened before a restart is being read again
        self._restored_ns = 0  # when it was; whatever was told before was told by then
        self._before: dict[str, Alert] = {}  # last words of before a restart, until they are compared with what stands
        self._hash = rules.hash

    def said(self, attributes: Attributes, resource: Attributes) -> dict[str, str]:
        """What a record says on the attributes that rules name."""
        found: dict[str, str] = {}
        for name, key in self._attributes:
            of_resource = name.startswith("resource.")
            plain = name.removeprefix("resource.").removeprefix("attr:")
            value = None if of_resource else attributes.get(plain)
            value = resource.get(plain) if value is None else value
            if isinstance(value, bool):
                found[key] = str(value).lower()
            elif isinstance(value, str | int | float) and value != "":
                found[key] = str(value)
        return found

    # --- what happens -------------------------------------------------------------------------------------------------

    def put(self, run: Run, change: Change, now_ns: int) -> Sequence[Alert]:
        """A call appeared, changed or went."""
        if not self._rules:
            return ()
        old, new = change.old, change.new
        if old is not None and old.step.start_ns < now_ns - CALL_NS and run.told.get(old.id) is not None:
            spend = self._spend(run, old)
            if spend is not None:
                self._budgets.recall(run.tenant, old.id, spend)  # counted then, forgotten since
        if new is not None:
            return self._count(run, new, now_ns)
        if old is None:
            return ()
        self._kept.discard((run.tenant, old.id))
        crossings = self._budgets.put(run.tenant, old.id, None)
        return [alert for crossing in crossings for alert in self._alert(crossing, now_ns, run, old)]

    def put_together(self, run: Run, changes: Iterable[Change], now_ns: int) -> Iterator[Alert]:
        """What one event has changed: a call that gets another id is there once, and at no time not."""
        words: dict[str, Change] = {}
        for change in changes:
            call = change.old if change.new is None else change.new
            if call is not None:
                known = words.pop(call.id, change)
                words[call.id] = replace(change, old=known.old)
        self._budgets.hold()
        for change in sorted(words.values(), key=lambda word: word.new is not None):
            yield from self.put(run, change, now_ns)
        for crossing in self._budgets.release():
            yield from self._alert(crossing, now_ns)

    def relabel(self, run: Run, now_ns: int) -> Iterator[Alert]:
        """A run's name, or who it is for, has become known: its calls count there."""
        if self._rules:
            for call in list(run.calls.values()):
                if self._budgets.knows(run.tenant, call.id):
                    yield from self._count(run, call, now_ns)

    def forget(self, run: Run) -> None:
        """The run is over, or part of another; what it spent stays counted."""
        self._runs.pop((run.tenant, self._names.pop(run, "")), None)

    def advance(self, now_ns: int) -> Iterator[Alert]:
        """Let time pass: windows end, and with them what stands because of them."""
        for crossing in self._budgets.advance(now_ns):
            yield from self._alert(crossing, now_ns)
        if now_ns >= self._swept_ns + DAY_NS:
            self._swept_ns = now_ns
            self._told = {
                name: told for name, told in self._told.items() if told[1] > now_ns - KEEP_NS or name in self._open
            }
            self._over = {name: over_ns for name, over_ns in self._over.items() if name in self._told}

    def notice(self, run: Run, call: Call, now_ns: int) -> Iterable[Alert]:
        """A model or provider without a price is said once for each tenant."""
        if self._unknown_price == "off" or call.charge.reason not in _NOT_KNOWN:
            return ()
        step = call.step
        key = (run.tenant, step.provider, step.model)
        if key in self._noticed:
            return ()
        if len(self._noticed) >= _MOST_NOTICES:
            self._noticed.clear()
        self._noticed.add(key)
        fingerprint = _fingerprint(run.tenant, "unknown_price", step.provider or "", step.model or "")
        spans = (step.span_id,) if step.span_id else ()
        alert = Alert(
            id=f"{fingerprint}-1",
            tenant=run.tenant,
            run_id=run.id,
            trace_id=call.trace_id,
            rule="unknown_price",
            category=Category.PRICE,
            kind="unknown_price",
            state="firing",
            seq=1,
            severity=Severity(self._unknown_price),
            span_ids=spans,
            onset_span_id=step.span_id,
            at_span_id=step.span_id,
            at_ns=now_ns,
            wasted_nano=0,
            action="",
            summary=f"no price is known for model {step.model} of provider {step.provider or 'unknown'}",
            fingerprint=fingerprint,
            evidence={"provider": step.provider, "model": step.model, "reason": call.charge.reason.value},
        )
        return (alert,)

    # --- what others tell ---------------------------------------------------------------------------------------------

    def hear(self, spends: Iterable[Elsewhere], now_ns: int) -> Iterator[Alert]:
        """Calls that other services count in the same budgets, each as it is now: told again it counts once."""
        self._budgets.hold()
        for crossing in self._put_elsewhere(spends):
            yield from self._alert(crossing, now_ns)
        for crossing in self._budgets.release():
            yield from self._alert(crossing, now_ns)

    def hear_told(self, told: Iterable[Alert]) -> Iterator[Alert]:
        """Others have told of budgets: what goes on is the same episode here, the next one comes after theirs.

        Returns:
            Ends of what was expected here to go on.
        """
        for alert in told:
            if not _is_budget(alert):
                continue
            name = alert.fingerprint
            over = alert.seq - (alert.state == "firing")
            seq, at_ns = self._told.get(name, (0, 0))
            self._told[name] = (max(seq, over), max(at_ns, alert.at_ns))
            if over > seq:
                self._over[name] = alert.at_ns
            known = self._before.get(name)
            if known is not None and known.state == "firing" and over >= known.seq and not self._reads:
                yield self._end(known, alert.at_ns)

    def _put_elsewhere(self, spends: Iterable[Elsewhere]) -> Iterator[Crossing]:
        for tenant, call_id, spend in spends:
            mine = None if spend is None else self._runs.get((tenant, spend.run))
            if mine is None or call_id not in mine.calls:  # else it is known better here
                yield from self._budgets.put(tenant, call_id, None if spend is None else self._complete(spend))

    # --- what is asked ------------------------------------------------------------------------------------------------

    def order(self, alert: Alert) -> Order | None:
        """What a firing alert of a budget asks for; None: nothing."""
        found = self._open.get(alert.fingerprint)
        return found[1] if found is not None and found[0].id == alert.id and found[1].actions else None

    def open_alerts(self) -> list[Alert]:
        """Alerts of budgets that stand, as told."""
        return [alert for alert, _ in self._open.values()]

    def standings(self, now_ns: int, tenant: str | None = None, limit: int = 1000) -> list[dict[str, object]]:
        """Where each group of each budget stands in the window that is running, the fullest first.

        Money as decimal strings; in `group` None is the unattributed; `used_share` of the limit; `exhausted_at`:
        when the window runs out of money if it is spent as it is now.
        """
        return [row for row in self.standing_by_standing(now_ns, tenant, limit) if row is not None]

    def standing_by_standing(
        self, now_ns: int, tenant: str | None = None, limit: int = 1000
    ) -> Iterator[dict[str, object] | None]:
        """`standings` one by one, and None now and then before: between two of them hook calls may come in."""
        found = []
        for number, (share, one) in enumerate(self._budgets.shares(now_ns)):
            if tenant in {None, one.group[0]} and (share or one.relieved or one.firing):
                found.append((-float(share), one.budget.name, one.group, number, share, one))
            if number % _SLICE == 0:
                yield None
        found.sort()
        told = 0
        for *_, share, one in found:
            if told == limit:
                return
            standing = self._budgets.standing(one, now_ns)
            if standing.spent_nano or standing.uses or standing.firing:
                told += 1
                yield self._standing(share, standing)

    def _standing(self, share: Fraction, one: Standing) -> dict[str, object]:
        rule = self._rule(one.budget)
        return {
            "rule": rule.name,
            "mode": rule.mode.value,
            "tenant": one.group[0],
            "group": {name: value or None for name, value in zip(one.budget.per, one.group[1:], strict=True)},
            "window": rule.window_text,
            "window_start": rfc3339(one.window_start_ns) if one.window_start_ns else None,
            "window_end": None if one.window_end_ns is None else rfc3339(one.window_end_ns),
            "limit_usd": nano_to_text(one.budget.limit_nano),
            "spent_usd": nano_to_text(one.spent_nano + sum(use.nano for use in one.uses)),
            "counted_usd": nano_to_text(one.spent_nano),
            "left_usd": nano_to_text(max(0, one.budget.limit_nano - one.spent_nano)),
            "used_share": round(float(share), 4),
            "exhausted_at": None if one.exhausted_ns is None else rfc3339(one.exhausted_ns),
            "firing": [level.name for level in one.firing],
            "top_run": one.top_run or None,
            "top_run_usd": nano_to_text(one.top_nano),
            "exceptions": [self._used(use) for use in one.uses],
        }

    # --- after a restart ----------------------------------------------------------------------------------------------

    def since_ns(self, now_ns: int) -> int | None:
        """How far back spending still counts; None: there are no budgets."""
        if not self._rules:
            return None
        since = now_ns - CALL_NS
        for rule in self._rules.values():
            window = rule.budget.window
            if isinstance(window, Calendar):
                since = min(since, window.bounds(now_ns)[0])
            else:
                since = min(since, now_ns - (window.length_ns if isinstance(window, Rolling) else 7 * DAY_NS))
            burns = (level.over_ns for level in rule.budget.levels if isinstance(level, BurnLevel))
            since = min([since, *(now_ns - over for stretches in burns for over in stretches)])
            grants = (relief for relief in rule.budget.reliefs if relief.grant_nano is not None)
            since = min([since, *(max(now_ns - KEEP_NS, relief.since_ns) for relief in grants)])
        return max(0, since)

    def restore(self, spends: Iterable[tuple[str, Spend]], told: Iterable[Alert], now_ns: int) -> Iterator[Alert]:
        """Count again what was spent before a restart.

        Args:
            spends: (call id, spend) by time, from `since_ns` on.
            told: the last word on each episode that was told.
            now_ns: the time.

        What was told is not told again, nor taken back, before `caught_up`: an alert is written at once and the calls
        that it is about when they have settled, so the ledger alone may not know why a level was crossed.

        Returns:
            What is new: levels that edited rules put below what was spent, or no longer have.
        """
        self.recount(self._keep(spends))
        known = {alert.fingerprint: alert for alert in sorted(told, key=lambda one: one.seq) if _is_budget(alert)}
        for name, alert in known.items():
            self._told[name] = (alert.seq, alert.at_ns)
        for name in [name for name in self._found if name not in known]:
            yield from self._alert(self._found.pop(name), now_ns)
        self._reads, self._restored_ns = bool(self._rules), now_ns
        for name, alert in known.items():
            if alert.state == "firing":
                crossing = self._found.get(name) or self._crossing_of(alert)
                if crossing is None:
                    yield _resolved(alert, now_ns, {})
                    continue
                self._goes_on(alert, crossing)
            self._before[name] = alert

    def _keep(self, spends: Iterable[tuple[str, Spend]]) -> Iterator[tuple[str, Spend]]:
        for call_id, spend in spends:
            self._kept.add((spend.tenant, call_id))
            yield call_id, spend

    def read_again(self) -> None:
        """Runs that others had begun may be told here, from their beginning: until `caught_up` their calls stay."""
        if self._rules:
            self._reads = True
            self._kept.update(self._budgets.of_others(self._runs))

    @property
    def is_behind(self) -> bool:
        """Is what happened before a restart, or what others had read, still being read again?"""
        return self._reads

    @property
    def expects(self) -> bool:
        """Is there anything that was told before a restart, and that what is counted does not bear out yet?"""
        return self._reads or bool(self._before)

    def caught_up(self, now_ns: int, *, alone: bool) -> Iterator[Alert]:
        """All has been read again, and `catch_up` has seen every open run: what stands, against what was told.

        Args:
            now_ns: the time.
            alone: nobody else has calls that count and are not written yet. Else what others may have told stands
                until they tell of its calls or its end, or this is said once more.

        Returns:
            What is new.
        """
        self._kept.clear()
        self._reads = False
        before, self._before = self._before, {}
        firing = {name: alert for name, alert in before.items() if alert.state == "firing"}
        self._over |= {
            name: alert.at_ns for name, alert in before.items() if name not in firing and name not in self._found
        }
        if not alone:
            self._before = {
                name: alert
                for name, alert in firing.items()
                if name not in self._found and alert.evidence.get("rules_hash") == self._hash
            }
        yield from self._settle({name: alert for name, alert in firing.items() if name not in self._before}, now_ns)

    def catch_up(self, run: Run, now_ns: int) -> Iterator[Alert]:
        """The run is known again as it was before the restart, or better: its calls count as they are."""
        for call in list(run.calls.values()) if self._kept else ():
            key = (run.tenant, call.id)
            if key in self._kept:
                self._kept.discard(key)
                if self._budgets.knows(*key):
                    yield from self._count(run, call, now_ns)

    def recount(self, spends: Iterable[tuple[str, Spend]]) -> None:
        """Count what was spent before this policy was in force; who asks next is told what of it stands."""
        for call_id, spend in spends:
            self._note(self._budgets.put(spend.tenant, call_id, self._complete(spend)))

    def take_over(
        self,
        old: Policy,
        runs: Iterable[Run],
        since: Iterable[tuple[Run, Change]],
        heard: Iterable[Elsewhere],
        now_ns: int,
    ) -> list[Alert]:
        """Go on in place of another policy, after `recount`: counters, episodes and what stands are kept.

        Args:
            old: the one that was in force.
            runs: open ones.
            since: what changed while `recount` went on.
            heard: what others told meanwhile.
            now_ns: the time.

        Returns:
            What is new: levels that edited rules put below, or above, what was spent.
        """
        self._kept = old._kept
        for run, change in since:
            if change.new is None and change.old is not None:
                self._note(self._budgets.put(run.tenant, change.old.id, None))
            elif change.new is not None:
                self._note(self._put(run, change.new))
        for run in runs:
            for call in run.calls.values():
                self._note(self._put(run, call))
        self._note(self._put_elsewhere(heard))
        self._told, self._over = dict(old._told), dict(old._over)
        self._noticed, self._swept_ns = old._noticed, old._swept_ns
        self._reads, self._restored_ns = old._reads, old._restored_ns
        for name, alert in old._before.items():
            crossing = self._found.get(name)
            if crossing is not None and not self._reads:
                continue  # borne out
            crossing = crossing or self._crossing_of(alert)
            if crossing is not None:
                self._before[name] = alert
                if alert.state == "firing":
                    self._goes_on(alert, crossing)
        stood = {name: alert for name, (alert, _) in old._open.items() if name not in self._before}
        return list(self._settle(stood, now_ns))

    def _note(self, crossings: Iterable[Crossing]) -> None:
        for crossing in crossings:
            if crossing.state == "firing":
                self._found[self._name(crossing)] = crossing
            elif crossing.state == "resolved":
                self._found.pop(self._name(crossing), None)

    def _settle(self, before: Mapping[str, Alert], now_ns: int) -> Iterator[Alert]:
        """Levels that stand, against those that stood before: what is told of them."""
        found = {name: crossing for name, crossing in self._found.items() if name not in self._before}
        self._found = {name: crossing for name, crossing in self._found.items() if name in self._before}
        crossed_by, self._crossed_by = self._crossed_by, {}
        for name, crossing in found.items():
            if name in before:
                self._goes_on(before[name], crossing)
            elif name in self._told and not self._budgets.stands(crossing, now_ns):
                self._muted.add(name)  # its end was told; ours comes with the next tick
            else:
                yield from self._alert(crossing, now_ns, *crossed_by.get(name, ()))
        for name, alert in before.items():
            if name not in found:
                yield self._end(alert, now_ns)

    def _goes_on(self, alert: Alert, crossing: Crossing, run: Run | None = None) -> None:
        """What was told before stands, and orders what the rules say now."""
        self._open[alert.fingerprint] = (alert, self._order(crossing, self._offender(crossing, run)))

    def _end(self, alert: Alert, now_ns: int) -> Alert:
        """What was told before stands no longer, or is not expected to."""
        self._open.pop(alert.fingerprint, None)
        self._before.pop(alert.fingerprint, None)
        return _resolved(alert, now_ns, {})

    def _crossing_of(self, alert: Alert) -> Crossing | None:
        """The crossing that an alert told of, as far as an order needs it; None: the rules have no such level."""
        said = alert.evidence
        group, crossed, top_run = said.get("group"), said.get("crossed_at"), said.get("top_run")
        if not (isinstance(group, dict) and isinstance(crossed, str) and isinstance(top_run, str)):
            return None
        at_ns = parse_instant(crossed)
        for rule in self._rules.values():
            budget = rule.budget
            if rule.name != alert.rule or {*budget.per} != {*group}:
                continue
            of_group = (alert.tenant, *(str(group[name]) for name in budget.per))
            start = budget.window.bounds(at_ns)[0] if isinstance(budget.window, Calendar) else 0
            for level in budget.levels:
                crossing = Crossing(budget, of_group, level, "firing", at_ns, 0, start, top_run)
                if self._name(crossing) == alert.fingerprint:
                    return crossing
        return None

    # --- counting -----------------------------------------------------------------------------------------------------

    def _count(self, run: Run, call: Call, now_ns: int) -> Sequence[Alert]:
        crossings = self._put(run, call)
        if not crossings:
            return ()
        return [alert for crossing in crossings for alert in self._alert(crossing, now_ns, run, call)]

    def _put(self, run: Run, call: Call) -> Sequence[Crossing]:
        spend = self._spend(run, call)
        if spend is not None and self._names.get(run) != spend.run:
            self.forget(run)
            self._names[run] = spend.run
            self._runs[run.tenant, spend.run] = run
        if self._kept and (run.tenant, call.id) in self._kept:
            return ()  # told again from its beginning, when less was known of it: `catch_up` is to come
        return self._budgets.put(run.tenant, call.id, spend)

    def left(self, run: Run, call: Call) -> tuple[str, int] | None:
        """The budget that this run's spending meets first, and what is left of it now [nano-USD]."""
        if not self._rules:
            return None
        found = self._budgets.left(self._spent_by(run, call, 1))
        return None if found is None else (found[0].name, found[1])

    def _spend(self, run: Run, call: Call) -> Spend | None:
        nano = call.nano
        return None if not nano or nano > _MOST else self._spent_by(run, call, nano)

    def _spent_by(self, run: Run, call: Call, nano: int) -> Spend:
        mine, of_run = call.who, run.who
        said: dict[str, object] = {}
        for name, key, fact in self._asked:
            if fact is not None:
                said[name] = fact(run, call)
            else:
                said[name] = mine[key] if key in mine else of_run.get(key)
        return Spend(run.tenant, run.id, min(call.step.start_ns, _MOST), nano, said)

    def _rule(self, budget: Budget) -> BudgetRule:
        return self._rules[budget.name, budget.variant]

    def _complete(self, spend: Spend) -> Spend:
        """With attributes under the names that rules give them."""
        if not self._attributes:
            return spend
        said = spend.facts
        return replace(spend, facts={**said, **{name: said.get(key) for name, key in self._attributes}})

    # --- alerts -------------------------------------------------------------------------------------------------------

    def _name(self, crossing: Crossing) -> str:
        """Fingerprint: the same level of the same group, in the same window where windows have a start."""
        starts = isinstance(crossing.budget.window, Calendar) and isinstance(crossing.level, ShareLevel)
        start = crossing.window_start_ns if starts else 0
        tenant, *group = crossing.group
        variant = [crossing.budget.variant] if crossing.budget.variant else []
        return _fingerprint(tenant, crossing.budget.name, crossing.level.name, *group, str(start), *variant)

    def _alert(
        self, crossing: Crossing, now_ns: int, run: Run | None = None, call: Call | None = None
    ) -> Iterator[Alert]:
        if crossing.state == "excepted":
            for use in crossing.uses:
                yield self._exception_used(crossing, use, now_ns, run, call)
            return
        rule, name = self._rule(crossing.budget), self._name(crossing)
        told = self._before.get(name)
        if self._reads and now_ns <= self._restored_ns and (told is not None or self._kept):
            # It may be what was told, or a call may count under the id it got later as well: `caught_up` compares.
            self._note([crossing])
            self._crossed_by[name] = (run, call)
            return
        if told is not None:
            del self._before[name]
            self._found.pop(name, None)
            if told.state == crossing.state == "firing":
                self._goes_on(told, crossing, run)
                return
            if told.state != "firing":
                self._over[name] = told.at_ns
        if crossing.state == "resolved":
            found = self._open.pop(name, None)
            if found is not None and name not in self._muted:
                yield _resolved(found[0], now_ns, {"observed": nano_to_text(crossing.spent_nano)})
            self._muted.discard(name)
            return
        if self._was_over(name, crossing, now_ns):
            self._muted.add(name)  # the next tick ends it here
            return
        offender = self._offender(crossing, run)
        order = self._order(crossing, offender)
        alert = replace(
            self._told_of(crossing, now_ns, run, call, name),
            kind=_kind(crossing),
            severity=_severity(rule, crossing),
            action="" if order.shadow else decision_verbs(order.actions),
            summary=self._summary(rule, crossing),
        )
        self._open[name] = (alert, order)
        yield alert

    def _was_over(self, name: str, crossing: Crossing, now_ns: int) -> bool:
        """Is it a late look at an episode that others have told, with its end?"""
        over_ns = self._over.pop(name, None)
        if over_ns is None or self._budgets.stands(crossing, now_ns):
            return False
        return crossing.at_ns <= over_ns

    def _told_of(self, crossing: Crossing, now_ns: int, run: Run | None, call: Call | None, fingerprint: str) -> Alert:
        """The alert as far as it is the same for every kind."""
        rule = self._rule(crossing.budget)
        offender, offence = self._offender(crossing, run), call
        if offender is not run:
            offence = None if offender is None else max(offender.calls.values(), key=_when, default=None)
        seq = self._told.get(fingerprint, (0, 0))[0] + 1
        self._told[fingerprint] = (seq, now_ns)
        span_id = b"" if offence is None else offence.step.span_id
        told = {} if offender is None or offence is None else evidence(offender, offence) | _costliest(offender)
        return Alert(
            id=f"{fingerprint}-{seq}",
            tenant=crossing.group[0],
            run_id=crossing.top_run if offender is None else offender.id,
            trace_id=b"" if offence is None else offence.trace_id,
            rule=rule.name,
            category=Category.BUDGET,
            kind="",
            state="firing",
            seq=seq,
            severity=Severity.NOTICE,
            span_ids=(span_id,) if span_id else (),
            onset_span_id=span_id,
            at_span_id=span_id,
            at_ns=now_ns,
            wasted_nano=0,
            action="",
            summary="",
            fingerprint=fingerprint,
            evidence=told | self._compared(rule, crossing),
        )

    def _offender(self, crossing: Crossing, run: Run | None) -> Run | None:
        """Whose alert it is: the run that took most, or the one whose call crossed; None: it is over."""
        if self._rule(crossing.budget).target != "top_burner" or (run and run.id == crossing.top_run):
            return run
        return self._runs.get((crossing.group[0], crossing.top_run))

    def _compared(self, rule: BudgetRule, crossing: Crossing) -> dict[str, object]:
        """The numbers that were compared, and whose they are."""
        budget, level = crossing.budget, crossing.level
        said: dict[str, object] = {
            "budget": rule.name,
            "group": dict(zip(budget.per, crossing.group[1:], strict=True)),
            "level": level.name,
            "observed": nano_to_text(crossing.spent_nano),
            "threshold": nano_to_text(
                ceil(level.share * budget.limit_nano) if isinstance(level, ShareLevel) else budget.limit_nano
            ),
            "limit_usd": nano_to_text(budget.limit_nano),
            "spent_usd": nano_to_text(crossing.spent_nano + sum(use.nano for use in crossing.uses)),
            "left_usd": nano_to_text(max(0, budget.limit_nano - crossing.spent_nano)),
            "used_percent": round(100 * Fraction(crossing.spent_nano, budget.limit_nano)),
            "window": rule.window_text,
            "window_start": rfc3339(crossing.window_start_ns) if crossing.window_start_ns else None,
            "crossed_at": rfc3339(crossing.at_ns),
            "target": rule.target,
            "top_run": crossing.top_run,
            "top_run_usd": nano_to_text(crossing.top_nano),
            "mode": rule.mode.value,
        }
        if isinstance(level, BurnLevel):
            said |= {"burn_rate": exact_text(level.rate), "over": [duration_text(over) for over in level.over_ns]}
        if crossing.exhausted_ns is not None:
            said["exhausted_at"] = rfc3339(crossing.exhausted_ns)
        if crossing.uses:
            said["exceptions"] = [self._used(use) for use in crossing.uses]
        return said

    def _used(self, use: Use) -> dict[str, object]:
        """An exception and what it took: in this window, in all, and what is left of a grant."""
        one = self._exceptions[use.relief.name]
        grant = use.relief.grant_nano
        return {
            "name": one.name,
            "used_usd": nano_to_text(use.nano),
            "used_in_all_usd": nano_to_text(use.in_all_nano),
            "left_usd": None if grant is None else nano_to_text(grant - use.in_all_nano),
            "expires": one.expires,
            "owner": one.owner,
            "reason": one.reason,
        }

    def _exception_used(self, crossing: Crossing, use: Use, now_ns: int, run: Run | None, call: Call | None) -> Alert:
        window = crossing.budget.window
        start = crossing.at_ns // window.length_ns if isinstance(window, Rolling) else crossing.window_start_ns
        tenant, *group = crossing.group
        name = _fingerprint(tenant, use.relief.name, crossing.budget.name, *group, str(start))
        grant = use.relief.grant_nano
        limit = crossing.budget.limit_nano
        left = "" if grant is None else f", {_short(grant - use.in_all_nano, limit)} left"
        alert = self._told_of(crossing, now_ns, run, call, name)
        return replace(
            alert,
            rule=use.relief.name,
            category=Category.POLICY,
            kind="exception_used",
            summary=(
                f"{self._summary(self._rule(crossing.budget), crossing)}; exception {use.relief.name} "
                f"takes {_short(use.nano, limit)} USD of it{left}"
            ),
            evidence=alert.evidence | self._used(use),
        )

    def _order(self, crossing: Crossing, offender: Run | None) -> Order:
        rule = self._rule(crossing.budget)
        group = dict(zip(crossing.budget.per, crossing.group[1:], strict=True))
        keys: tuple[str, ...] = ()
        if rule.target == "everyone":
            known = [
                f"{name}:{value}" for name, value in group.items() if name in {"user", "team", "workflow"} and value
            ]
            keys = tuple(known) if len(known) == len(group) == 1 else () if group else ("*",)
        window = crossing.budget.window
        until = window.bounds(crossing.at_ns)[1] if isinstance(window, Calendar) else None
        sessions = () if offender is None else tuple(sorted(offender.sessions))
        return Order(_actions(rule, crossing), sessions, rule.mode is Mode.SHADOW, rule.fail == "closed", keys, until)

    def _summary(self, rule: BudgetRule, crossing: Crossing) -> str:
        named = ", ".join(
            f"{name} {value or '(unknown)'}"
            for name, value in zip(crossing.budget.per, crossing.group[1:], strict=True)
        )
        spent = crossing.spent_nano + (sum(use.nano for use in crossing.uses) if crossing.state == "excepted" else 0)
        limit = crossing.budget.limit_nano
        share = round(100 * Fraction(spent, limit))
        said = (
            f"{named or 'everyone together'}: {_short(spent, limit)} of {nano_to_text(limit)} USD spent "
            f"({share}%, {rule.window_text})"
        )
        if isinstance(crossing.level, BurnLevel):
            said += f", {exact_text(crossing.level.rate)} times faster than the limit allows"
        if crossing.top_run and "run" not in crossing.budget.per:
            said += f"; run {crossing.top_run} took {_short(crossing.top_nano, limit)}"
        return said


def _actions(rule: BudgetRule, crossing: Crossing) -> Actions:
    match _kind(crossing):
        case "budget_limit":
            return rule.actions
        case "budget_hard_stop":
            return (Action(stop=Stop()),)
        case "budget_warn" if "run" in crossing.budget.per:
            return (Action(warn=Warn()),)  # of a limit of its own an agent is told; of a shared one people are
    return ()


def _kind(crossing: Crossing) -> str:
    level = crossing.level
    if isinstance(level, BurnLevel):
        return "burn_rate"
    return {"limit": "budget_limit", "hard_stop": "budget_hard_stop"}.get(level.name, "budget_warn")


_SEVERITIES: Final = {
    "budget_warn": Severity.NOTICE,
    "burn_rate": Severity.WARNING,
    "budget_limit": Severity.WARNING,
    "budget_hard_stop": Severity.CRITICAL,
}


def _severity(rule: BudgetRule, crossing: Crossing) -> Severity:
    """A rule's own severity is that of its limit; warnings before it stay notices."""
    kind = _kind(crossing)
    return _SEVERITIES[kind] if rule.severity is None or kind == "budget_warn" else rule.severity


def _costliest(run: Run) -> dict[str, object]:
    """The part of a run that costs most: of the agents below the one that has it all, else of the single calls."""
    below: dict[tuple[str, str], int] = {}
    whole = total(run.calls.values())
    for call in run.calls.values():
        if not call.nano:
            continue
        for step in run.place(call.steps[0]).agents:
            key = (step.agent or step.name, step.span_id.hex())
            below[key] = below.get(key, 0) + call.nano
    parts = {key: nano for key, nano in below.items() if nano != whole}
    if not parts:
        parts = {
            (call.step.model or call.step.tool or call.step.name, call.step.span_id.hex()): call.nano
            for call in run.calls.values()
            if call.nano
        }
    if not parts:
        return {}
    (name, span_id), nano = min(parts.items(), key=lambda part: (-part[1], part[0]))
    return {"costliest": {"name": name, "span_id": span_id, "cost_usd": nano_to_text(nano)}}


def _resolved(alert: Alert, now_ns: int, now_known: dict[str, object]) -> Alert:
    return replace(
        alert, id=f"{alert.id}-resolved", state="resolved", at_ns=now_ns, evidence=alert.evidence | now_known
    )


def _is_budget(alert: Alert) -> bool:
    return alert.category is Category.BUDGET


def _fingerprint(*parts: str) -> str:
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()


def _when(call: Call) -> tuple[bool, int, str]:
    return call.kind in MODEL_KINDS, call.step.start_ns, call.id


def _short(nano: int, limit_nano: int) -> str:
    """Dollars for people: cents, and finer where half a percent of the limit is less than a cent."""
    step = 10**7
    while step > 1 and step * 200 > limit_nano:
        step //= 10
    return nano_to_text((nano + step // 2) // step * step)


def alert_of(line: dict[str, Any]) -> Alert:
    """The alert that a ledger's line (`alert_json`) tells of; of its numbers what `restore` needs."""
    return Alert(
        id=str(line["id"]).removesuffix("-resolved"),
        tenant=line["tenant"],
        run_id=line["run_id"],
        trace_id=bytes.fromhex(line["trace_id"]),
        rule=line["rule"],
        category=Category(line["category"]),
        kind=line["kind"],
        state=line["state"],
        seq=line["seq"],
        severity=Severity(line["severity"]),
        span_ids=tuple(map(bytes.fromhex, line["span_ids"])),
        onset_span_id=bytes.fromhex(line["onset_span_id"]),
        at_span_id=bytes.fromhex(line["at_span_id"]),
        at_ns=int(line["at_unix_nano"]),
        wasted_nano=0,
        action=line["action"],
        summary=line["summary"],
        fingerprint=line["fingerprint"],
        evidence=line["evidence"],
    )
