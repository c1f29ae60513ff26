"""Rule kind `defaults`: what holds where a rule does not say."""

from __future__ import annotations

from typing import Literal

from otel_cost.core.rules.kind import Fail, Mode, RuleKind, Site, Strict, register


class Defaults(Strict):
    """Once per rule set."""

    currency: Literal["USD"] = "USD"
    timezone: str = "UTC"  # IANA name; calendar windows start in it
    mode: Mode = Mode.ENFORCE
    fail: Fail = "open"  # what a decision is when we cannot decide
    unknown_price: Literal["off", "notice", "warning"] = "notice"


def _build(defaults: Defaults, _site: Site) -> Defaults:
    return defaults


KIND = register(RuleKind(name="defaults", model=Defaults, single=True, build=_build))
