"""Client of `POST /v1/decide`: asks before a step, tells after it, in time or not at all.

Fails open: where nobody answers within the limit the step goes on and a log line
says so, unless the service left word that a stop stands or that a rule fails closed.
Every method that asks has an `a…` twin for asyncio.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import json
import logging
import threading
import time
import uuid
from contextlib import contextmanager
from dataclasses import replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from otel_cost.asking import ANSWER_BYTES, ask, complete, named, parsed, question, service_url
from otel_cost.guard.answer import Answer, Stopped, decoded, read_answer
from otel_cost.guard.memory import Memory
from otel_cost.guard.trace import current_trace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping
    from types import TracebackType

    Ask = Callable[[Answer], bool | Awaitable[bool]]
    Payload = dict[str, Any]

__all__ = ["Answer", "Guard", "Run", "Stopped", "current_run", "run"]

LIMIT_S: Final = 0.3
_MOST_CHARS: Final = 16_000  # of one result or error
_MOST_ARGUMENTS: Final = 256_000
_MOST_RUNS: Final = 10_000
_QUIET_S: Final = 30.0  # between two log lines about the same outage

_log = logging.getLogger("otel_cost.guard")
_runs: contextvars.ContextVar[Run | None] = contextvars.ContextVar("otel_cost_run", default=None)
_inside: contextvars.ContextVar[tuple[str, str] | None] = contextvars.ContextVar("otel_cost_inside", default=None)


class Guard:
    """Where to ask and how. One is enough for a process; safe among threads and tasks.

    Args:
        url: the service's API; None: `OTEL_COST_API`, else the service that runs on
            this machine's data dir, else http://127.0.0.1:8317.
        timeout_s: a later answer is none.
        content: `plain` tells arguments, results and errors of tools as they are (the
            service keeps keyed hashes of them); `hash` makes keyed hashes here, which
            knows a repeated call, but not one that differs in details.
        on_ask: asked where a rule wants the user to agree (`ask`); None: nobody can
            agree: a tool call is refused, a model call goes on (its run cannot do more than answer).
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        timeout_s: float = LIMIT_S,
        content: Literal["plain", "hash"] = "plain",
        on_ask: Ask | None = None,
    ) -> None:
        if content not in {"plain", "hash"}:
            raise ValueError(f"content={content!r} is neither 'plain' nor 'hash'")
        self._url, self._timeout_s, self.on_ask = url, timeout_s, on_ask
        self._shapes = _shapes() if content == "hash" else None
        self._memory = Memory()
        self._lock = threading.Lock()
        self._known: dict[str, Run] = {}
        self._silent_since = self._said = 0.0

    def run(
        self,
        session_id: str | None = None,
        *,
        user: str | None = None,
        team: str | None = None,
        workflow: str | None = None,
        parent_session_id: str | None = None,
    ) -> Run:
        """A run to ask for; as a context manager it is also the one that framework integrations find.

        `session_id`: as the run's telemetry calls its session (`session.id`,
        `gen_ai.conversation.id`), else spans find it by their trace.
        """
        who = {"user": user, "team": team, "workflow": workflow, "parent_session_id": parent_session_id}
        return Run(self, session_id, {key: value for key, value in who.items() if value is not None})

    def resume(self, session_id: str, **who: str | None) -> Run:
        """The run of a session as it was left, for integrations that are handed one step at a time."""
        with self._lock:
            known = self._known.pop(session_id, None) or self.run(session_id, **who)
            self._known[session_id] = known
            while len(self._known) > _MOST_RUNS:
                del self._known[next(iter(self._known))]
        return known

    def put(self, payload: Payload) -> Answer:
        """Ask and wait."""
        payload = self._told(payload)
        url = self._where()
        try:
            body, headers = ask(url, "neutral", _encoded(payload), time.monotonic() + self._timeout_s)
        except (OSError, ValueError) as error:
            return self._unanswered(payload, url, error)
        return self._answered(payload, url, body, headers)

    async def aput(self, payload: Payload) -> Answer:
        """Ask and wait, and let others work meanwhile."""
        payload = self._told(payload)
        url = self._where()
        try:
            async with asyncio.timeout(self._timeout_s):
                body, headers = await _aask(url, _encoded(payload))
        except (OSError, ValueError) as error:  # a time-out is an OSError
            return self._unanswered(payload, url, error)
        return self._answered(payload, url, body, headers)

    # ---- inside --------------------------------------------------------------

    def _where(self) -> str:
        url = self._url or service_url()
        return url if "://" in url else f"http://{url}"

    def _told(self, payload: Payload) -> Payload:
        """As it goes out: content brief, or hashed."""
        told = {key: value for key, value in payload.items() if value is not None}
        if "args" in told:
            written = told["args"] if isinstance(told["args"], str) else _json(told["args"])
            if self._shapes is not None:
                told["args_hash"] = self._shapes.arguments_hash(written)
                del told["args"]
            else:
                told["args"] = written if len(written) <= _MOST_ARGUMENTS else _brief(written)
        if "error" in told:
            error = str(told["error"])
            told["error"] = (self._shapes.error_shape(error) or "failed") if self._shapes else _brief(error)
        if "result" in told:
            result = told["result"] if isinstance(told["result"], str) else _json(told["result"])
            told["result"] = self._shapes.result_hash(result) if self._shapes else _brief(result)
        return told

    def _answered(self, payload: Payload, url: str, body: str, headers: Mapping[str, str]) -> Answer:
        if "otel-cost-decision" not in headers:
            return self._unanswered(payload, url, ValueError("it could not decide"))
        if self._silent_since:
            self._silent_since = self._said = 0.0
            _log.info("cost control answers again")
        self._memory.note(_sessions(payload), headers.get("otel-cost-outage"))
        return read_answer(decoded(body), str(payload.get("event", "")))

    def _unanswered(self, payload: Payload, url: str, error: Exception) -> Answer:
        answer, why = self._memory.word(_sessions(payload), str(payload.get("event", "")))
        now = time.monotonic()
        self._silent_since = self._silent_since or now
        if answer.refused or not self._said or now - self._said >= _QUIET_S:
            self._said = now
            reason = {"stop": "a stop stands", "closed": "a rule fails closed"}.get(why, "going on without one")
            _log.warning("no answer from %s (%s); %s", url, named(error), reason)
        return answer


