"""Rule kind `budgets`: so much money, per window, for each group of spenders."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from datetime import UTC
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Literal, cast
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, Tag, model_validator

from otel_cost.core.budget import Budget, BurnLevel, ShareLevel
from otel_cost.core.budget.window import LENGTH_NS, Calendar, Lifetime, Rolling
from otel_cost.core.model.money import usd_to_nano
from otel_cost.core.model.vocabulary import Severity
from otel_cost.core.rules.kind import Actions, Dimension, Fail, Mode, Name, RuleKind, Strict, register, told_by
from otel_cost.core.rules.match import FACTS, Match, Matcher, both, either
from otel_cost.errors import DocumentError
from otel_cost.quantities import Duration, Share

if TYPE_CHECKING:
    from collections.abc import Iterator

    from otel_cost.core.budget.window import Unit
    from otel_cost.core.budget.window import Window as Window_
    from otel_cost.core.rules.kind import Site
    from otel_cost.errors import Problem


def _check_window(window: str) -> str:
    if not re.fullmatch(r"[1-9]\d{0,3}(h|d|w|mo)", window):
        hint = "write a number and h, d, w or mo, for example `1w`"
        raise ValueError(f"`{window[:40]}` is not a window\n{hint}")
    return window


Window = Annotated[str, AfterValidator(_check_window), Field(json_schema_extra={"pattern": r"^[1-9]\d*(h|d|w|mo)$"})]


_LEAST_USD, _MOST_USD = Decimal("0.000000001"), Decimal(10**9)  # what is counted in; what its integers hold


def _check_usd(usd: Decimal) -> Decimal:
    if not _LEAST_USD <= usd <= _MOST_USD:
        raise ValueError(f"`{usd}` USD cannot be counted\nfrom {_LEAST_USD:f} to {_MOST_USD:f}")
    return usd


def _check_share(share: Fraction) -> Fraction:
    if not 0 < share <= 10:
        hint = "write a percentage between 0 and 1000%, for example `80%`"
        raise ValueError(f"`{float(share * 100):g}%` of the limit is no level\n{hint}")
    return share


def _check_stretch(stretch: int) -> int:
    if stretch <= 0:
        raise ValueError("a stretch of no time\nfor example `5m`")
    return stretch


Usd = Annotated[Decimal, Field(gt=0), AfterValidator(_check_usd)]
Level = Annotated[Share, AfterValidator(_check_share)]


class Limit(Strict):
    """A ceiling on spending for each group, in each window."""

    usd: Usd
    window: Window | None = None  # None: a run's whole life
    kind: Literal["rolling", "calendar"] = "rolling"  # calendar weeks start on Monday (ISO 8601)


class WarnAt(Strict):
    """Tell when this share of the limit is spent."""

    at: Level


class WarnBurnRate(Strict):
    """Tell when money goes this many times faster than the limit allows, over all of these windows."""

    burn_rate: Annotated[Decimal, Field(gt=0)]
    over: Annotated[tuple[Annotated[Duration, AfterValidator(_check_stretch)], ...], Field(min_length=1)]


Warning_ = Annotated[
    Annotated[WarnAt, Tag("WarnAt")] | Annotated[WarnBurnRate, Tag("WarnBurnRate")],
    told_by(at="WarnAt", burn_rate="WarnBurnRate", over="WarnBurnRate"),
]


class AtLimit(Strict):
    """What happens at the limit, and to whom: the run that spent most in the window, the run that crossed, everyone."""

    target: Literal["top_burner", "run", "everyone"] = "top_burner"
    do: Actions = ()
    hard_stop_at: Level | None = None


class Override(Strict):
    """Another limit for some groups; the first that matches holds, the budget's own for the rest."""

    match: Match
    usd: Usd


class BudgetModel(Strict):
    """One budget."""

    name: Name
    per: tuple[Dimension, ...] = ()  # dimensions that make the groups; empty: everyone together
    match: Match = Field(default_factory=Matcher)
    limit: Limit
    overrides: tuple[Override, ...] = ()
    warn: tuple[Warning_, ...] = ()
    at_limit: AtLimit = AtLimit()
    mode: Mode | None = None
    severity: Severity | None = None
    fail: Fail | None = None

    @model_validator(mode="after")
    def _windows_fit(self) -> BudgetModel:
        window = self.limit.window
        if window is None and "run" not in self.per:
            raise ValueError("`limit.window` is missing\nonly a budget `per: [run]` goes without")
        if window is None and any(isinstance(warning, WarnBurnRate) for warning in self.warn):
            raise ValueError("a burn rate needs `limit.window`\nwithout it there is no pace to compare with")
        if self.limit.kind == "calendar" and (window is None or re.match(r"\d+", window)[0] != "1"):  # type: ignore[index]
            raise ValueError("a calendar window is one hour, day, week or month\nuse `kind: rolling` for several")
        return self


