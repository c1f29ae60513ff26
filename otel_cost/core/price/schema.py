"""Schema: what a price file may say, and how it becomes a layer.

The models are the JSON Schema. Every price needs a source: its own, or that of
the model, provider or file around it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator  # noqa: TC003  # pydantic reads the annotations below at run time
from decimal import Decimal
from fractions import Fraction
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model

from otel_cost.core.model.money import FEMTO_PER_USD, rate_of
from otel_cost.core.price.instants import parse_instant
from otel_cost.core.price.table import (
    BEGINNING,
    DAY,
    END,
    SECOND,
    TOKEN_UNITS,
    UNITS,
    Context,
    Deployment,
    Fee,
    Hours,
    Layer,
    Model,
    Multiplier,
    Price,
    Provider,
    Row,
    Since,
    Terms,
    mode_of,
    rate_from,
)
from otel_cost.document import Document, in_file_order, validate
from otel_cost.errors import DocumentError, Problem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_cost.document import Path


def _instant(value: object) -> object:
    return parse_instant(value) if isinstance(value, str) else value


def _clock(value: object) -> object:
    if isinstance(value, str) and (found := re.fullmatch(r"([01]\d|2[0-3]):([0-5]\d)(?::([0-5]\d))?", value)):
        return (int(found[1]) * 3600 + int(found[2]) * 60 + int(found[3] or 0)) * SECOND
    raise ValueError("not a time of day\nwrite hours and minutes in UTC, for example 16:30, in quotes")


def _seconds(value: object) -> object:
    if isinstance(value, str) and (found := re.fullmatch(r"(\d+)(ms|s|m|h)", value)):
        return int(found[1]) * {"ms": SECOND // 1000, "s": SECOND, "m": 60 * SECOND, "h": 3600 * SECOND}[found[2]]
    raise ValueError("not a duration\nwrite a number and ms, s, m or h, for example 5m")


def _quantity(value: object) -> object:
    if value in (1, "duration"):
        return value
    raise ValueError(
        "not a quantity that a step tells\n"
        "write 1 (each use) or duration; counts inside a model call are matched with `unit`, attributes are not kept"
    )


def _several(value: object) -> object:
    return [value] if isinstance(value, str) else value


Instant = Annotated[int, BeforeValidator(_instant)]
Clock = Annotated[int, BeforeValidator(_clock)]
Duration = Annotated[int, BeforeValidator(_seconds)]
Texts = Annotated[tuple[str, ...], BeforeValidator(_several)]
Usd = Annotated[Decimal, Field(ge=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=False)


class Sourced(_Strict):
    """Where a statement was taken from, of which day that source is, and who took it over."""

    source: Annotated[str | None, Field(min_length=1)] = None
    read: Annotated[str | None, Field(pattern=r"^\d{4}-\d\d-\d\d$")] = None
    by: Annotated[str | None, Field(min_length=1)] = None


class Dated(Sourced):
    """In force from an instant (inclusive) to another."""

    start: Annotated[Instant, Field(alias="from")] = BEGINNING
    to: Instant = END


class Elsewhere(_Strict):
    """Every geography but these."""

    but: Annotated[Texts, Field(alias="not")]


class When(_Strict):
    """Terms of a call that its price depends on."""

    service_tier: str | None = None
    processing: str | None = None
    speed: str | None = None
    inference_geo: str | Elsewhere | None = None
    tenant: str | None = None

    def terms(self) -> Terms:
        mode = mode_of(self.service_tier, self.processing, self.speed)
        geo = self.inference_geo
        if isinstance(geo, Elsewhere):
            return Terms(mode, None, tuple(name.lower() for name in geo.but), self.tenant)
        return Terms(mode, geo.lower() if geo else None, (), self.tenant)


class Daily(_Strict):
    """Hours of the UTC day, half open; they may pass midnight, and belong to the day on which they begin."""

    start: Annotated[Clock, Field(alias="from")]
    to: Clock
    days: Literal["every day", "weekdays", "weekend"] = "every day"


class Step(_Strict):
    """The price of the whole call once its input is strictly above `start` tokens."""

    start: Annotated[int, Field(gt=0)]
    price: Usd


class Stepped(_Strict):
    """A price that depends on the size of the input."""

    base: Usd
    tiers: tuple[Step, ...]


class _Row(Dated):
    when: When = When()
    daily: Daily | None = None
    unavailable: bool = False  # these terms are not on offer then


# One field for each unit that has a price: `input_mtok: 0.56` is USD per million; `null` takes a price away.
Prices: Any = create_model(
    "Prices",
    __base__=_Row,
    __doc__="Prices of one stretch of time. Fields carry genai-prices' names.",
    **dict.fromkeys(sorted(UNITS), (Usd | Stepped | None, None)),  # type: ignore[call-overload]
)


class Match(_Strict):
    """Further names of a model. `starts_with` may be followed by nothing but a date or version tag."""

    equals: Texts = ()
    starts_with: Texts = ()
    regex: Texts = ()


class Move(Dated):
    """What an alias meant for a time."""

    model: str


class ModelEntry(Sourced):
    """One model. `alone`: what earlier lists say about it is wrong. `remove`: it is not sold here at all."""

    id: str
    match: Match = Match()
    prices: tuple[Prices, ...] = ()
    moves: tuple[Move, ...] = ()
    alone: bool = False
    remove: bool = False


class MultiplierEntry(Dated):
    """A factor on list prices."""

    x: Annotated[Decimal, Field(ge=0)]
    when: When = When()
    models: Texts = ()
    but: Annotated[Texts, Field(alias="except")] = ()
    units: Texts = ()


class SinceEntry(Sourced):
    """Terms that a list states from the day it was read, though they were sold before."""

    when: When
    start: Annotated[Instant, Field(alias="from")]
    models: Texts = ()


class ProviderEntry(Sourced):
    """One seller. `every_model` holds for each model that says nothing of its own."""

    id: str
    models: tuple[ModelEntry, ...] = ()
    every_model: tuple[Prices, ...] = ()
    multipliers: tuple[MultiplierEntry, ...] = ()
    since: tuple[SinceEntry, ...] = ()
    follows: Texts | None = None  # sellers whose list holds for models not listed here; replaces earlier layers' word


class DeploymentEntry(_Strict):
    """A name of the user's own."""

    provider: str | None = None
    deployment: str
    model: str
    tenant: str | None = None


