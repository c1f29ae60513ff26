"""Hooks: a harness's own payload becomes a hook event, a decision becomes an answer that it was seen to obey.

A dialect is one file in this folder whose last line is `register(HookDialect(...))`;
files starting with an underscore are shared tools. No objection is `{}` and never an
explicit allow, which would skip the user's own permission step.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from otel_cost.core.decide import ALLOWED, Decision, Verb, carried
from otel_cost.core.decide.shape import arguments_hash
from otel_cost.core.hooks._payload import whole_characters
from otel_cost.core.model.attributes import PlainAttributes
from otel_cost.core.model.event import DEFAULT_TENANT, HookEvent
from otel_cost.errors import DecodeError
from otel_cost.hook_names import event_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Answer = dict[str, Any]

NOTHING: Final = ("other", frozenset[Verb]())


@dataclass(frozen=True, slots=True, kw_only=True)
class HookDialect:
    """How one harness asks and what it obeys.

    `events`: the harness's name of an event → what happens in common words, and the
    verbs that it was seen to obey there. `fill(event, payload)` reads everything
    but name and event into a fresh event and returns False where the payload is
    none of its own. `answer` is asked with verbs of `events` only.
    """

    name: str
    harness: str  # as spans of the same client are called by their dialect
    events: Mapping[str, tuple[str, frozenset[Verb]]]
    fill: Callable[[HookEvent, dict[str, Any]], bool]
    answer: Callable[[HookEvent, Decision], Answer]
    own_words: bool = False  # any event that it names is one of its own (neutral)


HOOKS: dict[str, HookDialect] = {}
_CAN: dict[str, tuple[dict[str, frozenset[str]], frozenset[str], frozenset[str]]] = {}


def register(dialect: HookDialect) -> None:
    """Make a hook dialect known; a second one of the same name is a programming error."""
    if dialect.name in HOOKS:
        raise ValueError(f"hook dialect {dialect.name!r} is registered twice")
    HOOKS[dialect.name] = dialect
    carries = {name: frozenset(map(str, verbs)) for name, (_, verbs) in dialect.events.items()}
    ever = frozenset(verb for verbs in carries.values() for verb in verbs)
    gates = frozenset(kind for kind, verbs in dialect.events.values() if verbs & {Verb.DENY, Verb.STOP})
    _CAN[dialect.name] = carries, ever, gates


def read_hook(dialect: str, body: bytes, received_ns: int, tenant: str = DEFAULT_TENANT) -> HookEvent:
    """The event that a hook's payload tells of.

    Raises:
        KeyError: there is no such dialect.
        DecodeError: the body is no JSON object, or none of this dialect's payloads.
    """
    try:
        # What a command printed may be cut in the middle of a character; the rest of the payload is as good as ever.
        payload = json.loads(body.decode("utf-8-sig", "replace"))
        if b"\\ud" in body or b"\\uD" in body:
            payload = whole_characters(payload)
    except (ValueError, RecursionError):
        raise DecodeError("the hook payload is no JSON") from None
    if not isinstance(payload, dict):
        raise DecodeError("the hook payload is no JSON object")
    event = hook_event(dialect, payload, received_ns, tenant)
    event.raw = body
    return event


def hook_event(dialect: str, payload: dict[str, Any], received_ns: int, tenant: str = DEFAULT_TENANT) -> HookEvent:
    """`read_hook` for a payload that is decoded already."""
    known = HOOKS[dialect]
    name = event_name(dialect, payload)
    if not name:
        wanted = "`event`" if known.own_words else f"an event of {dialect}"
        raise DecodeError(f"the payload lacks {wanted}")
    event = _fresh(known, name, received_ns, tenant)
    if not known.fill(event, payload):
        raise DecodeError(f"the payload is none of {dialect}")
    if event.arguments is not None:
        event.arguments_hash = arguments_hash(event.arguments)
    return event


def _fresh(dialect: HookDialect, name: str, received_ns: int, tenant: str) -> HookEvent:
    kind, _ = dialect.events.get(name, (name, frozenset()) if dialect.own_words else NOTHING)
    carries, ever, gates = _CAN[dialect.name]
    return HookEvent(
        tenant=tenant,
        received_ns=received_ns,
        harness=dialect.harness,
        event=kind,
        session="",
        trace_id=b"",
        attributes=PlainAttributes(),
        name=name,
        dialect=dialect.name,
        carries=carries.get(name, ever if dialect.own_words else frozenset()),
        ever=ever,
        gates=gates,
    )


def answer_hook(dialect: str, event: HookEvent, decision: Decision) -> Answer:
    """What the harness is answered: `{}` for no objection, and where another event will carry the decision."""
    known = HOOKS[dialect]
    said = carried(decision, event)
    if said.verb is Verb.ALLOW and not known.own_words:
        return {}
    return known.answer(event, said)


def unanswered(dialect: str, why: str) -> Answer:
    """What is said where nothing could be decided: no objection, and why to those who ask in our own words."""
    known = HOOKS.get(dialect)
    if known is None or not known.own_words:
        return {}
    silent = _fresh(known, "other", 0, DEFAULT_TENANT)
    return known.answer(silent, replace(ALLOWED, reason=why))


def outage_answers(dialect: str, decision: Decision) -> dict[str, Answer]:
    """Answers by the harness's event names, for a client to give while nobody answers; events without one are left out.

    A standing refusal is told wherever the harness obeys it, because nobody is there to look at the single call.
    """
    known = HOOKS[dialect]
    lasting = replace(decision, defer=False)
    answers = {
        name: answer_hook(dialect, _fresh(known, name, 0, DEFAULT_TENANT), lasting)
        for name, (kind, verbs) in known.events.items()
        if decision.verb in verbs and kind not in _AFTER
    }
    return {name: answer for name, answer in answers.items() if answer}


# A run that is to end is refused its next step; that also holds where the step after is never reported.
_AFTER: Final = frozenset({"after_tool", "after_model"})

__all__ = [
    "ALLOWED",
    "HOOKS",
    "HookDialect",
    "answer_hook",
    "hook_event",
    "outage_answers",
    "read_hook",
    "register",
    "unanswered",
]

for _module in pkgutil.iter_modules(__path__):
    if not _module.name.startswith("_"):
        importlib.import_module(f"{__name__}.{_module.name}")
