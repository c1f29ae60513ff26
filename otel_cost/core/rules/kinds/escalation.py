"""Rule kind `escalation`: a strong model only after cheaper ones have failed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from otel_cost.core.model.vocabulary import Severity
from otel_cost.core.rules.kind import (
    Actions,
    Fail,
    Mode,
    Name,
    RuleKind,
    Strict,
    Text,
    decision_verbs,
    register,
)
from otel_cost.core.rules.kinds.budgets import not_of_a_call
from otel_cost.core.rules.match import Match, Matcher, compile_condition
from otel_cost.errors import DocumentError

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_cost.core.rules.kind import Site

Models = Annotated[tuple[Text, ...], Field(min_length=1)]


class Prior(Strict):
    """What must have happened before, in the same run."""

    models: Models
    # Ways in which they failed, any of these; empty: any failure. `tests_failed`, `build_failed`, `tool_failed`,
    # `model_failed`, `same_error`, `evaluation_failed`, `outcome_failed`, the type of an error, the kind of a loop,
    # the name of an evaluation or an outcome, or what a hook calls it.
    failed: tuple[Text, ...] = ()
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
    severity: Severity | None = None
    fail: Fail | None = None


@dataclass(frozen=True, slots=True)
class EscalationRule:
    """An escalation rule, ready to run."""

    name: str
    models: tuple[str, ...]
    is_strong: Callable[[object], bool]  # of a model's name
    match: Matcher
    prior: tuple[str, ...]
    is_prior: Callable[[object], bool]
    failed: frozenset[str]  # empty: any failure
    count: int
    actions: Actions
    mode: Mode
    severity: Severity
    fail: Fail

    @property
    def action(self) -> str:
        """The decisions it asks for, strictest first; "" = tell only."""
        return decision_verbs(self.actions)


def _build(model: EscalationModel, site: Site) -> EscalationRule:
    problems = not_of_a_call(model.match, site)
    prior = model.allow_if.prior
    for index, action in enumerate(model.else_.do):
        to = None if action.downgrade is None else action.downgrade.to
        if to is not None and compile_condition(list(model.models))(to):
            what = f"`{to}` is one of the models that this rule keeps back"
            problems.append(site.problem(what, "name a cheaper one", "else", "do", index, "downgrade", "to"))
    if problems:
        raise DocumentError(problems)
    return EscalationRule(
        model.name,
        model.models,
        compile_condition(list(model.models)),
        model.match,
        prior.models,
        compile_condition(list(prior.models)),
        frozenset(prior.failed),
        prior.count,
        model.else_.do,
        model.mode or site.defaults.mode,
        model.severity or Severity.WARNING,
        model.fail or site.defaults.fail,
    )


_FACTS = (
    "kind",
    "model",
    "prior_models",
    "failed_ways",
    "needed",
    "seen",
    "missing",
    "model_route",
    "tools",
    "retries",
)

KIND = register(RuleKind(name="escalation", model=EscalationModel, build=_build, facts=_FACTS))
