"""Snapshot: a run put to sleep as bytes and woken by a late span, with its charges as they were.

MessagePack, compressed: data only, no code in it. Content (prompts, arguments,
results) is not part of it. A woken run keeps the price each call was told; only
a call that a late record touches is priced anew.
"""

from __future__ import annotations

import zlib
from array import array
from dataclasses import fields
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

import ormsgpack

from otel_cost.core.assemble.meter import Meter
from otel_cost.core.assemble.run import Run
from otel_cost.core.model.charge import Charge, Item
from otel_cost.core.model.money import Rate
from otel_cost.core.model.step import STANDARD_TERMS, Step, Terms
from otel_cost.core.model.usage import Usage
from otel_cost.core.model.vocabulary import Basis, Flag, Kind, Reason, Source, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

VERSION: Final = 2  # 1 had a row for each step, with the name of every field once in `fields`
_CONTENT: Final = frozenset({"arguments", "result", "error_message", "output_text"})
_STEP_FIELDS: Final = tuple(field.name for field in fields(Step) if field.name not in _CONTENT)
_STEP_VALUES: Final = attrgetter(*_STEP_FIELDS)
_WORDS: Final = {"source": Source, "kind": Kind, "basis": Basis, "problem": Reason}


def freeze(run: Run) -> bytes:
    """A run as bytes; `thaw` is its inverse."""
    number = {id(step): index for index, step in enumerate(run.steps)}
    spans = {(step.trace_id, step.span_id): index for index, step in enumerate(run.steps) if step.span_id}
    state = {
        "version": VERSION,
        "tenant": run.tenant,
        "active_ns": run.active_ns,
        "sessions": sorted(run.sessions),
        "wasted": run.wasted,
        "told": run.told,
        "carrier": run.carrier,
        "meter": None if run.meter is None else run.meter.state(),
        "sender": run.sender,
        "joins": sorted(run.joins),
        "shapes": run.shapes,
        "traces": {trace.id.hex(): trace.parents.words().tobytes() for trace in run.traces.values()},
        **_columns(run),
        "calls": [
            {
                "id": call.id,
                # A lone roll-up speaks through a copy of its step: found by its span.
                "steps": []
                if call.step.source is Source.METRIC
                else sorted(number.get(id(s), spans.get((s.trace_id, s.span_id), -1)) for s in call.steps),
                "charge": _charge(call.charge),
            }
            for call in run.calls.values()
        ],
    }
    return zlib.compress(ormsgpack.packb(state, _plain, ormsgpack.OPT_PASSTHROUGH_DATACLASS), 1)


def thaw(frozen: bytes, charge: Callable[[Step], Charge], position: int) -> Run:
    """The run of a snapshot, as it was: same calls, same charges, nothing pending.

    Raises:
        ValueError: the snapshot is of a version this program does not know.
    """
    state = ormsgpack.unpackb(zlib.decompress(frozen))
    if state["version"] not in {1, VERSION}:
        message = f"snapshot version {state['version']} is not {VERSION}"
        raise ValueError(message)
    run = Run(state["tenant"], charge, position, active_ns=state["active_ns"])
    run.sessions.update(state["sessions"])
    run.sender = state.get("sender", "")
    run.joins.update(state.get("joins", ()))
    run.shapes.update(state.get("shapes", {}))
    if (meter := state.get("meter")) is not None:
        run.meter = Meter.of_state(meter)
    for trace_id, packed in state["traces"].items():
        words = array("Q", packed)
        trace = run.trace(bytes.fromhex(trace_id))
        for span, parent in zip(words[::2], words[1::2], strict=True):
            trace.parents.put(span.to_bytes(8, "big"), parent.to_bytes(8, "big") if parent else b"")
    steps = [_step_back(said) for said in _rows(state)]
    for step in steps:
        if step.span_id:
            trace = run.trace(step.trace_id)
            if step.span_id not in trace.steps:
                trace.retold(step.span_id, step)
    for step in steps:
        run.add_step(step)
    run.finish()
    index = {step: number for number, step in enumerate(run.steps)}
    spans = {(step.trace_id, step.span_id): number for number, step in enumerate(run.steps) if step.span_id}
    # What metrics tell has no steps of its own, and an id that does not change.
    before = {tuple(call["steps"]) if call["steps"] else call["id"]: call for call in state["calls"]}
    for call in list(run.calls.values()):
        members = tuple(sorted(index.get(s, spans.get((s.trace_id, s.span_id), -1)) for s in call.steps))
        was = before.get(call.id if call.step.source is Source.METRIC else members)
        if was is not None:
            trace = run.trace(call.trace_id)
            run.calls.pop(call.id)
            trace.calls.pop(call.id)
            call.id, call.charge = was["id"], _charge_back(was["charge"])
            run.calls[call.id] = trace.calls[call.id] = call
    run.wasted.update(state["wasted"])
    run.told.update(state["told"])
    run.carrier.update(state["carrier"])
    run.moved.update(run.calls)
    run.changes.clear()
    run.moves.clear()
    return run


