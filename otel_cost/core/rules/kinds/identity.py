"""Rule kind `identity`: which attributes say who spends. First hit wins."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, Tag, model_validator

from otel_cost.core.rules.kind import Dimension, RuleKind, Site, Strict, register, told_by
from otel_cost.core.rules.match import LONGEST_MATCHED, attribute_of
from otel_cost.errors import DocumentError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

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
    """A column of a CSV file, found by what is known already: a dimension, or an attribute.

    The first line names the columns: one is called as `by`, another as the dimension that is looked up.
    """

    lookup: Annotated[str, Field(min_length=1)]
    by: Dimension


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
    workspace: Sources = ()
    team: Sources = ()
    user: Sources = ()
    api_key: Sources = ()
    project: Sources = ()
    workflow: Sources = ()
    agent: Sources = ()
    environment: Sources = ()
    session: Sources = ()


@dataclass(frozen=True, slots=True)
class Told:
    """An attribute, or the part of it that a pattern takes."""

    key: str
    pattern: re.Pattern[str] | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What a table says about something that is known."""

    table: Mapping[str, str]
    by: str


@dataclass(frozen=True, slots=True)
class Identity:
    """Compiled identity. Dimensions that the rules do not name are left to what the dialect found."""

    sources: tuple[tuple[str, tuple[Told | Found, ...]], ...] = ()  # what is looked up comes after what it is by

    def of(self, *records: Attributes, known: Mapping[str, str] | None = None) -> dict[str, str]:
        """Who these attributes speak of, by dimension, where found.

        Args:
            records: the record first, then its resource.
            known: what the dialect found; tables are looked up by it where the rules do not say better.
        """
        found: dict[str, str] = {}
        for dimension, sources in self.sources:
            for source in sources:
                if isinstance(source, Told):
                    value = _first(source.key, source.pattern, records)
                else:
                    by = found.get(source.by) or (known or {}).get(source.by)
                    if by is None and attribute_of(source.by) is not None:
                        by = _first(source.by.removeprefix("attr:"), None, records)
                    value = None if by is None else source.table.get(by)
                if value:
                    found[dimension] = value
                    break
        return found


def joined(identities: Iterable[Identity]) -> Identity:
    """Several documents' identity as one."""
    return Identity(_in_order([source for one in identities for source in one.sources]))


def _in_order(
    sources: Sequence[tuple[str, tuple[Told | Found, ...]]],
) -> tuple[tuple[str, tuple[Told | Found, ...]], ...]:
    """Each dimension after those that it is looked up by.

    Raises:
        ValueError: they go in a circle.
    """
    waiting = dict(sources)
    ordered: dict[str, tuple[Told | Found, ...]] = {}
    while waiting:
        ready = [
            dimension
            for dimension, of_it in waiting.items()
            if not any(isinstance(one, Found) and one.by in waiting for one in of_it)
        ]
        if not ready:
            raise ValueError(f"look-ups go in a circle: {', '.join(waiting)}")
        for dimension in ready:
            ordered[dimension] = waiting.pop(dimension)
    return tuple(ordered.items())


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
    compiled: list[tuple[str, tuple[Told | Found, ...]]] = []
    for dimension in type(model).model_fields:
        sources: list[Told | Found] = []
        for index, source in enumerate(getattr(model, dimension)):
            if isinstance(source, LookUp):
                try:
                    sources.append(Found(_table(source, dimension, site), str(source.by)))
                except LookupError as error:
                    message, _, hint = str(error.args[0]).partition("\n")
                    problems.append(site.problem(message, hint, dimension, index, "lookup"))
            elif isinstance(source, Extract):
                sources.append(Told(source.from_, re.compile(source.re)))
            else:
                sources.append(Told(source))
        if sources:
            compiled.append((dimension, tuple(sources)))
    try:
        ordered = _in_order(compiled)
    except ValueError as error:
        problems.append(site.problem(str(error), "one of them has to be told by an attribute"))
    if problems:
        raise DocumentError(problems)
    return Identity(ordered)


def _table(source: LookUp, dimension: str, site: Site) -> dict[str, str]:
    r"""Key → value of the two columns.

    Raises:
        LookupError: the file cannot be read, or is not such a table; "message\nhint".
    """
    if site.read is None:
        raise LookupError(f"`{source.lookup}` cannot be read here")
    rows = [
        (number, [cell.strip() for cell in row])
        for number, row in enumerate(csv.reader(io.StringIO(site.read(source.lookup).lstrip("\ufeff"))), 1)
        if any(cell.strip() for cell in row) and not row[0].lstrip().startswith("#")
    ]
    columns = rows[0][1] if rows else []
    for column in (source.by, dimension):
        if column not in columns:
            told = f"its first line names {', '.join(columns[:20])}" if columns else "it is empty"
            hint = f"the first line names the columns, for example `{source.by},{dimension}`; {told}"
            raise LookupError(f"`{source.lookup}` has no column `{column}`\n{hint}")
    key, value = columns.index(str(source.by)), columns.index(dimension)
    table: dict[str, str] = {}
    for number, row in rows[1:]:
        if len(row) <= max(key, value):
            raise LookupError(f"`{source.lookup}` line {number}: a column is missing\nas many as its first line names")
        if table.setdefault(row[key], row[value]) != row[value]:
            raise LookupError(f"`{source.lookup}` line {number}: `{row[key]}` is given twice\nkeep one line of it")
    return table


KIND = register(RuleKind(name="identity", model=IdentityModel, single=True, build=_build))
