"""A backend that counts: OTLP/gRPC requests are kept with the time of their arrival and told at the end.

Its own process, so that counting costs the load client nothing. Started by the runner:
prints its port; a line on stdin asks for the books as one JSON line: unique spans, second copies, requests, and when
each of the wanted spans (hex, separated by spaces) came, in nanoseconds of the monotonic clock.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
from load import span_ids


def main() -> None:
    came: list[tuple[int, bytes]] = []
    lock = threading.Lock()
    size = 0

    def take(body: bytes, _context: grpc.ServicerContext) -> bytes:
        nonlocal size
        with lock:
            came.append((time.monotonic_ns(), body))
            size += len(body)
        return b""

    server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.max_receive_message_length", -1)])
    handler = grpc.unary_unary_rpc_method_handler(take)
    others = grpc.unary_unary_rpc_method_handler(lambda _body, _context: b"")
    for name, taken in (("trace.v1.Trace", handler), ("logs.v1.Logs", others), ("metrics.v1.Metrics", others)):
        service = f"opentelemetry.proto.collector.{name}Service"
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {"Export": taken})])
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    for line in sys.stdin:
        if line.strip() == "size":
            print(size, flush=True)
            continue
        first: dict[bytes, int] = {}
        copies = 0
        for at, body in came:
            for key in span_ids(body):
                copies += first.setdefault(key, at) != at
        wanted = {key: first.get(bytes.fromhex(key)) for key in line.split()}
        print(json.dumps({"spans": len(first), "copies": copies, "requests": len(came), "came": wanted}), flush=True)
    server.stop(None)
