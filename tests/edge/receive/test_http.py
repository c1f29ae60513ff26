"""OTLP/HTTP on loopback: statuses, bodies and headers, for the polite and for the others."""

from __future__ import annotations

import errno
import gzip
import http.client
import json
import os
import socket
import threading
import time
import zlib

import pytest
from backports import zstd
from google.rpc.status_pb2 import Status
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from otel_cost.core.model.effects import Signal
from otel_cost.edge.receive.http import HttpReceiver
from otel_cost.edge.receive.refusals import (
    ForbiddenError,
    OverloadedError,
    RateLimitedError,
    UnauthenticatedError,
)
from otel_cost.errors import UsageError

PROTOBUF = "application/x-protobuf"
JSON = "application/json"
JSON_SPAN = {"traceId": "0102030405060708090a0b0c0d0e0f10", "spanId": "0102030405060708", "name": "json"}


class Answer:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.body = response.read()

    @property
    def error(self) -> Status:
        """The Status that every refusal carries, in the type that the headers say."""
        if self.headers["content-type"] == PROTOBUF:
            return Status.FromString(self.body)
        assert self.headers["content-type"] == JSON
        told = json.loads(self.body)
        return Status(code=told["code"], message=told["message"])


def post(
    house, body=b"", path: str = "/v1/traces", method: str = "POST", content_type: str | None = PROTOBUF, **headers
) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", house.http, timeout=10)
    try:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        if content_type is not None:
            fields["content-type"] = content_type
        connection.request(method, path, body, fields)
        return Answer(connection.getresponse())
    finally:
        connection.close()


def json_request(**fields) -> bytes:
    return json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [JSON_SPAN | fields]}]}]}).encode()


def still_takes(house) -> None:
    before = house.names()
    assert post(house, house.traces("still here")).status == 200
    assert house.names() == [*before, "still here"]


def raw(house, *chunks: bytes, pause_s: float = 0.0, until_closed: bool = True) -> bytes:
    """Send bytes as they are; everything that comes back before the other side closes."""
    with socket.create_connection(("127.0.0.1", house.http), timeout=5) as connection:
        for chunk in chunks:
            connection.sendall(chunk)
            time.sleep(pause_s)
        answer = b""
        while until_closed or b"\r\n\r\n" not in answer:
            try:
                data = connection.recv(65536)
            except ConnectionResetError:
                break
            if not data:
                break
            answer += data
        return answer


HEAD = b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\n"


def test_protobuf_in_protobuf_out(house) -> None:
    answer = post(house, house.traces("a", "b"))
    assert (answer.status, answer.headers["content-type"], answer.body) == (200, PROTOBUF, b"")
    assert house.names() == ["a", "b"]
    assert house.count("otelcol_receiver_accepted_spans_total", receiver="otlp", transport="http") == 2


@pytest.mark.parametrize(
    "content_type",
    [PROTOBUF, "application/protobuf", "application/x-protobuf; charset=utf-8", "Application/X-Protobuf;v=1"],
)
def test_protobuf_by_its_names(house, content_type: str) -> None:
    answer = post(house, house.traces("a"), content_type=content_type)
    assert (answer.status, answer.headers["content-type"]) == (200, PROTOBUF)


@pytest.mark.parametrize("content_type", [JSON, "application/json; charset=utf-8", "APPLICATION/JSON"])
def test_json_in_json_out(house, content_type: str) -> None:
    answer = post(house, json_request(), content_type=content_type)
    assert (answer.status, answer.headers["content-type"], answer.body) == (200, JSON, b"{}")
    assert house.names() == ["json"]
    assert house.delivered[0].decoded.events[0].trace_id.hex() == JSON_SPAN["traceId"]


def test_json_notes_are_counted(house) -> None:
    assert post(house, b'{"resource_spans": []}', content_type=JSON).status == 200
    assert house.count("otel_cost_receiver_json_ignored_keys_total") == 1
    assert post(house, json_request(kind="SPAN_KIND_CLIENT"), content_type=JSON).status == 200
    assert house.count("otel_cost_receiver_json_enum_names_total") == 1


def test_strict_json_refuses_enum_names(build) -> None:
    house = build().open(strict_json=True)
    answer = post(house, json_request(kind="SPAN_KIND_CLIENT"), content_type=JSON)
    assert answer.status == 400
    assert "resourceSpans[0].scopeSpans[0].spans[0].kind" in answer.error.message


