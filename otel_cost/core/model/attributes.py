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

    def names(self) -> Iterable[str | bytes]:
        """All keys, decoded or as encoded, whichever costs nothing."""

    def __contains__(self, key: object) -> bool: ...

    def __iter__(self) -> Iterator[str]: ...


class PlainAttributes:
    """Attributes from an ordinary mapping."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Value] | None = None) -> None:
        self._values = values or {}

    def get(self, key: str) -> Value:
        return self._values.get(key)

    def names(self) -> Iterable[str]:
        return self._values

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)


class RawAttributes:
    """Attributes from encoded `opentelemetry.proto.common.v1.KeyValue` messages.

    The index costs a slice and a dictionary entry per attribute; nothing else is
    looked at before it is asked for.
    """

    __slots__ = ("_raw", "_values")

    def __init__(self, raw: Sequence[bytes]) -> None:
        self._raw = raw
        self._values: dict[bytes, bytes] | None = None

    def names(self) -> Iterable[bytes]:
        """Keys as encoded."""
        values = self._values
        return self._index() if values is None else values

    def _index(self) -> dict[bytes, bytes]:
        values: dict[bytes, bytes] = {}
        for raw in self._raw:
            # The layout every encoder writes: 0x0a, key length, key, 0x12, value length, value.
            if len(raw) > 1 and raw[0] == _KEY_TAG and (length := raw[1]) < _ONE_BYTE:
                values[raw[2 : length + 2]] = raw
            else:
                key = KeyValue.FromString(raw).key.encode()
                values[key] = raw
        self._values = values
        return values

    def get(self, key: str) -> Value:
        values = self._values
        if values is None:
            values = self._index()
        encoded = _ENCODED.get(key)
        if encoded is None:
            encoded = _remember(key)
        raw = values.get(encoded)
        if raw is None:
            return None
        split = len(encoded) + 2
        size = len(raw) - split - 4
        # A text below 124 bytes, as most are: 0x12, length + 2, 0x0a, length, the text.
        if 0 <= size < _SHORT and raw[split : split + 4] == _SHORT_TEXT[size]:
            return raw[split + 4 :].decode()
        return _value_of(raw, split)

    def __contains__(self, key: object) -> bool:
        return str(key).encode() in self.names()

    def __iter__(self) -> Iterator[str]:
        return map(bytes.decode, self.names())


_ENCODED: Final[dict[str, bytes]] = {}  # keys that the program asks for, which are few


def _remember(key: str) -> bytes:
    encoded = key.encode()
    if len(_ENCODED) < 4096:  # rules may name keys too; nobody names more than this
        _ENCODED[key] = encoded
    return encoded


_SHORT: Final = 124
_SHORT_TEXT: Final = tuple(bytes((0x12, size + 2, 0x0A, size)) for size in range(_SHORT))


def _value_of(raw: bytes, split: int) -> Value:
    """The value of an encoded `KeyValue` whose value field is expected at `split`."""
    try:
        if raw[split] == _VALUE_TAG:
            size = raw[split + 1]
            if size < _ONE_BYTE and split + 2 + size == len(raw):
                return decode_value(raw[split + 2 :])
        return plain_value(KeyValue.FromString(raw).value)
    except (IndexError, DecodeError):
        return None


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
        if tag == _INT_TAG and len(raw) <= 9:  # below 2**56, so never negative
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
