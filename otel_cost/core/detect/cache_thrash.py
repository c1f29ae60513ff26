"""Cache thrash: a prompt whose beginning was cached is paid for in full again, call after call."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import Field

from otel_cost.core.detect import Detector, register
from otel_cost.core.detect._carried import paid_for
from otel_cost.core.detect._episode import COMPACTED, Episode, Settings
from otel_cost.core.model.vocabulary import Category, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from otel_cost.core.detect import Observed
    from otel_cost.core.model.charge import Charge
    from otel_cost.core.model.finding import Finding


class CacheThrash(Settings):
    """Calls that could have read most of their prompt from the cache and did not."""

    count: Annotated[int, Field(ge=2)] = 4
    """Such calls running that make it waste; one or two are a cache that expired or was warmed."""
    read: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of the last prompt below which too little was read from the cache."""
    min_tokens: Annotated[int, Field(ge=0)] = 4096
    """Prompts smaller than this are not worth a word, and mostly too small to be cached."""


@dataclass(slots=True)
class Prompt:
    """One model's last prompt and what its cache has shown so far."""

    tokens: int = 0
    cached: bool = False  # this model's cache was written or read at least once
    read: Charge | None = None  # the last one with tokens from the cache: it knows their price
    calls: int = 0
    episode: Episode = field(default_factory=lambda: Episode(honest=0))


@dataclass(slots=True)
class State:
    """One agent's prompts, by model."""

    prompts: dict[str, Prompt] = field(default_factory=dict)


_MODELS: Final = 4


def observe(state: State, seen: Observed, settings: CacheThrash) -> Iterable[Finding]:
    """Feed one call; yield when the cache was missed too often running, and when it is read again.

    Waste is the missed part at full price less its price from the cache; None until that is known.
    """
    step = seen.step
    usage = step.usage
    if usage is None or usage.cache_read is None or seen.failed:
        return ()
    model = step.model or ""
    prompt = state.prompts.get(model)
    if prompt is None:
        if len(state.prompts) == _MODELS:
            del state.prompts[next(iter(state.prompts))]
        prompt = state.prompts[model] = Prompt()
    last, prompt.tokens = prompt.tokens, usage.input
    cached, prompt.cached = prompt.cached, prompt.cached or bool(usage.cache_read or usage.cache_write)
    prompt.calls += 1
    if usage.cache_read:
        prompt.read = seen.charge
    grown_from_last = last >= settings.min_tokens and usage.input >= COMPACTED * last
    if not cached or not grown_from_last or usage.cache_read >= settings.read * last:
        if not prompt.episode.repeats:
            return ()
        over, prompt.episode = prompt.episode, Episode(honest=0)
        return (_finding(over, step.span_id, model, settings),) if over.firing else ()
    wasted = _overpaid(prompt, seen, min(last, usage.input) - usage.cache_read)
    prompt.episode.add(step.span_id, wasted, prompt.calls)
    if prompt.episode.due(settings.count):
        return (_finding(prompt.episode, step.span_id, model, settings),)
    return ()


def _overpaid(prompt: Prompt, seen: Observed, missed: int) -> int | None:
    """What `missed` tokens cost beyond their price from the cache [nano-USD]; None while that is not known."""
    paid, read = paid_for(seen.charge), paid_for(prompt.read)
    if paid is None or read is None or not paid.rest or not read.cached:
        return None
    return max(0, int(missed * (Fraction(paid.rest_nano, paid.rest) - Fraction(read.cached_nano, read.cached))))


def _finding(episode: Episode, at_span_id: bytes, model: str, settings: CacheThrash) -> Finding:
    return episode.finding(
        DETECTOR.name,
        at_span_id,
        shape=f"cache:{model}",
        summary=f"{episode.repeats} calls paid in full for a prompt that was cached",
        evidence={"model": model},
        count=settings.count,
    )


DETECTOR = Detector(
    name="cache_thrash",
    category=Category.WASTE,
    settings=CacheThrash,
    state=State,
    observe=observe,
    kinds=frozenset({Kind.INFERENCE}),
    recorded=True,
)
register(DETECTOR)
