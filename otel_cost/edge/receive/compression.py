"""Compression: request bodies unpacked under a cap, whatever they claim to be."""

from __future__ import annotations

import sys
import zlib
from typing import Any, Final

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

from otel_cost.edge.receive.refusals import MalformedError, TooLargeError, UnsupportedMediaError

ACCEPTED: Final = "gzip, deflate, zstd"
_GZIP_BITS: Final = 16 + zlib.MAX_WBITS
_WINDOW_BITS: Final = {"gzip": _GZIP_BITS, "x-gzip": _GZIP_BITS, "deflate": zlib.MAX_WBITS}  # deflate = zlib, RFC 9110
_ZSTD: Final = "zstd"
_WINDOW_LOG: Final = 23  # 8 MiB, as RFC 9659 asks of "zstd" over HTTP; a larger window is a claim on our memory


def check_encoding(encoding: str) -> str:
    """The `Content-Encoding` in plain form: "", "gzip", "x-gzip", "deflate" or "zstd".

    Raises:
        UnsupportedMediaError: one that we do not read, or several on top of each other.
    """
    layers = [layer.strip().lower() for layer in encoding.split(",")]
    used = [layer for layer in layers if layer not in {"", "identity"}]
    if not used:
        return ""
    if len(used) > 1:
        raise UnsupportedMediaError("more than one Content-Encoding")
    if used[0] not in _WINDOW_BITS and used[0] != _ZSTD:
        raise UnsupportedMediaError(f"Content-Encoding {used[0][:40]!r} is not one of: {ACCEPTED}")
    return used[0]


def decompress(body: bytes, encoding: str, limit: int) -> bytes:
    """The plain body; memory stays below `limit` bytes and one block, however far it would expand.

    Raises:
        MalformedError: the body is not of this encoding, is cut short, or is followed by something else.
        TooLargeError: it expands to more than `limit` bytes.
    """
    if not encoding:
        return body
    parts: list[bytes] = []
    size = 0
    rest = body
    try:
        while True:
            stream = _stream(encoding)
            while not stream.eof:
                part = stream.decompress(rest, limit + 1 - size)
                size += len(part)
                if size > limit:
                    raise TooLargeError(f"the body expands to more than {limit} bytes")
                rest = b"" if encoding == _ZSTD else stream.unconsumed_tail
                if not part and not stream.eof and not rest:
                    raise MalformedError(f"the body is cut short: its {encoding} stream has no end")
                parts.append(part)
            rest = stream.unused_data
            if not rest:
                return b"".join(parts)
            if encoding == "deflate":
                raise MalformedError("the deflate stream is followed by something else")
    except zlib.error as error:
        raise MalformedError(f"the body is no {encoding}: {error}") from None
    except zstd.ZstdError as error:
        if "window" in str(error).lower() or "memory" in str(error).lower():
            raise TooLargeError(f"the zstd window is larger than {1 << _WINDOW_LOG} bytes") from None
        raise MalformedError("the body is no zstd") from None


def _stream(encoding: str) -> Any:  # noqa: ANN401  # zlib's and zstd's decompressors have no common type
    if encoding == _ZSTD:
        return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG})
    return zlib.decompressobj(_WINDOW_BITS[encoding])
