"""Routes that harnesses ask before they spend: their payload in, their dialect out.

Always HTTP 200: harnesses ignore the body of anything else, and some take it for a
refusal. What cannot be read or decided in time is no objection, and a log line without content.
"""

from __future__ import annotations

import json
import time
import traceback
from typing import TYPE_CHECKING, Any, Final

import anyio
import structlog
from anyio.to_thread import run_sync
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Route

from otel_cost.core.decide import Decision, Verb
from otel_cost.core.hooks import HOOKS, answer_hook, outage_answers, read_hook
from otel_cost.core.model.event import DEFAULT_TENANT
from otel_cost.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

    from otel_cost.core.model.event import HookEvent

    Decide = Callable[[HookEvent], Decision]

MAX_BYTES: Final = 4 * 2**20
# Harnesses wait 300 ms at most; a later answer is one that nobody reads.
LIMIT_S: Final = 0.25
_THREADS: Final = 16

_log = structlog.get_logger(__name__)


def hook_routes(
    decide: Decide,
    *,
    tenant: str = DEFAULT_TENANT,
    now_ns: Callable[[], int] = time.time_ns,
    max_bytes: int = MAX_BYTES,
    limit_s: float = LIMIT_S,
) -> list[Route]:
    """`POST /v1/decide` and `POST /v1/hooks/{dialect}`.

    Args:
        decide: what to answer; it may block and is called on threads of its own.
            `event.dialect` and `event.raw` are what a journal keeps of the call.
        tenant: whose hooks these are.
        now_ns: receive time.
        max_bytes: a longer body is not read.
        limit_s: an answer that takes longer is no objection.
    """
    desk = _Desk(decide, tenant, now_ns, max_bytes, limit_s)

    async def neutral(request: Request) -> Response:
        return await desk.answer("neutral", request)

    async def harness(request: Request) -> Response:
        return await desk.answer(str(request.path_params["dialect"]), request)

    return [
        Route("/v1/decide", neutral, methods=["POST"]),
        Route("/v1/hooks/{dialect}", harness, methods=["POST"]),
    ]


class _Desk:
    """One place where every hook call is answered."""

    def __init__(self, decide: Decide, tenant: str, now_ns: Callable[[], int], max_bytes: int, limit_s: float) -> None:
        self._decide, self._tenant, self._now_ns = decide, tenant, now_ns
        self._max_bytes, self._limit_s = max_bytes, limit_s
        self._threads: anyio.CapacityLimiter | None = None

    async def answer(self, dialect: str, request: Request) -> Response:
        if dialect not in HOOKS:
            return _no_objection("unknown dialect", dialect=dialect[:40])
        body = await _body(request, self._max_bytes)
        if body is None:
            return _no_objection("hook payload too large or cut off", dialect=dialect)
        if self._threads is None:
            self._threads = anyio.CapacityLimiter(_THREADS)
        try:
            with anyio.move_on_after(self._limit_s):
                return await run_sync(self._decided, dialect, body, abandon_on_cancel=True, limiter=self._threads)
        except DecodeError as error:
            return _no_objection(str(error), dialect=dialect, bytes=len(body))
        except Exception as error:  # noqa: BLE001  # fail open, whatever it was
            return _failed(error, dialect)
        return _no_objection("not decided in time", dialect=dialect)

    def _decided(self, dialect: str, body: bytes) -> Response:
        event = read_hook(dialect, body, self._now_ns(), self._tenant)
        decision = self._decide(event)
        return _reply(answer_hook(dialect, event, decision), _memory(dialect, decision))


def _memory(dialect: str, decision: Decision) -> dict[str, str]:
    """What our own client remembers for the time when nobody answers."""
    headers = {"otel-cost-decision": str(decision.verb)}
    if decision.outage is not None:
        why = "stop" if decision.outage.verb is Verb.STOP else "closed"
        kept = {"why": why, "answers": outage_answers(dialect, decision.outage)}
        headers["otel-cost-outage"] = json.dumps(kept, separators=(",", ":"))
    return headers


async def _body(request: Request, max_bytes: int) -> bytes | None:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:12]) > max_bytes:
        return None
    chunks, size = [], 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > max_bytes:
                return None
            chunks.append(chunk)
    except ClientDisconnect:
        return None
    return b"".join(chunks)


def _no_objection(why: str, **facts: Any) -> Response:  # noqa: ANN401  # fields of a log line
    _log.warning("hook call without an answer", why=why, **facts)
    return _reply({})


def _failed(error: Exception, dialect: str) -> Response:
    """Where it went wrong, not what was said there: messages quote content."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else ""
    _log.error("a hook call could not be answered", error=type(error).__name__, at=place, dialect=dialect)
    return _reply({})


def _reply(answer: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    body = json.dumps(answer, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")
    return Response(body, headers=headers, media_type="application/json")
