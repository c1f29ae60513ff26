"""Attributes: the one way to read what a span, log record, resource or scope says about itself.

Two forms behind one interface: `RawAttributes` keeps the encoded `KeyValue`s and
decodes only what is asked for (most spans are never asked for most of their
keys), `PlainAttributes` wraps a mapping (JSON input, tests, hook payloads).

All records that one place in a program sends have the same keys: which of them are
wanted, and all else that follows from keys alone, is found once for their `Shape`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from google.protobuf.message import DecodeError
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

T = TypeVar("T")
Value = object  # str | bool | int | float | bytes | list | dict | None, as OTLP's AnyValue allows


class Attributes(Protocol):
    """Read access by key. Where a key is given twice the last one wins."""

    def get(self, key: str) -> Value:
        """The value, or None where the key is absent or its value is empty."""

    def told(self) -> Mapping[str, Value]:
        """Values by key, in no order that means anything: at least of every key that was named to `ask` before.

        A value that nobody has looked at may be an `Unread`: `get` reads it. Not to be changed.
        """

    def shape(self) -> Shape:
        """Which keys were named to `ask` and are here; all records with the same ones share it."""

    def __contains__(self, key: object) -> bool: ...

    def __iter__(self) -> Iterator[str]: ...


class Shape:
    """Keys that records have in common, and what follows from that."""

    __slots__ = ("_derived", "keys")

    def __init__(self, keys: tuple[str, ...]) -> None:
        self.keys = keys
        self._derived: dict[Callable[[frozenset[str]], Any], Any] = {}

    def derived(self, find: Callable[[frozenset[str]], T]) -> T:
        """What `find` says of these keys, asked once; it is kept under the function, which should be one of few."""
        found: T = self._derived.get(find, _NEW)
        if found is _NEW:
            found = self._derived[find] = find(frozenset(self.keys))
        return found


class PlainAttributes:
    """Attributes from an ordinary mapping."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Value] | None = None) -> None:
        self._values = values or {}

    def get(self, key: str) -> Value:
        return self._values.get(key)

    def told(self) -> Mapping[str, Value]:
        return self._values

    def shape(self) -> Shape:
        return _shared_shape(tuple(self._values))

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

    __slots__ = ("_encoded", "_shape", "_values")

    _shape: Shape  # known once the values are

    def __init__(self, encoded: Mapping[str, bytes]) -> None:
        self._encoded = encoded
        self._values: dict[str, Value] | None = None

    def told(self) -> dict[str, Value]:
        values = self._values
        return self._read() if values is None else values

    def shape(self) -> Shape:
        if self._values is None:
            self._read()
        return self._shape

    def _read(self) -> dict[str, Value]:
        encoded, texts_ = self._encoded, _TEXTS
        keys = tuple(encoded)
        shape = _SHAPES.get(keys)
        if shape is None:
            shape = _look_through(keys)
        values: dict[str, Value] = {}
        for key in shape.keys:
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
        self._shape = shape
        self._values = values  # last: other threads may ask, too
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
    fresh = [key for key in keys if key not in _ASKED]
    for key in fresh:
        if len(_ASKED) < _MOST_ASKED:  # rules may name keys too; nobody names more than this
            _ASKED[key] = True
            _LEARNT[key] = True
    if prefixes:
        _PREFIXES.update(dict.fromkeys(prefixes))
        _LEARNT.clear()
        _LEARNT.update(_ASKED)
    if fresh or prefixes:
        _SHAPES.clear()
        _BY_WANTED.clear()


def _look_through(keys: tuple[str, ...]) -> Shape:
    """The shape of a set of keys that is not known."""
    learnt = _LEARNT
    wanted: list[str] = []
    for key in keys:
        is_wanted = learnt.get(key)
        if is_wanted if is_wanted is not None else _learn(key):
            wanted.append(key)
    shape = _shared_shape(tuple(wanted))
    _keep(_SHAPES, keys, shape)
    return shape


def _shared_shape(keys: tuple[str, ...]) -> Shape:
    """The one shape with these keys."""
    shape = _BY_WANTED.get(keys)
    if shape is None:
        shape = Shape(keys)
        _keep(_BY_WANTED, keys, shape)
    return shape


def _keep(shapes: dict[tuple[str, ...], Shape], keys: tuple[str, ...], shape: Shape) -> None:
    """Senders choose keys: few sets are kept, and no large ones."""
    if len(keys) <= _MOST_KEYS and max(map(len, keys), default=0) < _LONG_KEY:
        if len(shapes) >= _MOST_SHAPES:
            shapes.clear()
        shapes[keys] = shape


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
_SHAPES: Final[dict[tuple[str, ...], Shape]] = {}  # by all keys of a record
_BY_WANTED: Final[dict[tuple[str, ...], Shape]] = {}
_MOST_ASKED: Final = 4096
_MOST_LEARNT: Final = 16_384
_MOST_SHAPES: Final = 4096
_MOST_KEYS: Final = 64
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
    get = attributes.get
    for key in keys:
        value = get(key)
        if value and isinstance(value, str):
            return value
    return None


def texts(attributes: Attributes, keys: Iterable[str]) -> Iterator[str]:
    """Every non-empty text among `keys`, in their order."""
    for key in keys:
        value = attributes.get(key)
        if isinstance(value, str) and value:
            yield value
