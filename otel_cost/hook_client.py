"""Hook client: `otel-cost hook DIALECT` carries a harness's question to the service and its answer back.

Runs before every tool call of an agent, so: the standard library only, little of
it, and 300 ms from start to end. Whatever goes wrong here, it prints an answer and
leaves with 0, because some harnesses take anything else for a refusal. Nobody
answers: no objection, said on stderr, unless the service has left word (a stop
stands, a rule fails closed) when it last answered.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from otel_cost.asking import ask, keep, kept, memory_path, named, service_url
from otel_cost.hook_names import DIALECTS, event_name

LIMIT_MS = 300
START_MS = 50  # the interpreter has taken its share before
MAX_BYTES = 4 * 2**20  # the service reads no more
MOST_BYTES = 64 * 2**20
_END_CHARS = 32 * 1024


def main(arguments: list[str]) -> int:
    """Read a payload from stdin, print the harness's answer. The exit code is always 0."""
    began = time.monotonic()
    answer = "{}"
    try:
        answer = _answer(arguments, began)
    except BaseException as error:  # noqa: BLE001  # see the first lines of this file
        _say(f"{type(error).__name__}; going on without an answer")
    try:
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()
    except (OSError, ValueError):
        _silence()
    return 0


def _answer(arguments: list[str], began: float) -> str:
    try:
        dialect, url, limit_s = _told(arguments)
    except ValueError:
        _say(f"usage: otel-cost hook {{{','.join(DIALECTS)}}} [--url URL] [--limit-ms N]; going on without an answer")
        return "{}"
    deadline = began + limit_s
    body = sys.stdin.buffer.read(MOST_BYTES)
    payload: dict[str, Any] = {}
    try:
        text = body.decode("utf-8", "replace")
        read = json.loads(text)
        payload = read if isinstance(read, dict) else {}
    except (ValueError, RecursionError):
        _say("the payload is no JSON; going on without an answer")
        return "{}"
    long = len(body) > MAX_BYTES
    if _trim(payload) or long or "\ufffd" in text:
        body = json.dumps(_cut(payload) if long else payload, separators=(",", ":")).encode()
    if _is_chunk(payload):
        return "{}"
    url = url or service_url()
    try:
        answer, headers = ask(url, dialect, body, deadline)
    except (OSError, ValueError) as error:
        return _without(url, dialect, payload, error)
    if "otel-cost-decision" in headers:
        _remember(dialect, payload, headers.get("otel-cost-outage"))
    return answer


def _told(arguments: list[str]) -> tuple[str, str | None, float]:
    """Dialect, where the service is (if the command says so and the environment does not), seconds to answer in.

    Raises:
        ValueError: these are no arguments of ours.
    """
    dialect, *options = arguments
    said = dict(zip(options[::2], options[1::2], strict=True))
    url, limit_ms = said.pop("--url", None), int(said.pop("--limit-ms", LIMIT_MS))
    if dialect not in DIALECTS or said:
        raise ValueError
    return dialect, None if os.environ.get("OTEL_COST_API") else url, max(limit_ms - START_MS, 10) / 1000


def _cut(value: Any) -> Any:  # noqa: ANN401  # whatever the payload holds
    """The same with the middle left out of long texts: what is read of them is how they begin and end."""
    if isinstance(value, str) and len(value) > 2 * _END_CHARS:
        return value[:_END_CHARS] + value[-_END_CHARS:]
    if isinstance(value, dict):
        return {key: _cut(one) for key, one in value.items()}
    return [_cut(one) for one in value] if isinstance(value, list) else value


def _trim(payload: dict[str, Any]) -> bool:
    """What the model reads is none of our business, and long."""
    request = payload.get("llm_request")
    if isinstance(request, dict) and "messages" in request:
        payload["llm_request"] = {"model": request.get("model")}
        return True
    return False


def _is_chunk(payload: dict[str, Any]) -> bool:
    """A part of an answer that is not the last: there will be more to ask about."""
    response = payload.get("llm_response")
    candidates = response.get("candidates") if isinstance(response, dict) else None
    if not isinstance(candidates, list):
        return False
    return not any(isinstance(one, dict) and one.get("finishReason") for one in candidates)


# --- Without an answer ---------------------------------------------------------------------------


def _without(url: str, dialect: str, payload: dict[str, Any], error: Exception) -> str:
    for path in [*_paths(dialect, payload), memory_path(dialect, "")]:
        word = kept(path)
        if word is None:
            continue
        answer = word.get("answers", {}).get(event_name(dialect, payload), {})
        reason = "a stop stands" if word.get("why") == "stop" else "a rule fails closed"
        _say(f"no answer from {url} ({named(error)}); {reason}")
        return json.dumps(answer, separators=(",", ":"))
    _say(f"no answer from {url} ({named(error)}); going on without one")
    return "{}"


def _remember(dialect: str, payload: dict[str, Any], told: str | None) -> None:
    """Keep what the service says for outages, per session; that a rule fails closed also for sessions to come."""
    word = None
    if told is not None:
        try:
            word = json.loads(told)
        except ValueError:
            return
    closed = isinstance(word, dict) and word.get("why") == "closed"
    try:
        for path in _paths(dialect, payload):
            keep(path, told)
        if word is None or closed:
            keep(memory_path(dialect, ""), told)
    except OSError as error:
        _say(f"cannot remember what stands: {named(error)}")


def _paths(dialect: str, payload: dict[str, Any]) -> list[str]:
    """A sub-agent's own session, then the one that started it."""
    named = (payload.get(key) for key in ("session_id", "sessionId", "parentAgentId", "parent_session_id"))
    sessions = dict.fromkeys(one for one in named if isinstance(one, str) and one)
    given = payload.get("input")
    if isinstance(given, dict) and isinstance(given.get("sessionID"), str):
        sessions[given["sessionID"]] = None
    return [memory_path(dialect, session) for session in sessions]


def _say(message: str) -> None:
    try:
        sys.stderr.write(f"otel-cost: {message}\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        _silence()


def _silence() -> None:
    """Nobody reads any more: keep the interpreter from complaining on its way out, which would cost the exit code."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            os.dup2(nowhere, stream.fileno())
        except (OSError, ValueError):
            continue
