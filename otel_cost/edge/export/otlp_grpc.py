"""Exporter `otlp_grpc`: any backend that takes OTLP over gRPC; the request bytes go out as they are."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, Final, Self

import grpc
from pydantic import Field, model_validator

from otel_cost.core.model.effects import Signal
from otel_cost.edge.export import register
from otel_cost.edge.export._answers import rejected_in_protobuf, retry_info, retry_info_in_status
from otel_cost.edge.export._contract import ExporterKind, Refused, TooLarge, Unavailable
from otel_cost.edge.export._patience import Patience
from otel_cost.edge.export._settings import Client, Duration, RoomyQueue, plain_headers

if TYPE_CHECKING:
    from pathlib import Path

    from otel_cost.edge.export._settings import Tls

METHODS: Final = {
    Signal.TRACES: "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    Signal.LOGS: "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
    Signal.METRICS: "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
}
# OTLP specification, "Failures": RESOURCE_EXHAUSTED joins these only where RetryInfo says when.
_TRY_LATER: Final = frozenset(
    {
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
_MAX_ANSWER_BYTES: Final = 4 << 20


class Settings(Client):
    """`endpoint` is `host:port`, over TLS unless `tls.insecure`; a scheme `http://` or `https://` decides too."""

    endpoint: Annotated[
        str, Field(pattern=r"^((https?|dns|unix|ipv4|ipv6)://?)?\S+$", examples=["collector.example.com:4317"])
    ]
    timeout: Duration = 5.0
    sending_queue: RoomyQueue = RoomyQueue()

    @model_validator(mode="after")
    def _verifies(self) -> Self:
        if self.tls.insecure_skip_verify:
            raise ValueError("tls.insecure_skip_verify is not possible with gRPC\nname the server's CA in tls.ca_file")
        return self


class OtlpGrpc:
    """One channel, three methods, raw bytes in and out."""

    def __init__(self, settings: Settings) -> None:
        target = settings.endpoint
        insecure = settings.tls.insecure
        for scheme, plain in (("http://", True), ("https://", False)):
            if target.startswith(scheme):
                target, insecure = target.removeprefix(scheme).rstrip("/"), plain
        options: list[tuple[str, Any]] = [
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            ("grpc.lb_policy_name", "round_robin"),
            ("grpc.enable_retries", 0),  # retrying is the queue's
            ("grpc.initial_reconnect_backoff_ms", 500),
            ("grpc.max_reconnect_backoff_ms", 10_000),  # the default of two minutes outlives most outages
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", _MAX_ANSWER_BYTES),
        ]
        if settings.tls.server_name_override:
            options.append(("grpc.ssl_target_name_override", settings.tls.server_name_override))
        compression = grpc.Compression.Gzip if settings.compression == "gzip" else grpc.Compression.NoCompression
        self._channel = (
            grpc.insecure_channel(target, options, compression)
            if insecure
            else grpc.secure_channel(target, _credentials(settings.tls), options, compression)
        )
        self._calls = {signal: self._channel.unary_unary(method, None, None) for signal, method in METHODS.items()}
        self._metadata = tuple(plain_headers(settings.headers).items())
        self._target, self._patience = target, Patience(settings.timeout)

    def send(self, signal: Signal, payload: bytes) -> int:
        """As `Exporter.send`."""
        timeout_s = self._patience.timeout_s
        begun = time.monotonic()
        try:
            answer = self._calls[signal](payload, timeout=timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                self._patience.timed_out(timeout_s)
            raise self._failure(error, len(payload)) from error
        self._patience.answered(time.monotonic() - begun)
        return rejected_in_protobuf(answer)

    def close(self) -> None:
        self._channel.close()

    def _failure(self, error: Any, size: int) -> Unavailable | Refused:  # grpc's own type is untyped  # noqa: ANN401
        code = error.code()
        reason = f"grpc_{code.name.lower()}"
        # The status text may quote our spans where the backend wrote it; what grpc itself says of a connection helps.
        detail = f": {error.details()}" if code is grpc.StatusCode.UNAVAILABLE else ""
        message = f"{self._target}: gRPC {code.name}{detail}"
        wait = _retry_after(error)
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            if wait is None:
                return TooLarge(f"{message}, request of {size} bytes", reason)
            return Unavailable(message, reason, retry_after_s=wait, overload=True)
        if code in _TRY_LATER:
            slow = code is grpc.StatusCode.DEADLINE_EXCEEDED
            return Unavailable(message, reason, retry_after_s=wait, overload=slow)
        return Refused(f"{message}; check `endpoint` and `headers`", reason)


def _retry_after(error: Any) -> float | None:  # noqa: ANN401
    """By `RetryInfo` inside the status details, or bare as OpenTelemetry's Python SDK knows it."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            wait = retry_info_in_status(value)
        elif key == "google.rpc.retryinfo-bin":
            wait = retry_info(value)
        else:
            continue
        if wait is not None:
            return wait
    return None


def _credentials(tls: Tls) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(
        root_certificates=_read(tls.ca_file), private_key=_read(tls.key_file), certificate_chain=_read(tls.cert_file)
    )


def _read(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes()


register(ExporterKind(name="otlp_grpc", aliases=("otlp",), settings=Settings, build=OtlpGrpc))
