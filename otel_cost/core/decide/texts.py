"""Texts: what an agent reads where its rule brings no words of its own.

Short and fixed. Each says what to change, and none names work to do: a model
takes what it reads as a task.
"""

from __future__ import annotations

from otel_cost.core.decide import Verb


def text_of(verb: Verb, summary: str, *, same_call: bool = False, model: str | None = None) -> str:
    """The fixed text of a verb; `summary` is the alert's: names and numbers only."""
    about = f"{summary.rstrip('.')}. " if summary else ""
    match verb:
        case Verb.WARN:
            return f"Cost notice: {about}Change the approach, or finish with what there is."
        case Verb.DELAY:
            return f"Cost limit: {about}This run is slowed down. Do only what the task needs."
        case Verb.DOWNGRADE:
            use = f"The model is changed to {model}. " if model else ""
            return f"Cost limit: {about}{use}Keep the next steps small."
        case Verb.ASK:
            return f"Cost limit: {about}The user has to agree before this goes on."
        case Verb.DENY if same_call:
            return f"Not run: {about}Do not repeat this call. Change the approach, or report what is in the way."
        case Verb.DENY:
            return f"Not run because of a cost limit: {about}Do not retry. Finish with what there is, or report."
        case Verb.STOP:
            return f"Stopped because of cost: {about}Do not go on. Report to the user."
    return ""


def closed_text(rule: str) -> str:
    """What an agent reads while nobody answers and its rule does not let it go on unwatched."""
    return f"Not run: cost control does not answer, and rule {rule} waits for it. Do not retry. Report to the user."
