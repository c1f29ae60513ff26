"""Budget: how much each group of spenders has spent in each window, and which levels that crosses.

Money is order-independent: the sums, and which levels were ever crossed, depend on
the set of charges alone. A charge counts in the window of its own start time,
however late it is told. The time that is passed in only ends episodes, sooner than the next charge would.

An exception lets what matches it count less: a grant pays for the first dollars of each
group, in the order of their time; a factor makes each dollar count for less; without either it is free.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil
from typing import TYPE_CHECKING, Final

from otel_cost.core.budget.series import Series
from otel_cost.core.budget.window import DAY_NS, HOUR_NS, Calendar, Lifetime, Rolling, Window

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from otel_cost.core.rules.match import Matcher

LATENESS_NS: Final = 7 * DAY_NS  # a rolling window forgets what ended so long before it
KEEP_NS: Final = 70 * DAY_NS  # calendar windows and lifetimes of runs: the month before, whenever it is told
CALL_NS: Final = DAY_NS  # for so long a call may still change, or be told again, and count once
QUIET_NS: Final = DAY_NS  # a lifetime limit stands for so long after the last charge
_MOST_MATCHED: Final = 50_000
_END_NS: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class ShareLevel:
    """Crossed when this share of the limit is spent."""

    name: str  # "50%", "limit", "hard_stop"
    share: Fraction


@dataclass(frozen=True, slots=True)
class BurnLevel:
    """Crossed when money goes `rate` times faster than the limit allows, over all of these stretches at once."""

    name: str  # "burn_rate 6"
    rate: Fraction
    over_ns: tuple[int, ...]


Level = ShareLevel | BurnLevel


@dataclass(frozen=True, slots=True, kw_only=True)
class Relief:
    """What an exception gives to each group of a budget: a grant, a factor on the limit, or everything."""

    name: str
    match: Matcher
    since_ns: int = 0
    until_ns: int  # the last moment at which it holds
    grant_nano: int | None = None  # on top of the limit, once
    factor: Fraction | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """One budget, ready to count. `per`: the names that make the groups; the tenant always does."""

    name: str
    per: tuple[str, ...]
    match: Matcher
    limit_nano: int
    window: Window
    levels: tuple[Level, ...]
    reliefs: tuple[Relief, ...] = ()


@dataclass(frozen=True, slots=True)
class Spend:
    """What a call costs, and for whom. `facts`: dimensions and attributes by name."""

    tenant: str
    run: str
    at_ns: int  # start of the call
    nano: int
    facts: Mapping[str, object]


Group = tuple[str, ...]
"""Tenant, then the values of `per`; "" where a call does not tell: the unattributed share one group."""


@dataclass(frozen=True, slots=True)
class Use:
    """What an exception has taken over from one group."""

    relief: Relief
    nano: int  # in the window in question
    in_all_nano: int


@dataclass(frozen=True, slots=True)
class Crossing:
    """A group crossed a level (`firing`), is below it again (`resolved`), or only by an exception (`excepted`)."""

    budget: Budget
    group: Group
    level: Level
    state: str
    at_ns: int  # when, in the time of the charges; of a calendar window that is over: its start
    spent_nano: int  # what counts
    window_start_ns: int  # 0 for a lifetime
    top_run: str  # who spent most in this window
    top_nano: int = 0
    uses: tuple[Use, ...] = ()  # what does not count, and why


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a group stands in the window that is running."""

    budget: Budget
    group: Group
    spent_nano: int  # what counts
    window_start_ns: int  # 0 for a lifetime
    window_end_ns: int | None  # None: it rolls, or never ends
    top_run: str
    top_nano: int
    uses: tuple[Use, ...] = ()
    firing: tuple[Level, ...] = ()


@dataclass(slots=True)
class _Window:
    total: int = 0
    by_run: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Account:
    """One group of one budget."""

    series: Series | None
    windows: dict[int, _Window] = field(default_factory=dict)  # by start; a lifetime starts at 0
    relieved: dict[int, Series] = field(default_factory=dict)  # by number of the relief: what matches it
    excepted: set[tuple[int, int]] = field(default_factory=set)  # level and window: once
    # Levels by their number in the budget; windows by their start, 0 where it rolls.
    firing: set[tuple[int, int]] = field(default_factory=set)
    told: set[tuple[int, int]] = field(default_factory=set)  # calendar and lifetime: once per window
    quiet_until: dict[int, int] = field(default_factory=dict)  # rolling: end of the last episode
    latest_ns: int = 0


