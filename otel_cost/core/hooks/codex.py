"""Hook dialect `codex`: Codex CLI, by the client.

Seen with 0.169.0. Anything but a clean deny with a reason marks the hook as failed
and the tool runs, also when the deny stands beside it: never another key in one
answer. Nothing ends a turn: a stop denies every tool and refuses the next prompt
or session. `PostModelRequest` tells the tokens of each model call at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from otel_cost.core.decide import Verb
from otel_cost.core.hooks import HookDialect, register
from otel_cost.core.hooks._claude import block, context, end, envelope, fill_common, output_text
from otel_cost.core.hooks._payload import as_text, mapping, reads_failed, tells_failure
from otel_cost.core.model.vocabulary import Basis
from otel_cost.core.normalise._usage import Counts, settle

if TYPE_CHECKING:
    from otel_cost.core.decide import Decision
    from otel_cost.core.model.event import HookEvent


_TELEMETRY: Final = {"command": "cmd"}


def fill(event: HookEvent, payload: dict[str, Any]) -> bool:
    """A failed command is told like one that went well: only its output says so."""
    if not fill_common(event, payload):
        return False
    if event.agent_id:  # telemetry of a sub-agent names the sub-agent's own conversation
        event.parent_session, event.session, event.agent_id = event.session, event.agent_id, None
    if event.tool == "Bash":  # spans and records of the same call say it otherwise
        arguments = mapping(payload, "tool_input")
        event.known_as = "exec_command", as_text({_TELEMETRY.get(key, key): value for key, value in arguments.items()})
    if event.event == "after_tool":
        response = payload.get("tool_response")
        event.result = output_text(response)
        failed = tells_failure(response)
        if event.result and (reads_failed(event.result) if failed is None else failed):
            event.failed, event.error = True, event.result
    if event.event == "after_model":
        told = mapping(payload, "token_usage")
        event.usage, _, _ = settle(
            Counts(
                input=told.get("input_tokens"),
                output=told.get("output_tokens"),
                cache_read=told.get("cached_input_tokens"),
                cache_write=told.get("cache_write_input_tokens"),
                reasoning=told.get("reasoning_output_tokens"),
                total=told.get("total_tokens"),
            ),
            convention=Basis.INCLUSIVE,
        )
        event.failed = payload.get("status") == "failed"
        event.error = as_text(payload.get("error")) if event.failed else None
    return True


def answer(event: HookEvent, decision: Decision) -> dict[str, Any]:
    """Exactly one thing per answer; a stop before a tool is a deny, with the refusal of the next prompt to follow."""
    match decision.verb, event.event:
        case Verb.WARN, _:
            return context(event, decision)
        case ((Verb.DENY | Verb.STOP), "before_tool"):
            return envelope(event, "deny", decision)
        case Verb.DENY, "prompt":
            return block(decision)
        case Verb.STOP, _:
            return end(decision)
    return {}


register(
    HookDialect(
        name="codex",
        harness="codex",
        events={
            "SessionStart": ("session_start", frozenset({Verb.WARN, Verb.STOP})),
            "UserPromptSubmit": ("prompt", frozenset({Verb.WARN, Verb.DENY, Verb.STOP})),
            "PreToolUse": ("before_tool", frozenset({Verb.WARN, Verb.DENY, Verb.STOP})),
            "PostToolUse": ("after_tool", frozenset({Verb.WARN})),
            "PreModelRequest": ("before_model", frozenset()),  # a sensor: no answer changes anything
            "PostModelRequest": ("after_model", frozenset()),
            "SubagentStart": ("agent_start", frozenset()),
            "SubagentStop": ("agent_stop", frozenset()),
            "Stop": ("stop", frozenset()),
            "SessionEnd": ("session_end", frozenset()),
        },
        fill=fill,
        answer=answer,
    )
)
