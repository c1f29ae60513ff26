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
    from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

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
    variant: str = ""  # which of the rule's limits this is; "" its own


@dataclass(slots=True)
class Spend:
    """What a call costs, and for whom. `facts`: dimensions and attributes by name; never changed once made."""

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
    exhausted_ns: int | None = None  # when the limit is reached at the present pace, where that is to be expected


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
    exhausted_ns: int | None = None  # as of a `Crossing`


@dataclass(slots=True)
class _Window:
    total: int = 0
    by_run: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Account:
    """One group of one budget."""

    index: int  # of the budget
    group: Group
    budget: Budget
    series: Series | None
    rolls: bool
    first_ns: int = _END_NS
    latest_ns: int = 0
    # While times go forward, so much may be spent before `until_ns` without a look at any level.
    room: int = -1
    until_ns: int = 0
    window: _Window | None = None  # the one that `room` is of
    windows: dict[int, _Window] = field(default_factory=dict)  # by start; a lifetime starts at 0
    relieved: dict[int, Series] = field(default_factory=dict)  # by number of the relief: what matches it
    excepted: set[tuple[int, int]] = field(default_factory=set)  # level and window: once
    # Levels by their number in the budget; windows by their start, 0 where it rolls.
    firing: set[tuple[int, int]] = field(default_factory=set)
    told: set[tuple[int, int]] = field(default_factory=set)  # calendar and lifetime: once per window
    quiet_until: dict[int, int] = field(default_factory=dict)  # rolling: end of the last episode


# What a call counts in, and the relief that it falls under there (-1: none).
_Part = tuple[_Account, int]


