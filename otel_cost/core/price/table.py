"""Table: what price lists say, in one shape, whichever list said it: rates, when they hold, on which terms.

A layer is one list (the pinned data, our overrides, a user's file). Nothing here
computes a price; `plan` compiles the layers of one model into a timeline.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Final

from genai_prices.data_units import unit_data

from otel_cost.core.model.money import FEMTO_PER_USD, Rate, rate_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from decimal import Decimal

BEGINNING: Final = -(2**63)  # no known start
END: Final = 2**63 - 1  # still in force
SECOND: Final = 10**9  # nanoseconds
DAY: Final = 86_400 * SECOND
WEEK: Final = 7 * DAY
_FIRST_WEEKDAY: Final = 3  # 1970-01-01 was a Thursday; Monday is 0


@dataclass(frozen=True, slots=True)
class Unit:
    """Something that is counted and paid for.

    `per`: how many of it the published price is for (1,000,000 tokens, 1,000 searches, 3,600 seconds).
    """

    name: str
    per: int
    part: str
    token: bool


_NAMES: Final = {  # price-book field -> what an item calls it and the group it belongs to
    "input_mtok": ("input", "input"),
    "cache_read_mtok": ("cache_read", "cache_read"),
    "cache_write_mtok": ("cache_write", "cache_write"),
    "cache_write_1h_mtok": ("cache_write_1h", "cache_write"),
    "input_audio_mtok": ("audio_input", "input"),
    "cache_audio_read_mtok": ("audio_cache_read", "cache_read"),
    "input_image_mtok": ("image_input", "input"),
    "input_video_mtok": ("video_input", "input"),
    "output_mtok": ("output", "output"),
    "output_reasoning_mtok": ("reasoning", "reasoning"),
    "output_audio_mtok": ("audio_output", "output"),
    "output_image_mtok": ("image_output", "output"),
    "web_searches_kcount": ("web_search", "fee"),
    "storage_searches_kcount": ("file_search", "fee"),
    "social_searches_kcount": ("social_search", "fee"),
    "rerank_searches_kcount": ("rerank_search", "fee"),
    "requests_kcount": ("request", "fee"),
    "input_document_kpages": ("page", "fee"),
    "input_annotated_document_kpages": ("annotated_page", "fee"),
    "input_mchars": ("character", "fee"),
    "audio_hours": ("audio_second", "fee"),
    "input_audio_hours": ("input_audio_second", "fee"),
    "output_audio_hours": ("output_audio_second", "fee"),
    "input_text_messages_kcount": ("text_message", "fee"),
    "output_citation_mtok": ("citation", "output"),
}


def _units() -> dict[str, Unit]:
    units: dict[str, Unit] = {}
    for usage_key, fact in unit_data.items():
        key = fact.get("price_key", usage_key)
        dimensions = fact["dimensions"]
        token = dimensions["family"] == "tokens"
        name, part = _NAMES.get(key, (usage_key, dimensions.get("direction", "fee") if token else "fee"))
        units[key] = Unit(name, fact["per"], part, token)
    units["cache_write_30m_mtok"] = Unit("cache_write", 10**6, "cache_write", token=True)
    return units


UNITS: Final[Mapping[str, Unit]] = _units()
TOKEN_UNITS: Final = frozenset(key for key, unit in UNITS.items() if unit.token)


@dataclass(frozen=True, slots=True)
class Price:
    """One rate, by size of the call's input: `steps` are (strictly above, rate), ascending. None: not for sale."""

    base: Rate | None
    steps: tuple[tuple[int, Rate], ...] = ()

    def times(self, factor: Fraction) -> Price:
        if self.base is None or factor == 1:
            return self
        return Price(self.base.times(factor), tuple((above, rate.times(factor)) for above, rate in self.steps))

    def for_input(self, total: int) -> Rate | None:
        rate = self.base
        for above, stepped in self.steps:
            if total > above:
                rate = stepped
        return rate


def rate_from(usd: Decimal | int, per: int) -> Rate:
    """Exact rate of a published price.

    Published prices end within nine decimals; what goes further is the dust of a
    division made in floating point somewhere upstream, and is rounded away.
    """
    exact = Fraction(usd)
    nine = exact * 10**9
    if nine.denominator != 1:
        exact = Fraction(round(nine), 10**9)
    return rate_of(exact * FEMTO_PER_USD / per)


@dataclass(frozen=True, slots=True)
class Terms:
    """Which calls a row is about, beyond its model.

    `mode` is "" for the standard tier, else batch, flex, priority, speed:fast …
    `geo` and `tenant` are None where they do not matter.
    """

    mode: str = ""
    geo: str | None = None
    not_geo: tuple[str, ...] = ()
    tenant: str | None = None

    def covers(self, geo: str, tenant: str) -> bool:
        """Whether a call in `geo` of `tenant` is meant; the mode is the caller's business."""
        if self.geo is not None and self.geo != geo:
            return False
        if self.not_geo and (not geo or geo in self.not_geo):
            return False
        return self.tenant is None or self.tenant == tenant


ANY: Final = Terms()

# How senders write "nothing special". `auto` is only ever what was asked, `not_available` what old models answer.
_STANDARD: Final = frozenset(
    {
        "",
        "default",
        "auto",
        "standard",
        "standard_only",
        "on_demand",
        "on-demand",
        "ondemand",
        "shared",
        "not_available",
    }
)


