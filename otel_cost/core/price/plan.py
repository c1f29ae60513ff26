"""Plan: the prices of one model on one set of terms, compiled to integers on a timeline.

Compiling is exact arithmetic on fractions and happens once per (model, terms);
pricing a call is then two bisections and a handful of integer products.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from fnmatch import fnmatchcase
from fractions import Fraction
from math import lcm
from typing import TYPE_CHECKING, Final, NamedTuple

from otel_cost.core.model.charge import Tariff
from otel_cost.core.model.money import FEMTO_PER_NANO, Rate, split_nano
from otel_cost.core.model.vocabulary import Reason
from otel_cost.core.price.instants import instant_text
from otel_cost.core.price.table import BEGINNING, END, UNITS, WEEK, Price, Row

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from otel_cost.core.model.charge import Share
    from otel_cost.core.model.usage import Usage
    from otel_cost.core.price.table import Model, Multiplier, Since


class Quote(NamedTuple):
    """A price in force: what, said by whom, since when."""

    price: Price
    source: str
    since: int


class Line(NamedTuple):
    """One line of a charge before rounding."""

    unit: str
    part: str
    quantity: int
    rate: Rate
    source: str
    since: int

    @property
    def tariff(self) -> Tariff:
        since = None if self.since <= BEGINNING else instant_text(self.since)
        return Tariff(self.unit, self.part, self.rate, self.source, since)


@dataclass(frozen=True, slots=True)
class Stack:
    """Everything that all layers say about one model at one provider, earliest layer first."""

    models: tuple[Model, ...]
    common: tuple[Row, ...]
    multipliers: tuple[Multiplier, ...]
    since: tuple[Since, ...]


# What is charged where a list has no rate of its own for it: the rate of what it is a part of.
_PARENTS: Final = {
    "cache_read_mtok": "input_mtok",
    "cache_write_mtok": "input_mtok",
    "cache_write_1h_mtok": "cache_write_mtok",
    "input_audio_mtok": "input_mtok",
    "cache_audio_read_mtok": "cache_read_mtok",
    "input_image_mtok": "input_mtok",
    "input_video_mtok": "input_mtok",
    "output_reasoning_mtok": "output_mtok",
    "output_audio_mtok": "output_mtok",
    "output_image_mtok": "output_mtok",
}


class Band:
    """The rates for one range of input sizes in one stretch of time, over one common denominator."""

    __slots__ = (
        "audio_input",
        "cache_read",
        "cache_write",
        "cache_write_1h",
        "half",
        "has_input",
        "has_output",
        "input",
        "nano",
        "output",
        "plain",
        "quotes",
        "request",
        "scale",
        "tariffs",
        "two_ttls",
    )

    def __init__(self, quotes: Mapping[str, tuple[Rate, str, int]]) -> None:
        self.quotes = dict(quotes)
        self.tariffs: dict[str, tuple[Tariff, Fraction | int]] = {}  # with femto-dollars of one unit, by key
        self.has_input = "input_mtok" in quotes
        self.has_output = "output_mtok" in quotes
        self.scale = lcm(*(rate.per for rate, _, _ in quotes.values())) if quotes else 1
        self.nano = self.scale * FEMTO_PER_NANO  # one nano-dollar in this band's integers
        self.half = self.nano // 2
        self.input = self._whole("input_mtok")
        self.cache_read = self._whole("cache_read_mtok")
        self.cache_write = self._whole("cache_write_mtok")
        self.cache_write_1h = self._whole("cache_write_1h_mtok")
        self.output = self._whole("output_mtok")
        self.audio_input = self._whole("input_audio_mtok")
        self.request = "requests_kcount" in quotes
        # Only what differs from its whole must be counted apart.
        self.plain = not self.request and all(
            self._whole(part) == self._whole(whole)
            for part, whole in _PARENTS.items()
            if part not in {"cache_read_mtok", "cache_write_mtok", "cache_write_1h_mtok"}
        )
        # A write whose lifetime is not told has two possible prices only where both are on the list.
        self.two_ttls = "cache_write_1h_mtok" in quotes and self.cache_write_1h != self.cache_write

    def rounded(self, exact: int) -> int:
        """Nano-dollars of an amount in this band's integers, half to even."""
        nano, rest = divmod(exact, self.nano)
        return nano + 1 if rest > self.half or (rest == self.half and nano & 1) else nano

    def proven_hour(self, exact: int, cache_write: int, reported_nano: int) -> int:
        """How many of the written tokens live an hour, where the cost that the sender states proves it; else 0.

        `exact` is our cost with all of them at the price of five minutes. Only one
        split may come to the stated cost, to the nano-dollar. A cost that equals
        ours with no hour in it proves nothing: whoever does not know the lifetime computes it like that.
        """
        more = self.cache_write_1h - self.cache_write
        missing = reported_nano * self.nano - exact
        if more < self.nano or missing <= 0:
            return 0  # a token makes less than a nano-dollar of difference: several splits would do
        hour = (missing + more // 2) // more
        proven = hour <= cache_write and self.rounded(exact + hour * more) == reported_nano
        return hour if proven else 0

    def find(self, key: str) -> tuple[Rate, str, int] | None:
        """The rate for `key`, its own or that of the whole it is a part of."""
        while key not in self.quotes:
            if key not in _PARENTS:
                return None
            key = _PARENTS[key]
        return self.quotes[key]

    def _whole(self, key: str) -> int:
        found = self.find(key)
        return 0 if found is None else found[0].femto * (self.scale // found[0].per)

    def lines(self, usage: Usage) -> list[Line] | Reason:
        """What a call is charged for, part by part; `no_rate` where one of them is not on the list."""
        parts = self.parts(usage)
        if isinstance(parts, Reason):
            return parts
        lines = []
        for key, quantity in parts:
            found = self.find(key)
            if found is None:
                return Reason.NO_RATE
            lines.append(Line(UNITS[key].name, UNITS[key].part, quantity, *found))
        return lines

    def shares(self, usage: Usage, nano: int) -> list[Share]:
        """What the lines of a call say, with their shares of its rounded charge; nothing where there are no lines."""
        parts = self.parts(usage)
        if isinstance(parts, Reason):
            return []
        shares: list[Share] = []
        exact, left = [], nano
        for key, quantity in parts:
            known = self.tariffs.get(key) or self._tariff(key)
            if known is None:
                return []
            femto = known[1] * quantity
            floor = femto // FEMTO_PER_NANO
            exact.append(femto)
            left -= floor
            shares.append((known[0], quantity, floor))
        if left:
            nanos = split_nano(nano, exact)
            shares = [(tariff, quantity, share) for (tariff, quantity, _), share in zip(shares, nanos, strict=True)]
        return shares

    def _tariff(self, key: str) -> tuple[Tariff, Fraction | int] | None:
        found = self.find(key)
        if found is None:
            return None
        tariff = Line(UNITS[key].name, UNITS[key].part, 0, *found).tariff
        known = self.tariffs[key] = tariff, tariff.rate.of(1)
        return known

    def parts(self, usage: Usage) -> list[tuple[str, int]] | Reason:
        """What of a call is charged apart, by its key in the book, and how much there is of each."""
        parts = (
            self._parts_with_media(usage) if has_media(usage) or usage.audio_cache_read else self._parts_of_text(usage)
        )
        if self.request and not isinstance(parts, Reason):
            parts.append(("requests_kcount", 1))
        return parts

    def _parts_of_text(self, usage: Usage) -> list[tuple[str, int]] | Reason:
        cache_read, cache_write = usage.cache_read or 0, usage.cache_write or 0
        rest, answer, reasoning = usage.input - cache_read - cache_write, usage.output, usage.reasoning or 0
        hour = usage.cache_write_1h or 0
        if cache_read < 0 or not 0 <= hour <= cache_write or rest < 0:
            return Reason.INCONSISTENT_USAGE
        parts: list[tuple[str, int]] = []
        if rest:
            parts.append(("input_mtok", rest))
        if cache_read:
            parts.append(("cache_read_mtok", cache_read))
        if cache_write > hour:
            parts.append(("cache_write_mtok", cache_write - hour))
        if hour:
            parts.append(("cache_write_1h_mtok", hour))
        if reasoning and (reasoning <= answer or self._own("output_reasoning_mtok")):
            answer -= reasoning
        else:
            reasoning = 0
        if answer < 0:
            return Reason.INCONSISTENT_USAGE
        if answer:
            parts.append(("output_mtok", answer))
        if reasoning:
            parts.append(("output_reasoning_mtok", reasoning))
        return parts

    def _parts_with_media(self, usage: Usage) -> list[tuple[str, int]] | Reason:
        cache_read, cache_write = usage.cache_read or 0, usage.cache_write or 0
        hour = usage.cache_write_1h or 0
        audio, image, video = usage.audio_input or 0, usage.image_input or 0, usage.video_input or 0
        audio_cached = usage.audio_cache_read or 0
        if hour > cache_write:
            return Reason.INCONSISTENT_USAGE
        if min(cache_read, cache_write, hour, audio, image, video, audio_cached, usage.audio_output or 0) < 0:
            return Reason.INCONSISTENT_USAGE
        told_apart = usage.audio_cache_read is not None
        # A medium that costs what its whole costs need not be counted apart.
        if not self._own("input_audio_mtok") and not self._own("cache_audio_read_mtok"):
            audio = audio_cached = 0
        image = image if self._own("input_image_mtok") else 0
        video = video if self._own("input_video_mtok") else 0
        audio_fresh = audio - audio_cached
        rest = usage.input - cache_read - cache_write - audio_fresh - image - video
        if rest < 0 and not told_apart:
            # Nobody said which part of the medium came from the cache; what does not fit must have.
            audio_cached = min(-rest, audio, cache_read)
            audio_fresh = audio - audio_cached
            rest = usage.input - cache_read - cache_write - audio_fresh - image - video
        if rest < 0 or audio_fresh < 0 or audio_cached > cache_read:
            return Reason.INCONSISTENT_USAGE
        reasoning = usage.reasoning or 0
        sound = (usage.audio_output or 0) if self._own("output_audio_mtok") else 0
        picture = (usage.image_output or 0) if self._own("output_image_mtok") else 0
        answer = usage.output - sound - picture
        if self._own("output_reasoning_mtok") or reasoning <= answer:
            answer -= reasoning
        else:
            reasoning = 0  # inside the sound or picture, at its rate
        if answer < 0:
            return Reason.INCONSISTENT_USAGE
        parts = [
            ("input_mtok", rest),
            ("input_audio_mtok", audio_fresh),
            ("input_image_mtok", image),
            ("input_video_mtok", video),
            ("cache_read_mtok", cache_read - audio_cached),
            ("cache_audio_read_mtok", audio_cached),
            ("cache_write_mtok", cache_write - hour),
            ("cache_write_1h_mtok", hour),
            ("output_mtok", answer),
            ("output_reasoning_mtok", reasoning),
            ("output_audio_mtok", sound),
            ("output_image_mtok", picture),
        ]
        return [part for part in parts if part[1]]

    def _own(self, key: str) -> bool:
        return key in self.quotes and self._whole(key) != self._whole(_PARENTS[key])


def has_media(usage: Usage) -> bool:
    """Whether any of the tokens are not text."""
    return bool(usage.audio_input or usage.image_input or usage.video_input or usage.audio_output or usage.image_output)


class Period:
    """One stretch of time, bands by input size, by time of day where the price depends on it."""

    __slots__ = ("bands", "steps", "windows")

    def __init__(self, quotes: Mapping[str, Quote]) -> None:
        self.steps = sorted({above for quote in quotes.values() for above, _ in quote.price.steps})
        self.bands = [
            Band(
                {
                    key: (rate, quote.source, quote.since)
                    for key, quote in quotes.items()
                    if (rate := quote.price.for_input(size)) is not None
                }
            )
            for size in (0, *(above + 1 for above in self.steps))
        ]
        self.windows: tuple[list[int], list[Period | Reason]] | None = None

    def band(self, total_input: int) -> Band:
        return self.bands[bisect_left(self.steps, total_input)] if self.steps else self.bands[0]


class Plan:
    """A model's prices on one set of terms, over all time."""

    __slots__ = ("inferred", "model", "periods", "provider", "starts")

    def __init__(self, provider: str, model: str, starts: list[int], periods: list[Period | Reason]) -> None:
        self.provider, self.model = provider, model
        self.starts, self.periods = starts, periods
        self.inferred = False

    def at(self, start_ns: int) -> Period | Reason:
        """What holds at an instant, or why nothing does."""
        periods = self.periods
        period = periods[0] if len(periods) == 1 else periods[bisect_right(self.starts, start_ns) - 1]
        if isinstance(period, Reason) or period.windows is None:
            return period
        opens, windows = period.windows
        return windows[bisect_right(opens, start_ns % WEEK) - 1]


@dataclass(frozen=True, slots=True)
class Deal:
    """The terms of a call in the words of the book."""

    mode: str = ""
    geo: str = ""
    tenant: str = ""


class Compiler:
    """Lays the layers of one model over each other, on one deal."""

    def __init__(self, model_id: str, stack: Stack, deal: Deal) -> None:
        self._id, self._stack, self._deal = model_id, stack, deal
        alone = max((i for i, model in enumerate(stack.models) if model.alone), default=0)
        self._models = stack.models[alone:]
        self._multipliers = [
            one
            for one in stack.multipliers
            if one.terms.covers(deal.geo, deal.tenant)
            and one.terms.mode in {"", deal.mode}
            and concerns(one.models, model_id)
            and not (one.but and concerns(one.but, model_id))
        ]
        self._since = [one for one in stack.since if one.mode == deal.mode and concerns(one.models, model_id)]

    def timeline(self) -> tuple[list[int], list[Period | Reason]]:
        rows = [row for model in self._models for row in model.rows] + list(self._stack.common)
        edges = {BEGINNING}
        edges.update(row.start for row in rows)
        edges.update(row.end for row in rows)
        edges.update(one.start for one in self._multipliers)
        edges.update(one.end for one in self._multipliers)
        edges.update(one.start for one in self._since)
        edges.discard(END)
        starts: list[int] = []
        periods: list[Period | Reason] = []
        before: object = None
        for start in sorted(edges):
            quotes = self._week(start, rows)
            if quotes == before:
                continue
            before = quotes
            starts.append(start)
            periods.append(_period(quotes, sold_before=any(not isinstance(p, Reason) for p in periods)))
        return starts, periods

    def _week(self, start: int, rows: Sequence[Row]) -> list[tuple[int, dict[str, Quote] | Reason]]:
        opens = {0}
        for row in rows:
            if row.daily is not None and row.start <= start < row.end:
                opens |= row.daily.edges()
        day: list[tuple[int, dict[str, Quote] | Reason]] = []
        for moment in sorted(opens):
            quotes = self._quotes(start, moment)
            if not day or day[-1][1] != quotes:
                day.append((moment, quotes))
        return day

    def _quotes(self, at: int, moment: int) -> dict[str, Quote] | Reason:
        """Every price in force at one instant of one time of day."""
        standard = self._standard(at, moment)
        if not standard:
            return Reason.BEFORE_FIRST_PRICE
        mode = self._deal.mode
        quotes = dict(standard)
        if mode:
            stated = self._mode(at, moment, standard)
            if stated is None:
                return Reason.NO_RATE
            quotes |= stated
        for one in self._multipliers:
            if not one.terms.mode and one.start <= at < one.end:
                quotes |= {
                    key: Quote(quote.price.times(one.x), f"{quote.source} × {one.source}", max(quote.since, one.start))
                    for key, quote in quotes.items()
                    if key in one.units
                }
        return {key: quote for key, quote in quotes.items() if quote.price.base is not None}

    def _standard(self, at: int, moment: int) -> dict[str, Quote]:
        quotes = self._stated("", at, moment)
        if quotes:
            for row in self._stack.common:
                if not row.terms.mode and self._meant(row) and row.active(at, moment):
                    for key, price in row.prices.items():
                        quotes.setdefault(key, Quote(price, row.source, row.start))
        return quotes

    def _stated(self, mode: str, at: int, moment: int) -> dict[str, Quote]:
        """What the layers themselves say about one mode, later ones winning rate by rate."""
        quotes: dict[str, Quote] = {}
        for model in self._models:
            for row in model.rows:
                if row.terms.mode == mode and self._meant(row) and row.active(at, moment):
                    if row.whole:
                        quotes = {}
                    quotes |= {key: Quote(price, row.source, row.start) for key, price in row.prices.items()}
        return quotes

    def _meant(self, row: Row) -> bool:
        return row.terms.covers(self._deal.geo, self._deal.tenant)

    def _mode(self, at: int, moment: int, standard: Mapping[str, Quote]) -> dict[str, Quote] | None:
        """The prices that the mode changes; None where it is not on offer."""
        mode = self._deal.mode
        active = [
            row
            for model in self._models
            for row in model.rows
            if row.terms.mode == mode and self._meant(row) and row.active(at, moment)
        ]
        if active and not active[-1].sold:
            return None
        quotes: dict[str, Quote] = {}
        factor = next(
            (one for one in reversed(self._multipliers) if one.terms.mode == mode and one.start <= at < one.end), None
        )
        if factor is not None:
            quotes = {
                key: Quote(
                    quote.price.times(factor.x), f"{quote.source} × {factor.source}", max(quote.since, factor.start)
                )
                for key, quote in standard.items()
                if key in factor.units
            }
        listed = self._listed_since(at, moment, standard) if not active else {}
        stated = self._stated(mode, at, moment)
        if listed or stated:
            quotes = {}  # a list of this mode goes before a factor; what it leaves out costs what it costs without it
        if not active and not listed and factor is None:
            return None
        return quotes | listed | stated

    def _listed_since(self, at: int, moment: int, standard: Mapping[str, Quote]) -> dict[str, Quote]:
        """The rates that the list states from later on, in their proportion to the standard rates of now."""
        since = next((one for one in reversed(self._since) if one.start <= at), None)
        first = min(
            (
                row.start
                for model in self._models
                for row in model.rows
                if row.terms.mode == self._deal.mode and row.sold and self._meant(row) and row.start > at
            ),
            default=None,
        )
        if since is None or first is None:
            return {}
        then = self._stated("", first, moment)
        quotes: dict[str, Quote] = {}
        for key, quote in self._stated(self._deal.mode, first, moment).items():
            now, later = standard.get(key), then.get(key)
            if now is None or later is None:
                continue
            price = quote.price
            if now.price != later.price:
                if now.price.base is None or later.price.base is None or not later.price.base.femto:
                    continue
                price = price.times(now.price.base.usd / later.price.base.usd)
            quotes[key] = Quote(price, since.source, since.start)
        return quotes


def _period(day: list[tuple[int, dict[str, Quote] | Reason]], *, sold_before: bool) -> Period | Reason:
    parts: list[Period | Reason] = []
    for _, quotes in day:
        if isinstance(quotes, Reason):
            late = quotes is Reason.BEFORE_FIRST_PRICE and sold_before
            parts.append(Reason.NO_RATE if late else quotes)
        else:
            parts.append(Period(quotes))
    if len(parts) == 1:
        return parts[0]
    period = Period({})
    period.windows = ([moment for moment, _ in day], parts)
    return period


def concerns(models: Iterable[str], model_id: str) -> bool:
    """Whether a list of ids and glob patterns (empty: all) means this model."""
    models = tuple(models)
    return not models or any(fnmatchcase(model_id.lower(), pattern.lower()) for pattern in models)


def nano_of(lines: Iterable[Line]) -> int:
    """The exact sum of lines, rounded once, half to even."""
    total = sum((Fraction(line.rate.femto * line.quantity, line.rate.per) for line in lines), Fraction(0))
    return round(total / FEMTO_PER_NANO)
