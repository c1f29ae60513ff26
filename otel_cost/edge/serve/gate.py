"""Gate: who may ask the API what, before any route sees the request.

A credential that belongs to a tenant sees that tenant alone: the query's `tenant` is
replaced by its own, and what it sends at hooks is its tenant's. Browsers may log in
with Basic (any name, the key as password); since they then send it by themselves, a
request that changes something must come from our own pages. Without keys we answer
only to names of this machine where only this machine reaches us, so that no web page
gets in by a name of its own that points here (DNS rebinding).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from otel_cost.edge.auth import NOBODY, PEER, Scope
from otel_cost.edge.receive.refusals import ForbiddenError, RefusalError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Send
    from starlette.types import Scope as AsgiScope

    from otel_cost.edge.auth import Door, Identity

_OPEN: Final = frozenset({"/healthz", "/readyz"})
_TOLD_TO_US: Final = ("/v1/decide", "/v1/hooks/", "/v1/outcomes")
_WEBHOOK: Final = "/v1/outcomes"
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_LOCAL: Final = frozenset({"localhost", "127.0.0.1", "::1"})


def scope_of(method: str, path: str) -> Scope | None:
    """What a request needs; None: nothing."""
    if path in _OPEN:
        return None
    if method in _SAFE:
        return Scope.READ
    return Scope.INGEST if path.startswith(_TOLD_TO_US) else Scope.ADMIN


def tenant_of(scope: AsgiScope) -> str:
    """Whose data a request brings."""
    identity: Identity = scope.get("otel_cost.identity", NOBODY)
    return identity.sends_as


class Gate:
    """ASGI middleware around the API."""

    def __init__(self, app: ASGIApp, door: Door, *, local: bool) -> None:
        """`local`: only this machine reaches the socket."""
        self._app, self._door, self._local = app, door, local

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        headers[PEER] = scope.get("otel_cost.peer", "")
        try:
            identity = self._let_in(scope["method"], scope["path"], headers)
        except RefusalError as refused:
            await _refuse(refused, send)
            return
        scope["otel_cost.identity"] = identity
        if identity.tenant is not None:
            scope["query_string"] = _with_tenant(scope["query_string"], identity.tenant)
        await self._app(scope, receive, send)

    def _let_in(self, method: str, path: str, headers: dict[str, str]) -> Identity:
        needed = scope_of(method, path)
        if needed is None or (path == _WEBHOOK and "x-github-event" in headers):  # its route checks the signature
            return NOBODY
        if not self._door.is_on and self._local:
            host = urlsplit(f"//{headers.get('host', 'localhost')}").hostname
            if host not in _LOCAL:
                raise ForbiddenError("this service answers to names of its own machine only; configure `auth.keys`")
        identity = self._door.identify(headers)
        if not identity.may(needed):
            raise ForbiddenError(f"this credential may not do that; it lacks the scope `{needed}`")
        if method not in _SAFE and _from_another_site(headers):
            raise ForbiddenError("asked by a page of another site")
        return identity


def _from_another_site(headers: dict[str, str]) -> bool:
    if headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}:
        return True
    origin = headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != headers.get("host")


def _with_tenant(query: bytes, tenant: str) -> bytes:
    kept = [
        (key, value) for key, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True) if key != "tenant"
    ]
    return urlencode([*kept, ("tenant", tenant)]).encode()


async def _refuse(refused: RefusalError, send: Send) -> None:
    body = json.dumps({"error": str(refused)}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if refused.http_status == 401:
        headers.append((b"www-authenticate", b'Basic realm="otel-cost", charset="UTF-8"'))
    await send({"type": "http.response.start", "status": refused.http_status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
