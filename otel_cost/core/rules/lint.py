"""Lint: rules that load and cannot do what their author meant.

Mistakes: an exception that has expired or that no budget asks for, a condition
that nothing passes, two hard stops on one scope and window, a hard stop before the
limit, a route behind one that takes everything first, a model that is to fail before it is allowed.
Notes: two hard stops on one scope in different windows, which may be meant.
"""

from __future__ import annotations

import json
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from otel_cost.core.model.vocabulary import CALL_KINDS, Status
from otel_cost.core.rules.kind import Mode, actions_of
from otel_cost.core.rules.match import Matcher, compile_condition

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from otel_cost.core.rules.kind import Site
    from otel_cost.document import Path
    from otel_cost.errors import Problem


class Placed(NamedTuple):
    """A checked rule and where it stands. `kind`: the name of its kind."""

    kind: str
    model: Any
    site: Site


def lint(rules: Iterable[Placed], now_ns: int | None) -> tuple[list[Problem], list[Problem]]:
    """(mistakes, notes) in rules that are right word by word. Without the time nothing has expired."""
    given: dict[str, list[Placed]] = {}
    for one in rules:
        given.setdefault(one.kind, []).append(one)
    mistakes = [problem for of_kind in given.values() for one in of_kind for problem in _never(one)]
    stops = list(_hard_stops(given.get("budgets", ())))
    mistakes += [problem for problem, is_mistake in stops if is_mistake]
    mistakes += _stops_early(given.get("budgets", ()))
    mistakes += _overridden(given.get("budgets", ()))
    mistakes += _moot(given, now_ns)
    mistakes += _shadowed(given.get("routes", ()))
    mistakes += _circular(given.get("escalation", ()))
    return mistakes, [problem for problem, is_mistake in stops if not is_mistake]


# --- Conditions that nothing passes ----------------------------------------------------------------------------------

_DOMAINS: Final[dict[str, tuple[object, ...]]] = {
    "kind": tuple(kind.value for kind in CALL_KINDS),
    "status": tuple(status.value for status in Status),
    "failed": (True, False),
    "loop": (True, False, None),
    "over_budget": (True, False, None),
    "overload": (True, False, None),
}


def _never(one: Placed) -> Iterator[Problem]:
    match = getattr(one.model, "match", None)
    if not isinstance(match, Matcher):
        return
    for path, name in _impossible(match.written, ("match",)):
        yield one.site.problem(f"can never match: nothing passes what is asked of `{name}`", "", *path, key=True)
    for expression in match.expressions:
        if not expression.names and not expression(lambda _: None):
            yield one.site.problem("can never match: the expression is never true", "", "match", "cel")


def _impossible(written: Mapping[str, object], path: Path) -> Iterator[tuple[Path, str]]:
    """Names of which no value passes, at their places."""
    for name, asked in written.items():
        here = (*path, name)
        if name == "not":
            if asked == {}:
                yield here, name
        elif name in {"any", "all"}:
            groups = [
                list(_impossible(item, (*here, index))) if isinstance(item, dict) else []
                for index, item in enumerate(asked if isinstance(asked, list) else [])
            ]
            if name == "all" or all(groups):
                yield from (found for group in groups for found in group)
        elif name != "cel" and not _passable(name, asked):
            yield here, name


def _passable(name: str, asked: object) -> bool:
    """May some value pass? In doubt it may."""
    condition = compile_condition(asked)
    domain = _DOMAINS.get(name)
    if domain is not None:
        return any(condition(value) for value in domain)
    literals = _literals(asked)
    if literals is not None:
        return any(condition(value) for value in literals)
    return not isinstance(asked, dict) or (_room(asked) and not (asked.get("exists") is False and _asks_for_one(asked)))


def _literals(asked: object) -> list[object] | None:
    """The only values that can pass; None: they are not a list."""
    if isinstance(asked, list):
        parts = [_literals(item) for item in asked]
        return None if None in parts else [value for part in parts for value in part or ()]
    if isinstance(asked, dict):
        return [asked["eq"]] if "eq" in asked else None
    if isinstance(asked, str) and any(sign in asked for sign in "*?["):
        return None
    return [asked]


def _room(asked: Mapping[str, object]) -> bool:
    """Is there a number between the bounds?"""
    low, high, open_ = None, None, False
    for operator, bound in asked.items():
        if operator not in {"gt", "gte", "lt", "lte"} or isinstance(bound, bool):
            continue
        number = Fraction(str(bound))
        if operator in {"gt", "gte"} and (low is None or number >= low):
            low, open_ = number, open_ or operator == "gt"
        elif operator in {"lt", "lte"} and (high is None or number <= high):
            high, open_ = number, open_ or operator == "lt"
    return low is None or high is None or low < high or (low == high and not open_)


def _asks_for_one(asked: Mapping[str, object]) -> bool:
    return any(operator in {"gt", "gte", "lt", "lte", "re", "eq"} for operator in asked)


# --- One match against another ---------------------------------------------------------------------------------------


