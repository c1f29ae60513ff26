"""Calls and agents for the tests of detectors, in as few words as possible."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from otel_cost.core.detect import DETECTORS, Observed
from otel_cost.core.detect._memory import Memory
from otel_cost.core.model.step import Step
from otel_cost.core.model.usage import Usage
from otel_cost.core.model.vocabulary import Kind, Source

if TYPE_CHECKING:
    from otel_cost.core.model.finding import Finding


def tool(
    name: str = "bash",
    args: object = None,
    result: str | None = None,
    *,
    error: str | None = None,
    error_type: str | None = None,
    nano: int | None = None,
    **more: Any,
) -> Observed:
    failed = error is not None or error_type is not None
    step = Step(
        source=Source.SPAN,
        dialect="test",
        scope="test",
        kind=Kind.TOOL,
        tool=name,
        arguments=None if args is None else json.dumps(args),
        result=result,
        error_message=error,
        error_type=error_type,
        failed=failed,
        **more,
    )
    return Observed(step, nano, failed)


def model(
    nano: int | None = 10, tokens: tuple[int, int] | None = None, *, name: str = "gpt-5-mini", **more: Any
) -> Observed:
    usage = None if tokens is None else Usage(input=tokens[0], output=tokens[1])
    step = Step(
        source=Source.SPAN,
        dialect="test",
        scope="test",
        kind=Kind.INFERENCE,
        requested_model=name,
        usage=more.pop("usage", usage),
        **more,
    )
    return Observed(step, nano, step.failed)


def feed(detector: str, *calls: Observed, **settings: Any) -> list[Finding]:
    """Findings in earnest (no early notices) of one agent's calls; span ids are their places, a second apart."""
    return [finding for finding in feed_all(detector, *calls, **settings) if not finding.early]


def feed_all(detector: str, *calls: Observed, **settings: Any) -> list[Finding]:
    found = DETECTORS[detector]
    state, chosen, memory = found.state(), found.settings(**settings), Memory()
    findings: list[Finding] = []
    for place, call in enumerate(calls):
        call.step.span_id = bytes([place])
        call.step.start_ns = call.step.start_ns or place * 10**9
        call.step.end_ns = call.step.end_ns or call.step.start_ns + 5 * 10**8
        memory.look(call)
        if call.step.kind in found.kinds:
            findings += found.observe(state, call, chosen)
    return findings


def places(finding: Finding) -> list[int]:
    return [span[0] for span in finding.span_ids]
