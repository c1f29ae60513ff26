"""Outcomes: from records, webhooks and requests to news about work, from news to runs, from there to a verdict.

News and runs find each other by keys that both sides make from what they know:
trace and session, and where the work ended up: branch, commit, ticket. A branch or
a ticket's number means something in its repository only, so where both sides know
the repository it must be the same.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from math import isfinite
from typing import TYPE_CHECKING, Any, Final

from otel_cost.core.decode.otlp import span_events
from otel_cost.core.model.attributes import ask, text
from otel_cost.core.model.event import SpanEvent
from otel_cost.core.model.money import nano_to_text
from otel_cost.core.model.outcome import UNJUDGED, Judgement, Outcome, Result, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from otel_cost.core.model.attributes import Attributes
    from otel_cost.core.model.event import LogEvent, Resource
    from otel_cost.core.rules.match import Matcher

EVALUATION: Final = "gen_ai.evaluation.result"
OWN_ATTRIBUTE: Final = "otel_cost.outcome"
_EVALUATED: Final = "gen_ai.evaluation.name"

BRANCH: Final = ("vcs.ref.head.name",)
COMMIT: Final = ("vcs.ref.head.revision",)
TICKET: Final = ("otel_cost.ticket", "ticket.id", "issue.id", "vcs.change.id")
_REPOSITORY: Final = ("vcs.repository.name", "vcs.repository.url.full")
PLACES: Final = frozenset((*BRANCH, *COMMIT, *TICKET))
ask(*PLACES)

JOINS: Final = {
    "trace": "trace",
    "session": "session",
    "gen_ai.conversation.id": "session",
    **dict.fromkeys((*BRANCH, "branch"), "branch"),
    **dict.fromkeys((*COMMIT, "commit"), "commit"),
    **dict.fromkeys((*TICKET, "ticket"), "ticket"),
}
"""What rules may join by → the kind of key that makes."""

# Words of judges, lower case. What is not here says nothing without a rule.
_GOOD: Final = frozenset(
    [
        "pass",
        "passed",
        "true",
        "yes",
        "correct",
        "success",
        "successful",
        "succeeded",
        "good",
        "accept",
        "accepted",
        "approved",
        "relevant",
        "faithful",
        "grounded",
        "resolved",
        "solved",
        "merged",
        "done",
        "ok",
        "safe",
        "compliant",
        "worth_it",
    ]
)
_BAD: Final = frozenset(
    [
        "fail",
        "failed",
        "false",
        "no",
        "incorrect",
        "failure",
        "unsuccessful",
        "bad",
        "reject",
        "rejected",
        "denied",
        "irrelevant",
        "not_relevant",
        "unfaithful",
        "ungrounded",
        "not_grounded",
        "hallucinated",
        "unresolved",
        "unsolved",
        "error",
        "wrong",
        "unsafe",
        "waste",
        "abandoned",
    ]
)
# Whose word counts more: where work ends up, then what the application says itself, then a judge.
_WEIGHT: Final = {"github": 3, "api": 3, "attribute": 2, "event": 2, "evaluation": 1}
_DAY_NS: Final = 86_400 * 10**9
REACH_NS: Final = 90 * _DAY_NS
"""A branch, commit or ticket leads to runs that began so long before the news at most."""
_SLACK_NS: Final = 3600 * 10**9  # clocks of two machines
_LONGEST: Final = 200
_MOST: Final = 64  # outcomes of one record


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeRule:
    """One rule of kind `outcomes`. `pattern`: of an evaluation's name, or the name of an attribute or event."""

    name: str
    origin: str  # evaluation | attribute | event | github
    pattern: str
    condition: Matcher
    joins: frozenset[str]  # kinds of keys; empty: all there are
    value: Result
    otherwise: Result | None  # where the condition does not hold; None: then it is no news


# ---- keys --------------------------------------------------------------------


def keys_of(
    *,
    trace: str | None = None,
    session: str | None = None,
    run: str | None = None,
    response: str | None = None,
    branch: str | None = None,
    commit: str | None = None,
    ticket: str | None = None,
    repository: str | None = None,
) -> tuple[str, ...]:
    """Keys by which news looks for runs. A run's id is its session or its trace."""
    keys = [f"session:{session}"] if session else []
    if trace:
        keys.append(f"trace:{trace.lower()}")
    if run:
        keys.append(f"session:{run}")
        if re.fullmatch(r"[0-9a-fA-F]{32}", run):
            keys.append(f"trace:{run.lower()}")
    if response:
        keys.append(f"response:{response}")
    repo = _repository(repository)
    if branch:
        keys += _wanted("branch", _branch(branch), repo)
    if commit:
        keys.append(f"commit:{commit.lower()}")
    if ticket:
        where, number = _ticket(ticket)
        keys += _wanted("ticket", number, where or repo) if number.isdigit() else [f"ticket:{number}"]
    return tuple(dict.fromkeys(keys))


