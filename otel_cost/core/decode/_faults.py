"""Why a message does not parse: upb says only that it does not, a sender needs the field.

Runs on refused input only, so it may be slow; it must be safe on any bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from google.protobuf.descriptor import FieldDescriptor

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor

_MAX_DEPTH: Final = 100  # upb's own limit on messages inside messages
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(slots=True, frozen=True)
class Fault:
    """`reason`: invalid_utf8, too_deep or malformed."""

    reason: str
    message: str


class _FoundError(Exception):
    def __init__(self, reason: str, message: str) -> None:
        self.fault = Fault(reason, message)


def find_fault(data: bytes, descriptor: Descriptor) -> Fault:
    """The first thing in `data` that keeps it from being a message of this type."""
    try:
        _walk(data, (0, len(data)), descriptor, descriptor.name, 0)
    except _FoundError as found:
        return found.fault
    return Fault("malformed", f"not a {descriptor.name}")


def _walk(data: bytes, within: tuple[int, int], descriptor: Descriptor, path: str, depth: int) -> None:
    position, end = within
    if depth > _MAX_DEPTH:
        where = ".".join(path.split(".", 3)[:3])
        raise _FoundError("too_deep", f"{where} … is nested too deep")
    seen: dict[int, int] = {}
    while position < end:
        tag, position = _varint(data, position, end, path)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            _, position = _varint(data, position, end, path)
        elif wire == _FIXED64:
            position += 8
        elif wire == _FIXED32:
            position += 4
        elif wire == _BYTES:
            size, position = _varint(data, position, end, path)
            if position + size > end:
                raise _FoundError("malformed", f"{path} is cut short at byte {position}")
            field = descriptor.fields_by_number.get(number)
            if field is not None:
                index = seen[number] = seen.get(number, -1) + 1
                inner = f"{path}.{field.name}" + (f"[{index}]" if field.is_repeated else "")
                if field.type == FieldDescriptor.TYPE_STRING:
                    try:
                        data[position : position + size].decode()
                    except UnicodeDecodeError:
                        raise _FoundError("invalid_utf8", f"{inner} is not valid UTF-8") from None
                elif field.message_type is not None:
                    _walk(data, (position, position + size), field.message_type, inner, depth + 1)
            position += size
        else:  # groups, which OTLP never uses, and types that do not exist
            raise _FoundError("malformed", f"{path} has wire type {wire} at byte {position}")
        if position > end:
            raise _FoundError("malformed", f"{path} is cut short at byte {end}")


def _varint(data: bytes, position: int, end: int, path: str) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            raise _FoundError("malformed", f"{path} is cut short at byte {end}")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise _FoundError("malformed", f"{path} has a number of more than 10 bytes at byte {position - 10}")
