"""The API lets in who may, shows each tenant its own, and takes changes from its own pages only."""

from __future__ import annotations

import httpx
import ledger_cases as cases
import pytest

from otel_cost.core.model.effects import Effects
from otel_cost.edge.auth import Auth, new_key
from otel_cost.edge.ledger import Batch
from otel_cost.edge.serve import discovery
from otel_cost.edge.serve.api import ApiServer

KEYS = {name: new_key() for name in ("admin", "reader", "sender", "team-a")}
AUTH = Auth.model_validate(
    {
        "keys": [
            {"name": "admin", "hash": KEYS["admin"][1], "scopes": ["admin"]},
            {"name": "reader", "hash": KEYS["reader"][1], "scopes": ["read"]},
            {"name": "sender", "hash": KEYS["sender"][1], "scopes": ["ingest"]},
            {"name": "team-a", "hash": KEYS["team-a"][1], "scopes": ["read", "ingest"], "tenant": "team-a"},
        ]
    }
)


@pytest.fixture
def reloaded():
    return []


@pytest.fixture
def guarded(host, tmp_path, reloaded):
    server = ApiServer(host, ("127.0.0.1", 0), data_dir=tmp_path, reload=lambda: reloaded.append(1), auth=AUTH)
    port = server.start()
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        yield client
    server.stop()


def bearer(name: str, **more: str) -> dict[str, str]:
    return {"authorization": f"Bearer {KEYS[name][0]}", **more}


PATHS = ("/", "/metrics", "/v1/report", "/v1/runs", "/v1/alerts", "/openapi.json", "/v1/traces/ab", "/static/page.css")


@pytest.mark.parametrize("path", PATHS)
def test_nothing_but_health_is_open(guarded, path: str) -> None:
    for headers in ({}, {"authorization": "Bearer wrong"}, {"x-api-key": "wrong"}):
        answer = guarded.get(path, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Basic ")
        assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert guarded.get(path, headers=bearer("sender")).status_code == 403
    assert guarded.get(path, headers=bearer("reader")).status_code in {200, 404}
    assert guarded.get(path, headers=bearer("admin")).status_code in {200, 404}


def test_health_is_open(guarded) -> None:
    assert guarded.get("/healthz").status_code == 200
    assert guarded.get("/readyz").status_code == 200


def test_a_browser_logs_in_with_the_key_as_password(guarded) -> None:
    assert guarded.get("/", auth=("anybody", KEYS["reader"][0])).status_code == 200
    assert guarded.get("/", auth=("anybody", "wrong")).status_code == 401


def test_writes_need_their_scope_and_our_own_pages(guarded, reloaded) -> None:
    assert guarded.post("/-/reload", headers=bearer("reader")).status_code == 403
    assert guarded.post("/-/reload", headers=bearer("sender")).status_code == 403
    for foreign in ({"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}, {"origin": "null"}):
        assert guarded.post("/-/reload", headers=bearer("admin", **foreign)).status_code == 403
    assert reloaded == []
    own = {"origin": str(guarded.base_url), "sec-fetch-site": "same-origin"}
    assert guarded.post("/-/reload", headers=bearer("admin", **own)).status_code == 200
    assert guarded.post("/-/reload", headers=bearer("admin")).status_code == 200


def test_a_tenants_key_sees_that_tenant_whatever_it_asks(guarded, host) -> None:
    call = cases.a_call("theirs", nano=7_000_000_000)
    batch = Batch()
    batch.add(Effects(calls=[("team-a", "run-a", call)]))
    host.ledger.commit(batch, 2)

    def rows(query: str, name: str) -> list:
        return guarded.get(f"/v1/report{query}", headers=bearer(name)).json()["rows"]

    assert {row["tenant"] for row in rows("?by=tenant", "reader")} == {"default", "team-a"}
    for query in (
        "?by=tenant",
        "?by=tenant&tenant=default",
        "?tenant=default&by=tenant&tenant=team-b",
        "?by=tenant&tenant=",
    ):
        assert [row["tenant"] for row in rows(query, "team-a")] == ["team-a"]
    assert rows("", "team-a")[0]["cost_usd"] == "7"
    alerts = guarded.get("/v1/alerts?tenant=default", headers=bearer("team-a")).json()["alerts"]
    assert alerts == []
    for path in ("/v1/runs", "/v1/runs?open=true&tenant=default"):
        assert guarded.get(path, headers=bearer("team-a")).json()["runs"] == []


def test_a_hook_call_is_of_the_tenant_of_its_key(guarded, host) -> None:
    seen = []
    host.decide = lambda event: seen.append(event) or (_ for _ in ()).throw(RuntimeError)
    body = {"session_id": "s", "event": "before_tool", "tool": "ls", "tenant": "team-b"}
    assert guarded.post("/v1/decide", json=body, headers=bearer("team-a")).status_code == 200
    assert guarded.post("/v1/decide", json=body, headers=bearer("reader")).status_code == 403
    assert guarded.post("/v1/decide", json=body).status_code == 401
    assert [event.tenant for event in seen] == ["team-a"]


def test_a_webhook_comes_with_a_signature_instead_of_a_key(guarded, host) -> None:
    host.github_webhooks = ("s" * 20, "default")
    host.outcome_rules = ()
    assert guarded.post("/v1/outcomes", json={}).status_code == 401
    unsigned = {"x-github-event": "pull_request"}
    assert guarded.post("/v1/outcomes", json={}, headers=unsigned).status_code == 401
    assert (
        guarded.post("/v1/outcomes", json={}, headers=unsigned | {"x-hub-signature-256": "sha256=00"}).status_code
        == 401
    )


def test_commands_on_the_same_data_directory_get_in(guarded, tmp_path) -> None:
    assert (tmp_path / discovery.NOTE).stat().st_mode & 0o077 == 0
    key = discovery.local_key(tmp_path)
    assert key is not None
    assert guarded.get("/v1/report", headers={"authorization": f"Bearer {key}"}).status_code == 200


def test_without_keys_no_other_name_points_here(host) -> None:
    server = ApiServer(host, ("127.0.0.1", 0))
    port = server.start()
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        for name in ("localhost", "127.0.0.1", "[::1]"):
            assert client.get("/v1/report", headers={"host": f"{name}:{port}"}).status_code == 200
        for name in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", ""):
            assert client.get("/v1/report", headers={"host": name}).status_code in {400, 403}
    server.stop()
