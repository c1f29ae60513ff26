"""What the whole service costs per span, beside an OpenTelemetry Collector in the same run.

    python tests/bench/compare.py [--spans 30000] [--rounds 3] [--loads small-500,small-50,large-50]
        [--protocol grpc|http] [--gzip] [--turn 10,3] [--floor] [--collector PATH] [--report FOLDER]

Subjects take turns, round after round; medians are told. CPU is the robust figure: that of the subject's process tree,
from ready to gone. Client and sink share the machine, so spans/s are those of the whole set-up. Without `--collector`
the binary of `deploy/collector/build.sh` is taken where it has been built or Go is there.
"""

from __future__ import annotations

import argparse
import gzip
import http.client
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import grpc

sys.path.insert(0, str(Path(__file__).parent))

from load import SIZES, TURN, Load, make_load, span_ids
from report import bar_chart, markdown_table
from subjects import ROOT, Running, start_collector, start_otel_cost

if TYPE_CHECKING:
    from collections.abc import Callable

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
FIGURES = (
    "CPU-ms per 1,000 spans",
    "accepted spans/s",
    "delivered spans/s",
    "ack p50 ms",
    "ack p99 ms",
    "to sink p50 ms",
    "to sink p99 ms",
    "peak MB",
    "lost",
    "second copies",
)
PATIENCE_S = 300


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--spans", type=int, default=30_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--loads", default="small-500,small-50,large-50", help="SIZE-SPANS_PER_REQUEST, with commas")
    parser.add_argument(
        "--turn", default=f"10,{TURN}", help="of so many spans one is a model call and one a tool call, with commas"
    )
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--protocol", choices=["grpc", "http"], default="grpc")
    parser.add_argument("--gzip", action="store_true")
    parser.add_argument("--floor", action="store_true", help="also with an engine that does nothing (no_engine.py)")
    parser.add_argument("--collector", default=os.environ.get("OTEL_COST_COLLECTOR", ""))
    parser.add_argument("--report", type=Path, default=ROOT / "build" / "bench")
    options = parser.parse_args()
    subjects = _subjects(options.collector)
    if options.floor:
        alone = (sys.executable, str(Path(__file__).parent / "no_engine.py"))
        subjects["otel-cost, no engine"] = lambda folder, port: start_otel_cost(folder, port, command=alone)
    options.report.mkdir(parents=True, exist_ok=True)
    lines = ["# otel-cost beside a Collector", "", f"`python tests/bench/compare.py {' '.join(sys.argv[1:])}`", ""]
    for name in options.loads.split(","):
        size, _, per_request = name.partition("-")
        if size not in SIZES or not per_request.isdigit():
            parser.error(f"--loads: {name!r} is none of {', '.join(f'{one}-N' for one in SIZES)}")
        spans = options.spans if size == "small" else options.spans // 5
        for turn in map(int, options.turn.split(",")):
            load = make_load(spans, int(per_request), size=size, turn=turn)
            how = f"{options.protocol}{' gzip' if options.gzip else ''}, {options.connections} connections"
            title = f"{name}-{load.share:.0f}-percent"
            print(f"{title}: {load}, {how}", flush=True)
            told = _rounds(subjects, load, options)
            lines += _section(title, f"{load}, {how}", told, options.report)
    report = options.report / "report.md"
    report.write_text("\n".join(lines) + "\n")
    print(f"written: {report}")


def _subjects(collector: str) -> dict[str, Callable[[Path, int], Running]]:
    subjects: dict[str, Callable[[Path, int], Running]] = {"otel-cost": start_otel_cost}
    binary = collector or _built_collector()
    if not binary:
        print("no Collector beside it: give --collector PATH, or install Go for deploy/collector/build.sh")
        return subjects
    subjects["collector, 30 prices"] = lambda folder, port: start_collector(folder, port, binary=binary)
    subjects["collector, no prices"] = lambda folder, port: start_collector(folder, port, binary=binary, prices=False)
    return subjects


