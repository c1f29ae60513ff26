"""Rule kind `exceptions`: more money for a while, named, owned and dated."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, Field

from otel_cost.core.rules.kind import Name, RuleKind, Strict, Text, register
from otel_cost.core.rules.match import Match, Matcher


def _with_zone(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError("a time without zone\nend it with `Z` or an offset, for example `2026-12-01T00:00:00Z`")
    return moment


class Grant(Strict):
    """What is granted on top of the limit."""

    usd: Annotated[Decimal, Field(gt=0)]


class ExceptionModel(Strict):
    """One exception; void from `expires` on."""

    name: Name
    applies_to: Annotated[tuple[Name, ...], Field(min_length=1)]
    match: Match = Field(default_factory=Matcher)
    grant: Grant
    expires: Annotated[datetime, AfterValidator(_with_zone)]
    owner: Text
    reason: Text


KIND: RuleKind[None] = register(RuleKind(name="exceptions", model=ExceptionModel))
