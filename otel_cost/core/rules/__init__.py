"""Rules: what the operator wants, read from documents, checked to the last key, compiled once.

A rule kind is one file in `kinds/`. `load_rules` lists every mistake of every
document at once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from pydantic import create_model

from otel_cost.core.drift import LOOP
from otel_cost.core.rules.kind import KINDS, Mode, RuleKind, Site, Strict, actions_of
from otel_cost.core.rules.kinds import (
    budgets,
    contacts,
    defaults,
    escalation,
    exceptions,
    identity,
    inhibit_rules,
    loops,
    outcomes,
    regressions,
    routes,
)
from otel_cost.core.rules.lint import Placed, lint
from otel_cost.core.rules.match import Matcher, attribute_of
from otel_cost.core.rules.template import placeholders
from otel_cost.document import in_file_order, nearest, validate
from otel_cost.errors import DocumentError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from otel_cost.core.drift import DriftRule
    from otel_cost.core.outcomes import OutcomeRule
    from otel_cost.core.rules.alerting import Inhibition
    from otel_cost.core.rules.cel import Expression
    from otel_cost.document import Document, Path, Place
    from otel_cost.errors import Problem

R = TypeVar("R")


def _file_model() -> type[Strict]:
    fields: dict[str, Any] = {"version": (Literal[1], ...)}
    for kind in KINDS.values():
        one = kind.model | None if kind.single else tuple[kind.model, ...]  # type: ignore[name-defined]
        fields[kind.name] = (one, None if kind.single else ())
    return create_model("Rules", __base__=Strict, __doc__="One rule file.", **fields)


RuleFile = _file_model()
"""The model of a whole rule file, made from the registry."""


def _keys_model() -> type[Strict]:
    """What is checked of a file as a whole; its rules are checked one by one."""
    fields: dict[str, Any] = {"version": (Literal[1], ...)}
    for kind in KINDS.values():
        fields[kind.name] = (dict[str, Any] | None, None) if kind.single else (list[Any] | None, ())
    return create_model("Rules", __base__=Strict, **fields)


_RuleKeys = _keys_model()


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Compiled rules of all documents, in the order in which they were given."""

    rules: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    hash: str = ""  # of everything that was read
    notes: tuple[Problem, ...] = ()  # what may not be meant
    told: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # rule → contacts that hear of its alerts

    def of(self, kind: RuleKind[R]) -> tuple[R, ...]:
        """The rules of one kind: `rules.of(loops.KIND)`."""
        return self.rules.get(kind.name, ())

    @property
    def defaults(self) -> defaults.Defaults:
        """Of all documents together; each is said in one place only."""
        return _joined(self.of(defaults.KIND))

    @property
    def identity(self) -> identity.Identity:
        """All documents together; a dimension is said in one place only."""
        return identity.joined(self.of(identity.KIND))

    @property
    def loops(self) -> tuple[loops.Loop, ...]:
        """Loop rules that are not switched off."""
        return tuple(rule for rule in self.of(loops.KIND) if rule.mode is not Mode.OFF)

    @property
    def budgets(self) -> tuple[budgets.BudgetRule, ...]:
        """Budgets that are not switched off, one for each of their limits, with the exceptions that apply to them."""
        given = self.of(exceptions.KIND)
        return tuple(
            replace(
                part, budget=replace(part.budget, reliefs=tuple(e.relief for e in given if rule.name in e.applies_to))
            )
            for rule in self.of(budgets.KIND)
            if rule.mode is not Mode.OFF
            for part in rule.parts()
        )

    @property
    def escalation(self) -> tuple[escalation.EscalationRule, ...]:
        """Escalation rules that are not switched off."""
        return tuple(rule for rule in self.of(escalation.KIND) if rule.mode is not Mode.OFF)

    @property
    def exceptions(self) -> tuple[exceptions.Exception_, ...]:
        return self.of(exceptions.KIND)

    @property
    def outcomes(self) -> tuple[OutcomeRule, ...]:
        return self.of(outcomes.KIND)

    @property
    def contacts(self) -> tuple[contacts.Contact, ...]:
        return self.of(contacts.KIND)

    @property
    def inhibitions(self) -> tuple[Inhibition, ...]:
        return self.of(inhibit_rules.KIND)

    @property
    def regressions(self) -> tuple[DriftRule, ...]:
        return self.of(regressions.KIND)

    @property
    def routes(self) -> tuple[routes.Route, ...]:
        return self.of(routes.KIND)

    @property
    def attributes(self) -> frozenset[str]:
        """Attributes of records that rules ask for, as rules name them; they are kept with each step."""
        asked = {name for loop in self.loops for name in loop.match.names}
        asked |= {name for rule in self.budgets for name in (*rule.budget.per, *rule.budget.match.names)}
        asked |= {name for rule in self.escalation for name in rule.match.names}
        asked |= {name for one in self.exceptions for name in one.relief.match.names}
        asked |= {name for route in self.routes for name in route.match.names}
        asked |= {name for drift in self.regressions for name in (*drift.per, *drift.match.names) if name != LOOP}
        return frozenset(name for name in asked if attribute_of(name) is not None)

    @property
    def expressions(self) -> tuple[Expression, ...]:
        """Every CEL expression in force, each of which counts its errors."""
        matches = [getattr(rule, "match", None) for of_kind in self.rules.values() for rule in of_kind]
        matches += [rule.budget.match for rule in self.of(budgets.KIND)]
        matches += [one.relief.match for one in self.exceptions]
        found = (one for match in matches if isinstance(match, Matcher) for one in match.expressions)
        return tuple({id(one): one for one in found}.values())

    def __len__(self) -> int:
        return sum(len(rules) for name, rules in self.rules.items() if not KINDS[name].single)


