"""Rule kind `outcomes`: how we learn whether a run was worth its money."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from otel_cost.core.rules.kind import Name, RuleKind, Strict, Text, register


class From(Strict):
    """Where the news comes from: a webhook's event, or an attribute of a record."""

    webhook: Literal["github", "gitlab", "generic"] | None = None
    event: Text | None = None
    attribute: Text | None = None
    if_: Annotated[Text | None, Field(alias="if")] = None

    @model_validator(mode="after")
    def _one_origin(self) -> From:
        if (self.webhook is None) == (self.attribute is None):
            raise ValueError("name either `webhook` or `attribute`")
        return self


class OutcomeModel(Strict):
    """One kind of outcome. `join`: attributes that lead from the news to the run."""

    name: Name
    from_: Annotated[From, Field(alias="from")]
    join: Annotated[tuple[Text, ...], Field(min_length=1)]
    value: Text


KIND: RuleKind[None] = register(RuleKind(name="outcomes", model=OutcomeModel))