class Budgets:
    """All budgets of one rule set over everything that is spent. Not thread-safe: it belongs to the engine."""

    def __init__(self, budgets: Sequence[Budget]) -> None:
        self._budgets = tuple(budgets)
        self.names = frozenset().union(
            *({*b.per, *b.match.names, *(name for one in b.reliefs for name in one.match.names)} for b in budgets)
        )
        """The names that a spend's facts are asked for."""
        self.asked = tuple(sorted(self.names - {"tenant", "run"}))
        self._by_run = "run" in self.names
        self._matched: dict[tuple[object, ...], tuple[tuple[_Part, ...], tuple[tuple[int, ...], ...]]] = {}
        conditions = frozenset().union(
            *({*b.match.names, *(name for one in b.reliefs for name in one.match.names)} for b in budgets)
        )
        self._conditions = tuple(sorted(conditions - {"tenant", "run"}))
        self._asks_run = "run" in conditions
        self._counts: dict[tuple[object, ...], tuple[tuple[int, tuple[int, ...]], ...]] = {}
        self._least = [[_least_nano(budget, level) for level in budget.levels] for budget in self._budgets]
        self._accounts: dict[tuple[int, Group], _Account] = {}
        self._firing: dict[_Account, None] = {}  # accounts with a level to end, in order
        self._calls: dict[tuple[str, str], tuple[int, int, str, tuple[_Part, ...]]] = {}  # time, nano, run, parts
        self._swept_ns = 0
        self._held: list[tuple[_Account, int]] | None = None  # taken from, while several calls change at once

    def put(self, tenant: str, call_id: str, spend: Spend | None) -> Sequence[Crossing]:
        """Take what is known of a call now, in place of what was known before; None: there is no such call.

        Returns the levels that are crossed by it, or no longer.
        """
        key = (tenant, call_id)
        old = self._calls.get(key)
        if old is None:
            if spend is None:
                return ()
            new = self._calls[key] = self._entry(spend)
            return self._count(new)
        entry = None if spend is None else self._entry(spend)
        if entry == old:
            return ()
        del self._calls[key]
        for account, relief in old[3]:
            self._add(account, relief, old[0], -old[1], old[2])
        crossings: list[Crossing] = []
        if entry is not None:
            self._calls[key] = entry
            crossings += self._count(entry)
        for account, _ in old[3]:
            if self._held is None:
                crossings += self._fallen(account, old[0])
            else:
                self._held.append((account, old[0]))
        return crossings

    def hold(self) -> None:
        """Several calls change at once: what one gives and another takes falls below no level in between."""
        self._held = []

    def release(self) -> list[Crossing]:
        """They have: the levels that are crossed no longer."""
        held, self._held = self._held or [], None
        return [crossing for account, at_ns in held for crossing in self._fallen(account, at_ns)]

    def _count(self, entry: tuple[int, int, str, tuple[_Part, ...]]) -> Sequence[Crossing]:
        """Nearly every call is far from every limit: then it is added, and nothing is looked at."""
        at_ns, nano, run, parts = entry
        crossings: list[Crossing] | tuple[()] = ()
        slow: list[_Account] | tuple[()] = ()
        for account, relief in parts:
            if relief < 0 and account.latest_ns <= at_ns < account.until_ns and nano <= account.room:
                account.room -= nano
                account.latest_ns = at_ns
                if account.series is not None:
                    account.series.add(at_ns, nano, run)
                window = account.window
                if window is not None:
                    window.total += nano
                    window.by_run[run] = window.by_run.get(run, 0) + nano
                continue
            crossings = [*crossings, *self._ended_before(account, at_ns)] if account in self._firing else crossings
            self._add(account, relief, at_ns, nano, run)
            slow = [*slow, account]
        for account in slow:
            crossings = [*crossings, *self._crossed(account, at_ns)]
        return crossings

    def stands(self, crossing: Crossing, now_ns: int) -> bool:
        """Does a level that was crossed still hold at this moment?"""
        index = next(number for number, budget in enumerate(self._budgets) if budget is crossing.budget)
        account = self._accounts[index, crossing.group]
        start, end = _bounds(account.budget.window, crossing.at_ns)
        if not account.rolls and end is not None and not start <= now_ns < end:
            return False
        return self._holds(account, account.budget.levels.index(crossing.level), now_ns)

    def knows(self, tenant: str, call_id: str) -> bool:
        """Is a call counted, and remembered one by one?"""
        return (tenant, call_id) in self._calls

    def of_others(self, runs: Container[tuple[str, str]]) -> Iterator[tuple[str, str]]:
        """Calls that are counted and remembered one by one, of other runs than these (tenant, run)."""
        return (key for key, (_, _, run, _) in self._calls.items() if (key[0], run) not in runs)

    def recall(self, tenant: str, call_id: str, spend: Spend) -> None:
        """A call that was counted and has been forgotten since is about to change."""
        if not self.knows(tenant, call_id):
            self._calls[tenant, call_id] = self._entry(spend)

    def _entry(self, spend: Spend) -> tuple[int, int, str, tuple[_Part, ...]]:
        facts, at_ns = spend.facts, spend.at_ns
        key = (spend.tenant, spend.run if self._by_run else "", *map(facts.get, self.asked))
        # Remembered by what is asked, because most calls are like one before.
        found = self._matched.get(key)
        parts, reliefs = self._match(spend, key) if found is None else found
        if reliefs:
            parts = tuple(
                (account, _relief(account.budget, of_account, at_ns) if of_account else -1)
                for (account, _), of_account in zip(parts, reliefs, strict=True)
            )
        return at_ns, spend.nano, spend.run, parts

    def _match(self, spend: Spend, key: tuple[object, ...]) -> tuple[tuple[_Part, ...], tuple[tuple[int, ...], ...]]:
        """The accounts that a spend counts in, and the reliefs of each that match it; of these (): none at all."""
        parts: list[_Part] = []
        reliefs: list[tuple[int, ...]] = []
        for index, of_budget in self._counting(spend):
            parts.append((self._account(index, _group(self._budgets[index], spend)), -1))
            reliefs.append(of_budget)
        if len(self._matched) >= _MOST_MATCHED:
            self._matched.clear()
        found = self._matched[key] = (tuple(parts), tuple(reliefs) if any(reliefs) else ())
        return found

    def _counting(self, spend: Spend) -> tuple[tuple[int, tuple[int, ...]], ...]:
        """The budgets that count a spend, with the reliefs of each that match it; a new run alone changes nothing."""
        key = (spend.tenant, spend.run if self._asks_run else "", *map(spend.facts.get, self._conditions))
        found = self._counts.get(key)
        if found is None:
            get = {**spend.facts, "tenant": spend.tenant, "run": spend.run}.get
            found = tuple(
                (index, tuple(number for number, relief in enumerate(budget.reliefs) if relief.match(get)))
                for index, budget in enumerate(self._budgets)
                if budget.match(get)
            )
            if len(self._counts) >= _MOST_MATCHED:
                self._counts.clear()
            self._counts[key] = found
        return found

    def _account(self, index: int, group: Group) -> _Account:
        account = self._accounts.get((index, group))
        if account is None:
            budget = self._budgets[index]
            horizon = _horizon(budget)
            series = Series() if horizon else None
            account = _Account(index, group, budget, series, isinstance(budget.window, Rolling))
            self._accounts[index, group] = account
        return account

    def advance(self, now_ns: int) -> list[Crossing]:
        """Let time pass: windows end, rolling ones empty themselves, what is long over is forgotten."""
        crossings: list[Crossing] = []
        for account in list(self._firing):
            crossings += self._ended(account, now_ns)
            if not account.firing:
                del self._firing[account]
        if now_ns >= self._swept_ns + HOUR_NS:
            self._swept_ns = now_ns
            crossings += self._sweep(now_ns)
        return crossings

    def _sweep(self, now_ns: int) -> Iterator[Crossing]:
        gone = False
        for key, account in list(self._accounts.items()):
            window = account.budget.window
            if isinstance(window, Lifetime) and account.firing and account.latest_ns < now_ns - QUIET_NS:
                for number, _ in sorted(account.firing):
                    yield self._crossing(account, number, "resolved", account.latest_ns)
                # Whoever goes on after that is told again.
                account.firing.clear()
                account.told.clear()
                account.room = -1
            if account.series is not None:
                account.series.prune(now_ns - _horizon(account.budget) - LATENESS_NS)
            for number, series in list(account.relieved.items()):
                relief = account.budget.reliefs[number]
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
                del self._accounts[key]
                gone = True
        if gone:
            self._matched.clear()  # it holds accounts
        for call, (at_ns, *_) in list(self._calls.items()):
            if at_ns >= now_ns - CALL_NS:
                break  # roughly in the order of time
            del self._calls[call]

    def left(self, spend: Spend) -> tuple[Budget, int] | None:
        """Of the budgets that would count a spend, the one that has the least left [nano-USD] at its time."""
        found: tuple[Budget, int] | None = None
        for index, _ in self._counting(spend):
            account = self._accounts.get((index, _group(self._budgets[index], spend)))
            budget = self._budgets[index]
            left = budget.limit_nano - (0 if account is None else self._counted(account, spend.at_ns))
            if found is None or left < found[1]:
                found = budget, max(0, left)
        return found

    def shares(self, now_ns: int) -> Iterator[tuple[Fraction, _Account]]:
        """Every account with how much of its limit is used in the window that holds `now_ns`.

        Between two of them others may come and go; these are those of the beginning.
        """
        for account in list(self._accounts.values()):
            yield Fraction(self._counted(account, now_ns), account.budget.limit_nano), account

    def standings(self, now_ns: int) -> Iterator[Standing]:
        """Every group of every budget, in the window that holds `now_ns`."""
        for account in self._accounts.values():
            yield self.standing(account, now_ns)

    def standing(self, account: _Account, now_ns: int) -> Standing:
        """Where an account stands in the window that holds `now_ns`."""
        start, end = _bounds(account.budget.window, now_ns)
        counted = self._counted(account, now_ns)
        return Standing(
            account.budget,
            account.group,
            counted,
            start,
            end,
            *self._top_run(account, now_ns),
            self._uses(account, now_ns),
            tuple(account.budget.levels[number] for number, since in sorted(account.firing) if since in {0, start}),
            self._exhausted_ns(account, now_ns, counted),
        )

    # --- counting -----------------------------------------------------------------------------------------------------

    def _add(self, account: _Account, relief: int, at_ns: int, nano: int, run: str) -> None:
        budget = account.budget
        account.room = -1
        account.latest_ns = max(account.latest_ns, at_ns)
        account.first_ns = min(account.first_ns, at_ns)
        if account.series is not None:
            account.series.add(at_ns, nano, run)
        if not account.rolls:
            window = account.windows.setdefault(_bounds(budget.window, at_ns)[0], _Window())
            window.total += nano
            window.by_run[run] = window.by_run.get(run, 0) + nano
        if relief >= 0:
            series = account.relieved.get(relief)
            if series is None:
                series = account.relieved[relief] = Series()
            series.add(at_ns, nano, run)

    def _spent(self, account: _Account, at_ns: int) -> int:
        """All of it, whether it counts or not."""
        budget = account.budget
        if isinstance(budget.window, Rolling):
            return _series(account).last(budget.window.length_ns, at_ns)
        window = account.windows.get(_bounds(budget.window, at_ns)[0])
        return 0 if window is None else window.total

    def _counted(self, account: _Account, at_ns: int) -> int:
        spent = self._spent(account, at_ns)
        if not account.relieved:
            return spent
        stretch = _stretch(account.budget, at_ns)
        return spent - sum(_taken(account, number, *stretch) for number in account.relieved)

    def _uses(self, account: _Account, at_ns: int) -> tuple[Use, ...]:
        stretch = _stretch(account.budget, at_ns)
        uses = (
            Use(account.budget.reliefs[number], _taken(account, number, *stretch), _taken(account, number, -1, _END_NS))
            for number in sorted(account.relieved)
        )
        return tuple(use for use in uses if use.nano)

    def _top_run(self, account: _Account, at_ns: int) -> tuple[str, int]:
        window = account.budget.window
        if isinstance(window, Rolling):
            by_run = _series(account).by_run(at_ns - window.length_ns, at_ns)
        else:
            found = account.windows.get(_bounds(window, at_ns)[0])
            by_run = {} if found is None else found.by_run
        top = min(by_run, key=lambda run: (-by_run[run], run), default="")
        return top, by_run.get(top, 0)

    def _exhausted_ns(self, account: _Account, at_ns: int, counted: int) -> int | None:
        """When the limit is reached if money goes on as it does; None: not in this window, or it has been.

        The pace is the average since a calendar window, or a life, began; of a rolling window that of its last
        twelfth, against which what was spent before leaves the window.
        """
        window, limit = account.budget.window, account.budget.limit_nano
        if not 0 < counted < limit:
            return None
        if not isinstance(window, Rolling):
            start, end = window.bounds(at_ns) if isinstance(window, Calendar) else (account.first_ns, _END_NS)
            gone = start + ceil(Fraction(max(0, at_ns - start) * limit, counted))
            return gone if at_ns < gone < end else None
        length, recent = window.length_ns, window.length_ns // 12
        pace = Fraction(self._between(account, at_ns - recent, at_ns), recent)
        if not pace:
            return None
        before = at_ns
        for step in range(1, 25):
            then = at_ns + length * step // 24
            stays = self._between(account, then - length, at_ns)
            if stays + pace * (then - at_ns) >= limit:
                return min(then, max(before, at_ns + ceil((limit - stays) / pace)))
            before = then
        return None

    def _between(self, account: _Account, after_ns: int, until_ns: int) -> int:
        """What counts in (after, until]."""
        if until_ns <= after_ns:
            return 0
        spent = _series(account).spent(after_ns, until_ns)
        return spent - sum(_taken(account, number, after_ns, until_ns) for number in account.relieved)

    # --- levels -------------------------------------------------------------------------------------------------------

    def _holds(self, account: _Account, number: int, at_ns: int, counted: int | None = None) -> bool:
        """Does a level hold at a moment? `counted`: in the budget's own window, where it is known already."""
        least, level = self._least[account.index][number], account.budget.levels[number]
        if isinstance(level, ShareLevel):
            return (self._counted(account, at_ns) if counted is None else counted) >= least[0]
        return all(missing <= 0 for missing in self._missing(account, level, least, at_ns))

    def _missing(self, account: _Account, level: BurnLevel, least: list[int], at_ns: int) -> Iterator[int]:
        """Of each stretch of a burn rate: what has to be spent yet."""
        series = _series(account)
        for over, nano in zip(level.over_ns, least, strict=True):
            taken = sum(_taken(account, relief, at_ns - over, at_ns) for relief in account.relieved)
            yield nano - series.last(over, at_ns) + taken

    def _crossed(self, account: _Account, at_ns: int) -> Iterator[Crossing]:
        """Levels that a charge at `at_ns` crosses, in its own window or in any that it has a bearing on."""
        budget = account.budget
        is_rolling = account.rolls
        start = 0 if is_rolling else _bounds(budget.window, at_ns)[0]
        counted = self._counted(account, at_ns)
        used_up = bool(account.relieved) and _used_up(account)
        for number, level in enumerate(budget.levels):
            rolls = is_rolling or isinstance(level, BurnLevel)
            key = (number, 0 if rolls else start)
            if key not in account.firing and key not in account.told:
                moment: int | None = None
                quiet_ns = account.quiet_until.get(number, -1)
                if at_ns > quiet_ns and self._holds(account, number, at_ns, counted):
                    moment = at_ns
                elif rolls and account.latest_ns > at_ns:
                    # A late charge may push a later moment over: each at which something was spent is looked at.
                    reach = max(level.over_ns) if isinstance(level, BurnLevel) else _horizon(budget)
                    end = _END_NS if used_up else at_ns + reach - 1
                    later = _series(account).times(max(at_ns, quiet_ns), end)
                    moment = next((at for at in later if self._holds(account, number, at)), None)
                if moment is not None:
                    yield self._fire(account, number, key, moment)
            if used_up and not rolls and account.latest_ns > at_ns:
                # What a late charge takes of a grant is missing in later windows.
                for later_start in sorted(one for one in account.windows if one > start):
                    key = (number, later_start)
                    if key not in account.told and self._holds(account, number, later_start):
                        yield self._fire(account, number, key, later_start)
        if account.relieved:
            yield from self._excepted(account, at_ns, counted)
        elif at_ns == account.latest_ns:
            self._make_room(account, at_ns, start, counted)

    def _make_room(self, account: _Account, at_ns: int, start: int, counted: int) -> None:
        """How much may be spent from here on before a level has to be looked at: what leaves a window only adds."""
        budget = account.budget
        if any(since != start or account.rolls for _, since in account.firing):
            return  # something waits for its end
        room = _END_NS
        for number, level in enumerate(budget.levels):
            least = self._least[account.index][number]
            if isinstance(level, BurnLevel):
                room = min(room, max(self._missing(account, level, least, at_ns)))
            elif (number, start) not in account.told:
                room = min(room, least[0] - counted)
        account.room = room - 1
        if account.rolls:
            account.until_ns = _END_NS
        else:
            account.until_ns = _bounds(budget.window, at_ns)[1] or _END_NS
            account.window = account.windows[start]

    def _fire(self, account: _Account, number: int, key: tuple[int, int], at_ns: int) -> Crossing:
        account.firing.add(key)
        window, level = account.budget.window, account.budget.levels[number]
        if not isinstance(window, Lifetime):
            self._firing[account] = None  # time ends it; a lifetime is looked after by the sweep
        if not account.rolls and isinstance(level, ShareLevel):
            account.told.add(key)
        return self._crossing(account, number, "firing", at_ns)

    def _excepted(self, account: _Account, at_ns: int, counted: int) -> Iterator[Crossing]:
        """The limit would be crossed, and is not because of an exception: said once in each window."""
        window = account.budget.window
        place = at_ns // window.length_ns if isinstance(window, Rolling) else _bounds(window, at_ns)[0]
        for number, level in enumerate(account.budget.levels):
            least = self._least[account.index][number][0]
            if not isinstance(level, ShareLevel) or level.share != 1 or (number, place) in account.excepted:
                continue
            if counted < least <= self._spent(account, at_ns):
                account.excepted.add((number, place))
                yield self._crossing(account, number, "excepted", at_ns)

    def _fallen(self, account: _Account, at_ns: int) -> Iterator[Crossing]:
        """Calendar and lifetime levels that a correction took back; rolling ones end with time."""
        if account.rolls or not account.told:
            return
        start = _bounds(account.budget.window, at_ns)[0]
        for number, since in sorted(account.told):
            # What a grant no longer pays for here, it pays for in another window.
            if (since != start and not account.relieved) or self._holds(account, number, since):
                continue
            account.told.discard((number, since))
            account.room = -1
            if (number, since) in account.firing:
                account.firing.discard((number, since))
                yield self._crossing(account, number, "resolved", since)

    def _ended_before(self, account: _Account, at_ns: int) -> Iterator[Crossing]:
        """Episodes that were over when the latest charge came, whether time was told to pass in between or not."""
        if at_ns > account.latest_ns:
            yield from self._ended(account, at_ns - 1)
            if not account.firing:
                del self._firing[account]

    def _ended(self, account: _Account, now_ns: int) -> Iterator[Crossing]:
        budget = account.budget
        for number, since in sorted(account.firing, key=lambda key: (key[1], key[0])):
            start = since
            if isinstance(budget.levels[number], BurnLevel) or account.rolls:
                if now_ns < account.latest_ns or self._holds(account, number, now_ns):
                    continue
                account.quiet_until[number] = now_ns
                start = now_ns
            elif not isinstance(budget.window, Calendar) or now_ns < budget.window.bounds(since)[1]:
                continue
            account.firing.discard((number, since))
            account.room = -1
            yield self._crossing(account, number, "resolved", start)

    def _crossing(self, account: _Account, number: int, state: str, at_ns: int) -> Crossing:
        counted = self._counted(account, at_ns)
        return Crossing(
            account.budget,
            account.group,
            account.budget.levels[number],
            state,
            at_ns,
            counted,
            _bounds(account.budget.window, at_ns)[0],
            *self._top_run(account, at_ns),
            self._uses(account, at_ns),
            self._exhausted_ns(account, at_ns, counted) if state == "firing" else None,
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


def _taken(account: _Account, number: int, after_ns: int, until_ns: int) -> int:
    """What a relief takes over of the spending in (after, until]."""
    relief, series = account.budget.reliefs[number], account.relieved[number]
    spent = series.spent(after_ns, until_ns)
    if relief.factor is not None:
        return spent - spent * relief.factor.denominator // relief.factor.numerator
    if relief.grant_nano is None or series.total <= relief.grant_nano:
        return spent
    before = series.spent(-1, after_ns) if after_ns > 0 else 0
    return min(relief.grant_nano, before + spent) - min(relief.grant_nano, before)


def _used_up(account: _Account) -> bool:
    """Is a grant gone, so that what it pays for depends on what came before?"""
    grants = ((account.budget.reliefs[number].grant_nano, series.total) for number, series in account.relieved.items())
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
