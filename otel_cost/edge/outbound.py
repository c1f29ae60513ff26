"""Outbound: HTTP to where an operator says, and never to where machines keep their credentials.

A name is resolved once, its addresses are judged, and the connection goes to one that
was judged: no second answer of the name server can lead elsewhere. Link-local addresses
(cloud metadata services live there) are refused whatever name leads to them; private
ones are the operator's own network and may be refused too.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import TYPE_CHECKING, Any, Final

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import NameResolutionError, NewConnectionError
from urllib3.util import connection as sockets

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

# Metadata services that are not link-local.
_METADATA: Final = frozenset(map(ipaddress.ip_address, ("fd00:ec2::254", "100.100.100.200", "192.0.0.192")))


class ForbiddenAddressError(Exception):
    """The name leads to an address that nothing of ours may talk to."""


def is_forbidden(address: str, *, private: bool = True) -> bool:
    """Whether nothing may connect there; `private`: the operator's own networks and this machine are allowed."""
    ip: IPv4Address | IPv6Address = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        ip = ip.ipv4_mapped or ip.sixtofour or ip
    if ip.is_link_local or ip.is_multicast or ip.is_unspecified or ip in _METADATA:
        return True
    return not private and not ip.is_global


def guarded_pool(*, private: bool = True, **settings: Any) -> urllib3.PoolManager:  # noqa: ANN401  # urllib3's own
    """A pool of connections that keeps to the rules above; its requests raise `ForbiddenAddressError`."""
    manager = urllib3.PoolManager(**settings)
    manager.pool_classes_by_scheme = _POOLS[private]
    return manager


def _connect(connection: HTTPConnection, *, private: bool) -> socket.socket:
    host, port = connection._dns_host, connection.port  # noqa: SLF001  # as urllib3's own method does
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise NameResolutionError(host, connection, error) from error  # type: ignore[arg-type]
    addresses = [str(address[0]) for *_, address in found]
    if any(is_forbidden(address, private=private) for address in addresses):
        raise ForbiddenAddressError(f"{host} leads to an address that must not be asked")
    last: OSError | None = None
    for address in addresses:
        try:
            return sockets.create_connection(
                (address, port), connection.timeout, socket_options=connection.socket_options
            )
        except OSError as error:
            last = error
    try:
        if isinstance(last, TimeoutError):
            raise urllib3.exceptions.ConnectTimeoutError(connection, f"no connection to {host}") from last
        raise NewConnectionError(connection, f"no connection to {host}: {last}") from last
    finally:
        del last  # else it holds itself by this frame


def _pools(*, private: bool) -> dict[str, type[HTTPConnectionPool]]:
    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return _connect(self, private=private)

    class Secured(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return _connect(self, private=private)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecuredPool(HTTPSConnectionPool):
        ConnectionCls = Secured

    return {"http": PlainPool, "https": SecuredPool}


_POOLS: Final = {private: _pools(private=private) for private in (True, False)}
