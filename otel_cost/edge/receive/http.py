"""OTLP over HTTP/1.1: protobuf and JSON on one port, every refusal with a `google.rpc.Status` body.

The event loop only moves bytes: unpacking, decoding and waiting for the disk
happen in worker threads. Paths are exact: `/v1/traces/` is another path (404).
"""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import resource
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import uvicorn
import uvloop
from google.protobuf.json_format import MessageToDict
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from otel_cost.core.decode.otlp_json import json_to_protobuf
from otel_cost.core.model.effects import Signal
from otel_cost.edge.auth import PEER, peer_names
from otel_cost.edge.receive.answers import response_of
from otel_cost.edge.receive.compression import ACCEPTED, check_encoding, decompress
from otel_cost.edge.receive.refusals import (
    OverloadedError,
    RefusalError,
    SlowBodyError,
    TooLargeError,
    UnauthenticatedError,
    UnknownPathError,
    UnsupportedMediaError,
    WrongMethodError,
    refusal_of,
)
from otel_cost.edge.tls import names_in
from otel_cost.errors import UsageError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Collection, MutableMapping

    from google.protobuf.message import Message

    from otel_cost.edge.receive.intake import Intake

    Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
    Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

MAX_BYTES: Final = 64 * 1024 * 1024
BUFFERED_BYTES: Final = 256 * 1024 * 1024  # bodies on their way in, all connections together
THREADS: Final = 32  # most of them wait for the disk

HEADER_S: Final = 10.0
BODY_S: Final = 60.0
IDLE_S: Final = 60
MAX_CONNECTIONS: Final = 4096
_MAX_HEADER_BYTES: Final = 64 * 1024
_DISCARD_S: Final = 2.0  # a client that still sends would not see our answer, so we listen a little longer
_COMPRESS_ABOVE: Final = 512  # bytes of an answer; most are empty

PATHS: Final = {f"/v1/{signal.value}": signal for signal in Signal}
_PROTOBUF: Final = "application/x-protobuf"
_JSON: Final = "application/json"
_TYPES: Final = {_PROTOBUF: _PROTOBUF, "application/protobuf": _PROTOBUF, _JSON: _JSON}


class _Reply(NamedTuple):
    status: int
    message: Message
    headers: tuple[tuple[bytes, bytes], ...] = ()


class _Gone(Exception):  # noqa: N818 - not an error: there is nobody left to answer
    """The client hung up before its request was complete."""


class _Incoming:
    """The request body as it comes in."""

    __slots__ = ("_receive", "complete")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.complete = False

    async def part(self) -> bytes:
        event = await self._receive()
        if event["type"] == "http.disconnect":
            raise _Gone
        self.complete = not event.get("more_body", False)
        part: bytes = event.get("body", b"")
        return part


class HttpReceiver:
    """A server for `POST /v1/{traces,logs,metrics}` in a thread of its own.

    Signals that are not in `signals` are 404. `key` is the config key of the
    endpoint, for the message when it cannot be used.
    """

    def __init__(
        self,
        intake: Intake,
        endpoint: tuple[str, int],
        *,
        max_bytes: int = MAX_BYTES,
        buffered_bytes: int = BUFFERED_BYTES,
        strict_json: bool = False,
        signals: Collection[Signal] = tuple(Signal),
        header_timeout_s: float = HEADER_S,
        body_timeout_s: float = BODY_S,
        idle_timeout_s: int = IDLE_S,
        tls: Callable[[], ssl.SSLContext] | None = None,
        key: str = "receivers.otlp.protocols.http.endpoint",
    ) -> None:
        self._endpoint = endpoint
        self._key = key
        self._idle_timeout_s = idle_timeout_s
        self._tls = tls
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="http")
        self._protocol = patient(header_timeout_s)
        self._app = _App(
            intake, self._pool, max_bytes, buffered_bytes, body_timeout_s, frozenset(signals), strict_json=strict_json
        )
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> int:
        """Listen; the port that was bound.

        Raises:
            UsageError: the endpoint cannot be used.
        """
        listener = listen(*self._endpoint, key=self._key)
        config = uvicorn.Config(
            self._app,
            http=self._protocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=self._idle_timeout_s,
            ssl_context_factory=None if self._tls is None else lambda _config, _default: self._tls(),  # type: ignore[misc]
        )
        server = self._server = uvicorn.Server(config)

        def run() -> None:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(server.serve(sockets=[listener]))

        self._thread = threading.Thread(target=run, name="http", daemon=True)
        self._thread.start()
        return int(listener.getsockname()[1])

    def drain(self, grace_s: float) -> None:
        """Take no new connections, finish the requests under way, at most for so long."""
        if self._server is not None and self._thread is not None:
            self._server.config.timeout_graceful_shutdown = math.ceil(grace_s)
            self._server.should_exit = True
            self._thread.join()

    def stop(self) -> None:
        """Stop now; requests under way are cut off."""
        if self._server is not None:
            self._server.force_exit = True
        self.drain(1)
        self._pool.shutdown(wait=True, cancel_futures=True)


