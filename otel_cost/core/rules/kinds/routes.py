"""Rule kind `routes`: which runs go to which destination, whole or sampled."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from otel_cost.core.rules.kind import Name, RuleKind, Strict, register
from otel_cost.core.rules.match import Match, Matcher
from otel_cost.quantities import Share


class RouteModel(Strict):
    """One route; the first that matches a run decides for its destinations."""

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


KIND: RuleKind[None] = register(RuleKind(name="routes", model=RouteModel))
