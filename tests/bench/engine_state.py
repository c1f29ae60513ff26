"""What the engine alone costs as its state grows: many open runs, and one long trace.

    python tests/bench/engine_state.py [--runs 10000] [--spans 40] [--long 100000]

No network, no disk: decode, engine and the rules of the starter pack in this process. Prints CPU per span for traces of
`--spans` and for one trace of `--long`, and peak memory with `--runs` runs that nobody has closed (idle time-out not
reached); what the caps close goes to an archive that only counts.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from load import make_load

from otel_cost.core.decode.otlp import decode_traces
from otel_cost.core.model.effects import Signal
from otel_cost.edge.files import load_price_book
from otel_cost.edge.rule_files import read_rules
from otel_cost.pipeline import Engine, Settings

SPANS_PER_S = 5000  # of the traffic's own time


class Counting:
    """An archive that forgets: what is asked for is not there."""

    def find(self, tenant: str, key: str) -> None:
        return None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--spans", type=int, default=40)
    parser.add_argument("--long", type=int, default=100_000)
    options = parser.parse_args()
    many = options.runs * options.spans
    short_us, _, _ = _alone(options.long, options.spans, 1)
    long_us, _, _ = _alone(options.long, options.long, 1)
    print(f"traces of {options.spans} spans: {short_us:.1f} CPU-us a span")
    print(f"one trace of {options.long:,} spans: {long_us:.1f} CPU-us a span ({long_us / short_us:.2f} of the above)")
    us, mb, closed = _alone(options.long, options.spans, max(1, many // options.long))
    print(
        f"{options.runs:,} runs of {options.spans} spans, none ended: peak {mb:.0f} MB, {us:.1f} CPU-us a span, "
        f"{closed:,} closed early by the caps"
    )


def _alone(spans: int, per_trace: int, times: int) -> tuple[float, float, int]:
    """In a process of its own, so that memory is that of this measurement."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_feed, (spans, per_trace, times))


def _feed(spans: int, per_trace: int, times: int) -> tuple[float, float, int]:
    """CPU-us a span (decode, feed, advance; not the end), peak MB, runs closed before the end."""
    engine = Engine(load_price_book(()), read_rules(("bundled:starter",)), Settings(), Counting())
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 1_000)
    busy = 0.0
    closed = fed = position = 0
    now = time.time_ns()
    for turn in range(times):
        for body in make_load(spans, 500, per_trace=per_trace, seed=7 + turn).bodies:
            fed += 500
            now += 500 * 10**9 // SPANS_PER_S
            position += 1
            began = time.process_time()
            engine.feed(Signal.TRACES, decode_traces(body, "default", now).events, position, now)
            engine.advance(now)
            engine.position()
            closed += len(engine.take().closed)
            busy += time.process_time() - began
    return busy * 1e6 / fed, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, closed


if __name__ == "__main__":
    main()