@pytest.mark.parametrize(
    ("content_type", "body"), [(PROTOBUF, b""), (PROTOBUF, b"\x0a\x00"), (JSON, b"{}"), (JSON, b'{"resourceSpans":[]}')]
)
def test_nothing_in_it_succeeds(house, content_type: str, body: bytes) -> None:
    answer = post(house, body, content_type=content_type)
    assert (answer.status, answer.body) == (200, b"{}" if content_type == JSON else b"")
    assert list(house.journal.read()) == []


def test_partial_success_in_both_types(house) -> None:
    answer = post(house, house.traces("good", bad=3))
    told = ExportTraceServiceResponse.FromString(answer.body).partial_success
    assert (answer.status, told.rejected_spans) == (200, 3)
    assert "trace_id has 5 bytes" in told.error_message
    answer = post(house, json_request(spanId="AAECAwQFBgc="), content_type=JSON)
    assert answer.status == 200
    told = json.loads(answer.body)["partialSuccess"]
    assert told["rejectedSpans"] == "1"
    assert "span_id has 12 bytes" in told["errorMessage"]
    assert house.names() == ["good"]


def test_logs_and_metrics(house) -> None:
    logs = {"resourceLogs": [{"scopeLogs": [{"logRecords": [{"eventName": "e"}, {"traceId": "00"}]}]}]}
    answer = post(house, json.dumps(logs).encode(), "/v1/logs", content_type=JSON)
    assert json.loads(answer.body)["partialSuccess"]["rejectedLogRecords"] == "1"
    points = {"resourceMetrics": [{"scopeMetrics": [{"metrics": [{"name": "m", "gauge": {"dataPoints": [{}]}}]}]}]}
    answer = post(house, json.dumps(points).encode(), "/v1/metrics", content_type=JSON)
    assert (answer.status, answer.body) == (200, b"{}")
    assert [record.kind for record in house.delivered] == ["logs", "metrics"]


@pytest.mark.parametrize(
    ("content_type", "body", "told"),
    [
        (PROTOBUF, b"\xff" * 40, "no ExportTraceServiceRequest"),
        (PROTOBUF, b"{}", "no ExportTraceServiceRequest"),
        (JSON, b"\x0a\x00", "no JSON"),
        (JSON, b"", "no JSON"),
        (JSON, b'{"resourceSpans": 3}', "resourceSpans: a number where a list is expected"),
    ],
)
def test_what_cannot_be_decoded_is_400_with_a_status(house, content_type: str, body: bytes, told: str) -> None:
    answer = post(house, body, content_type=content_type)
    assert (answer.status, answer.headers["content-type"], answer.error.code) == (400, content_type, 3)
    assert told in answer.error.message
    assert house.count("otelcol_receiver_requests_total", receiver="otlp", transport="http", outcome="refused") == 1
    still_takes(house)


def test_a_truncated_request_is_400(house) -> None:
    assert post(house, house.traces("a", "b")[:-4]).status == 400
    still_takes(house)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods_are_405(house, method: str) -> None:
    answer = post(house, method=method, content_type=None)
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    assert answer.error.message == f"{method} is not POST"


@pytest.mark.parametrize("path", ["/", "/v1/traces/", "/v1/trace", "/v1/profiles", "/V1/TRACES", "/v1//traces"])
def test_other_paths_are_404(house, path: str) -> None:
    answer = post(house, house.traces("a"), path)
    assert (answer.status, answer.error.code) == (404, 12)
    still_takes(house)


def test_a_query_does_not_change_the_path(house) -> None:
    assert post(house, house.traces("a"), "/v1/traces?key=value").status == 200


def test_a_signal_that_is_not_served_is_404(build) -> None:
    house = build().open(signals=[Signal.LOGS])
    answer = post(house, b"", "/v1/traces")
    assert answer.status == 404
    assert "no pipeline takes traces (`service.pipelines`); OTLP is taken at /v1/logs" in answer.error.message
    assert post(house, b"", "/v1/logs").status == 200


