"""Hook calls as steps: what a harness tells at once, in a form that its telemetry joins when it comes.

A hook and the span or record of the same thing share an id where the harness
gives one; else the hints of the harness's own dialect, else the tool's name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_cost.core.model.step import Step, near_hints
from otel_cost.core.model.vocabulary import Basis, Flag, Kind, Source
from otel_cost.core.normalise._gemini import failure_hint, tool_hints, usage_hint

if TYPE_CHECKING:
    from otel_cost.core.model.event import HookEvent


def hook_step(event: HookEvent) -> Step | None:
    """The finished tool or model call that an event tells of, or None: it only asks, or tells of neither.

    A call that is about to be made is no step: it may be refused.
    """
    if event.event == "after_tool" and event.tool is not None:
        return _tool(event)
    if event.event == "after_model" and (event.usage is not None or event.failed):
        return _model(event)
    return None


def _step(event: HookEvent, kind: Kind) -> Step:
    return Step(
        source=Source.HOOK,
        dialect=event.harness,
        scope=f"{event.harness} hook",
        kind=kind,
        tenant=event.tenant,
        trace_id=event.trace_id,
        parent_id=event.parent_span_id,
        name=event.name,
        start_ns=event.received_ns - event.duration_ns,
        end_ns=event.received_ns,
        session=event.session or None,
        agent=event.agent,
        agent_id=event.agent_id,
        failed=event.failed,
        failed_ways=tuple(sorted(event.failures)),
        error_message=event.error,
        who={
            dimension: told
            for dimension, key in _WHO.items()
            if isinstance(told := event.attributes.get(key), str) and told
        },
    )


_WHO = {"user": "user.id", "team": "team.id", "workflow": "otel_cost.workflow"}


def _tool(event: HookEvent) -> Step:
    step = _step(event, Kind.TOOL)
    step.operation = "execute_tool"
    # A hash that stands for arguments is the same for the same call, which is what detectors ask.
    step.tool, step.arguments = event.call
    step.tool_call_id = event.tool_call_id
    step.result = event.result
    step.result_size = len(event.result) if event.result is not None else None
    if event.tool_call_id is not None:
        step.ids = (f"tool_call:{event.tool_call_id}",)
        if event.harness == "neutral":  # any instrumentation may tell the same call, and not all know its id
            step.hints = near_hints(event.tool, step.end_ns)
    elif event.harness == "gemini_cli":
        step.hints = tool_hints(step)
    else:
        step.hints = (f"tool:{event.tool}",)
    return step


def _model(event: HookEvent) -> Step:
    step = _step(event, Kind.INFERENCE)
    step.operation = "chat"
    step.provider, step.requested_model = event.provider, event.model
    step.usage, step.basis = event.usage, Basis.INCLUSIVE if event.usage is not None else Basis.UNKNOWN
    if event.usage_is_partial:
        step.flags = frozenset({Flag.INCOMPLETE})
    if event.call_id is not None:
        step.ids = (f"{'response' if event.harness == 'neutral' else event.harness}:{event.call_id}",)
    usage = event.usage
    if event.harness == "codex" and usage is not None:
        counts = (usage.input, usage.output, usage.cache_read or 0, usage.reasoning or 0)
        step.hints = (f"codex:{':'.join(map(str, counts))}",)  # as its spans and records are paired
    elif event.harness == "gemini_cli":
        step.hints = (usage_hint(step, *event.usage_told) if event.usage_told else failure_hint(step),)
    return step
