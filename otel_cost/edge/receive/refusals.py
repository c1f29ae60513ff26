"""Refusals: every way to say no, in the words of gRPC and of HTTP (OTLP 1.11, "Failures").

A client resends on UNAVAILABLE, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED with
RetryInfo, and on HTTP 429, 502, 503, 504; after anything else it drops the batch.
So what can pass later is never answered with another code.
"""

from __future__ import annotations

from typing import ClassVar, Final

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from google.rpc.status_pb2 import Status

from otel_cost.edge.journal import JournalBrokenError, JournalFullError
from otel_cost.errors import DecodeError, OtelCostError

_MAX_MESSAGE: Final = 1000  # characters: gRPC sends them twice in headers, which clients cap at 8 KiB


class RefusalError(OtelCostError):
    """A request that is not taken; the text is for the developer of the sender."""

    grpc_code: ClassVar[int] = 13  # INTERNAL
    http_status: ClassVar[int] = 500
    retry_after_s: float | None = None

    def status(self) -> Status:
        """The `google.rpc.Status` that travels in the body (HTTP) or in `grpc-status-details-bin`."""
        status = Status(code=self.grpc_code, message=short(str(self)))
        detail = self._detail()
        if detail is not None:
            packed = AnyMessage()
            packed.Pack(detail)
            status.details.append(packed)
        return status

    def retry_info(self) -> RetryInfo | None:
        if self.retry_after_s is None:
            return None
        seconds = int(self.retry_after_s)
        return RetryInfo(retry_delay=Duration(seconds=seconds, nanos=int((self.retry_after_s - seconds) * 1e9)))

    def _detail(self) -> RetryInfo | BadRequest | None:
        return self.retry_info()


class MalformedError(RefusalError):
    """The body is not what it says it is."""

    grpc_code = 3  # INVALID_ARGUMENT
    http_status = 400

    def _detail(self) -> BadRequest:
        return BadRequest(field_violations=[BadRequest.FieldViolation(description=short(str(self)))])


class UnauthenticatedError(RefusalError):
    """No credential, or one that nobody has."""

    grpc_code = 16
    http_status = 401


class ForbiddenError(RefusalError):
    """A known credential that may not do this."""

    grpc_code = 7  # PERMISSION_DENIED
    http_status = 403


class UnknownPathError(RefusalError):
    """No such signal here."""

    grpc_code = 12  # UNIMPLEMENTED
    http_status = 404


class WrongMethodError(RefusalError):
    """HTTP only: OTLP is POST."""

    grpc_code = 12
    http_status = 405


class SlowBodyError(RefusalError):
    """HTTP only: the body did not arrive in time."""

    grpc_code = 4  # DEADLINE_EXCEEDED
    http_status = 408


class TooLargeError(RefusalError):
    """Above the limit, before or after decompression. No RetryInfo: the same bytes will never fit."""

    grpc_code = 8  # RESOURCE_EXHAUSTED
    http_status = 413


class UnsupportedMediaError(RefusalError):
    """HTTP only: a content type or encoding that we do not read."""

    grpc_code = 3
    http_status = 415


class OverloadedError(RefusalError):
    """Not now: queue, memory or disk are full, or we are shutting down."""

    grpc_code = 14  # UNAVAILABLE
    http_status = 503

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RateLimitedError(OverloadedError):
    """Not so fast: this tenant's share is used up."""

    grpc_code = 8
    http_status = 429


class TooSlowError(RefusalError):
    """Not durable in time; it may still become so, and a resend is found to be one by its ids."""

    grpc_code = 4
    http_status = 504


class UnexpectedError(RefusalError):
    """Our own mistake. Says nothing of its cause: that may quote what was sent."""


def refusal_of(error: Exception) -> RefusalError:
    """How to answer when accepting a request raised `error`."""
    if isinstance(error, RefusalError):
        return error
    if isinstance(error, DecodeError):
        return MalformedError(str(error))
    if isinstance(error, JournalFullError):
        return OverloadedError(str(error), 5.0)
    if isinstance(error, JournalBrokenError):
        return OverloadedError(str(error), 30.0)
    if isinstance(error, TimeoutError):
        return TooSlowError(str(error))
    return UnexpectedError("internal error; the log of the service has its cause")


def short(message: str) -> str:
    """At most so long that it fits into headers, and printable in any of them."""
    plain = message.encode("ascii", "replace").decode() if len(message) > _MAX_MESSAGE // 9 else message
    plain = "".join(c if c.isprintable() else "?" for c in plain)
    return plain if len(plain) <= _MAX_MESSAGE else plain[: _MAX_MESSAGE - 3] + "..."
