"""The API and the page on 8317: what is spent, on what, and whether the service is well."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from base64 import b64encode
from typing import TYPE_CHECKING, Final

import anyio.to_thread
import uvicorn
import uvloop
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from otel_cost.core.model.vocabulary import Category
from otel_cost.edge.auth import Auth, Door, Key, Scope, new_key
from otel_cost.edge.config import is_loopback
from otel_cost.edge.ledger import LedgerUnavailableError, UnknownDimensionError
from otel_cost.edge.receive.http import HEADER_S, patient
from otel_cost.edge.serve import discovery
from otel_cost.edge.serve.asked import count, one_of, times
from otel_cost.edge.serve.backtests import backtest_routes
from otel_cost.edge.serve.bodies import read_body
from otel_cost.edge.serve.gate import Gate
from otel_cost.edge.serve.hooks import hook_routes
from otel_cost.edge.serve.live import Live
from otel_cost.edge.serve.openapi import document
from otel_cost.edge.serve.outcomes import outcome_routes
from otel_cost.edge.serve.pages import HERE, Pages, page_routes
from otel_cost.edge.serve.people import people_routes, with_people
from otel_cost.edge.serve.reports import report_route
from otel_cost.edge.serve.upkeep import upkeep_routes
from otel_cost.edge.serve.views import Views
from otel_cost.edge.telemetry import HookMetrics
from otel_cost.edge.webhooks import read_object
from otel_cost.errors import OtelCostError, UsageError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, MutableMapping
    from pathlib import Path
    from typing import Any

    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Send
    from starlette.types import Scope as AsgiScope

    from otel_cost.edge.serve.views import Host

_MOST_BYTES: Final = 64 * 2**10
# Pages hold no foreign code, fonts or pictures, and nobody may frame them.
_CONTENT_POLICY: Final = (
    b"default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = (
    (b"content-security-policy", _CONTENT_POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)


def make_app(
    host: Host,
    *,
    reload: Callable[[], str] | None = None,
    door: Door | None = None,
    local: bool = False,
    redact_hook: Callable[[bytes, str], bytes] | None = None,
    pages: Pages | None = None,
    is_stopping: Callable[[], bool] = lambda: False,
) -> ASGIApp:
    """The routes. `reload` reads rules again, returns their hash and raises `OtelCostError` if they do not load.

    `door` and `local`: as in `Gate`. `redact_hook`: as in `hook_routes`.
    `pages`: those of the same host, where somebody else needs them, too. `is_stopping`: streams have to end.
    """
    pages = pages or Pages(Views(host))
    views = pages.views

    def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    def readyz(_: Request) -> Response:
        problems = host.problems()
        return JSONResponse({"ready": not problems, "problems": problems}, 503 if problems else 200)

    def metrics(_: Request) -> Response:
        return Response(generate_latest(host.registry), media_type=CONTENT_TYPE_LATEST)

    def runs(request: Request) -> Response:
        top = count(request, "top", 20)
        tenant = request.query_params.get("tenant")
        if request.query_params.get("open") == "true":
            return JSONResponse({"runs": views.open_runs(tenant)[:top]})
        return JSONResponse({"runs": views.runs(top or 20, *times(request), tenant)})

    def recorded(request: Request) -> Response:
        """Closed runs as they sleep, a JSON line each: what a backtest is fed with. No content is in them."""
        since_ns, until_ns = times(request)
        found = views.ledger.recorded(since_ns, until_ns, request.query_params.get("tenant"))
        lines = (
            json.dumps({"tenant": owner, "run_id": run_id, "snapshot": b64encode(frozen).decode(), "verdict": verdict})
            + "\n"
            for owner, run_id, frozen, verdict in found
        )
        return StreamingResponse(lines, media_type="application/x-ndjson")

    def one_run(request: Request) -> Response:
        run = views.run(request.path_params["id"], request.query_params.get("tenant"))
        if run is None:
            raise HTTPException(404, "no run or trace of this id is known")
        return JSONResponse(run)

    def alerts(request: Request) -> Response:
        since_ns, _ = times(request)
        limit, tenant = count(request, "limit", 100) or 100, request.query_params.get("tenant")
        found = views.ledger.alerts(limit, since_ns, tenant, one_of(request, "category", Category))
        return JSONResponse({"alerts": with_people(host.outbox, found)})

    def loops(request: Request) -> Response:
        since_ns, _ = times(request)
        found = views.ledger.loops(count(request, "top", 100) or 100, since_ns, request.query_params.get("tenant"))
        return JSONResponse({"loops": found})

    def openapi(_: Request) -> Response:
        return JSONResponse(document())

    def reloaded(_: Request) -> Response:
        if reload is None:
            raise HTTPException(501, "this service cannot reload; restart it")
        return JSONResponse({"status": "reloaded", "rules_hash": reload()})

    def budgets(request: Request) -> Response:
        found = host.budgets(request.query_params.get("tenant"), count(request, "limit", 100) or 100)
        rule = request.query_params.get("rule")
        return JSONResponse({"budgets": [row for row in found if rule in {None, row["rule"]}]})

    async def allow(request: Request) -> Response:
        try:
            told = read_object(await _small(request))
        except ValueError as error:
            raise UsageError("the body is no JSON object") from error
        tenant = request.query_params.get("tenant")
        return JSONResponse(await anyio.to_thread.run_sync(lambda: host.allow(told, tenant)))

    app = Starlette(
        routes=[
            *page_routes(pages),
            Live(pages.living, is_stopping).route(),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", metrics),
            report_route(views.ledger),
            Route("/v1/runs", runs),
            Route("/v1/recorded", recorded),
            Route("/v1/runs/{id:path}", one_run),
            Route("/v1/traces/{id:path}", one_run),
            Route("/v1/alerts", alerts),
            Route("/v1/budgets", budgets),
            Route("/v1/drift", lambda asked: JSONResponse({"drift": host.drift(asked.query_params.get("tenant"))})),
            Route("/v1/exceptions", allow, methods=["POST"]),
            Route("/v1/loops", loops),
            Route("/openapi.json", openapi),
            Route("/-/reload", reloaded, methods=["POST"]),
            *backtest_routes(host),
            *people_routes(host),
            *outcome_routes(host),
            *upkeep_routes(host),
            *hook_routes(
                lambda event: host.decide(event),  # noqa: PLW0108  # the host may not be complete yet
                expect=lambda: host.expect_hook(),  # noqa: PLW0108  # likewise
                metrics=HookMetrics(host.registry),
                redact=redact_hook,
            ),
            Mount("/static", StaticFiles(directory=HERE / "static")),
        ],
        exception_handlers={HTTPException: _http_error, OtelCostError: _own_error},
    )
    return _WithHeaders(Gate(app, door or Door(Auth()), local=local))


def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  # by its registration
    return JSONResponse({"error": error.detail}, error.status_code, headers=dict(error.headers or {}))


def _own_error(_: Request, error: Exception) -> Response:
    if isinstance(error, UnknownDimensionError):
        return JSONResponse({"error": str(error), "allowed": list(error.allowed)}, 400)
    if isinstance(error, LedgerUnavailableError):
        return JSONResponse({"error": str(error)}, 503, headers={"retry-after": "5"})
    return JSONResponse({"error": str(error)}, 400)


async def _small(request: Request) -> bytes:
    body = await read_body(request, _MOST_BYTES)
    if body is None:
        raise HTTPException(413, f"more than {_MOST_BYTES} bytes")
    return body


class _WithHeaders:
    """The same careful headers on every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        async def with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS]
            await send(message)

        await self._app(scope, receive, with_headers)


