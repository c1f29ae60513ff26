"""OTLP/JSON to OTLP protobuf: proto3 JSON with hex ids, number enums and exact 64-bit integers.

Written from the official descriptors, because protobuf's own reader takes ids
as base64 and refuses unknown enum names. What cannot be represented in a valid
record (an id that is no hex, a broken character) is carried over broken, so that
the decoder turns away that record alone.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import struct
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Final, NamedTuple

from google.protobuf.descriptor import FieldDescriptor
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_cost.core.decode.encode import varint
from otel_cost.core.model.effects import Signal
from otel_cost.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.descriptor import Descriptor, EnumDescriptor

_ID_FIELDS: Final = frozenset({"trace_id", "span_id", "parent_span_id"})
_HEX: Final = re.compile(r"(?:[0-9A-Fa-f]{2})*")


@dataclass(slots=True)
class JsonNotes:
    """What was let pass: keys that no field has (snake_case ones too) and enums given by name."""

    ignored_keys: int = 0
    enum_names: int = 0


class _MistakeError(Exception):
    """A value that does not fit its field; the path grows on the way out."""

    def __init__(self, message: str) -> None:
        self.message = message
        self.path: list[str] = []


class _Text(str):
    """A JSON number with a fraction or exponent, as written: whole ones must not pass through a float."""

    __slots__ = ()


@dataclass(slots=True)
class _Run:
    """One conversion: its strictness and its notes."""

    strict: bool
    notes: JsonNotes


if TYPE_CHECKING:
    _Encoder = Callable[[object, _Run], bytes]


class _Field(NamedTuple):
    tag: bytes
    encode: _Encoder
    repeated: bool


def json_to_protobuf(signal: Signal, body: bytes, *, strict: bool = False) -> tuple[bytes, JsonNotes]:
    """The same export request in protobuf encoding.

    Keys are lowerCamelCase; unknown keys are ignored on every level and counted;
    null means absent; of equal keys the last wins. Enums given by name are
    counted, or a mistake when `strict`.

    Raises:
        DecodeError: no JSON, or a value does not fit its field; the text names its path.
    """
    try:
        # Bytes that are no UTF-8 become lone surrogates, which the decoder then finds in the one record that has them.
        text = body.decode("utf-8-sig", "surrogateescape")
        document = json.loads(text, parse_float=_Text, parse_constant=_no_constant)
    except RecursionError:
        raise DecodeError("the JSON body is nested too deep") from None
    except ValueError as error:
        raise DecodeError(f"the body is no JSON: {error}") from None
    run = _Run(strict, JsonNotes())
    try:
        return _message(document, _ROOTS[signal], run), run.notes
    except _MistakeError as mistake:
        path = "".join(mistake.path).lstrip(".") or "the body"
        raise DecodeError(f"{path}: {mistake.message}") from None
    except RecursionError:
        raise DecodeError("the JSON body is nested too deep") from None


def _no_constant(name: str) -> object:
    raise ValueError(f'{name} is not JSON: write "{name}" as a string')


def _message(value: object, fields: dict[str, _Field], run: _Run) -> bytes:
    if not isinstance(value, dict):
        raise _MistakeError(f"{_kind(value)} where an object is expected")
    parts: list[bytes] = []
    for key, item in value.items():
        if item is None:
            continue
        field = fields.get(key)
        if field is None:
            run.notes.ignored_keys += 1
            continue
        index = -1
        try:
            if not field.repeated:
                parts += (field.tag, field.encode(item, run))
                continue
            for index, element in enumerate(_list(item)):  # noqa: B007 - the index is for the mistake's path
                parts += (field.tag, field.encode(element, run))
        except _MistakeError as mistake:
            mistake.path.insert(0, f".{key}" if index < 0 else f".{key}[{index}]")
            raise
    return b"".join(parts)


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise _MistakeError(f"{_kind(value)} where a list is expected")
    return value


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, _Text | int):
        return "a number"
    if isinstance(value, str):
        return "a string"
    if value is None:
        return "null"
    return "a list" if isinstance(value, list) else "an object"


def _whole(value: object, low: int, high: int) -> int:
    """An integer within its type's range, from a number or its text, exact."""
    try:
        if isinstance(value, str):
            if not isinstance(value, _Text) and not value.lstrip("-").isascii():
                raise _MistakeError("a string that is no whole number")
            exact = Decimal(value)
            # A short text can name a huge number (1e999999999): look at its size before writing it out.
            if not exact.is_finite() or exact.adjusted() > 20 or exact != exact.to_integral_value():
                raise _MistakeError(f"{value[:40]} is no whole number of this size")
            number = int(exact)
        elif isinstance(value, int) and not isinstance(value, bool):
            number = value
        else:
            raise _MistakeError(f"{_kind(value)} where a whole number is expected")
    except InvalidOperation:
        raise _MistakeError("a string that is no whole number") from None
    if not low <= number <= high:
        raise _MistakeError(f"a number outside {low} … {high}")
    return number


def _varint_field(low: int, high: int) -> _Encoder:
    def encode(value: object, _run: _Run) -> bytes:
        return varint(_whole(value, low, high) & 0xFFFF_FFFF_FFFF_FFFF)  # negatives take ten bytes in protobuf

    return encode