def joins_of(said: Mapping[str, str]) -> frozenset[str]:
    """Keys by which a run can be found, from what its records say of branch, commit, ticket and repository."""
    repo = _repository(_first(said, _REPOSITORY))
    keys: set[str] = set()
    for names, kind in ((BRANCH, "branch"), (COMMIT, "commit"), (TICKET, "ticket")):
        for name in names:
            value = said.get(name)
            if not value:
                continue
            if kind == "commit":
                keys.add(f"commit:{value.lower()}")
            elif kind == "branch":
                keys |= _offered("branch", _branch(value), repo)
            else:
                where, number = _ticket(value)
                keys |= _offered("ticket", number, where or repo) if number.isdigit() else {f"ticket:{number}"}
    return frozenset(keys)


class Places:
    """What records say of where work ends up. One object per engine: it remembers the resource it saw last."""

    def __init__(self) -> None:
        self._resource: Resource | None = None
        self._of_resource: dict[str, str] = {}
        self._keys: frozenset[str] | None = None  # of the resource alone

    def of(self, event: SpanEvent | LogEvent) -> frozenset[str] | None:
        """The keys that a record gives its run; None: none."""
        keys = self.of_resource(event.resource)
        if PLACES.isdisjoint(event.attributes.told()):
            return keys
        return joins_of(self._of_resource | _said(event.attributes))

    def of_resource(self, resource: Resource) -> frozenset[str] | None:
        """What a record gets from its resource alone."""
        if resource is not self._resource:
            self._resource = resource
            said = self._of_resource = _said(resource.attributes)
            self._keys = joins_of(said) if said else None
        return self._keys


def _said(attributes: Attributes) -> dict[str, str]:
    asked = (*BRANCH, *COMMIT, *TICKET, *_REPOSITORY)
    said: dict[str, str] = {}
    for name in asked:
        value = attributes.get(name)
        if isinstance(value, str | int) and not isinstance(value, bool) and value != "":
            said[name] = str(value)[:_LONGEST]
    return said


def _first(said: Mapping[str, str], names: Iterable[str]) -> str | None:
    return next((said[name] for name in names if name in said), None)


def _wanted(kind: str, name: str, repo: str | None) -> list[str]:
    """A run of the same repository, or one that does not say which; without a repository any run."""
    return [f"{kind}:{name}"] if repo is None else [f"{kind}:{repo}@{name}", f"{kind}:?@{name}"]


def _offered(kind: str, name: str, repo: str | None) -> set[str]:
    return {f"{kind}:{name}", f"{kind}:{repo or '?'}@{name}"}


def _branch(name: str) -> str:
    return name.removeprefix("refs/heads/")


def _repository(said: str | None) -> str | None:
    """The repository's own name: owners differ between forks and mirrors."""
    if not said:
        return None
    return said.rstrip("/").removesuffix(".git").rpartition("/")[2].rpartition(":")[2].lower() or None


def _ticket(said: str) -> tuple[str | None, str]:
    """Repository, where it is said, and the ticket: `12`, `#12`, `org/repo#12`, an issue's address, `PROJ-12`."""
    said = said.strip()
    found = re.fullmatch(r"https?://[^/]+/(?:.*/)?([^/]+)/(?:-/)?(?:issues|pull|merge_requests)/(\d+)/?", said)
    if found:
        return found[1].lower(), found[2]
    found = re.fullmatch(r"(?:[\w.-]+/)?([\w.-]+)#(\d+)", said)
    if found:
        return found[1].lower(), found[2]
    return None, said.removeprefix("#").lower()


# ---- what records say ----------------------------------------------------------


