"""OTLP/gRPC on loopback: every answer with the code that makes a client do the right thing."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from otel_cost.core.model.effects import Signal
from otel_cost.edge.receive.grpc import SERVICES, GrpcReceiver
from otel_cost.edge.receive.refusals import ForbiddenError, OverloadedError, RateLimitedError, UnauthenticatedError
from otel_cost.errors import UsageError


class Client:
    def __init__(self, port: int) -> None:
        self.channel = grpc.insecure_channel(
            f"127.0.0.1:{port}", options=[("grpc.max_send_message_length", -1), ("grpc.enable_retries", 0)]
        )

    def send(self, payload: bytes, signal: Signal = Signal.TRACES, **options):
        return self.channel.unary_unary(f"/{SERVICES[signal]}/Export")(payload, timeout=10, **options)

    def refused(self, payload: bytes, signal: Signal = Signal.TRACES, **options) -> grpc.RpcError:
        with pytest.raises(grpc.RpcError) as caught:
            self.send(payload, signal, **options)
        return caught.value


@pytest.fixture
def client(house):
    made = Client(house.grpc)
    yield made
    made.channel.close()


def details(error: grpc.RpcError) -> Status:
    (raw,) = [value for key, value in error.trailing_metadata() if key == "grpc-status-details-bin"]
    status = Status.FromString(raw)
    assert (status.code, status.message) == (error.code().value[0], error.details())
    return status


def retry_delay_s(error: grpc.RpcError) -> float | None:
    """The delay, which must be told in both places or in none."""
    bare = [RetryInfo.FromString(v) for k, v in error.trailing_metadata() if k == "google.rpc.retryinfo-bin"]
    packed = []
    for any_message in details(error).details:
        info = RetryInfo()
        if any_message.Unpack(info):
            packed.append(info)
    assert bare == packed
    return bare[0].retry_delay.ToTimedelta().total_seconds() if bare else None


def still_takes(house, client: Client) -> None:
    before = house.names()
    assert client.send(house.traces("still here")) == b""
    assert house.names() == [*before, "still here"]


def test_a_request_is_durable_counted_and_answered_without_partial_success(house, client) -> None:
    response = ExportTraceServiceResponse.FromString(client.send(house.traces("a", "b")))
    assert not response.HasField("partial_success")
    (record,) = list(house.journal.read())
    assert (record.kind, record.tenant, record.payload) == ("traces", "default", house.traces("a", "b"))
    assert house.names() == ["a", "b"]
    assert house.count("otelcol_receiver_accepted_spans_total", receiver="otlp", transport="grpc") == 2
    assert house.count("otel_cost_received_spans_total") == 2
    assert house.count("otelcol_receiver_requests_total", receiver="otlp", transport="grpc", outcome="success") == 1


@pytest.mark.parametrize("payload", [b"", b"\x0a\x00", b"\x0a\x02\x12\x00"])
def test_an_empty_request_succeeds_and_leaves_no_record(house, client, payload: bytes) -> None:
    assert client.send(payload) == b""
    assert list(house.journal.read()) == []
    still_takes(house, client)


def test_bad_spans_are_a_partial_success(house, client) -> None:
    response = ExportTraceServiceResponse.FromString(client.send(house.traces("good", bad=2)))
    assert response.partial_success.rejected_spans == 2
    assert "2 x invalid_trace_id (span: trace_id has 5 bytes, not 16)" in response.partial_success.error_message
    assert house.names() == ["good"]
    assert house.count("otel_cost_rejected_spans_total", reason="invalid_trace_id") == 2
    assert house.count("otel_cost_received_spans_total") == 3


def test_only_bad_spans_are_a_partial_success_too(house, client) -> None:
    response = ExportTraceServiceResponse.FromString(client.send(house.traces(bad=1)))
    assert response.partial_success.rejected_spans == 1
    assert list(house.journal.read()) == []


def test_logs_and_metrics_are_taken(house, client) -> None:
    logs = ExportLogsServiceRequest()
    records = logs.resource_logs.add().scope_logs.add().log_records
    records.add(event_name="e")
    records.add(trace_id=b"short")
    response = ExportLogsServiceResponse.FromString(client.send(logs.SerializeToString(), Signal.LOGS))
    assert response.partial_success.rejected_log_records == 1
    metrics = ExportMetricsServiceRequest()
    metrics.resource_metrics.add().scope_metrics.add().metrics.add().gauge.data_points.add()
    answer = client.send(metrics.SerializeToString(), Signal.METRICS)
    assert not ExportMetricsServiceResponse.FromString(answer).HasField("partial_success")
    assert [record.kind for record in house.delivered] == ["logs", "metrics"]
    assert [record.decoded for record in house.delivered][1] == 1
    for unit in ("log_records", "metric_points"):
        assert house.count(f"otelcol_receiver_accepted_{unit}_total", receiver="otlp", transport="grpc") == 1


@pytest.mark.parametrize("payload", [b"\xff" * 40, b'{"resourceSpans": []}', b"\x0a\x05\x12"])
def test_noise_is_invalid_argument_and_says_why(house, client, payload: bytes) -> None:
    error = client.refused(payload)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "no ExportTraceServiceRequest" in error.details()
    bad = BadRequest()
    assert details(error).details[0].Unpack(bad)
    assert bad.field_violations[0].description == error.details()
    assert retry_delay_s(error) is None
    assert house.count("otelcol_receiver_requests_total", receiver="otlp", transport="grpc", outcome="refused") == 1
    still_takes(house, client)


def test_gzip_is_read(house, client) -> None:
    assert client.send(house.traces("zipped"), compression=grpc.Compression.Gzip) == b""
    assert client.send(house.traces("deflated"), compression=grpc.Compression.Deflate) == b""
    assert house.names() == ["zipped", "deflated"]


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_too_large_is_not_retryable_before_and_after_decompression(house, client, compression) -> None:
    error = client.refused(bytes(2**21), compression=compression)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert not [key for key, _ in error.trailing_metadata() if "retry" in key or "details" in key]
    still_takes(house, client)


def test_an_unknown_method_and_an_unserved_signal_are_unimplemented(build) -> None:
    house = build()
    door = GrpcReceiver(house.intake, "127.0.0.1:0", signals=[Signal.TRACES])
    house.doors.append(door)
    client = Client(door.start())
    assert client.send(house.traces("a")) == b""
    assert client.refused(b"", Signal.LOGS).code() is grpc.StatusCode.UNIMPLEMENTED
    with pytest.raises(grpc.RpcError) as caught:
        client.channel.unary_unary(f"/{SERVICES[Signal.TRACES]}/Import")(b"", timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_who_sends_decides_the_tenant_before_the_body_counts(build) -> None:
    def authenticate(headers) -> str:
        match headers.get("authorization"):
            case "Bearer good":
                return "acme"
            case "Bearer read-only":
                raise ForbiddenError("this key may not ingest")
            case _:
                raise UnauthenticatedError("no such key")

    house = build(authenticate=authenticate).open()
    client = Client(house.grpc)
    assert client.send(house.traces("a"), metadata=[("authorization", "Bearer good")]) == b""
    assert house.delivered[0].tenant == house.delivered[0].decoded.events[0].tenant == "acme"
    assert client.refused(b"\xff").code() is grpc.StatusCode.UNAUTHENTICATED
    error = client.refused(house.traces("a"), metadata=[("authorization", "Bearer read-only")])
    assert (error.code(), error.details()) == (grpc.StatusCode.PERMISSION_DENIED, "this key may not ingest")
    assert len(house.delivered) == 1


@pytest.mark.parametrize(
    ("raised", "code", "delay_s"),
    [
        (OverloadedError("queue full", 2.5), grpc.StatusCode.UNAVAILABLE, 2.5),
        (RateLimitedError("tenant over its share", 7), grpc.StatusCode.RESOURCE_EXHAUSTED, 7),
    ],
)
def test_pushing_back_says_when_to_come_again_in_both_places(build, raised, code, delay_s: float) -> None:
    def admit(tenant: str, size: int) -> None:
        raise raised

    house = build(admit=admit).open()
    error = Client(house.grpc).refused(house.traces("a"))
    assert (error.code(), retry_delay_s(error)) == (code, delay_s)
    assert house.delivered == []


def test_a_full_disk_is_unavailable_and_passes(house, client, monkeypatch) -> None:
    def full(*_args: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, "write", full)
        error = client.refused(house.traces("refused"))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert retry_delay_s(error) == 5
    assert house.count("otelcol_receiver_refused_spans_total", receiver="otlp", transport="grpc") == 1
    still_takes(house, client)


def test_a_broken_disk_is_unavailable_for_good(house, client, monkeypatch) -> None:
    def broken_sync(_fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fdatasync", broken_sync)
        assert client.refused(house.traces("a")).code() is grpc.StatusCode.UNAVAILABLE
    error = client.refused(house.traces("b"))
    assert (error.code(), retry_delay_s(error)) == (grpc.StatusCode.UNAVAILABLE, 30)
    assert house.intake.problem


def test_a_slow_disk_is_deadline_exceeded(build, monkeypatch) -> None:
    house = build(ack_timeout_s=0.05).open()
    may_sync = threading.Event()
    monkeypatch.setattr(os, "fdatasync", lambda fd: may_sync.wait(10))
    error = Client(house.grpc).refused(house.traces("a"))
    may_sync.set()
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_our_own_mistake_is_internal_and_quotes_nothing(build) -> None:
    def admit(tenant: str, size: int) -> None:
        raise KeyError("secret from the payload")

    house = build(admit=admit).open()
    error = Client(house.grpc).refused(house.traces("a"))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in error.details() + str(details(error))
    assert house.count("otelcol_receiver_requests_total", receiver="otlp", transport="grpc", outcome="failure") == 1


def test_a_cancelled_call_is_whole_or_nothing(house, client, monkeypatch) -> None:
    started, may_sync, sync = threading.Event(), threading.Event(), os.fdatasync

    def wait(fd: int) -> None:
        started.set()
        may_sync.wait(10)
        sync(fd)

    with monkeypatch.context() as slow:
        slow.setattr(os, "fdatasync", wait)
        call = client.channel.unary_unary(f"/{SERVICES[Signal.TRACES]}/Export").future(house.traces("cancelled"))
        assert started.wait(5)
        call.cancel()
        may_sync.set()
    assert client.send(house.traces("next")) == b""
    assert house.names() == ["cancelled", "next"]  # durable before the cancel: the resend is a duplicate


def test_health_of_the_server_and_of_each_service(house, client) -> None:
    stub = health_pb2_grpc.HealthStub(client.channel)
    for service in ("", *SERVICES.values()):
        answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as caught:
        stub.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=5)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=10)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    (door,) = [door for door in house.doors if isinstance(door, GrpcReceiver)]
    door.set_ready(ready=False)
    assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
    door.set_ready(ready=True)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()


def test_draining_finishes_what_is_under_way_and_takes_nothing_new(house, client, monkeypatch) -> None:
    started, sync = threading.Event(), os.fdatasync

    def slow_sync(fd: int) -> None:
        started.set()
        time.sleep(0.3)
        sync(fd)

    monkeypatch.setattr(os, "fdatasync", slow_sync)
    call = client.channel.unary_unary(f"/{SERVICES[Signal.TRACES]}/Export").future(house.traces("last"))
    assert started.wait(5)
    (door,) = [door for door in house.doors if isinstance(door, GrpcReceiver)]
    door.drain(5)
    assert call.result(timeout=5) == b""
    assert house.names() == ["last"]
    assert client.refused(house.traces("late")).code() is grpc.StatusCode.UNAVAILABLE


def test_a_closed_intake_says_come_back(house, client) -> None:
    house.intake.close()
    error = client.refused(house.traces("late"))
    assert (error.code(), retry_delay_s(error)) == (grpc.StatusCode.UNAVAILABLE, 5)
    assert house.intake.problem == "shutting down"


def test_a_taken_port_names_the_key(house) -> None:
    door = GrpcReceiver(house.intake, f"127.0.0.1:{house.grpc}", key="receivers.otlp.protocols.grpc.endpoint")
    with pytest.raises(UsageError, match=r"receivers\.otlp\.protocols\.grpc\.endpoint: cannot listen on 127\.0\.0\.1"):
        door.start()
    door.stop()


def test_http1_on_the_grpc_port_is_turned_away(house, client) -> None:
    with socket.create_connection(("127.0.0.1", house.grpc), timeout=5) as plain:
        plain.sendall(b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        while plain.recv(4096):
            pass
    still_takes(house, client)


def test_the_python_sdk_delivers(house) -> None:
    provider = TracerProvider()
    exporter = OTLPSpanExporter(endpoint=f"127.0.0.1:{house.grpc}", insecure=True)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with provider.get_tracer("test").start_as_current_span("from the sdk"):
        pass
    provider.shutdown()
    assert house.names() == ["from the sdk"]