# What a call counts in: the budget, the group, the relief it falls under (-1: none).
_Part = tuple[int, Group, int]


class Budgets:
    """All budgets of one rule set over everything that is spent. Not thread-safe: it belongs to the engine."""

    def __init__(self, budgets: Sequence[Budget]) -> None:
        self._budgets = tuple(budgets)
        self.names = frozenset().union(
            *({*b.per, *b.match.names, *(name for one in b.reliefs for name in one.match.names)} for b in budgets)
        )
        """The names that a spend's facts are asked for."""
        self._asked = tuple(sorted(self.names - {"tenant", "run"}))
        self._by_run = "run" in self.names
        self._matched: dict[tuple[object, ...], tuple[tuple[int, Group, tuple[int, ...]], ...]] = {}
        self._least = [[_least_nano(budget, level) for level in budget.levels] for budget in self._budgets]
        self._accounts: dict[tuple[int, Group], _Account] = {}
        self._firing: dict[tuple[int, Group], None] = {}  # accounts with a level to end, in order
        self._calls: dict[tuple[str, str], tuple[int, int, str, tuple[_Part, ...]]] = {}  # time, nano, run, parts
        self._swept_ns = 0

    def put(self, tenant: str, call_id: str, spend: Spend | None) -> list[Crossing]:
        """Take what is known of a call now, in place of what was known before; None: there is no such call.

        Returns the levels that are crossed by it, or no longer.
        """
        key = (tenant, call_id)
        old = self._calls.get(key)
        new = None if spend is None else self._entry(spend)
        if new == old:
            return []
        if old is not None:
            del self._calls[key]
            for part in old[3]:
                self._add(part, old[0], -old[1], old[2])
        crossings: list[Crossing] = []
        if new is not None:
            self._calls[key] = new
            for part in new[3]:
                if part[:2] in self._firing:
                    crossings += self._ended_before(part[0], part[1], new[0])
                self._add(part, *new[:3])
            for index, group, _ in new[3]:
                crossings += self._crossed(index, group, new[0])
        if old is not None:
            for index, group, _ in old[3]:
                crossings += self._fallen(index, group, old[0])
        return crossings

    def knows(self, tenant: str, call_id: str) -> bool:
        """Is a call counted, and remembered one by one?"""
        return (tenant, call_id) in self._calls

    def recall(self, tenant: str, call_id: str, spend: Spend) -> None:
        """A call that was counted and has been forgotten since is about to change."""
        if not self.knows(tenant, call_id):
            self._calls[tenant, call_id] = self._entry(spend)

    def _entry(self, spend: Spend) -> tuple[int, int, str, tuple[_Part, ...]]:
        at_ns = spend.at_ns
        parts = [
            (index, group, _relief(self._budgets[index], reliefs, at_ns) if reliefs else -1)
            for index, group, reliefs in self._match(spend)
        ]
        return at_ns, spend.nano, spend.run, tuple(parts)

    def _match(self, spend: Spend) -> tuple[tuple[int, Group, tuple[int, ...]], ...]:
        """The budgets that count a spend, its group in each, and the reliefs of each that match it.

        Remembered by what is asked, because most calls are like one before.
        """
        facts = spend.facts
        key = (spend.tenant, spend.run if self._by_run else "", *map(facts.get, self._asked))
        found = self._matched.get(key)
        if found is None:
            get = {**facts, "tenant": spend.tenant, "run": spend.run}.get
            found = tuple(
                (
                    index,
                    _group(budget, spend),
                    tuple(number for number, relief in enumerate(budget.reliefs) if relief.match(get)),
                )
                for index, budget in enumerate(self._budgets)
                if budget.match(get)
            )
            if len(self._matched) >= _MOST_MATCHED:
                self._matched.clear()
            self._matched[key] = found
        return found

    def advance(self, now_ns: int) -> list[Crossing]:
        """Let time pass: windows end, rolling ones empty themselves, what is long over is forgotten."""
        crossings: list[Crossing] = []
        for index, group in list(self._firing):
            account = self._accounts[index, group]
            crossings += self._ended(index, group, account, now_ns)
            if not account.firing:
                del self._firing[index, group]
        if now_ns >= self._swept_ns + HOUR_NS:
            self._swept_ns = now_ns
            crossings += self._sweep(now_ns)
        return crossings

    def _sweep(self, now_ns: int) -> Iterator[Crossing]:
        for (index, group), account in list(self._accounts.items()):
            window = self._budgets[index].window
            if isinstance(window, Lifetime) and account.firing and account.latest_ns < now_ns - QUIET_NS:
                for number, _ in sorted(account.firing):
                    yield self._crossing(index, group, number, "resolved", account.latest_ns)
                # Whoever goes on after that is told again.
                account.firing.clear()
                account.told.clear()
            if account.series is not None:
                account.series.prune(now_ns - _horizon(self._budgets[index]) - LATENESS_NS)
            for number, series in list(account.relieved.items()):
                relief = self._budgets[index].reliefs[number]
                if now_ns > relief.until_ns + KEEP_NS:
                    del account.relieved[number]
                elif relief.grant_nano is None:
                    series.prune(now_ns - KEEP_NS)
            if isinstance(window, Calendar):
                for start in [start for start in account.windows if start < now_ns - KEEP_NS]:
                    del account.windows[start]
                account.told = {key for key in account.told if key[1] in account.windows}
                account.excepted = {key for key in account.excepted if key[1] in account.windows}
            if account.latest_ns < now_ns - KEEP_NS and not account.firing:
                del self._accounts[index, group]
        for key, (at_ns, *_) in list(self._calls.items()):
            if at_ns >= now_ns - CALL_NS:
                break  # roughly in the order of time
            del self._calls[key]

    def standings(self, now_ns: int) -> Iterator[Standing]:
        """Every group of every budget, in the window that holds `now_ns`."""
        for (index, group), account in self._accounts.items():
            budget = self._budgets[index]
            start, end = _bounds(budget.window, now_ns)
            yield Standing(
                budget,
                group,
                self._counted(budget, account, now_ns),
                start,
                end,
                *self._top_run(budget, account, now_ns),
                self._uses(budget, account, now_ns),
                tuple(budget.levels[number] for number, since in sorted(account.firing) if since in {0, start}),
            )

    # --- counting -----------------------------------------------------------------------------------------------------

    def _add(self, part: _Part, at_ns: int, nano: int, run: str) -> None:
        index, group, relief = part
        budget = self._budgets[index]
        account = self._accounts.get((index, group))
        if account is None:
            horizon = _horizon(budget)
            account = self._accounts[index, group] = _Account(Series(horizon) if horizon else None)
        account.latest_ns = max(account.latest_ns, at_ns)
        if account.series is not None:
            account.series.add(at_ns, nano, run)
        if not isinstance(budget.window, Rolling):
            window = account.windows.setdefault(_bounds(budget.window, at_ns)[0], _Window())
            window.total += nano
            window.by_run[run] = window.by_run.get(run, 0) + nano
        if relief >= 0:
            series = account.relieved.get(relief)
            if series is None:
                length = DAY_NS if isinstance(budget.window, Lifetime) else budget.window.length_ns
                series = account.relieved[relief] = Series(length)
            series.add(at_ns, nano, run)

    def _spent(self, budget: Budget, account: _Account, at_ns: int) -> int:
        """All of it, whether it counts or not."""
        if isinstance(budget.window, Rolling):
            return _series(account).last(budget.window.length_ns, at_ns)
        window = account.windows.get(_bounds(budget.window, at_ns)[0])
        return 0 if window is None else window.total

    def _counted(self, budget: Budget, account: _Account, at_ns: int) -> int:
        spent = self._spent(budget, account, at_ns)
        if not account.relieved:
            return spent
        return spent - sum(_taken(budget, account, number, *_stretch(budget, at_ns)) for number in account.relieved)

    def _uses(self, budget: Budget, account: _Account, at_ns: int) -> tuple[Use, ...]:
        stretch = _stretch(budget, at_ns)
        uses = (
            Use(
                budget.reliefs[number],
                _taken(budget, account, number, *stretch),
                _taken(budget, account, number, -1, _END_NS),
            )
            for number in sorted(account.relieved)
        )
        return tuple(use for use in uses if use.nano)

    def _top_run(self, budget: Budget, account: _Account, at_ns: int) -> tuple[str, int]:
        if isinstance(budget.window, Rolling):
            by_run = _series(account).by_run(at_ns - budget.window.length_ns, at_ns)
        else:
            window = account.windows.get(_bounds(budget.window, at_ns)[0])
            by_run = {} if window is None else window.by_run
        top = min(by_run, key=lambda run: (-by_run[run], run), default="")
        return top, by_run.get(top, 0)

    # --- levels -------------------------------------------------------------------------------------------------------

    def _holds(self, index: int, account: _Account, number: int, at_ns: int, counted: int | None = None) -> bool:
        """Does a level hold at a moment? `counted`: in the budget's own window, where it is known already."""
        budget, least = self._budgets[index], self._least[index][number]
        level = budget.levels[number]
        if isinstance(level, ShareLevel):
            return (self._counted(budget, account, at_ns) if counted is None else counted) >= least[0]
        series = _series(account)
        return all(
            series.last(over, at_ns)
            - sum(_taken(budget, account, relief, at_ns - over, at_ns) for relief in account.relieved)
            >= nano
            for over, nano in zip(level.over_ns, least, strict=True)
        )

    def _crossed(self, index: int, group: Group, at_ns: int) -> Iterator[Crossing]:
        """Levels that a charge at `at_ns` crosses, in its own window or in any that it has a bearing on."""
        budget, account = self._budgets[index], self._accounts[index, group]
        is_rolling = isinstance(budget.window, Rolling)
        start = 0 if is_rolling else _bounds(budget.window, at_ns)[0]
        counted = self._counted(budget, account, at_ns)
        used_up = bool(account.relieved) and _used_up(budget, account)
        for number, level in enumerate(budget.levels):
            rolls = is_rolling or isinstance(level, BurnLevel)
            key = (number, 0 if rolls else start)
            if key not in account.firing and key not in account.told:
                moment: int | None = None
                quiet_ns = account.quiet_until.get(number, -1)
                if at_ns > quiet_ns and self._holds(index, account, number, at_ns, counted):
                    moment = at_ns
                elif rolls and account.latest_ns > at_ns:
                    # A late charge may push a later moment over: each at which something was spent is looked at.
                    reach = max(level.over_ns) if isinstance(level, BurnLevel) else _horizon(budget)
                    end = _END_NS if used_up else at_ns + reach - 1
                    later = _series(account).times(max(at_ns, quiet_ns), end)
                    moment = next((at for at in later if self._holds(index, account, number, at)), None)
                if moment is not None:
                    yield self._fire(index, group, number, key, moment)
            if used_up and not rolls and account.latest_ns > at_ns:
                # What a late charge takes of a grant is missing in later windows.
                for later_start in sorted(one for one in account.windows if one > start):
                    key = (number, later_start)
                    if key not in account.told and self._holds(index, account, number, later_start):
                        yield self._fire(index, group, number, key, later_start)
        if account.relieved:
            yield from self._excepted(index, group, at_ns, counted)

    def _fire(self, index: int, group: Group, number: int, key: tuple[int, int], at_ns: int) -> Crossing:
        account = self._accounts[index, group]
        account.firing.add(key)
        window, level = self._budgets[index].window, self._budgets[index].levels[number]
        if not isinstance(window, Lifetime):
            self._firing[index, group] = None  # time ends it; a lifetime is looked after by the sweep
        if not isinstance(window, Rolling) and isinstance(level, ShareLevel):
            account.told.add(key)
        return self._crossing(index, group, number, "firing", at_ns)

    def _excepted(self, index: int, group: Group, at_ns: int, counted: int) -> Iterator[Crossing]:
        """The limit would be crossed, and is not because of an exception: said once in each window."""
        budget, account = self._budgets[index], self._accounts[index, group]
        window = budget.window
        place = at_ns // window.length_ns if isinstance(window, Rolling) else _bounds(window, at_ns)[0]
        for number, level in enumerate(budget.levels):
            least = self._least[index][number][0]
            if not isinstance(level, ShareLevel) or level.share != 1 or (number, place) in account.excepted:
                continue
            if counted < least <= self._spent(budget, account, at_ns):
                account.excepted.add((number, place))
                yield self._crossing(index, group, number, "excepted", at_ns)

    def _fallen(self, index: int, group: Group, at_ns: int) -> Iterator[Crossing]:
        """Calendar and lifetime levels that a correction took back; rolling ones end with time."""
        budget, account = self._budgets[index], self._accounts[index, group]
        if isinstance(budget.window, Rolling) or not account.told:
            return
        start = _bounds(budget.window, at_ns)[0]
        for number, since in sorted(account.told):
            # What a grant no longer pays for here, it pays for in another window.
            if (since != start and not account.relieved) or self._holds(index, account, number, since):
                continue
            account.told.discard((number, since))
            if (number, since) in account.firing:
                account.firing.discard((number, since))
                yield self._crossing(index, group, number, "resolved", since)

    def _ended_before(self, index: int, group: Group, at_ns: int) -> Iterator[Crossing]:
        """Episodes that were over when the latest charge came, whether time was told to pass in between or not."""
        account = self._accounts[index, group]
        if at_ns > account.latest_ns:
            yield from self._ended(index, group, account, at_ns - 1)
            if not account.firing:
                del self._firing[index, group]

    def _ended(self, index: int, group: Group, account: _Account, now_ns: int) -> Iterator[Crossing]:
        budget = self._budgets[index]
        for number, since in sorted(account.firing, key=lambda key: (key[1], key[0])):
            start = since
            if isinstance(budget.levels[number], BurnLevel) or isinstance(budget.window, Rolling):
                if now_ns < account.latest_ns or self._holds(index, account, number, now_ns):
                    continue
                account.quiet_until[number] = now_ns
                start = now_ns
            elif not isinstance(budget.window, Calendar) or now_ns < budget.window.bounds(since)[1]:
                continue
            account.firing.discard((number, since))
            yield self._crossing(index, group, number, "resolved", start)

    def _crossing(self, index: int, group: Group, number: int, state: str, at_ns: int) -> Crossing:
        budget, account = self._budgets[index], self._accounts[index, group]
        return Crossing(
            budget,
            group,
            budget.levels[number],
            state,
            at_ns,
            self._counted(budget, account, at_ns),
            _bounds(budget.window, at_ns)[0],
            *self._top_run(budget, account, at_ns),
            self._uses(budget, account, at_ns),
        )


