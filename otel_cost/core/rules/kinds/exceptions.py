"""Rule kind `exceptions`: more money for a while, named, owned and dated."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from otel_cost.core.budget import Relief
from otel_cost.core.model.money import usd_to_nano
from otel_cost.core.rules.kind import Name, RuleKind, Strict, Text, register
from otel_cost.core.rules.kinds.budgets import Usd, not_of_a_call
from otel_cost.core.rules.match import Match, Matcher
from otel_cost.errors import DocumentError

if TYPE_CHECKING:
    from otel_cost.core.rules.kind import Site


def _with_zone(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError("a time without zone\nend it with `Z` or an offset, for example `2026-12-01T00:00:00Z`")
    return moment


Moment = Annotated[datetime, AfterValidator(_with_zone)]


class Grant(Strict):
    """What is granted on top of the limit, to each group, once."""

    usd: Usd


class ExceptionModel(Strict):
    """One exception; it holds for calls that start from `starts` to `expires`, not a nanosecond later."""

    name: Name
    applies_to: Annotated[tuple[Name, ...], Field(min_length=1)]  # budgets; with `exempt` loops and escalations, too
    match: Match = Field(default_factory=Matcher)
    grant: Grant | None = None
    multiply: Annotated[Decimal, Field(gt=1)] | None = None  # the limit, for what matches
    exempt: Literal[True] | None = None
    starts: Moment | None = None
    expires: Moment
    owner: Text
    reason: Text

    @property
    def until_ns(self) -> int:
        """The last moment at which it holds."""
        return unix_ns(self.expires)

    @model_validator(mode="after")
    def _gives_one_thing(self) -> ExceptionModel:
        if sum(given is not None for given in (self.grant, self.multiply, self.exempt)) != 1:
            raise ValueError("an exception gives exactly one of `grant`, `multiply`, `exempt`")
        if self.starts is not None and self.starts > self.expires:
            raise ValueError("it expires before it starts")
        return self


@dataclass(frozen=True, slots=True)
class Exception_:  # noqa: N801  # the word of the rules; Python's own stays what it is
    """An exception, ready to use."""

    relief: Relief
    applies_to: tuple[str, ...]
    owner: str
    reason: str
    expires: str  # as RFC 3339

    @property
    def name(self) -> str:
        return self.relief.name

    @property
    def exempts(self) -> bool:
        """Does it lift a rule, and not only a limit?"""
        return self.relief.grant_nano is None and self.relief.factor is None


def _build(model: ExceptionModel, site: Site) -> Exception_:
    problems = not_of_a_call(model.match, site)
    if problems:
        raise DocumentError(problems)
    relief = Relief(
        name=model.name,
        match=model.match,
        since_ns=0 if model.starts is None else unix_ns(model.starts),
        until_ns=model.until_ns,
        grant_nano=None if model.grant is None else usd_to_nano(model.grant.usd),
        factor=None if model.multiply is None else Fraction(model.multiply),
    )
    expires = model.expires.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return Exception_(relief, model.applies_to, model.owner, model.reason, expires)


def unix_ns(moment: datetime) -> int:
    """Nanoseconds since the Unix epoch."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000


KIND = register(RuleKind(name="exceptions", model=ExceptionModel, build=_build))
