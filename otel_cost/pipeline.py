"""Pipeline: the order of the stages, once. The engine is pure: events and the time go in, effects come out.

    decode → normalise → assemble → price → watch (detect → alert) → enrich → Effects

Same input in the same order gives the same bytes, alerts and rows, whichever
driver feeds it: `serve`, `replay`, a test.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import ormsgpack

from otel_cost.core.assemble import summary
from otel_cost.core.assemble.join import REPEATABLE
from otel_cost.core.assemble.run import Change
from otel_cost.core.assemble.runs import Caps, Runs
from otel_cost.core.assemble.snapshot import thaw
from otel_cost.core.decide.closed import closed_by
from otel_cost.core.decide.standing import WHO_AT_HOOKS, Ruling, Standing
from otel_cost.core.decide.words import would_change
from otel_cost.core.drift import Drift, ran_of
from otel_cost.core.enrich.attributes import (
    call_attributes,
    decision_attributes,
    loop_attributes,
    run_attributes,
    step_attributes,
    subtree_attributes,
    trace_attributes,
)
from otel_cost.core.enrich.records import (
    OWN_RESOURCE,
    OWN_SCOPE,
    alert_outgoing,
    correction_record,
)
from otel_cost.core.escalation import Escalation
from otel_cost.core.exemptions import Exemptions
from otel_cost.core.model.attributes import PlainAttributes, text
from otel_cost.core.model.effects import Correction, Effects, Outgoing, Signal
from otel_cost.core.model.event import SpanEvent
from otel_cost.core.model.step import Step
from otel_cost.core.model.vocabulary import CALL_KINDS, MODEL_KINDS, Category, Kind, Reason, Source, Status
from otel_cost.core.normalise import normalise_log, normalise_metric, normalise_span
from otel_cost.core.normalise._hook import hook_step
from otel_cost.core.normalise._read import who_of
from otel_cost.core.outcomes import PLACES, Places, Reader, keys_of, reaching
from otel_cost.core.policy import Policy
from otel_cost.core.rules.kind import Mode
from otel_cost.core.rules.match import lookup
from otel_cost.core.watch import Watch, name_among

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from typing import Protocol

    from otel_cost.core.assemble.run import Run
    from otel_cost.core.budget import Spend
    from otel_cost.core.decide import Decision
    from otel_cost.core.drift import Ran
    from otel_cost.core.library import Library
    from otel_cost.core.model.call import Call
    from otel_cost.core.model.event import HookEvent, LogEvent, MetricPoint, Resource, Scope
    from otel_cost.core.model.finding import Alert
    from otel_cost.core.model.outcome import Outcome
    from otel_cost.core.model.run import ClosedRun, RunSummary
    from otel_cost.core.policy import Elsewhere
    from otel_cost.core.price import PriceBook
    from otel_cost.core.rules import RuleSet

    class Snapshots(Protocol):
        """Where closed runs sleep; `key`: a trace id in hex, `session:…` or a call id such as `response:…`."""

        def find(self, tenant: str, key: str) -> bytes | None: ...


_SLICE = 8  # spans that are read, or passed on, between two looks at hook calls: some 0.1 ms
_MOST_BEHIND_NS = 600 * 10**9
_MOST_OUTCOMES = 256  # of one open run
_MOST_DECIDED = 4096  # spans that have made a rule decide something and have not left


@dataclass(frozen=True, slots=True)
class Settings:
    """What the engine's time means. `settle_ns`: how long roots, agents and ledger rows wait for late facts."""

    settle_ns: int = 2 * 10**9
    caps: Caps = field(default_factory=Caps)


@dataclass(slots=True, eq=False)
class Held:
    """A record that waits its settle time: what it says downstream depends on what comes in the meantime."""

    due_ns: int
    raw: bytes  # of the span no more is kept: its attributes hold their whole request in memory
    resource: Resource
    scope: Scope
    trace_id: bytes
    span_id: bytes
    is_root: bool
    step: Step | None
    run: Run
    position: int


