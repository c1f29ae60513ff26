"""Rule kind `regressions`: the same work has become dearer than it was."""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from otel_cost.core.drift import LOOP, DriftRule
from otel_cost.core.model.vocabulary import Severity
from otel_cost.core.rules.kind import Actions, Mode, Name, RuleKind, Site, Strict, register
from otel_cost.core.rules.match import Match, Matcher
from otel_cost.document import nearest
from otel_cost.quantities import Duration


def _check_of_last(written: str) -> str:
    found = re.fullmatch(r"(\d{1,3}) of last (\d{1,3})", written)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise ValueError(f"`{written[:40]}` is not understood\nfor example `3 of last 5`")
    return written


# What is known of a whole run. The rest differs from call to call.
_OF_RUN = (
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
    "environment",
)


def _check_of_run(name: str) -> str:
    if name in _OF_RUN or name == LOOP or name.startswith("attr:") or "." in name:
        return name
    raise ValueError(f"runs are not compared per `{name}`\n{nearest(name, (*_OF_RUN, LOOP, 'attr:KEY'))}")


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
    per: Annotated[tuple[Annotated[str, AfterValidator(_check_of_run)], ...], Field(min_length=1)]
    match: Match = Field(default_factory=Matcher)
    baseline: Baseline
    fire: Fire
    severity: Severity = Severity.WARNING
    mode: Mode | None = None
    do: Actions = ()


def _build(model: RegressionModel, site: Site) -> DriftRule:
    need, _, of = model.fire.for_.partition(" of last ")
    return DriftRule(
        name=model.name,
        per=model.per,
        match=model.match,
        last_ns=model.baseline.last,
        min_runs=model.baseline.min_runs,
        stat=model.baseline.stat,
        ratio=Fraction(model.fire.ratio),
        need=int(need),
        of=int(of),
        severity=model.severity,
        mode=model.mode or site.defaults.mode,
        actions=model.do,
    )


KIND: RuleKind[DriftRule] = register(RuleKind(name="regressions", model=RegressionModel, build=_build))