@dataclass(frozen=True, slots=True)
class BudgetRule:
    """A budget rule, ready to run: what is counted, and what is to be done."""

    budget: Budget
    mode: Mode
    severity: Severity | None
    fail: Fail
    target: str
    actions: Actions  # at the limit; beyond `hard_stop` the run is stopped
    window_text: str  # "rolling 1h", "calendar 1mo", "lifetime"
    overrides: tuple[tuple[Matcher, int], ...] = ()  # who has another limit, nano-USD

    @property
    def name(self) -> str:
        return self.budget.name

    def parts(self) -> Iterator[BudgetRule]:
        """One rule for each of its limits; a call counts in the first that matches it."""
        budget, earlier = self.budget, Matcher()
        for match, limit_nano in self.overrides:
            written = json.dumps(match.written, sort_keys=True, default=str)
            part = replace(
                budget,
                match=both(budget.match, match, but=earlier),
                limit_nano=limit_nano,
                variant=hashlib.blake2b(written.encode(), digest_size=4).hexdigest(),
            )
            yield replace(self, budget=part, overrides=())
            earlier = either(earlier, match)
        if self.overrides:
            budget = replace(budget, match=both(budget.match, Matcher(), but=earlier))
        yield replace(self, budget=budget, overrides=())


def compile_budget(model: BudgetModel, site: Site) -> BudgetRule:
    """The rule that a checked model describes. Among its levels are `limit` and, where given, `hard_stop`.

    Raises:
        DocumentError: it matches on what is not known of a single call.
    """
    problems = not_of_a_call(model.match, site)
    for index, override in enumerate(model.overrides):
        problems += not_of_a_call(override.match, site, "overrides", index)
    if problems:
        raise DocumentError(problems)
    shares = [ShareLevel(_percent(warning.at), warning.at) for warning in model.warn if isinstance(warning, WarnAt)]
    shares.append(ShareLevel("limit", Fraction(1)))
    if model.at_limit.hard_stop_at is not None:
        shares.append(ShareLevel("hard_stop", model.at_limit.hard_stop_at))
    burns = [
        BurnLevel(f"burn_rate {warning.burn_rate}", Fraction(warning.burn_rate), warning.over)
        for warning in model.warn
        if isinstance(warning, WarnBurnRate)
    ]
    budget = Budget(
        name=model.name,
        per=tuple(model.per),
        match=model.match,
        limit_nano=usd_to_nano(model.limit.usd),
        window=_window(model.limit, site.defaults.timezone),
        levels=(*burns, *sorted(shares, key=lambda level: level.share)),
    )
    return BudgetRule(
        budget,
        model.mode or site.defaults.mode,
        model.severity,
        model.fail or site.defaults.fail,
        model.at_limit.target,
        model.at_limit.do,
        f"{model.limit.kind} {model.limit.window}" if model.limit.window else "lifetime",
        tuple((override.match, usd_to_nano(override.usd)) for override in model.overrides),
    )


def not_of_a_call(match: Matcher, site: Site, *below: str | int) -> list[Problem]:
    """Names that a `match` asks for and no single call answers: the rule would never match."""
    return [
        site.problem(
            f"`{name}` is a fact of a run, not of a call", "match on who, what or where it is", *below, "match", name
        )
        for name in sorted(match.names & (set(FACTS) - {"failed", "status"}))
    ]


def _window(limit: Limit, timezone: str) -> Window_:
    if limit.window is None:
        return Lifetime()
    found = re.fullmatch(r"(\d+)(h|d|w|mo)", limit.window)
    if found is None:
        raise ValueError(limit.window)
    unit = cast("Unit", found[2])
    if limit.kind == "calendar":
        return Calendar(unit, UTC if timezone == "UTC" else ZoneInfo(timezone))
    return Rolling(int(found[1]) * LENGTH_NS[unit])


def _percent(share: Fraction) -> str:
    return f"{float(share * 100):g}%"


# What an alert of a budget tells: whose money, how much of it, and of which window.
_FACTS = (
    "kind", "budget", "group", "level", "observed", "threshold", "limit_usd", "spent_usd", "left_usd", "used_percent",
    "window", "window_start", "crossed_at", "exhausted_at", "target", "top_run", "top_run_usd", "model_route",
)  # fmt: skip

KIND = register(RuleKind(name="budgets", model=BudgetModel, build=compile_budget, facts=_FACTS))
