"""Fallback escalation: after an error, or behind the caller's back, another and dearer model answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import Field

from otel_cost.core.detect import Detector, register
from otel_cost.core.detect._episode import Settings
from otel_cost.core.detect._signs import MODEL
from otel_cost.core.model.finding import Finding
from otel_cost.core.model.vocabulary import Category, Kind, Severity

if TYPE_CHECKING:
    from collections.abc import Iterable

    from otel_cost.core.detect import Observed


class FallbackEscalation(Settings):
    """A model other than the one asked for (or tried first) does the work."""

    factor: Annotated[float, Field(gt=1)] = 3.0
    """Price per token, against the model that was meant, from which on the finding is a warning; else a notice."""
    planned: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of an agent's calls from which on the same change is a planned router, not a fallback."""


@dataclass(slots=True)
class State:
    """One agent's models: what they cost per token, which call failed last, which changes were seen."""

    calls: int = 0
    failed: tuple[str, bytes] | None = None  # model and span of the last failed call of this turn
    prices: dict[str, tuple[int, int]] = field(default_factory=dict)  # model → nano-USD, tokens
    changes: dict[tuple[str, str], int] = field(default_factory=dict)


_MODELS: Final = 16
_ROUTER_CALLS: Final = 4


def observe(state: State, seen: Observed, settings: FallbackEscalation) -> Iterable[Finding]:
    """Feed one call; yield once per pair of models. `wasted` is the difference to the meant model's price per token.

    It is None while that price is not known from an earlier call of the agent.
    """
    step = seen.step
    if step.kind is Kind.TOOL:
        state.failed = None  # the turn is over
        return ()
    if seen.failed:
        if step.requested_model and state.failed is None:
            state.failed = (step.requested_model, step.span_id)
        return ()
    state.calls += 1
    meant, first = state.failed or (step.requested_model or "", step.span_id)
    state.failed = None
    model = step.response_model or step.requested_model or ""
    tokens = 0 if step.usage is None else step.usage.input + step.usage.output
    told: tuple[Finding, ...] = ()
    if meant and model and meant != model and not _same(meant, model):
        change = (meant, model)
        seen_before = state.changes.get(change, 0)
        if seen_before or len(state.changes) < _MODELS:
            state.changes[change] = seen_before + 1
        routed = state.calls >= _ROUTER_CALLS and seen_before >= settings.planned * state.calls
        if not seen_before and not routed:
            told = (_finding(state, seen, change, first, tokens, settings),)
    if seen.nano is not None and tokens and (model in state.prices or len(state.prices) < _MODELS):
        nano, before = state.prices.get(model, (0, 0))
        state.prices[model] = (nano + seen.nano, before + tokens)
    return told


@lru_cache(maxsize=1024)
def _same(meant: str, model: str) -> bool:
    """`gpt-5-mini` and `gpt-5-mini-2025-08-07` are one model, as are `openai/gpt-5` and `gpt-5`."""
    one, two = sorted((meant.rsplit("/", 1)[-1].lower(), model.rsplit("/", 1)[-1].lower()), key=len)
    rest = two[len(one) :]
    return two.startswith(one) and (not rest or not rest.strip("-@:_.0123456789v") or rest in {"-latest", ":latest"})


def _finding(
    state: State, seen: Observed, change: tuple[str, str], first: bytes, tokens: int, settings: FallbackEscalation
) -> Finding:
    meant, model = change
    step = seen.step
    known = next((price for name, price in state.prices.items() if _same(meant, name)), None)
    wasted: int | None = None
    factor: Fraction | None = None
    if known is not None and known[0] and seen.nano is not None and tokens:
        factor = Fraction(seen.nano * known[1], known[0] * tokens)
        wasted = max(0, seen.nano - known[0] * tokens // known[1])
    dear = factor is not None and factor > settings.factor
    return Finding(
        detector=DETECTOR.name,
        span_ids=(first, step.span_id) if first != step.span_id else (step.span_id,),
        onset_span_id=step.span_id,
        at_span_id=step.span_id,
        wasted_nano=wasted,
        shape=f"{meant}→{model}",
        summary=f"{model} answered for {meant}",
        severity=Severity.WARNING if dear else Severity.NOTICE,
        evidence={
            "meant_model": meant,
            "model": model,
            "after": "error" if first != step.span_id else "request",
            "price_percent": None if factor is None else int(100 * factor),
        },
    )


DETECTOR = Detector(
    name="fallback_escalation",
    category=Category.WASTE,
    settings=FallbackEscalation,
    state=State,
    observe=observe,
    kinds=frozenset({Kind.INFERENCE, Kind.TOOL}),
    recorded=True,
    wakes=MODEL,
    busy=lambda state: state.failed is not None,
)
register(DETECTOR)
