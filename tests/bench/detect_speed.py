"""What the detectors cost: CPU microseconds for each model or tool call, all of the shipped rules together.

    OTEL_COST_SHARED=… PYTHONPATH=. python tests/bench/detect_speed.py [--profile]

Calls are taken from the engine as it makes them (of the benchmarks' load, and of the labelled runs
where they are), then shown to the detectors alone. CPU time, the best of five rounds.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import os
import pstats
import time
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

from otel_cost.core.decode.otlp import decode_traces
from otel_cost.core.model.effects import Signal
from otel_cost.core.model.vocabulary import Kind
from otel_cost.core.watch import Watch
from otel_cost.edge.config import load_config
from otel_cost.edge.engine import build_engine
from otel_cost.edge.otlp_files import requests
from tests.bench.load import export_requests

if TYPE_CHECKING:
    from collections.abc import Iterable

    from otel_cost.core.assemble.run import Run
    from otel_cost.core.model.call import Call

CONTENT = ("error_message", "arguments", "result", "output_text")
SPANS = 20_000
ROUNDS = 5


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


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    loads = {"bench": export_requests(SPANS, per_request=512)}
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


if __name__ == "__main__":
    main()
