"""Budget: how much each group of spenders has spent in each window, and which levels that crosses.

Money is order-independent: the sums, and which levels were ever crossed, depend on
the set of charges alone. A charge counts in the window of its own start time,
however late it is told. The time that is passed in only ends episodes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil
from typing import TYPE_CHECKING, Final

from otel_cost.core.budget.series import Series
from otel_cost.core.budget.window import DAY_NS, HOUR_NS, Calendar, Lifetime, Rolling, Window

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from otel_cost.core.rules.match import Matcher

LATENESS_NS: Final = 7 * DAY_NS  # a rolling window forgets what ended so long before it
KEEP_NS: Final = 70 * DAY_NS  # calendar windows and lifetimes of runs: the month before, whenever it is told
CALL_NS: Final = DAY_NS  # for so long a call may still change, or be told again, and count once


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
class Budget:
    """One budget, ready to count. `per`: the names that make the groups; the tenant always does."""

    name: str
    per: tuple[str, ...]
    match: Matcher
    limit_nano: int
    window: Window
    levels: tuple[Level, ...]


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
class Crossing:
    """A group crossed a level (`firing`), or is below it again (`resolved`)."""

    budget: Budget
    group: Group
    level: Level
    state: str
    at_ns: int  # when, in the time of the charges
    spent_nano: int
    window_start_ns: int  # 0 for a lifetime
    top_run: str  # who spent most in this window


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a group stands in the window that is running."""

    budget: Budget
    group: Group
    spent_nano: int
    window_start_ns: int  # 0 for a lifetime
    window_end_ns: int | None  # None: it rolls, or never ends


@dataclass(slots=True)
class _Window:
    total: int = 0
    by_run: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Account:
    """One group of one budget."""

    series: Series | None
    windows: dict[int, _Window] = field(default_factory=dict)  # by start; a lifetime starts at 0
    # Levels by their number in the budget; windows by their start, 0 where it rolls.
    firing: set[tuple[int, int]] = field(default_factory=set)
    told: set[tuple[int, int]] = field(default_factory=set)  # calendar and lifetime: once per window
    quiet_until: dict[int, int] = field(default_factory=dict)  # rolling: end of the last episode
    latest_ns: int = 0


