"""Rule kind `identity`: which attributes say who spends. First hit wins."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, Tag, model_validator

from otel_cost.core.rules.kind import RuleKind, Site, Strict, register, told_by
from otel_cost.core.rules.match import LONGEST_MATCHED
from otel_cost.errors import DocumentError

if TYPE_CHECKING:
    from otel_cost.core.model.attributes import Attributes
    from otel_cost.errors import Problem


class Extract(Strict):
    """A part of an attribute: the first group of `re`, or all that it matches."""

    from_: Annotated[str, Field(alias="from", min_length=1)]
    re: str

    @model_validator(mode="after")
    def _compiles(self) -> Extract:
        try:
            re.compile(self.re)
        except re.error as error:
            raise ValueError(f"`{self.re}` is not a regular expression: {error}") from None
        return self


class LookUp(Strict):
    """A column of a CSV file, found by a dimension that is already known."""

    lookup: str
    by: str


Source = Annotated[
    Annotated[str, Field(min_length=1), Tag("str")]
    | Annotated[Extract, Tag("Extract")]
    | Annotated[LookUp, Tag("LookUp")],
    told_by(**{"from": "Extract", "lookup": "LookUp", "text": "str"}),
]
Sources = tuple[Source, ...]


class IdentityModel(Strict):
    """For each dimension the attributes that tell it, asked in this order on the record and on its resource."""

    org: Sources = ()
    team: Sources = ()
    user: Sources = ()
    api_key: Sources = ()
    project: Sources = ()
    workflow: Sources = ()
    agent: Sources = ()
    environment: Sources = ()
    session: Sources = ()


@dataclass(frozen=True, slots=True)
class Identity:
    """Compiled identity. Dimensions that the rules do not name are left to what the dialect found."""

    sources: tuple[tuple[str, tuple[tuple[str, re.Pattern[str] | None], ...]], ...] = ()

    def of(self, *records: Attributes) -> dict[str, str]:
        """Who these attributes speak of, by dimension, where found. Pass the record first, then its resource."""
        found: dict[str, str] = {}
        for dimension, sources in self.sources:
            for key, pattern in sources:
                value = _first(key, pattern, records)
                if value:
                    found[dimension] = value
                    break
        return found


def _first(key: str, pattern: re.Pattern[str] | None, records: tuple[Attributes, ...]) -> str | None:
    for record in records:
        value = record.get(key)
        if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
            continue
        text = str(value)
        if pattern is None:
            return text
        match = pattern.search(text[:LONGEST_MATCHED])
        if match:
            return match[1] if pattern.groups else match[0]
    return None


def _build(model: IdentityModel, site: Site) -> Identity:
    problems: list[Problem] = []
    compiled = []
    for dimension in type(model).model_fields:
        sources: Sources = getattr(model, dimension)
        keys: list[tuple[str, re.Pattern[str] | None]] = []
        for index, source in enumerate(sources):
            if isinstance(source, LookUp):
                what = "look-ups are not supported yet by this version"
                problems.append(site.problem(what, "name attributes, or {from: …, re: …}", dimension, index))
            elif isinstance(source, Extract):
                keys.append((source.from_, re.compile(source.re)))
            else:
                keys.append((source, None))
        if keys:
            compiled.append((dimension, tuple(keys)))
    if problems:
        raise DocumentError(problems)
    return Identity(tuple(compiled))


KIND = register(RuleKind(name="identity", model=IdentityModel, single=True, build=_build))
