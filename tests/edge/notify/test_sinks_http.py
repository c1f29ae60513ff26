"""What each service gets, byte for byte where a signature hangs on it, and what its answers mean."""

from __future__ import annotations

import base64
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from aiosmtpd.controller import Controller
from standardwebhooks import Webhook as Standard

from otel_cost.edge.notify import build_sink
from otel_cost.edge.notify._contract import Refused, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

ALERT: dict[str, Any] = {
    "type": "alert",
    "id": "f1-1",
    "tenant": "default",
    "run_id": "run-1",
    "trace_id": "ab" * 16,
    "rule": "same-error-3x",
    "category": "loop",
    "kind": "repeated_error",
    "state": "firing",
    "seq": 1,
    "severity": "warning",
    "at_unix_nano": "1793534400000000000",
    "wasted_usd": "1.5",
    "action": "deny",
    "summary": "run_tests <!channel> failed & failed",
    "fingerprint": "f1",
    "evidence": {"team": "red", "workflow": "build", "model_route": ["m1", "m2"], "tools": {"run": 3}, "cost_usd": "2"},
    "links": {"run": "https://cost.example.com/runs/run-1"},
}
GROUP: dict[str, Any] = {
    "type": "alerts",
    "id": "batch-1",
    "contact": "people",
    "group": {"tenant": "default", "team": "red"},
    "status": "firing",
    "alerts": [ALERT],
}


