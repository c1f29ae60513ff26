"""Episodes: repeats that belong together, what their turns cost, and when they are over."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, ConfigDict

from otel_cost.core.model.finding import Burnt, Finding
from otel_cost.core.model.vocabulary import Severity

if TYPE_CHECKING:
    from otel_cost.core.detect._traits import Traits

# A tool call further back than this has nothing to do with the present one.
WINDOW: Final = 20
# So many calls that bring something new end an episode: one lucky call does not.
CALM: Final = 3
# A prompt below this share of the last one was compacted, or a new conversation was begun.
COMPACTED: Final = 0.7
_NOTABLE: Final = 3
_SPANS: Final = 64
_NAMES: Final = 8
# What a schema calls its arguments. Of a tool that takes any keys, only those that look like names are told.
_NAME: Final = re.compile(r"[A-Za-z_][\w.-]{0,39}")


_LOUDNESS: Final = {severity: place for place, severity in enumerate(Severity)}


def loudness(severity: Severity) -> int:
    return _LOUDNESS[severity]


class Settings(BaseModel):
    """What a rule may set under `with:`; a key that a detector does not know is a mistake."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(slots=True)
class Episode:
    """Calls that belong to one loop. The first `honest` ones are work; waste begins after them, with the onset."""

    honest: int = 1
    spans: list[bytes] = field(default_factory=list)
    repeats: int = 0  # calls so far, the honest ones included
    wasted: int | None = 0  # nano-USD of every turn from the onset on
    last: int = 0  # index of the last tool call that belongs here
    quiet: int = 0  # calls that brought something new since then
    told: Severity | None = None  # how loud it was told of
    early: bool = False  # that was before its time
    named: dict[str, int] | None = None  # the first call's arguments, as hashes by name
    varying: set[str] = field(default_factory=set)  # names of those that a later call changed

    @property
    def firing(self) -> bool:
        return self.told is not None

    def is_news(self, severity: Severity) -> bool:
        """Was it not yet told of as loud as this?"""
        return self.told is None or self.early or loudness(self.told) < loudness(severity)

    def due(self, count: int) -> bool:
        """Is there something to tell? In earnest from `count` repeats on, a notice one short of it.

        Two of a kind are not worth a notice: one retry is healthy.
        """
        if self.repeats >= count:
            return self.told is None or self.early
        return self.told is None and self.repeats == count - 1 >= _NOTABLE

    def add(self, span_id: bytes, cost: int | None, at: int, traits: Traits | None = None) -> None:
        """Take a call in. Beyond the first few dozens of spans only the last one is kept."""
        if self.repeats >= self.honest:
            self.spend(cost)
        self.repeats += 1
        if len(self.spans) < _SPANS:
            self.spans.append(span_id)
        else:
            self.spans[-1] = span_id
        self.last, self.quiet = at, 0
        if traits is not None and traits.named:
            if self.named is None:
                self.named = dict(traits.named)
            elif len(self.varying) < _NAMES:
                self.varying |= {name for name, _ in dict(traits.named).items() ^ self.named.items()}

    def spend(self, cost: int | None) -> None:
        self.wasted = None if cost is None or self.wasted is None else self.wasted + cost

    def finding(
        self,
        detector: str,
        at_span_id: bytes,
        shape: str,
        summary: str,
        evidence: dict[str, str | int | None],
        severity: Severity | None = None,
        count: int = 0,
    ) -> Finding:
        """The episode as of now: firing, firing again if it has become louder, else its end.

        With fewer than `count` repeats it is told of before its time.
        """
        early = self.repeats < count
        if early:
            severity = Severity.NOTICE
        elif severity is None:
            severity = Severity.WARNING if self.told is None or self.early else self.told
        state = "firing" if self.told is None or (not early and self.is_news(severity)) else "resolved"
        self.told, self.early = severity, early
        wasteful = self.repeats - self.honest
        return Finding(
            detector=detector,
            span_ids=tuple(self.spans),
            onset_span_id=self.spans[min(self.honest, len(self.spans) - 1)],
            at_span_id=at_span_id,
            wasted_nano=self.wasted,
            shape=shape,
            summary=summary,
            severity=severity,
            evidence={
                "repeats": self.repeats,
                "per_turn_nano": None if self.wasted is None or wasteful <= 0 else self.wasted // wasteful,
                **({"varying": ", ".join(sorted(filter(_NAME.fullmatch, self.varying)))} if self.varying else {}),
                **evidence,
            },
            state=state,
            early=early,
            live=self,
        )

    def now(self) -> Burnt:
        return Burnt(self.wasted, tuple(self.spans), self.repeats)
