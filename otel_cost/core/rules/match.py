"""Match: conditions on names, compiled once to closures over a lookup.

    match: {workflow: {not: incident}, model: ["*opus*", "*sonnet*"], cost_usd: {gte: 1}}

All keys must hold. A value is an equal value, a glob (`*`, `?`), a list (any of),
null (absent) or operators. A name is a dimension, a fact the rule kind
offers, or an attribute (`attr:KEY`, `resource.KEY`, or any key with a dot in it).
What none of that can say is one CEL expression under the key `cel`, asked last.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from decimal import Decimal
from fnmatch import translate
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import BeforeValidator, InstanceOf, WithJsonSchema

from otel_cost.core.rules.cel import Expression, compile_expression
from otel_cost.document import Mistake, Mistakes, Path, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from otel_cost.core.model.attributes import Attributes

    Lookup = Callable[[str], object]
    Test = Callable[[Lookup], bool]
    Condition = Callable[[object], bool]

DIMENSIONS: Final = (
    "tenant",
    "org",
    "workspace",
    "team",
    "user",
    "api_key",
    "project",
    "workflow",
    "agent",
    "model",
    "provider",
    "tool",
    "session",
    "kind",
    "environment",
    "run",
)
FACTS: Final = (
    "loop",
    "over_budget",
    "overload",
    "failed",
    "status",
    "outcome",
    "cost_usd",
    "wasted_usd",
    "llm_calls",
    "tool_calls",
)
_OPERATORS: Final = ("not", "any", "all", "eq", "ne", "gt", "gte", "lt", "lte", "re", "exists")
LONGEST_MATCHED: Final = 1024  # characters of a value that a pattern gets to see; senders choose the values


@dataclass(frozen=True, slots=True)
class Matcher:
    """A compiled `match`. `names` are the ones it asks for; without conditions it always holds.

    `written` is what it was compiled from, `expressions` are the CEL ones in it.
    """

    tests: tuple[Test, ...] = ()
    names: frozenset[str] = field(default_factory=frozenset)
    written: Mapping[str, object] = field(default_factory=dict)
    expressions: tuple[Expression, ...] = ()

    def __call__(self, lookup: Lookup) -> bool:
        return all(test(lookup) for test in self.tests)


def both(one: Matcher, other: Matcher, *, but: Matcher) -> Matcher:
    """What both match and `but` does not; a `but` without conditions excludes nothing."""
    return Matcher(
        (*one.tests, *other.tests, *((lambda get: not but(get),) if but.tests else ())),
        one.names | other.names | but.names,
        {**one.written, **other.written},
        (*one.expressions, *other.expressions, *but.expressions),
    )


def either(one: Matcher, other: Matcher) -> Matcher:
    """What one of them matches; one without conditions is none."""
    if not one.tests:
        return other
    return Matcher((lambda get: one(get) or other(get),), one.names | other.names)


def lookup(
    facts: Mapping[str, object], attributes: Attributes | None = None, resource: Attributes | None = None
) -> Lookup:
    """What a matcher asks: dimensions and facts first, then the record's own attributes, then its resource's."""

    def get(name: str) -> object:
        if name in facts:
            return facts[name]
        key = attribute_of(name) or name
        if key in facts:
            return facts[key]
        if name.startswith("resource."):
            return None if resource is None else resource.get(name.removeprefix("resource."))
        key = name.removeprefix("attr:")
        value = None if attributes is None else attributes.get(key)
        if value is None and resource is not None:
            value = resource.get(key)
        return value

    return get


def attribute_of(name: str) -> str | None:
    """Under which name the facts of a call hold an attribute that a rule names; None: the name is no attribute.

    A key that is also a dimension or a fact keeps its `attr:`.
    """
    if name in DIMENSIONS or name in FACTS:
        return None
    key = name.removeprefix("attr:")
    return name if key in DIMENSIONS or key in FACTS else key


def check_dimension(name: str) -> str:
    """A name to group by, as it is.

    Raises:
        ValueError: neither a dimension nor an attribute.
    """
    if name in DIMENSIONS or name.startswith("attr:") or "." in name:
        return name
    message = f"unknown dimension `{name}`\n{nearest(name, (*DIMENSIONS, 'attr:KEY'))}"
    raise ValueError(message)


def compile_match(written: object) -> Matcher:
    """A `match:` mapping as a matcher.

    Raises:
        Mistakes: every wrong name, operator or value, at its place.
    """
    if isinstance(written, Matcher):
        return written
    compiler = _Compiler()
    tests = compiler.mapping(written, ())
    if compiler.mistakes:
        raise Mistakes(compiler.mistakes)
    said: dict[str, object] = written if isinstance(written, dict) else {}
    return Matcher(tuple(tests), frozenset(compiler.names), said, tuple(compiler.expressions))


def compile_condition(written: object) -> Condition:
    """What is asked of one name, as a test of its value. It has been checked before, as a part of a `match`."""
    return _Compiler().condition(written, ())


def compile_labels(written: object, check_name: Callable[[str], str]) -> tuple[tuple[str, Condition], ...]:
    """Conditions on names that `check_name` knows; all of them must hold.

    Raises:
        Mistakes: every wrong name, operator or value, at its place.
    """
    compiler = _Compiler()
    found: list[tuple[str, Condition]] = []
    if not isinstance(written, dict) or not written:
        raise Mistakes([Mistake((), "what is matched is a mapping", "for example `{severity: critical}`")])
    for name, asked in written.items():
        try:
            found.append((check_name(name), compiler.condition(asked, (name,))))
        except ValueError as error:
            message, _, hint = str(error).partition("\n")
            compiler.mistakes.append(Mistake((name,), message, hint, True))
    if compiler.mistakes:
        raise Mistakes(compiler.mistakes)
    return tuple(found)


class _Compiler:
    def __init__(self) -> None:
        self.mistakes: list[Mistake] = []
        self.names: set[str] = set()
        self.expressions: list[Expression] = []

    def mapping(self, written: object, path: Path) -> list[Test]:
        if not isinstance(written, dict):
            self._wrong(path, "a match is a mapping", "for example `{workflow: incident}`")
            return []
        tests: list[Test] = []
        # Expressions cost fifty times a plain test: they are asked when everything else holds.
        for key, value in sorted(written.items(), key=lambda item: item[0] == "cel"):
            here = (*path, key)
            if key == "cel":
                tests.append(self._expression(value, here))
            elif key in {"any", "all"}:
                tests.append(self._group(key, value, here))
            elif key == "not":
                inner = self.mapping(value, here)
                tests.append(_none_of(inner))
            elif self._name(key, here):
                tests.append(_on(key, self.condition(value, here)))
        return tests

    def _expression(self, written: object, path: Path) -> Test:
        try:
            expression = compile_expression(written, (*DIMENSIONS, *FACTS))
        except ValueError as error:
            message, _, hint = str(error).partition("\n")
            self._wrong(path, message, hint)
            return _never
        self.expressions.append(expression)
        self.names |= expression.names
        return expression

    def _group(self, kind: str, written: object, path: Path) -> Test:
        if not isinstance(written, list) or not written:
            self._wrong(path, f"`{kind}` takes a list", "names of facts, or mappings")
            return _never
        groups: list[list[Test]] = []
        for index, item in enumerate(written):
            here = (*path, index)
            if isinstance(item, str):
                groups.append([_on(item, bool)] if self._name(item, here, key=False) else [])
            else:
                groups.append(self.mapping(item, here))
        fold = any if kind == "any" else all
        return lambda get: fold(all(test(get) for test in group) for group in groups)

    def _name(self, name: str, path: Path, *, key: bool = True) -> bool:
        if name in DIMENSIONS or name in FACTS or name.startswith("attr:") or "." in name:
            self.names.add(name)
            return True
        self._wrong(path, f"unknown name `{name}`", nearest(name, (*DIMENSIONS, *FACTS, "attr:KEY", "cel")), key=key)
        return False

    def condition(self, written: object, path: Path) -> Condition:
        if isinstance(written, dict):
            if not written:
                self._wrong(path, "nothing is asked", "a value, a list, operators, or null for what is not told")
            parts = [self._operator(name, value, (*path, name)) for name, value in written.items()]
            return lambda value: all(part(value) for part in parts)
        if isinstance(written, list):
            options = [self.condition(item, (*path, index)) for index, item in enumerate(written)]
            return lambda value: any(option(value) for option in options)
        return _equal(written)

    def _operator(self, name: str, written: object, path: Path) -> Condition:
        match name:
            case "not":
                inner = self.condition(written, path)
                return lambda value: not inner(value)
            case "any" | "all":
                if not isinstance(written, list):
                    self._wrong(path, f"`{name}` takes a list")
                    return bool
                parts = [self.condition(item, (*path, index)) for index, item in enumerate(written)]
                fold = any if name == "any" else all
                return lambda value: fold(part(value) for part in parts)
            case "eq" | "ne":
                equal = _equal(written, glob=False)
                return equal if name == "eq" else lambda value: not equal(value)
            case "gt" | "gte" | "lt" | "lte":
                bound = _number(written)
                if bound is None:
                    self._wrong(path, f"`{written}` is not a number", f"for example `{{{name}: 1}}`")
                    return bool
                return _compare(name, bound)
            case "re":
                return self._pattern(written, path)
            case "exists" if isinstance(written, bool):
                return lambda value: (value is not None) is written
            case "exists":
                self._wrong(path, "`exists` takes true or false")
                return bool
        self._wrong(path, f"unknown operator `{name}`", nearest(name, _OPERATORS), key=True)
        return bool

    def _pattern(self, written: object, path: Path) -> Condition:
        try:
            pattern = re.compile(written if isinstance(written, str) else "")
        except re.error as error:
            self._wrong(path, f"not a regular expression: {error}")
            return bool
        return lambda value: _each(value, lambda text: pattern.search(text) is not None)

    def _wrong(self, path: Path, message: str, hint: str = "", *, key: bool = False) -> None:
        self.mistakes.append(Mistake(path, message, hint, key))


def _never(_get: Lookup) -> bool:
    return False


def _none_of(inner: list[Test]) -> Test:
    return lambda get: not all(test(get) for test in inner)


def _on(name: str, condition: Condition) -> Test:
    return lambda get: condition(get(name))


def _equal(written: object, *, glob: bool = True) -> Condition:
    if written is None:
        return lambda value: value is None
    if isinstance(written, bool):
        return lambda value: value is written or value == str(written).lower()
    number = _number(written) if not isinstance(written, str) else None
    if number is not None:
        return lambda value: _number(value) == number
    text = str(written)
    if glob and any(sign in text for sign in "*?["):
        pattern = re.compile(translate(text))
        return lambda value: _each(value, lambda item: pattern.match(item) is not None)
    return lambda value: value == text or (isinstance(value, list | tuple | set | frozenset) and text in value)


def _each(value: object, test: Callable[[str], bool]) -> bool:
    """Does a text, or one of a list of texts, pass?"""
    if isinstance(value, str):
        return test(value[:LONGEST_MATCHED])
    if isinstance(value, list | tuple | set | frozenset):
        return any(test(item[:LONGEST_MATCHED]) for item in value if isinstance(item, str))
    return False


_PLAIN_NUMBER: Final = re.compile(r"[-+]?\d{1,30}(\.\d{1,30})?")  # no exponent: `1e999999999` from a sender is a bomb


def _number(value: object) -> Fraction | None:
    """A number, also one that was sent as text."""
    if isinstance(value, str):
        return Fraction(value) if _PLAIN_NUMBER.fullmatch(value) else None
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | Fraction):
        return None
    try:
        return Fraction(value)
    except (ValueError, OverflowError):  # not finite
        return None


def _compare(name: str, bound: Fraction) -> Condition:
    def test(value: object) -> bool:
        number = _number(value)
        if number is None:
            return False
        if name in {"gte", "lte"} and number == bound:
            return True
        return number > bound if name in {"gt", "gte"} else number < bound

    return test


_SCHEMA: Final = {
    "type": "object",
    "description": "All keys must hold: dimension, fact or attribute → value, glob, list, null or operators; `cel`: one"
    " expression of the Common Expression Language",
    "additionalProperties": True,
    "examples": [{"workflow": {"not": "incident"}, "cost_usd": {"gte": 1}}],
}
Match = Annotated[InstanceOf[Matcher], BeforeValidator(compile_match), WithJsonSchema(_SCHEMA)]
"""The type of a rule's `match` field."""
