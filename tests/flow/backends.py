"""Stub backends that keep every export request they get, over gRPC and HTTP."""

from __future__ import annotations

import gzip
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import grpc
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

if TYPE_CHECKING:
    from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

_PREFIX = "/opentelemetry.proto.collector."


class Backend:
    """Bodies by signal, as received."""

    def __init__(self) -> None:
        self.bodies: dict[str, list[bytes]] = {"traces": [], "logs": [], "metrics": []}
        self._lock = threading.Lock()

    def take(self, signal: str, body: bytes) -> None:
        with self._lock:
            self.bodies[signal].append(body)

    def spans(self) -> list[Span]:
        return [
            span
            for body in list(self.bodies["traces"])
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def logs(self) -> list[LogRecord]:
        return [
            record
            for body in list(self.bodies["logs"])
            for resource in ExportLogsServiceRequest.FromString(body).resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]


class OverGrpc(Backend):
    def __init__(self) -> None:
        super().__init__()
        self._server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.max_receive_message_length", 64 << 20)])
        for signal, service in (
            ("traces", "trace.v1.Trace"),
            ("logs", "logs.v1.Logs"),
            ("metrics", "metrics.v1.Metrics"),
        ):
            handler = grpc.unary_unary_rpc_method_handler(self._export(signal))
            name = f"opentelemetry.proto.collector.{service}Service"
            self._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(name, {"Export": handler})])
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def _export(self, signal: str) -> Any:
        def export(body: bytes, _context: grpc.ServicerContext) -> bytes:
            self.take(signal, body)
            return b""

        return export

    def stop(self) -> None:
        self._server.stop(None)


class OverHttp(Backend):
    def __init__(self, port: int = 0) -> None:
        super().__init__()
        backend = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                backend.take(self.path.rpartition("/")[2], body)
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Receiver:
    """A webhook's other side; answers 503 while `away`."""

    def __init__(self) -> None:
        self.got: list[tuple[str, dict[str, Any]]] = []
        self.away = False
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                if not receiver.away:
                    receiver.got.append((self.headers["webhook-id"], body))
                self.send_response(503 if receiver.away else 204)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def runs(self) -> list[tuple[str, str]]:
        return [(alert["run_id"], alert["state"]) for _, body in self.got for alert in body["data"]["alerts"]]

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
