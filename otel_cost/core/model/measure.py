"""Measure: what one data point of a usage metric counts, in the words of the field."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from otel_cost.core.model.vocabulary import Basis, Kind

Sender = tuple[str, ...]  # service.name, service.instance.id, host.name, process.pid; "" where it is not told


class Teller(NamedTuple):
    """Who told model calls one by one in an hour: metrics of that time that may be its own count nothing."""

    tenant: str
    sender: Sender
    hour: int
    in_session: bool  # each of the calls named its session


@dataclass(slots=True, frozen=True, kw_only=True)
class Measure:
    """One count of tokens, or of what the sender thinks they cost, for one model.

    `amount` is as told: what was added, or the total so far. `line` names the
    family of metrics it is one of; two families of one client tell the same twice.
    """

    dialect: str
    scope: str
    line: str
    part: str  # a field of `Counts`, or "cost"
    amount: int  # tokens; nano-USD for "cost"
    rank: int = 0  # which line speaks where several tell of one model: the lowest
    session: str | None = None
    kind: Kind = Kind.INFERENCE
    operation: str = "chat"
    provider: str | None = None
    requested_model: str | None = None
    response_model: str | None = None
    agent: str | None = None
    service_tier: str | None = None
    who: dict[str, str] = field(default_factory=dict)
    # How this sender counts.
    basis: Basis | None = None  # None: not known
    reasoning_outside: bool = False
    incomplete: bool = False  # it leaves out parts that have a price of their own, such as cached tokens
