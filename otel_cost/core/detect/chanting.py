"""Chanting: a model says the same words over and over until its output limit stops it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from otel_cost.core.detect import Detector, register
from otel_cost.core.detect._episode import Settings
from otel_cost.core.detect._signs import CHANTS
from otel_cost.core.detect._traits import traits_of
from otel_cost.core.model.finding import Finding
from otel_cost.core.model.vocabulary import MODEL_KINDS, Category, Severity

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from otel_cost.core.detect import Observed


class Chanting(Settings):
    """One piece of 50 characters, repeated within one answer."""

    count: Annotated[int, Field(ge=3)] = 10
    """Times that the piece occurs. Code, tables and lists repeat shorter pieces."""


@dataclass(slots=True)
class State:
    """An episode is one answer; nothing is kept."""


def observe(state: State, seen: Observed, settings: Chanting) -> Iterable[Finding]:  # noqa: ARG001  the contract's shape
    """Feed one call; yield for each answer that chants. Needs the answer's text."""
    times = traits_of(seen).chant
    return _chanted(seen, times) if times >= settings.count else ()


def _chanted(seen: Observed, times: int) -> Iterator[Finding]:
    step = seen.step
    model = step.model or "the model"
    yield Finding(
        detector=DETECTOR.name,
        span_ids=(step.span_id,),
        onset_span_id=step.span_id,
        at_span_id=step.span_id,
        wasted_nano=seen.nano,
        shape=f"chant:{model}",
        summary=f"{model} said the same piece of text {times} times in one answer",
        severity=Severity.WARNING,
        evidence={
            "model": model,
            "times": times,
            "output_tokens": None if step.usage is None else step.usage.output,
        },
    )


DETECTOR = Detector(
    name="chanting",
    category=Category.LOOP,
    settings=Chanting,
    state=State,
    observe=observe,
    kinds=MODEL_KINDS,
    wakes=CHANTS,
)
register(DETECTOR)
