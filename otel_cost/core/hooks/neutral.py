"""Hook dialect `neutral`: `POST /v1/decide`, for harnesses that ask in our own words (contract section 2.6)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from otel_cost.core.decide import Decision, Verb, decision_json
from otel_cost.core.hooks import HookDialect, register
from otel_cost.core.hooks._payload import as_text, mapping, set_duration, set_people, set_traceparent, text
from otel_cost.core.model.vocabulary import Basis
from otel_cost.core.normalise._usage import Counts, settle

if TYPE_CHECKING:
    from otel_cost.core.model.event import HookEvent

_TRACE_ID: Final = 32  # hex digits
_LONGEST_NAME: Final = 100
_MOST_NAMES: Final = 16


def fill(event: HookEvent, payload: dict[str, Any]) -> bool:
    """Every key but `event` may be left out; without a session the trace says which run it is."""
    event.session = text(payload, "session_id") or ""
    event.parent_session = text(payload, "parent_session_id")
    event.agent, event.agent_id = text(payload, "agent"), text(payload, "agent_id")
    event.provider, event.model = text(payload, "provider"), text(payload, "model")
    event.tool, event.tool_call_id = text(payload, "tool"), text(payload, "tool_call_id")
    args = payload.get("args")
    event.arguments = "{}" if args == {} else as_text(args)  # a call without arguments can be repeated, too
    event.arguments_hash = text(payload, "args_hash")
    event.result = as_text(payload.get("result"))
    event.error = as_text(payload.get("error"))
    event.failures = _failures(event, payload.get("failed"))
    event.failed = event.error is not None or payload.get("failed") is True or bool(event.failures)
    event.call_id = text(payload, "response_id")
    set_duration(event, payload.get("duration_ms"))
    set_traceparent(event, payload.get("traceparent"))
    trace_id = text(payload, "trace_id")
    if trace_id is not None and len(trace_id) == _TRACE_ID:
        try:
            event.trace_id = bytes.fromhex(trace_id)
        except ValueError:
            return False
    usage = mapping(payload, "usage")
    if usage:
        told = Counts(
            input=usage.get("input", usage.get("input_tokens")),
            output=usage.get("output", usage.get("output_tokens")),
            cache_read=usage.get("cache_read"),
            cache_write=usage.get("cache_write"),
            reasoning=usage.get("reasoning"),
        )
        event.usage, _, _ = settle(told, convention=Basis.INCLUSIVE)
    set_people(event, payload)
    return True


def _failures(event: HookEvent, told: object) -> frozenset[str]:
    """Names of what failed: `failed: tests_failed`, a list of them, or an event that is called so."""
    names = [told] if isinstance(told, str) else told if isinstance(told, list) else []
    if event.event.endswith("_failed"):
        names = [*names, event.event]
    return frozenset(name[:_LONGEST_NAME] for name in names[:_MOST_NAMES] if isinstance(name, str) and name)


def answer(_event: HookEvent, decision: Decision) -> dict[str, Any]:
    """The decision itself, allow included: who asks in our words reads ours."""
    return decision_json(decision)


_ALL: Final = frozenset(Verb) - {Verb.ALLOW}

register(
    HookDialect(
        name="neutral",
        harness="neutral",
        events={
            "session_start": ("session_start", _ALL),
            "prompt": ("prompt", _ALL),
            "before_model": ("before_model", _ALL),
            "after_model": ("after_model", frozenset({Verb.WARN, Verb.STOP})),
            "before_tool": ("before_tool", _ALL),
            "after_tool": ("after_tool", frozenset({Verb.WARN, Verb.STOP})),
            "after_batch": ("after_batch", frozenset({Verb.WARN, Verb.STOP})),
            "agent_start": ("agent_start", _ALL),
            "agent_stop": ("agent_stop", frozenset()),
            "stop": ("stop", frozenset()),
            "session_end": ("session_end", frozenset()),
        },
        fill=fill,
        answer=answer,
        own_words=True,
    )
)
