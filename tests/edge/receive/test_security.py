"""Keys, certificates and bombs at both doors, with real clients."""

from __future__ import annotations

import contextlib
import http.client
import resource
import ssl
import time
import urllib.request
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import trustme
from backports import zstd

from otel_cost.edge.auth import Auth, Door, new_key
from otel_cost.edge.receive.grpc import GrpcReceiver
from otel_cost.edge.receive.http import HttpReceiver
from otel_cost.edge.tls import Certificates, ServerTls
from otel_cost.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
KEYS = {name: new_key() for name in ("a", "a2", "b", "reader", "gateway", "old")}


def auth(**more: Any) -> Auth:
    keys = [
        {"name": "a", "tenant": "team-a", "hash": KEYS["a"][1]},
        {"name": "a2", "tenant": "team-a", "hash": KEYS["a2"][1]},
        {"name": "b", "tenant": "team-b", "key": KEYS["b"][0]},
        {"name": "reader", "hash": KEYS["reader"][1], "scopes": ["read"]},
        {"name": "gateway", "hash": KEYS["gateway"][1], "tenant_header": "X-Scope-OrgID"},
        {"name": "old", "hash": KEYS["old"][1], "expires": "2020-01-01T00:00:00Z"},
    ]
    return Auth.model_validate({"keys": keys, **more})


@pytest.fixture
def house(build: Callable[..., Any]) -> Any:
    return build(authenticate=Door(auth()).sender).open(max_bytes=2**20)


def over_grpc(house: Any, body: bytes, *metadata: tuple[str, str]) -> grpc.StatusCode:
    with grpc.insecure_channel(f"127.0.0.1:{house.grpc}") as channel:
        try:
            channel.unary_unary(EXPORT, None, None)(body, timeout=10, metadata=metadata)
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


def over_http(house: Any, body: bytes, **headers: str) -> tuple[int, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", house.http, timeout=10)
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("POST", "/v1/traces", body, {"content-type": "application/x-protobuf", **fields})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}


def test_the_tenant_comes_from_the_key_and_from_nothing_else(house: Any) -> None:
    body = house.traces("one")
    bearer = {name: f"Bearer {key}" for name, (key, _) in KEYS.items()}
    assert over_http(house, body, authorization=bearer["a"], x_scope_orgid="team-b", x_tenant="team-b")[0] == 200
    assert over_http(house, body, x_api_key=KEYS["b"][0])[0] == 200
    assert over_grpc(house, body, ("authorization", bearer["a2"])) is grpc.StatusCode.OK
    assert over_grpc(house, body, ("authorization", bearer["gateway"]), ("x-scope-orgid", "team-c")) is (
        grpc.StatusCode.OK
    )
    assert [record.tenant for record in house.delivered] == ["team-a", "team-b", "team-a", "team-c"]


@pytest.mark.parametrize("given", ["", "wrong", "old", "Basic", "Bearer ", "Basic bm9jb2xvbg==", "Basic ///"])
def test_no_wrong_or_expired_key_is_401_and_unauthenticated(house: Any, given: str) -> None:
    value = f"Bearer {KEYS['old'][0]}" if given == "old" else given
    status, headers = over_http(house, house.traces("one"), authorization=value)
    assert (status, headers["www-authenticate"]) == (401, "Bearer")
    assert over_grpc(house, house.traces("one"), ("authorization", value)) is grpc.StatusCode.UNAUTHENTICATED
    assert house.delivered == []
    assert house.count("otelcol_receiver_requests_total", receiver="otlp", transport="grpc", outcome="refused") == 1


def test_a_key_without_the_scope_is_403(house: Any) -> None:
    reader = f"Bearer {KEYS['reader'][0]}"
    assert over_http(house, house.traces("one"), authorization=reader)[0] == 403
    assert over_grpc(house, house.traces("one"), ("authorization", reader)) is grpc.StatusCode.PERMISSION_DENIED
    gateway = f"Bearer {KEYS['gateway'][0]}"
    for tenant in ("", "../etc", "a b", "x" * 65):
        assert over_http(house, b"", authorization=gateway, x_scope_orgid=tenant)[0] == 403
    assert over_grpc(house, b"", ("authorization", gateway)) is grpc.StatusCode.PERMISSION_DENIED