class Reader:
    """What spans and log records say of outcomes, under the rules of kind `outcomes`; evaluations also without any.

    `keys`: the attributes in which it may be; `reads_resource`: those of the resource, too.
    """

    def __init__(self, rules: Sequence[OutcomeRule] = ()) -> None:
        self._rules = [rule for rule in rules if rule.origin != "github"]
        self._attributes = [rule for rule in self._rules if rule.origin == "attribute"]
        self._own = not any(rule.pattern == OWN_ATTRIBUTE for rule in self._attributes)
        self._events = {EVALUATION, *(rule.pattern for rule in self._rules if rule.origin == "event")}
        self.keys = frozenset(
            {_EVALUATED, OWN_ATTRIBUTE, *(rule.pattern for rule in self._rules if rule.origin == "attribute")}
        )
        ask(*self.keys)
        self._names = tuple(name.encode() for name in self._events)
        self.reads_resource = any(rule.origin == "attribute" for rule in self._rules)

    def read(self, event: SpanEvent | LogEvent) -> list[Outcome]:
        """News in one record; nearly always none, which costs a look at its keys."""
        if not self.reads_resource and self.keys.isdisjoint(event.attributes.told()) and not self._has_event(event):
            return []
        found: list[Outcome] = []
        at_ns = event.end_ns if isinstance(event, SpanEvent) else event.time_ns
        if isinstance(event, SpanEvent):
            for index, inner in enumerate(span_events(event.raw_events)):
                if inner.name in self._events:
                    found += self._of_event(inner.name, inner.attributes, event, inner.time_ns or at_ns, str(index))
            if _EVALUATED in event.attributes:
                found += self._of_event(EVALUATION, event.attributes, event, at_ns, "self")
        elif event.name in self._events:
            found += self._of_event(event.name, event.attributes, event, at_ns, event.name)
        found += self._of_attributes(event, at_ns)
        return found[:_MOST]

    def _has_event(self, event: SpanEvent | LogEvent) -> bool:
        if not isinstance(event, SpanEvent):
            return event.name in self._events
        return any(name in raw for raw in event.raw_events for name in self._names)

    def _of_event(
        self, name: str, said: Attributes, event: SpanEvent | LogEvent, at_ns: int, place: str
    ) -> Iterator[Outcome]:
        if name != EVALUATION:
            facts = {key: said.get(key) for key in said}
            for rule in self._rules:
                if rule.origin == "event" and rule.pattern == name:
                    value = _decided(rule, facts)
                    if value is not None:
                        yield _outcome(event, said, rule.name, value, at_ns, "event", place, rule.joins)
            return
        judge = text(said, "gen_ai.evaluation.name") or "evaluation"
        label = text(said, "gen_ai.evaluation.score.label")
        score = _number(said.get("gen_ai.evaluation.score.value"))
        facts = {"name": judge, "label": label, "score": score}
        ruled = [rule for rule in self._rules if rule.origin == "evaluation" and fnmatchcase(judge, rule.pattern)]
        for rule in ruled:
            value = _decided(rule, facts)
            if value is not None:
                yield _outcome(
                    event, said, rule.name, value, at_ns, "evaluation", place, rule.joins, label=label, score=score
                )
        if not ruled:
            value = Result.UNKNOWN if text(said, "error.type") else result_of(label, score)
            yield _outcome(event, said, judge[:_LONGEST], value, at_ns, "evaluation", place, label=label, score=score)

    def _of_attributes(self, event: SpanEvent | LogEvent, at_ns: int) -> Iterator[Outcome]:
        for rule in self._attributes:
            value = event.attributes.get(rule.pattern)
            if value is None:
                value = event.resource.attributes.get(rule.pattern)
            if value is None:
                continue
            decided = _decided(rule, {"value": value, rule.pattern: value})
            if decided is not None:
                yield _outcome(event, event.attributes, rule.name, decided, at_ns, "attribute", rule.name, rule.joins)
        said = text(event.attributes, OWN_ATTRIBUTE) if self._own else None
        if said is not None:
            value_ = result_of(said, None)
            yield _outcome(event, event.attributes, "outcome", value_, at_ns, "attribute", OWN_ATTRIBUTE, label=said)


def result_of(label: str | None, score: float | None) -> Result:
    """What a judge's word means without a rule; a score says something only at its ends, 0 and 1."""
    word = label.strip().lower().replace(" ", "_").replace("-", "_") if label else ""
    if word in _GOOD:
        return Result.SUCCESS
    if word in _BAD:
        return Result.FAILURE
    if word or score not in {0.0, 1.0}:
        return Result.UNKNOWN
    return Result.SUCCESS if score else Result.FAILURE


def decided(
    rules: Iterable[OutcomeRule], pattern: str, facts: Mapping[str, object]
) -> Iterator[tuple[OutcomeRule, Result]]:
    """What the rules for one kind of webhook event make of its facts."""
    for rule in rules:
        if rule.origin == "github" and rule.pattern == pattern:
            value = _decided(rule, facts)
            if value is not None:
                yield rule, value


def _decided(rule: OutcomeRule, facts: Mapping[str, object]) -> Result | None:
    holds = rule.condition(lambda name: facts[name] if name in facts else facts.get(name.removeprefix("attr:")))
    return rule.value if holds else rule.otherwise