@pytest.mark.parametrize("content_type", [None, "", "text/plain", "application/x-www-form-urlencoded", "json", ";"])
def test_other_types_are_415_with_a_json_status(house, content_type: str | None) -> None:
    answer = post(house, house.traces("a"), content_type=content_type)
    assert (answer.status, answer.headers["content-type"]) == (415, JSON)
    assert "Content-Type" in answer.error.message
    still_takes(house)


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("gzip", gzip.compress),
        ("GZIP", gzip.compress),
        ("x-gzip", gzip.compress),
        ("gzip", lambda body: gzip.compress(body[:5]) + gzip.compress(body[5:])),
        ("deflate", zlib.compress),
        ("identity", bytes),
        ("", bytes),
        ("identity, gzip", gzip.compress),
        ("zstd", zstd.compress),
        ("zstd", lambda body: zstd.compress(body[:5]) + zstd.compress(body[5:])),
    ],
)
def test_compressed_bodies(house, encoding: str, pack) -> None:
    assert post(house, pack(house.traces("a")), content_encoding=encoding).status == 200
    assert house.names() == ["a"]


@pytest.mark.parametrize("encoding", ["br", "snappy", "lz4", "gzip, gzip", "deflate, gzip", "zstd, gzip", "wat"])
def test_other_encodings_are_415_and_told_what_is_read(house, encoding: str) -> None:
    answer = post(house, house.traces("a"), content_encoding=encoding)
    assert (answer.status, answer.headers["accept-encoding"]) == (415, "gzip, deflate, zstd")
    assert "Content-Encoding" in answer.error.message
    still_takes(house)


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", b"plain"),
        ("gzip", b""),
        ("gzip", zlib.compress(b"x")),
        ("gzip", gzip.compress(b"x" * 1000, mtime=0)[:-9]),
        ("gzip", gzip.compress(b"", mtime=0) + b"tail"),
        ("deflate", gzip.compress(b"x", mtime=0)),
        ("deflate", zlib.compress(b"") + b"tail"),
        ("deflate", zlib.compress(b"x" * 1000)[:-3]),
        ("zstd", b"plain"),
        ("zstd", b""),
        ("zstd", zstd.compress(b"x" * 1000)[:-3]),
        ("zstd", zstd.compress(b"") + b"tail"),
    ],
)
def test_a_body_that_is_not_of_its_encoding_is_400(house, encoding: str, body: bytes) -> None:
    answer = post(house, body, content_encoding=encoding)
    assert (answer.status, answer.error.code) == (400, 3)
    still_takes(house)


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
def test_a_bomb_is_413_at_the_limit(house, pack) -> None:
    encoding = "gzip" if pack is gzip.compress else "deflate"
    body = pack(bytes(300 * 2**20))
    assert len(body) < 2**20
    before = resident_bytes()
    answer = post(house, body, content_encoding=encoding)
    assert (answer.status, answer.error.code) == (413, 8)
    assert resident_bytes() - before < 64 * 2**20
    assert "retry-after" not in answer.headers
    still_takes(house)


def resident_bytes() -> int:
    with open("/proc/self/statm") as statm:  # noqa: PTH123 - a pseudo file
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_large_body_is_413_with_and_without_a_length(house) -> None:
    body = bytes(2**21)
    for sent in (body, iter([body[: 2**20], body[2**20 :]])):  # an iterator is sent in chunks
        answer = post(house, sent)
        assert (answer.status, answer.error.code) == (413, 8)
        still_takes(house)


def test_a_body_of_exactly_the_limit_is_read(house) -> None:
    span = house.traces("x" * (2**20 - 200))
    assert post(house, span).status == 200
    filler = 2**20 - len(span)
    tag = b"\xfa\x06"  # field 111, bytes: unknown to everybody
    padded = span + tag + bytes([filler - 4 & 0x7F | 0x80, filler - 4 >> 7]) + bytes(filler - 4)
    assert len(padded) == 2**20
    assert post(house, padded).status == 200
    assert post(house, padded + b"\x00").status == 413


def test_the_credential_is_checked_before_anything_else_of_the_body(build) -> None:
    def authenticate(headers) -> str:
        match headers.get("x-api-key"):
            case "good":
                return "acme"
            case "read-only":
                raise ForbiddenError("this key may not ingest")
            case _:
                raise UnauthenticatedError("no such key")

    house = build(authenticate=authenticate).open(max_bytes=1000)
    assert post(house, house.traces("a"), X_API_Key="good").status == 200
    assert house.delivered[0].tenant == "acme"
    answer = post(house, bytes(5000), content_type="text/plain")
    assert (answer.status, answer.headers["www-authenticate"], answer.error.code) == (401, "Bearer", 16)
    answer = post(house, house.traces("a"), X_API_Key="read-only")
    assert (answer.status, answer.error.message) == (403, "this key may not ingest")