def patient(header_timeout_s: float) -> type[HttpToolsProtocol]:
    """Uvicorn's protocol with an end to waiting for headers, and to the number of connections."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = min(MAX_CONNECTIONS, descriptors // 4)
    return type("Protocol", (_PatientProtocol,), {"header_timeout_s": header_timeout_s, "most": most})


def listen(host: str, port: int, *, key: str) -> socket.socket:
    """A bound TCP socket.

    Made with IPPROTO_TCP: asyncio turns Nagle's algorithm off only on sockets that
    say so, and with it every keep-alive request costs 40 ms.

    Raises:
        UsageError: the address cannot be used; the text names `key`.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(2048)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise UsageError(f"{key}: cannot listen on {host}:{port}: {error.strerror}") from error
    listener.setblocking(False)
    return listener


class _App:
    """The ASGI application."""

    def __init__(
        self,
        intake: Intake,
        pool: ThreadPoolExecutor,
        max_bytes: int,
        buffered_bytes: int,
        body_timeout_s: float,
        signals: frozenset[Signal],
        *,
        strict_json: bool,
    ) -> None:
        self._intake = intake
        self._pool = pool
        self._max_bytes = max_bytes
        self._buffered_limit = buffered_bytes
        self._buffered = 0  # touched by the event loop only
        self._body_timeout_s = body_timeout_s
        self._signals = signals
        self._strict_json = strict_json

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        headers: dict[str, str] = {PEER: scope.get("otel_cost.peer", "")}
        for raw_name, raw_value in scope["headers"]:
            name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        media = headers.get("content-type", "").partition(";")[0].strip().lower()
        answer_type = _TYPES.get(media, _JSON)
        try:
            reply = await self._answer(scope, headers, _TYPES.get(media), _Incoming(receive))
        except _Gone:
            return
        await _send(reply, answer_type, "gzip" in headers.get("accept-encoding", ""), send)

    async def _answer(
        self, scope: MutableMapping[str, Any], headers: dict[str, str], media: str | None, incoming: _Incoming
    ) -> _Reply:
        signal = PATHS.get(scope["path"])
        if signal is None or signal not in self._signals:
            taken = ", ".join(sorted(path for path, one in PATHS.items() if one in self._signals))
            why = "no such path" if signal is None else f"no pipeline takes {signal.value} (`service.pipelines`)"
            return _refused(UnknownPathError(f"{why}; OTLP is taken at {taken}"))
        try:
            return await self._export(signal, scope["method"], headers, media, incoming)
        except RefusalError as refused:
            self._intake.refuse(signal, "http")
            if not isinstance(refused, SlowBodyError):
                await self._discard(incoming)
            return _refused(refused)

    async def _export(
        self, signal: Signal, method: str, headers: dict[str, str], media: str | None, incoming: _Incoming
    ) -> _Reply:
        if method != "POST":
            raise WrongMethodError(f"{method} is not POST")
        tenant = self._intake.authenticate(headers)
        if media is None:
            sent = headers.get("content-type", "")[:80]
            raise UnsupportedMediaError(f"Content-Type {sent!r} is neither {_PROTOBUF} nor {_JSON}")
        encoding = check_encoding(headers.get("content-encoding", ""))
        try:
            body = await asyncio.wait_for(self._body(headers, incoming), self._body_timeout_s)
        except TimeoutError:
            raise SlowBodyError(f"the body was not complete after {self._body_timeout_s:g} s") from None
        try:
            work = (signal, tenant, encoding, media, body)
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._take, *work)
        finally:
            self._buffered -= len(body)

    async def _body(self, headers: dict[str, str], incoming: _Incoming) -> bytes:
        """The whole body; its bytes count as buffered until the caller is done with them."""
        told = headers.get("content-length")
        if told is not None and int(told) > self._max_bytes:
            raise TooLargeError(f"Content-Length {told} is more than {self._max_bytes}")
        parts: list[bytes] = []
        size = 0
        try:
            while not incoming.complete:
                part = await incoming.part()
                parts.append(part)
                size += len(part)
                self._buffered += len(part)
                self._check_sizes(size)
        except BaseException:
            self._buffered -= size
            raise
        return b"".join(parts)

    def _check_sizes(self, size: int) -> None:
        if size > self._max_bytes:
            raise TooLargeError(f"the body is larger than {self._max_bytes} bytes")
        if self._buffered > self._buffered_limit:
            raise OverloadedError("too many requests are under way", 1.0)

    def _take(self, signal: Signal, tenant: str, encoding: str, media: str, body: bytes) -> _Reply:
        """In a worker thread: everything between the last byte of the body and the answer."""
        try:
            payload = decompress(body, encoding, self._max_bytes)
            if media == _JSON:
                payload, notes = json_to_protobuf(signal, payload, strict=self._strict_json)
                self._intake.note_json(notes)
        except Exception as error:  # noqa: BLE001 - every failure becomes an answer
            self._intake.refuse(signal, "http")
            return _refused(refusal_of(error))
        try:
            answer = self._intake.accept(signal, payload, tenant=tenant, transport="http")
        except RefusalError as refused:
            return _refused(refused)
        return _Reply(200, response_of(signal, answer))

    async def _discard(self, incoming: _Incoming) -> None:
        """Read on for a moment, so that a client that is still sending comes to read our answer."""
        left = 4 * self._max_bytes
        try:
            async with asyncio.timeout(_DISCARD_S):
                while left > 0 and not incoming.complete:
                    left -= len(await incoming.part())
        except TimeoutError:
            return


