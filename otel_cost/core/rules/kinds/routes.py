"""Rule kind `routes`: which runs go to which destination, whole or sampled."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import Field, model_validator

from otel_cost.core.rules.kind import Name, RuleKind, Site, Strict, register
from otel_cost.core.rules.match import Match, Matcher
from otel_cost.quantities import Share


class RouteModel(Strict):
    """One route; of those that name a destination the first that matches a trace decides for it.

    A destination that some route names gets nothing else.
    """

    name: Name | None = None
    match: Match = Field(default_factory=Matcher)
    to: Annotated[tuple[str, ...], Field(min_length=1)]  # ids of exporters
    keep: Literal["all"] | None = None
    sample: Share | None = None

    @model_validator(mode="after")
    def _keep_or_sample(self) -> RouteModel:
        if (self.keep is None) == (self.sample is None):
            raise ValueError("a route says either `keep: all` or `sample: SHARE`")
        if self.sample is not None and self.sample > 1:
            raise ValueError("`sample` is a share of at most 100%")
        return self


@dataclass(frozen=True, slots=True)
class Route:
    """One route, ready to run. `share` of the traces it matches: 1 keeps them all."""

    match: Matcher
    to: tuple[str, ...]
    share: Fraction


def _build(model: RouteModel, _site: Site) -> Route:
    return Route(model.match, model.to, Fraction(1) if model.sample is None else Fraction(model.sample))


KIND: RuleKind[Route] = register(RuleKind(name="routes", model=RouteModel, build=_build))