def test_who_has_no_key_is_told_before_the_body_is_read(house: Any) -> None:
    """A body that never comes: the answer does not wait for it."""
    connection = http.client.HTTPConnection("127.0.0.1", house.http, timeout=10)
    connection.putrequest("POST", "/v1/traces")
    connection.putheader("content-type", "application/x-protobuf")
    connection.putheader("content-length", "1000000")
    connection.endheaders()
    begun = time.monotonic()
    assert connection.getresponse().status == 401
    assert time.monotonic() - begun < 3
    connection.close()

    def never() -> Any:
        time.sleep(5)
        yield b""

    with grpc.insecure_channel(f"127.0.0.1:{house.grpc}") as channel:
        call = channel.stream_unary(EXPORT, None, None)
        begun = time.monotonic()
        with pytest.raises(grpc.RpcError) as refused:
            call(never(), timeout=10)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert time.monotonic() - begun < 3


def test_secrets_are_printed_nowhere() -> None:
    given = auth()
    for shown in (repr(given), str(given), given.model_dump_json(), str(given.model_dump(mode="json"))):
        assert KEYS["b"][0] not in shown
    for wrong in ({"keys": [{"name": "x", "key": "short-secret"}]}, {"keys": [{"name": "x", "key": "s" * 20, "y": 1}]}):
        with pytest.raises(ValueError, match="key") as raised:
            Auth.model_validate(wrong)
        assert "short-secret" not in str(raised.value)
        assert "s" * 20 not in str(raised.value)


# --- TLS


class Files:
    """A certificate authority and the files of one server."""

    def __init__(self, folder: Path) -> None:
        self.ca = trustme.CA()
        self.folder = folder
        self.ca_file = folder / "ca.pem"
        self.ca.cert_pem.write_to_path(str(self.ca_file))
        self.issue("first.local")

    def issue(self, name: str) -> None:
        made = self.ca.issue_cert("localhost", "127.0.0.1", name)
        made.private_key_pem.write_to_path(str(self.folder / "key.pem"))
        (self.folder / "cert.pem").write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))

    def client(self, name: str) -> tuple[bytes, bytes]:
        made = self.ca.issue_cert(name, common_name=name)
        return made.private_key_pem.bytes(), b"".join(blob.bytes() for blob in made.cert_chain_pems)

    def tls(self, **more: Any) -> ServerTls:
        given = {"cert_file": self.folder / "cert.pem", "key_file": self.folder / "key.pem", "reload_interval": "0s"}
        return ServerTls.model_validate({**given, **more})


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def doors(house: Any, tls: ServerTls) -> tuple[int, int]:
    over_http = HttpReceiver(house.intake, ("127.0.0.1", 0), tls=Certificates(tls, "http").context)
    over_grpc = GrpcReceiver(house.intake, "127.0.0.1:0", credentials=Certificates(tls, "grpc").grpc_credentials())
    house.doors += [over_http, over_grpc]
    return over_http.start(), over_grpc.start()


def client_context(files: Files, client: tuple[bytes, bytes] | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(files.ca_file))
    if client is not None:
        both = files.folder / "client.pem"
        both.write_bytes(client[0] + client[1])
        context.load_cert_chain(both)
    return context


