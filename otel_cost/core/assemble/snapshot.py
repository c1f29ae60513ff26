"""Snapshot: a run put to sleep as bytes and woken by a late span, with its charges as they were.

MessagePack, compressed: data only, no code in it. Content (prompts, arguments,
results) is not part of it. A woken run keeps the price each call was told; only
a call that a late record touches is priced anew.
"""

from __future__ import annotations

import sys
import zlib
from array import array
from dataclasses import fields, replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

import ormsgpack

from otel_cost.core.assemble.meter import Meter
from otel_cost.core.assemble.run import Run
from otel_cost.core.assemble.tree import above, tree
from otel_cost.core.model.call import Call
from otel_cost.core.model.charge import Charge, Item, Tariff, shares_of
from otel_cost.core.model.money import Rate
from otel_cost.core.model.step import STANDARD_TERMS, Step, Terms
from otel_cost.core.model.usage import Usage
from otel_cost.core.model.vocabulary import Basis, Flag, Kind, Reason, Source, Status

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from otel_cost.core.model.run import Node

# 1 had a row for each step, with the name of every field once in `fields`; 2 a mapping for each call; both in zlib.
VERSION: Final = 3
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_COMPRESSOR: Final = zstd.ZstdCompressor(level=1)  # a new one for each run takes longer than the run does
_CONTENT: Final = frozenset({"arguments", "result", "error_message", "output_text"})
_ALWAYS_WORDS: Final = frozenset({"source", "kind", "basis", "status"})
_STEP_COLUMNS: Final = tuple(field.name for field in fields(Step) if field.name not in {*_CONTENT, "usage"})
# The word of a member of a list, which is packed several times faster than the member.
_STEP_VALUES: Final = attrgetter(*(f"{name}._value_" if name in _ALWAYS_WORDS else name for name in _STEP_COLUMNS))
_CALL_COLUMNS: Final = ("agent", "failed")
_CALL_VALUES: Final = attrgetter(*_CALL_COLUMNS)
_CHARGE_COLUMNS: Final = ("status", "reason", "nano", "basis", "flags", "price_book")
_CHARGE_VALUES: Final = attrgetter(*(f"{name}._value_" if name in _ALWAYS_WORDS else name for name in _CHARGE_COLUMNS))
_USAGE_VALUES: Final = attrgetter(*Usage.__slots__)
_WORDS: Final = {"source": Source, "kind": Kind, "basis": Basis, "problem": Reason}


def freeze(run: Run) -> bytes:
    """A run as bytes; `thaw` is its inverse."""
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
        "steps": _by_column(_STEP_COLUMNS, map(_STEP_VALUES, run.steps)),
        "usage": [None if step.usage is None else _USAGE_VALUES(step.usage) for step in run.steps],
        "above": _elsewhere(run),
        "calls": _calls(run),
    }
    packed = ormsgpack.packb(state, _plain, ormsgpack.OPT_PASSTHROUGH_DATACLASS)
    return _COMPRESSOR.compress(packed, zstd.ZstdCompressor.FLUSH_FRAME)


def thaw(frozen: bytes, charge: Callable[[Step], Charge], position: int) -> Run:
    """The run of a snapshot, as it was: same calls, same charges, nothing pending.

    Raises:
        ValueError: the snapshot is of a version this program does not know.
    """
    state = _unpacked(frozen)
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
    run.add_steps(steps)
    run.finish()
    index = {step: number for number, step in enumerate(run.steps)}
    spans = {(step.trace_id, step.span_id): number for number, step in enumerate(run.steps) if step.span_id}
    # What metrics tell has no steps of its own, and an id that does not change.
    before = {members or call_id: (call_id, told) for call_id, members, told in _charges(state, steps)}
    for call in list(run.calls.values()):
        members = tuple(sorted(index.get(s, spans.get((s.trace_id, s.span_id), -1)) for s in call.steps))
        was = before.get(call.id if call.step.source is Source.METRIC else members)
        if was is not None:
            trace = run.trace(call.trace_id)
            run.calls.pop(call.id)
            trace.calls.pop(call.id)
            call.id, call.charge = was
            run.calls[call.id] = trace.calls[call.id] = call
    run.wasted.update(state["wasted"])
    run.told.update(state["told"])
    run.carrier.update(state["carrier"])
    run.moved.update(run.calls)
    run.changes.clear()
    run.moves.clear()
    return run


