"""Our attributes on a span or log record: status, cost, loop, decision and sums, in the namespace `otel_cost.`.

Every function returns encoded attribute fields to append to the record; they
combine by plain concatenation. What is not known has no key: a 0 would read as free.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

from otel_cost.core.enrich.keyvalue import (
    TAGS,
    double_bytes,
    double_field,
    double_prefix,
    int_field,
    text_field,
    text_prefixes,
)
from otel_cost.core.model.charge import shares_of
from otel_cost.core.model.effects import Signal
from otel_cost.core.model.money import NANO_PER_USD, nano_to_float, nano_to_text

if TYPE_CHECKING:
    from fractions import Fraction

    from otel_cost.core.model.call import Call
    from otel_cost.core.model.vocabulary import Basis, Reason, Status

PARTS: Final = ("input", "cache_read", "cache_write", "output", "reasoning", "fee")

_SPAN_TAG: Final = TAGS[Signal.TRACES]
_LOG_TAG: Final = TAGS[Signal.LOGS]
_AMOUNT_SIZE: Final = 48  # characters of any amount that fits a 64-bit count of nano-dollars, and room
_USD: Final = {tag: double_prefix(tag, "otel_cost.usd") for tag in TAGS.values()}
_EXACT: Final = {tag: text_prefixes(tag, "otel_cost.usd_exact", _AMOUNT_SIZE) for tag in TAGS.values()}
_PART_USD: Final = {tag: {part: double_prefix(tag, f"otel_cost.{part}_usd") for part in PARTS} for tag in TAGS.values()}


def call_attributes(call: Call, run_id: str, signal: Signal = Signal.TRACES) -> bytes:
    """Status and cost of the call that a record speaks for.

    Doubles [USD] for dashboards; `otel_cost.usd_exact` is the charge as it enters
    every total, rounded once to nano-dollars.
    """
    tag = _LOG_TAG if signal is Signal.LOGS else _SPAN_TAG  # hashing an enum member costs more than all of this line
    charge = call.charge
    status = _status(tag, charge.status, charge.reason)
    book = _priced_by(tag, charge.basis, charge.price_book)
    run = _run(tag, run_id)
    nano = charge.nano
    if nano is None:
        return status + book + run
    amount = nano_to_text(nano).encode()
    fields = [status, book, run, _USD[tag], double_bytes(nano / NANO_PER_USD), _EXACT[tag][len(amount)], amount]
    parts: dict[str, int] = {}
    for tariff, _, share in shares_of(charge.items):
        part = tariff.part
        parts[part] = parts.get(part, 0) + share
    prefixes = _PART_USD[tag]
    for part, part_nano in parts.items():
        prefix = prefixes.get(part)
        if prefix is not None:  # a part outside the contract is in the total, without a key of its own
            fields += (prefix, double_bytes(part_nano / NANO_PER_USD))
    return b"".join(fields)


def step_attributes(status: Status, run_id: str, signal: Signal = Signal.TRACES) -> bytes:
    """A record that is no call of its own: a roll-up, or a second telling of a call (`duplicate`)."""
    return _status(TAGS[signal], status, None) + run_attributes(run_id, signal)


def run_attributes(run_id: str, signal: Signal = Signal.TRACES) -> bytes:
    """The run of a record of which nothing else is known."""
    return _run(TAGS[signal], run_id)


def loop_attributes(kind: str, loop_id: str, iteration: int, signal: Signal = Signal.TRACES) -> bytes:
    """A record that is part of a loop; `iteration` counts from 1."""
    tag = TAGS[signal]
    return (
        text_field(tag, "otel_cost.loop.kind", kind)
        + text_field(tag, "otel_cost.loop.id", loop_id)
        + int_field(tag, "otel_cost.loop.iteration", iteration)
    )


def decision_attributes(decision: str, rule: str, signal: Signal = Signal.TRACES) -> bytes:
    """What was decided about a record's call, and the rule that decided."""
    tag = TAGS[signal]
    return text_field(tag, "otel_cost.decision", decision) + text_field(tag, "otel_cost.rule", rule)


def trace_attributes(
    nano: int | None, wasted_nano: int | None, llm_calls: int, signal: Signal = Signal.TRACES
) -> bytes:
    """Sums of a trace for its local root, as known when it left."""
    tag = TAGS[signal]
    return (
        _usd(tag, "otel_cost.trace.usd", nano)
        + _usd(tag, "otel_cost.trace.wasted_usd", wasted_nano)
        + int_field(tag, "otel_cost.trace.llm_calls", llm_calls)
    )


def sample_rate_attribute(rate: Fraction) -> bytes:
    """On spans of a sampled trace: so many traces each one stands for."""
    return double_field(_SPAN_TAG, "otel_cost.sample_rate", float(rate))


def subtree_attributes(nano: int | None, signal: Signal = Signal.TRACES) -> bytes:
    """Cost of everything below an agent, itself included; empty where nothing of it is priced."""
    return _usd(TAGS[signal], "otel_cost.subtree.usd", nano)


def _usd(tag: bytes, key: str, nano: int | None) -> bytes:
    return b"" if nano is None else double_field(tag, key, nano_to_float(nano))


@lru_cache(maxsize=8192)  # the calls of one run come close together
def _run(tag: bytes, run_id: str) -> bytes:
    return text_field(tag, "otel_cost.run.id", run_id)


@lru_cache(maxsize=256)
def _status(tag: bytes, status: Status, reason: Reason | None) -> bytes:
    field = text_field(tag, "otel_cost.status", status)
    return field if reason is None else field + text_field(tag, "otel_cost.reason", reason)


@lru_cache(maxsize=256)
def _priced_by(tag: bytes, basis: Basis, price_book: str) -> bytes:
    field = text_field(tag, "otel_cost.usage.basis", basis)
    return field + text_field(tag, "otel_cost.price_book", price_book) if price_book else field