@pytest.mark.parametrize(
    ("raised", "status", "after"),
    [(OverloadedError("queue full", 2.5), 503, "3"), (RateLimitedError("over its share", 7), 429, "7")],
)
def test_pushing_back_says_when_to_come_again(build, raised, status: int, after: str) -> None:
    def admit(tenant: str, size: int) -> None:
        raise raised

    house = build(admit=admit).open()
    answer = post(house, json_request(), content_type=JSON)
    assert (answer.status, answer.headers["retry-after"]) == (status, after)
    (detail,) = json.loads(answer.body)["details"]
    assert detail["@type"] == "type.googleapis.com/google.rpc.RetryInfo"


def test_a_full_disk_is_503_and_passes(house, monkeypatch) -> None:
    def full(*_args: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, "write", full)
        answer = post(house, house.traces("refused"))
    assert (answer.status, answer.headers["retry-after"], answer.error.code) == (503, "5", 14)
    still_takes(house)


def test_a_slow_disk_is_504(build, monkeypatch) -> None:
    house = build(ack_timeout_s=0.05).open()
    may_sync = threading.Event()
    monkeypatch.setattr(os, "fdatasync", lambda fd: may_sync.wait(10))
    answer = post(house, house.traces("a"))
    may_sync.set()
    assert answer.status == 504


def test_our_own_mistake_is_500_and_quotes_nothing(build) -> None:
    def authenticate(headers) -> str:
        raise KeyError("secret")

    house = build(authenticate=authenticate).open()
    answer = post(house, house.traces("a"))
    assert (answer.status, answer.error.code) == (500, 13)
    assert b"secret" not in answer.body


def test_too_many_bodies_at_once_are_told_to_come_back(build) -> None:
    house = build().open(buffered_bytes=100_000)
    with socket.create_connection(("127.0.0.1", house.http), timeout=5) as hoarder:
        hoarder.sendall(HEAD + b"Content-Length: 95000\r\n\r\n" + bytes(90_000))
        deadline = time.monotonic() + 5
        answer = post(house, house.traces("x" * 50_000))
        while answer.status != 503 and time.monotonic() < deadline:
            answer = post(house, house.traces("x" * 50_000))
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    while post(house, house.traces("x" * 50_000)).status != 200 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert post(house, house.traces("x" * 50_000)).status == 200


def test_answers_are_compressed_on_request_only(build) -> None:
    def authenticate(headers) -> str:
        raise UnauthenticatedError("why " * 200)

    house = build(authenticate=authenticate).open()
    plain = post(house, b"")
    packed = post(house, b"", accept_encoding="gzip")
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed.body) == plain.body


def test_one_connection_serves_many_requests_without_delay(house) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", house.http, timeout=5)
    started = time.monotonic()
    for number in range(30):
        connection.request("POST", "/v1/traces", house.traces(str(number)), {"content-type": PROTOBUF})
        assert connection.getresponse().read() == b""
    assert time.monotonic() - started < 1.2  # 40 ms each if Nagle's algorithm were on
    connection.close()
    assert house.names() == [str(number) for number in range(30)]


# Rude clients


def test_a_body_shorter_than_told_stores_nothing(house) -> None:
    body = house.traces("half")
    with socket.create_connection(("127.0.0.1", house.http)) as connection:
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % (len(body) + 9) + body)
    still_takes(house)
    assert house.names() == ["still here"]


def test_a_body_that_never_ends_is_timed_out(house) -> None:
    answer = raw(house, HEAD + b"Content-Length: 9\r\n\r\n" + b"\x0a")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in answer
    still_takes(house)


def test_a_body_longer_than_told_is_refused_after_the_told_part(house) -> None:
    body = house.traces("told")
    answer = raw(house, HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body + b"and more\r\n\r\n")
    assert b"400 Bad Request" in answer
    still_takes(house)


