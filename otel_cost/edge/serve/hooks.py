"""Routes that harnesses ask before they spend: their payload in, their dialect out.

Always HTTP 200: harnesses ignore the body of anything else, and some take it for a
refusal. What cannot be read or decided in time is no objection, and a log line without content.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final

import structlog
from anyio.to_thread import run_sync
from starlette.responses import Response
from starlette.routing import Route

from otel_cost.core.decide import Decision, Verb
from otel_cost.core.hooks import HOOKS, answer_hook, outage_answers, read_hook, unanswered
from otel_cost.edge.clock import now_ns
from otel_cost.edge.right_of_way import finish_first, hurry
from otel_cost.edge.serve.bodies import read_body
from otel_cost.edge.serve.gate import tenant_of
from otel_cost.errors import DecodeError, whereabouts

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from contextlib import AbstractContextManager

    from starlette.requests import Request

    from otel_cost.core.model.event import HookEvent
    from otel_cost.edge.telemetry import HookMetrics

    Decide = Callable[[HookEvent], Future[Decision]]
    Expect = Callable[[], AbstractContextManager[Decide]]

MAX_BYTES: Final = 4 * 2**20
# Each harness gives up by itself, most after 300 ms; this only keeps calls from piling up behind a stuck engine.
LIMIT_S: Final = 5.0
# A longer body is read on a thread: the loop has others to answer.
_LONG_BYTES: Final = 64 * 1024

_log = structlog.get_logger(__name__)


def hook_routes(
    decide: Decide,
    *,
    expect: Expect | None = None,
    metrics: HookMetrics | None = None,
    redact: Callable[[bytes, str], bytes] | None = None,
    now_ns: Callable[[], int] = now_ns,
    max_bytes: int = MAX_BYTES,
    limit_s: float = LIMIT_S,
) -> list[Route]:
    """`POST /v1/decide` and `POST /v1/hooks/{dialect}`.

    Args:
        decide: what to answer, which must not block; it is called on the event loop.
            `event.dialect` and `event.raw` are what a journal keeps of the call.
        expect: is told that a call is about to be read, and gives what decides it, which may
            take a few milliseconds; None: `decide` does.
        metrics: counts the calls, by what came of them.
        redact: takes out of a tenant's call what must not come to rest.
        now_ns: receive time.
        max_bytes: a longer body is not read.
        limit_s: an answer that takes longer is no objection.
    """
    desk = _Desk(decide, expect, metrics, redact, now_ns, max_bytes, limit_s)

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

    def __init__(
        self,
        decide: Decide,
        expect: Expect | None,
        metrics: HookMetrics | None,
        redact: Callable[[bytes, str], bytes] | None,
        now_ns: Callable[[], int],
        max_bytes: int,
        limit_s: float,
    ) -> None:
        self._decide, self._expect = decide, expect
        self._metrics, self._redact, self._now_ns = metrics, redact, now_ns
        self._max_bytes, self._limit_s = max_bytes, limit_s

    async def answer(self, dialect: str, request: Request) -> Response:
        if dialect not in HOOKS:
            return self._no_objection("unknown dialect", "unknown", asked=dialect[:40])
        expect = self._expect if _is_short(request) else None
        try:
            with nullcontext(self._decide) if expect is None else expect() as decide:
                return await self._answer(dialect, request, decide)
        except Exception as error:  # noqa: BLE001  # fail open, whatever it was
            self._count(dialect, "failed")
            # Where it went wrong, not what was said there: messages quote content.
            _log.error("a hook call could not be answered", dialect=dialect, **whereabouts(error))
            return _reply(unanswered(dialect, "it could not be decided"))

    async def _answer(self, dialect: str, request: Request, decide: Decide) -> Response:
        body = await read_body(request, self._max_bytes)
        if body is None:
            return self._no_objection("hook payload too large or cut off", dialect)
        began = time.perf_counter()
        try:
            finish_first()
            event = await self._read(dialect, body, tenant_of(request.scope))
            answer = decide(event)
            if answer.done():  # most are; the loop's ways to wait for it take their time
                decision = answer.result()
            else:
                hurry()
                decision = await asyncio.wait_for(asyncio.wrap_future(answer), self._limit_s)
            reply = _reply(answer_hook(dialect, event, decision), _memory(dialect, decision))
        except DecodeError as error:
            return self._no_objection(f"not understood: {error}", dialect, bytes=len(body))
        except TimeoutError:
            return self._no_objection("not decided in time", dialect)
        finally:
            hurry()
        self._count(dialect, str(decision.verb), time.perf_counter() - began)
        return reply

    async def _read(self, dialect: str, body: bytes, tenant: str) -> HookEvent:
        now_ns = self._now_ns()
        if self._redact is not None:
            body = self._redact(body, tenant)
        if len(body) <= _LONG_BYTES:
            return read_hook(dialect, body, now_ns, tenant)
        return await run_sync(read_hook, dialect, body, now_ns, tenant)

    def _no_objection(self, why: str, dialect: str, **facts: Any) -> Response:  # noqa: ANN401  # fields of a log line
        self._count(dialect, "unanswered")
        _log.warning("hook call without an answer", why=why, dialect=dialect, **facts)
        return _reply(unanswered(dialect, why))

    def _count(self, dialect: str, outcome: str, seconds: float | None = None) -> None:
        if self._metrics is not None:
            self._metrics.answered(dialect, outcome, seconds)


def _is_short(request: Request) -> bool:
    """Its body is told to be, and so will be here in a moment."""
    told = request.headers.get("content-length", "")
    return told.isdecimal() and int(told[:12]) <= _LONG_BYTES


def _memory(dialect: str, decision: Decision) -> dict[str, str]:
    """What our own client remembers for the time when nobody answers."""
    headers = {"otel-cost-decision": str(decision.verb)}
    if decision.outage is not None:
        why = "stop" if decision.outage.verb is Verb.STOP else "closed"
        kept = {"why": why, "answers": outage_answers(dialect, decision.outage)}
        headers["otel-cost-outage"] = json.dumps(kept, separators=(",", ":"))
    return headers


def _reply(answer: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    body = json.dumps(answer, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")
    return Response(body, headers=headers, media_type="application/json")
