"""Hook dialect `gemini`: Gemini CLI, by the client.

Seen with 0.61.0. `continue: false` ends the run at every event named below; `ask`
hangs a headless run for ever; context before a tool is ignored. No call bears an id,
and sub-agents are not told apart. The answer after a model call comes in chunks, of
which the last has its tokens, cached ones left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from otel_cost.core.decide import Verb
from otel_cost.core.hooks import NOTHING, HookDialect, register
from otel_cost.core.hooks._claude import context, end
from otel_cost.core.hooks._payload import as_text, framed_failure, mapping, said_text, set_people, text
from otel_cost.core.model.vocabulary import Basis
from otel_cost.core.normalise._usage import Counts, settle, whole

if TYPE_CHECKING:
    from otel_cost.core.decide import Decision
    from otel_cost.core.model.event import HookEvent


def fill(event: HookEvent, payload: dict[str, Any]) -> bool:
    """What the model was sent is left aside; a failed command is told in the frame around its output."""
    session = text(payload, "session_id")
    if session is None:
        return False
    event.session = session
    event.tool = text(payload, "tool_name")
    event.arguments = as_text(payload.get("tool_input"))
    event.model = text(mapping(payload, "llm_request"), "model")
    set_people(event, payload)
    if event.event == "after_tool":
        _fill_result(event, mapping(payload, "tool_response"))
    elif event.event == "after_model":
        _fill_usage(event, mapping(payload, "llm_response"))
    return True


def _fill_result(event: HookEvent, response: dict[str, Any]) -> None:
    said = said_text(response.get("llmContent"))
    if said is not None:
        said = said.removeprefix("<untrusted_context>\n").removesuffix("\n</untrusted_context>")
    event.result = said
    told = response.get("error")
    error = text(told, "message") or as_text(told) or (framed_failure(said) if said else None)
    event.failed, event.error = error is not None, error


def _fill_usage(event: HookEvent, response: dict[str, Any]) -> None:
    candidates = response.get("candidates")
    last = isinstance(candidates, list) and any(text(one, "finishReason") for one in candidates)
    told = mapping(response, "usageMetadata")
    counted, answered = whole(told.get("promptTokenCount")), whole(told.get("candidatesTokenCount"))
    if not last or counted is None:
        return
    total = whole(told.get("totalTokenCount")) or 0
    thoughts = whole(told.get("thoughtsTokenCount"))
    if thoughts is None:
        thoughts = max(total - counted - (answered or 0), 0)
    event.usage, _, _ = settle(
        Counts(
            input=counted,
            output=answered or 0,
            cache_read=told.get("cachedContentTokenCount"),
            reasoning=thoughts or None,
        ),
        convention=Basis.INCLUSIVE,
        reasoning_outside=True,
    )
    event.usage_told = counted, answered or 0
    event.usage_is_partial = "cachedContentTokenCount" not in told


def answer(event: HookEvent, decision: Decision) -> dict[str, Any]:
    """Flat objects, the same at every event that obeys them."""
    match decision.verb:
        case Verb.WARN:
            return context(event, decision)
        case Verb.DOWNGRADE:
            return {"hookSpecificOutput": {"hookEventName": event.name, "llm_request": {"model": decision.model}}}
        case Verb.DENY:
            return {"decision": "deny", "reason": decision.words}
        case Verb.STOP:
            return end(decision)
    return {}


register(
    HookDialect(
        name="gemini",
        harness="gemini_cli",
        events={
            "SessionStart": ("session_start", frozenset({Verb.WARN})),
            "BeforeAgent": ("prompt", frozenset({Verb.WARN, Verb.DENY, Verb.STOP})),
            "BeforeModel": ("before_model", frozenset({Verb.DOWNGRADE, Verb.DENY, Verb.STOP})),
            "AfterModel": ("after_model", frozenset({Verb.STOP})),
            "BeforeTool": ("before_tool", frozenset({Verb.DENY, Verb.STOP})),
            "AfterTool": ("after_tool", frozenset({Verb.WARN, Verb.STOP})),
            "AfterAgent": ("stop", frozenset()),  # words here mean another round
            "SessionEnd": ("session_end", frozenset()),
            "BeforeToolSelection": NOTHING,
            "PreCompress": NOTHING,
            "Notification": NOTHING,
        },
        fill=fill,
        answer=answer,
    )
)
