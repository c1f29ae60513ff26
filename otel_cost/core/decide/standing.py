"""Standing: what rules have decided about runs that go on, and the answer to each hook call from it.

A look-up in memory, no engine needed. Alerts that fire put an entry for each
decision their rule asks for; alerts that resolve take it away. Time is passed in.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, TypeVar

from otel_cost.core.decide import ALLOWED, CALLS, Decision, Verb, carried, strictest
from otel_cost.core.decide.kept import pack, unpack
from otel_cost.core.decide.shape import error_hash, shape_of_event, shape_of_step
from otel_cost.core.decide.texts import closed_text
from otel_cost.core.decide.words import decisions_of
from otel_cost.core.model.finding import Alert
from otel_cost.core.model.vocabulary import Category, Kind, Severity, Source

if TYPE_CHECKING:
    from collections.abc import Callable, Container, ItemsView, Iterable, Iterator, Mapping

    from otel_cost.core.decide.shape import CallShape
    from otel_cost.core.model.call import Call
    from otel_cost.core.model.event import HookEvent
    from otel_cost.core.rules.kind import Actions

V = TypeVar("V")

KEEP_NS: Final = 24 * 3600 * 10**9
_MOST_KEYS: Final = 20_000
_MOST_PER_KEY: Final = 64
_MOST_SHAPES: Final = 32
_MOST_FAILURES: Final = 16
_MOST_GENERATIONS: Final = 8

WHO_AT_HOOKS: Final = {"user": "user.id", "team": "team.id", "workflow": "otel_cost.workflow"}
"""Whom a decision may be about, and as which attribute a hook tells it."""
_MODELS: Final = frozenset({"before_model", "prompt"})


class Failure(NamedTuple):
    """A failed tool call as it is remembered."""

    error: bytes
    shape: CallShape
    tool_call_id: str | None


class Refusal(NamedTuple):
    """A tool call that was refused: telemetry will tell of it as one that failed."""

    tool: str | None
    tool_call_id: str | None
    shape: str | None


@dataclass(slots=True, eq=False)
class Entry:
    """One decision that stands until its alert resolves."""

    alert: tuple[str, str]  # tenant, fingerprint
    decision: Decision
    scope: str  # of a deny: same_call, tool, model, all; of others ""
    begun_ns: int
    until_ns: int
    shadow: bool
    closed: bool  # its rule fails closed
    agents: frozenset[str | None] | None = None  # only these; None: the whole run
    tool: str | None = None
    error: bytes | None = None
    varied: bool = False
    shapes: list[CallShape] = field(default_factory=list)
    said: bool = False
    asked: set[str] = field(default_factory=set)
    granted: bool = False
    let_by: set[str] = field(default_factory=set)  # calls left to the harness's own question
    leaky: bool = False  # one of them ran all the same


class _Recent(Generic[V]):
    """A mapping that forgets what was used longest ago."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._items: OrderedDict[tuple[str, ...], V] = OrderedDict()

    def get(self, key: tuple[str, ...]) -> V | None:
        found = self._items.get(key)
        if found is not None:
            self._items.move_to_end(key)
        return found

    def put(self, key: tuple[str, ...], value: V) -> None:
        self._items[key] = value
        self._items.move_to_end(key)
        while len(self._items) > self._most:
            self._items.popitem(last=False)

    def drop(self, key: tuple[str, ...]) -> V | None:
        return self._items.pop(key, None)

    def items(self) -> ItemsView[tuple[str, ...], V]:
        return self._items.items()

    def __len__(self) -> int:
        return len(self._items)


