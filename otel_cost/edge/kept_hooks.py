"""Hook calls in the journal: what a harness said, and between which events of telemetry it was taken in.

A harness waits milliseconds for its answer, so the call is written down after it,
with the next group commit; its place in the journal says nothing about its place
among the events, which the record names itself. Read again in those places, the
same calls meet the same state.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final, NamedTuple

from otel_cost.core.hooks import read_hook
from otel_cost.edge.journal import Record
from otel_cost.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from otel_cost.core.model.event import HookEvent

# The number is the format's: a reader skips what it does not know.
KIND: Final = "hook/1"


class Place(NamedTuple):
    """After which record's how many slices; no slices: in front of the record that stands at `position` or later."""

    position: int
    slices: int = 0


class KeptHook(NamedTuple):
    """A hook call as it was taken in."""

    place: Place
    order: int  # among those of one place
    event: HookEvent


def hook_record(event: HookEvent, place: Place) -> Record:
    """One line of facts, then the payload as it came."""
    facts = {"dialect": event.dialect, "position": place.position, "slices": place.slices}
    return Record(KIND, event.tenant, event.received_ns, json.dumps(facts).encode() + b"\n" + event.raw)


def read_kept(record: Record) -> KeptHook | None:
    """The call of a record; None: it is none, or this version has no reader for it."""
    if record.kind != KIND:
        return None
    line, _, body = record.payload.partition(b"\n")
    try:
        facts = json.loads(line)
        event = read_hook(facts["dialect"], body, record.received_ns, record.tenant)
        return KeptHook(Place(int(facts["position"]), int(facts["slices"])), record.position, event)
    except (ValueError, KeyError, TypeError, DecodeError):
        return None


def in_order(records: Iterable[Record]) -> list[KeptHook]:
    """The hook calls among records, in the order in which they were taken in."""
    return sorted(kept for record in records if (kept := read_kept(record)) is not None)
