"""Rule kind `contacts`: whom an alert reaches, and how often."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, SecretStr, model_validator

from otel_cost.core.rules.kind import Name, RuleKind, Strict, Text, register
from otel_cost.quantities import Duration

_FOUR_HOURS_NS = 4 * 3600 * 10**9


class Slack(Strict):
    """An incoming webhook of Slack."""

    url: SecretStr  # whoever has it can post


class Webhook(Strict):
    """Any endpoint that takes a signed JSON post."""

    url: SecretStr
    secret: SecretStr | None = None


class GitHub(Strict):
    """Issues in one repository."""

    repo: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    token: SecretStr


class ContactModel(Strict):
    """One contact: exactly one way to reach it."""

    name: Name
    slack: Slack | None = None
    webhook: Webhook | None = None
    github: GitHub | None = None
    group_by: tuple[Text, ...] = ()
    repeat: Duration = _FOUR_HOURS_NS

    @model_validator(mode="after")
    def _one_way(self) -> ContactModel:
        if sum(way is not None for way in (self.slack, self.webhook, self.github)) != 1:
            raise ValueError("a contact has exactly one of `slack`, `webhook`, `github`")
        return self


KIND: RuleKind[None] = register(RuleKind(name="contacts", model=ContactModel))
