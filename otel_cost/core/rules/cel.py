"""CEL: the few conditions that matchers cannot say, as `cel:` inside a `match`.

    match: {workflow: refactor, cel: 'model.startsWith("claude") && attr["app.tries"] != null'}

The other keys of the mapping are asked first. Names are checked when the rules
load: dimensions and facts by their own names, attributes as `attr["app.key"]`, of
the resource alone as `resource["key"]`. What is not told is null. An expression
that fails on a call does not match it, and is counted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Final

from otel_cost.document import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import cel

_RECORDS: Final = ("attr", "resource")
_FUNCTIONS: Final = (
    "size",
    "contains",
    "startsWith",
    "endsWith",
    "matches",
    "int",
    "uint",
    "double",
    "string",
    "bytes",
    "type",
    "dyn",
    "timestamp",
    "duration",
    "getFullYear",
    "getMonth",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getDayOfYear",
    "getHours",
    "getMinutes",
    "getSeconds",
    "getMilliseconds",
)
_MACROS: Final = re.compile(r"\.(?:all|exists|exists_one|map|filter)\s*\(\s*([A-Za-z_]\w*)\s*,")
_KEYS: Final = re.compile(r"\b(attr|resource)\s*\[\s*(?:\"([^\"\\]+)\"|'([^'\\]+)')\s*\]")
_HAS: Final = re.compile(r"\b(attr|resource)\.([A-Za-z_]\w*)")
_LONGEST: Final = 2000
_MOST_SIGNED: Final = 2**63


@dataclass(slots=True, eq=False)
class Expression:
    """A compiled expression. `names`: what it asks for, as a `match` names it; `errors`: how often it failed."""

    source: str
    names: frozenset[str]
    _program: cel.Program
    _plain: tuple[str, ...]
    _records: dict[str, tuple[str, ...]]
    errors: int = field(default=0)

    def __call__(self, get: Callable[[str], object]) -> bool:
        context: dict[str, object] = {name: _value(get(name)) for name in self._plain}
        for record, keys in self._records.items():
            context[record] = {key: _value(get(_name(record, key))) for key in keys}
        try:
            return self._program.execute(context) is True
        except (TypeError, ValueError, RuntimeError, LookupError, ArithmeticError):
            self.errors += 1
            return False


def compile_expression(source: object, known: Iterable[str]) -> Expression:
    r"""An expression over the names that are `known`.

    Raises:
        ValueError: no CEL, a name or a function that does not exist; "message\nhint".
    """
    known = tuple(known)
    if not isinstance(source, str) or not source.strip():
        raise ValueError("`cel` takes an expression\nfor example `cel: 'cost_usd > 1.0 && user != null'`")
    if len(source) > _LONGEST:
        raise ValueError(f"the expression is longer than {_LONGEST} characters")
    import cel  # noqa: PLC0415  # it brings a terminal along; most rules need none

    try:
        program = cel.compile(source)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"not CEL: {_reason(str(error))}") from None
    bound = {*_MACROS.findall(source), "@result"}
    plain = [name for name in program.variables() if name not in bound and name not in _RECORDS]
    for name in plain:
        if name not in known:
            raise ValueError(f"unknown name `{name}`\n{nearest(name, (*known, 'attr[KEY]', 'resource[KEY]'))}")
    for function in program.functions():
        if re.fullmatch(r"[A-Za-z]\w*", function) and function not in _FUNCTIONS:
            raise ValueError(f"unknown function `{function}`\n{nearest(function, _FUNCTIONS)}")
    records: dict[str, tuple[str, ...]] = {}
    for record in _RECORDS:
        if record not in program.variables():
            continue
        keys = [double or single for name, double, single in _KEYS.findall(source) if name == record]
        keys += [key for name, key in _HAS.findall(source) if name == record]
        asked = len(re.findall(rf"(?<![\w.\"']){record}\b(?!\s*\()", source))
        if asked != len(keys):
            raise ValueError(f'`{record}` is asked by a plain key\nfor example `{record}["app.feature"]`')
        records[record] = tuple(dict.fromkeys(keys))
    names = {*plain, *(_name(record, key) for record, keys in records.items() for key in keys)}
    return Expression(source, frozenset(names), program, tuple(plain), records)


def _name(record: str, key: str) -> str:
    return f"attr:{key}" if record == "attr" else f"resource.{key}"


def _value(value: object) -> object:
    """A fact as CEL has types for; numbers that are no plain integers become doubles."""
    if isinstance(value, bool) or value is None or isinstance(value, str | float):
        return value
    if isinstance(value, int):
        return value if -_MOST_SIGNED <= value < _MOST_SIGNED else float(value)
    if isinstance(value, Decimal | Fraction):
        return float(value)
    if isinstance(value, list | tuple | set | frozenset):
        return [_value(item) for item in value]
    return str(value)


def _reason(said: str) -> str:
    """The first reason that the parser gives, without its drawing."""
    found = re.search(r"Syntax error: ([^\n]{1,120})", said)
    place = re.search(r"<input>:(\d+):(\d+)", said)
    where = f" (line {place[1]}, character {place[2]})" if place else ""
    return f"{found[1] if found else said.splitlines()[0][:120]}{where}"
