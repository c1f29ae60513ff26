"""Attributes: the one way to read what a span, log record, resource or scope says about itself.

Two forms behind one interface: `RawAttributes` keeps the encoded `KeyValue`s and
decodes only what is asked for (most spans are never asked for most of their
keys), `PlainAttributes` wraps a mapping (JSON input, tests, hook payloads).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

Value = object  # str | bool | int | float | bytes | list | dict | None, as OTLP's AnyValue allows


class Attributes(Protocol):
    """Read access by key. Where a key is given twice the last one wins."""

    def get(self, key: str) -> Value:
        """The value, or None where the key is absent or its value is empty."""

    def told(self) -> Mapping[str, Value]:
        """Values by key, in no order that means anything: at least of every key that was named to `ask` before.

        A value that nobody has looked at may be an `Unread`: `get` reads it. Not to be changed.
        """

    def __contains__(self, key: object) -> bool: ...

    def __iter__(self) -> Iterator[str]: ...


class PlainAttributes:
    """Attributes from an ordinary mapping."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Value] | None = None) -> None:
        self._values = values or {}

    def get(self, key: str) -> Value:
        return self._values.get(key)

    def told(self) -> Mapping[str, Value]:
        return self._values

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)


class Unread:
    """A value that is still encoded: too long, or of too rare a kind, to be read before somebody asks."""

    __slots__ = ("raw",)

    def __init__(self, raw: bytes) -> None:
        self.raw = raw  # an `AnyValue`


class RawAttributes:
    """Attributes by key, each value an encoded `opentelemetry.proto.common.v1.AnyValue`.

    Nothing is read but the keys that the program asks for; which those are it learns
    from being asked (`ask` tells it before).
    """

    __slots__ = ("_encoded", "_values")

    def __init__(self, encoded: Mapping[str, bytes]) -> None:
        self._encoded = encoded
        self._values: dict[str, Value] | None = None

    def told(self) -> dict[str, Value]:
        values = self._values
        if values is not None:
            return values
        values = self._values = {}
        encoded, learnt, texts_ = self._encoded, _LEARNT, _TEXTS
        for key in encoded:
            wanted = learnt.get(key)
            if wanted is None:
                wanted = _learn(key)
            if wanted:
                raw = encoded[key]
                size = len(raw)
                if 2 <= size < _ONE_BYTE:
                    tag = raw[0]
                    if tag == _STRING_TAG and raw[1] == size - 2:
                        if size > _REPEATING:
                            values[key] = raw[2:].decode()
                            continue
                        said = texts_.get(raw)
                        if said is None:
                            said = _remember(raw)
                        values[key] = said
                        continue
                    if tag == _INT_TAG and size <= _SHORT_INT:
                        values[key] = decode_value(raw)
                        continue
                values[key] = Unread(raw) if size else None
        return values

    def get(self, key: str) -> Value:
        values = self._values
        if values is None:
            values = self.told()
        value = values.get(key, _NEW)
        if value is _NEW:
            raw = self._encoded.get(key)
            if raw is None:
                return None
            ask(key)
            value = values[key] = decode_value(raw)
        elif value.__class__ is Unread:
            value = values[key] = decode_value(value.raw)
        return value

    def __contains__(self, key: object) -> bool:
        return key in self._encoded

    def __iter__(self) -> Iterator[str]:
        return iter(self._encoded)


def _remember(raw: bytes) -> str:
    """A short text: names of models, tools and agents repeat, and are kept in memory once."""
    if len(_TEXTS) >= _MOST_TEXTS:
        _TEXTS.clear()
    said = _TEXTS[raw] = raw[2:].decode()
    return said


_TEXTS: Final[dict[bytes, str]] = {}
_MOST_TEXTS: Final = 16_384
_REPEATING: Final = 40  # bytes


def ask(*keys: str, prefixes: Iterable[str] = ()) -> None:
    """Say which keys `told` is to tell; of `prefixes`, every key that begins with one of them."""
    for key in keys:
        if key not in _ASKED and len(_ASKED) < _MOST_ASKED:  # rules may name keys too; nobody names more than this
            _ASKED[key] = True
            _LEARNT[key] = True
    if prefixes:
        _PREFIXES.update(dict.fromkeys(prefixes))
        _LEARNT.clear()
        _LEARNT.update(_ASKED)


def _learn(key: str) -> bool:
    """A key seen for the first time: is it asked for? Senders choose keys, so few are kept."""
    wanted = key in _ASKED or key.startswith(tuple(_PREFIXES))
    if len(_LEARNT) >= _MOST_LEARNT:
        _LEARNT.clear()
        _LEARNT.update(_ASKED)
    if len(key) < _LONG_KEY:
        _LEARNT[key] = wanted
    return wanted


_ASKED: Final[dict[str, bool]] = {}
_PREFIXES: Final[dict[str, None]] = {}
_LEARNT: Final[dict[str, bool]] = {}
_MOST_ASKED: Final = 4096
_MOST_LEARNT: Final = 16_384
_LONG_KEY: Final = 256
_NEW: Final[Any] = object()

_ONE_BYTE: Final = 0x80  # a varint below this is a single byte
_STRING_TAG: Final = 0x0A  # AnyValue.string_value
_INT_TAG: Final = 0x18  # AnyValue.int_value
_SHORT_INT: Final = 4  # bytes of an encoded number below 2**21, as token counts are


def decode_value(raw: bytes) -> Value:
    """Python value of an encoded `AnyValue`; short texts and small whole numbers by the short way."""
    size = len(raw)
    try:
        if 2 <= size < _ONE_BYTE:
            tag = raw[0]
            if tag == _STRING_TAG and raw[1] == size - 2:
                return raw[2:].decode()
            if tag == _INT_TAG:
                first = raw[1]
                if size == 2:
                    return first
                if first >= _ONE_BYTE:  # else something follows the number
                    if size == 3:
                        return first & 0x7F | raw[2] << 7
                    if size == 4 and raw[2] >= _ONE_BYTE:
                        return first & 0x7F | (raw[2] & 0x7F) << 7 | raw[3] << 14
        return plain_value(AnyValue.FromString(raw))
    except (UnicodeDecodeError, DecodeError):
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