class Engine:
    """One engine, one thread. Feed it, let its time advance, carry out the effects it returns."""

    def __init__(
        self,
        book: PriceBook,
        rules: RuleSet,
        settings: Settings | None = None,
        snapshots: Snapshots | None = None,
    ) -> None:
        self.book = book
        self.settings = settings or Settings()
        self._settle_ns = self.settings.settle_ns
        self._snapshots = snapshots
        self.runs = Runs(book.charge, self.settings.caps, self if snapshots is not None else None)
        self.rules = rules
        self._identity = rules.identity
        self._exemptions = Exemptions(rules.exceptions)
        self._escalation = Escalation(rules.escalation, self._exemptions)
        self.policy = Policy(rules)
        self.drift = Drift(rules.regressions)
        self._watch = Watch(rules.loops, self._exemptions, self._left)
        self._places = Places()
        self._listen_for(Reader(rules.outcomes))
        self._tells = bool(self._identity.sources or rules.attributes)
        self._counts = bool(rules.budgets)
        self._effects = Effects()
        self._held: deque[Held] = deque()
        self._verdicts: dict[tuple[str, bytes, bytes], tuple[str, str]] = {}  # tenant, trace, span → decision, rule
        self._rows: deque[tuple[int, tuple[Run, str]]] = deque()  # (due, (run, call id)): not yet written
        self._unwritten: set[tuple[Run, str]] = set()
        self._gone: dict[tuple[str, str], tuple[int, Run]] = {}  # tenant, call id → when the ledger is told
        self._standing = Standing(closed_by(rules))
        self._deciding = {rule.name: rule for rule in rules.loops if rule.action}
        self._changed_since: list[tuple[Run, Change]] | None = None  # kept while another policy counts
        self._heard_since: list[Elsewhere] = []  # likewise
        self._caught_up_by_ns = 0  # after a restart: when what has not been fed again is no longer waited for
        self._position = 0  # of the request that is being fed, or was last
        self.fed = 0  # spans and log records that were taken in whole: held, passed on or told to be resends

    # ---- input -------------------------------------------------------------

    def feed(
        self, signal: Signal, events: Sequence[SpanEvent | LogEvent | MetricPoint], position: int, now_ns: int
    ) -> None:
        """Take one request's events, one by one by end time; the tree that its calls stand in comes before them.

        What goes on does so in the sender's order, and says what the whole request has told.
        """
        for _ in self.feeding(signal, events, position, now_ns):
            pass

    def feeding(
        self, signal: Signal, events: Sequence[SpanEvent | LogEvent | MetricPoint], position: int, now_ns: int
    ) -> Iterator[None]:
        """`feed` in slices well below a millisecond: between two of them hook calls may come in, and nothing else."""
        self._position = position
        if signal is Signal.TRACES:
            spans: list[SpanEvent] = events  # type: ignore[assignment]  # one request holds one signal
            steps: list[Step | None] = []
            runs: list[Run | None] = []
            ended: list[tuple[int, int, bytes, int]] = []  # of spans that are calls or tell what became of some work
            for index, span in enumerate(spans):
                step = self._step(span)
                steps.append(step)
                # A parent ends after its children: placed in this order, a call is placed and counted once.
                waits = step is not None and step.kind in CALL_KINDS
                runs.append(None if waits else self._take(span, step, now_ns))
                if waits or self._has_news(span):
                    ended.append((span.end_ns, span.start_ns, span.span_id, index))
                if index % _SLICE == _SLICE - 1:
                    yield
            for *_, index in sorted(ended):
                span, step = spans[index], steps[index]
                is_call = step is not None and step.kind in CALL_KINDS
                if is_call:
                    runs[index] = self._take(span, step, now_ns)
                    self._apart(step, span, now_ns)
                run = runs[index]
                if run is not None and self._has_news(span):
                    self._hear(span, run)
                if is_call:  # where slices end depends on what was sent alone, not on rules
                    yield
            for index, (span, step, run) in enumerate(zip(spans, steps, runs, strict=True)):
                if run is not None:
                    self._pass_on(span, run, step, now_ns)
                self.fed += 1
                if index % _SLICE == _SLICE - 1:
                    yield
        elif signal is Signal.METRICS:
            points: list[MetricPoint] = events  # type: ignore[assignment]
            for *_, index in sorted((point.time_ns, index) for index, point in enumerate(points)):
                self._metric(points[index], now_ns)
                yield
        else:
            logs: list[LogEvent] = events  # type: ignore[assignment]
            for *_, index in sorted((log.time_ns, log.span_id, index) for index, log in enumerate(logs)):
                self._effects.outgoing.append(self._log(logs[index], now_ns))
                self.fed += 1
                yield

    def hook(self, event: HookEvent, now_ns: int, position: int | None = None) -> Decision:
        """Take in what a harness tells, then say whether it may go on.

        `position`: in front of which record of the journal it comes; None: within the request that is being fed.
        """
        if position is not None:
            self._position = position
        self._standing.observe(event)
        self._introduce(event)
        step = hook_step(event)
        if step is not None:
            run = self.runs.take(event.tenant, step.trace_id, step, self._position, now_ns)
            steps = len(run.steps)
            run.add_step(step)
            self.runs.steps += len(run.steps) - steps
            if step.kind in MODEL_KINDS:
                run = self.runs.twin(run, step)
            self._follow(run, now_ns)
        return replace(self._decided(event), rules=self.rules.hash)

    def _introduce(self, event: HookEvent) -> None:
        """Who a hook speaks of: as the rules say, else as it says itself, else as its run is known."""
        known = {name: said for name, key in WHO_AT_HOOKS.items() if isinstance(said := event.attributes.get(key), str)}
        said = self._identity.of(event.attributes, known=known) if self._identity.sources else {}
        run = self._run_of(event)
        told = {**(run.who if run is not None else {}), **known, **said}
        if told != known:
            named = {WHO_AT_HOOKS[name]: value for name, value in told.items() if name in WHO_AT_HOOKS}
            plain = {key: event.attributes.get(key) for key in event.attributes}
            event.attributes = PlainAttributes({**plain, **named})

    def _run_of(self, event: HookEvent) -> Run | None:
        found = self.runs.find(event.tenant, f"session:{event.session}") if event.session else None
        return found or (self.runs.find(event.tenant, event.trace_id) if event.trace_id else None)

    def _decided(self, event: HookEvent) -> Decision:
        if not self._escalation.active:
            return self._standing.decide(event)
        run, ancestors = self._run_of(event), self._standing.ancestors(event.tenant, event.session)
        self._escalation.heard(event)
        told: dict[str, object] = dict(run.who) if run is not None else {}
        told |= {name: said for name, key in WHO_AT_HOOKS.items() if (said := event.attributes.get(key))}
        told |= {"tenant": event.tenant, "run": run.id if run else event.session, "session": event.session or None}
        told |= {"agent": event.agent, "model": event.model, "provider": event.provider, "tool": event.tool}
        get = lookup(told, event.attributes)
        decision = self._standing.decide(event, *self._escalation.words(event, ancestors, run, get))
        self._escalation.decided(event, ancestors, decision)
        news, self._escalation.news = self._escalation.news, []
        self._alerts(news)
        return decision

    def forward(self, payload: bytes, position: int) -> None:
        """Metrics go on as they came."""
        self._effects.outgoing.append(Outgoing(Signal.METRICS, position, payload))

    def learn(self, outcome: Outcome) -> None:
        """Take in what became of some work: open runs know it from now on, the ledger keeps it for all others."""
        for run in self._runs_of(outcome):
            known = run.outcomes.get(outcome.id)
            if (known is None and len(run.outcomes) < _MOST_OUTCOMES) or (known and known.at_ns <= outcome.at_ns):
                run.outcomes[outcome.id] = outcome
                if known is None and outcome.source == "evaluation":
                    self._loops(run, None, self._watch.judge(run, outcome), outcome.at_ns)
            if all(key.startswith("response:") for key in outcome.keys):
                outcome = replace(outcome, keys=(*outcome.keys, *keys_of(run=run.id)))
            self._escalation.learn(outcome, (*keys_of(run=run.id), *outcome.keys))
        self._escalation.learn(outcome, outcome.keys)
        self._effects.outcomes.append(outcome)

    def _runs_of(self, outcome: Outcome) -> list[Run]:
        found: dict[Run, None] = {}
        for key in outcome.keys:
            kind, _, name = key.partition(":")
            if kind in {"branch", "commit", "ticket"}:
                ended = [run for run in self.runs if run.tenant == outcome.tenant and key in run.joins]
                found |= dict.fromkeys(run for run in ended if reaching([(key, outcome)], summary.began_ns(run)))
                continue
            with suppress(ValueError):
                run = self.runs.find(outcome.tenant, bytes.fromhex(name) if kind == "trace" else key)
                if run is not None:
                    found[run] = None
        return list(found)

    def _hear(self, event: SpanEvent | LogEvent, run: Run | None) -> None:
        """What a record says of where its run's work ends up, and what became of it."""
        if run is not None and (places := self._places.of(event)):
            run.joins |= places
        for outcome in self._reader.read(event):
            self.learn(outcome)

    def _listen_for(self, reader: Reader) -> None:
        self._reader = reader
        self._news = reader.keys | PLACES
        self._asked_resource: Resource | None = None
        self._resource_tells = False

    def _has_news(self, span: SpanEvent) -> bool:
        """Is there anything to `_hear` in a span? Nearly always not, which is to cost next to nothing."""
        if span.resource is not self._asked_resource:
            self._asked_resource = span.resource
            self._resource_tells = self._reader.reads_resource or self._places.of_resource(span.resource) is not None
        return self._resource_tells or bool(span.raw_events) or not self._news.isdisjoint(span.attributes.told())

    def _left(self, run: Run, call: Call) -> tuple[str, int] | None:
        return self.policy.left(run, call)  # of the rules that are in force when it is asked

    @property
    def library(self) -> Library:
        """What finished runs have taught: the driver brings in what was known before it started."""
        return self._watch.library

    def tell(self, alerts: Iterable[Alert]) -> None:
        """Alerts that are not about a run, on the way of all others."""
        self._alerts(alerts)

    def restore(self, spends: Iterable[tuple[str, Spend]], told: Iterable[Alert], now_ns: int) -> None:
        """After a restart, before anything is fed: budgets are counted again, what they decided stands again."""
        self._caught_up_by_ns = now_ns + _MOST_BEHIND_NS
        news = list(self.policy.restore(spends, told, now_ns))
        for alert in self.policy.open_alerts():
            self._stand(alert, now_ns)
        self._budgets(news, now_ns)

    def hear(self, spends: Sequence[Elsewhere], told: Iterable[Alert], now_ns: int) -> None:
        """Take in what other services, which share the budgets, have counted and told since they were heard last."""
        if self._changed_since is not None:
            self._heard_since += spends
        self._budgets(self.policy.hear_told(told), now_ns)
        if self._counts:
            self._budgets(self.policy.hear(spends, now_ns), now_ns)

    def read_again(self, now_ns: int) -> None:
        """What is fed next others had read before, and they have told of its calls: until `caught_up` that counts."""
        self._caught_up_by_ns = now_ns + _MOST_BEHIND_NS
        self.policy.read_again()

    def caught_up(self, now_ns: int, *, alone: bool = True) -> None:
        """What was journalled before a restart has been fed again: open runs are known as they were.

        `alone`: nobody shares the budgets.
        """
        if self.policy.is_behind:
            for run in list(self.runs):
                self._budgets(self.policy.catch_up(run, now_ns), now_ns)
        if self.policy.expects:
            self._budgets(self.policy.caught_up(now_ns, alone=alone), now_ns)

    def begin_swap(self) -> None:
        """Other rules are about to come: remember what changes until `swap`, so that they count it, too."""
        self._changed_since = []
        self._heard_since = []

    def cancel_swap(self) -> None:
        """No other rules after all."""
        self._changed_since = None

    def swap(self, rules: RuleSet, policy: Policy, now_ns: int, drift: Drift | None = None) -> None:
        """Go by other rules from now on. Counters, episodes and standing decisions are kept.

        `policy`: of these rules, with everything counted (`Policy.recount`) that the ledger knew since `begin_swap`.
        `drift`: of these rules; `restore_drift` is to follow.
        """
        self.drift = drift or Drift(rules.regressions)
        since, self._changed_since = self._changed_since or [], None
        old, self.policy, self.rules = self.policy, policy, rules
        exemptions = Exemptions(rules.exceptions)
        exemptions.go_on_from(self._exemptions)
        self._exemptions, self._identity = exemptions, rules.identity
        self._counts = bool(rules.budgets)
        self._listen_for(Reader(rules.outcomes))
        self._tells = bool(self._identity.sources or rules.attributes)
        self._deciding = {rule.name: rule for rule in rules.loops if rule.action}
        rulings = {
            name: Ruling(rule.actions, rule.mode is Mode.SHADOW, rule.fail == "closed")
            for name, rule in self._deciding.items()
        }
        self._standing.revise(rulings, {rule.name for rule in rules.budgets}, closed_by(rules))
        news = policy.take_over(old, self.runs, since, self._heard_since, now_ns)
        self._heard_since = []
        for alert in policy.open_alerts():
            self._stand(alert, now_ns)
        self._budgets(news, now_ns)
        for run, alert in self._watch.use(rules.loops, exemptions, now_ns):
            self._loops(run, None, [alert], now_ns)
        self._alerts(self._escalation.use(rules.escalation, exemptions, now_ns))

    def keep_standing(self) -> bytes:
        """What rules about loops have decided and still stands; budgets are counted again at a start."""
        return ormsgpack.packb([self._standing.keep(self._deciding), self._escalation.keep()])

    def retell(self, step: Step, now_ns: int) -> None:
        """Take in a step that was written down before: without its content, and with whom it was for as it was said."""
        run = self.runs.take(step.tenant, step.trace_id, step, 0, now_ns)
        steps = len(run.steps)
        if step.span_id:
            self.runs.spans += run.add_span(step.trace_id, step.span_id, step.parent_id, step)
        else:
            run.add_step(step)
        self.runs.steps += len(run.steps) - steps
        if step.kind in MODEL_KINDS:
            run = self.runs.twin(run, step)
        self._follow(run, now_ns)

    def retell_tree(self, run: Run, now_ns: int) -> None:
        """Take in the spans of a recorded run that are no steps, so that its steps find their places."""
        known = {(step.trace_id, step.span_id) for step in run.steps}
        for trace in run.traces.values():
            for span_id, parent_id in trace.parents.items():
                if trace.id and (trace.id, span_id) not in known:
                    into = self.runs.take(run.tenant, trace.id, None, 0, now_ns)
                    self.runs.spans += into.add_span(trace.id, span_id, parent_id, None)

    def retell_metered(self, run: Run, now_ns: int) -> None:
        """Take in a recorded run of which only metrics tell: its calls count in budgets, and it is over."""
        for call in run.calls.values():
            self._budgets(self.policy.put(run, Change(None, call), now_ns), now_ns)
        self.policy.forget(run)
        self._effects.closed.append(summary.close(run))

    def restore_drift(self, runs: Iterable[Ran], told: Collection[tuple[str, str]], now_ns: int) -> None:
        """After a restart: finished runs of before, by end. `told`: (tenant, id) of alerts that were written down."""
        self._alerts(alert for alert in self.drift.restore(runs, now_ns) if (alert.tenant, alert.id) not in told)

    def restore_standing(self, kept: bytes, until_ns: int) -> None:
        """After a restart: let it stand again. The runs it came from are closed, so nothing but time ends it."""
        try:
            standing, escalation = ormsgpack.unpackb(kept)
        except (ValueError, TypeError):
            return  # of another version
        self._escalation.restore(escalation)
        self._standing.restore(standing, self._deciding, until_ns)

    def advance(self, now_ns: int) -> None:
        """Let time pass: what has settled goes on and is written, what is idle is closed."""
        for _ in self.advancing(now_ns):
            pass

    def advancing(self, now_ns: int) -> Iterator[None]:
        """`advance` in slices, as `feeding` is for `feed`."""
        while self._held and self._held[0].due_ns <= now_ns:
            self._effects.outgoing.append(self._released(self._held.popleft(), now_ns))
            yield
        if self._gone:
            self._leave(key for key, (due_ns, _) in self._gone.items() if due_ns <= now_ns)
        while self._rows and self._rows[0][0] <= now_ns:
            _, row = self._rows.popleft()
            if row in self._unwritten:
                self._unwritten.discard(row)
                self._write(row[0].current, row[1], now_ns)
            yield
        # Looked for anew each time: a hook call may have woken or joined the next one.
        while (idle := next(self.runs.idle(now_ns), None)) is not None:
            self._close(idle, now_ns)
            self.runs.forget(idle)
            yield
        if self.policy.expects and now_ns >= self._caught_up_by_ns:
            self.caught_up(now_ns)
        self._budgets(self.policy.advance(now_ns), now_ns)

    def release(self, now_ns: int) -> None:
        """Everything held goes on, whatever may still come."""
        self._leave(self._gone)
        while self._held:
            self._effects.outgoing.append(self._released(self._held.popleft(), now_ns))

    def close(self, now_ns: int) -> None:
        """End of input: everything held goes on, every run is closed."""
        self.release(now_ns)
        for run in list(self.runs):
            self._close(run, now_ns)
            self.runs.forget(run)

    def take(self) -> Effects:
        """What is to be done since the last call."""
        effects, self._effects = self._effects, Effects()
        effects.tellers = self.runs.tellers()
        return effects

    def open_run(self, tenant: str, key: str) -> ClosedRun | None:
        """An open run as it would be written down now; `key`: a trace id in hex, a run id, a session."""
        run = None
        with suppress(ValueError):
            run = self.runs.find(tenant, bytes.fromhex(key))
        run = run or self.runs.find(tenant, f"session:{key}")
        if run is None:
            return None
        closed = summary.close(run)
        closed.nodes()  # as it stands now
        return closed

    def route_facts(self, tenant: str, trace_id: bytes) -> dict[str, object]:
        """What routes may ask of a trace: its run as it stands; nothing where it is not open."""
        run = self.runs.find(tenant, trace_id)
        return {"tenant": tenant} if run is None else summary.facts(run)

    def open_runs(self) -> Iterator[RunSummary]:
        """Every open run as it stands; between two of them hook calls may come in."""
        for run in list(self.runs):
            if run.current is run:
                yield summary.summarise(run)

    def closed_views(self) -> Iterator[ClosedRun]:
        """Every open run as it would be written down now, one after the other like `open_runs`."""
        for run in list(self.runs):
            if run.current is run:
                yield summary.close(run)

    def held_position(self) -> int | None:
        """The oldest journal position of which a record still waits its settle time; None: none does."""
        return self._held[0].position if self._held else None

    def position(self) -> int | None:
        """The oldest journal position whose effects are not all out or whose run is open; None: nothing is pending."""
        known = [self.runs.position(), self.held_position()]
        return min((p for p in known if p is not None), default=None)

    def find(self, tenant: str, key: str) -> Run | None:
        """A sleeping run, awake; `Runs` asks."""
        frozen = self._snapshots.find(tenant, key) if self._snapshots is not None else None
        return None if frozen is None else thaw(frozen, self.book.charge, 0)

    def looks_for(self, event: HookEvent) -> list[str]:
        """The keys by which `hook` looks for a sleeping run, since they lead to no open one."""
        step = hook_step(event)
        keys = [] if step is None else _keys(event.trace_id, step)
        find = self.runs.find
        return [key for key in keys if find(event.tenant, key if ":" in key else bytes.fromhex(key)) is None]

    def keys_of(self, event: SpanEvent | LogEvent) -> list[str]:
        """The keys by which `feed` finds the run of an event, as text, the strongest first; safe from any thread."""
        if isinstance(event, SpanEvent):
            step = normalise_span(event)
            if step is None and not event.parent_id:
                step = _bare_root(event)
        else:
            step = normalise_log(event)
        self._identify(step, event)
        return _keys(event.trace_id, step)

    # ---- stages --------------------------------------------------------------

    def _step(self, event: SpanEvent) -> Step | None:
        """What a span tells."""
        step = normalise_span(event)
        if step is None:
            if event.parent_id:
                return None
            step = _bare_root(event)
        self._identify(step, event)
        return step

    def _take(self, event: SpanEvent, step: Step | None, now_ns: int) -> Run | None:
        """Take a span in; its run, or None for a resend."""
        run = self.runs.take(event.tenant, event.trace_id, step, self._position, now_ns)
        steps = len(run.steps)
        fresh = run.add_span(event.trace_id, event.span_id, event.parent_id, step)
        self.runs.spans += fresh
        self.runs.steps += len(run.steps) - steps
        if fresh and step is not None and step.kind in MODEL_KINDS:
            run = self.runs.twin(run, step)
        self._follow(run, now_ns)
        if not fresh:
            self._effects.duplicates += 1
            return None
        return run

    def _pass_on(self, event: SpanEvent, run: Run, step: Step | None, now_ns: int) -> None:
        """A span goes on at once; roots and roll-ups, which say what is below them, wait."""
        extra, call = b"", None
        if not event.parent_id or (step is not None and (step.rollup or step.kind is _AGENT)):
            self._held.append(
                Held(
                    now_ns + self.settings.settle_ns,
                    event.raw,
                    event.resource,
                    event.scope,
                    event.trace_id,
                    event.span_id,
                    not event.parent_id,
                    step,
                    run,
                    self._position,
                )
            )
            return
        if step is not None:
            run = run.current
            extra, call = self._extra(run, event.span_id, step)
            if step.kind in CALL_KINDS:  # no loop is made of anything else
                extra += self._said_of(run, event.trace_id, event.span_id)
        self._effects.outgoing.append(
            Outgoing(
                _TRACES,
                self._position,
                event.raw,
                extra,
                event.resource,
                event.scope,
                call,
                event.tenant,
                event.trace_id,
            )
        )

    def _log(self, event: LogEvent, now_ns: int) -> Outgoing:
        step = normalise_log(event)
        self._identify(step, event)
        extra, call = b"", None
        if step is None:
            self._hear(event, None)
        else:
            run = self.runs.take(event.tenant, event.trace_id, step, self._position, now_ns)
            steps = len(run.steps)
            run.add_step(step)
            self.runs.steps += len(run.steps) - steps
            self._follow(run, now_ns)
            self._apart(step, event, now_ns)
            self._hear(event, run)
            call = _call_of(run, step)
            sources = {told.source for told in call.steps} if call is not None else set()
            if call is not None and sources == {Source.LOG}:
                # Nothing but logs tells of it: the cost goes on with the record.
                extra = call_attributes(call, run.id, Signal.LOGS)
                run.told.setdefault(call.id, call.nano)
            if call is not None and Source.SPAN not in sources:
                extra += self._said_of(run, b"", name_among(call), Signal.LOGS)
            if sources != {Source.LOG}:
                call = None
        return Outgoing(
            Signal.LOGS,
            self._position,
            event.raw,
            extra,
            event.resource,
            event.scope,
            call,
            event.tenant,
            event.trace_id,
        )

    def _metric(self, point: MetricPoint, now_ns: int) -> None:
        """A usage metric is kept aside; it counts when its run closes and nothing else has told of model calls."""
        measure = normalise_metric(point)
        if measure is None:
            return
        if self._tells:
            said = self._identity.of(point.attributes, point.resource.attributes, known=measure.who)
            said |= self.policy.said(point.attributes, point.resource.attributes)
            measure = replace(
                measure,
                session=said.pop("session", measure.session),
                agent=said.pop("agent", measure.agent),
                who=measure.who | said,
            )
        run = self.runs.meter(point, measure, self._position, now_ns)
        if run is not None:
            self._follow(run, now_ns)

    def _apart(self, step: Step | None, event: SpanEvent | LogEvent, now_ns: int) -> None:
        """Model calls that are told one by one silence the metrics of whoever sends them."""
        if step is not None and step.kind in MODEL_KINDS:
            run = self.runs.apart(step, event.resource, self._position)
            if run is not None:
                run.bill_metrics_again()
                self._follow(run, now_ns)

    def _identify(self, step: Step | None, event: SpanEvent | LogEvent) -> None:
        """Where the rules say who spends, they have the last word."""
        if step is None or not self._tells:
            return
        said = self._identity.of(event.attributes, event.resource.attributes, known=step.who)
        said |= self.policy.said(event.attributes, event.resource.attributes)
        step.session = said.pop("session", step.session)
        step.agent = said.pop("agent", step.agent)
        step.who = step.who | said

    def _follow(self, run: Run, now_ns: int) -> None:
        """What an event changed: runs that became one, calls that appeared or changed, agents that are one."""
        united = self.runs.united()
        for stays, went in united:
            self._watch.unite(stays, went)
            self.policy.forget(went)
            for call_id in went.calls:  # they are another run's from now on
                if call_id in stays.calls:
                    self._schedule(stays, call_id, now_ns)
        if (united or run.relabelled) and run.sessions:
            names = {*run.sessions, *(trace_id.hex() for trace_id in run.traces)}
            self._standing.name(run.tenant, names, run.sessions)
        if run.relabelled:
            run.relabelled = False
            for call_id in run.told:
                self._schedule(run, call_id, now_ns)
            self._budgets(self.policy.relabel(run, now_ns), now_ns)
        if not run.changes and not run.moves:
            return
        changes, run.changes = run.changes, []
        moves, run.moves = run.moves, []
        for was, now in moves:
            for alert in self._watch.move(run, was, now, now_ns):
                self._loops(run, _call_at(run, alert.at_span_id, changes), (alert,), now_ns)
        together = self._counts and len(changes) > 1 and any(change.new is None for change in changes)
        if together:
            self._budgets(self.policy.put_together(run, changes, now_ns), now_ns)
        for change in changes:
            self._changed(run, change, now_ns, counted=together)

    def _changed(self, run: Run, change: Change, now_ns: int, *, counted: bool = False) -> None:
        if self._changed_since is not None:
            self._changed_since.append((run, change))
        if self._counts and not counted:
            self._budgets(self.policy.put(run, change, now_ns), now_ns)
        call = change.new
        if call is None:
            gone = change.old
            if gone is not None and gone.id in run.told:
                self._correct(run, gone, run.told.pop(gone.id), None, "told by another record of the same call", now_ns)
                # With the row of the call that it is now: in between the ledger, and who hears of it, would miss money.
                self._gone[run.tenant, gone.id] = now_ns + self.settings.settle_ns, run
            self._alerts(self._escalation.take(run, change, now_ns))
            return
        if self._gone:
            self._gone.pop((run.tenant, call.id), None)
        if call.id in run.told and run.told[call.id] != call.nano:
            self._correct(run, call, run.told[call.id], call.nano, "a later record tells more", now_ns)
            run.told[call.id] = call.nano
        self._schedule(run, call.id, now_ns)
        if call.step.source is Source.METRIC:
            return  # a sum of calls has no shape
        if self._escalation.active:
            self._budgets(self._escalation.take(run, change, now_ns), now_ns)
        if call.kind is Kind.TOOL and self._standing.refused(call, run.tenant, run.sessions):
            return  # our own refusal is no failure of theirs
        if call.charge.reason is not Reason.MISSING_MODEL:  # else its parents, still to come, may name the model
            alerts = self._watch.feed(run, call, now_ns)
            if alerts or self._exemptions.news:
                self._loops(run, call, alerts, now_ns)

    def _schedule(self, run: Run, call_id: str, now_ns: int) -> None:
        row = (run, call_id)
        if row not in self._unwritten:
            self._unwritten.add(row)
            self._rows.append((now_ns + self._settle_ns, row))

    def _leave(self, gone: Iterable[tuple[str, str]]) -> None:
        """Calls that are none leave the ledger."""
        for key in list(gone):
            del self._gone[key]
            self._effects.gone.append(key)

    def _write(self, run: Run, call_id: str, now_ns: int) -> None:
        call = run.calls.get(call_id)
        if call is not None:
            who = run.who | call.step.who
            call.who = run.who if who == run.who else who  # nearly always shared by the whole run
            self._effects.calls.append((run.tenant, run.id, call))
            self._effects.joins += [(run.tenant, run.id, key) for key in run.new_keys()]
            run.told.setdefault(call.id, call.nano)
            if call.charge.reason is Reason.MISSING_MODEL and call.step.source is not Source.METRIC:
                self._loops(run, call, self._watch.feed(run, call, now_ns), now_ns)
            notices = self.policy.notice(run, call, now_ns)
            if notices or self._exemptions.news:
                self._alerts(notices)
            # The detectors have seen it, and another record of the same call would have come by now.
            call.step.forget_content()
            for step in call.steps:
                if step is not call.step:
                    step.forget_content()

    def _correct(self, run: Run, call: Call, old_nano: int | None, new_nano: int | None, why: str, now_ns: int) -> None:
        if old_nano == new_nano:
            return
        step = call.step
        said = Correction(run.tenant, run.id, call.id, step.trace_id, step.span_id, now_ns, old_nano, new_nano, why)
        self._effects.corrections.append(said)
        self._effects.outgoing.append(
            Outgoing(Signal.LOGS, self._position, correction_record(said), b"", OWN_RESOURCE, OWN_SCOPE)
        )

    def _loops(self, run: Run, call: Call | None, alerts: Iterable[Alert], now_ns: int) -> None:
        """Tell of loops, and let stand what their rules decide; the call's content is still there."""
        told = list(alerts)
        if not told and not self._exemptions.news:
            return
        for alert in told:
            self._escalation.looped(run, alert)
            rule = self._deciding.get(alert.rule)
            if rule is not None:
                self._standing.note(
                    alert,
                    rule.actions,
                    now_ns=now_ns,
                    call=call,
                    sessions=run.sessions,
                    shadow=rule.mode is Mode.SHADOW,
                    closed=rule.fail == "closed",
                )
        self._alerts(told)

    def _budgets(self, alerts: Iterable[Alert], now_ns: int) -> None:
        """Tell of budgets, and let stand what their rules decide."""
        told = list(alerts)
        for alert in told:
            self._stand(alert, now_ns)
        self._alerts(told)

    def _stand(self, alert: Alert, now_ns: int) -> None:
        order = self.policy.order(alert)
        if order is not None:
            self._standing.note(
                alert,
                order.actions,
                now_ns=now_ns,
                sessions=order.sessions,
                keys=order.keys,
                shadow=order.shadow,
                closed=order.closed,
                until_ns=order.until_ns,
            )
        elif alert.state != "firing":
            self._standing.note(alert, (), now_ns=now_ns)

    def _alerts(self, alerts: Iterable[Alert]) -> None:
        news, self._exemptions.news = self._exemptions.news, []
        for told in (*alerts, *news):
            stamp = {"rules_hash": self.rules.hash}
            if told.state == "firing" and told.category is not Category.PRICE and told.kind != "exception_used":
                stamp["would_change"] = would_change(told)
            alert = replace(told, evidence=told.evidence | stamp)
            self._effects.alerts.append(alert)
            if alert.state == "firing" and alert.action and alert.at_span_id:
                if len(self._verdicts) >= _MOST_DECIDED:
                    del self._verdicts[next(iter(self._verdicts))]  # of a span that had left before
                strictest = alert.action.partition(",")[0]
                self._verdicts[alert.tenant, alert.trace_id, alert.at_span_id] = strictest, alert.rule
            self._effects.outgoing.append(alert_outgoing(alert, self._position))

    def _extra(self, run: Run, span_id: bytes, step: Step) -> tuple[bytes, Call | None]:
        """What a span says of its cost as it leaves, and the call whose cost it carries; others say `duplicate`."""
        call = _call_of(run, step)
        if call is None:
            if step.rollup and step.usage is not None:
                return step_attributes(Status.ROLLUP, run.id), None
            return run_attributes(run.id), None
        if run.carrier.setdefault(call.id, span_id) != span_id:
            return step_attributes(Status.DUPLICATE, run.id), None
        run.told[call.id] = call.nano
        return call_attributes(call, run.id), call

    def _said_of(self, run: Run, trace_id: bytes, span_id: bytes, signal: Signal = Signal.TRACES) -> bytes:
        """The loop that a span belongs to and what a rule has decided because of it, as known when it leaves."""
        looping = self._watch.loop_of(run, span_id)
        decided = self._verdicts.pop((run.tenant, trace_id, span_id), None) if self._verdicts else None
        said = b""
        if looping is not None:
            alert, iteration, had_spoken = looping
            said = loop_attributes(alert.kind, alert.fingerprint, iteration, signal)
            if decided is None and had_spoken and alert.action:
                decided = alert.action.partition(",")[0], alert.rule
        return said if decided is None else said + decision_attributes(*decided, signal)

    def _released(self, held: Held, now_ns: int) -> Outgoing:
        run, step = held.run.current, held.step
        if step is not None and step.rollup and step.usage is not None:
            run.bill_lone_rollups(step.end_ns)
            self._follow(run, now_ns)
        extra, call = (b"", None) if step is None else self._extra(run, held.span_id, step)
        extra += self._said_of(run, held.trace_id, held.span_id)
        trace = run.traces.get(held.trace_id)
        if step is not None and step.kind is Kind.AGENT:
            extra += subtree_attributes(run.subtree_nano(step))
        if held.is_root and trace is not None and trace.calls:
            calls = trace.calls.values()
            extra += trace_attributes(
                summary.total(calls), summary.wasted(run), sum(call.kind in MODEL_KINDS for call in calls)
            )
            extra = extra if step is not None else run_attributes(run.id) + extra
        return Outgoing(
            Signal.TRACES,
            held.position,
            held.raw,
            extra,
            held.resource,
            held.scope,
            call,
            run.tenant,
            held.trace_id,
            held.is_root,
        )

    def _close(self, run: Run, now_ns: int) -> None:
        self.runs.silence(run)
        run.finish()
        self._follow(run, now_ns)
        for call_id in run.calls:
            if (run, call_id) in self._unwritten:  # else written as it stands
                self._unwritten.discard((run, call_id))
                self._write(run, call_id, now_ns)
        if self._gone:
            self._leave(key for key, (_, of) in self._gone.items() if of is run)
        self._loops(run, None, self._watch.finish(run, now_ns), now_ns)
        self._budgets(self.policy.catch_up(run, now_ns), now_ns)
        self.policy.forget(run)
        self._alerts(self._escalation.forget(run, now_ns))
        # Else only metrics that others told as well.
        if run.calls or run.steps or run.told or run.was_written or run.meter is None:
            closed = summary.close(run)
            self._effects.closed.append(closed)
            if self.drift and (ran := ran_of(run, closed.summary)) is not None:
                said = self.drift.observe(ran, now_ns)
                self._alerts(said.alerts)
                self._effects.again += said.again


