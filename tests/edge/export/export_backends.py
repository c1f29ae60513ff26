"""Real backends on loopback, whose answers a test scripts."""

from __future__ import annotations

import gzip
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import grpc

from otel_cost.core.model.effects import Outgoing, Signal
from otel_cost.core.model.event import Resource, Scope

if TYPE_CHECKING:
    from collections.abc import Callable

FAST_RETRY = {"initial_interval": "5ms", "max_interval": "20ms"}


@dataclass
class Request:
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    hang_s: float = 0.0


class HttpBackend:
    """Answers what `answers` holds, then what `otherwise` decides; keeps every request."""

    def __init__(self, port: int = 0) -> None:
        self.requests: list[Request] = []
        self.answers: deque[Answer] = deque()
        self.otherwise: Callable[[Request], Answer] = lambda _: Answer()
        self.released = threading.Event()
        backend = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                request = Request(self.path, {key.lower(): value for key, value in self.headers.items()}, body)
                backend.requests.append(request)
                answer = backend.answers.popleft() if backend.answers else backend.otherwise(request)
                if answer.hang_s:
                    backend.released.wait(answer.hang_s)
                self.send_response(answer.status)
                for name, value in {"content-length": str(len(answer.body)), **answer.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer.body)

            def log_message(self, *_: object) -> None:
                pass

            def handle(self) -> None:
                try:
                    super().handle()
                except OSError:
                    self.close_connection = True  # the client gave up, as some tests want

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def stop(self) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()


class GrpcBackend:
    """A gRPC server that takes any method's raw bytes; `respond` may abort."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.respond: Callable[[bytes, grpc.ServicerContext], bytes] = lambda _, __: b""
        backend = self

        class Handler(grpc.GenericRpcHandler):
            def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
                def export(body: bytes, context: grpc.ServicerContext) -> bytes:
                    backend.requests.append(Request(details.method, dict(context.invocation_metadata()), body))
                    return backend.respond(body, context)

                return grpc.unary_unary_rpc_method_handler(export, None, None)

        self.server = grpc.server(ThreadPoolExecutor(4))
        self.server.add_generic_rpc_handlers((Handler(),))
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()
        self.endpoint = f"127.0.0.1:{self.port}"


def records(count: int, first: int = 0, signal: Signal = Signal.TRACES, **kwargs: object) -> list[Outgoing]:
    """Records whose position is their number and whose bytes name it (Span.name, LogRecord.event_name)."""
    resource, scope = Resource(), Scope()
    made = []
    for number in range(first, first + count):
        name = f"span-{number:05d}".encode()
        raw = (b"\x62" if signal is Signal.LOGS else b"\x2a") + bytes([len(name)]) + name
        made.append(Outgoing(signal, number, raw, resource=resource, scope=scope, **kwargs))
    return made


def eventually(condition: Callable[[], bool], within_s: float = 10) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.005)
