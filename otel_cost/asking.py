"""Asking: one question to the service within a time limit, and what it said for when nobody answers.

Standard library only, and little of it: the hook client and the guard ask before
every step of an agent.
"""

from __future__ import annotations

import json
import os
import socket
import time
from typing import Any, NamedTuple

URL = "http://127.0.0.1:8317"
REMEMBER_S = 24 * 3600
ANSWER_BYTES = 1 << 20

# --- The question --------------------------------------------------------------------------------


def data_dir() -> str:
    """Where a service on this machine keeps its things."""
    given = os.environ.get("OTEL_COST_DATA_DIR")
    if given:
        return given
    home = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")  # noqa: PTH111, PTH118  # pathlib costs 8 ms
    return os.path.join(home, "otel-cost")  # noqa: PTH118


def service_url() -> str:
    """Told by the environment, else by the service that runs on the data dir (`edge/serve/discovery.py`)."""
    told = os.environ.get("OTEL_COST_API")
    if told:
        return told if "://" in told else f"http://{told}"
    note = _read_json(os.path.join(data_dir(), "api.json"))  # noqa: PTH118
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


def service_key() -> str:
    """What lets us in where the service wants a key: told by the environment, else noted beside its data."""
    told = os.environ.get("OTEL_COST_API_KEY")
    if told or os.environ.get("OTEL_COST_API"):
        return told or ""
    key = _read_json(os.path.join(data_dir(), "api.json")).get("key")  # noqa: PTH118
    return key if isinstance(key, str) else ""


class Question(NamedTuple):
    """A question as it goes on the wire, and where to."""

    host: str
    port: int
    secured: bool
    request: bytes


def question(url: str, dialect: str, body: bytes) -> Question:
    """The one POST that asks; its connection closes after the answer.

    Raises:
        ValueError: the URL's port is none.
    """
    scheme, _, rest = url.partition("://")
    where, _, prefix = rest.partition("/")
    host, _, port = where.rpartition(":") if ":" in where.rpartition("]")[2] else (where, "", "")
    path = "/v1/decide" if dialect == "neutral" else f"/v1/hooks/{dialect}"
    path = f"/{prefix.strip('/')}{path}" if prefix.strip("/") else path
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {where}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n"
    )
    key = service_key()
    # A line break in it would be a header of somebody else's making.
    head += f"Authorization: Bearer {''.join(key.split())}\r\n\r\n" if key else "\r\n"
    secured = scheme == "https"
    return Question(
        host.strip("[]"), int(port or (443 if secured else 80)), secured, head.encode("ascii", "replace") + body
    )


def ask(url: str, dialect: str, body: bytes, deadline: float) -> tuple[str, dict[str, str]]:
    """Put a question and wait for the answer until `deadline` (of `time.monotonic`): its body and its headers.

    Raises:
        OSError: no answer in time.
        ValueError: an answer that is none of the service's.
    """
    put = question(url, dialect, body)
    with socket.create_connection((put.host, put.port), timeout=_left(deadline)) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = _secured(plain, put.host, deadline) if put.secured else plain
        connection.settimeout(_left(deadline))
        connection.sendall(put.request)
        raw = b""
        while len(raw) < ANSWER_BYTES and not complete(raw):
            connection.settimeout(_left(deadline))
            chunk = connection.recv(65536)
            if not chunk:
                break
            raw += chunk
    return parsed(raw)


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


def complete(raw: bytes) -> bool:
    """Is the answer all there?"""
    head, ended, rest = raw.partition(b"\r\n\r\n")
    length = _headers(head).get("content-length", "") if ended else ""
    return length.isdecimal() and len(rest) >= int(length)


def parsed(raw: bytes) -> tuple[str, dict[str, str]]:
    """Body and headers of an answer.

    Raises:
        ValueError: it is none of the service's.
    """
    head, ended, rest = raw.partition(b"\r\n\r\n")
    parts = head.split(b" ", 2)
    if not ended or len(parts) < 2 or parts[1] != b"200":
        raise ValueError(f"answered {parts[1].decode('latin-1') if len(parts) > 1 else 'nothing'}")
    headers = _headers(head)
    length = headers.get("content-length", "")
    body = rest[: int(length)] if length.isdecimal() else rest
    json.loads(body)
    return body.decode(), headers


# --- What was said for an outage -------------------------------------------------------------------


def keep(path: str, told: str | None) -> None:
    """Write down what was said, or forget it.

    Raises:
        OSError: the folder cannot be written.
    """
    if told is None:
        if os.path.exists(path):  # noqa: PTH110
            os.unlink(path)  # noqa: PTH108
        return
    fresh = f"{path}.{os.getpid()}"
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)  # noqa: PTH103, PTH120
    with open(fresh, "w", encoding="utf-8") as file:  # noqa: PTH123
        file.write(told)
    os.replace(fresh, path)  # noqa: PTH105


def kept(path: str) -> dict[str, Any] | None:
    """What was said less than a day ago."""
    try:
        if time.time() - os.stat(path).st_mtime > REMEMBER_S:  # noqa: PTH116
            return None
    except OSError:
        return None
    return _read_json(path) or None


def memory_path(dialect: str, session: str) -> str:
    """Where word for a session is kept; "" stands for sessions that nothing is known of."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    folder = os.path.join(runtime, "otel-cost") if runtime else data_dir()  # noqa: PTH118
    plain = "".join(char if char.isalnum() and char.isascii() else f"_{ord(char):x}_" for char in session)
    return os.path.join(folder, "hooks", f"{dialect}.{plain[:180]}.json")  # noqa: PTH118


def _read_json(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123
            read = json.load(file)
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}


def named(error: Exception) -> str:
    """What went wrong, in one short line."""
    return str(error).partition("\n")[0][:120] or type(error).__name__
