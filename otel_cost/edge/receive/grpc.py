"""OTLP over gRPC: generic handlers on raw bytes, because the decoder wants the sender's own encoding."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, NoReturn

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

from otel_cost.core.model.effects import Signal
from otel_cost.edge.auth import PEER, peer_names
from otel_cost.edge.receive.answers import response_of
from otel_cost.edge.receive.refusals import RefusalError, short
from otel_cost.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from otel_cost.edge.receive.intake import Intake

MAX_BYTES: Final = 64 * 1024 * 1024
THREADS: Final = 32  # most of them wait for the disk

SERVICES: Final = {
    Signal.TRACES: trace_service_pb2.DESCRIPTOR.services_by_name["TraceService"].full_name,
    Signal.LOGS: logs_service_pb2.DESCRIPTOR.services_by_name["LogsService"].full_name,
    Signal.METRICS: metrics_service_pb2.DESCRIPTOR.services_by_name["MetricsService"].full_name,
}
_PEER_NAMES: Final = ("x509_common_name", "x509_subject_alternative_name")
_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}

_OPTIONS: Final = (
    ("grpc.so_reuseport", 0),  # a taken port is a mistake to tell, not a port to share
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.max_connection_idle_ms", 600_000),
    ("grpc.max_concurrent_streams", 256),
    ("grpc.max_metadata_size", 16 * 1024),
)


class GrpcReceiver:
    """A server for the three OTLP services and `grpc.health.v1.Health`.

    Signals that are not in `signals` are UNIMPLEMENTED. `key` is the config key of the
    endpoint, for the message when it cannot be used.
    """

    def __init__(
        self,
        intake: Intake,
        endpoint: str,
        *,
        max_bytes: int = MAX_BYTES,
        signals: Collection[Signal] = tuple(Signal),
        credentials: grpc.ServerCredentials | None = None,
        key: str = "receivers.otlp.protocols.grpc.endpoint",
    ) -> None:
        self._intake = intake
        self._endpoint = endpoint
        self._credentials = credentials
        self._key = key
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="grpc")
        # gRPC holds this limit before and after decompression, and answers RESOURCE_EXHAUSTED without RetryInfo.
        self._server = grpc.server(self._pool, options=(*_OPTIONS, ("grpc.max_receive_message_length", max_bytes)))
        self._health = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._server.add_generic_rpc_handlers([_Exports(intake, signals)])
        for signal in signals:
            self._health.set(SERVICES[signal], health_pb2.HealthCheckResponse.SERVING)

    def start(self) -> int:
        """Listen; the port that was bound.

        Raises:
            UsageError: the endpoint cannot be used.
        """
        try:
            if self._credentials is None:
                port = self._server.add_insecure_port(self._endpoint)
            else:
                port = self._server.add_secure_port(self._endpoint, self._credentials)
        except RuntimeError as error:
            raise UsageError(f"{self._key}: cannot listen on {self._endpoint}: is the port taken?") from error
        self._server.start()
        return port

    def set_ready(self, *, ready: bool) -> None:
        """What the health service says of the whole server, for load balancers."""
        serving = health_pb2.HealthCheckResponse.SERVING
        self._health.set("", serving if ready else health_pb2.HealthCheckResponse.NOT_SERVING)

    def drain(self, grace_s: float) -> None:
        """Say NOT_SERVING, send GOAWAY, take no new calls, and wait for those under way."""
        self._health.enter_graceful_shutdown()
        self._server.stop(grace_s).wait()

    def stop(self) -> None:
        """Stop now; calls under way are cut off."""
        self._server.stop(None).wait()
        self._pool.shutdown(wait=True, cancel_futures=True)


class _Exports(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # not subscriptable at run time
    """The export method of each signal. Who sends is asked when the headers are in, before the body is read."""

    def __init__(self, intake: Intake, signals: Collection[Signal]) -> None:
        self._intake = intake
        self._methods = {f"/{SERVICES[signal]}/Export": signal for signal in signals}

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        signal = self._methods.get(details.method)
        if signal is None:
            return None
        headers = {key: value for key, value in details.invocation_metadata or () if isinstance(value, str)}
        try:
            tenant = self._intake.authenticate(headers)
        except RefusalError as refused:
            if self._intake.knows_certificates:  # which are not told before the call is
                return grpc.unary_unary_rpc_method_handler(self._by_certificate(signal, headers))
            self._intake.refuse(signal, "grpc")
            return grpc.stream_unary_rpc_method_handler(_refuse(refused))
        return grpc.unary_unary_rpc_method_handler(self._export(signal, tenant))

    def _export(self, signal: Signal, tenant: str) -> Callable[[bytes, grpc.ServicerContext], bytes]:
        def export(payload: bytes, context: grpc.ServicerContext) -> bytes:
            try:
                answer = self._intake.accept(signal, payload, tenant=tenant, transport="grpc")
            except RefusalError as refused:
                _abort(context, refused)
            return response_of(signal, answer).SerializeToString()

        return export

    def _by_certificate(
        self, signal: Signal, headers: dict[str, str]
    ) -> Callable[[bytes, grpc.ServicerContext], bytes]:
        def export(payload: bytes, context: grpc.ServicerContext) -> bytes:
            told: Any = context.auth_context()  # its types say int for bytes
            names = [[name.decode(errors="replace") for name in told.get(key, ())] for key in _PEER_NAMES]
            try:
                tenant = self._intake.authenticate({**headers, PEER: peer_names(*names)})
            except RefusalError as refused:
                self._intake.refuse(signal, "grpc")
                _abort(context, refused)
            return self._export(signal, tenant)(payload, context)

        return export


def _refuse(refused: RefusalError) -> Callable[[Iterator[bytes], grpc.ServicerContext], bytes]:
    def refuse(_unread: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        _abort(context, refused)

    return refuse


def _abort(context: grpc.ServicerContext, refused: RefusalError) -> NoReturn:
    metadata = [("grpc-status-details-bin", refused.status().SerializeToString())]
    retry = refused.retry_info()
    if retry is not None:
        # OpenTelemetry Python looks here and nowhere else.
        metadata.append(("google.rpc.retryinfo-bin", retry.SerializeToString()))
    context.set_trailing_metadata(tuple(metadata))
    context.abort(_CODES[refused.grpc_code], short(str(refused)))
    raise AssertionError("abort raises")