def recorded_nodes(frozen: bytes, run_id: str) -> list[Node] | None:
    """The tree of a run that sleeps, as `nodes` made it of the run; None: the snapshot is of a version without it."""
    state = _unpacked(frozen)
    if state["version"] < VERSION:
        return None
    steps = [_step_back(said) for said in _rows(state)]
    elsewhere = {steps[number]: span_id for number, span_id in state["above"]}
    told = state["calls"]
    calls = []
    for speaking, said, (call_id, members, charge) in zip(
        told["speaking"], _by_row(told["said"]), _charges(state, steps), strict=True
    ):
        parts = tuple(steps[number] for number in members if number >= 0)
        if not parts:
            continue  # no step tells of it
        speaker = parts[0]
        if speaking is not None:
            trace_id, span_id, likeness = speaking
            speaker = replace(speaker, trace_id=trace_id, span_id=span_id, likeness=likeness)
        calls.append(Call(call_id, speaker, parts, charge, speaker.kind, **said))
    return tree(state["tenant"], run_id, steps, calls, lambda step: elsewhere.get(step, step.parent_id))


def _unpacked(frozen: bytes) -> dict[str, Any]:
    packed = zstd.decompress(frozen) if frozen.startswith(_ZSTD_MAGIC) else zlib.decompress(frozen)
    state: dict[str, Any] = ormsgpack.unpackb(packed)
    if not 1 <= state["version"] <= VERSION:
        message = f"snapshot version {state['version']} is not {VERSION}"
        raise ValueError(message)
    return state


def _by_column(names: Sequence[str], rows: Iterable[tuple[object, ...]]) -> dict[str, object]:
    """Rows field by field: nearly every field is the same in all steps and calls of a run, and told once."""
    same: dict[str, object] = {}
    told: dict[str, object] = {}
    count = 0
    for name, values in zip(names, zip(*rows, strict=True), strict=False):  # no rows, no columns
        first, count = values[0], len(values)
        if values.count(first) == count:
            same[name] = first
        else:
            told[name] = values
    return {"count": count, "same": same, "columns": told}


def _by_row(told: dict[str, Any]) -> Iterator[dict[str, Any]]:
    columns = told["columns"]
    for index in range(told["count"]):
        yield told["same"] | {name: values[index] for name, values in columns.items()}


