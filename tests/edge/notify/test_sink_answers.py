"""Every sink against a service that throttles, refuses, redirects, is slow, is down, or checks what it gets.

What the services check and answer is as their documents say (Slack incoming webhooks, PagerDuty Events v2, Standard
Webhooks, Alertmanager API v2, GitHub REST, SMTP).
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import urllib3
from aiosmtpd.controller import Controller

sys.path.insert(0, str(Path(__file__).parent))

from test_sinks_http import ALERT, GROUP

from otel_cost.edge.notify import _post, build_sink, email, github
from otel_cost.edge.notify._contract import Refused, Unavailable
from otel_cost.edge.notify._notifier import Notifier
from otel_cost.edge.notify._outbox import Outbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECRET = "s3cr3t-in-the-url"
HTTP_SINKS = ("slack", "pagerduty", "webhook", "alertmanager", "github")


def sink_to(name: str, url: str) -> Any:
    settings: dict[str, dict[str, Any]] = {
        "slack": {"url": f"{url}/services/{SECRET}"},
        "pagerduty": {"url": f"{url}/{SECRET}", "routing_key": "k" * 32},
        "webhook": {"url": f"{url}/{SECRET}"},
        "alertmanager": {"urls": [f"{url}/{SECRET}"]},
        "github": {"url": f"{url}/{SECRET}", "repo": "acme/agents", "token": "t0ken"},
    }
    return build_sink(name, settings[name])


def message_for(name: str) -> dict[str, Any]:
    return GROUP if name in {"slack", "webhook"} else ALERT


class Backend:
    """Does what it is told with every request: `answer(path, headers, body)` gives status, headers, body."""

    def __init__(self, answer: Callable[[str, Any, bytes], tuple[int, dict[str, str], bytes]]) -> None:
        self.paths: list[str] = []
        backend = self

        class Handler(BaseHTTPRequestHandler):
            def do(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                backend.paths.append(self.path)
                status, headers, said = answer(self.path, self.headers, body)
                self.send_response(status)
                for key, value in {"content-length": str(len(said)), **headers}.items():
                    self.send_header(key, value)
                self.end_headers()
                self.wfile.write(said)

            do_POST = do_GET = do_PATCH = do  # noqa: N815

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


LATER, NEVER = Unavailable, Refused
# status, headers, what it means; sinks where it means something else.
ANSWERS: list[tuple[int, dict[str, str], type[Exception], dict[str, type[Exception]]]] = [
    (429, {"retry-after": "7"}, LATER, {}),
    (500, {}, LATER, {}),
    (502, {}, LATER, {}),
    (503, {"retry-after": "7"}, LATER, {}),
    (504, {}, LATER, {}),
    (400, {}, NEVER, {"webhook": LATER}),  # Standard Webhooks: what is no 2xx is tried again, but for 410
    (401, {}, NEVER, {"webhook": LATER}),
    (403, {}, NEVER, {"webhook": LATER}),
    (404, {}, NEVER, {"webhook": LATER}),
    (410, {}, NEVER, {}),
    (413, {}, NEVER, {}),
    (301, {"location": "http://127.0.0.1:9/elsewhere"}, NEVER, {"webhook": LATER}),
    (307, {"location": "http://127.0.0.1:9/elsewhere"}, NEVER, {"webhook": LATER}),
]


@pytest.mark.parametrize("name", HTTP_SINKS)
@pytest.mark.parametrize(("status", "headers", "means", "but"), ANSWERS, ids=[str(row[0]) for row in ANSWERS])
def test_what_an_answer_means(
    name: str, status: int, headers: dict[str, str], means: type[Exception], but: dict[str, type[Exception]]
) -> None:
    backend = Backend(lambda *_: (status, headers, b'{"message": "no"}'))
    try:
        with pytest.raises(but.get(name, means)) as caught:
            sink_to(name, backend.url).send(message_for(name))
    finally:
        backend.close()
    assert len(backend.paths) == 1  # tried once, and no redirect was followed
    assert SECRET not in str(caught.value)
    assert caught.value.reason in {f"http_{status}", "rate_limit"}  # type: ignore[attr-defined]
    if "retry-after" in headers:
        assert caught.value.retry_after_s == 7  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", HTTP_SINKS)
def test_what_is_down_is_for_later(name: str) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as nobody:
        port = nobody.getsockname()[1]
    with pytest.raises(Unavailable) as caught:
        sink_to(name, f"http://127.0.0.1:{port}").send(message_for(name))
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("name", HTTP_SINKS)
def test_what_never_answers_is_given_up_for_now(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_post, "_TIMEOUT_S", 0.3)
    monkeypatch.setattr(github, "_TIMEOUT", urllib3.Timeout(total=0.3))
    with closing(socket.create_server(("127.0.0.1", 0))) as deaf:
        begun = time.monotonic()
        with pytest.raises(Unavailable):
            sink_to(name, f"http://127.0.0.1:{deaf.getsockname()[1]}").send(message_for(name))
        assert time.monotonic() - begun < 5


@pytest.mark.parametrize("name", ["slack", "pagerduty", "webhook", "alertmanager"])
def test_an_answer_that_trickles_in_holds_nobody_up(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_post, "_TIMEOUT_S", 0.5)
    given_up = threading.Event()

    def trickle(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
            try:
                for _ in range(100):
                    connection.sendall(b"x")
                    time.sleep(0.1)
            except OSError:
                given_up.set()

    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        threading.Thread(target=trickle, args=(server,), daemon=True).start()
        begun = time.monotonic()
        sink_to(name, f"http://127.0.0.1:{server.getsockname()[1]}").send(message_for(name))  # 200 has been said
        assert time.monotonic() - begun < 3
        assert given_up.wait(5)


# --- what the services check -----------------------------------------------------------------------------------------

HOSTILE: dict[str, Any] = {
    **ALERT,
    "tenant": "t" * 300,
    "rule": "r" * 400,
    "summary": "<!channel> <@U123> & " + "very long " * 1000,
    "evidence": {
        "team": "<https://evil.example|click>",
        "workflow": "w" * 5000,
        "tools": {f"tool-{n}-{'x' * 50}": n for n in range(20_000)},
        "model_route": [f"model-{n}" for n in range(5000)],
        "cost_usd": "2",
    },
}


def slack_says(_path: str, _headers: Any, body: bytes) -> tuple[int, dict[str, str], bytes]:
    said = json.loads(body)
    texts = [said["text"]]
    fine = len(said["blocks"]) <= 50 and len(said["text"]) <= 40_000
    for block in said["blocks"]:
        if block["type"] == "header":
            fine &= block["text"]["type"] == "plain_text" and len(block["text"]["text"]) <= 150
        elif block["type"] == "section":
            parts = [*block.get("fields", []), *([block["text"]] if "text" in block else [])]
            texts += [part["text"] for part in parts]
            fine &= 0 < len(parts) <= 11 and len(block.get("fields", [])) <= 10
            fine &= len(block.get("text", {}).get("text", "")) <= 3000
            fine &= all(len(field["text"]) <= 2000 for field in block.get("fields", []))
    fine &= not any("<!" in text or "<@" in text or "<https://evil" in text for text in texts)
    return (200, {}, b"ok") if fine else (400, {}, b"invalid_payload")


def pagerduty_says(_path: str, _headers: Any, body: bytes) -> tuple[int, dict[str, str], bytes]:
    said = json.loads(body)
    payload = said["payload"]
    fine = (
        len(body) <= 512 * 1024
        and len(said["routing_key"]) == 32
        and said["event_action"] in {"trigger", "acknowledge", "resolve"}
        and len(said["dedup_key"]) <= 255
        and 0 < len(payload["summary"]) <= 1024
        and payload["severity"] in {"critical", "error", "warning", "info"}
        and bool(payload["source"])
    )
    return (202, {}, b'{"status":"success"}') if fine else (400, {}, b'{"status":"invalid event"}')


def alertmanager_says(path: str, headers: Any, body: bytes) -> tuple[int, dict[str, str], bytes]:
    fine = path.endswith("/api/v2/alerts") and headers["content-type"] == "application/json"
    now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
    for alert in json.loads(body):
        fine &= bool(alert["labels"]["alertname"]) and all(isinstance(v, str) for v in alert["labels"].values())
        fine &= "startsAt" not in alert or alert["startsAt"] <= alert["endsAt"]
        fine &= "startsAt" not in alert or alert["endsAt"] > now  # else it would be over at once
    return (200, {}, b"") if fine else (400, {}, b'{"code":601}')


@pytest.mark.parametrize(
    ("name", "says"), [("slack", slack_says), ("pagerduty", pagerduty_says), ("alertmanager", alertmanager_says)]
)
@pytest.mark.parametrize("state", ["firing", "resolved"])
def test_what_a_sender_wrote_breaks_no_message(name: str, says: Any, state: str) -> None:
    backend = Backend(says)
    hostile = HOSTILE | {"state": state}
    try:
        sink_to(name, backend.url).send({**GROUP, "alerts": [hostile] * 30} if name == "slack" else hostile)
    finally:
        backend.close()


def test_long_names_do_not_make_two_incidents_one() -> None:
    keys: list[str] = []

    def noted(_path: str, _headers: Any, body: bytes) -> tuple[int, dict[str, str], bytes]:
        keys.append(json.loads(body)["dedup_key"])
        return 202, {}, b"{}"

    backend = Backend(noted)
    sink = sink_to("pagerduty", backend.url)
    for fingerprint in ("f1", "f2", "f1"):
        sink.send(HOSTILE | {"fingerprint": fingerprint})
    backend.close()
    assert keys[0] == keys[2] != keys[1]


def test_one_replica_that_refuses_does_not_keep_the_others_from_knowing() -> None:
    wrong, right = Backend(lambda *_: (400, {}, b"")), Backend(alertmanager_says)
    try:
        build_sink("alertmanager", {"urls": [wrong.url, right.url]}).send(ALERT)
        assert len(right.paths) == 1
        with pytest.raises(Refused):
            build_sink("alertmanager", {"urls": [wrong.url]}).send(ALERT)
        with pytest.raises(Unavailable):  # one of them may take it later
            build_sink("alertmanager", {"urls": [wrong.url, "http://127.0.0.1:9"]}).send(ALERT)
    finally:
        wrong.close()
        right.close()


# --- rate limits over time -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_channel_that_was_told_to_wait_sends_nothing_before_and_loses_nothing(tmp_path: Path) -> None:
    """As Slack: one message a second, 429 with `Retry-After` for what is more. The other channel is not held up."""
    taken: list[float] = []
    refused: list[float] = []

    def throttle(*_: object) -> tuple[int, dict[str, str], bytes]:
        now = time.monotonic()
        if taken and now < taken[-1] + 1:
            refused.append(now)
            return 429, {"retry-after": "1"}, b"rate_limited"
        taken.append(now)
        return 202, {}, b"{}"

    backend, other = Backend(throttle), Backend(lambda *_: (202, {}, b"{}"))
    outbox = Outbox(tmp_path / "outbox.sqlite")
    notifier = Notifier(outbox, {"slow": sink_to("pagerduty", backend.url), "well": sink_to("pagerduty", other.url)})
    notifier.start()
    notifier.offer([ALERT | {"id": f"f{n}-1", "fingerprint": f"f{n}"} for n in range(4)])
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline and (outbox.counts()["slow"].pending or outbox.counts()["well"].pending):
        time.sleep(0.05)
    notifier.close()
    counts = outbox.counts()
    outbox.close()
    backend.close()
    other.close()
    assert (len(taken), len(other.paths)) == (4, 4)
    assert (counts["slow"].sent, counts["slow"].pending, counts["slow"].dead) == (4, 0, 0)
    # After a refusal nothing comes before the time that was asked for, whatever else is in line.
    tried = sorted([*taken, *refused])
    assert all(next((t for t in tried if t > at), at + 1) - at >= 0.95 for at in refused)


# --- mail ------------------------------------------------------------------------------------------------------------


class Server:
    """Says what it is told at one step of SMTP."""

    def __init__(self, says: dict[str, str]) -> None:
        self.says, self.taken = says, 0

    async def handle_MAIL(self, _s: Any, _session: Any, envelope: Any, address: str, _o: Any) -> str:  # noqa: N802
        envelope.mail_from = address
        return self.says.get("MAIL", "250 OK")

    async def handle_RCPT(self, _s: Any, _session: Any, envelope: Any, address: str, _o: Any) -> str:  # noqa: N802
        said = self.says.get(address, "250 OK")
        if said.startswith("250"):
            envelope.rcpt_tos.append(address)
        return said

    async def handle_DATA(self, _server: Any, _session: Any, _envelope: Any) -> str:  # noqa: N802
        said = self.says.get("DATA", "250 OK")
        self.taken += said.startswith("250")
        return said


@pytest.fixture
def mail_to() -> Iterator[Callable[..., tuple[Server, Any]]]:
    started: list[Controller] = []

    def start(says: dict[str, str], **settings: str) -> tuple[Server, Any]:
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            port = free.getsockname()[1]
        server = Server(says)
        started.append(Controller(server, hostname="127.0.0.1", port=port))
        started[-1].start()
        to = {"to": ["a@x.example", "b@x.example"], "from": "c@x.example", "smarthost": f"127.0.0.1:{port}"}
        return server, build_sink("email", {**to, "tls": "none", **settings})

    yield start
    for controller in started:
        controller.stop()


@pytest.mark.parametrize(
    ("says", "means"),
    [
        ({"MAIL": "451 4.7.1 greylisted"}, LATER),
        ({"MAIL": "550 5.1.8 sender unknown"}, NEVER),
        ({"a@x.example": "450 later", "b@x.example": "451 later"}, LATER),
        ({"a@x.example": "550 no", "b@x.example": "551 no"}, NEVER),
        ({"DATA": "452 4.3.1 no space"}, LATER),
        ({"DATA": "552 5.3.4 too big"}, NEVER),
        ({"DATA": "421 4.7.0 too many messages"}, LATER),
    ],
)
def test_what_a_mail_server_means(mail_to: Callable[..., tuple[Server, Any]], says: dict[str, str], means: Any) -> None:
    _, sink = mail_to(says)
    with pytest.raises(means):
        sink.send(GROUP)


def test_a_mail_goes_to_those_who_are_known(
    mail_to: Callable[..., tuple[Server, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    server, sink = mail_to({"a@x.example": "550 no such user"})
    sink.send(GROUP)
    assert server.taken == 1
    told = capsys.readouterr()
    assert "not taken for some" in told.out + told.err


@pytest.mark.parametrize("asks", [{"tls": "starttls"}, {"username": "me", "password": "p4ss"}])
def test_no_password_and_no_mail_go_out_in_the_open(
    mail_to: Callable[..., tuple[Server, Any]], asks: dict[str, str]
) -> None:
    server, sink = mail_to({}, **asks)
    with pytest.raises(Refused, match="STARTTLS"):
        sink.send(GROUP)
    assert server.taken == 0


def test_a_mail_server_that_says_nothing_is_given_up_for_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(email, "_TIMEOUT_S", 0.3)
    with closing(socket.create_server(("127.0.0.1", 0))) as deaf:
        settings = {"to": ["a@x.example"], "from": "b@x.example", "smarthost": f"127.0.0.1:{deaf.getsockname()[1]}"}
        with pytest.raises(Unavailable):
            build_sink("email", settings).send(GROUP)