def _least_nano(budget: Budget, level: Level) -> list[int]:
    """The whole nano-dollars from which a level holds, in each of its stretches."""
    if isinstance(level, ShareLevel):
        return [ceil(level.share * budget.limit_nano)]
    if isinstance(budget.window, Lifetime):
        raise ValueError("a burn rate needs a window")  # noqa: TRY004  # a budget that makes no sense, not a wrong type
    pace = level.rate * Fraction(budget.limit_nano, budget.window.length_ns)
    return [ceil(pace * over) for over in level.over_ns]


def _relief(budget: Budget, numbers: Iterable[int], at_ns: int) -> int:
    """The relief that a charge at this moment falls under: of those that match, the one that began last; -1: none."""
    begun = [
        (budget.reliefs[number].since_ns, number)
        for number in numbers
        if budget.reliefs[number].since_ns <= at_ns <= budget.reliefs[number].until_ns
    ]
    return max(begun)[1] if begun else -1


def _taken(budget: Budget, account: _Account, number: int, after_ns: int, until_ns: int) -> int:
    """What a relief takes over of the spending in (after, until]."""
    relief, series = budget.reliefs[number], account.relieved[number]
    spent = series.spent(after_ns, until_ns)
    if relief.factor is not None:
        return spent - spent * relief.factor.denominator // relief.factor.numerator
    if relief.grant_nano is None or series.total <= relief.grant_nano:
        return spent
    before = series.spent(-1, after_ns) if after_ns > 0 else 0
    return min(relief.grant_nano, before + spent) - min(relief.grant_nano, before)


