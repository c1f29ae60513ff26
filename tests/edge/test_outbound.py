"""No name, redirect or second answer of a name server leads a request to where credentials are kept."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from otel_cost.core.model.effects import Signal
from otel_cost.edge.export._contract import Refused
from otel_cost.edge.export._http import OtlpHttp, signal_urls
from otel_cost.edge.export._settings import Client
from otel_cost.edge.notify._contract import Refused as SinkRefused
from otel_cost.edge.notify._post import Poster
from otel_cost.edge.outbound import ForbiddenAddressError, guarded_pool, is_forbidden

METADATA = ["169.254.169.254", "fe80::1", "fe80::1%eth0", "fd00:ec2::254", "::ffff:169.254.169.254", "100.100.100.200"]
NOWHERE = ["0.0.0.0", "::", "224.0.0.1", "ff02::1"]
PRIVATE = ["127.0.0.1", "::1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "::ffff:10.0.0.1", "fc00::1", "100.64.0.1"]
PUBLIC = ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"]


@pytest.mark.parametrize("address", METADATA + NOWHERE)
def test_never(address: str) -> None:
    assert is_forbidden(address)
    assert is_forbidden(address, private=False)


def test_private_networks_are_the_operators_choice() -> None:
    assert not any(is_forbidden(address) for address in PRIVATE + PUBLIC)
    assert all(is_forbidden(address, private=False) for address in PRIVATE)
    assert not any(is_forbidden(address, private=False) for address in PUBLIC)


@pytest.mark.parametrize(
    "url", ["http://169.254.169.254/latest/", "http://[fe80::1]/", "http://2852039166/", "http://0/"]
)
def test_addresses_in_any_spelling_are_refused_by_sinks_and_exporters(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    with pytest.raises(SinkRefused) as told:
        Poster(url).post(b"{}", {})
    assert told.value.reason == "forbidden_address"
    with pytest.raises(Refused, match="must not be asked"):
        OtlpHttp(signal_urls(url), Client(), 5.0).send(Signal.TRACES, b"")


def test_one_bad_address_of_a_name_is_enough_and_the_name_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def resolve(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        addresses = ["93.184.216.34", "169.254.169.254"] if host == "mixed.example" else ["127.0.0.1"]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr("otel_cost.edge.outbound.socket.getaddrinfo", resolve)
        with pytest.raises(ForbiddenAddressError):
            guarded_pool(retries=False).request("POST", f"http://mixed.example:{port}/")
        with pytest.raises(ForbiddenAddressError):
            guarded_pool(private=False, retries=False).request("POST", f"http://inside.example:{port}/")
    assert asked == ["mixed.example", "inside.example"]
