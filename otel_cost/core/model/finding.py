"""Finding and alert: what a detector saw, and what the world is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Protocol

    from otel_cost.core.model.vocabulary import Category, Severity

    class Live(Protocol):
        """An episode that goes on after it was told of."""

        def now(self) -> Burnt: ...


@dataclass(slots=True, frozen=True)
class Burnt:
    """What an episode has come to."""

    wasted_nano: int | None
    span_ids: tuple[bytes, ...]  # in event order; of very many the first few dozens and the last
    repeats: int


@dataclass(slots=True, frozen=True, kw_only=True)
class Finding:
    """One episode of a loop or waste, as a detector sees it when it fires. Numbers and names only, no content."""

    detector: str
    span_ids: tuple[bytes, ...]  # in event order
    onset_span_id: bytes  # the first call that brought nothing
    at_span_id: bytes  # the event that made it fire
    wasted_nano: int | None  # None: some of the wasted calls have no price
    shape: str  # stable across runs: what makes two episodes "the same again"
    summary: str
    severity: Severity
    evidence: dict[str, str | int | None] = field(default_factory=dict)
    state: str = "firing"  # firing | resolved
    early: bool = False  # a notice before its time: not enough to act on, or to call it waste
    live: Live | None = field(default=None, compare=False, repr=False)  # None: it is over with this finding


@dataclass(slots=True, frozen=True, kw_only=True)
class Alert:
    """What leaves the house, in the words of contract section 2.2; the same facts go to every sink.

    `fingerprint` = hash of tenant, rule and scope key; `fingerprint` and `seq`
    (the episode's number) together are the id, so a replay says the same thing.
    """

    id: str
    tenant: str
    run_id: str
    trace_id: bytes
    rule: str
    category: Category
    kind: str  # the detector or condition: repeated_error, growing_context, unknown_price …
    state: str  # firing | resolved
    seq: int
    severity: Severity
    span_ids: tuple[bytes, ...]
    onset_span_id: bytes
    at_span_id: bytes
    at_ns: int
    wasted_nano: int | None
    action: str  # the verbs the rule asks for, strictest first, e.g. "deny"; "" = tell only
    summary: str
    fingerprint: str
    evidence: dict[str, object] = field(default_factory=dict)
