"""Records back into export requests by splicing bytes: nothing of the sender is re-encoded."""

from __future__ import annotations

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
    groups: list[list[list[bytes]]] = []  # per resource, per scope: the scope's envelope, then its records
    resources: list[bytes] = []
    parts: list[bytes] = []
    last_resource = last_scope = None
    for resource, scope, record in items:
        if resource != last_resource:
            resources.append(resource)
            groups.append([])
            last_resource, last_scope = resource, None
        if scope != last_scope:
            parts = [scope]
            groups[-1].append(parts)
            last_scope = scope
        size = len(record)
        parts += (_NESTED_TAG, _VARINTS[size] if size < _KNOWN else varint(size), record)
    # One join at the end: copying every level would move each span four times.
    request: list[bytes] = []
    for resource, of_resource in zip(resources, groups, strict=True):
        scopes = [resource]
        for of_scope in of_resource:
            scopes += (_NESTED_TAG, varint(sum(map(len, of_scope))))
            scopes += of_scope
        request += (_RESOURCE_TAG, varint(sum(map(len, scopes))))
        request += scopes
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


_KNOWN: Final = 1 << 14  # sizes that a table answers: nearly every span, at a tenth of the price
_VARINTS: Final = tuple(map(varint, range(_KNOWN)))
