"""Attributes: the one way to read what a span, log record, resource or scope says about itself.

Two forms behind one interface: `RawAttributes` keeps the encoded `KeyValue`s and
decodes only what is asked for (most spans are never asked for most of their
keys), `PlainAttributes` wraps a mapping (JSON input, tests, hook payloads).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

Value = object  # str | bool | int | float | bytes | list | dict | None, as OTLP's AnyValue allows


class Attributes(Protocol):
    """Read access by key. Where a key is given twice the last one wins."""

    def get(self, key: str) -> Value:
        """The value, or None where the key is absent or its value is empty."""

    def __contains__(self, key: object) -> bool: ...

    def __iter__(self) -> Iterator[str]: ...


class PlainAttributes:
    """Attributes from an ordinary mapping."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Value] | None = None) -> None:
        self._values = values or {}

    def get(self, key: str) -> Value:
        return self._values.get(key)

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)


class RawAttributes:
    """Attributes from encoded `opentelemetry.proto.common.v1.KeyValue` messages."""

    __slots__ = ("_raw", "_values")

    def __init__(self, raw: Sequence[bytes]) -> None:
        self._raw = raw
        self._values: dict[str, bytes] | None = None

    def _index(self) -> dict[str, bytes]:
        values: dict[str, bytes] = {}
        for raw in self._raw:
            # The layout every encoder writes: 0x0a, key length, key, 0x12, value length, value.
            try:
                length = raw[1]
                if raw[0] == _KEY_TAG and length < _ONE_BYTE:
                    split = length + 2
                    if raw[split] == _VALUE_TAG:
                        size = raw[split + 1]
                        if size < _ONE_BYTE and split + 2 + size == len(raw):
                            values[raw[2:split].decode()] = raw[split + 2 :]
                            continue
            except (IndexError, UnicodeDecodeError):
                pass
            pair = KeyValue.FromString(raw)
            values[pair.key] = pair.value.SerializeToString()
        self._values = values
        return values

    def get(self, key: str) -> Value:
        values = self._values
        if values is None:
            values = self._index()
        raw = values.get(key)
        return None if raw is None else decode_value(raw)

    def __contains__(self, key: object) -> bool:
        values = self._values
        if values is None:
            values = self._index()
        return key in values

    def __iter__(self) -> Iterator[str]:
        values = self._values
        if values is None:
            values = self._index()
        return iter(values)


_ONE_BYTE: Final = 0x80  # a varint below this is a single byte
_KEY_TAG: Final = 0x0A
_VALUE_TAG: Final = 0x12
_STRING_TAG: Final = 0x0A  # AnyValue.string_value
_INT_TAG: Final = 0x18  # AnyValue.int_value


def decode_value(raw: bytes) -> Value:
    """Python value of an encoded `AnyValue`; strings and small whole numbers by the short way."""
    if not raw:
        return None
    tag = raw[0]
    try:
        if tag == _STRING_TAG and raw[1] < _ONE_BYTE and len(raw) == raw[1] + 2:
            return raw[2:].decode()
        if tag == _INT_TAG and len(raw) <= 9:  # below 2**56, so never negative  # noqa: PLR2004
            value = 0
            for shift, byte in enumerate(raw[1:]):
                value |= (byte & 0x7F) << (7 * shift)
            if byte < _ONE_BYTE:
                return value
        return plain_value(AnyValue.FromString(raw))
    except (IndexError, UnicodeDecodeError, DecodeError):
        return None


def plain_value(value: AnyValue) -> Value:
    """Python value of a decoded `AnyValue`; a kind that only profiles use reads as absent."""
    which = value.WhichOneof("value")
    if which == "array_value":
        return [plain_value(item) for item in value.array_value.values]
    if which == "kvlist_value":
        return {pair.key: plain_value(pair.value) for pair in value.kvlist_value.values}
    if which in _SCALARS:
        return getattr(value, which)
    return None


_SCALARS: Final = frozenset({"string_value", "bool_value", "int_value", "double_value", "bytes_value"})


def text(attributes: Attributes, *keys: str) -> str | None:
    """The first of `keys` that holds a non-empty text."""
    for key in keys:
        value = attributes.get(key)
        if isinstance(value, str) and value:
            return value
    return None


def texts(attributes: Attributes, keys: Iterable[str]) -> Iterator[str]:
    """Every non-empty text among `keys`, in their order."""
    for key in keys:
        value = attributes.get(key)
        if isinstance(value, str) and value:
            yield value