def _zigzag_field(bits: int) -> _Encoder:
    def encode(value: object, _run: _Run) -> bytes:
        number = _whole(value, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        return varint(number << 1 if number >= 0 else (-number << 1) - 1)

    return encode


def _fixed_field(layout: str, low: int, high: int) -> _Encoder:
    pack = struct.Struct(layout).pack

    def encode(value: object, _run: _Run) -> bytes:
        return pack(_whole(value, low, high))

    return encode


def _float_field(layout: str) -> _Encoder:
    pack = struct.Struct(layout).pack

    def encode(value: object, _run: _Run) -> bytes:
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise _MistakeError(f"{_kind(value)} where a number is expected")
        if isinstance(value, str) and not isinstance(value, _Text) and not _FLOAT.fullmatch(value):
            raise _MistakeError("a string that is no number")
        try:
            return pack(float(value))
        except (ValueError, OverflowError):
            raise _MistakeError("a number that no double can hold") from None

    return encode


_FLOAT: Final = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?|NaN|-?Infinity", re.ASCII)


def _delimited(data: bytes) -> bytes:
    return varint(len(data)) + data


def _string(value: object, _run: _Run) -> bytes:
    if not isinstance(value, str) or isinstance(value, _Text):
        raise _MistakeError(f"{_kind(value)} where a string is expected")
    return _delimited(value.encode("utf-8", "surrogatepass"))


def _bool(value: object, _run: _Run) -> bytes:
    if not isinstance(value, bool):
        raise _MistakeError(f"{_kind(value)} where true or false is expected")
    return b"\x01" if value else b"\x00"


def _bytes(value: object, _run: _Run) -> bytes:
    if not isinstance(value, str) or isinstance(value, _Text):
        raise _MistakeError(f"{_kind(value)} where base64 is expected")
    plain = value.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return _delimited(base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True))
    except (binascii.Error, ValueError):
        raise _MistakeError("a string that is no base64") from None


def _id(value: object, _run: _Run) -> bytes:
    if isinstance(value, str) and _HEX.fullmatch(value):
        return _delimited(bytes.fromhex(value))
    # No id: hand over what cannot be one by its length (0, 8 and 16 are taken).
    data = value.encode("utf-8", "surrogatepass")[:64] if isinstance(value, str) else b"?"
    return _delimited(data + b"?" if len(data) in {8, 16} else data)


def _enum_field(enum: EnumDescriptor) -> _Encoder:
    numbers = {value.name: value.number for value in enum.values}

    def encode(value: object, run: _Run) -> bytes:
        if isinstance(value, str) and value in numbers:
            if run.strict:
                raise _MistakeError(f"{value} is an enum's name: OTLP/JSON wants its number {numbers[value]}")
            run.notes.enum_names += 1
            value = numbers[value]
        return varint(_whole(value, -(2**31), 2**31 - 1) & 0xFFFF_FFFF_FFFF_FFFF)

    return encode


def _message_field(descriptor: Descriptor, known: dict[str, dict[str, _Field]]) -> _Encoder:
    fields = _compile(descriptor, known)

    def encode(value: object, run: _Run) -> bytes:
        # null inside a list cannot be "absent": it is the empty message (an empty AnyValue)
        return _delimited(b"" if value is None else _message(value, fields, run))

    return encode


_I32: Final = (-(2**31), 2**31 - 1)
_I64: Final = (-(2**63), 2**63 - 1)
_U32: Final = (0, 2**32 - 1)
_U64: Final = (0, 2**64 - 1)
_SCALARS: Final[dict[int, tuple[int, _Encoder]]] = {  # type -> wire type, encoder
    FieldDescriptor.TYPE_DOUBLE: (1, _float_field("<d")),
    FieldDescriptor.TYPE_FLOAT: (5, _float_field("<f")),
    FieldDescriptor.TYPE_INT64: (0, _varint_field(*_I64)),
    FieldDescriptor.TYPE_UINT64: (0, _varint_field(*_U64)),
    FieldDescriptor.TYPE_INT32: (0, _varint_field(*_I32)),
    FieldDescriptor.TYPE_UINT32: (0, _varint_field(*_U32)),
    FieldDescriptor.TYPE_SINT32: (0, _zigzag_field(32)),
    FieldDescriptor.TYPE_SINT64: (0, _zigzag_field(64)),
    FieldDescriptor.TYPE_FIXED64: (1, _fixed_field("<Q", *_U64)),
    FieldDescriptor.TYPE_SFIXED64: (1, _fixed_field("<q", *_I64)),
    FieldDescriptor.TYPE_FIXED32: (5, _fixed_field("<I", *_U32)),
    FieldDescriptor.TYPE_SFIXED32: (5, _fixed_field("<i", *_I32)),
    FieldDescriptor.TYPE_BOOL: (0, _bool),
    FieldDescriptor.TYPE_STRING: (2, _string),
    FieldDescriptor.TYPE_BYTES: (2, _bytes),
}


def _compile(descriptor: Descriptor, known: dict[str, dict[str, _Field]]) -> dict[str, _Field]:
    """JSON key -> field of one message type; `known` closes the circle of types that hold themselves."""
    if descriptor.full_name in known:
        return known[descriptor.full_name]
    fields = known[descriptor.full_name] = {}
    for field in descriptor.fields:
        encode: _Encoder
        if field.message_type is not None:
            wire, encode = 2, _message_field(field.message_type, known)
        elif field.enum_type is not None:
            wire, encode = 0, _enum_field(field.enum_type)
        elif field.type == FieldDescriptor.TYPE_BYTES and field.name in _ID_FIELDS:
            wire, encode = 2, _id
        else:
            wire, encode = _SCALARS[field.type]
        fields[field.json_name] = _Field(varint(field.number << 3 | wire), encode, field.is_repeated)
    return fields


_KNOWN: Final[dict[str, dict[str, _Field]]] = {}
_ROOTS: Final = {
    Signal.TRACES: _compile(ExportTraceServiceRequest.DESCRIPTOR, _KNOWN),
    Signal.LOGS: _compile(ExportLogsServiceRequest.DESCRIPTOR, _KNOWN),
    Signal.METRICS: _compile(ExportMetricsServiceRequest.DESCRIPTOR, _KNOWN),
}
