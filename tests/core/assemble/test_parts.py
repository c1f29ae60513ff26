"""A run in pieces: what several engines closed, brought together, is what one engine closes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "flow"))

from money_helper import Desk, agent, book, chat, tool

from otel_cost.core.assemble.parts import as_one

if TYPE_CHECKING:
    from otel_cost.core.model.event import SpanEvent
    from otel_cost.core.model.run import ClosedRun

TALK = {"gen_ai__conversation__id": "talk"}
FIRST = [agent(1, **TALK), chat(2, 1, (500, 50), gen_ai__response__id="r-1"), tool(3, 1)]
SECOND = [agent(11, trace_id=2, **TALK), chat(12, 11, (700, 70), trace_id=2, gen_ai__response__id="r-2")]
GATEWAY = [chat(21, 0, (500, 50), trace_id=3, scope="gateway", gen_ai__response__id="r-1")]  # tells of the first again


def closed(*events: SpanEvent) -> ClosedRun:
    desk = Desk()
    desk.tell(*events)
    desk.close()
    return desk.run


def shown(run: ClosedRun) -> object:
    calls = [(call.nano, call.charge.status, call.trace_id, len(call.steps)) for call in run.calls]
    summary = run.summary
    return summary.run_id, summary.nano, summary.trace_ids, summary.llm_calls, summary.tool_calls, calls, set(run.keys)


@pytest.mark.parametrize(
    "parts",
    [
        [FIRST, SECOND],
        [SECOND, FIRST],
        [FIRST, GATEWAY],
        [GATEWAY, FIRST, SECOND],
        [[*FIRST, *SECOND], GATEWAY],
        [FIRST[:2], FIRST[1:]],  # one trace in two, one span in both
    ],
)
def test_parts_are_what_the_whole_is(parts: list[list[SpanEvent]]) -> None:
    whole = closed(*dict.fromkeys(event for part in parts for event in part))
    assert shown(as_one([closed(*part).snapshot() for part in parts], book().charge)) == shown(whole)
