"""Step: one event in the words of the field, whatever dialect told it.

A dialect turns an event into a step (or into nothing); from there on no stage
knows dialects. One thing that happened may be told by several steps (SDK span,
framework span, log record, hook): `assemble` joins them to one `Call`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from otel_cost.core.model.vocabulary import Basis, Flag, Kind, Reason, Source

if TYPE_CHECKING:
    from otel_cost.core.model.usage import Usage


NEAR = "near:"
_MINUTE_NS = 60_000_000_000
_BORDER_NS = 5_000_000_000


def near_hints(tool: str | None, end_ns: int) -> tuple[str, ...]:
    """What two records of one tool call share where only one of them has its id: the tool and the minute.

    Close to the end of a minute it is both minutes: clocks differ, and records are written one after the other.
    """
    minutes = {(end_ns + shift) // _MINUTE_NS for shift in (-_BORDER_NS, 0, _BORDER_NS)}
    return tuple(f"{NEAR}{tool}:{minute}" for minute in sorted(minutes))


@dataclass(slots=True, frozen=True, kw_only=True)
class Terms:
    """On which terms a model call was served: what changes its price besides model and tokens."""

    service_tier: str | None = None  # as SERVED (default, flex, priority, batch …); asked only if not told
    processing: str | None = None  # "batch"
    speed: str | None = None  # "fast"
    inference_geo: str | None = None  # "us"
    units: tuple[tuple[str, int], ...] = ()  # ("web_search", 3): per-use fees inside the call


STANDARD_TERMS = Terms()


@dataclass(slots=True, eq=False)
class Step:
    """What one span, log record or hook call says.

    Text of prompts, arguments and results (`arguments`, `result`,
    `error_message`, `output_text`) is there while the step goes through the
    detectors and is dropped right after (`forget_content`); what is kept are hashes and shapes.
    """

    source: Source
    dialect: str
    scope: str  # name of the instrumentation scope: one "voice"
    kind: Kind
    tenant: str = "default"
    trace_id: bytes = b""  # empty: the record has none, its session joins it to a run
    span_id: bytes = b""
    parent_id: bytes = b""
    name: str = ""
    start_ns: int = 0
    end_ns: int = 0

    # What it is
    operation: str | None = None  # gen_ai.operation.name, or the name it would have
    rollup: bool = False  # its usage sums up other calls (agent, workflow, outer SDK span, turn)
    calls_tools: bool = False  # runs tools inside itself and tells its last request's usage: a tool below proves a loss
    partial: bool = False  # part of another step's record; a call of its own only if that one never comes
    provider: str | None = None  # as sent; the price book knows its aliases
    requested_model: str | None = None
    response_model: str | None = None

    # What joins it to other records
    session: str | None = None  # conversation/session/thread id: traces with one are one run
    ids: tuple[str, ...] = ()  # "response:…", "request:…", "tool_call:…": equal id = the same call, always
    hints: tuple[str, ...] = ()  # equal hint = maybe the same call: matched one-to-one between voices, nearest in time

    # Money
    usage: Usage | None = None
    basis: Basis = Basis.UNKNOWN
    problem: Reason | None = None  # why usage cannot be used: negative_tokens, inconsistent_usage; None: fine or absent
    terms: Terms = STANDARD_TERMS
    reported_nano: int | None = None  # the sender's own figure, nano-USD; 0 is never a report, so never stored
    reported_by_provider: bool = False  # the figure comes from the provider's own response: it wins
    attempts: int = 1  # tries that this one record names
    flags: frozenset[Flag] = frozenset()

    # Outcome
    failed: bool = False
    failed_ways: tuple[str, ...] = ()  # names that its sender gives the failure: tests_failed …
    output_begun: bool = False  # a failed stream that had begun is a hole, not a failed call
    error_type: str | None = None
    error_message: str | None = None  # content
    status_code: int | None = None  # HTTP status told

    # Who
    agent: str | None = None  # the agent this step belongs to, or is (kind agent)
    agent_id: str | None = None
    who: dict[str, str] = field(default_factory=dict)  # user, team, org, api_key, project, workflow, environment…

    # Tool
    tool: str | None = None
    tool_call_id: str | None = None
    arguments: str | None = None  # content: as text, JSON where the sender gave a structure
    result: str | None = None  # content
    result_size: int | None = None  # characters or tokens told, where the content is not
    likeness: str | None = None  # keyed hash of the arguments, once those are forgotten

    # Model content
    output_text: str | None = None  # content
    finish_reasons: tuple[str, ...] = ()

    def forget_content(self) -> None:
        """Drop what only detectors may see; of a tool's arguments stays what tells whether two calls are alike."""
        if self.arguments is not None and self.likeness is None:
            self.likeness = blake2b(self.arguments.encode("utf-8", "replace"), digest_size=8, key=_KEY).hexdigest()
        self.error_message = self.arguments = self.result = self.output_text = None

    @property
    def model(self) -> str | None:
        """The model that answered, else the one asked for."""
        return self.response_model or self.requested_model


# Keeps a reader of the ledger from testing guesses against a hash.
_KEY: Final = b"otel-cost"
