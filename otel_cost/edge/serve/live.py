"""Live: a page's content as server-sent events, sent again whenever it has become another.

`GET /live?page=PATH` and the page's own query. Whoever looks at the same page shares one
rendering a second, or fewer where that takes long. A browser that comes back names the last
content it has (`Last-Event-ID`) and gets nothing until there is another. Without JavaScript
pages renew themselves as a whole.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import anyio.to_thread
from starlette.exceptions import HTTPException
from starlette.responses import StreamingResponse
from starlette.routing import Route

from otel_cost.edge.ledger import LedgerUnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from starlette.requests import Request
    from starlette.responses import Response

_RENEW_S: Final = 1.0
_LOOK_S: Final = 0.25  # how soon a stream sees that the service stops
_BEAT_S: Final = 15.0  # proxies close what is silent for longer
_MOST_STREAMS: Final = 100
_BEGIN: Final = b'<main id="main" tabindex="-1">'
_END: Final = b"</main>"

_QUERY: Final = ("since", "tenant", "by")


@dataclass(slots=True)
class _Content:
    until_s: float  # so long it is shown
    html: str
    id: str


class Live:
    """Streams of pages."""

    def __init__(
        self, render: Callable[[str, Mapping[str, str]], Response | None], is_stopping: Callable[[], bool]
    ) -> None:
        """`render(path, query)`: the whole page; None: there is no such page, or it does not live."""
        self._render, self._is_stopping = render, is_stopping
        self._contents: dict[tuple[str, ...], _Content] = {}
        self._locks: dict[tuple[str, ...], asyncio.Lock] = {}
        self._streams = 0

    def route(self) -> Route:
        return Route("/live", self._open)

    async def _open(self, request: Request) -> Response:
        asked = request.query_params
        page, query = asked.get("page", "/"), {name: asked[name] for name in _QUERY if name in asked}
        if self._streams >= _MOST_STREAMS:
            raise HTTPException(503, f"{_MOST_STREAMS} pages are being watched", {"retry-after": "30"})
        # Made anew: nothing that is older than the page itself may take its place.
        if await self._content(page, query, anew=True) is None:
            raise HTTPException(404, f"no page at {page} that lives")
        stream = self._events(page, query, request.headers.get("last-event-id"))
        return StreamingResponse(stream, media_type="text/event-stream", headers={"x-accel-buffering": "no"})

    async def _events(self, page: str, query: Mapping[str, str], known: str | None) -> AsyncIterator[str]:
        self._streams += 1
        try:
            yield "retry: 2000\n\n"
            beat_s = time.monotonic()
            while not self._is_stopping():
                content = await self._content(page, query)
                if content is not None and content.id != known:
                    known, beat_s = content.id, time.monotonic()
                    yield _event(content)
                elif time.monotonic() - beat_s >= _BEAT_S:
                    beat_s = time.monotonic()
                    yield ": still here\n\n"
                await asyncio.sleep(_LOOK_S)
        finally:
            self._streams -= 1

    async def _content(self, page: str, query: Mapping[str, str], *, anew: bool = False) -> _Content | None:
        """What the page shows now; what it showed last while the ledger cannot be read."""
        key = (page, *(part for pair in sorted(query.items()) for part in pair))
        async with self._locks.setdefault(key, asyncio.Lock()):
            known = self._contents.get(key)
            begun_s = time.monotonic()
            if known is not None and begun_s < known.until_s and not anew:
                return known
            try:
                answer = await anyio.to_thread.run_sync(self._render, page, query)
            except LedgerUnavailableError:
                return known
            if answer is None or answer.status_code != 200:
                self._locks.pop(key, None)
                return None
            html = bytes(answer.body).partition(_BEGIN)[2].rpartition(_END)[0]
            now_s = time.monotonic()
            until_s = now_s + max(_RENEW_S, 10 * (now_s - begun_s))
            content = _Content(until_s, html.decode(), hashlib.blake2b(html, digest_size=8).hexdigest())
            self._contents[key] = content
            self._forget_old()
            return content

    def _forget_old(self) -> None:
        """Nobody has looked at these pages for a while."""
        now_s = time.monotonic()
        for key in [key for key, one in self._contents.items() if now_s > one.until_s + _BEAT_S]:
            del self._contents[key]
            if not self._locks[key].locked():
                del self._locks[key]


def _event(content: _Content) -> str:
    data = "".join(f"data: {line}\n" for line in content.html.splitlines())
    return f"event: page\nid: {content.id}\n{data}\n"
