"""Quota: how many bytes a tenant may send per second, with room for bursts."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from otel_cost.edge.receive.refusals import RateLimitedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

BURST_S: Final = 10.0


class Quotas:
    """A bucket per tenant that has a rate; a request may overdraw it, so that large ones get through at all."""

    def __init__(self, rates: Mapping[str, int], now_s: Callable[[], float] = time.monotonic) -> None:
        """`rates`: bytes per second."""
        self._rates, self._now_s = dict(rates), now_s
        self._lock = threading.Lock()
        self._left = {tenant: (rate * BURST_S, now_s()) for tenant, rate in rates.items()}

    def admit(self, tenant: str, size: int) -> None:
        """Take `size` bytes.

        Raises:
            RateLimitedError: not now; it says when.
        """
        rate = self._rates.get(tenant)
        if rate is None:
            return
        with self._lock:
            left, at = self._left[tenant]
            now = self._now_s()
            left = min(rate * BURST_S, left + (now - at) * rate)
            taken = left > 0
            self._left[tenant] = (left - size if taken else left, now)
        if not taken:
            wait_s = min(60.0, max(0.1, -left / rate))
            raise RateLimitedError(f"tenant {tenant} sends more than {rate} bytes per second", wait_s)
