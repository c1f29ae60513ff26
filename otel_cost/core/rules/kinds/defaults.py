"""Rule kind `defaults`: what holds where a rule does not say."""

from __future__ import annotations

from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator

from otel_cost.core.rules.kind import Fail, Mode, RuleKind, Site, Strict, register


def _check_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"`{name[:40]}` is not a time zone\nwrite an IANA name, for example `Europe/Berlin`") from None
    return name


class Defaults(Strict):
    """Once per rule set."""

    currency: Literal["USD"] = "USD"
    timezone: Annotated[str, AfterValidator(_check_zone)] = "UTC"  # IANA name; calendar windows start in it
    mode: Mode = Mode.ENFORCE
    fail: Fail = "open"  # what a decision is when we cannot decide
    unknown_price: Literal["off", "notice", "warning"] = "notice"


def _build(defaults: Defaults, _site: Site) -> Defaults:
    return defaults


KIND = register(RuleKind(name="defaults", model=Defaults, single=True, build=_build))