def _columns(run: Run) -> dict[str, object]:
    """The steps field by field: nearly every field is the same in all steps of a run, and told once."""
    steps = run.steps
    columns = zip(_STEP_FIELDS, zip(*map(_STEP_VALUES, steps), strict=True), strict=True) if steps else ()
    same: dict[str, object] = {}
    told: dict[str, object] = {}
    for name, values in columns:
        first = values[0]
        if values.count(first) == len(values):
            same[name] = first
        else:
            told[name] = values
    return {"count": len(steps), "same": same, "columns": told}


def _rows(state: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The steps of a snapshot, each as its fields."""
    if state["version"] == 1:
        for values in state["steps"]:
            yield dict(zip(state["fields"], values, strict=True))
        return
    columns = state["columns"]
    for index in range(state["count"]):
        yield state["same"] | {name: values[index] for name, values in columns.items()}


def _plain(value: object) -> object:
    """What MessagePack has no form for."""
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, (Usage, Terms)):
        return _told(value)
    raise TypeError(f"{type(value).__name__} in a snapshot")


def _told(value: Usage | Terms) -> dict[str, object]:
    if value is STANDARD_TERMS:
        return {}
    return {name: item for name in value.__slots__ if (item := getattr(value, name)) is not None and item != ()}


def _step_back(said: dict[str, Any]) -> Step:
    for name, word in _WORDS.items():
        if said[name] is not None:
            said[name] = word(said[name])
    for name in ("ids", "hints", "finish_reasons", "failed_ways"):
        said[name] = tuple(said.get(name, ()))  # of an older version, too
    said["flags"] = frozenset(map(Flag, said["flags"]))
    if said["usage"] is not None:
        said["usage"] = Usage(**said["usage"])
    terms = said["terms"]
    said["terms"] = Terms(**terms | {"units": tuple((unit, count) for unit, count in terms.get("units", ()))})
    return Step(**said)


def _charge(charge: Charge) -> dict[str, object]:
    return {
        "status": charge.status,
        "reason": charge.reason,
        "nano": charge.nano,
        "basis": charge.basis,
        "flags": sorted(charge.flags),
        "price_book": charge.price_book,
        "usage": _told(charge.usage) if charge.usage is not None else None,
        "items": [
            [item.unit, item.part, item.quantity, *item.rate, item.nano, item.source, item.valid_from]
            for item in charge.items
        ],
    }


def _charge_back(said: dict[str, Any]) -> Charge:
    return Charge(
        status=Status(said["status"]),
        reason=Reason(said["reason"]) if said["reason"] else None,
        nano=said["nano"],
        items=tuple(
            Item(unit, part, quantity, Rate(femto, per), nano, source, valid_from)
            for unit, part, quantity, femto, per, nano, source, valid_from in said["items"]
        ),
        usage=Usage(**said["usage"]) if said["usage"] is not None else None,
        basis=Basis(said["basis"]),
        flags=frozenset(map(Flag, said["flags"])),
        price_book=said["price_book"],
    )