def place_of(inference_geo: str | None) -> str:
    """Where a call was served, in lower case; "" where nobody says."""
    place = (inference_geo or "").strip().lower()
    return "" if place in _STANDARD or place in {"none", "unknown"} else place


def mode_of(service_tier: str | None, processing: str | None, speed: str | None) -> str:
    """The one word under which the book keeps a combination of tier, processing and speed; "" is the standard one."""
    tier, done, pace = ((text or "").strip().lower() for text in (service_tier, processing, speed))
    tier = tier.removeprefix("service_tier_")
    tier = "" if tier in _STANDARD else tier
    if "batch" in {done, tier}:
        tier = "batch"
    elif done not in _STANDARD and done not in {"online", "realtime"}:
        tier = done
    if pace in _STANDARD or pace == "normal":
        return tier
    return f"{tier}+speed:{pace}" if tier else f"speed:{pace}"


@dataclass(frozen=True, slots=True)
class Hours:
    """A stretch of the UTC day, half open, in nanoseconds; it may pass midnight.

    `days`: on which it opens; 0 is Monday.
    """

    opens: int
    closes: int
    days: frozenset[int] = frozenset(range(7))

    def cover(self, moment: int) -> bool:
        """`moment`: nanoseconds since the week of the Unix epoch began, which is on a Thursday."""
        of_day, day = moment % DAY, (moment // DAY + _FIRST_WEEKDAY) % 7
        if self.opens < self.closes:
            return day in self.days and self.opens <= of_day < self.closes
        if of_day >= self.opens:
            return day in self.days
        return of_day < self.closes and (day - 1) % 7 in self.days

    def edges(self) -> set[int]:
        """Where in the week it may open or close."""
        return {day * DAY + at for day in range(7) for at in (self.opens, self.closes, 0)}


@dataclass(frozen=True, slots=True)
class Row:
    """Prices that hold together: from `start` (inclusive) to `end`, in certain hours where given.

    `whole`: the row is the full list of what is sold then, so an earlier row of
    the same layer says nothing beside it. `sold` False: these terms are not on offer then.
    """

    prices: Mapping[str, Price]
    source: str
    start: int = BEGINNING
    end: int = END
    daily: Hours | None = None
    terms: Terms = ANY
    whole: bool = False
    sold: bool = True

    def active(self, at: int, moment: int) -> bool:
        """At an instant, and at a moment of the week (see `Hours.cover`)."""
        return self.start <= at < self.end and (self.daily is None or self.daily.cover(moment))


@dataclass(frozen=True, slots=True)
class Model:
    """One model at one provider, as one layer tells it.

    `names` are spellings that mean exactly this model, `stems` spellings that may
    be followed by a date or version tag, `patterns` regular expressions for a whole name.
    `alone`: earlier layers' prices of this model are wrong and do not count.
    `moves`: the id is an alias; (from, to, model it meant then).
    """

    id: str
    rows: tuple[Row, ...] = ()
    names: tuple[str, ...] = ()
    stems: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    alone: bool = False
    gone: bool = False
    moves: tuple[tuple[int, int, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Multiplier:
    """A factor on list prices: batch, residency, contract discount."""

    x: Fraction
    source: str
    terms: Terms
    models: tuple[str, ...] = ()  # ids or glob patterns; empty: every model
    but: tuple[str, ...] = ()
    units: frozenset[str] = TOKEN_UNITS
    start: int = BEGINNING
    end: int = END


@dataclass(frozen=True, slots=True)
class Since:
    """Terms whose rates the list states from the day it was read, but which were sold since `start`."""

    mode: str
    start: int
    source: str
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Provider:
    """One seller, as one layer tells it. `common` holds for every model that says nothing of its own."""

    id: str
    models: tuple[Model, ...] = ()
    common: tuple[Row, ...] = ()
    multipliers: tuple[Multiplier, ...] = ()
    since: tuple[Since, ...] = ()
    fallback: tuple[str, ...] | None = None  # sellers whose list holds for models it does not list; None: unsaid here


@dataclass(frozen=True, slots=True)
class Fee:
    """A cost that is not a token: a search, a page, a minute of a sandbox, an hour of a reviewer.

    A step matches if every word of `match` does; `match["unit"]` names a count inside a model call instead.
    `quantity` is "1" or "duration" (nanoseconds of the step, rounded up to `quantum`, at least `minimum`).
    """

    id: str
    match: Mapping[str, str]
    price: Rate
    quantity: str = "1"
    quantum: int = 1
    minimum: int = 0
    start: int = BEGINNING
    end: int = END
    source: str = ""


@dataclass(frozen=True, slots=True)
class Context:
    """Facts that no convention carries on a span, told by configuration: match -> processing, speed, geography."""

    match: Mapping[str, str]
    set: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Deployment:
    """A name of the user's own and the model behind it."""

    name: str
    model: str
    provider: str | None = None
    tenant: str | None = None


@dataclass(frozen=True, slots=True)
class Layer:
    """One price list. Of two layers the later one wins, rate by rate."""

    source: str
    providers: tuple[Provider, ...] = ()
    provider_names: Mapping[str, str] = field(default_factory=dict)
    deployments: tuple[Deployment, ...] = ()
    fees: tuple[Fee, ...] = ()
    contexts: tuple[Context, ...] = ()