def _rows(state: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The steps of a snapshot, each as its fields."""
    if state["version"] == 1:
        for values in state["steps"]:
            yield dict(zip(state["fields"], values, strict=True))
    elif state["version"] == 2:
        yield from _by_row(state)
    else:
        for said, usage in zip(_by_row(state["steps"]), state["usage"], strict=True):
            said["usage"] = None if usage is None else dict(zip(Usage.__slots__, usage, strict=True))
            yield said


def _elsewhere(run: Run) -> list[tuple[int, bytes]]:
    """Steps by their numbers that are not right below the parent they name, with what they are below."""
    return [(number, found) for number, step in enumerate(run.steps) if (found := above(run, step)) != step.parent_id]


def _calls(run: Run) -> dict[str, object]:
    """The calls field by field. Tariffs are told once, and a usage that is a step's not again."""
    calls = run.calls.values()
    charges = [call.charge for call in calls]
    number = {id(step): index for index, step in enumerate(run.steps)}
    spans: dict[tuple[bytes, bytes], int] = {}
    tariffs: dict[Tariff, int] = {}
    members: list[int | list[int]] = []
    speaking: list[tuple[bytes, bytes, str | None] | None] = []
    usages: list[object] = []
    items: list[list[int]] = []
    for call, charge in zip(calls, charges, strict=True):
        steps, usage = call.steps, charge.usage
        alone = number.get(id(steps[0])) if len(steps) == 1 else None
        if alone is not None:
            members.append(alone)
            speaking.append(None)
        else:
            if not spans:
                spans = {(step.trace_id, step.span_id): at for at, step in enumerate(run.steps) if step.span_id}
            members.append(
                # A lone roll-up speaks through a copy of its step: found by its span.
                []
                if call.step.source is Source.METRIC
                else sorted(number.get(id(s), spans.get((s.trace_id, s.span_id), -1)) for s in steps)
            )
            speaking.append((call.step.trace_id, call.step.span_id, call.step.likeness))
        if usage is None or (alone is not None and usage is steps[0].usage):
            usages.append(usage is not None)
        else:
            usages.append(_USAGE_VALUES(usage))
        flat: list[int] = []
        for tariff, quantity, nano in shares_of(charge.items):
            flat += (tariffs.setdefault(tariff, len(tariffs)), quantity, nano)
        items.append(flat)
    return {
        "ids": list(run.calls),
        "steps": members,
        "speaking": speaking,
        "usage": usages,
        "items": items,
        "tariffs": [(by.unit, by.part, *by.rate, by.source, by.valid_from) for by in tariffs],
        "said": _by_column(_CALL_COLUMNS, map(_CALL_VALUES, calls)),
        "charges": _by_column(_CHARGE_COLUMNS, map(_CHARGE_VALUES, charges)),
    }


def _charges(state: dict[str, Any], steps: Sequence[Step]) -> Iterator[tuple[str, tuple[int, ...], Charge]]:
    """The calls of a snapshot: id, steps by their numbers, charge."""
    calls = state["calls"]
    usage: Usage | None
    if state["version"] < VERSION:
        for call in calls:
            said = call["charge"]
            usage = None if said["usage"] is None else Usage(**said["usage"])
            rows = (
                (unit, part, quantity, Rate(femto, per), nano, source, valid_from)
                for unit, part, quantity, femto, per, nano, source, valid_from in said["items"]
            )
            yield call["id"], tuple(call["steps"]), _charge_back(said, usage, tuple(Item(*row) for row in rows))
        return
    tariffs = [
        Tariff(unit, part, Rate(femto, per), source, valid_from)
        for unit, part, femto, per, source, valid_from in calls["tariffs"]
    ]
    told = zip(calls["ids"], calls["steps"], calls["usage"], calls["items"], _by_row(calls["charges"]), strict=True)
    for call_id, members, usage_said, flat, said in told:
        if isinstance(usage_said, bool):
            usage = steps[members].usage if usage_said else None
        else:
            usage = Usage(**dict(zip(Usage.__slots__, usage_said, strict=True)))
        items = tuple(
            tariffs[number].item(quantity, nano)
            for number, quantity, nano in zip(flat[::3], flat[1::3], flat[2::3], strict=True)
        )
        yield call_id, (members,) if isinstance(members, int) else tuple(members), _charge_back(said, usage, items)


def _plain(value: object) -> object:
    """What MessagePack has no form for."""
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, Terms):
        if value is STANDARD_TERMS:
            return {}
        return {name: item for name in value.__slots__ if (item := getattr(value, name)) is not None and item != ()}
    raise TypeError(f"{type(value).__name__} in a snapshot")


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


def _charge_back(said: dict[str, Any], usage: Usage | None, items: tuple[Item, ...]) -> Charge:
    return Charge(
        status=Status(said["status"]),
        reason=Reason(said["reason"]) if said["reason"] else None,
        nano=said["nano"],
        items=items,
        usage=usage,
        basis=Basis(said["basis"]),
        flags=frozenset(map(Flag, said["flags"])),
        price_book=said["price_book"],
    )
