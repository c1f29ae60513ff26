"""Rule kind `outcomes`: how we learn whether a run was worth its money."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, InstanceOf, WithJsonSchema, model_validator

from otel_cost.core.model.outcome import Result
from otel_cost.core.outcomes import JOINS, OutcomeRule
from otel_cost.core.rules.kind import Name, RuleKind, Site, Strict, Text, register
from otel_cost.core.rules.match import Matcher, compile_match
from otel_cost.document import nearest


def _condition(written: object) -> Matcher:
    """`merged` = that fact holds; a mapping = conditions on facts, such as `{score: {gte: 0.7}}`."""
    if isinstance(written, Matcher):
        return written
    if isinstance(written, str):
        written = {written: True}
    if not isinstance(written, dict):
        raise ValueError("`if` is the name of a fact, or conditions on facts\nfor example `{score: {gte: 0.7}}`")  # noqa: TRY004  # pydantic's protocol
    # Facts have names of their own: `score` and `label` are no dimensions.
    return compile_match({key if ":" in key or "." in key else f"attr:{key}": value for key, value in written.items()})


def _check_join(name: str) -> str:
    if name not in JOINS:
        raise ValueError(f"runs are not found by `{name}`\n{nearest(name, JOINS)}")
    return name


_If = Annotated[
    InstanceOf[Matcher],
    BeforeValidator(_condition),
    WithJsonSchema(
        {"anyOf": [{"type": "string"}, {"type": "object"}], "examples": ["merged", {"score": {"gte": 0.7}}]}
    ),
]


class From(Strict):
    """Where the news comes from: a webhook's event, an evaluation, an attribute, or an event of a span or log."""

    webhook: Literal["github"] | None = None
    event: Text | None = None  # `pull_request.closed`; without a webhook, the name of a span's or log's event
    evaluation: Text | None = None  # `gen_ai.evaluation.name`, may hold * and ?
    attribute: Text | None = None
    if_: Annotated[_If, Field(alias="if")] = Matcher()

    @model_validator(mode="after")
    def _one_origin(self) -> From:
        named = [name for name in ("webhook", "evaluation", "attribute") if getattr(self, name) is not None]
        if len(named) > 1 or (not named and self.event is None):
            raise ValueError("name one of `webhook`, `evaluation`, `attribute`, `event`")
        if named == ["webhook"] and self.event is None:
            raise ValueError("a webhook's `event` is missing\nfor example `pull_request.closed`")
        if self.event is not None and named not in ([], ["webhook"]):
            raise ValueError(f"`event` does not go with `{named[0]}`")
        return self

    @property
    def origin(self) -> tuple[str, str]:
        """Kind of news and the name to look for."""
        if self.webhook is not None:
            return self.webhook, self.event or ""
        for kind in ("evaluation", "attribute", "event"):
            name = getattr(self, kind)
            if name is not None:
                return kind, name
        raise AssertionError


class OutcomeModel(Strict):
    """One kind of outcome. `join`: what leads from the news to the run; a record's own run needs none."""

    name: Name
    from_: Annotated[From, Field(alias="from")]
    join: tuple[Annotated[str, AfterValidator(_check_join)], ...] = ()
    value: Result
    else_: Annotated[Result | None, Field(alias="else")] = None  # where `if` does not hold; absent: then it is no news

    @model_validator(mode="after")
    def _reaches_a_run(self) -> OutcomeModel:
        if self.from_.webhook is not None and not self.join:
            raise ValueError("a webhook's `join` is missing\nfor example `[vcs.ref.head.name, vcs.ref.head.revision]`")
        return self


def _build(model: OutcomeModel, _site: Site) -> OutcomeRule:
    origin, pattern = model.from_.origin
    return OutcomeRule(
        name=model.name,
        origin=origin,
        pattern=pattern,
        condition=model.from_.if_,
        joins=frozenset(JOINS[name] for name in model.join),
        value=model.value,
        otherwise=model.else_,
    )


KIND: RuleKind[OutcomeRule] = register(RuleKind(name="outcomes", model=OutcomeModel, build=_build))