class Standing:
    """What stands, by session, trace, user, team, workflow; bounded, oldest first to go.

    Args:
        fails_closed: the rule that a run must not go on without while nobody
            answers, for what is known of it at this event; None: there is none.
    """

    def __init__(self, fails_closed: Callable[[HookEvent], str | None] = lambda _event: None) -> None:
        self._fails_closed = fails_closed
        self._entries: _Recent[list[Entry]] = _Recent(_MOST_KEYS)
        self._alerts: _Recent[tuple[str, ...]] = _Recent(_MOST_KEYS)  # alert → keys of its entries
        self._parents: _Recent[str] = _Recent(_MOST_KEYS)
        self._failures: _Recent[deque[Failure]] = _Recent(_MOST_KEYS)
        self._refusals: _Recent[deque[Refusal]] = _Recent(_MOST_KEYS)
        self._refused: _Recent[bool] = _Recent(_MOST_KEYS)  # calls known to be refused ones
        self._asks: _Recent[set[str]] = _Recent(_MOST_KEYS)  # tools for which the harness was seen to ask leave

    # ---- what happens --------------------------------------------------------

    def observe(self, event: HookEvent) -> None:
        """Take a hook call in, before its step goes through the detectors."""
        tenant, session = event.tenant, event.session
        agent = (tenant, event.agent_id or session)
        if event.parent_session and event.parent_session != session:
            self._parents.put((tenant, session), event.parent_session)
        if event.event == "permission" and event.tool is not None:
            asks = self._asks.get(agent) or set()
            if len(asks) < _MOST_PER_KEY:
                asks.add(event.tool)
            self._asks.put(agent, asks)
        if event.event != "after_tool":
            return
        shape = shape_of_event(event)
        if shape is None:
            return
        entries = [entry for entry in self._matching(event) if _concerns(entry, event)]
        for entry in entries:
            entry.leaky |= shape.exact in entry.let_by
            entry.granted |= shape.exact in entry.asked
        if event.failed and event.error:
            failure = Failure(error_hash(shape.tool, event.error), shape, event.tool_call_id)
            for entry in entries:
                # The same failure by other arguments: these are not to be tried again either.
                if entry.error == failure.error and entry.tool == shape.tool:
                    _remember(entry.shapes, shape)
            key = _agent_key(tenant, session, event.agent_id)
            failures = self._failures.get(key) or deque(maxlen=_MOST_FAILURES)
            failures.append(failure)
            self._failures.put(key, failures)

    def note(
        self,
        alert: Alert,
        actions: Actions,
        *,
        now_ns: int,
        call: Call | None = None,
        sessions: Iterable[str] = (),
        keys: Iterable[str] = (),
        shadow: bool = False,
        closed: bool = False,
        until_ns: int | None = None,
    ) -> None:
        """Take what a rule's alert decides; a firing alert adds, a resolved one takes away.

        Args:
            alert: as told. Its run and trace are among the keys.
            actions: the rule's `do:`.
            now_ns: the time.
            call: the call that made it fire, its content still there. The decision
                then concerns its agent only (a stop: the whole run).
            sessions: all sessions of the run.
            keys: whom it concerns besides: `user:…`, `team:…`, `workflow:…`, or `*`.
                With keys the run itself is named by `sessions` only.
            shadow: the rule only tells what it would do.
            closed: the rule fails closed.
            until_ns: the end of a budget's window, where that comes before the alert resolves.
        """
        identity = (alert.tenant, alert.fingerprint)
        before = self._drop(identity)
        if alert.state != "firing":
            return
        whom = {f"session:{session}" for session in sessions}
        others = set(keys)
        if not others:
            whom |= {f"session:{alert.run_id}", *({f"trace:{alert.trace_id.hex()}"} if alert.trace_id else ())}
        whom |= others
        made = [
            Entry(
                alert=identity,
                decision=decision,
                scope=scope,
                begun_ns=now_ns,
                until_ns=now_ns + KEEP_NS if until_ns is None else until_ns,
                shadow=shadow,
                closed=closed,
            )
            for decision, scope in decisions_of(alert, actions)
        ]
        for entry in made:
            for known in before:
                if known.decision.evidence.get("alert") == alert.id and known.decision.verb is entry.decision.verb:
                    entry.said, entry.granted, entry.asked = known.said, known.granted, known.asked
            if call is not None:
                self._narrow(entry, alert, call, sessions)
        for key in sorted(whom):
            entries = self._entries.get((alert.tenant, key)) or []
            entries.extend(made)
            del entries[:-_MOST_PER_KEY]
            self._entries.put((alert.tenant, key), entries)
        if made:
            self._alerts.put(identity, tuple(sorted(whom)))

    def name(self, tenant: str, names: Iterable[str], sessions: Iterable[str]) -> None:
        """A run got sessions that it was not known by: what stood for it stands for those who ask in their names.

        Spans of children leave before the root that names the conversation, so a loop may
        have fired while only the trace was known.

        Args:
            tenant: whose run it is.
            names: what it was called before: trace ids in hex and sessions.
            sessions: all of its sessions now.
        """
        if not len(self._alerts):
            return
        lists = (self._entries.get((tenant, f"session:{name}")) for name in names)
        standing = {id(entry): entry for entries in lists for entry in entries or ()}
        if not standing:
            return
        keys = [f"session:{session}" for session in sorted(sessions)]
        for key in keys:
            entries = self._entries.get((tenant, key)) or []
            entries += [entry for entry in standing.values() if entry not in entries]
            del entries[:-_MOST_PER_KEY]
            self._entries.put((tenant, key), entries)
        for identity in {entry.alert for entry in standing.values()}:
            self._alerts.put(identity, tuple(sorted({*(self._alerts.get(identity) or ()), *keys})))

    def revise(
        self, rules: Mapping[str, Ruling], anew: Container[str], fails_closed: Callable[[HookEvent], str | None]
    ) -> None:
        """Stand by other rules from now on: a rule that is gone decides nothing, an edited one what it says now.

        Args:
            rules: those whose decisions stand until their alerts resolve.
            anew: those of which `note` will be told again.
            fails_closed: as for a new one.
        """
        self._fails_closed = fails_closed
        for identity, keys in list(self._alerts.items()):
            entries = [entry for entry in self._entries.get((identity[0], keys[0])) or () if entry.alert == identity]
            rule = entries[0].decision.rule or "" if entries else ""
            ruling = rules.get(rule)
            if rule in anew:
                continue
            if ruling is None:
                self._drop((identity[0], identity[1]))
                continue
            made = [
                _revised(entries, ruling, decision, scope) for decision, scope in _again(entries[0], ruling.actions)
            ]
            for key in keys:
                others = [one for one in self._entries.get((identity[0], key)) or () if one.alert != identity]
                self._entries.put((identity[0], key), [*others, *made])

    # ---- the answer ----------------------------------------------------------

    def decide(self, event: HookEvent, said: Iterable[Decision] = (), shadowed: Iterable[Decision] = ()) -> Decision:
        """What stands for this event, as far as its harness obeys it there. Changes only what was said once.

        `said`, `shadowed`: words of other rules about this very event, enforced or not.
        """
        spoken: list[Decision] = list(said)
        shadow: list[Decision] = list(shadowed)
        stop: Decision | None = None
        closed = self._fails_closed(event)
        for entry in self._matching(event):
            if entry.decision.verb is Verb.STOP and not entry.shadow:
                stop = stop or entry.decision
            if entry.closed and not entry.shadow:
                closed = closed or entry.decision.rule
            if not _concerns(entry, event):
                continue
            decision = self._word(entry, event)
            if decision.verb is Verb.ALLOW:
                continue
            if entry.shadow:
                shadow.append(decision)
                continue
            if decision.verb is Verb.WARN:
                entry.said = True
            spoken.append(decision)
        decision = strictest(spoken) if spoken else ALLOWED
        if decision.verb in {Verb.DENY, Verb.STOP} and event.event in CALLS and not decision.defer:
            self._refuse(event)
        outage = stop or (_closed(closed) if closed is not None else None)
        if not shadow and outage is None:
            return decision
        return replace(decision, shadow=(*decision.shadow, *shadow), outage=outage)

    # ---- over a restart ------------------------------------------------------

    def keep(self, rules: Container[str]) -> bytes:
        """What stands because of these rules, for `restore` in another process."""
        kept: dict[int, tuple[list[str], Entry]] = {}
        for (_, key), entries in self._entries.items():
            for entry in entries:
                if entry.decision.rule in rules:
                    kept.setdefault(id(entry), ([], entry))[0].append(key)
        return pack(kept.values(), ((tenant, child, parent) for (tenant, child), parent in self._parents.items()))

    def restore(self, kept: bytes, rules: Container[str], until_ns: int) -> None:
        """Let stand again what was kept, where its rule is still there, until `until_ns` at the latest."""
        entries, parents = unpack(kept)
        for tenant, child, parent in parents:
            self._parents.put((tenant, child), parent)
        for keys, told in entries:
            entry = Entry(**(told | {"until_ns": min(told["until_ns"], until_ns)}))
            if entry.decision.rule not in rules:
                continue
            tenant = entry.alert[0]
            for key in keys:
                self._entries.put((tenant, key), [*(self._entries.get((tenant, key)) or ()), entry])
            self._alerts.put(entry.alert, tuple(sorted({*(self._alerts.get(entry.alert) or ()), *keys})))

    def refused(self, call: Call, tenant: str, sessions: Iterable[str]) -> bool:
        """Is this failed tool call, of which only telemetry tells, one that was refused here? Then it tells no news.

        By the call's id; where hooks have none, each refusal stands for one failed call of its tool.
        """
        if call.kind is not Kind.TOOL or not len(self._refusals):
            return False
        if any(step.source is Source.HOOK for step in call.steps):
            return False  # it ran: hooks tell of what has run only
        if self._refused.get((tenant, call.id)):
            return True
        step = call.step
        for session in sorted(sessions):
            refusals = self._refusals.get((tenant, session)) or deque()
            for refusal in refusals:
                if refusal.tool_call_id is not None and step.tool_call_id is not None:
                    same = refusal.tool_call_id == step.tool_call_id
                else:
                    shape = shape_of_step(step)
                    same = call.failed and refusal.tool == step.tool
                    same = same and (shape is None or refusal.shape in {None, shape.exact})
                if same:
                    if refusal.tool_call_id is None:
                        refusals.remove(refusal)
                    self._refused.put((tenant, call.id), True)
                    return True
        return False

    def root(self, tenant: str, session: str) -> str:
        """The session at the top of those that started this one."""
        return [session, *self.ancestors(tenant, session)][-1]

    def ancestors(self, tenant: str, session: str) -> list[str]:
        """The sessions that started this one, the nearest first."""
        return list(self._ancestors(tenant, session))

    # ---- inside --------------------------------------------------------------

    def _refuse(self, event: HookEvent) -> None:
        shape = shape_of_event(event)
        refusals = self._refusals.get((event.tenant, event.session)) or deque(maxlen=_MOST_PER_KEY)
        refusals.append(Refusal(event.call[0], event.tool_call_id, None if shape is None else shape.exact))
        self._refusals.put((event.tenant, event.session), refusals)

    def _word(self, entry: Entry, event: HookEvent) -> Decision:
        """One entry's word at this event, `ALLOWED` where it has none."""
        decision = carried(entry.decision, event)
        asked = entry.decision.verb
        match decision.verb:
            case Verb.WARN if entry.said:
                return ALLOWED
            case Verb.DELAY if event.event not in CALLS | _MODELS:
                return ALLOWED
            case Verb.ASK if entry.granted:
                return ALLOWED
            case Verb.ASK if not event.event.startswith("before"):
                return ALLOWED
            case Verb.ASK:
                if (shape := shape_of_event(event)) is not None and len(entry.asked) < _MOST_SHAPES:
                    entry.asked.add(shape.exact)
            case Verb.DENY if asked is not Verb.ASK and not _denies(entry, event):
                return ALLOWED
            case Verb.STOP if self._will_be_asked(entry, event):
                return replace(decision, defer=True)
        return decision

    def _will_be_asked(self, entry: Entry, event: HookEvent) -> bool:
        """The harness asks leave for this call next, and ends the run there; a refusal now would keep it from that."""
        if event.event != "before_tool" or entry.leaky or "permission" not in event.gates:
            return False
        asks = self._asks.get((event.tenant, event.agent_id or event.session))
        if asks is None or event.tool not in asks:
            return False
        shape = shape_of_event(event)
        if shape is not None and len(entry.let_by) < _MOST_SHAPES:
            entry.let_by.add(shape.exact)
        return True

    def _matching(self, event: HookEvent) -> Iterator[Entry]:
        """Entries of the event's run, its ancestors and its people; each once."""
        if not len(self._entries):
            return
        keys = [f"session:{one}" for one in (event.session, *self._ancestors(event.tenant, event.session)) if one]
        if event.agent_id:
            keys.append(f"session:{event.agent_id}")
        if event.trace_id:
            keys.append(f"trace:{event.trace_id.hex()}")
        for dimension, name in WHO_AT_HOOKS.items():
            told = event.attributes.get(name)
            if isinstance(told, str) and told:
                keys.append(f"{dimension}:{told}")
        keys.append("*")
        seen: set[int] = set()
        for key in keys:
            for entry in self._entries.get((event.tenant, key)) or ():
                if id(entry) not in seen and entry.until_ns > event.received_ns:
                    seen.add(id(entry))
                    yield entry

    def _ancestors(self, tenant: str, session: str) -> Iterator[str]:
        seen = {session}
        for _ in range(_MOST_GENERATIONS):
            parent = self._parents.get((tenant, session))
            if parent is None or parent in seen:
                return
            seen.add(parent)
            yield parent
            session = parent

    def _narrow(self, entry: Entry, alert: Alert, call: Call, sessions: Iterable[str]) -> None:
        """To the agent that loops and, for a deny, to the shapes of its calls."""
        told = [step for step in call.steps if step.source is Source.HOOK]
        if told and entry.decision.verb is not Verb.STOP:
            entry.agents = frozenset(step.agent_id for step in told)
        step = told[-1] if told else call.step
        if step.kind is not Kind.TOOL or entry.scope not in {"same_call", "tool"}:
            return
        entry.tool = step.tool
        entry.varied = alert.evidence.get("arguments") == "varied"
        if (shape := shape_of_step(step)) is not None:
            entry.shapes.append(shape)
        message = step.error_message or (step.result if call.failed else None)
        if message:
            entry.error = error_hash(step.tool, message)
        homes = {*sessions, alert.run_id, *((step.session,) if step.session else ())}
        for home in sorted(homes):
            for agent_id in entry.agents or (None,):
                for failure in self._failures.get(_agent_key(alert.tenant, home, agent_id)) or ():
                    same_call = failure.tool_call_id is not None and failure.tool_call_id == call.step.tool_call_id
                    if same_call:
                        entry.tool, entry.error = failure.shape.tool, failure.error
                    if same_call or failure.error == entry.error:
                        _remember(entry.shapes, failure.shape)

    def _drop(self, identity: tuple[str, str]) -> list[Entry]:
        """Take away what stands because of an alert, and say what that was."""
        gone: dict[int, Entry] = {}
        for key in self._alerts.drop(identity) or ():
            entries = self._entries.get((identity[0], key)) or []
            gone |= {id(entry): entry for entry in entries if entry.alert == identity}
            kept = [entry for entry in entries if entry.alert != identity]
            if kept:
                self._entries.put((identity[0], key), kept)
            else:
                self._entries.drop((identity[0], key))
        return list(gone.values())


