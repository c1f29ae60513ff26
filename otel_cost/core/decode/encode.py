"""Records back into export requests by splicing bytes: nothing of the sender is re-encoded."""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

# Export requests, resource and scope messages of traces and logs have one layout
# (opentelemetry/proto/{trace,logs}/v1): resources = 1, scopes = 2, records = 2, all length-delimited.
_RESOURCE_TAG: Final = b"\x0a"
_NESTED_TAG: Final = b"\x12"


def encode_records(items: Iterable[tuple[bytes, bytes, bytes]]) -> bytes:
    """An export request from (resource envelope, scope envelope, record) in the given order.

    Envelopes are `Resource.envelope` and `Scope.envelope`; a record is the encoded
    span or log record, ours appended. Consecutive items of equal envelopes share one.
    """
    request = []
    for resource, of_resource in groupby(items, itemgetter(0)):
        scopes = [resource]
        for scope, of_scope in groupby(of_resource, itemgetter(1)):
            parts = [scope]
            for _, _, record in of_scope:
                parts += (_NESTED_TAG, varint(len(record)), record)
            scope_message = b"".join(parts)
            scopes += (_NESTED_TAG, varint(len(scope_message)), scope_message)
        resource_message = b"".join(scopes)
        request += [_RESOURCE_TAG, varint(len(resource_message)), resource_message]
    return b"".join(request)


encode_traces = encode_records
encode_logs = encode_records


def varint(number: int) -> bytes:
    """A non-negative number in protobuf's base-128 encoding."""
    if number < 0x80:
        return number.to_bytes(1)
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