def _narrower(inner: Mapping[str, object], outer: Mapping[str, object]) -> bool:
    """Does everything that passes `inner` surely pass `outer`?"""
    for name, asked in outer.items():
        if name not in inner:
            return False
        if inner[name] == asked:
            continue
        literals = None if name in {"any", "all", "not", "cel"} else _literals(inner[name])
        if literals is None or not all(map(compile_condition(asked), literals)):
            return False
    return True


def _apart(one: Mapping[str, object], other: Mapping[str, object]) -> bool:
    """Is there surely nothing that passes both?"""
    for name in one.keys() & other.keys() - {"any", "all", "not", "cel"}:
        for mine, theirs in ((one[name], other[name]), (other[name], one[name])):
            literals = _literals(mine)
            if literals is not None and not any(map(compile_condition(theirs), literals)):
                return True
    return False


# --- Kind by kind ----------------------------------------------------------------------------------------------------


def _hard_stops(budgets: Sequence[Placed]) -> Iterator[tuple[Problem, bool]]:
    """Budgets of one scope that both stop: which of them bites is a matter of chance."""
    first_of: dict[tuple[object, ...], tuple[Placed, Path]] = {}
    for one in budgets:
        place = _stop_of(one)
        if place is None or (one.model.mode or one.site.defaults.mode) is not Mode.ENFORCE:
            continue
        written = json.dumps(one.model.match.written, sort_keys=True, default=str)
        first, path = first_of.setdefault((*sorted(one.model.per), written), (one, place))
        if first is one:
            continue
        limits = first.model.limit, one.model.limit
        same = (limits[0].window, limits[0].kind) == (limits[1].window, limits[1].kind)
        where = first.site.document.place((*first.site.path, *path))
        scope = ", ".join(one.model.per) or "everyone together"
        said = f"a second hard stop on the scope {scope}: `{first.model.name}` has one, too"
        hint = f"first at {where.source}:{where.line}; "
        hint += "keep one of them" if same else "the windows differ: whichever is full first stops"
        yield one.site.problem(said, hint, *place), same


def _stop_of(one: Placed) -> Path | None:
    if one.model.at_limit.hard_stop_at is not None:
        return ("at_limit", "hard_stop_at")
    return next((path for action, path in actions_of(one.model) if action.verb == "stop"), None)


def _stops_early(budgets: Sequence[Placed]) -> Iterator[Problem]:
    for one in budgets:
        stop = one.model.at_limit.hard_stop_at
        if stop is not None and stop < 1:
            what = "a hard stop before the limit: `at_limit.do` comes too late"
            yield one.site.problem(what, "stop at 100% or more, or lower the limit", "at_limit", "hard_stop_at")


def _overridden(budgets: Sequence[Placed]) -> Iterator[Problem]:
    """Limits behind one that takes everything first, or for those who are not counted."""
    for one in budgets:
        for index, override in enumerate(one.model.overrides):
            written = override.match.written
            if any(_narrower(written, earlier.match.written) for earlier in one.model.overrides[:index]):
                what = "shadowed: an earlier override takes everything that this one matches"
                yield one.site.problem(what, "put the narrower one first", "overrides", index)
            elif not written:
                what = "an override for everybody: the budget's own limit never holds"
                yield one.site.problem(what, "change `limit.usd`", "overrides", index)
            elif _apart(written, one.model.match.written):
                what = "can never match: what it matches does not count in this budget"
                yield one.site.problem(what, "see the budget's `match`", "overrides", index)


def _moot(given: Mapping[str, Sequence[Placed]], now_ns: int | None) -> Iterator[Problem]:
    """Exceptions that have no effect: expired, or for what none of their rules looks at."""
    rules = {one.model.name: one for kind in ("budgets", "loops", "escalation") for one in given.get(kind, ())}
    for one in given.get("exceptions", ()):
        model = one.model
        if now_ns is not None and model.until_ns < now_ns:
            what = f"expired: `{model.name}` has no effect any more"
            yield one.site.problem(what, f"remove it, or ask {model.owner}", "expires")
        for_what = [rules[name] for name in model.applies_to if name in rules]
        if for_what and all(_apart(model.match.written, rule.model.match.written) for rule in for_what):
            named = ", ".join(f"`{rule.model.name}`" for rule in for_what)
            yield one.site.problem("can never match: what it matches does not count there", f"see {named}", "match")


def _shadowed(routes: Sequence[Placed]) -> Iterator[Problem]:
    """Routes whose runs an earlier one has sent to the same destinations already."""
    for index, one in enumerate(routes):
        for earlier in routes[:index]:
            wanted, taken = set(one.model.to), set(earlier.model.to)
            if wanted <= taken and _narrower(one.model.match.written, earlier.model.match.written):
                place = earlier.site.document.place(earlier.site.path)
                what = "shadowed: an earlier route takes everything that this one matches"
                yield one.site.problem(what, f"see {place.source}:{place.line}; put the narrower one first")
                break


def _circular(escalations: Sequence[Placed]) -> Iterator[Problem]:
    for one in escalations:
        prior = one.model.allow_if.prior
        if set(prior.models) <= set(one.model.models):
            what = "can never be allowed: these models are to fail before they may be used"
            yield one.site.problem(what, "name the cheaper models", "allow_if", "prior", "models")