def _built_collector() -> str:
    script = ROOT / "deploy" / "collector" / "build.sh"
    if not script.exists() or shutil.which("go") is None:
        return ""
    return subprocess.run(["bash", str(script)], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


Told = dict[str, dict[str, list[float]]]  # subject → figure → of each round


def _rounds(subjects: dict[str, Callable[[Path, int], Running]], load: Load, options: argparse.Namespace) -> Told:
    told: Told = {name: {figure: [] for figure in FIGURES} for name in subjects}
    for number in range(options.rounds):
        for name, start in subjects.items():
            figures = _round(start, load, options)
            for figure, value in figures.items():
                told[name][figure].append(value)
            print(f"  round {number + 1} {name:22s} {figures['CPU-ms per 1,000 spans']:8.1f} CPU-ms/1k", flush=True)
    return told


def _round(start: Callable[[Path, int], Running], load: Load, options: argparse.Namespace) -> dict[str, float]:
    """One fresh subject under load; figures by name."""
    sink = subprocess.Popen(
        [sys.executable, "-c", "from sink import main; main()"],
        cwd=Path(__file__).parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert sink.stdin is not None
    assert sink.stdout is not None
    try:
        with tempfile.TemporaryDirectory() as folder:
            subject = start(Path(folder), int(sink.stdout.readline()))
            subject.begin()
            began = time.monotonic()
            sent = _send(subject, load, options)
            sent_s = time.monotonic() - began
            wanted = sum(map(len, load.bodies))
            last = -1
            while time.monotonic() - began < PATIENCE_S:
                size = int(_ask(sink, "size"))
                subject.watch()
                if size >= wanted and size == last:
                    break
                last = size
                time.sleep(0.2)
            time.sleep(1.5)  # roots wait to settle, the ledger gathers its last batch
            busy_s = subject.stop()
        firsts = {span_ids(body)[0].hex(): number for number, body in enumerate(load.bodies)}
        books = json.loads(_ask(sink, " ".join(firsts)))
    finally:
        sink.kill()
        sink.wait()
    came = {number: at for key, number in firsts.items() if (at := books["came"][key]) is not None}
    to_sink = sorted((at - sent[number].began_ns) / 1e6 for number, at in came.items())
    acks = sorted((one.done_ns - one.began_ns) / 1e6 for one in sent)
    delivered_s = (max(came.values(), default=0) / 1e9) - began
    return {
        "CPU-ms per 1,000 spans": busy_s * 1e6 / load.spans,
        "accepted spans/s": load.spans / sent_s,
        "delivered spans/s": load.spans / max(delivered_s, sent_s),
        "ack p50 ms": statistics.median(acks),
        "ack p99 ms": acks[int(len(acks) * 0.99)],
        "to sink p50 ms": statistics.median(to_sink),
        "to sink p99 ms": to_sink[int(len(to_sink) * 0.99)],
        "peak MB": subject.peak_mb,
        "lost": load.spans - books["spans"],
        "second copies": books["copies"],
    }


def _ask(sink: subprocess.Popen[str], line: str) -> str:
    assert sink.stdin is not None
    assert sink.stdout is not None
    sink.stdin.write(line + "\n")
    sink.stdin.flush()
    return sink.stdout.readline()


class Sent(NamedTuple):
    """When a request was sent, and when it was acknowledged: nanoseconds of the monotonic clock."""

    began_ns: int
    done_ns: int


def _send(subject: Running, load: Load, options: argparse.Namespace) -> list[Sent]:
    """Closed loop over a few connections; every request in the order of `load.bodies`."""
    part = _over_grpc if options.protocol == "grpc" else _over_http
    endpoint = subject.grpc if options.protocol == "grpc" else subject.http
    count = options.connections
    with ThreadPoolExecutor(count) as pool:
        parts = list(pool.map(lambda n: part(endpoint, load.bodies[n::count], options.gzip), range(count)))
    sent: list[Sent] = [Sent(0, 0)] * len(load.bodies)
    for number, times in enumerate(parts):
        sent[number::count] = times
    return sent


def _over_grpc(endpoint: str, bodies: list[bytes], zipped: bool) -> list[Sent]:
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
    compression = grpc.Compression.Gzip if zipped else grpc.Compression.NoCompression
    times = []
    with grpc.insecure_channel(endpoint, options, compression) as channel:
        export = channel.unary_unary(EXPORT, None, None)
        for body in bodies:
            began = time.monotonic_ns()
            export(body, timeout=120)
            times.append(Sent(began, time.monotonic_ns()))
    return times


def _over_http(endpoint: str, bodies: list[bytes], zipped: bool) -> list[Sent]:
    headers = {"Content-Type": "application/x-protobuf"} | ({"Content-Encoding": "gzip"} if zipped else {})
    connection = http.client.HTTPConnection(endpoint, timeout=120)
    times = []
    for body in bodies:
        payload = gzip.compress(body, 1) if zipped else body
        began = time.monotonic_ns()
        connection.request("POST", "/v1/traces", payload, headers)
        answer = connection.getresponse()
        answer.read()
        if answer.status != http.HTTPStatus.OK:
            raise RuntimeError(f"answered {answer.status}")
        times.append(Sent(began, time.monotonic_ns()))
    connection.close()
    return times


def _section(name: str, about: str, told: Told, folder: Path) -> list[str]:
    medians = {subject: {figure: statistics.median(v) for figure, v in of.items()} for subject, of in told.items()}
    reference = medians.get("collector, 30 prices")
    header = ["subject", *FIGURES, "CPU beside the Collector's"]
    rows = []
    for subject, figures in medians.items():
        ratio = figures[FIGURES[0]] / reference[FIGURES[0]] if reference else float("nan")
        rows.append([subject, *(f"{figures[figure]:,.1f}" for figure in FIGURES), f"{ratio:.2f}"])
    for row in rows:
        print("  " + " | ".join(row))
    chart = folder / f"{name}.svg"
    chart.write_text(bar_chart(FIGURES[0], {subject: of[FIGURES[0]] for subject, of in medians.items()}))
    spread = "; ".join(
        f"{subject}: {', '.join(f'{value:.1f}' for value in of[FIGURES[0]])}" for subject, of in told.items()
    )
    return [
        f"## {name}",
        "",
        about + ".",
        "",
        *markdown_table(header, rows),
        "",
        f"CPU of each round: {spread}.",
        "",
        f"![CPU]({chart.name})",
        "",
    ]


if __name__ == "__main__":
    main()
