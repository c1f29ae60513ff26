"""Ports that nobody listens on, for programs that must be told theirs."""

from __future__ import annotations

import socket


def free_ports(number: int) -> list[int]:
    """So many different ports of the loopback interface, free as it returns."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports
