"""Outcome: what became of the work of a run, told by its own records, by a person, or by where work ends up."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Result(StrEnum):
    """What an outcome says of the work."""

    SUCCESS = "success"
    FAILURE = "failure"
    UNKNOWN = "unknown"


class Verdict(StrEnum):
    """Was a run worth its money?"""

    WORTH_IT = "worth_it"
    WASTE = "waste"
    UNKNOWN = "unknown"


@dataclass(slots=True, frozen=True, kw_only=True)
class Outcome:
    """One piece of news about finished work. It holds no text that a model or a judge has written.

    `keys` lead to runs: `trace:HEX`, `session:ID`, `response:ID`, `branch:NAME`, `commit:SHA`, `ticket:ID`
    (`core/outcomes.py` makes them on both sides). News with the same `id` replace each other, the latest stands.
    """

    id: str
    tenant: str
    name: str  # merged_pr, resolved_ticket, an evaluation's name
    value: Result
    at_ns: int
    source: str  # evaluation | attribute | event | github | api
    keys: tuple[str, ...]
    subject: str | None = None  # the thing it is about: org/repo#12
    label: str | None = None
    score: float | None = None
    url: str | None = None


@dataclass(slots=True, frozen=True)
class Judgement:
    """`outcome`: the result that decides, None while nobody has told any."""

    outcome: Result | None
    verdict: Verdict
    why: str


UNJUDGED: Final = Judgement(None, Verdict.UNKNOWN, "no outcome is known")
