"""Decide: what a harness is told before its next step, and why.

Every rule that has something to say says it; the strictest verb wins and the
others stay on record. What a harness cannot do at an event falls back to
something that it can, and never to something that lets the agent go on by accident.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from otel_cost.core.model.event import HookEvent


class Verb(IntEnum):
    """What a decision can be, in order of strictness."""

    ALLOW = 0
    WARN = 1
    DELAY = 2
    DOWNGRADE = 3
    ASK = 4
    DENY = 5
    STOP = 6

    def __str__(self) -> str:
        return self.name.lower()

    @classmethod
    def of(cls, name: str) -> Verb:
        """The verb of a name as rules and answers write it.

        Raises:
            KeyError: it is none.
        """
        return cls[name.upper()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One rule's word, or the merged word of several.

    `text` is what the agent reads; `reason` says why, in names and numbers only.
    `defer`: the harness is about to ask for leave to make this call, and that is
    where it can be told. `outage`: what holds while nobody answers.
    """

    verb: Verb = Verb.ALLOW
    reason: str = ""
    rule: str | None = None
    text: str | None = None
    model: str | None = None  # to downgrade to
    otherwise: Verb = Verb.WARN  # where no model can be changed
    delay_ms: int | None = None
    evidence: dict[str, Any] = field(default_factory=dict)
    others: tuple[Decision, ...] = ()  # milder words of other rules
    shadow: tuple[Decision, ...] = ()  # words of rules that only tell what they would do
    defer: bool = False
    outage: Decision | None = None
    rules: str = ""  # hash of the rules that decided

    @property
    def words(self) -> str:
        """What the agent is told; never empty, because some harnesses ignore a refusal without a reason."""
        return self.text or self.reason or f"otel-cost: {self.verb}"


ALLOWED: Final = Decision()


def strictest(decisions: Iterable[Decision]) -> Decision:
    """One decision out of many: the strictest verb, the first of equals; every other word is kept.

    Texts of several warnings are joined, because each of them is said only once.
    """
    said = sorted(
        (decision for decision in decisions if decision.verb is not Verb.ALLOW or decision.shadow),
        key=lambda decision: -decision.verb,
    )
    spoken = [decision for decision in said if decision.verb is not Verb.ALLOW]
    shadow = tuple(one for decision in said for one in decision.shadow)
    if not spoken:
        return replace(ALLOWED, shadow=shadow) if shadow else ALLOWED
    first, *others = spoken
    kept = tuple(one for decision in others for one in (replace(decision, others=(), shadow=()), *decision.others))
    text = first.text
    if first.verb is Verb.WARN and others:
        text = "\n".join(dict.fromkeys(decision.words for decision in spoken))
    return replace(first, text=text, others=(*first.others, *kept), shadow=shadow)


# Events at which a single tool call is in question.
CALLS: Final = frozenset({"before_tool", "permission"})

# A session is about to change its model; refused, it goes on with the one that it has.
SWITCH: Final = "model_switch"

# What a verb that a harness knows nowhere becomes. `downgrade` says it itself.
_FALLBACK: Final = {Verb.STOP: Verb.DENY, Verb.ASK: Verb.DENY, Verb.DELAY: Verb.WARN}


def carried(decision: Decision, event: HookEvent) -> Decision:
    """What of a decision the harness obeys at this event; `ALLOWED`: nothing, another event will carry it.

    Only what the harness obeys nowhere falls back: ask and stop to deny, delay to
    warn, downgrade to what its rule says.
    """
    verb = decision.verb
    while str(verb) not in event.carries:
        if str(verb) in event.ever or verb not in {*_FALLBACK, Verb.DOWNGRADE}:
            return replace(ALLOWED, shadow=decision.shadow, outage=decision.outage, rules=decision.rules)
        if verb is Verb.ASK and event.event not in CALLS:
            # A refused tool lets the agent think again; a refused model call would be the end of its run.
            return replace(ALLOWED, shadow=decision.shadow, outage=decision.outage, rules=decision.rules)
        if verb is Verb.DOWNGRADE:
            verb = Verb.DENY if event.event == SWITCH else decision.otherwise
        else:
            verb = _FALLBACK[verb]
    return decision if verb is decision.verb else replace(decision, verb=verb)


def decision_json(decision: Decision) -> dict[str, Any]:
    """The answer of `POST /v1/decide` (contract section 2.6)."""
    answer: dict[str, Any] = {"decision": str(decision.verb), "reason": decision.reason, "rule": decision.rule}
    if decision.model is not None:
        answer["model"] = decision.model
    if decision.delay_ms is not None:
        answer["delay_ms"] = decision.delay_ms
    if decision.verb is not Verb.ALLOW:
        answer["text"] = decision.words
    evidence = dict(decision.evidence)
    if decision.rules:
        evidence["rules_hash"] = decision.rules
    if decision.others:
        evidence["also"] = [_spoke(other) for other in decision.others]
    return {**answer, "evidence": evidence, "shadow": [_spoke(one) for one in decision.shadow]}


def _spoke(decision: Decision) -> dict[str, Any]:
    """A word that did not decide: who said it, and the numbers that were compared."""
    said = {"decision": str(decision.verb), "reason": decision.reason, "rule": decision.rule}
    return {**said, "evidence": decision.evidence}