class Service:
    """Answers what it is told to, keeps what it gets."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                service.got.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                status, headers = service.answers.pop(0) if service.answers else (200, {})
                self.send_response(status)
                for name, value in {"content-length": "2", **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def json(self, index: int = -1) -> Any:
        return json.loads(self.got[index][2])

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def service() -> Iterator[Service]:
    one = Service()
    yield one
    one.stop()


def test_slack_gets_blocks_within_its_limits_and_nobody_is_mentioned(service: Service) -> None:
    sink = build_sink("slack", {"url": service.url + "/services/T/B/x"})
    sink.send({**GROUP, "alerts": [ALERT] * 40})
    path, _, body = service.got[0]
    sent = service.json()
    assert path == "/services/T/B/x"
    assert len(sent["blocks"]) <= 50
    assert b"<!channel>" not in body
    assert "&lt;!channel&gt; failed &amp; failed" in body.decode()
    assert sent["text"].startswith("[FIRING:40] same-error-3x (team: red)")
    assert "<https://cost.example.com/runs/run-1|open the run>" in body.decode()
    assert "m1 → m2" in json.dumps(sent, ensure_ascii=False)
    sink.close()


def test_a_webhook_is_signed_as_standard_webhooks_are(service: Service) -> None:
    secrets = ["whsec_" + base64.b64encode(letter * 24).decode() for letter in (b"a", b"b")]
    sink = build_sink("webhook", {"url": service.url, "secret": secrets})
    sink.send(GROUP)
    sink.send(GROUP)
    (_, headers, body), (_, again, _) = service.got
    for secret in secrets:
        data = Standard(secret).verify(body, headers)
        assert data["data"] == GROUP
        assert data["type"] == "otel_cost.alerts.firing"
    assert headers["webhook-id"] == again["webhook-id"] == "batch-1"
    build_sink("webhook", {"url": service.url}).send(GROUP)
    assert "webhook-signature" not in service.got[-1][1]


def test_pagerduty_opens_and_closes_one_incident(service: Service) -> None:
    sink = build_sink("pagerduty", {"routing_key": "k" * 32, "url": service.url})
    sink.send(ALERT)
    sink.send({**ALERT, "state": "resolved", "id": "f1-1-resolved"})
    opened, closed = service.json(0), service.json(1)
    assert (opened["event_action"], closed["event_action"]) == ("trigger", "resolve")
    assert opened["dedup_key"] == closed["dedup_key"] == "otel-cost/default/f1"
    assert opened["routing_key"] == "k" * 32
    assert opened["payload"]["severity"] == "warning"
    assert opened["payload"]["timestamp"] == "2026-11-01T12:00:00.000000000Z"
    assert opened["payload"]["custom_details"]["model_route"] == ["m1", "m2"]
    assert opened["links"] == [{"href": "https://cost.example.com/runs/run-1", "text": "run"}]


def test_alertmanager_knows_the_alert_again_at_its_end(service: Service) -> None:
    sink = build_sink("alertmanager", {"urls": [service.url + "/"], "bearer_token": "t"})
    sink.send(ALERT)
    sink.send({**ALERT, "state": "resolved", "at_unix_nano": "1793534460000000000"})
    (path, headers, _), _ = service.got
    (firing,), (resolved,) = service.json(0), service.json(1)
    assert path == "/api/v2/alerts"
    assert headers["authorization"] == "Bearer t"
    assert firing["labels"] == resolved["labels"]
    assert firing["labels"]["alertname"] == "same-error-3x"
    assert "trace" not in json.dumps(firing["labels"])
    assert firing["startsAt"] < firing["endsAt"]
    assert resolved["endsAt"] == "2026-11-01T12:01:00.000000000Z"
    assert firing["annotations"]["cost_so_far"] == "2 USD"


def test_one_replica_of_alertmanager_is_enough(service: Service) -> None:
    sink = build_sink("alertmanager", {"urls": ["http://127.0.0.1:9", service.url]})
    sink.send(ALERT)
    assert len(service.got) == 1
    with pytest.raises(Unavailable):
        build_sink("alertmanager", {"urls": ["http://127.0.0.1:9"]}).send(ALERT)


@pytest.mark.parametrize(
    ("status", "failure"),
    [(status, Unavailable) for status in (429, 500, 503)] + [(status, Refused) for status in (302, 400, 404, 410)],
)
def test_answers_say_later_or_never_and_no_message_holds_the_url(
    service: Service, status: int, failure: type[Exception]
) -> None:
    service.answers = [(status, {"retry-after": "7", "location": service.url + "/other"})]
    with pytest.raises(failure) as caught:
        build_sink("slack", {"url": service.url + "/secret"}).send(GROUP)
    assert "secret" not in str(caught.value)
    assert len(service.got) == 1  # no redirect was followed
    if status == 429:
        assert isinstance(caught.value, Unavailable)
        assert caught.value.retry_after_s == 7


class _Mailbox:
    def __init__(self, answer: str = "250 OK") -> None:
        self.answer = answer
        self.mails: list[Any] = []

    async def handle_DATA(self, _server: object, _session: object, envelope: Any) -> str:  # noqa: N802
        if self.answer.startswith("250"):
            self.mails.append(envelope)
        return self.answer


@pytest.mark.parametrize(("answer", "failure"), [("250 OK", None), ("451 later", Unavailable), ("550 no", Refused)])
def test_mail_goes_out_and_answers_mean_what_they_say(answer: str, failure: type[Exception] | None) -> None:
    box = _Mailbox(answer)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    controller = Controller(box, hostname="127.0.0.1", port=port)
    controller.start()
    try:
        settings = {
            "to": "ops@example.com",
            "from": "cost@example.com",
            "smarthost": f"127.0.0.1:{port}",
            "tls": "none",
        }
        sink = build_sink("email", settings)
        hostile = {**ALERT, "rule": "x\r\nBcc: everybody@example.com"}
        if failure is not None:
            with pytest.raises(failure):
                sink.send({**GROUP, "alerts": [hostile]})
            return
        sink.send({**GROUP, "alerts": [hostile]})
        (mail,) = box.mails
        text = mail.content.decode()
        assert mail.rcpt_tos == ["ops@example.com"]
        assert "Message-ID: <batch-1@otel-cost>" in text
        assert "\nBcc:" not in text.partition("\r\n\r\n")[0].replace("\r\n", "\n")
        assert "wasted: 1.5 USD" in text
    finally:
        controller.stop()


def test_no_mail_server_is_later_not_never() -> None:
    settings = {"to": ["a@example.com"], "from": "b@example.com", "smarthost": "127.0.0.1:9"}
    with pytest.raises(Unavailable):
        build_sink("email", settings).send(GROUP)
