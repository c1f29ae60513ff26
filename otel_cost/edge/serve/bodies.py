"""The body of a request, never more of it than is wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect

if TYPE_CHECKING:
    from starlette.requests import Request


async def read_body(request: Request, max_bytes: int) -> bytes | None:
    """The body; None: it is longer than `max_bytes`, or was cut off. What is too long is not read to its end."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:12]) > max_bytes:
        return None
    chunks, size = [], 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > max_bytes:
                return None
            chunks.append(chunk)
    except ClientDisconnect:
        return None
    return b"".join(chunks)