class Aliases(_Strict):
    """Names of the user's own for providers and models."""

    providers: dict[str, str] = {}
    models: tuple[DeploymentEntry, ...] = ()


class Discount(Dated):
    """A contract: `x` times the list price."""

    provider: str
    models: Texts = ()
    tenant: str | None = None
    x: Annotated[Decimal, Field(ge=0)]


class Facts(_Strict):
    """What no convention carries on a span."""

    processing: str | None = None
    speed: str | None = None
    inference_geo: str | None = None
    service_tier: str | None = None


class ContextEntry(_Strict):
    """Facts for the steps that match."""

    match: dict[str, str]
    facts: Annotated[Facts, Field(alias="set")]


class FeeEntry(Dated):
    """A cost that is not a token."""

    id: str
    match: Annotated[dict[str, str], Field(min_length=1)]
    usd: Usd
    per: Literal["call", "second", "minute", "hour", "day"] | Annotated[int, Field(gt=0)] = "call"
    quantity: Annotated[Literal[1, "duration"], BeforeValidator(_quantity)] = 1
    quantum: Duration = 1
    minimum: Duration = 0
    kind: Literal["human", "compute", "tool", "service"] | None = None


class PriceFile(Sourced):
    """A price file. Later files win over earlier ones, rate by rate."""

    version: Literal[1]
    aliases: Aliases = Aliases()
    providers: tuple[ProviderEntry, ...] = ()
    discounts: tuple[Discount, ...] = ()
    context: tuple[ContextEntry, ...] = ()
    fees: tuple[FeeEntry, ...] = ()


_DAYS: Final = {
    "every day": frozenset(range(7)),
    "weekdays": frozenset(range(5)),
    "weekend": frozenset({5, 6}),
}
_LENGTHS: Final = {"second": SECOND, "minute": 60 * SECOND, "hour": 3600 * SECOND, "day": DAY}


def layer_of(document: Document) -> Layer:
    """A price file as a layer.

    Raises:
        DocumentError: unknown keys, missing sources, prices of one thing that overlap in time.
    """
    return _Reader(document).layer()


