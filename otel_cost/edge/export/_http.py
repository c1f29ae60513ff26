"""OTLP over HTTP, as `otlp_http` and the presets use it: protobuf bodies, one POST per request."""

from __future__ import annotations

import time
import zlib
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from pydantic import Field
from urllib3.exceptions import ConnectTimeoutError, HTTPError
from urllib3.exceptions import TimeoutError as HTTPTimeoutError

from otel_cost.core.model.effects import Signal
from otel_cost.edge.export._answers import read_beginning, rejected_in_json, rejected_in_protobuf, retry_after
from otel_cost.edge.export._contract import Refused, TooLarge, Unavailable
from otel_cost.edge.export._patience import Patience
from otel_cost.edge.export._settings import plain_headers
from otel_cost.edge.outbound import ForbiddenAddressError, guarded_pool

if TYPE_CHECKING:
    from collections.abc import Mapping

    from otel_cost.edge.export._settings import Client, Tls

# OTLP specification, "Retryable Response Codes". Every other 3xx, 4xx and 5xx is final.
_TRY_LATER: Final = frozenset({429, 502, 503, 504})
_TOO_LARGE: Final = 413
_THROTTLED: Final = 429
_GZIP: Final = zlib.MAX_WBITS | 16
_FASTEST: Final = 1  # spans repeat themselves: higher levels cost three times the CPU for a few percent
_CONNECT_S: Final = 10.0

Url = Annotated[str, Field(pattern=r"^https?://[^/\s?#]+[^\s?#]*$", examples=["https://collector.example.com:4318"])]


def signal_urls(endpoint: str) -> dict[Signal, str]:
    """The URL of each signal below a base endpoint."""
    return {signal: f"{endpoint.rstrip('/')}/v1/{signal.value}" for signal in Signal}


class OtlpHttp:
    """Deliver export requests to fixed URLs, one per signal."""

    def __init__(
        self, urls: Mapping[Signal, str], settings: Client, timeout_s: float, headers: Mapping[str, str] | None = None
    ) -> None:
        """`headers` are the kind's own; the user's `settings.headers` win over them."""
        self._urls, self._patience = urls, Patience(timeout_s)
        self._gzip = settings.compression == "gzip"
        self._headers = {**(headers or {}), **plain_headers(settings.headers), "content-type": "application/x-protobuf"}
        self._headers.setdefault("user-agent", "otel-cost")
        if self._gzip:
            self._headers["content-encoding"] = "gzip"
        self._pool = _pool(next(iter(urls.values())), settings.tls, settings.sending_queue.num_consumers)

    def send(self, signal: Signal, payload: bytes) -> int:
        """As `Exporter.send`. Redirects are not followed: headers are credentials."""
        url = self._urls[signal]
        timeout_s = self._patience.timeout_s
        begun = time.monotonic()
        try:
            answer = self._pool.urlopen(
                "POST",
                url,
                body=_compress(payload) if self._gzip else payload,
                headers=self._headers,
                redirect=False,
                retries=False,
                preload_content=False,
                timeout=urllib3.Timeout(connect=min(_CONNECT_S, timeout_s), total=timeout_s),
            )
            body = read_beginning(answer, begun + timeout_s)
        except ForbiddenAddressError as error:
            raise Refused(f"{url}: {error}", "forbidden_address") from None
        except ConnectTimeoutError as error:
            raise Unavailable(f"{url}: {error}", "connection") from error
        except HTTPTimeoutError as error:
            self._patience.timed_out(timeout_s)
            raise Unavailable(f"{url}: {error}", "timeout", overload=True) from error
        except (HTTPError, OSError) as error:
            raise Unavailable(f"{url}: {error}", "connection") from error
        self._patience.answered(time.monotonic() - begun)
        status = answer.status
        # The body may quote our spans, so it stays out of every message.
        if 200 <= status < 300:
            return _rejected(url, answer.headers.get("content-type", ""), body)
        reason = f"http_{status}"
        if status in _TRY_LATER:
            wait = retry_after(answer.headers.get("retry-after"))
            raise Unavailable(f"{url}: HTTP {status}", reason, retry_after_s=wait, overload=status == _THROTTLED)
        if status == _TOO_LARGE:
            raise TooLarge(f"{url}: HTTP {status}, request of {len(payload)} bytes", reason)
        raise Refused(f"{url}: HTTP {status}; check `endpoint` and `headers`", reason)

    def close(self) -> None:
        self._pool.clear()


def _pool(url: str, tls: Tls, connections: int) -> urllib3.PoolManager:
    settings: dict[str, Any] = {
        "num_pools": 3,
        "maxsize": connections,
        "cert_reqs": "CERT_NONE" if tls.insecure_skip_verify else "CERT_REQUIRED",
        "ca_certs": None if tls.ca_file is None else str(tls.ca_file),
        "cert_file": None if tls.cert_file is None else str(tls.cert_file),
        "key_file": None if tls.key_file is None else str(tls.key_file),
    }
    if tls.server_name_override:
        settings |= {"server_hostname": tls.server_name_override, "assert_hostname": tls.server_name_override}
    target = urlsplit(url)
    proxy = getproxies().get(target.scheme)
    if proxy and not proxy_bypass(target.hostname or ""):
        return urllib3.ProxyManager(proxy, **settings)
    return guarded_pool(**settings)


def _compress(payload: bytes) -> bytes:
    compressor = zlib.compressobj(_FASTEST, zlib.DEFLATED, _GZIP)
    return compressor.compress(payload) + compressor.flush()


def _rejected(url: str, content_type: str, body: bytes) -> int:
    if body.lstrip()[:1] == b"<":
        # A login or maintenance page: whoever answers is no OTLP receiver, and has taken nothing.
        raise Refused(f"{url}: answered with a web page; check `endpoint`", "not_otlp")
    if content_type.startswith("application/json"):
        return rejected_in_json(body)
    return rejected_in_protobuf(body)
