"""Price book: a step in, a charge out. Compiled once from layers; pure, bounded, exact."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Final, overload

from otel_cost.core.model.charge import Charge, Item
from otel_cost.core.model.money import FEMTO_PER_NANO, Rate, split_nano
from otel_cost.core.model.step import STANDARD_TERMS
from otel_cost.core.model.usage import Usage
from otel_cost.core.model.vocabulary import Flag, Kind, Reason, Source, Status
from otel_cost.core.price.names import Found, Names
from otel_cost.core.price.plan import Compiler, Deal, Line, Period, Plan, Stack, has_media, nano_of
from otel_cost.core.price.table import BEGINNING, END, UNITS, Layer, Model, mode_of, place_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from otel_cost.core.model.charge import Share
    from otel_cost.core.model.step import Step, Terms
    from otel_cost.core.price.plan import Band
    from otel_cost.core.price.table import Fee

# Names of uses inside a call as senders and configurations count them -> field of the book.
_USES: Final = {
    **{unit.name: key for key, unit in UNITS.items() if not unit.token},
    **{key: key for key, unit in UNITS.items() if not unit.token},
    "web_searches": "web_searches_kcount",
    "web_search_requests": "web_searches_kcount",
    "grounding": "web_searches_kcount",
    "google_search": "web_searches_kcount",
    "file_searches": "storage_searches_kcount",
    "x_search": "social_searches_kcount",
    "rerank": "rerank_searches_kcount",
    "search_units": "rerank_searches_kcount",
    "pages": "input_document_kpages",
    "annotated_pages": "input_annotated_document_kpages",
    "characters": "input_mchars",
    "audio_seconds": "audio_hours",
    "input_audio_seconds": "input_audio_hours",
    "output_audio_seconds": "output_audio_hours",
    "requests": "requests_kcount",
    "citation_tokens": "output_citation_mtok",
}

_CACHED: Final = 8192  # plans per generation of the cache; names beyond that push old ones out


def compile_book(layers: Iterable[Layer]) -> PriceBook:
    """One book from price lists; of two that state the same rate the later one wins."""
    return PriceBook(tuple(layers))


class PriceBook:
    """What everything costs. `id` is the sha256 of all that it was compiled from, in canonical form."""

    def __init__(self, layers: tuple[Layer, ...]) -> None:
        self._layers = layers
        self.id = _identity(layers)
        self._stacks: dict[str, dict[str, list[Model]]] = {}
        fallback: dict[str, tuple[str, ...]] = {}
        provider_names: dict[str, str] = {}
        for layer in layers:
            provider_names |= layer.provider_names
            for provider in layer.providers:
                shelf = self._stacks.setdefault(provider.id, {})
                for model in provider.models:
                    shelf.setdefault(model.id, []).append(model)
                if provider.fallback is not None:
                    fallback[provider.id] = provider.fallback
        self._names = Names(
            {provider: _shelf(shelf) for provider, shelf in self._stacks.items()},
            fallback,
            provider_names,
            [one for layer in layers for one in layer.deployments],
        )
        self._fees = [fee for layer in layers for fee in layer.fees]
        self._unit_fees = [fee for fee in self._fees if "unit" in fee.match]
        self._step_fees = [fee for fee in self._fees if "unit" not in fee.match]
        self._contexts = [context for layer in layers for context in layer.contexts]
        self._by_tenant = any(
            row.terms.tenant for layer in layers for p in layer.providers for m in p.models for row in m.rows
        ) or any(
            one.terms.tenant for layer in layers for p in layer.providers for one in p.multipliers
        ) or any(one.tenant for layer in layers for one in layer.deployments)  # fmt: skip
        self._plain = not self._contexts and not self._step_fees
        self._plans: dict[tuple[str, str, Deal], Plan] = {}
        self._young: dict[tuple[object, ...], Plan | Reason] = {}
        self._old: dict[tuple[object, ...], Plan | Reason] = {}

    # --- Charging ----------------------------------------------------------------------------------------------------

    def charge(self, step: Step) -> Charge:
        """The price of one call, or the reason why there is none.

        Priced at the step's start, with the model and terms that were served.
        A roll-up is charged like a call and marked `aggregate`: whether it counts is the caller's decision.
        """
        flags = step.flags
        if step.failed:
            flags |= _FAILED
        usage = step.usage
        if step.problem is not None:
            return Charge(_INVALID, step.problem, None, (), usage, step.basis, flags, self.id)
        kind = step.kind
        if kind is _TOOL or kind is _FEE:
            return self._charge_use(step, flags)
        if step.rollup:
            flags |= _AGGREGATE
        if step.reported_by_provider and step.reported_nano is not None:
            return self._charge_reported(step, flags)
        terms = step.terms
        if usage is None:
            if step.failed and not step.output_begun:
                return self._none(step, Reason.FAILED_CALL, flags)
            if not terms.units:
                return self._none(step, Reason.MISSING_USAGE, flags)
        if self._contexts:
            terms = self._in_context(step)
        key: tuple[object, ...]
        if terms is STANDARD_TERMS and not self._by_tenant:
            key = (step.provider, step.requested_model, step.response_model)
        else:
            key = (
                step.provider, step.requested_model, step.response_model,
                terms.service_tier, terms.processing, terms.speed, terms.inference_geo,
                step.tenant if self._by_tenant else "",
            )  # fmt: skip
        plan = self._young.get(key)
        if plan is None:
            plan = self._look_up(key, step, terms)
        if type(plan) is not Plan:
            return self._none(step, plan, flags)  # type: ignore[arg-type]  # what is no plan is a reason
        periods = plan.periods
        period = periods[0] if len(periods) == 1 else periods[bisect_right(plan.starts, step.start_ns) - 1]
        if type(period) is not Period or period.windows is not None:
            period = plan.at(step.start_ns)
            if isinstance(period, Reason):
                return self._none(step, period, flags)
        if plan.inferred:
            flags |= _ESTIMATED
        if usage is None or terms.units or not self._plain:
            return self._charge_slowly(step, plan, period, terms, flags)
        bands = period.bands
        if len(bands) == 1 or step.source is _METRIC:  # a metric sums up calls of which none need have been long
            return self._charge_tokens(step, usage, bands[0], flags)
        return self._charge_tokens(step, usage, period.band(usage.input), flags)

    def _charge_tokens(self, step: Step, usage: Usage, band: Band, flags: frozenset[Flag]) -> Charge:
        """The common case, in integers: nothing but tokens."""
        total, output, reasoning = usage.input, usage.output, usage.reasoning
        cache_read, cache_write = usage.cache_read, usage.cache_write
        if total < 0 or output < 0 or (reasoning and not 0 <= reasoning <= output):
            return self._bad(step, flags)
        if not band.plain and (band.request or has_media(usage) or reasoning):
            return self._charge_lines(step, band.lines(usage), flags | self._ttl(usage, band))
        if (total and not band.has_input) or (output and not band.has_output):
            return self._none(step, Reason.NO_RATE, flags)
        exact = output * band.output
        if cache_read or cache_write:
            cache_read, cache_write, hour = cache_read or 0, cache_write or 0, usage.cache_write_1h or 0
            fresh = total - cache_read - cache_write
            if fresh < 0 or cache_read < 0 or not 0 <= hour <= cache_write:
                return self._bad(step, flags)
            exact += fresh * band.input + cache_read * band.cache_read
            if cache_write:
                exact += (cache_write - hour) * band.cache_write + hour * band.cache_write_1h
                if usage.cache_write_1h is None and band.two_ttls:
                    usage, more = self._lifetimes(step, usage, band, exact)
                    exact += more
                    flags |= _ESTIMATED if more else _TTL_UNKNOWN
        else:
            exact += total * band.input
        nano = band.rounded(exact)
        return Charge(_PRICED, None, nano, Items(band, usage, nano), usage, step.basis, flags, self.id)

    def _lifetimes(self, step: Step, usage: Usage, band: Band, exact: int) -> tuple[Usage, int]:
        """The usage with the hour's part of what was written, where the stated cost proves it, and what that adds."""
        if step.reported_nano is None or step.terms.units:  # uses inside the call are in the stated cost too
            return usage, 0
        hour = band.proven_hour(exact, usage.cache_write or 0, step.reported_nano)
        if not hour:
            return usage, 0
        return replace(usage, cache_write_1h=hour), hour * (band.cache_write_1h - band.cache_write)

    def _ttl(self, usage: Usage, band: Band) -> frozenset[Flag]:
        """Whether two prices were possible for what went into the cache."""
        return _TTL_UNKNOWN if usage.cache_write and usage.cache_write_1h is None and band.two_ttls else _NO_FLAGS

    def _charge_lines(self, step: Step, lines: list[Line] | Reason, flags: frozenset[Flag]) -> Charge:
        if isinstance(lines, Reason):
            return self._bad(step, flags) if lines is Reason.INCONSISTENT_USAGE else self._none(step, lines, flags)
        nano = nano_of(lines)
        items = items_of(lines, nano)
        return Charge(Status.PRICED, None, nano, items, step.usage, step.basis, flags, self.id)

    def _charge_slowly(self, step: Step, plan: Plan, period: Period, terms: Terms, flags: frozenset[Flag]) -> Charge:
        """Tokens, uses inside the call, and fees that match the step."""
        usage = step.usage
        band = period.band(usage.input if usage else 0)
        if usage is None and band.has_input:
            return self._none(step, Reason.MISSING_USAGE, flags)
        lines: list[Line] | Reason = []
        if usage is not None:
            tokens = self._charge_tokens(step, usage, band, flags)
            if tokens.status is not Status.PRICED:
                return tokens
            flags, usage = tokens.flags, tokens.usage or usage
            lines = band.lines(usage)
        if isinstance(lines, Reason):
            return self._charge_lines(step, lines, flags)
        for name, count in terms.units:
            if count < 0:
                return self._bad(step, flags)
            if count:
                line = self._use(name, count, band, plan, step)
                if line is None:
                    return self._none(step, Reason.NO_RATE, flags)
                lines.append(line)
        lines += [line for fee in self._step_fees if (line := _fee_line(fee, step, plan)) is not None]
        charge = self._charge_lines(step, lines, flags)
        charge.usage = usage
        return charge

    def _use(self, name: str, count: int, band: Band, plan: Plan, step: Step) -> Line | None:
        key = _USES.get(name)
        found = band.find(key) if key is not None else None
        if key is not None and found is not None:
            return Line(UNITS[key].name, UNITS[key].part, count, *found)
        for fee in reversed(self._unit_fees):
            if fee.match["unit"] == name and fee.start <= step.start_ns < fee.end and _matches(fee.match, step, plan):
                quantity = max(-(-count // fee.quantum) * fee.quantum, fee.minimum)
                return Line(fee.id, "fee", quantity, fee.price, fee.source, fee.start)
        return None

    def _charge_use(self, step: Step, flags: frozenset[Flag]) -> Charge:
        """A tool call or another paid thing: what its fees say, or nothing known."""
        lines = [line for fee in self._step_fees if (line := _fee_line(fee, step, None)) is not None]
        return self._charge_lines(step, lines, flags) if lines else self._none(step, Reason.NO_RATE, flags)

    def _charge_reported(self, step: Step, flags: frozenset[Flag]) -> Charge:
        """The provider itself said what it took."""
        nano = step.reported_nano or 0
        item = Item("reported", "fee", 1, Rate(nano * FEMTO_PER_NANO), nano, "reported by the provider", None)
        return Charge(Status.PRICED, None, nano, (item,), step.usage, step.basis, flags | _REPORTED, self.id)

    def _none(self, step: Step, reason: Reason, flags: frozenset[Flag]) -> Charge:
        return Charge(_UNPRICED, reason, None, (), step.usage, step.basis, flags, self.id)

    def _bad(self, step: Step, flags: frozenset[Flag]) -> Charge:
        usage = step.usage
        counts = [] if usage is None else [getattr(usage, name) for name in Usage.__slots__]
        negative = any(count is not None and count < 0 for count in (*counts, *(n for _, n in step.terms.units)))
        reason = Reason.NEGATIVE_TOKENS if negative else Reason.INCONSISTENT_USAGE
        return Charge(Status.INVALID, reason, None, (), usage, step.basis, flags, self.id)

    def _in_context(self, step: Step) -> Terms:
        """The step's terms with what configuration knows beside them; what the span says itself wins."""
        terms = step.terms
        for context in self._contexts:
            if _matches(context.match, step, None):
                terms = replace(
                    terms,
                    service_tier=terms.service_tier or context.set.get("service_tier"),
                    processing=terms.processing or context.set.get("processing"),
                    speed=terms.speed or context.set.get("speed"),
                    inference_geo=terms.inference_geo or context.set.get("inference_geo"),
                )
        return terms

    # --- Looking up --------------------------------------------------------------------------------------------------

    def _look_up(self, key: tuple[object, ...], step: Step, terms: Terms) -> Plan | Reason:
        """Second chance in the older generation, else find and compile; two generations bound the memory."""
        plan = self._old.get(key)
        if plan is None:
            tenant = step.tenant if self._by_tenant else ""
            plan = self.plan(step.provider, step.requested_model, step.response_model, terms, tenant)
        if len(self._young) >= _CACHED:
            self._old, self._young = self._young, {}
        self._young[key] = plan
        return plan

    def plan(
        self, provider: str | None, requested: str | None, response: str | None, terms: Terms, tenant: str = ""
    ) -> Plan | Reason:
        """The compiled prices of a model on given terms, or why there are none."""
        found = self._names.find(provider, requested, response, tenant)
        if isinstance(found, Reason):
            return found
        plan = self._compiled(
            found,
            Deal(
                mode_of(terms.service_tier, terms.processing, terms.speed),
                place_of(terms.inference_geo),
                tenant,
            ),
        )
        if found.inferred:
            copy = Plan(plan.provider, plan.model, plan.starts, plan.periods)
            copy.inferred = True
            return copy
        return plan

    def _compiled(self, found: Found, deal: Deal) -> Plan:
        key = (f"{found.provider}\0{found.owner}", found.model, deal)
        plan = self._plans.get(key)
        if plan is None:
            plan = self._compile(found, deal)
            if len(self._plans) >= _CACHED:  # geographies are free text
                self._plans.clear()
            self._plans[key] = plan
        return plan

    def _compile(self, found: Found, deal: Deal) -> Plan:
        models = tuple(self._stacks[found.owner][found.model])
        moves = next((model.moves for model in reversed(models) if model.moves), ())
        if moves:
            if any(row.terms.mode == deal.mode and not row.sold for model in models for row in model.rows):
                return Plan(found.provider, found.model, [BEGINNING], [Reason.NO_RATE])
            return self._moved(found, moves, deal)
        of = [p for layer in self._layers for p in layer.providers if p.id in {found.owner, found.provider}]
        served = [p for p in of if p.id == found.provider]
        stack = Stack(
            models,
            tuple(row for p in served for row in p.common),
            tuple(one for p in served for one in p.multipliers),
            tuple(one for p in of for one in p.since),
        )
        starts, periods = Compiler(found.model, stack, deal).timeline()
        return Plan(found.provider, found.model, starts, periods)

    def _moved(self, found: Found, moves: tuple[tuple[int, int, str], ...], deal: Deal) -> Plan:
        """An alias: at each time the prices of the model that it meant then."""
        starts: list[int] = []
        periods: list[Period | Reason] = []
        known = BEGINNING
        for start, end, target in moves:
            if start > known:
                starts.append(known)
                periods.append(Reason.NO_RATE if periods else Reason.BEFORE_FIRST_PRICE)
            other = self._compiled(Found(found.provider, found.owner, target), deal)
            for begins, period in zip(other.starts, other.periods, strict=True):
                upto = next((later for later in other.starts if later > begins), END)
                if begins < end and upto > start:
                    starts.append(max(begins, start))
                    periods.append(period)
            known = end
        if known < END:
            starts.append(known)
            periods.append(Reason.NO_RATE)
        return Plan(found.provider, found.model, starts, periods)

    def models(self) -> Mapping[str, Sequence[str]]:
        """Every provider's model ids."""
        return {provider: sorted(shelf) for provider, shelf in self._stacks.items()}

    def provider(self, name: str) -> str | None:
        """The book's id of a provider as senders name it; "" where the name tells nobody, None where it is unknown."""
        return self._names.provider(name)


# Looking a member up on its class takes longer than most of what is done with it.
_PRICED: Final = Status.PRICED
_INVALID: Final = Status.INVALID
_UNPRICED: Final = Status.UNPRICED
_TOOL: Final = Kind.TOOL
_FEE: Final = Kind.FEE
_METRIC: Final = Source.METRIC
_NO_FLAGS: Final[frozenset[Flag]] = frozenset()
_FAILED: Final = frozenset({Flag.FAILED})
_AGGREGATE: Final = frozenset({Flag.AGGREGATE})
_TTL_UNKNOWN: Final = frozenset({Flag.TTL_UNKNOWN})
_ESTIMATED: Final = frozenset({Flag.ESTIMATED})
_REPORTED: Final = frozenset({Flag.REPORTED_COST})


class Items(Sequence[Item]):
    """The items of a token charge, made when somebody looks: most charges are only added up."""

    __slots__ = ("_band", "_nano", "_shares", "_usage")

    def __init__(self, band: Band, usage: Usage, nano: int) -> None:
        self._band = band
        self._usage = usage
        self._nano = nano
        self._shares: Sequence[Share] | None = None

    def _all(self) -> tuple[Item, ...]:
        return tuple(by.item(quantity, nano) for by, quantity, nano in self.shares())

    def shares(self) -> Sequence[Share]:
        shares = self._shares
        if shares is None:
            shares = self._shares = self._band.shares(self._usage, self._nano)
        return shares

    def forget(self) -> None:
        self._shares = None

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Item, ...]: ...
    def __getitem__(self, index: int | slice) -> Item | tuple[Item, ...]:
        return self._all()[index]

    def __iter__(self) -> Iterator[Item]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def __eq__(self, other: object) -> bool:
        return self._all() == (other._all() if isinstance(other, Items) else other)

    def __hash__(self) -> int:
        return hash(self._all())

    def __repr__(self) -> str:
        return repr(self._all())


def items_of(lines: Sequence[Line], nano: int) -> tuple[Item, ...]:
    """Lines as items whose rounded shares add up to the rounded whole."""
    shares = split_nano(nano, [line.rate.of(line.quantity) for line in lines])
    return tuple(line.tariff.item(line.quantity, share) for line, share in zip(lines, shares, strict=True))


def _shelf(models: Mapping[str, Sequence[Model]]) -> list[Model]:
    """The models of one provider, those that later layers name first: of two that claim a name the first has it."""
    named = [
        (len(told) > 1 or not told[0].rows or not told[0].rows[0].whole, _merged(told)) for told in models.values()
    ]
    return [model for ours, model in named if ours] + [model for ours, model in named if not ours]


def _merged(models: Sequence[Model]) -> Model:
    """One model's names over all layers."""
    if len(models) == 1:
        return models[0]
    return Model(
        models[0].id,
        names=tuple(name for model in models for name in model.names),
        stems=tuple(stem for model in models for stem in model.stems),
        patterns=tuple(pattern for model in models for pattern in model.patterns),
        gone=models[-1].gone,
    )


def _fee_line(fee: Fee, step: Step, plan: Plan | None) -> Line | None:
    if not fee.start <= step.start_ns < fee.end or not _matches(fee.match, step, plan):
        return None
    quantity = 1
    if fee.quantity == "duration":
        lasted = max(step.end_ns - step.start_ns, 0)
        quantity = max(-(-lasted // fee.quantum) * fee.quantum, fee.minimum)
    return Line(fee.id, "fee", quantity, fee.price, fee.source, fee.start)


def _matches(match: Mapping[str, str], step: Step, plan: Plan | None) -> bool:
    """Whether every word of a match holds; values may end in `*`."""
    return all(
        key == "unit" or _like(wanted, told) for key, wanted in match.items() for told in (_told(key, step, plan),)
    )


def _told(key: str, step: Step, plan: Plan | None) -> str | None:
    match key:
        case "span.name" | "name":
            return step.name
        case "kind":
            return str(step.kind)
        case "tool" | "gen_ai.tool.name":
            return step.tool
        case "provider":
            return plan.provider if plan is not None else step.provider
        case "model":
            return plan.model if plan is not None else step.model
        case "operation" | "gen_ai.operation.name":
            return step.operation
        case "agent" | "gen_ai.agent.name":
            return step.agent
        case "tenant":
            return step.tenant
        case "scope":
            return step.scope
    return step.who.get(key) or step.who.get(key.removeprefix("resource."))


def _like(wanted: str, told: str | None) -> bool:
    if told is None:
        return False
    return told.startswith(wanted[:-1]) if wanted.endswith("*") else told == wanted


def _identity(layers: tuple[Layer, ...]) -> str:
    digest = hashlib.sha256()
    for layer in layers:
        # Where a list lies is not what it says: the same prices are the same book on every machine.
        digest.update(_canonical(replace(layer, source="")).encode())
    return digest.hexdigest()


def _canonical(value: object) -> str:
    """Text that is equal where two compiled lists are: dataclasses by field, mappings and sets in key order."""
    if isinstance(value, str | int | bool) or value is None:
        return repr(value)
    if isinstance(value, Fraction):
        return f"{value.numerator}/{value.denominator}"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_canonical(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, frozenset):
        return "{" + ",".join(sorted(map(str, value))) + "}"
    if isinstance(value, Rate):
        return f"{value.femto}/{value.per}"
    if isinstance(value, tuple | list):
        return "(" + ",".join(map(_canonical, value)) + ")"
    fields = type(value).__slots__  # type: ignore[attr-defined]  # what is left are our own slotted dataclasses
    return "<" + ",".join(_canonical(getattr(value, name)) for name in fields) + ">"
