"""What backends answer, read with care: partial success, and when to come back."""

from __future__ import annotations

import json
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

MAX_ANSWER_BYTES: Final = 64 << 10

_REJECTED_KEYS: Final = ("rejectedSpans", "rejectedLogRecords", "rejectedDataPoints")


def read_beginning(answer: BaseHTTPResponse, deadline: float) -> bytes:
    """The beginning of the body, as it came. A longer or slower one is cut off with its connection.

    Args:
        answer: not read yet; its status has been told.
        deadline: of the monotonic clock.
    """
    body = bytearray()
    while len(body) < MAX_ANSWER_BYTES and time.monotonic() < deadline:
        part = answer.read1(MAX_ANSWER_BYTES - len(body), decode_content=False)
        if not part:
            answer.release_conn()
            return bytes(body)
        body += part
    answer.close()
    return bytes(body)


def rejected_in_protobuf(body: bytes) -> int:
    """Records rejected by an Export response; the three signals' responses have one layout. Garbage says nothing."""
    if not body:
        return 0
    try:
        return int(ExportTraceServiceResponse.FromString(body).partial_success.rejected_spans)
    except DecodeError:
        return 0


def rejected_in_json(body: bytes) -> int:
    """The same for an answer in JSON, where 64-bit numbers are text."""
    try:
        partial = json.loads(body).get("partialSuccess") or {}
        return sum(int(partial.get(key) or 0) for key in _REJECTED_KEYS)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return 0


def retry_after(header: str | None, now: float | None = None) -> float | None:
    """Seconds to wait by a `Retry-After` header (whole seconds or an HTTP date); None where it says nothing."""
    if not header:
        return None
    header = header.strip()
    if header.isascii() and header.isdigit():
        return float(header[:12])
    try:
        at = parsedate_to_datetime(header).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    return max(at - (time.time() if now is None else now), 0.0)


def retry_info_in_status(status: bytes) -> float | None:
    """Seconds to wait by the `RetryInfo` in an encoded `google.rpc.Status`."""
    try:
        for detail in Status.FromString(status).details:
            if detail.Is(RetryInfo.DESCRIPTOR):
                return retry_info(detail.value)
    except DecodeError:
        pass
    return None


def retry_info(encoded: bytes) -> float | None:
    """Seconds to wait by an encoded `RetryInfo`."""
    try:
        delay = RetryInfo.FromString(encoded).retry_delay
    except DecodeError:
        return None
    return max(float(delay.seconds + delay.nanos / 1e9), 0.0)