class Run:
    """One agent's run: its questions, and what it still has to be told."""

    def __init__(self, guard: Guard, session_id: str | None, who: dict[str, str]) -> None:
        self.guard, self.who = guard, who
        self.session_id = session_id or uuid.uuid4().hex
        self._lock = threading.Lock()
        self._notes: list[str] = []
        self._noted: set[tuple[str | None, str]] = set()
        self._granted: set[str | None] = set()
        self._tokens: list[contextvars.Token[Run | None]] = []

    def __enter__(self) -> Self:
        self._tokens.append(_runs.set(self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _runs.reset(self._tokens.pop())

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    # ---- questions -----------------------------------------------------------

    def before_model(self, model: str | None, **more: Any) -> Answer:  # noqa: ANN401  # keys of the contract
        """May this model be called?"""
        return self.guard.put(self._asked("before_model", model=model, **more))

    async def abefore_model(self, model: str | None, **more: Any) -> Answer:  # noqa: ANN401
        """May this model be called?"""
        return await self.guard.aput(self._asked("before_model", model=model, **more))

    def after_model(
        self,
        model: str | None,
        *,
        usage: Mapping[str, int | None] | None = None,
        error: object = None,
        response_id: str | None = None,
        **more: Any,  # noqa: ANN401
    ) -> Answer:
        """Tell what a model call came to.

        Args:
            model: the one that answered.
            usage: tokens `input` (cached ones among them), `output` (reasoning among
                them), `cache_read`, `cache_write`, `reasoning`.
            error: what went wrong, where it did.
            response_id: the provider's id of the response, by which its span is known.
            more: other keys of the contract (`provider`, `duration_ms`, …).
        """
        return self._settled(self.guard.put(self._spent(model, usage, error, response_id, more)), agreed=False)

    async def aafter_model(
        self,
        model: str | None,
        *,
        usage: Mapping[str, int | None] | None = None,
        error: object = None,
        response_id: str | None = None,
        **more: Any,  # noqa: ANN401
    ) -> Answer:
        """Tell what a model call came to."""
        answer = await self.guard.aput(self._spent(model, usage, error, response_id, more))
        return self._settled(answer, agreed=False)

    def before_tool(self, tool: str, args: object = None, *, call_id: str | None = None, **more: Any) -> Answer:  # noqa: ANN401
        """May this tool be called with these arguments? `call_id`: the model's own id of the call."""
        return self.guard.put(self._asked("before_tool", tool=tool, args=args, tool_call_id=call_id, **more))

    async def abefore_tool(self, tool: str, args: object = None, *, call_id: str | None = None, **more: Any) -> Answer:  # noqa: ANN401
        """May this tool be called with these arguments?"""
        return await self.guard.aput(self._asked("before_tool", tool=tool, args=args, tool_call_id=call_id, **more))

    def after_tool(
        self,
        tool: str,
        args: object = None,
        *,
        result: object = None,
        error: object = None,
        call_id: str | None = None,
        **more: Any,  # noqa: ANN401
    ) -> Answer:
        """Tell what a tool call came to: its result, or what went wrong."""
        told = {"tool": tool, "args": args, "result": result, "error": _said(error), "tool_call_id": call_id}
        return self._settled(self.guard.put(self._asked("after_tool", **told, **more)), agreed=False)

    async def aafter_tool(
        self,
        tool: str,
        args: object = None,
        *,
        result: object = None,
        error: object = None,
        call_id: str | None = None,
        **more: Any,  # noqa: ANN401
    ) -> Answer:
        """Tell what a tool call came to."""
        told = {"tool": tool, "args": args, "result": result, "error": _said(error), "tool_call_id": call_id}
        return self._settled(await self.guard.aput(self._asked("after_tool", **told, **more)), agreed=False)

    # ---- obeying -------------------------------------------------------------

    def settle(self, answer: Answer) -> Answer:
        """Wait where the run is slowed down, ask the user where a rule wants it; what is left to obey.

        Afterwards the verb is allow, warn, delay (over by now), downgrade, deny or stop;
        texts of those that let the step go on are kept for `take_notes`.
        """
        if answer.verb == "delay":
            time.sleep(answer.delay_ms / 1000)
        if answer.verb == "ask":
            agreed = self._asks(answer)
            if inspect.isawaitable(agreed):
                if inspect.iscoroutine(agreed):
                    agreed.close()
                raise TypeError("on_ask is a coroutine function, and this agent runs without asyncio: use a plain one")
            return self._settled(answer, bool(agreed))
        return self._settled(answer, agreed=False)

    async def asettle(self, answer: Answer) -> Answer:
        """Wait where the run is slowed down, ask the user where a rule wants it; what is left to obey."""
        if answer.verb == "delay":
            await asyncio.sleep(answer.delay_ms / 1000)
        if answer.verb == "ask":
            agreed = self._asks(answer)
            return self._settled(answer, bool(await agreed if inspect.isawaitable(agreed) else agreed))
        return self._settled(answer, agreed=False)

    def take_notes(self) -> str | None:
        """What the agent still has to read, each once; None: nothing."""
        with self._lock:
            notes, self._notes = self._notes, []
        return "\n".join(notes) or None

    @contextmanager
    def inside(self, tool: str, call_id: str) -> Iterator[None]:
        """Around a tool: whoever asks in there is a sub-agent that this call started."""
        mine, within = _runs.set(self), _inside.set((tool, call_id))
        try:
            yield
        finally:
            _inside.reset(within)
            _runs.reset(mine)

    # ---- inside --------------------------------------------------------------

    def _asked(self, event: str, **told: Any) -> Payload:  # noqa: ANN401
        payload: Payload = {"event": event, "session_id": self.session_id, **self.who}
        nested = _inside.get()
        if nested is not None:
            payload["agent"], payload["agent_id"] = nested
        payload["trace_id"] = told.pop("trace_id", None) or current_trace()
        return payload | told

    def _spent(
        self,
        model: str | None,
        usage: Mapping[str, int | None] | None,
        error: object,
        response_id: str | None,
        more: Payload,
    ) -> Payload:
        counts = {name: count for name, count in (usage or {}).items() if isinstance(count, int)}
        told = {"model": model, "usage": counts or None, "error": _said(error), "response_id": response_id}
        return self._asked("after_model", **told, **more)

    def _asks(self, answer: Answer) -> bool | Awaitable[bool]:
        if answer.rule in self._granted:
            return True
        return self.guard.on_ask(answer) if self.guard.on_ask is not None else False

    def _settled(self, answer: Answer, agreed: bool) -> Answer:
        if answer.verb == "ask":
            if agreed:
                self._granted.add(answer.rule)
                return replace(answer, verb="allow", text="")
            # A refused tool lets the agent think again; a refused model call is the end of its run, which users decide.
            if answer.event == "before_tool" or self.guard.on_ask is not None:
                return replace(answer, verb="deny")
        if answer.verb in {"warn", "delay", "downgrade", "ask"} and answer.text:
            with self._lock:
                key = (answer.rule, answer.verb)
                if answer.verb == "warn" or key not in self._noted:  # the service says a warning only once
                    self._noted.add(key)
                    self._notes.append(answer.text)
        return replace(answer, verb="allow") if answer.verb == "ask" else answer


def run(session_id: str | None = None, **who: str | None) -> Run:
    """A run on the service of this machine: `with guard.run(session_id=…, user=…, workflow=…) as run:`."""
    return default_guard().run(session_id, **who)


def current_run() -> Run | None:
    """The run that this thread or task is in."""
    return _runs.get()


@functools.cache
def default_guard() -> Guard:
    """The one that integrations use where they are given none."""
    return Guard()


# --- On the wire -------------------------------------------------------------------------------------------


async def _aask(url: str, body: bytes) -> tuple[str, dict[str, str]]:
    put = question(url, "neutral", body)
    reader, writer = await asyncio.open_connection(put.host, put.port, ssl=put.secured or None)
    try:
        writer.write(put.request)
        raw = b""
        while len(raw) < ANSWER_BYTES and not complete(raw):
            chunk = await reader.read(65536)
            if not chunk:
                break
            raw += chunk
    finally:
        writer.close()
    return parsed(raw)


def _encoded(payload: Payload) -> bytes:
    return _json(payload).encode("utf-8", "replace")


def _json(value: object) -> str:
    try:
        return json.dumps(value, default=str, separators=(",", ":"), ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return json.dumps(str(value))


def _sessions(payload: Payload) -> list[str]:
    return [payload[key] for key in ("session_id", "parent_session_id") if payload.get(key)]


def _said(error: object) -> str | None:
    """An exception or a text; an empty one still says that something failed."""
    if error is None:
        return None
    if isinstance(error, BaseException):
        return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return str(error) or "failed"


def _brief(text: str) -> str:
    """Both ends of a long text, and a hash that tells it from others with the same ends."""
    if len(text) <= _MOST_CHARS:
        return text
    half = _MOST_CHARS // 2
    mark = blake2b(text.encode("utf-8", "replace"), digest_size=8, key=b"otel-cost").hexdigest()
    return f"{text[:half]}\n… {mark} …\n{text[-half:]}"


class _Shapes:
    """Keyed hashes as the service makes them; the engine's own, so as heavy as the engine."""

    def __init__(self) -> None:
        from otel_cost.core.decide.shape import arguments_hash  # noqa: PLC0415
        from otel_cost.core.detect._shape import error_shape, keyed_bytes, result_shape  # noqa: PLC0415

        self.arguments_hash, self.error_shape = arguments_hash, error_shape
        self._keyed, self._result_shape = keyed_bytes, result_shape

    def result_hash(self, result: str) -> str:
        return self._keyed(self._result_shape(result)).hex()


def _shapes() -> _Shapes:
    return _Shapes()
