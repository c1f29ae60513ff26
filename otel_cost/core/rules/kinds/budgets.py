"""Rule kind `budgets`: so much money, per window, for each group of spenders."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, Tag, model_validator

from otel_cost.core.model.vocabulary import Severity
from otel_cost.core.rules.kind import Actions, Dimension, Fail, Mode, Name, RuleKind, Strict, register, told_by
from otel_cost.core.rules.match import Match, Matcher
from otel_cost.quantities import Duration, Share


def _check_window(window: str) -> str:
    if not re.fullmatch(r"[1-9]\d{0,3}(h|d|w|mo)", window):
        hint = "write a number and h, d, w or mo, for example `1w`"
        raise ValueError(f"`{window[:40]}` is not a window\n{hint}")
    return window


Window = Annotated[str, AfterValidator(_check_window), Field(json_schema_extra={"pattern": r"^[1-9]\d*(h|d|w|mo)$"})]


class Limit(Strict):
    """A ceiling on spending for each group, in each window."""

    usd: Annotated[Decimal, Field(gt=0)]
    window: Window | None = None  # None: a run's whole life
    kind: Literal["rolling", "calendar"] = "rolling"  # calendar weeks start on Monday (ISO 8601)


class WarnAt(Strict):
    """Tell when this share of the limit is spent."""

    at: Share


class WarnBurnRate(Strict):
    """Tell when money goes this many times faster than the limit allows, over all of these windows."""

    burn_rate: Annotated[Decimal, Field(gt=0)]
    over: Annotated[tuple[Duration, ...], Field(min_length=1)]


Warning_ = Annotated[
    Annotated[WarnAt, Tag("WarnAt")] | Annotated[WarnBurnRate, Tag("WarnBurnRate")],
    told_by(at="WarnAt", burn_rate="WarnBurnRate", over="WarnBurnRate"),
]


class AtLimit(Strict):
    """What happens at the limit, and to whom."""

    target: Literal["top_burner", "run", "everyone"] = "top_burner"
    do: Actions = ()
    hard_stop_at: Share | None = None


class BudgetModel(Strict):
    """One budget."""

    name: Name
    per: tuple[Dimension, ...] = ()  # dimensions that make the groups; empty: everyone together
    match: Match = Field(default_factory=Matcher)
    limit: Limit
    warn: tuple[Warning_, ...] = ()
    at_limit: AtLimit = AtLimit()
    mode: Mode | None = None
    severity: Severity | None = None
    fail: Fail | None = None

    @model_validator(mode="after")
    def _window_or_run(self) -> BudgetModel:
        if self.limit.window is None and "run" not in self.per:
            raise ValueError("`limit.window` is missing\nonly a budget `per: [run]` goes without")
        return self


KIND: RuleKind[None] = register(RuleKind(name="budgets", model=BudgetModel))