class ApiServer:
    """The app on its socket, in a thread with a loop of its own. `start`, then `stop`; both once."""

    def __init__(
        self,
        host: Host,
        endpoint: tuple[str, int],
        *,
        data_dir: Path | None = None,
        reload: Callable[[], str] | None = None,
        auth: Auth | None = None,
        tls: Callable[[], ssl.SSLContext] | None = None,
        redact_hook: Callable[[bytes, str], bytes] | None = None,
    ) -> None:
        """`endpoint`: host and port, 0 for any free one. `data_dir`: where commands look for us (`discovery`)."""
        self._endpoint, self._data_dir, self._scheme = endpoint, data_dir, "http" if tls is None else "https"
        self._local_key: str | None = None
        if auth is not None and auth.is_on and data_dir is not None:
            # Whoever may read the data directory needs no other key.
            self._local_key, hashed = new_key()
            local = Key(name="data directory", hash=hashed, scopes=(Scope.ADMIN,))
            auth = auth.model_copy(update={"keys": (*auth.keys, local)})
        self._stopping = threading.Event()
        self._pages = Pages(Views(host))
        self._warming = threading.Thread(target=self._warm, name="pages", daemon=True)
        self._server = uvicorn.Server(
            uvicorn.Config(
                make_app(
                    host,
                    reload=reload,
                    door=Door(auth or Auth()),
                    local=is_loopback(endpoint[0]),
                    redact_hook=redact_hook,
                    pages=self._pages,
                    is_stopping=self._stopping.is_set,
                ),
                http=patient(HEADER_S),
                ssl_context_factory=None if tls is None else lambda _config, _default: tls(),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_graceful_shutdown=2,
            )
        )
        self._thread: threading.Thread | None = None
        self._socket: socket.socket | None = None

    def start(self) -> int:
        """Listen and serve; the port.

        Raises:
            UsageError: the endpoint is taken or is not ours; the message names the key.
        """
        name, port = self._endpoint
        self._socket = _listen(name, port)
        bound: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, name="api", daemon=True)
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            time.sleep(0.005)
        if self._data_dir is not None:
            reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(name, name)  # noqa: S104  # read, not bound
            bracketed = f"[{reachable}]" if ":" in reachable else reachable
            discovery.announce(self._data_dir, f"{self._scheme}://{bracketed}:{bound}", self._local_key)
        self._warming.start()
        return bound

    def stop(self) -> None:
        """Finish what is being answered, at most two seconds."""
        if self._data_dir is not None:
            discovery.withdraw(self._data_dir)
        self._stopping.set()
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(5)
        if self._warming.ident is not None:
            self._warming.join(5)
        if self._socket is not None:
            self._socket.close()

    def _warm(self) -> None:
        with contextlib.suppress(OtelCostError):  # whoever opens the page is told
            self._pages.warm()

    def _serve(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            uvloop.run(self._server.serve(sockets=[self._socket] if self._socket is not None else None))


def _listen(name: str, port: int) -> socket.socket:
    """A listening socket made with IPPROTO_TCP, without which asyncio leaves Nagle's algorithm on."""
    try:
        family = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((name, port))
            listener.listen(128)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise UsageError(f"api.endpoint: cannot listen on {name}:{port}: {error.strerror or error}") from error
    return listener