def post_tls(port: int, body: bytes, context: ssl.SSLContext) -> int:
    request = urllib.request.Request(
        f"https://localhost:{port}/v1/traces", body, {"content-type": "application/x-protobuf"}, method="POST"
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def export_tls(port: int, body: bytes, files: Files, client: tuple[bytes, bytes] | None = None) -> grpc.StatusCode:
    key, chain = client or (None, None)
    credentials = grpc.ssl_channel_credentials(files.ca_file.read_bytes(), key, chain)
    with grpc.secure_channel(f"localhost:{port}", credentials) as channel:
        try:
            channel.unary_unary(EXPORT, None, None)(body, timeout=5)
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


def test_tls_on_both_doors_and_plain_text_is_turned_away(build: Callable[..., Any], files: Files) -> None:
    house = build()
    over_http, over_grpc = doors(house, files.tls())
    assert post_tls(over_http, house.traces("a"), client_context(files)) == 200
    assert export_tls(over_grpc, house.traces("b"), files) is grpc.StatusCode.OK
    assert house.names() == ["a", "b"]
    plain = http.client.HTTPConnection("127.0.0.1", over_http, timeout=5)
    with contextlib.closing(plain), pytest.raises((http.client.HTTPException, OSError)):
        plain.request("POST", "/v1/traces", b"") or plain.getresponse()


def test_a_client_without_a_certificate_does_not_get_in(build: Callable[..., Any], files: Files) -> None:
    people = Auth.model_validate({"certificates": [{"name": "agent", "subject": "agent-7", "tenant": "team-a"}]})
    house = build(authenticate=Door(people).sender, knows_certificates=True)
    over_http, over_grpc = doors(house, files.tls(client_ca_file=files.ca_file))
    known, stranger = files.client("agent-7"), files.client("somebody")
    assert post_tls(over_http, house.traces("a"), client_context(files, known)) == 200
    assert export_tls(over_grpc, house.traces("b"), files, known) is grpc.StatusCode.OK
    assert [record.tenant for record in house.delivered] == ["team-a", "team-a"]
    assert post_tls(over_http, house.traces("c"), client_context(files, stranger)) == 401
    assert export_tls(over_grpc, house.traces("d"), files, stranger) is grpc.StatusCode.UNAUTHENTICATED
    with pytest.raises(OSError):  # noqa: PT011  # the handshake or the first read fails, as TLS 1.3 has it
        post_tls(over_http, house.traces("e"), client_context(files))
    assert export_tls(over_grpc, house.traces("f"), files) is grpc.StatusCode.UNAVAILABLE
    assert house.names() == ["a", "b"]


def test_no_header_can_claim_a_certificate(build: Callable[..., Any]) -> None:
    people = Auth.model_validate({"certificates": [{"name": "agent", "subject": "agent-7"}]})
    house = build(authenticate=Door(people).sender, knows_certificates=True).open()
    connection = http.client.HTTPConnection("127.0.0.1", house.http, timeout=10)
    connection._validate_header_part = lambda _: None  # type: ignore[attr-defined]
    connection.putrequest("POST", "/v1/traces")
    connection._output(b":peer: agent-7")  # type: ignore[attr-defined]
    connection.putheader("content-type", "application/x-protobuf")
    connection.putheader("content-length", "0")
    connection.endheaders()
    assert connection.getresponse().status in {400, 401}
    connection.close()
    assert over_grpc(house, b"") is grpc.StatusCode.UNAUTHENTICATED


def test_a_new_certificate_is_used_without_a_restart_and_a_broken_one_is_not(
    build: Callable[..., Any], files: Files
) -> None:
    house = build()
    over_http, over_grpc = doors(house, files.tls())

    def served(port: int) -> set[str]:
        pem = ssl.get_server_certificate(("127.0.0.1", port), ca_certs=str(files.ca_file))
        der = ssl.PEM_cert_to_DER_cert(pem)
        return {name for name in ("first.local", "second.local") if name.encode() in der}

    assert served(over_http) == served(over_grpc) == {"first.local"}
    files.issue("second.local")
    assert served(over_http) == served(over_grpc) == {"second.local"}
    (files.folder / "cert.pem").write_text("no certificate")
    assert served(over_http) == served(over_grpc) == {"second.local"}
    with pytest.raises(UsageError, match=r"receivers\.x\.tls"):
        Certificates(files.tls(), "receivers.x")


# --- bombs


@pytest.mark.parametrize("body", [zstd.compress(bytes(300 * 2**20)), b"".join([zstd.compress(bytes(2**20))] * 200)])
def test_a_zstd_bomb_is_413_and_memory_stays_flat(build: Callable[..., Any], body: bytes) -> None:
    house = build().open(max_bytes=2**20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert over_http(house, body[: 2**20], content_encoding="zstd")[0] == 413
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40 * 1024  # KiB


def test_a_zstd_frame_that_claims_a_huge_window_is_413(build: Callable[..., Any]) -> None:
    house = build().open(max_bytes=2**20)
    options = {
        zstd.CompressionParameter.window_log: 27,
        zstd.CompressionParameter.content_size_flag: 0,
        zstd.CompressionParameter.enable_long_distance_matching: 1,
    }
    packer = zstd.ZstdCompressor(options=options)
    body = packer.compress(b"x") + packer.flush()
    assert over_http(house, body, content_encoding="zstd")[0] == 413
