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
import socket
import sys
import time
from typing import Any

from otel_cost.hook_names import DIALECTS, event_name

URL = "http://127.0.0.1:8317"
# From here on; the interpreter has taken its share of the 300 ms before.
LIMIT_S = 0.25
REMEMBER_S = 24 * 3600
MAX_BYTES = 4 * 2**20
_ANSWER_BYTES = 1 << 20


def main(arguments: list[str]) -> int:
    """Read a payload from stdin, print the harness's answer. The exit code is always 0."""
    began = time.monotonic()
    answer = "{}"
    try:
        answer = _answer(arguments, began + LIMIT_S)
    except BaseException as error:  # noqa: BLE001  # see the first lines of this file
        _say(f"{type(error).__name__}; going on without an answer")
    try:
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()
    except (OSError, ValueError):
        _silence()
    return 0


def _answer(arguments: list[str], deadline: float) -> str:
    if len(arguments) != 1 or arguments[0] not in DIALECTS:
        _say(f"usage: otel-cost hook {{{','.join(DIALECTS)}}}; going on without an answer")
        return "{}"
    dialect = arguments[0]
    body = sys.stdin.buffer.read(MAX_BYTES + 1)
    payload: dict[str, Any] = {}
    try:
        read = json.loads(body)
        payload = read if isinstance(read, dict) else {}
    except ValueError:
        _say("the payload is no JSON; going on without an answer")
        return "{}"
    if _trim(payload) or len(body) > MAX_BYTES:
        body = json.dumps(payload, separators=(",", ":")).encode()
    if _is_chunk(payload):
        return "{}"
    url = _url()
    try:
        answer, headers = _ask(url, dialect, body, deadline)
    except (OSError, ValueError) as error:
        return _without(url, dialect, payload, error)
    if "otel-cost-decision" in headers:
        _remember(dialect, payload, headers.get("otel-cost-outage"))
    return answer


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


# --- The question --------------------------------------------------------------------------------


def _data_dir() -> str:
    given = os.environ.get("OTEL_COST_DATA_DIR")
    if given:
        return given
    home = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")  # noqa: PTH111, PTH118  # pathlib costs 8 ms
    return os.path.join(home, "otel-cost")  # noqa: PTH118


def _url() -> str:
    """Told by the environment, else by the service that runs on the data dir (`edge/serve/discovery.py`)."""
    told = os.environ.get("OTEL_COST_API")
    if told:
        return told if "://" in told else f"http://{told}"
    note = _read_json(os.path.join(_data_dir(), "api.json"))  # noqa: PTH118
    url, pid = note.get("url"), note.get("pid")
    if not isinstance(url, str) or not url.startswith("http") or not isinstance(pid, int):
        return URL
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return URL  # a note left by a crash
    except PermissionError:
        pass  # it lives, under another user
    return url


def _ask(url: str, dialect: str, body: bytes, deadline: float) -> tuple[str, dict[str, str]]:
    """One POST on a connection of its own.

    Raises:
        OSError: no answer in time.
        ValueError: an answer that is none of the service's.
    """
    scheme, _, rest = url.partition("://")
    where, _, prefix = rest.partition("/")
    host, _, port = where.rpartition(":") if ":" in where.rpartition("]")[2] else (where, "", "")
    path = "/v1/decide" if dialect == "neutral" else f"/v1/hooks/{dialect}"
    path = f"/{prefix.strip('/')}{path}" if prefix.strip("/") else path
    address = (host.strip("[]"), int(port or (443 if scheme == "https" else 80)))
    with socket.create_connection(address, timeout=_left(deadline)) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = _secured(plain, address[0], deadline) if scheme == "https" else plain
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {where}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        connection.settimeout(_left(deadline))
        connection.sendall(head.encode("ascii", "replace") + body)
        raw = b""
        while len(raw) < _ANSWER_BYTES:
            connection.settimeout(_left(deadline))
            chunk = connection.recv(65536)
            if not chunk:
                break
            raw += chunk
            if _complete(raw):
                break
    return _parsed(raw)


