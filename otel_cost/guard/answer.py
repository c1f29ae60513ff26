"""Answer: what the service said to one question, and the exception that ends a run for it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Final

VERBS: Final = ("allow", "warn", "delay", "downgrade", "ask", "deny", "stop")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One decision as `POST /v1/decide` tells it.

    `verb` is one of `VERBS`, in order of strictness; `text` is what the agent is to
    read; `model` is the one to change to; `event` is what was asked about; `given` is False where nobody answered.
    """

    verb: str = "allow"
    text: str = ""
    reason: str = ""
    rule: str | None = None
    model: str | None = None
    delay_ms: int = 0
    evidence: dict[str, Any] = field(default_factory=dict)
    shadow: tuple[dict[str, Any], ...] = ()
    event: str = ""
    given: bool = True

    @property
    def refused(self) -> bool:
        """The step that was asked about is not to be made."""
        return self.verb in {"ask", "deny", "stop"}


class Stopped(Exception):  # noqa: N818  # a decision, no error
    """A run ends here because of cost; says what the agent would have read. `answer`: the decision."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.text or answer.reason or "stopped because of cost")
        self.answer = answer


def read_answer(told: object, event: str, *, given: bool = True) -> Answer:
    """An answer from decoded JSON; what cannot be understood is no objection."""
    if not isinstance(told, dict) or told.get("decision") not in VERBS:
        return Answer(event=event, given=given)
    delay = told.get("delay_ms")
    evidence, shadow = told.get("evidence"), told.get("shadow")
    return Answer(
        verb=told["decision"],
        text=_text(told, "text"),
        reason=_text(told, "reason"),
        rule=_text(told, "rule") or None,
        model=_text(told, "model") or None,
        delay_ms=delay if isinstance(delay, int) and delay > 0 else 0,
        evidence=evidence if isinstance(evidence, dict) else {},
        shadow=tuple(one for one in shadow if isinstance(one, dict)) if isinstance(shadow, list) else (),
        event=event,
        given=given,
    )


def decoded(body: str) -> object:
    """JSON that may be none."""
    try:
        return json.loads(body)
    except ValueError:
        return None


def _text(told: dict[str, Any], key: str) -> str:
    value = told.get(key)
    return value if isinstance(value, str) else ""
