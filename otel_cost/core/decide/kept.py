"""Kept: what stands, as bytes that outlive the process.

Hashes, names, numbers, and the texts of rules; no content.
"""

from __future__ import annotations

from dataclasses import fields
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import ormsgpack

from otel_cost.core.decide import Decision, Verb
from otel_cost.core.decide.shape import CallShape
from otel_cost.core.detect._sketch import Sketch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from otel_cost.core.decide.standing import Entry

_VERSION: Final = 2
_SKETCHED: Final = attrgetter(*Sketch.__slots__)


class Kept(NamedTuple):
    """`entries`: the keys under which each stands, and its fields; `parents`: (tenant, session, parent)."""

    entries: list[tuple[list[str], dict[str, Any]]]
    parents: list[tuple[str, str, str]]


def pack(entries: Iterable[tuple[list[str], Entry]], parents: Iterable[tuple[str, str, str]]) -> bytes:
    """Entries, each once, and who started whom."""
    plain = [
        [keys, {one.name: _plain(getattr(entry, one.name)) for one in fields(entry)}, _decided(entry.decision)]
        for keys, entry in entries
    ]
    return ormsgpack.packb([_VERSION, plain, list(parents)])


def unpack(kept: bytes) -> Kept:
    """What `pack` made; nothing of another version of it, or of bytes that are none."""
    try:
        version, entries, parents = ormsgpack.unpackb(kept)
        if version != _VERSION:
            return Kept([], [])
        return Kept([_entry(*one) for one in entries], [(tenant, child, parent) for tenant, child, parent in parents])
    except (ValueError, TypeError, KeyError):
        return Kept([], [])


def _plain(value: object) -> Any:  # noqa: ANN401  # what msgpack has
    match value:
        case Decision():
            return None  # apart
        case frozenset() | set():
            return sorted(value, key=str)
        case list():
            return [[one.tool, one.exact, one.folded, _SKETCHED(one.sketch)] for one in value]
    return value


def _decided(decision: Decision) -> dict[str, Any]:
    """A rule's own word; an entry holds no others."""
    return {
        "verb": int(decision.verb),
        "reason": decision.reason,
        "rule": decision.rule,
        "text": decision.text,
        "model": decision.model,
        "otherwise": int(decision.otherwise),
        "delay_ms": decision.delay_ms,
        "evidence": decision.evidence,
    }


def _entry(keys: list[str], told: dict[str, Any], decided: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
    agents = told["agents"]
    verbs = {"verb": Verb(decided["verb"]), "otherwise": Verb(decided["otherwise"])}
    made = {
        "alert": tuple(told["alert"]),
        "decision": Decision(**(decided | verbs)),
        "agents": None if agents is None else frozenset(agents),
        "shapes": [_shape(*shape) for shape in told["shapes"]],
        "asked": set(told["asked"]),
        "let_by": set(told["let_by"]),
    }
    return keys, told | made


def _shape(tool: str, exact: str, folded: bytes, sketched: list[Any]) -> CallShape:
    sketch = Sketch(None)
    for name, value in zip(Sketch.__slots__, sketched, strict=True):
        setattr(sketch, name, value)
    return CallShape(tool, exact, folded, sketch)