def _refused(refused: RefusalError) -> _Reply:
    headers: list[tuple[bytes, bytes]] = []
    if refused.retry_after_s is not None:
        headers.append((b"retry-after", str(math.ceil(refused.retry_after_s)).encode()))
    if isinstance(refused, WrongMethodError):
        headers.append((b"allow", b"POST"))
    if isinstance(refused, UnsupportedMediaError):
        headers.append((b"accept-encoding", ACCEPTED.encode()))
    if isinstance(refused, UnauthenticatedError):
        headers.append((b"www-authenticate", b"Bearer"))
    if isinstance(refused, SlowBodyError | TooLargeError):
        headers.append((b"connection", b"close"))  # what is left of the body would pass for the next request
    return _Reply(refused.http_status, refused.status(), tuple(headers))


async def _send(reply: _Reply, media: str, may_compress: bool, send: Send) -> None:
    if media == _JSON:
        body = json.dumps(MessageToDict(reply.message), separators=(",", ":")).encode()
    else:
        body = reply.message.SerializeToString()
    headers = [(b"content-type", media.encode()), *reply.headers]
    if may_compress and len(body) > _COMPRESS_ABOVE:
        body = gzip.compress(body)
        headers.append((b"content-encoding", b"gzip"))
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class _PatientProtocol(HttpToolsProtocol):
    """uvicorn's protocol with what it lacks: an end to waiting for headers, and to their size."""

    header_timeout_s: float
    most: int  # connections at a time
    _peer = ""
    _deadline: asyncio.TimerHandle | None = None
    _header_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.most:
            # Below the limit of descriptors, so that the journal can still open its files.
            transport.close()
            return
        certificate = transport.get_extra_info("peercert")
        if certificate:
            self._peer = peer_names(*names_in(certificate))
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._headers_done()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._deadline is None and (self.cycle is None or self.cycle.response_complete):
            self._await_headers()
        super().data_received(data)
        if self._deadline is not None:
            self._header_bytes += len(data)
            if self._header_bytes > _MAX_HEADER_BYTES and not self.transport.is_closing():
                self.send_400_response("Headers too large.")

    def on_headers_complete(self) -> None:
        self._headers_done()
        super().on_headers_complete()
        self.scope["otel_cost.peer"] = self._peer  # type: ignore[typeddict-unknown-key]

    def _await_headers(self) -> None:
        self._header_bytes = 0
        self._deadline = self.loop.call_later(self.header_timeout_s, self.transport.close)

    def _headers_done(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