def load_rules(documents: Iterable[Document], now_ns: int | None = None, read: Read | None = None) -> RuleSet:
    r"""Check and compile rule documents.

    Args:
        documents: expanded; rules keep their order.
        now_ns: with the time, what could not do its work is a mistake, too (`lint`): `check` gives it, the service
            does not, because an exception that expires must not keep it from starting.
        read: the text of a file that a document names; raises `LookupError` with "message\nhint".

    Raises:
        DocumentError: every mistake in every document: wrong keys and values, names given twice or
            nowhere.
    """
    problems: list[Problem] = []
    names = _Names()
    placed: list[Placed] = []
    looked_up: list[str] = []
    documents = list(documents)
    for document in documents:
        found, wrong = _checked(document, names)
        placed += found
        problems += wrong
    site_defaults = _joined(one.model for one in placed if one.kind == defaults.KIND.name)
    for index, one in enumerate(placed):
        reader = None if read is None else _reader(read, one.site.document, looked_up)
        placed[index] = one._replace(site=replace(one.site, defaults=site_defaults, read=reader))
    problems += _said_twice(placed)
    problems += _unknown_contacts(placed, names)
    problems += _unknown_words(placed)
    problems += _unknown_rules(placed, names)
    rules: dict[str, list[Any]] = {}
    for one in placed:
        try:
            rules.setdefault(one.kind, []).append(KINDS[one.kind].build(one.model, one.site))
        except DocumentError as error:
            problems += error.problems
    mistakes, notes = lint(placed, now_ns)
    if now_ns is not None:
        problems += mistakes
    if problems:
        raise DocumentError(in_file_order(problems))
    hashed = _hash(documents, looked_up)
    told = tuple(in_file_order(notes if now_ns is not None else [*notes, *mistakes]))
    return RuleSet({name: tuple(found) for name, found in rules.items()}, hashed, told, _told(placed, names))


def rules_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a rule file."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | RuleFile.model_json_schema()


def _joined(given: Iterable[defaults.Defaults]) -> defaults.Defaults:
    return defaults.Defaults(**{name: getattr(one, name) for one in given for name in one.model_fields_set})


Read = Callable[["Document", str], str]


@dataclass(slots=True)
class _Names:
    """What every rule is called, also of those that do not load: a mistake in one is no mistake in others."""

    of: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, written: object) -> None:
        if isinstance(written, dict) and isinstance(written.get("name"), str):
            self.of.setdefault(kind, []).append(written["name"])

    def __call__(self, *kinds: str) -> list[str]:
        return [name for kind in kinds for name in self.of.get(kind, ())]


def _checked(document: Document, names: _Names) -> tuple[list[Placed], list[Problem]]:
    """The rules of a document, one by one, so that a mistake in one hides none in the others."""
    problems: list[Problem] = []
    placed: list[Placed] = []
    try:
        validate(document, _RuleKeys)
    except DocumentError as error:
        problems += error.problems
    given = document.value if isinstance(document.value, dict) else {}
    for kind in KINDS.values():
        if kind.name not in given:
            continue
        written = given[kind.name]
        paths: list[Path] = [(kind.name,)]
        if not kind.single:
            paths = [(kind.name, index) for index in range(len(written) if isinstance(written, list) else 0)]
        elif not isinstance(written, dict):
            continue  # nothing, or said above
        for path in paths:
            names.add(kind.name, document.at(path))
            try:
                if not isinstance(document.at(path), dict):
                    raise DocumentError([document.problem(path, "a rule is a mapping", "for example `{name: …}`")])  # noqa: TRY301
                model = validate(document, kind.model, at=path)
            except DocumentError as error:
                problems += error.problems
            else:
                placed.append(Placed(kind.name, model, Site(document, path, defaults.Defaults())))
    return placed, problems


