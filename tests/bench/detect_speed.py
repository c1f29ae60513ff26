"""What the detectors cost, all shipped rules together: CPU microseconds for each model or tool call and other span.

    OTEL_COST_SHARED=… PYTHONPATH=. python tests/bench/detect_speed.py [--profile]

Calls are taken from the engine as it makes them (of the benchmarks' load, and of the labelled runs
where they are), then shown to the detectors alone. CPU time, the best of five rounds; what was remembered of
earlier texts is forgotten before each. For other spans it is what the engine spends in the detectors while they
go through, in runs with loops going on.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import os
import pstats
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_cost.core.decode.otlp import decode_traces
from otel_cost.core.detect import _traits
from otel_cost.core.model.effects import Signal
from otel_cost.core.model.vocabulary import Kind
from otel_cost.core.watch import Watch
from otel_cost.edge.config import load_config
from otel_cost.edge.engine import build_engine
from otel_cost.edge.otlp_files import requests
from tests.bench.load import SIZES, make_load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from otel_cost.core.assemble.run import Run
    from otel_cost.core.model.call import Call

CONTENT = ("error_message", "arguments", "result", "output_text")
SPANS = 20_000
ROUNDS = 5
OTHERS = 60  # spans that are no calls, for each trace


class Feeds:
    """What one engine has shown to its detectors, to be shown again."""

    def __init__(self, payloads: Iterable[bytes]) -> None:
        self._shown: list[tuple[Run, Call, int, list[str | None]]] = []
        engine = build_engine(load_config(environ={}))
        self._rules = engine._watch._rules
        now_ns = 0
        with mock.patch.object(Watch, "feed", self._note):
            for position, payload in enumerate(payloads):
                spans = decode_traces(payload, "default", 0).events
                now_ns = max([now_ns, *(span.end_ns for span in spans)])
                engine.feed(Signal.TRACES, spans, position, now_ns)
        self.calls = len({call.id for _, call, _, _ in self._shown})
        self.tools = len({call.id for _, call, _, _ in self._shown if call.kind is Kind.TOOL})

    def _note(self, run: Run, call: Call, at_ns: int) -> tuple[()]:
        self._shown.append((run, call, at_ns, [getattr(call.step, name) for name in CONTENT]))
        return ()

    def show(self) -> tuple[float, int]:
        """CPU seconds, and how many alerts there were."""
        watch = Watch(self._rules)
        _traits.forget()
        for _, call, _, content in self._shown:
            for name, text in zip(CONTENT, content, strict=True):
                setattr(call.step, name, text)
        gc.collect()
        gc.freeze()
        alerts = 0
        started = time.process_time()
        for run, call, at_ns, _ in self._shown:
            for _alert in watch.feed(run, call, at_ns):
                alerts += 1
        return time.process_time() - started, alerts


def other_spans(payloads: Iterable[bytes]) -> float:
    """CPU seconds in the detectors for a span that is no call, while such spans pass through runs that loop."""
    engine = build_engine(load_config(environ={}))
    now_ns = 0
    traces: set[bytes] = set()
    for position, payload in enumerate(payloads):
        spans = decode_traces(payload, "default", 0).events
        traces |= {span.trace_id for span in spans}
        now_ns = max([now_ns, *(span.end_ns for span in spans)])
        engine.feed(Signal.TRACES, spans, position, now_ns)
    spent = 0.0

    def timed(name: str) -> Callable[..., object]:
        true = getattr(Watch, name)

        def run(*arguments: object) -> object:
            nonlocal spent
            started = time.process_time()
            told = true(*arguments)
            spent += time.process_time() - started
            return told

        return run

    with ExitStack() as patches:
        for name in ("feed", "judge", "move", "unite", "loop_of"):
            patches.enter_context(mock.patch.object(Watch, name, timed(name)))
        request = ExportTraceServiceRequest()
        scope = request.resource_spans.add().scope_spans.add()
        for number in range(OTHERS):
            for trace_id in traces:
                span = scope.spans.add(trace_id=trace_id, span_id=b"%08d" % number, parent_span_id=b"12345678")
                span.name = ("GET /orders", "SELECT orders", "retrieve documents")[number % 3]
                span.start_time_unix_nano, span.end_time_unix_nano = now_ns, now_ns + 1
                if number % 3 == 2:
                    span.attributes.add(key="openinference.span.kind").value.string_value = "RETRIEVER"
        spans = decode_traces(request.SerializeToString(), "default", 0).events
        engine.feed(Signal.TRACES, spans, 10**6, now_ns)
    return spent / len(spans)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    gc.set_threshold(50_000, 50, 1_000)  # as the service does
    loads = {size: make_load(SPANS, 512, size=size).bodies for size in SIZES}
    folder = Path(os.environ.get("OTEL_COST_SHARED") or Path(__file__).parents[3] / "shared") / "trajectories"
    files = sorted(folder.glob("*.otlp.jsonl.gz"))
    if files:
        loads["trajectories"] = [request.payload for path in files for request in requests(path)]
    for name, payloads in loads.items():
        feeds = Feeds(payloads)
        rounds = [feeds.show() for _ in range(ROUNDS)]
        best = 1e6 * min(seconds for seconds, _ in rounds) / feeds.calls
        print(f"{name:13} {best:5.1f} µs a call  ({feeds.calls} calls, {feeds.tools} tools, {rounds[0][1]} alerts)")
        if options.profile:
            profile = cProfile.Profile()
            profile.runcall(feeds.show)
            pstats.Stats(profile).sort_stats("tottime").print_stats(28)
        print(f"{'':13} {1e6 * other_spans(payloads):5.2f} µs another span")


if __name__ == "__main__":
    main()
