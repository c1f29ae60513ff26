"""Rule kind `escalation`: a strong model only after cheaper ones have failed."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from otel_cost.core.rules.kind import Actions, Mode, Name, RuleKind, Strict, Text, register
from otel_cost.core.rules.match import Match, Matcher

Models = Annotated[tuple[Text, ...], Field(min_length=1)]


class Prior(Strict):
    """What must have happened before, in the same run."""

    models: Models
    failed: tuple[Text, ...] = ()  # names of outcomes or evaluations; empty: any failure
    count: Annotated[int, Field(ge=1)] = 1


class AllowIf(Strict):
    """The ground on which the strong model is allowed."""

    prior: Prior


class Else(Strict):
    """What happens otherwise."""

    do: Annotated[Actions, Field(min_length=1)]


class EscalationModel(Strict):
    """One escalation rule."""

    name: Name
    models: Models
    match: Match = Field(default_factory=Matcher)
    allow_if: AllowIf
    else_: Annotated[Else, Field(alias="else")]
    mode: Mode | None = None


KIND: RuleKind[None] = register(RuleKind(name="escalation", model=EscalationModel))
