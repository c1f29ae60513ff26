"""Rule kind `contacts`: whom an alert reaches, and how often.

A rule names its contacts in `do: [{alert: NAME}]`; a plain `alert:` means all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, SecretStr, field_validator, model_validator

from otel_cost.core.rules.alerting import check_label
from otel_cost.core.rules.kind import Name, RuleKind, Site, Strict, Text, register
from otel_cost.quantities import Duration

_SECOND_NS: Final = 10**9
_HOUR_NS: Final = 3600 * _SECOND_NS


def _check_url(url: SecretStr) -> SecretStr:
    if not url.get_secret_value().startswith(("https://", "http://")):
        raise ValueError("not a URL\nwrite https://…")
    return url


_Url = Annotated[SecretStr, AfterValidator(_check_url)]  # whoever has it can post


class Slack(Strict):
    """An incoming webhook of Slack."""

    url: _Url


class Webhook(Strict):
    """Any endpoint that takes a JSON post, signed as Standard Webhooks say; two secrets while one replaces another."""

    url: _Url
    secret: SecretStr | tuple[SecretStr, ...] = ()

    @field_validator("secret")
    @classmethod
    def _usable(cls, secret: SecretStr | tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        secrets = secret if isinstance(secret, tuple) else (secret,)
        if any(not one.get_secret_value() for one in secrets):
            raise ValueError("an empty secret\nleave `secret` out to send unsigned posts")
        return secrets


class PagerDuty(Strict):
    """Events API v2 of PagerDuty."""

    routing_key: SecretStr
    url: _Url = SecretStr("https://events.pagerduty.com/v2/enqueue")  # EU: https://events.eu.pagerduty.com/v2/enqueue


class Alertmanager(Strict):
    """Prometheus' Alertmanager, API v2; every replica of a cluster gets every alert."""

    urls: Annotated[tuple[_Url, ...], Field(min_length=1)]  # without /api/v2/alerts
    bearer_token: SecretStr | None = None
    # It ends there unless it is told again, which we do in half of that time, whatever `repeat` says.
    resolve_after: Annotated[Duration, Field(ge=120 * _SECOND_NS)] = 2 * _HOUR_NS


class GitHub(Strict):
    """Issues in one repository."""

    repo: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    token: SecretStr  # may write issues
    url: Annotated[str, Field(pattern=r"^https?://")] = "https://api.github.com"
    label: Text = "otel-cost"
    assignees: tuple[Text, ...] = ()  # who owns them


class Email(Strict):
    """Mail over SMTP."""

    to: Annotated[tuple[Text, ...], Field(min_length=1)]
    from_: Annotated[Text, Field(alias="from")]
    smarthost: Annotated[str, Field(pattern=r"^[^\s:]+:\d{1,5}$")]  # host:port
    username: str | None = None
    password: SecretStr | None = None
    tls: Literal["starttls", "tls", "none"] = "starttls"

    @field_validator("to", mode="before")
    @classmethod
    def _one_or_many(cls, written: object) -> object:
        return [written] if isinstance(written, str) else written


class File(Strict):
    """A file that gets one JSON object per line."""

    path: Text


class Console(Strict):
    """Standard error, one JSON object per line."""


_WAYS: Final = ("slack", "webhook", "pagerduty", "alertmanager", "github", "email", "file", "console")


class ContactModel(Strict):
    """One contact: exactly one way to reach it."""

    name: Name
    slack: Slack | None = None
    webhook: Webhook | None = None
    pagerduty: PagerDuty | None = None
    alertmanager: Alertmanager | None = None
    github: GitHub | None = None
    email: Email | None = None
    file: File | None = None
    console: Console | None = None
    group_by: tuple[Annotated[str, AfterValidator(check_label)], ...] = ()
    group_wait: Duration = 30 * _SECOND_NS  # what comes in the meantime is told together
    group_interval: Duration = 300 * _SECOND_NS  # between two messages of one group
    repeat: Duration = 4 * _HOUR_NS  # what is still firing is told again
    send_resolved: bool = True

    @field_validator("console", mode="before")
    @classmethod
    def _named_is_on(cls, written: object) -> object:
        return {} if written is None else written

    @model_validator(mode="after")
    def _one_way(self) -> ContactModel:
        if len(self.ways) != 1:
            named = ", ".join(f"`{way}`" for way in _WAYS)
            raise ValueError(f"a contact has exactly one of {named}")
        if self.repeat and self.repeat < 60 * _SECOND_NS:
            raise ValueError("`repeat` is at least 1m, or 0 for never")
        return self

    @property
    def ways(self) -> list[str]:
        return [way for way in _WAYS if getattr(self, way) is not None]


@dataclass(frozen=True, slots=True)
class Contact:
    """One contact, ready to be told. `settings` are those of its `way`, a type of sink."""

    name: str
    way: str
    settings: Strict
    group_by: tuple[str, ...] = ()
    group_wait_ns: int = 0
    group_interval_ns: int = 0
    repeat_ns: int = 0  # 0: never
    send_resolved: bool = True


def _build(model: ContactModel, _site: Site) -> Contact:
    (way,) = model.ways
    upkeep = None if model.alertmanager is None else model.alertmanager.resolve_after // 2
    return Contact(
        model.name,
        way,
        getattr(model, way),
        model.group_by,
        model.group_wait,
        model.group_interval,
        model.repeat if upkeep is None else upkeep,
        model.send_resolved,
    )


KIND: RuleKind[Contact] = register(RuleKind(name="contacts", model=ContactModel, build=_build))
