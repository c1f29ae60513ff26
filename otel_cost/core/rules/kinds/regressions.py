"""Rule kind `regressions`: the same work has become dearer than it was."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from otel_cost.core.rules.kind import Actions, Dimension, Mode, Name, RuleKind, Strict, register
from otel_cost.core.rules.match import Match, Matcher
from otel_cost.quantities import Duration


def _check_of_last(written: str) -> str:
    found = re.fullmatch(r"(\d{1,3}) of last (\d{1,3})", written)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise ValueError(f"`{written[:40]}` is not understood\nfor example `3 of last 5`")
    return written


class Baseline(Strict):
    """What it used to cost."""

    last: Duration
    min_runs: Annotated[int, Field(ge=1)] = 20
    stat: Literal["p50", "p90", "p95", "mean"] = "p50"


class Fire(Strict):
    """When it counts as dearer: by this factor, so often."""

    ratio: Annotated[Decimal, Field(gt=1)]
    for_: Annotated[str, Field(alias="for"), AfterValidator(_check_of_last)] = "3 of last 5"


class RegressionModel(Strict):
    """One comparison with the past."""

    name: Name
    per: Annotated[tuple[Dimension, ...], Field(min_length=1)]
    match: Match = Field(default_factory=Matcher)
    baseline: Baseline
    fire: Fire
    mode: Mode | None = None
    do: Actions = ()


KIND: RuleKind[None] = register(RuleKind(name="regressions", model=RegressionModel))