def _reader(read: Read, document: Document, seen: list[str]) -> Callable[[str], str]:
    def one(name: str) -> str:
        text = read(document, name)
        seen.append(f"{name}\0{text}")
        return text

    return one


def _hash(documents: Iterable[Document], looked_up: list[str]) -> str:
    """Twelve hex digits that are the same for the same rules. What stood in place of secrets is hashed, not they."""
    digest = hashlib.blake2b(digest_size=6)
    for document in documents:
        digest.update(json.dumps(_as_written(document, document.value, ()), default=str, ensure_ascii=False).encode())
    for text in looked_up:
        digest.update(text.encode())
    return digest.hexdigest()


def _as_written(document: Document, value: object, path: Path) -> object:
    if path in document.written:
        return document.written[path]
    if isinstance(value, dict):
        return {key: _as_written(document, item, (*path, key)) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_written(document, item, (*path, index)) for index, item in enumerate(value)]
    return value


def _said_twice(placed: Iterable[Placed]) -> Iterator[Problem]:
    """Names of rules are unique over all kinds and files, because exceptions and tests point at them."""
    first: dict[tuple[bool, str], Place] = {}
    for one in placed:
        kind, path, document = KINDS[one.kind], one.site.path, one.site.document
        if kind.single:
            said = [(f"{kind.name}.{key}", (*path, key)) for key in sorted(one.model.model_fields_set)]
        else:
            said = [(one.model.name, (*path, "name"))] if one.model.name else []
        for name, where in said:
            key = (kind is contacts.KIND, name)
            place = first.setdefault(key, document.place(where))
            if place != document.place(where):
                yield document.problem(where, f"`{name}` is given twice", f"first at {place.source}:{place.line}")


def _unknown_contacts(placed: Iterable[Placed], names: _Names) -> Iterator[Problem]:
    """Actions name contacts; a contact that does not exist would swallow the alert."""
    known = names(contacts.KIND.name)
    for one in placed:
        for action, path in actions_of(one.model):
            told = action.alert or action.issue
            asked = () if told is None else (told.to,) if isinstance(told.to, str) else told.to
            for name in asked:
                if name not in known:
                    hint = nearest(name, known) if known else "no `contacts` are given; a plain `alert:` tells all"
                    yield one.site.problem(f"unknown contact `{name}`", hint, *path)


def _told(placed: Iterable[Placed], names: _Names) -> dict[str, tuple[str, ...]]:
    """Which contacts hear of a rule: those its actions name, all of them where one names none.

    Of an exception's use hears who hears of the rules it applies to.
    """
    all_of_them = names(contacts.KIND.name)
    found: dict[str, dict[str, None]] = {}
    reliefs: list[Any] = []
    for one in placed:
        if one.kind == exceptions.KIND.name:
            reliefs.append(one.model)
            continue
        for action, _ in actions_of(one.model):
            asked = action.alert or action.issue
            if asked is not None:
                to = (asked.to,) if isinstance(asked.to, str) else asked.to or all_of_them
                found.setdefault(one.model.name, {}).update(dict.fromkeys(to))
    for relief in reliefs:
        hear = {name: None for rule in relief.applies_to for name in found.get(rule, ())}
        found.setdefault(relief.name, {}).update(hear)
    return {rule: tuple(hear) for rule, hear in found.items()}


def _unknown_words(placed: Iterable[Placed]) -> Iterator[Problem]:
    """Names in messages that nobody will ever fill in."""
    for one in placed:
        known = KINDS[one.kind].words
        for action, path in actions_of(one.model):
            text = getattr(action.arguments, "text", None)
            for name in placeholders(text) if text else ():
                if name not in known and attribute_of(name) in {None, name} and "." not in name:
                    what = f"unknown name `{{{{{name}}}}}` in a message"
                    yield one.site.problem(what, nearest(name, known), *path, action.verb, "text")


_LIMITED: Final = ("budgets",)
_EXEMPTED: Final = ("budgets", "loops", "escalation")


def _unknown_rules(placed: Iterable[Placed], names: _Names) -> Iterator[Problem]:
    """Exceptions to rules that do not exist, or to which they can give nothing."""
    known, limited = names(*_EXEMPTED), names(*_LIMITED)
    for one in placed:
        if one.kind != exceptions.KIND.name:
            continue
        for index, name in enumerate(one.model.applies_to):
            if name not in known:
                hint = nearest(name, known) if known else "exceptions apply to rules, and none are given"
                yield one.site.problem(f"unknown rule `{name}`", hint, "applies_to", index)
            elif name not in limited and one.model.exempt is None:
                what = f"`{name}` has no limit that could be raised"
                yield one.site.problem(what, "only `exempt: true` applies to it", "applies_to", index)
