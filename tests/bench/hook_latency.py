"""How long a harness waits for its answer while telemetry pours in: end to end over loopback, and inside the service.

    python tests/bench/hook_latency.py [--seconds 20] [--asks-per-second 50] [--connections 8] [--per-request 500]

A process of its own sends agent spans over gRPC as fast as they are acknowledged; another asks the hook routes at a
steady pace, each question on a connection of its own as the client does it (`--keep-alive`: on one). "In the service"
is the service's own clock, from the body read to the answer written, out of `/metrics`.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import deque
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from load import export_requests

_MOST_A_SECOND = 40_000  # spans: what is sent must last
EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--asks-per-second", type=float, default=50)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--per-request", type=int, default=500)
    parser.add_argument("--keep-alive", action="store_true")
    parser.add_argument("--load", metavar="ENDPOINT", help=argparse.SUPPRESS)  # this very script as the sender
    options = parser.parse_args()
    if options.load:
        _send(options)
        return
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(
            "receivers: {otlp: {protocols: {grpc: {endpoint: '127.0.0.1:0'}}}}\napi: {endpoint: '127.0.0.1:0'}\n"
        )
        service = subprocess.Popen(
            [sys.executable, "-m", "otel_cost", "serve", "-c", str(config), "--data-dir", f"{folder}/data"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert service.stdout is not None
        ready = re.search(r"grpc=(\S+).*api=http://(\S+)", service.stdout.readline())
        assert ready, "the service did not start"
        grpc_at, api_at = ready.groups()
        try:
            print(f"{options.asks_per_second:g} questions a second")
            _told("idle", _ask(api_at, 3, options), _server(api_at))
            before = _server(api_at)
            sender = [sys.executable, __file__, *sys.argv[1:], "--load", grpc_at]
            loader = subprocess.Popen(sender, stdout=subprocess.PIPE)
            assert loader.stdout is not None
            loader.stdout.readline()
            times = _ask(api_at, options.seconds, options)
            loader.send_signal(signal.SIGTERM)
            sent = (loader.communicate()[0] or b"").decode().strip()
            _told(f"under load ({sent})", times, _server(api_at), before)
        finally:
            service.send_signal(signal.SIGTERM)
            try:
                service.wait(120)
            except subprocess.TimeoutExpired:
                service.kill()


def _ask(at: str, seconds: float, options: argparse.Namespace) -> list[float]:
    """Milliseconds of each question: a tool call before, its failure after, of some sessions in turn."""
    kept = http.client.HTTPConnection(at)
    times = []
    began = time.perf_counter()
    number = 0
    while (due := number / options.asks_per_second) < seconds:
        time.sleep(max(0.0, began + due - time.perf_counter()))
        call, after = divmod(number, 2)
        body = {
            "session_id": f"session-{call % 20}",
            "hook_event_name": "PostToolUse" if after else "PreToolUse",
            "tool_name": "Bash",
            "tool_use_id": f"toolu_{call}",
            "tool_input": {"command": f"python check.py --case {call}"},
        }
        if after:
            body["tool_response"] = {"stdout": f"checked {call}\n" * 40, "stderr": ""}
        asked = time.perf_counter()
        connection = kept if options.keep_alive else http.client.HTTPConnection(at)
        connection.request("POST", "/v1/hooks/claude", json.dumps(body), {"content-type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        times.append((time.perf_counter() - asked) * 1e3)
        assert answer.status == 200
        if not options.keep_alive:
            connection.close()
        number += 1
    return times


def _server(at: str) -> dict[float, float]:
    """Upper bound in seconds → calls up to it, of all dialects together."""
    with urllib.request.urlopen(f"http://{at}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    buckets: dict[float, float] = {}
    for bound, count in re.findall(r'^otel_cost_hook_seconds_bucket\{.*le="([^"]+)".*\} (\S+)', text, re.MULTILINE):
        buckets[float(bound)] = buckets.get(float(bound), 0) + float(count)
    return buckets


def _told(when: str, times: list[float], now: dict[float, float], before: dict[float, float] | None = None) -> None:
    cuts = statistics.quantiles(times, n=100)
    print(
        f"{when}: {len(times)} questions, end to end p50 {cuts[49]:.1f} p90 {cuts[89]:.1f} p99 {cuts[98]:.1f} "
        f"max {max(times):.1f} ms"
    )
    counts = {bound: count - (before or {}).get(bound, 0) for bound, count in sorted(now.items())}
    total = counts.get(float("inf"), 0)
    if total:
        within = ", ".join(f"<= {bound * 1e3:g} ms {count / total:.1%}" for bound, count in counts.items() if bound < 1)
        print(f"  in the service: {within}")


def _send(options: argparse.Namespace) -> None:
    """Closed loop on each connection until told to end; prints once when it begins, once when it ends."""
    from concurrent.futures import ThreadPoolExecutor

    import grpc

    # Made before anything is sent: on the same two cores, making them would take from the service what it measures.
    once = export_requests(20_000, options.per_request)
    needed = int((options.seconds + 2) * _MOST_A_SECOND / options.per_request)
    bodies = deque(_renewed(once[turn % len(once)], turn) for turn in range(needed))
    stopped: list[bool] = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    print("begun", flush=True)
    began = time.perf_counter()

    def one(_: int) -> int:
        sent = 0
        with grpc.insecure_channel(options.load, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            export = channel.unary_unary(EXPORT, None, None)
            while bodies and not stopped:
                export(bodies.popleft(), timeout=120)
                sent += options.per_request
        return sent

    with ThreadPoolExecutor(options.connections) as pool:
        total = sum(pool.map(one, range(options.connections)))
    print(f"{total / (time.perf_counter() - began):,.0f} spans/s acknowledged")


def _renewed(body: bytes, turn: int) -> bytes:
    """With other ids, so that nothing is a resend."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    request = ExportTraceServiceRequest.FromString(body)
    mark = turn.to_bytes(3, "big")
    for span in request.resource_spans[0].scope_spans[0].spans:
        span.trace_id = mark + span.trace_id[3:]
        for pair in span.attributes:
            if pair.key in {"gen_ai.response.id", "gen_ai.conversation.id", "gen_ai.tool.call.id"}:
                pair.value.string_value += mark.hex()
    return request.SerializeToString()


if __name__ == "__main__":
    main()