class Budgets:
    """All budgets of one rule set over everything that is spent. Not thread-safe: it belongs to the engine."""

    def __init__(self, budgets: Sequence[Budget]) -> None:
        self._budgets = tuple(budgets)
        self._least = [[_least_nano(budget, level) for level in budget.levels] for budget in self._budgets]
        self._accounts: dict[tuple[int, Group], _Account] = {}
        self._firing: dict[tuple[int, Group], None] = {}  # accounts with a level to end, in order
        self._calls: dict[tuple[str, str], tuple[Spend, tuple[tuple[int, Group], ...]]] = {}
        self._swept_ns = 0

    @property
    def names(self) -> frozenset[str]:
        """The names that a spend's facts are asked for."""
        return frozenset().union(*({*budget.per, *budget.match.names} for budget in self._budgets))

    def put(self, tenant: str, call_id: str, spend: Spend | None) -> list[Crossing]:
        """Take what is known of a call now, in place of what was known before; None: there is no such call.

        Returns the levels that are crossed by it, or no longer.
        """
        old, old_groups = self._calls.pop((tenant, call_id), (None, ()))
        groups: tuple[tuple[int, Group], ...] = ()
        if spend is not None:
            groups = tuple(
                (index, _group(budget, spend))
                for index, budget in enumerate(self._budgets)
                if budget.match(spend.facts.get)
            )
            self._calls[tenant, call_id] = (spend, groups)
        if old is not None:
            for index, group in old_groups:
                self._add(index, group, old, -old.nano)
        if spend is not None:
            for index, group in groups:
                self._add(index, group, spend, spend.nano)
        crossings: list[Crossing] = []
        if spend is not None:
            for index, group in groups:
                crossings += self._crossed(index, group, spend.at_ns)
        if old is not None:
            for index, group in old_groups:
                crossings += self._fallen(index, group, old.at_ns)
        return crossings

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
            self._sweep(now_ns)
        return crossings

    def _sweep(self, now_ns: int) -> None:
        for (index, group), account in list(self._accounts.items()):
            window = self._budgets[index].window
            if account.series is not None:
                account.series.prune(now_ns - _horizon(self._budgets[index]) - LATENESS_NS)
            if isinstance(window, Calendar):
                for start in [start for start in account.windows if start < now_ns - KEEP_NS]:
                    del account.windows[start]
                account.told = {key for key in account.told if key[1] in account.windows}
            if account.latest_ns < now_ns - KEEP_NS and not account.firing:
                del self._accounts[index, group]
        for key, (spend, _) in list(self._calls.items()):
            if spend.at_ns >= now_ns - CALL_NS:
                break  # roughly in the order of time
            del self._calls[key]

    def standings(self, now_ns: int) -> Iterator[Standing]:
        """Every group of every budget, in the window that holds `now_ns`."""
        for (index, group), account in self._accounts.items():
            budget = self._budgets[index]
            start, end = _bounds(budget.window, now_ns)
            yield Standing(budget, group, self._spent(budget, account, now_ns), start, end)

    # --- counting -----------------------------------------------------------------------------------------------------

    def _add(self, index: int, group: Group, spend: Spend, nano: int) -> None:
        budget = self._budgets[index]
        account = self._accounts.get((index, group))
        if account is None:
            horizon = _horizon(budget)
            account = self._accounts[index, group] = _Account(Series(horizon) if horizon else None)
        account.latest_ns = max(account.latest_ns, spend.at_ns)
        if account.series is not None:
            account.series.add(spend.at_ns, nano, spend.run)
        if not isinstance(budget.window, Rolling):
            window = account.windows.setdefault(_bounds(budget.window, spend.at_ns)[0], _Window())
            window.total += nano
            window.by_run[spend.run] = window.by_run.get(spend.run, 0) + nano

    def _spent(self, budget: Budget, account: _Account, at_ns: int) -> int:
        if isinstance(budget.window, Rolling):
            return _series(account).spent(at_ns - budget.window.length_ns, at_ns)
        window = account.windows.get(_bounds(budget.window, at_ns)[0])
        return 0 if window is None else window.total

    def _top_run(self, budget: Budget, account: _Account, at_ns: int) -> str:
        if isinstance(budget.window, Rolling):
            by_run = _series(account).by_run(at_ns - budget.window.length_ns, at_ns)
        else:
            window = account.windows.get(_bounds(budget.window, at_ns)[0])
            by_run = {} if window is None else window.by_run
        return min(by_run, key=lambda run: (-by_run[run], run), default="")

    # --- levels -------------------------------------------------------------------------------------------------------

    def _holds(self, index: int, account: _Account, number: int, at_ns: int, spent: int | None = None) -> bool:
        """Does a level hold at a moment? `spent`: in the budget's own window, where it is known already."""
        budget, least = self._budgets[index], self._least[index][number]
        level = budget.levels[number]
        if isinstance(level, ShareLevel):
            return (self._spent(budget, account, at_ns) if spent is None else spent) >= least[0]
        stretches = zip(level.over_ns, least, strict=True)
        return all(_series(account).spent(at_ns - over, at_ns) >= nano for over, nano in stretches)

    def _crossed(self, index: int, group: Group, at_ns: int) -> Iterator[Crossing]:
        """Levels that a charge at `at_ns` crosses, in its own window or in any that reaches back to it."""
        budget, account = self._budgets[index], self._accounts[index, group]
        is_rolling = isinstance(budget.window, Rolling)
        start = 0 if is_rolling else _bounds(budget.window, at_ns)[0]
        spent = self._spent(budget, account, at_ns)
        for number, level in enumerate(budget.levels):
            rolls = is_rolling or isinstance(level, BurnLevel)
            key = (number, 0 if rolls else start)
            if key in account.firing or key in account.told:
                continue
            moment: int | None = None
            quiet_ns = account.quiet_until.get(number, -1)
            if at_ns > quiet_ns and self._holds(index, account, number, at_ns, spent):
                moment = at_ns
            elif rolls and account.latest_ns > at_ns:
                # A late charge may push a later moment over: each at which something was spent is looked at.
                reach = max(level.over_ns) if isinstance(level, BurnLevel) else _horizon(budget)
                later = _series(account).times(max(at_ns, quiet_ns), at_ns + reach - 1)
                moment = next((at for at in later if self._holds(index, account, number, at)), None)
            if moment is not None:
                account.firing.add(key)
                self._firing[index, group] = None
                if not rolls:
                    account.told.add(key)
                yield self._crossing(index, group, number, "firing", moment)

    def _fallen(self, index: int, group: Group, at_ns: int) -> Iterator[Crossing]:
        """Calendar and lifetime levels that a correction took back; rolling ones end with time."""
        budget, account = self._budgets[index], self._accounts[index, group]
        if isinstance(budget.window, Rolling) or not account.told:
            return
        start = _bounds(budget.window, at_ns)[0]
        for number, level in enumerate(budget.levels):
            key = (number, start)
            if key in account.told and isinstance(level, ShareLevel) and not self._holds(index, account, number, at_ns):
                account.told.discard(key)
                if key in account.firing:
                    account.firing.discard(key)
                    yield self._crossing(index, group, number, "resolved", at_ns)

    def _ended(self, index: int, group: Group, account: _Account, now_ns: int) -> Iterator[Crossing]:
        budget = self._budgets[index]
        for number, start in sorted(account.firing, key=lambda key: (key[1], key[0])):
            if isinstance(budget.levels[number], BurnLevel) or isinstance(budget.window, Rolling):
                if now_ns < account.latest_ns or self._holds(index, account, number, now_ns):
                    continue
                account.quiet_until[number] = now_ns
            elif isinstance(budget.window, Lifetime) or now_ns < budget.window.bounds(start)[1]:
                continue
            account.firing.discard((number, start))
            yield self._crossing(index, group, number, "resolved", now_ns)

    def _crossing(self, index: int, group: Group, number: int, state: str, at_ns: int) -> Crossing:
        budget, account = self._budgets[index], self._accounts[index, group]
        spent = self._spent(budget, account, at_ns)
        start = _bounds(budget.window, at_ns)[0]
        top = self._top_run(budget, account, at_ns)
        return Crossing(budget, group, budget.levels[number], state, at_ns, spent, start, top)


def _least_nano(budget: Budget, level: Level) -> list[int]:
    """The whole nano-dollars from which a level holds, in each of its stretches."""
    if isinstance(level, ShareLevel):
        return [ceil(level.share * budget.limit_nano)]
    if isinstance(budget.window, Lifetime):
        raise ValueError("a burn rate needs a window")  # noqa: TRY004  # a budget that makes no sense, not a wrong type
    pace = level.rate * Fraction(budget.limit_nano, budget.window.length_ns)
    return [ceil(pace * over) for over in level.over_ns]


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