def _used_up(budget: Budget, account: _Account) -> bool:
    """Is a grant gone, so that what it pays for depends on what came before?"""
    grants = ((budget.reliefs[number].grant_nano, series.total) for number, series in account.relieved.items())
    return any(grant is not None and total > grant for grant, total in grants)


def _stretch(budget: Budget, at_ns: int) -> tuple[int, int]:
    """(after, until] of the window that holds a moment."""
    window = budget.window
    if isinstance(window, Rolling):
        return at_ns - window.length_ns, at_ns
    if isinstance(window, Calendar):
        start, end = window.bounds(at_ns)
        return start - 1, end - 1
    return -1, _END_NS


def _group(budget: Budget, spend: Spend) -> Group:
    values = (spend.run if name == "run" else spend.facts.get(name) for name in budget.per)
    return (spend.tenant, *("" if value is None else str(value) for value in values))


def _horizon(budget: Budget) -> int:
    """The longest stretch that is summed entry by entry; 0: none, window totals are enough."""
    burns = [max(level.over_ns) for level in budget.levels if isinstance(level, BurnLevel)]
    rolling = [budget.window.length_ns] if isinstance(budget.window, Rolling) else []
    return max([*burns, *rolling], default=0)


def _bounds(window: Window, at_ns: int) -> tuple[int, int | None]:
    if isinstance(window, Calendar):
        return window.bounds(at_ns)
    return (at_ns - window.length_ns, None) if isinstance(window, Rolling) else (0, None)


def _series(account: _Account) -> Series:
    if account.series is None:
        raise ValueError("a budget that rolls or measures a burn rate keeps a series")
    return account.series