def _secured(plain: socket.socket, host: str, deadline: float) -> socket.socket:
    import ssl  # noqa: PLC0415  # a remote service is rare, and this costs 15 ms

    plain.settimeout(_left(deadline))
    return ssl.create_default_context().wrap_socket(plain, server_hostname=host)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("no answer in time")
    return left


def _headers(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    pairs = (line.partition(":") for line in lines)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _complete(raw: bytes) -> bool:
    head, ended, rest = raw.partition(b"\r\n\r\n")
    length = _headers(head).get("content-length", "") if ended else ""
    return length.isdecimal() and len(rest) >= int(length)


def _parsed(raw: bytes) -> tuple[str, dict[str, str]]:
    head, ended, rest = raw.partition(b"\r\n\r\n")
    parts = head.split(b" ", 2)
    if not ended or len(parts) < 2 or parts[1] != b"200":
        raise ValueError(f"answered {parts[1].decode('latin-1') if len(parts) > 1 else 'nothing'}")
    headers = _headers(head)
    length = headers.get("content-length", "")
    body = rest[: int(length)] if length.isdecimal() else rest
    json.loads(body)
    return body.decode(), headers


# --- Without an answer ---------------------------------------------------------------------------


def _without(url: str, dialect: str, payload: dict[str, Any], error: Exception) -> str:
    for path in [*_paths(dialect, payload), _path(dialect, "")]:
        kept = _kept(path)
        if kept is None:
            continue
        answer = kept.get("answers", {}).get(event_name(dialect, payload), {})
        reason = "a stop stands" if kept.get("why") == "stop" else "a rule fails closed"
        _say(f"no answer from {url} ({_named(error)}); {reason}")
        return json.dumps(answer, separators=(",", ":"))
    _say(f"no answer from {url} ({_named(error)}); going on without one")
    return "{}"


def _named(error: Exception) -> str:
    return str(error).partition("\n")[0][:120] or type(error).__name__


def _remember(dialect: str, payload: dict[str, Any], told: str | None) -> None:
    """Keep what the service says for outages, per session; that a rule fails closed also for sessions to come."""
    kept = None
    if told is not None:
        try:
            kept = json.loads(told)
        except ValueError:
            return
    closed = isinstance(kept, dict) and kept.get("why") == "closed"
    try:
        for path in _paths(dialect, payload):
            _keep(path, told)
        if kept is None or closed:
            _keep(_path(dialect, ""), told)
    except OSError as error:
        _say(f"cannot remember what stands: {_named(error)}")


def _keep(path: str, told: str | None) -> None:
    if told is None:
        if os.path.exists(path):  # noqa: PTH110
            os.unlink(path)  # noqa: PTH108
        return
    fresh = f"{path}.{os.getpid()}"
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)  # noqa: PTH103, PTH120
    with open(fresh, "w", encoding="utf-8") as file:  # noqa: PTH123
        file.write(told)
    os.replace(fresh, path)  # noqa: PTH105


def _kept(path: str) -> dict[str, Any] | None:
    try:
        if time.time() - os.stat(path).st_mtime > REMEMBER_S:  # noqa: PTH116
            return None
    except OSError:
        return None
    return _read_json(path) or None


def _paths(dialect: str, payload: dict[str, Any]) -> list[str]:
    """A sub-agent's own session, then the one that started it."""
    named = (payload.get(key) for key in ("session_id", "sessionId", "parentAgentId", "parent_session_id"))
    sessions = dict.fromkeys(one for one in named if isinstance(one, str) and one)
    given = payload.get("input")
    if isinstance(given, dict) and isinstance(given.get("sessionID"), str):
        sessions[given["sessionID"]] = None
    return [_path(dialect, session) for session in sessions]


def _path(dialect: str, session: str) -> str:
    """Where word for a session is kept; "" stands for sessions that nothing is known of."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    folder = os.path.join(runtime, "otel-cost") if runtime else _data_dir()  # noqa: PTH118
    plain = "".join(char if char.isalnum() and char.isascii() else f"_{ord(char):x}_" for char in session)
    return os.path.join(folder, "hooks", f"{dialect}.{plain[:180]}.json")  # noqa: PTH118


def _read_json(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123
            read = json.load(file)
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}


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