class _Reader:
    def __init__(self, document: Document) -> None:
        self._document = document
        self._file = validate(document, PriceFile)
        self._problems: list[Problem] = []

    def layer(self) -> Layer:
        file = self._file
        providers = [self._provider(one, ("providers", index)) for index, one in enumerate(file.providers)]
        discounts = [
            Provider(
                one.provider,
                multipliers=(
                    Multiplier(
                        Fraction(one.x),
                        self._source(("discounts", index), one, file),
                        Terms(tenant=one.tenant),
                        one.models,
                        units=frozenset(UNITS),
                        start=one.start,
                        end=one.to,
                    ),
                ),
            )
            for index, one in enumerate(file.discounts)
        ]
        fees = tuple(self._fee(one, ("fees", index)) for index, one in enumerate(file.fees))
        if self._problems:
            raise DocumentError(in_file_order(self._problems))
        return Layer(
            self._document.source,
            (*providers, *discounts),
            file.aliases.providers,
            tuple(Deployment(one.deployment, one.model, one.provider, one.tenant) for one in file.aliases.models),
            fees,
            tuple(
                Context(one.match, {key: value for key, value in one.facts if value is not None})
                for one in file.context
            ),
        )

    def _provider(self, entry: ProviderEntry, at: Path) -> Provider:
        around = (entry, self._file)
        seen: set[str] = set()
        models = []
        for index, one in enumerate(entry.models):
            here = (*at, "models", index)
            if one.id in seen:
                self._say((*here, "id"), f"model `{one.id}` is given twice", "put all its prices in one entry")
            seen.add(one.id)
            models.append(self._model(one, here, around))
        return Provider(
            entry.id,
            tuple(models),
            tuple(self._rows(entry.every_model, (*at, "every_model"), around)),
            tuple(
                Multiplier(
                    Fraction(one.x),
                    self._source((*at, "multipliers", index), one, *around),
                    one.when.terms(),
                    one.models,
                    one.but,
                    frozenset(one.units) or TOKEN_UNITS,
                    one.start,
                    one.to,
                )
                for index, one in enumerate(entry.multipliers)
            ),
            tuple(
                Since(one.when.terms().mode, one.start, self._source((*at, "since", index), one, *around), one.models)
                for index, one in enumerate(entry.since)
            ),
            entry.follows,
        )

    def _model(self, entry: ModelEntry, at: Path, around: tuple[Sourced, ...]) -> Model:
        moves = sorted((one.start, one.to, one.model) for one in entry.moves)
        for (_, end, _), (start, _, model) in pairwise(moves):
            if start < end:
                self._say((*at, "moves"), f"`{entry.id}` would mean two models when it becomes `{model}`")
        if entry.moves and not (entry.source or any(one.source for one in around)):
            self._source((*at, "moves"), *around)
        return Model(
            entry.id,
            tuple(self._rows(entry.prices, (*at, "prices"), (entry, *around))),
            (entry.id, *entry.match.equals),
            entry.match.starts_with,
            entry.match.regex,
            alone=entry.alone,
            gone=entry.remove,
            moves=tuple(moves),
        )

    def _rows(self, entries: Sequence[Any], at: Path, around: tuple[Sourced, ...]) -> Iterator[Row]:
        rows = [self._row(one, (*at, index), around) for index, one in enumerate(entries)]
        for (_, left), (later, right) in combinations(enumerate(rows), 2):
            both = left.prices.keys() & right.prices.keys()
            if both and left.terms == right.terms and _overlap(left, right):
                key = min(both)
                self._say(
                    (*at, later, key), f"`{key}` has two prices at the same time", "end the earlier one with `to`"
                )
        yield from rows

    def _row(self, entry: Any, at: Path, around: tuple[Sourced, ...]) -> Row:  # noqa: ANN401  # made by create_model
        if entry.start >= entry.to:
            self._say((*at, "to"), "`to` is not after `from`")
        given = entry.model_fields_set & UNITS.keys()
        if not given and not entry.unavailable:
            self._say(at, "no price is given", f"for example input_mtok; allowed: {', '.join(sorted(UNITS))}")
        return Row(
            {key: _price(getattr(entry, key), UNITS[key].per) for key in sorted(given)},
            self._source(at, entry, *around),
            entry.start,
            entry.to,
            Hours(entry.daily.start, entry.daily.to, _DAYS[entry.daily.days]) if entry.daily else None,
            entry.when.terms(),
            sold=not entry.unavailable,
        )

    def _fee(self, entry: FeeEntry, at: Path) -> Fee:
        counted = "unit" in entry.match
        nanoseconds = _LENGTHS.get(entry.per) if isinstance(entry.per, str) else None
        per = entry.per if isinstance(entry.per, int) else nanoseconds or 1
        scale = 1
        if counted and nanoseconds is not None:
            scale = SECOND  # a count of time inside a call is in seconds
        elif not counted and (entry.quantity == "duration") != (nanoseconds is not None):
            self._say((*at, "quantity"), "a price per time needs `quantity: duration`, and only such a price does")
        return Fee(
            entry.id,
            entry.match,
            rate_of(Fraction(entry.usd) * FEMTO_PER_USD * scale / per),
            str(entry.quantity),
            max(entry.quantum // scale, 1),
            entry.minimum // scale,
            entry.start,
            entry.to,
            self._source(at, entry, self._file),
        )

    def _source(self, at: Path, *entries: Sourced) -> str:
        entry = next((entry for entry in entries if entry.source), None)
        if entry is None:
            self._say(at, "no source is given", "add `source` (where the price is published or agreed) here or above")
            return ""
        facts = [f"read {entry.read}" if entry.read else "", f"by {entry.by}" if entry.by else ""]
        notes = ", ".join(fact for fact in facts if fact)
        return f"{entry.source} ({notes})" if notes else str(entry.source)

    def _say(self, at: Path, message: str, hint: str = "") -> None:
        self._problems.append(self._document.problem(at, message, hint))


def _price(value: Decimal | Stepped | None, per: int) -> Price:
    if value is None:
        return Price(None)
    if isinstance(value, Stepped):
        steps = sorted((step.start, rate_from(step.price, per)) for step in value.tiers)
        return Price(rate_from(value.base, per), tuple(steps))
    return Price(rate_from(value, per))


def _overlap(left: Row, right: Row) -> bool:
    if left.start >= right.end or right.start >= left.end:
        return False
    if left.daily is None or right.daily is None:
        return True
    return any(
        left.daily.cover(moment) and right.daily.cover(moment) for moment in left.daily.edges() | right.daily.edges()
    )
