"""What pages show comes as server-sent events, once per change, and streams end with the service."""

from __future__ import annotations

import time

import httpx
import ledger_cases as cases
import pytest

from otel_cost.core.model.effects import Effects
from otel_cost.edge.ledger import Batch
from otel_cost.edge.serve import live
from otel_cost.edge.serve.api import ApiServer

RUN = cases.trace_of("t1").hex()


@pytest.fixture
def server(host, monkeypatch):
    monkeypatch.setattr(live, "_RENEW_S", 0.05)
    monkeypatch.setattr(live, "_LOOK_S", 0.02)
    monkeypatch.setattr(live, "_BEAT_S", 0.3)
    started = ApiServer(host, ("127.0.0.1", 0))
    started.url = f"http://127.0.0.1:{started.start()}"
    yield started
    started.stop()


def events(answer: httpx.Response):
    """(id, data) of each event; a comment as (None, its text)."""
    told: dict[str, list[str]] = {}
    for line in answer.iter_lines():
        if line.startswith(":"):
            yield None, line[1:].strip()
        elif line:
            name, _, value = line.partition(": ")
            told.setdefault(name, []).append(value)
        elif told:
            if "event" in told:
                assert told["event"] == ["page"]
                yield told["id"][0], "\n".join(told["data"])
            told = {}


def spend(host, name: str, nano: int) -> None:
    batch = Batch()
    call = cases.a_call(name, trace=name, nano=nano)
    batch.add(Effects(calls=[("default", cases.trace_of(name).hex(), call)], closed=[cases.a_run([call])]))
    host.ledger.commit(batch, 2)


@pytest.mark.parametrize("path", ["/", "/alerts", "/workflows", f"/runs/{RUN}"])
def test_a_stream_begins_with_what_the_page_shows(server, path) -> None:
    page = httpx.get(server.url + path, params={"since": "all"}).text
    with httpx.stream("GET", server.url + "/live", params={"page": path, "since": "all"}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        _, html = next(events(answer))
    inside = page.partition('<main id="main" tabindex="-1">')[2].rpartition("</main>")[0]
    assert html.split() == inside.split()
    assert "<script>" not in html


def test_only_what_is_new_is_sent_and_a_browser_that_comes_back_has_it_already(server, host) -> None:
    asked = {"page": "/", "since": "all"}
    with httpx.stream("GET", server.url + "/live", params=asked) as answer:
        stream = events(answer)
        first, html = next(stream)
        assert "$2.50" in html
        assert (None, "still here") in stream  # nothing more has changed
        spend(host, "more", 10 * 10**9)
        # Parts of a page may be remembered for a moment: it can take more than one event.
        told = [first]
        while "$12.50" not in html:
            last, html = next(event for event in stream if event[0])
            told.append(last)
        assert len(set(told)) == len(told) > 1
    with httpx.stream("GET", server.url + "/live", params=asked, headers={"last-event-id": told[-1]}) as answer:
        assert next(events(answer))[0] != told[-1]


def test_what_does_not_live_and_what_cannot_be_asked(server) -> None:
    for page in ("/metrics", "/v1/runs", "/runs/unknown", "//elsewhere"):
        answer = httpx.get(server.url + "/live", params={"page": page})
        assert answer.status_code == 404
        assert "error" in answer.json()
    assert httpx.get(server.url + "/live", params={"since": "soon"}).status_code == 400


def test_streams_are_few_and_end_with_the_service(server, monkeypatch) -> None:
    monkeypatch.setattr(live, "_MOST_STREAMS", 1)
    with httpx.stream("GET", server.url + "/live") as answer:
        stream = events(answer)
        next(stream)
        assert httpx.get(server.url + "/live").status_code == 503
        begun = time.monotonic()
        server.stop()
        assert all(event[0] is None for event in stream)
        assert time.monotonic() - begun < 1.5
    server.stop = lambda: None


def test_a_stream_that_was_left_makes_room(server, monkeypatch) -> None:
    monkeypatch.setattr(live, "_MOST_STREAMS", 1)
    for _ in range(3):
        with httpx.stream("GET", server.url + "/live") as answer:
            assert answer.status_code == 200
            next(events(answer))
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline and httpx.get(server.url + "/live?page=/x").status_code == 503:
            time.sleep(0.02)


def test_pages_renew_themselves_without_javascript(server) -> None:
    for path in ("/", "/alerts", "/budgets", "/workflows"):
        page = httpx.get(server.url + path)
        assert '<noscript><meta http-equiv="refresh"' in page.text.partition("</head>")[0], path
    assert "refresh" not in httpx.get(f"{server.url}/runs/{RUN}").text  # it is over
