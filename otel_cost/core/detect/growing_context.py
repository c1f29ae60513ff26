"""Growing context: every call re-sends more of what was said before, and pays for it again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import Field

from otel_cost.core.detect import Detector, register
from otel_cost.core.detect._carried import carried_nano
from otel_cost.core.detect._episode import COMPACTED, Settings
from otel_cost.core.model.finding import Burnt, Finding
from otel_cost.core.model.vocabulary import Category, Kind, Severity

if TYPE_CHECKING:
    from collections.abc import Iterable

    from otel_cost.core.detect import Observed
    from otel_cost.core.model.charge import Charge
    from otel_cost.core.model.usage import Usage


class GrowingContext(Settings):
    """Input tokens rise call after call without a compaction."""

    turns: Annotated[int, Field(ge=2)] = 8
    """Model calls running whose input is larger than that of the call before."""
    factor: Annotated[float, Field(gt=1)] = 3.0
    """How many times the input at the start of the growth it must have become."""
    min_tokens: Annotated[int, Field(ge=0)] = 20_000
    """Input tokens below which growth is not worth a word."""
    window_tokens: Annotated[int, Field(gt=0)] = 200_000
    """Context window of the model [tokens]; from half of it on the finding is a warning, before it a notice."""


@dataclass(slots=True)
class Growth:
    """One model's calls since its context was last small."""

    first: Usage
    last: Usage
    span_ids: list[bytes]
    rises: int = 0
    carried: int = 0  # tokens beyond the first call's input that were sent again, summed over the calls
    wasted: int | None = 0  # nano-USD for those, as far as it was added up
    unpaid: list[tuple[Charge | None, int]] = field(default_factory=list)  # what was not, and the tokens sent again
    told: Severity | None = None

    def spent(self) -> int | None:
        """What the tokens sent again have cost [nano-USD]."""
        for charge, again in self.unpaid:
            nano = carried_nano(charge, again)
            self.wasted = None if nano is None or self.wasted is None else self.wasted + nano
        self.unpaid.clear()
        return self.wasted

    def now(self) -> Burnt:
        return Burnt(self.spent(), tuple(self.span_ids), self.rises)


@dataclass(slots=True)
class State:
    """One agent's growths, by model: a small model called on the side does not end the large one's."""

    growths: dict[str, Growth] = field(default_factory=dict)


_MODELS: Final = 4
_SPANS: Final = 64


def observe(state: State, seen: Observed, settings: GrowingContext) -> Iterable[Finding]:
    """Feed one call; yield when the context has grown for long, when it fills half its window, when it has shrunk.

    Waste is what the tokens beyond the first call's input cost each time they were sent again,
    at the cached price where they were read from a cache.
    """
    step = seen.step
    usage = step.usage
    if usage is None or seen.failed:
        return ()
    model = step.model or ""
    growth = state.growths.get(model)
    if growth is None or usage.input <= growth.last.input:
        if growth is not None and usage.input > COMPACTED * growth.last.input:
            return ()  # a thought dropped or a call on the side; the context is still there
        if growth is None and len(state.growths) == _MODELS:
            del state.growths[next(iter(state.growths))]
        state.growths[model] = Growth(usage, usage, [step.span_id])
        if growth is None or growth.told is None:
            return ()
        return (_finding(growth, step.span_id, model, growth.told, "resolved"),)
    again = growth.last.input - growth.first.input
    growth.carried += again
    growth.unpaid.append((seen.charge, again))
    if len(growth.unpaid) == _SPANS:
        growth.spent()
    growth.rises += 1
    growth.last = usage
    if len(growth.span_ids) < _SPANS:
        growth.span_ids.append(step.span_id)
    severity = Severity.WARNING if 2 * usage.input >= settings.window_tokens else Severity.NOTICE
    long = growth.rises >= settings.turns and usage.input >= max(
        settings.min_tokens, settings.factor * growth.first.input
    )
    if not long or growth.told in {severity, Severity.WARNING}:
        return ()
    growth.told = severity
    return (_finding(growth, step.span_id, model, severity, "firing"),)


def _finding(growth: Growth, at_span_id: bytes, model: str, severity: Severity, state: str) -> Finding:
    first, last = growth.first, growth.last
    return Finding(
        detector=DETECTOR.name,
        span_ids=tuple(growth.span_ids),
        onset_span_id=growth.span_ids[1],
        at_span_id=at_span_id,
        wasted_nano=growth.spent(),
        shape=f"context:{model}",
        summary=f"input grew from {first.input} to {last.input} tokens over {growth.rises + 1} calls",
        severity=severity,
        evidence={
            "model": model,
            "first_input_tokens": first.input,
            "last_input_tokens": last.input,
            "rises": growth.rises,
            "carried_tokens": growth.carried,
            "first_cached_percent": _cached_percent(first),
            "last_cached_percent": _cached_percent(last),
        },
        state=state,
        live=growth,
    )


def _cached_percent(usage: Usage) -> int | None:
    return None if usage.cache_read is None or not usage.input else 100 * usage.cache_read // usage.input


DETECTOR = Detector(
    name="growing_context",
    category=Category.WASTE,
    settings=GrowingContext,
    state=State,
    observe=observe,
    kinds=frozenset({Kind.INFERENCE}),
    recorded=True,
)
register(DETECTOR)