class Ruling(NamedTuple):
    """What a rule decides, and how."""

    actions: Actions
    shadow: bool
    closed: bool


def _again(entry: Entry, actions: Actions) -> Iterator[tuple[Decision, str]]:
    """What a rule's actions decide, from what was told when it fired."""
    said = entry.decision
    told = Alert(
        id=str(said.evidence.get("alert", "")),
        tenant=entry.alert[0],
        run_id=str(said.evidence.get("run_id", "")),
        trace_id=b"",
        rule=said.rule or "",
        category=Category.LOOP,
        kind=str(said.evidence.get("kind", "")),
        state="firing",
        seq=1,
        severity=Severity.WARNING,
        span_ids=(),
        onset_span_id=b"",
        at_span_id=b"",
        at_ns=entry.begun_ns,
        wasted_nano=None,
        action="",
        summary=said.reason,
        fingerprint=entry.alert[1],
        evidence=said.evidence,
    )
    return decisions_of(told, actions)


def _revised(entries: list[Entry], ruling: Ruling, decision: Decision, scope: str) -> Entry:
    """An entry for what is decided now, about the same calls as before; a word that was said is not said again."""
    like = next((one for one in entries if one.decision.verb is decision.verb and one.scope == scope), None)
    made = replace(like or entries[0], decision=decision, scope=scope, shadow=ruling.shadow, closed=ruling.closed)
    if like is None:
        made.said, made.granted, made.asked, made.let_by, made.leaky = False, False, set(), set(), False
    return made


def _concerns(entry: Entry, event: HookEvent) -> bool:
    return entry.agents is None or event.agent_id in entry.agents


def _denies(entry: Entry, event: HookEvent) -> bool:
    """Is this event what a deny refuses? A refused model call, where a harness does not ask, is every tool call."""
    match entry.scope:
        case "same_call":
            shape = shape_of_event(event) if event.event in CALLS else None
            return shape is not None and any(one.is_same(shape, varied=entry.varied) for one in entry.shapes)
        case "tool":
            return event.event in CALLS and event.call[0] == entry.tool
        case "all":
            return event.event in CALLS | _MODELS
    return event.event in _MODELS or (event.event in CALLS and "before_model" not in event.gates)


def _remember(shapes: list[CallShape], shape: CallShape) -> None:
    if len(shapes) < _MOST_SHAPES and all(one.exact != shape.exact for one in shapes):
        shapes.append(shape)


def _agent_key(tenant: str, session: str, agent_id: str | None) -> tuple[str, ...]:
    return tenant, session, agent_id or ""


def _closed(rule: str) -> Decision:
    return Decision(verb=Verb.DENY, rule=rule, reason="cost control does not answer", text=closed_text(rule))
