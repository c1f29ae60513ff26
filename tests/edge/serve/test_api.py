"""The API and the pages over real HTTP."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time

import httpx
import ledger_cases as cases
import pytest

from otel_cost.edge.notify._outbox import Message
from otel_cost.edge.serve import discovery
from otel_cost.edge.serve.api import ApiServer, make_app
from otel_cost.edge.serve.when import instant_ns
from otel_cost.errors import DocumentError, Problem, UsageError

RUN = cases.trace_of("t1").hex()


@pytest.fixture
def reloads():
    return []


@pytest.fixture
def http(host, reloads):
    def reload() -> str:
        if reloads and reloads[-1] == "broken":
            raise DocumentError([Problem("rules.yaml", 3, 1, "loops[0]", "unknown detector")])
        reloads.append("done")
        return "0a1b2c"

    server = ApiServer(host, ("127.0.0.1", 0), reload=reload)
    port = server.start()
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        yield client
    server.stop()


def test_health_readiness_and_metrics(http, host) -> None:
    assert http.get("/healthz").json() == {"status": "ok"}
    assert http.get("/readyz").status_code == 200
    host.said = ["the queue of honeycomb is full"]
    answer = http.get("/readyz")
    assert (answer.status_code, answer.json()) == (503, {"ready": False, "problems": host.said})
    assert "otel_cost_probe_total 3.0" in http.get("/metrics").text


def test_report_is_the_ledgers(http, host) -> None:
    assert http.get("/v1/report", params={"by": "model, kind"}).json() == {
        "rows": host.ledger.report(["model", "kind"])
    }
    assert http.get("/v1/report").json()["rows"][0]["cost_usd"] == "2.5"
    assert len(http.get("/v1/report", params={"by": "kind,model", "top": "1"}).json()["rows"]) == 1
    assert http.get("/v1/report", params={"since": "2300-01-01"}).json() == {"rows": []}
    assert http.get("/v1/report", params={"tenant": "other"}).json() == {"rows": []}


def test_what_cannot_be_answered_says_what_can(http) -> None:
    answer = http.get("/v1/report", params={"by": "model,colour"})
    assert answer.status_code == 400
    assert "workflow" in answer.json()["allowed"]
    assert "attr:KEY" in answer.json()["allowed"]
    for path in ("/v1/report?since=soon", "/v1/report?top=0", "/v1/runs?top=x", "/v1/runs?top=1001", "/?since=soon"):
        answer = http.get(path)
        assert answer.status_code == 400, path
        assert answer.json()["error"]
    assert http.get("/v1/runs/unknown").status_code == 404
    assert http.get("/v1/nothing").json() == {"error": "Not Found"}


def test_a_run_is_found_by_its_id_and_by_its_trace(http, host) -> None:
    run = http.get(f"/v1/runs/{RUN}").json()
    assert run == http.get(f"/v1/traces/{RUN}").json() == host.ledger.run(RUN)
    assert run["tree"][0]["subtree_usd"] == run["cost_usd"] == "2.5"
    said = {"acknowledged_by": None, "silenced_by": None}
    assert http.get("/v1/alerts").json()["alerts"] == [alert | said for alert in run["alerts"]]
    assert http.get("/v1/alerts?category=loop").json()["alerts"] == [alert | said for alert in run["alerts"]]
    assert http.get("/v1/alerts?category=drift").json()["alerts"] == []
    assert "loop, waste, budget" in http.get("/v1/alerts?category=loops").json()["error"]


def test_open_runs_are_shown_with_their_alerts_and_take_the_place_of_what_was_written(http, host) -> None:
    host.live = [
        cases.a_run([cases.a_call("a", nano=9_000_000_000)]),
        cases.a_run([cases.a_call("z", trace="t/2")], run_id="a/b"),
    ]
    runs = http.get("/v1/runs").json()["runs"]
    assert [(run["run_id"], run["cost_usd"], run["open"]) for run in runs] == [(RUN, "9", True), ("a/b", "0.001", True)]
    story = http.get(f"/v1/runs/{RUN}").json()
    assert (story["open"], story["cost_usd"], len(story["alerts"])) == (True, "9", 1)
    assert http.get("/v1/runs/a%2Fb").json()["run_id"] == "a/b"
    assert http.get("/runs/a%2Fb").status_code == 200
    host.busy = True
    assert http.get(f"/v1/runs/{RUN}").json()["cost_usd"] == "2.5"
    assert [run["open"] for run in http.get("/v1/runs").json()["runs"]] == [False]


def test_reload_says_what_is_wrong_and_refuses_other_sites(http, reloads) -> None:
    assert http.get("/-/reload").status_code == 405
    assert http.post("/-/reload").json() == {"status": "reloaded", "rules_hash": "0a1b2c"}
    assert http.post("/-/reload", headers={"origin": "https://evil.example"}).status_code == 403
    assert reloads == ["done"]
    reloads.append("broken")
    answer = http.post("/-/reload")
    assert answer.status_code == 400
    assert "rules.yaml:3:1" in answer.json()["error"]


@pytest.mark.parametrize(
    "path", ["/", "/?since=30d", "/?since=all", f"/runs/{RUN}", "/runs/<script>alert('x')</script>"]
)
def test_pages_escape_what_senders_wrote_and_need_nothing_from_elsewhere(http, path) -> None:
    answer = http.get(path)
    assert answer.status_code == (404 if "alert" in path else 200)
    page = answer.text
    assert "&lt;script&gt;alert(" in page or path == "/?since=30d"
    assert "<script>" not in page
    assert not re.findall(r'(?:src|href)="(?!/|#)', page)
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    for asset in re.findall(r'"(/static/[^"]+)"', page):
        assert http.get(asset).status_code == 200


def test_the_overview_shows_old_telemetry_and_an_empty_one_says_how_to_begin(http, tmp_path, host) -> None:
    page = http.get("/").text
    assert "$2.50" in page
    assert "Bash failed the same way 3 times" in page
    assert "at least" in page
    empty = http.get("/?tenant=nobody").text
    assert "Nothing here yet" in empty
    assert "<code>127.0.0.1:14317</code> (gRPC) or <code>127.0.0.1:14318</code> (HTTP)" in empty
    host.listens = {}
    assert "read from Kafka" in http.get("/?tenant=nobody").text


def test_the_page_of_a_run_tells_cost_waste_holes_and_what_was_charged(http) -> None:
    page = http.get(f"/runs/{RUN}").text
    for word in (
        "$2.50",
        "$0.5000",
        "20 % of the run",
        "a floor: 1 without a price",
        "unknown model",
        "prices.example",
    ):
        assert word in page, word


def test_a_run_that_nobody_judged_is_unknown_and_says_why(http) -> None:
    run = http.get(f"/v1/runs/{RUN}").json()
    assert (run["outcome"], run["verdict"], run["verdict_why"]) == (None, "unknown", "no outcome is known")
    (line,) = http.get("/v1/runs").json()["runs"]
    assert (line["verdict"], line["verdict_why"]) == ("unknown", "no outcome is known")
    page = http.get(f"/runs/{RUN}").text
    (told,) = re.findall(r'<section class="card" id="verdict">.*?</section>', page, re.DOTALL)
    for word in ("Worth it?", "unknown", "no outcome is known", "otel-cost outcome add"):
        assert word in told


def test_the_page_of_alerts_says_which_channels_refuse_what_they_get(http, host) -> None:
    assert 'id="untold"' not in http.get("/alerts").text
    host.outbox.put([Message(f"k{n}", channel, {"n": n}, 1) for n, channel in enumerate(("slack", "pager"))])
    (message,) = host.outbox.due("slack", 2)
    host.outbox.give_up(message, "http_404")
    page = http.get("/alerts").text
    (told,) = re.findall(r'<section class="card" id="untold">.*?</section>', page, re.DOTALL)
    rows = re.findall(r"<tr><td><b>(\w+)</b></td><td class=\"n\">(\d+)</td>.*?<td>(\S*)</td></tr>", told)
    assert rows == [("pager", "1", ""), ("slack", "0", "http_404")]
    assert 'id="untold"' not in http.get("/alerts?tenant=default").text


def test_openapi_names_every_route_and_its_answers_fit(http) -> None:
    document = http.get("/openapi.json").json()
    app = make_app(no_host())._app._app
    routes = {route.path.replace(":path", "") for route in app.routes if hasattr(route, "methods")}
    assert set(document["paths"]) == routes
    schemas = document["components"]["schemas"]
    answers = {
        "/v1/report": ("ReportRow", http.get("/v1/report").json()["rows"][0]),
        "/v1/runs": ("Run", http.get("/v1/runs").json()["runs"][0]),
        "/v1/runs/{id}": ("Story", http.get(f"/v1/runs/{RUN}").json()),
    }
    for path, (name, answer) in answers.items():
        assert f"#/components/schemas/{name}" in str(document["paths"][path])
        assert set(schemas[name]["required"]) <= set(answer), path
    assert set(schemas["Branch"]["required"]) == set(answers["/v1/runs/{id}"][1]["tree"][0])


def test_openapi_names_how_each_operation_refuses(http) -> None:
    document = http.get("/openapi.json").json()
    refused = set()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            url = path.replace("{id}", "no-such").replace("{dialect}", "neutral")
            said = {one["name"] for one in operation.get("parameters", ()) if one["in"] == "query"}
            query = dict.fromkeys(said & {"since", "until", "limit", "top", "by", "category"}, "★")
            tries = [{}, {"content": b"{"}, {"json": {"far": "off"}}] if method == "post" else [{"params": query}]
            for one in tries:
                with http.stream(method, url, **one) as answer:
                    assert str(answer.status_code) in operation["responses"], (method, path, one)
                    refused.add(answer.status_code)
    assert {400, 404, 415} <= refused


def no_host():
    class Nothing:
        ledger = registry = None

    return Nothing()


def test_a_taken_port_names_the_key(host) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UsageError, match=r"api\.endpoint"):
        ApiServer(host, taken.getsockname()).start()


def test_small_answers_are_quick_on_a_kept_connection(http) -> None:
    """40 ms apart means that Nagle's algorithm waits for a delayed acknowledgement."""
    took = []
    for _ in range(10):
        begun = time.perf_counter()
        http.post("/-/reload", content=b"x" * 100)
        took.append(time.perf_counter() - begun)
    assert sorted(took)[2] < 0.03


def test_commands_find_the_service_while_it_runs(host, tmp_path) -> None:
    server = ApiServer(host, ("127.0.0.1", 0), data_dir=tmp_path)
    port = server.start()
    assert discovery.find(tmp_path) == f"http://127.0.0.1:{port}"
    server.stop()
    assert discovery.find(tmp_path) is None


def test_a_note_of_a_process_that_is_gone_counts_as_none(tmp_path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (tmp_path / discovery.NOTE).write_text(f'{{"url": "http://127.0.0.1:1", "pid": {gone.pid}}}')
    assert discovery.find(tmp_path) is None
    discovery.withdraw(tmp_path)
    assert (tmp_path / discovery.NOTE).exists()
    (tmp_path / discovery.NOTE).write_text("{")
    assert discovery.find(tmp_path) is None
    assert os.getpid() != gone.pid


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("30d", 10**18 - 30 * 86_400 * 10**9),
        ("1970-01-02", 86_400 * 10**9),
        ("1970-01-01T00:00:01Z", 10**9),
        ("1970-01-01T01:00:00.5+01:00", 5 * 10**8),
        ("1970-01-01T01:00:00 01:00", 0),
    ],
)
def test_instants(written, expected) -> None:
    assert instant_ns(written, 10**18) == expected
