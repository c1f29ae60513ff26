"""Rules: what the operator wants, read from documents, checked to the last key, compiled once.

A rule kind is one file in `kinds/`. `load_rules` lists every mistake of every
document at once and refuses what this version cannot carry out: a rule that is
silently ignored would be worse than none.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import create_model

from otel_cost.core.rules.kind import KINDS, Mode, RuleKind, Site, Strict
from otel_cost.core.rules.kinds import budgets, contacts, defaults, exceptions, identity, loops
from otel_cost.core.rules.match import attribute_of
from otel_cost.document import in_file_order, nearest, validate
from otel_cost.errors import DocumentError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from otel_cost.core.budget import Relief
    from otel_cost.document import Document, Path
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


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Compiled rules of all documents, in the order in which they were given."""

    rules: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def of(self, kind: RuleKind[R]) -> tuple[R, ...]:
        """The rules of one kind: `rules.of(loops.KIND)`."""
        return self.rules.get(kind.name, ())

    @property
    def defaults(self) -> defaults.Defaults:
        given = self.of(defaults.KIND)
        return given[0] if given else defaults.Defaults()

    @property
    def identity(self) -> identity.Identity:
        """All documents together; a dimension is said in one place only."""
        return identity.Identity(tuple(source for one in self.of(identity.KIND) for source in one.sources))

    @property
    def loops(self) -> tuple[loops.Loop, ...]:
        """Loop rules that are not switched off."""
        return tuple(rule for rule in self.of(loops.KIND) if rule.mode is not Mode.OFF)

    @property
    def budgets(self) -> tuple[budgets.BudgetRule, ...]:
        """Budgets that are not switched off, each with the exceptions that apply to it."""
        given = self.of(exceptions.KIND)
        return tuple(
            replace(
                rule, budget=replace(rule.budget, reliefs=tuple(e.relief for e in given if rule.name in e.applies_to))
            )
            for rule in self.of(budgets.KIND)
            if rule.mode is not Mode.OFF
        )

    @property
    def exceptions(self) -> tuple[exceptions.Exception_, ...]:
        return self.of(exceptions.KIND)

    @property
    def attributes(self) -> frozenset[str]:
        """Attributes of records that rules ask for, as rules name them; they are kept with each step."""
        asked = {name for loop in self.loops for name in loop.match.names}
        asked |= {name for rule in self.budgets for name in (*rule.budget.per, *rule.budget.match.names)}
        asked |= {name for one in self.exceptions for name in one.relief.match.names}
        return frozenset(name for name in asked if attribute_of(name) is not None)

    def __len__(self) -> int:
        return sum(len(rules) for name, rules in self.rules.items() if not KINDS[name].single)


def load_rules(documents: Iterable[Document], now_ns: int | None = None) -> RuleSet:
    """Check and compile rule documents. `now_ns`: with the time, an exception that has expired is a mistake, too.

    Raises:
        DocumentError: every mistake in every document: wrong keys and values, names given twice or
            nowhere, kinds that this version has no engine for.
    """
    problems: list[Problem] = []
    checked: list[tuple[Document, Strict]] = []
    for document in documents:
        try:
            checked.append((document, validate(document, RuleFile)))
        except DocumentError as error:
            problems += error.problems
    problems += _said_twice(checked)
    if not problems:  # names in a document that did not load are not known
        problems += _unknown_contacts(checked)
        problems += _useless_exceptions(checked, now_ns)
    said = [model for _, file in checked for model, _ in _models(file, defaults.KIND)]
    site_defaults = said[0] if said else defaults.Defaults()
    rules: dict[str, list[Any]] = {}
    for document, file in checked:
        for kind in KINDS.values():
            if kind.name not in file.model_fields_set:
                continue
            if kind.build is None:
                supported = ", ".join(name for name, other in KINDS.items() if other.build)
                what = f"`{kind.name}` is not supported yet by this version"
                problems.append(document.problem((kind.name,), what, f"supported: {supported}", key=True))
                continue
            for model, path in _models(file, kind):
                try:
                    rules.setdefault(kind.name, []).append(kind.build(model, Site(document, path, site_defaults)))
                except DocumentError as error:
                    problems += error.problems
    if problems:
        raise DocumentError(in_file_order(problems))
    return RuleSet({name: tuple(found) for name, found in rules.items()})


def rules_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a rule file."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | RuleFile.model_json_schema()


def _models(file: Strict, kind: RuleKind[Any]) -> list[tuple[Any, Path]]:
    given = getattr(file, kind.name)
    if kind.single:
        return [] if given is None else [(given, (kind.name,))]
    return [(model, (kind.name, index)) for index, model in enumerate(given)]


def _said_twice(checked: list[tuple[Document, Strict]]) -> list[Problem]:
    """Names of rules are unique over all kinds and files, because exceptions and tests point at them."""
    first: dict[tuple[bool, str], tuple[Document, Path]] = {}
    problems: list[Problem] = []
    for document, file in checked:
        for kind in KINDS.values():
            for model, path in _models(file, kind):
                if kind.single:
                    said = [(f"{kind.name}.{key}", (*path, key)) for key in sorted(model.model_fields_set)]
                else:
                    said = [(model.name, (*path, "name"))] if model.name else []
                for name, where in said:
                    key = (kind is contacts.KIND, name)
                    if key in first:
                        place = first[key][0].place(first[key][1])
                        what = f"`{name}` is given twice"
                        problems.append(document.problem(where, what, f"first at {place.source}:{place.line}"))
                    else:
                        first[key] = (document, where)
    return problems


def _reliefs(budget: str, given: Iterable[exceptions.Exception_]) -> tuple[Relief, ...]:
    return tuple(one.relief for one in given if budget in one.applies_to)


def _unknown_contacts(checked: list[tuple[Document, Strict]]) -> list[Problem]:
    """Actions name contacts; a contact that does not exist would swallow the alert."""
    known = [model.name for _, file in checked for model, _ in _models(file, contacts.KIND)]
    problems: list[Problem] = []
    for document, file in checked:
        asked = [(model.do, (*path, "do")) for model, path in _models(file, loops.KIND)]
        asked += [(model.at_limit.do, (*path, "at_limit", "do")) for model, path in _models(file, budgets.KIND)]
        for actions, path in asked:
            for index, action in enumerate(actions):
                told = action.alert or action.issue
                names = () if told is None else (told.to,) if isinstance(told.to, str) else told.to
                for name in names:
                    if name not in known:
                        hint = nearest(name, known) if known else "no `contacts` are given; a plain `alert:` tells all"
                        what = f"unknown contact `{name}`"
                        problems.append(document.problem((*path, index), what, hint))
    return problems


def _useless_exceptions(checked: list[tuple[Document, Strict]], now_ns: int | None) -> list[Problem]:
    """Exceptions to budgets that do not exist; with the time, those that have expired."""
    known = [model.name for _, file in checked for model, _ in _models(file, budgets.KIND)]
    problems: list[Problem] = []
    for document, file in checked:
        for model, path in _models(file, exceptions.KIND):
            for index, name in enumerate(model.applies_to):
                if name not in known:
                    hint = nearest(name, known) if known else "exceptions apply to budgets, and none are given"
                    problems.append(document.problem((*path, "applies_to", index), f"unknown budget `{name}`", hint))
            if now_ns is not None and exceptions.unix_ns(model.expires) < now_ns:
                what = f"expired: `{model.name}` has no effect any more"
                problems.append(document.problem((*path, "expires"), what, f"remove it, or ask {model.owner}"))
    return problems
