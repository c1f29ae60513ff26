"""Encoded attributes: `KeyValue` messages written byte by byte, as protobuf fields ready to be appended to a record.

Appending a repeated field to an encoded message is a valid protobuf merge, so
the sender's bytes stay a prefix of what leaves. Building the message objects
instead costs about ten times as much per attribute.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from otel_cost.core.decode.encode import varint
from otel_cost.core.model.effects import Signal

if TYPE_CHECKING:
    from collections.abc import Mapping

# Where a record keeps its attributes: Span.attributes = 9, LogRecord.attributes = 6; wire type 2 (length-delimited).
TAGS: Final[Mapping[Signal, bytes]] = {Signal.TRACES: b"\x4a", Signal.LOGS: b"\x32"}

_SHORT: Final = tuple(bytes((n,)) for n in range(0x80))  # lengths that fit one varint byte
double_bytes: Final = struct.Struct("<d").pack  # the eight bytes that complete a `double_prefix`


def delimited(tag: bytes, payload: bytes) -> bytes:
    """A length-delimited field."""
    size = len(payload)
    return tag + (_SHORT[size] if size < 0x80 else varint(size)) + payload


def text_field(tag: bytes, key: str, value: str) -> bytes:
    """`key: value` as an attribute field. Text that is no Unicode (a lone surrogate) is written with `?`."""
    return _field(tag, key, delimited(b"\x0a", value.encode("utf-8", "replace")))


def int_field(tag: bytes, key: str, value: int) -> bytes:
    """`key: value` as an attribute field; `value` fits 64 bits, signed."""
    return _field(tag, key, b"\x18" + varint(value & 0xFFFF_FFFF_FFFF_FFFF))


def double_prefix(tag: bytes, key: str) -> bytes:
    """Everything of a double's field but its last eight bytes, so that a key is encoded once per process."""
    return double_field(tag, key, 0.0)[:-8]


def text_prefixes(tag: bytes, key: str, sizes: int) -> tuple[bytes, ...]:
    """Everything of a text's field but its UTF-8 bytes, by their number, for texts shorter than `sizes`."""
    return tuple(text_field(tag, key, "x" * size).removesuffix(b"x" * size) for size in range(sizes))


def double_field(tag: bytes, key: str, value: float) -> bytes:
    """`key: value` as an attribute field."""
    return _field(tag, key, b"\x21" + double_bytes(value))


def _field(tag: bytes, key: str, value: bytes) -> bytes:
    return delimited(tag, delimited(b"\x0a", key.encode()) + delimited(b"\x12", value))