@pytest.mark.parametrize("chunks", [[b""], [b"POST /v1/traces HTTP/1.1\r\nHost:"], [b"P", b"O"]])
def test_headers_that_never_end_are_timed_out(house, chunks: list[bytes]) -> None:
    started = time.monotonic()
    raw(house, *chunks)
    assert time.monotonic() - started < 3
    still_takes(house)


def test_slow_headers_after_a_good_request_are_timed_out_too(house) -> None:
    good = HEAD + b"Content-Length: 0\r\n\r\n"
    started = time.monotonic()
    answer = raw(house, good, b"POST /v1", pause_s=0.1)
    assert answer.count(b"HTTP/1.1 200") == 1
    assert time.monotonic() - started < 3


def test_an_idle_connection_is_closed(house) -> None:
    started = time.monotonic()
    assert raw(house, HEAD + b"Content-Length: 0\r\n\r\n").startswith(b"HTTP/1.1 200")
    assert 0.5 < time.monotonic() - started < 4


@pytest.mark.parametrize(
    "head",
    [
        HEAD + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a TLS hello
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",  # gRPC's preface
        b"nonsense\r\n\r\n",
    ],
)
def test_broken_http_is_400_and_closed(house, head: bytes) -> None:
    answer = raw(house, head)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")
    still_takes(house)
    assert house.names() == ["still here"]


def test_endless_headers_are_cut_off(house) -> None:
    answer = raw(house, HEAD + b"X: " + b"y" * 200_000)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")
    still_takes(house)


def test_a_client_that_leaves_before_the_answer_loses_nothing(house, monkeypatch) -> None:
    started, sync = threading.Event(), os.fdatasync

    def slow_sync(fd: int) -> None:
        started.set()
        time.sleep(0.2)
        sync(fd)

    with monkeypatch.context() as slow:
        slow.setattr(os, "fdatasync", slow_sync)
        body = house.traces("kept")
        with socket.create_connection(("127.0.0.1", house.http)) as connection:
            connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            assert started.wait(5)
    assert post(house, house.traces("next")).status == 200
    assert house.names() == ["kept", "next"]


def test_draining_finishes_what_is_under_way_and_takes_nothing_new(house, monkeypatch) -> None:
    started, sync = threading.Event(), os.fdatasync

    def slow_sync(fd: int) -> None:
        started.set()
        time.sleep(0.3)
        sync(fd)

    monkeypatch.setattr(os, "fdatasync", slow_sync)
    answers: list[Answer] = []
    sender = threading.Thread(target=lambda: answers.append(post(house, house.traces("last"))))
    sender.start()
    assert started.wait(5)
    (door,) = [door for door in house.doors if isinstance(door, HttpReceiver)]
    door.drain(5)
    sender.join()
    assert [answer.status for answer in answers] == [200]
    assert house.names() == ["last"]
    with pytest.raises(ConnectionRefusedError):
        post(house, house.traces("late"))


def test_a_taken_port_names_the_key(house) -> None:
    door = HttpReceiver(house.intake, ("127.0.0.1", house.http))
    with pytest.raises(UsageError, match=r"receivers\.otlp\.protocols\.http\.endpoint: cannot listen on 127\.0\.0\.1"):
        door.start()
    door.stop()


def test_ipv6(build) -> None:
    house = build()
    door = HttpReceiver(house.intake, ("::1", 0))
    house.doors.append(door)
    try:
        port = door.start()
    except UsageError:
        pytest.skip("no IPv6 on this machine")
    connection = http.client.HTTPConnection("::1", port, timeout=5)
    connection.request("POST", "/v1/traces", b"", {"content-type": PROTOBUF})
    assert connection.getresponse().status == 200
    connection.close()


def test_the_python_sdk_delivers(house) -> None:
    provider = TracerProvider()
    exporter = OTLPSpanExporter(endpoint=f"http://127.0.0.1:{house.http}/v1/traces")
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with provider.get_tracer("test").start_as_current_span("from the sdk"):
        pass
    provider.shutdown()
    assert house.names() == ["from the sdk"]


def test_a_hundred_idle_connections_do_not_keep_others_out(house) -> None:
    idle = [socket.create_connection(("127.0.0.1", house.http)) for _ in range(100)]
    still_takes(house)
    time.sleep(0.6)
    for connection in idle:
        connection.settimeout(2)
        assert connection.recv(1) == b""  # closed by the header timeout
        connection.close()
