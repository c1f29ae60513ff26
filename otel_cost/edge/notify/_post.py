"""One HTTP POST to wherever an alert goes, and what its answer means."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import urllib3
from urllib3.exceptions import HTTPError

from otel_cost.edge.export._answers import read_beginning, retry_after
from otel_cost.edge.notify._contract import Refused, Unavailable
from otel_cost.edge.outbound import ForbiddenAddressError, guarded_pool

if TYPE_CHECKING:
    from collections.abc import Mapping

_CONNECT_S: Final = 5.0
_TIMEOUT_S: Final = 15.0
_TRY_LATER: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
USER_AGENT: Final = "otel-cost"


class Poster:
    """Posts to one URL. The URL may be a secret, so it stays out of every message."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._pool = guarded_pool(num_pools=2, maxsize=1)

    def post(self, body: bytes, headers: Mapping[str, str]) -> None:
        """Redirects are not followed: what is posted may hold a key.

        Raises:
            Unavailable: no answer, too many, or the other side is not well.
            Refused: any other answer than 2xx.
        """
        begun = time.monotonic()
        try:
            answer = self._pool.urlopen(
                "POST",
                self._url,
                body=body,
                headers={"content-type": "application/json", "user-agent": USER_AGENT, **headers},
                redirect=False,
                retries=False,
                timeout=urllib3.Timeout(connect=_CONNECT_S, total=_TIMEOUT_S),
                preload_content=False,
            )
            read_beginning(answer, begun + _TIMEOUT_S)
        except ForbiddenAddressError as error:
            raise Refused(str(error), "forbidden_address") from None
        except (HTTPError, OSError) as error:
            raise Unavailable(f"no answer: {type(error).__name__}", "connection") from None
        if 200 <= answer.status < 300:
            return
        reason = f"http_{answer.status}"
        if answer.status in _TRY_LATER:
            wait_s = retry_after(answer.headers.get("retry-after"))
            raise Unavailable(f"HTTP {answer.status}", reason, retry_after_s=wait_s)
        raise Refused(f"HTTP {answer.status}", reason)

    def close(self) -> None:
        self._pool.clear()
