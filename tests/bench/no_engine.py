"""The service with an engine that passes all on unread: what receiving, journal and exporting cost alone.

Started by `compare.py --floor` in the place of `otel-cost`. Nothing is normalised, placed, priced, detected or kept.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from otel_cost.cli import run
from otel_cost.core.enrich.attributes import run_attributes
from otel_cost.core.model.effects import Outgoing, Signal
from otel_cost.pipeline import Engine

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from otel_cost.core.model.event import SpanEvent


def _pass_on(
    engine: Engine, signal: Signal, events: Sequence[SpanEvent], position: int, _now_ns: int
) -> Iterator[None]:
    said = run_attributes("0" * 32)
    engine._effects.outgoing += [
        Outgoing(signal, position, event.raw, said, event.resource, event.scope, None, event.tenant, event.trace_id)
        for event in events
    ]
    engine.fed += len(events)
    yield


if __name__ == "__main__":
    Engine.feeding = _pass_on  # type: ignore[assignment, method-assign]
    run(sys.argv[1:])