def _keys(trace_id: bytes, step: Step | None) -> list[str]:
    """The keys of an event as text, the strongest first."""
    keys = [trace_id.hex()] if trace_id else []
    if step is not None:
        keys += [f"session:{step.session}"] if step.session else []
        keys += [key for key in step.ids if not key.startswith(REPEATABLE)]
    return keys


def _call_at(run: Run, span_id: bytes, changes: Sequence[Change]) -> Call | None:
    """The call that made an alert fire: by its span, else the one that has just been told of."""
    if span_id:
        return next((call for call in run.calls.values() if call.step.span_id == span_id), None)
    return next((change.new for change in reversed(changes) if change.new is not None), None)


def _call_of(run: Run, step: Step) -> Call | None:
    component = run.component(step)
    if not component:
        return None
    call = component[0]
    if call.step is step and len(component) == 1:
        return call
    for call in component:
        if any(told is step or (told.span_id and told.span_id == step.span_id) for told in call.steps):
            return call
    return None


_TRACES = Signal.TRACES  # looking a member up on its class takes longer than most of what is done with it
_AGENT = Kind.AGENT
_ROOT_KEYS = (b"session.id", b"conversation.id", b"user.id", b"user.email")


def _bare_root(event: SpanEvent) -> Step | None:
    """An application's own root span often says whose session it is; nothing else of it matters here."""
    if not any(key in event.raw for key in _ROOT_KEYS):
        return None
    attributes = event.attributes
    session = text(attributes, "gen_ai.conversation.id", "conversation.id", "session.id")
    who = who_of(attributes, event.resource)
    if session is None and not who:
        return None
    return Step(
        source=Source.SPAN,
        dialect="application",
        scope=event.scope.name,
        kind=Kind.OTHER,
        tenant=event.tenant,
        trace_id=event.trace_id,
        span_id=event.span_id,
        name=event.name or text(attributes, "http.route") or "",
        start_ns=event.start_ns,
        end_ns=event.end_ns,
        session=session,
        who=who,
        failed=event.is_error,
    )
