"""Cost per outcome: what a merged pull request, a resolved ticket, a passed evaluation costs, by any dimension.

Two questions, two denominators: what does a try cost (runs), and what does a
success cost, all tries paid (things that succeeded)? A run that has several kinds
of outcome is shared among them, so that the rows add up to the whole to the
nano-dollar. Where most calls have no full price an average would be a lie and is withheld.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Final, NamedTuple

from otel_cost.core.enrich.lines import Line, usd
from otel_cost.core.model.outcome import Result
from otel_cost.core.outcomes import latest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from otel_cost.core.model.outcome import Outcome

ROUTE: Final = "model_route"
"""A dimension of whole runs: their models in the order of the first call."""
_TRUST: Final = Fraction(1, 2)  # of the model calls must have a full price, or averages are withheld


class Part(NamedTuple):
    """What one run spent under one group of the dimensions."""

    run: tuple[str, str]  # tenant, run id
    group: tuple[str | None, ...]
    nano: int | None  # None: nothing of it has a price
    model_calls: int
    holes: int  # calls without a full price

    @property
    def spends(self) -> bool:
        return self.nano is not None or self.model_calls + self.holes > 0


class Silent(NamedTuple):
    """The parts of one group, added up, of runs of which nothing is known; only parts that make a row."""

    group: tuple[str | None, ...]
    nano: int | None
    model_calls: int
    holes: int
    tries: int
    incomplete: int  # of the tries those with holes


@dataclass(slots=True)
class _Sum:
    nano: int | None = None
    model_calls: int = 0
    holes: int = 0
    tries: set[tuple[str, str]] = field(default_factory=set)
    incomplete: set[tuple[str, str]] = field(default_factory=set)
    succeeded: set[tuple[str, ...]] = field(default_factory=set)
    failed: set[tuple[str, ...]] = field(default_factory=set)
    undecided: set[tuple[str, ...]] = field(default_factory=set)
    more_tries: int = 0
    more_incomplete: int = 0


def cost_per_outcome(
    parts: Iterable[Part],
    outcomes: Mapping[tuple[str, str], Sequence[Outcome]],
    by: Sequence[str],
    silent: Iterable[Silent] = (),
) -> list[Line]:
    """A row per kind of outcome and group, dearest first; `outcome` null: runs of which nothing is known.

    `tries`: runs that took part; `successes`, `failures`, `undecided`: things, each
    counted once, however many runs worked on it. A run that worked for several kinds
    of outcome counts, with its share of the cost, under each. `silent`: runs of which nothing
    is known may come added up instead of one by one.
    """
    sums: dict[tuple[str | None, tuple[str | None, ...]], _Sum] = defaultdict(_Sum)
    last = {run: _by_name(told) for run, told in outcomes.items()}
    given = list(parts)
    spenders = {part.run for part in given if part.spends}
    for part in given:
        if not part.spends and part.run in spenders:
            continue  # its tools: they cost nothing of their own, and make no row of theirs
        kinds = last.get(part.run) or {None: []}
        for (name, told), nano in zip(kinds.items(), _shared(part.nano, len(kinds)), strict=True):
            into = sums[name, part.group]
            if nano is not None:
                into.nano = (into.nano or 0) + nano
            into.model_calls += part.model_calls
            into.holes += part.holes
            into.tries.add(part.run)
            if part.holes:
                into.incomplete.add(part.run)
            for one in told:
                thing = (part.run[0], one.subject or one.id)  # one ticket that three runs worked on is one
                {Result.SUCCESS: into.succeeded, Result.FAILURE: into.failed}.get(one.value, into.undecided).add(thing)
    for some in silent:
        into = sums[None, some.group]
        if some.nano is not None:
            into.nano = (into.nano or 0) + some.nano
        into.model_calls += some.model_calls
        into.holes += some.holes
        into.more_tries += some.tries
        into.more_incomplete += some.incomplete
    rows = [_row(name, dict(zip(by, group, strict=True)), one) for (name, group), one in sums.items()]
    return sorted(rows, key=_order)


def _by_name(told: Sequence[Outcome]) -> dict[str | None, list[Outcome]]:
    """The last word on each thing of each kind."""
    found: dict[str | None, list[Outcome]] = {}
    things: dict[tuple[str, str | None], list[Outcome]] = defaultdict(list)
    for one in told:
        things[one.name, one.subject].append(one)
    for (name, _), words in sorted(things.items(), key=lambda item: (item[0][0], item[0][1] or "")):
        found.setdefault(name, []).append(latest(words)[-1])
    return found


def _shared(nano: int | None, among: int) -> Iterator[int | None]:
    """Equal shares that add up exactly: what is left over goes to the first ones, a nano-dollar each."""
    if nano is None:
        yield from [None] * among
        return
    share, left = divmod(nano, among)
    yield from (share + (index < left) for index in range(among))


def _row(name: str | None, group: dict[str, str | None], one: _Sum) -> Line:
    priced = Fraction(one.model_calls - min(one.holes, one.model_calls), one.model_calls) if one.model_calls else None
    withheld = None
    if priced is not None and priced < _TRUST:
        withheld = f"{one.holes} of {one.model_calls} model calls have no full price"
    elif one.nano is None:
        withheld = "nothing of it has a price"
    failed = one.failed - one.succeeded
    decided = len(one.succeeded) + len(failed)
    tries = len(one.tries) + one.more_tries
    return {
        "outcome": name,
        **group,
        "cost_usd": usd(one.nano),
        "tries": tries,
        "successes": len(one.succeeded),
        "failures": len(failed),
        "undecided": len(one.undecided - one.succeeded - failed),
        "cost_per_try_usd": _average(one.nano, tries, withheld),
        "cost_per_success_usd": _average(one.nano, len(one.succeeded), withheld),
        "success_rate": round(len(one.succeeded) / decided, 4) if decided else None,
        "unpriced_calls": one.holes,
        "incomplete_runs": len(one.incomplete) + one.more_incomplete,
        "withheld": withheld,
    }


def _average(nano: int | None, count: int, withheld: str | None) -> str | None:
    return None if nano is None or not count or withheld is not None else usd(round(Fraction(nano, count)))


def _order(row: Line) -> tuple[bool, bool, float, str]:
    cost = row["cost_usd"]
    names = "\0".join(str(value) for value in row.values())
    return row["outcome"] is None, cost is None, -float(str(cost or 0)), names