def _outcome(
    event: SpanEvent | LogEvent,
    said: Attributes,
    name: str,
    value: Result,
    at_ns: int,
    source: str,
    place: str,
    joins: frozenset[str] = frozenset(),
    *,
    label: str | None = None,
    score: float | None = None,
) -> Outcome:
    session = text(said, "gen_ai.conversation.id", "session.id") or text(
        event.attributes, "gen_ai.conversation.id", "session.id"
    )
    response = text(said, "gen_ai.response.id")
    keys = keys_of(
        trace=event.trace_id.hex() or None,
        session=session,
        # An id that the call itself bears is only needed where nothing else leads to it.
        response=None if event.trace_id or session else response,
    )
    if joins or not keys:
        known = _said(event.resource.attributes) | _said(event.attributes) | _said(said)
        ends = keys_of(
            branch=_first(known, BRANCH),
            commit=_first(known, COMMIT),
            ticket=_first(known, TICKET),
            repository=_first(known, _REPOSITORY),
        )
        keys = tuple(key for key in (*keys, *ends) if not joins or key.partition(":")[0] in joins) or keys
    told = f"{event.tenant}\0{'|'.join(keys)}\0{event.span_id.hex()}\0{name}\0{at_ns}\0{place}"
    return Outcome(
        id=hashlib.blake2b(told.encode(), digest_size=12).hexdigest(),
        tenant=event.tenant,
        name=name,
        value=value,
        at_ns=at_ns,
        source=source,
        keys=keys,
        label=None if label is None else label[:_LONGEST],
        score=score,
    )


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    number = float(value)
    return number if isfinite(number) else None


# ---- as JSON, for the journal, the ledger and sinks -----------------------------


def outcome_json(one: Outcome) -> dict[str, object]:
    """All of it; `outcome_of` is the inverse."""
    return {field.name: getattr(one, field.name) for field in fields(one)} | {"keys": list(one.keys)}


def outcome_of(told: Mapping[str, Any]) -> Outcome:
    """Raises KeyError, TypeError or ValueError where it is no outcome."""
    return Outcome(**{**told, "value": Result(told["value"]), "keys": tuple(told["keys"])})


# ---- the verdict ---------------------------------------------------------------


def latest(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """The last word of each source on each name, in order of time."""
    last: dict[tuple[str, str], Outcome] = {}
    for one in sorted(outcomes, key=lambda o: (o.at_ns, o.id)):
        last[one.source, one.name] = one
    return sorted(last.values(), key=lambda o: (o.at_ns, o.name))


def judge(outcomes: Iterable[Outcome], nano: int | None = None, wasted_nano: int | None = None) -> Judgement:
    """Worth it, waste or unknown, and why.

    Those with the weightiest word decide: where the work ended up before what the application says, that before a
    judge. Do they disagree, the latest word stands.
    """
    said = [one for one in latest(outcomes) if one.value is not Result.UNKNOWN]
    burnt = ""
    if wasted_nano and nano:
        burnt = f"; {nano_to_text(wasted_nano)} of {nano_to_text(nano)} USD were burnt in loops and waste"
    if not said:
        unclear = sorted({one.name for one in outcomes})
        if unclear:
            why = f"{', '.join(unclear)}: neither success nor failure; a rule of kind `outcomes` can say what it means"
            return Judgement(None, Verdict.UNKNOWN, why + burnt)
        return UNJUDGED if not burnt else Judgement(None, Verdict.UNKNOWN, UNJUDGED.why + burnt)
    weight = max(_WEIGHT.get(one.source, 0) for one in said)
    deciding = [one for one in said if _WEIGHT.get(one.source, 0) == weight]
    last = deciding[-1]
    others = [one for one in deciding if one.value is not last.value]
    why = f"{_told(last)}{f'; before that {_told(others[-1])}' if others else ''}{burnt}"
    verdict = Verdict.WORTH_IT if last.value is Result.SUCCESS else Verdict.WASTE
    return Judgement(last.value, verdict, why)


def _told(one: Outcome) -> str:
    about = f" of {one.subject}" if one.subject else ""
    detail = one.label if one.label is not None else None if one.score is None else f"{one.score:g}"
    return (
        f"{one.name}{about}: {one.value}{f' ({detail})' if detail and detail != one.value else ''}, says {one.source}"
    )


def reaching(outcomes: Iterable[tuple[str, Outcome]], start_ns: int) -> list[Outcome]:
    """Of the news that share a key with a run that began at `start_ns`, those that are about it.

    Names of branches and tickets are used again: of several things that ended on
    one, the first that ended after the run had begun is what the run worked on.

    Args:
        outcomes: (the key they share, the news).
        start_ns: when the run began.
    """
    found: dict[str, Outcome] = {}
    firsts: dict[tuple[str, str], Outcome] = {}
    for key, one in outcomes:
        if key.partition(":")[0] not in {"branch", "commit", "ticket"}:
            found[one.id] = one
        elif start_ns - _SLACK_NS <= one.at_ns <= start_ns + REACH_NS:
            known = firsts.get((key, one.name))
            if known is None or (one.at_ns, one.id) < (known.at_ns, known.id):
                firsts[key, one.name] = one
    for one in firsts.values():
        found.setdefault(one.id, one)
    return sorted(found.values(), key=lambda o: (o.at_ns, o.id))
