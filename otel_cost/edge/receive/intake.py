"""Intake: one export request, whatever it came by: checked, made durable, counted, answered."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from otel_cost.core.decode.otlp import Rejected, count_metric_points, decode_logs, decode_traces
from otel_cost.core.model.effects import Signal
from otel_cost.core.model.event import DEFAULT_TENANT
from otel_cost.edge.clock import now_ns
from otel_cost.edge.journal import Record
from otel_cost.edge.receive.refusals import (
    OverloadedError,
    RateLimitedError,
    RefusalError,
    UnexpectedError,
    refusal_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from otel_cost.core.decode.otlp import Decoded
    from otel_cost.core.decode.otlp_json import JsonNotes
    from otel_cost.core.model.event import LogEvent, SpanEvent
    from otel_cost.edge.journal import Journal
    from otel_cost.edge.telemetry import ReceiverMetrics

IN_FLIGHT_BYTES: Final = 128 * 1024 * 1024
ACK_TIMEOUT_S: Final = 30.0

_log = structlog.get_logger(__name__)


class Answer(NamedTuple):
    """What the sender is told. `rejected` records can never be accepted; an empty message says nothing."""

    rejected: int
    message: str


def open_to_all(_headers: Mapping[str, str]) -> str:
    """Authenticate nobody: every sender is the one tenant. For loopback and tests."""
    return DEFAULT_TENANT


class Intake:
    """The door. Safe to use from many threads; `accept` blocks until the request is durable.

    The journal's own consumer (`Journal(on_durable=…)`) gets each record after it is
    durable, with `decoded` attached (`Decoded` for traces and logs, a count of points
    for metrics), so that nobody decodes twice.

    `authenticate` maps lower-case header names to a tenant, or raises
    `UnauthenticatedError` or `ForbiddenError`; it is called before a body is read.
    `admit` is asked with tenant and bytes before decoding and raises `OverloadedError` or
    `RateLimitedError` to push back. `redact` takes out what must not come to rest.
    `pause` is called while requests are decoded: others may come first for a moment.
    """

    def __init__(
        self,
        journal: Journal,
        metrics: ReceiverMetrics,
        *,
        authenticate: Callable[[Mapping[str, str]], str] = open_to_all,
        admit: Callable[[str, int], None] | None = None,
        redact: Callable[[Signal, bytes, str], bytes] | None = None,
        pause: Callable[[], None] = lambda: None,
        clock_ns: Callable[[], int] = now_ns,
        knows_certificates: bool = False,
        in_flight_bytes: int = IN_FLIGHT_BYTES,
        ack_timeout_s: float = ACK_TIMEOUT_S,
    ) -> None:
        self._authenticate = authenticate
        self._journal = journal
        self._metrics = metrics
        self._admit = admit
        self._redact = redact
        self._pause = pause
        self.knows_certificates = knows_certificates  # a refused sender may still have one
        self._clock_ns = clock_ns
        self._limit = in_flight_bytes
        self._ack_timeout_s = ack_timeout_s
        self._in_flight = 0
        self._by_tenant: dict[str, int] = {}  # of those in flight
        self._lock = threading.Lock()
        # One request at a time: decoding holds the interpreter anyhow, and the fewer threads ask for it, the sooner
        # a harness gets its answer.
        self._decoding = threading.Lock()
        self._closed = False

    @property
    def problem(self) -> str | None:
        """Why nothing is taken now (for readiness); None: it is."""
        return "shutting down" if self._closed else self._journal.problem

    def authenticate(self, headers: Mapping[str, str]) -> str:
        """The tenant whose credential is in these headers (names in lower case).

        Raises:
            RefusalError: nobody's, or not allowed.
        """
        try:
            return self._authenticate(headers)
        except RefusalError:
            raise
        except Exception as error:
            _log.exception("authentication failed")
            raise refusal_of(error) from error

    def close(self) -> None:
        """From now on every request is told to come back later; those under way finish."""
        self._closed = True

    def accept(self, signal: Signal, payload: bytes, *, tenant: str, transport: str) -> Answer:
        """Take one encoded export request; returns when it is durable.

        Raises:
            RefusalError: with the codes to answer; nothing was kept (`TooSlowError`: unknown).
        """
        events = 0
        size = len(payload)
        self._enter(signal, transport, tenant, size)
        try:
            if self._admit is not None:
                self._admit(tenant, size)
            received_ns = self._clock_ns()
            self._pause()
            with self._decoding:
                decoded, events, rejected = _decode(signal, payload, tenant, received_ns, self._pause)
            if self._redact is not None and (kept := self._redact(signal, payload, tenant)) is not payload:
                payload = kept
                decoded, events, _ = _decode(signal, payload, tenant, received_ns, self._pause)
            self._metrics.decoded(signal, events, rejected)
            if events:
                record = Record(signal.value, tenant, received_ns, payload, decoded=decoded)
                self._journal.append(record, timeout_s=self._ack_timeout_s)
        except Exception as error:  # every failure becomes an answer
            refused = refusal_of(error)
            if isinstance(refused, UnexpectedError):
                _log.exception("request failed", signal=signal.value, transport=transport)
                self._metrics.failed(signal, transport, events)
            else:
                self._metrics.refused(signal, transport, events)
            # An exception that is its own cause, or that a frame below it names, holds itself and the whole request.
            if refused is error:
                del refused
                raise
            try:
                raise refused from error
            finally:
                del refused
        finally:
            with self._lock:
                self._in_flight -= size
                left = self._by_tenant[tenant] - size
                if left:
                    self._by_tenant[tenant] = left
                else:
                    del self._by_tenant[tenant]
        self._metrics.accepted(signal, transport, events)
        return Answer(len(rejected), _why(rejected))

    def refuse(self, signal: Signal, transport: str) -> None:
        """Count a request that was refused before it came to `accept`."""
        self._metrics.refused(signal, transport, 0)

    def note_json(self, notes: JsonNotes) -> None:
        """Count what a JSON body said that OTLP does not."""
        self._metrics.json_notes(notes)

    def _enter(self, signal: Signal, transport: str, tenant: str, size: int) -> None:
        """Take bytes into what is in flight; once half of it is used, nobody gets more than an equal share."""
        with self._lock:
            own = self._by_tenant.get(tenant, 0)
            used = self._in_flight + size
            # One request is always let in, however large: the transports have their own limit on size.
            full = self._in_flight > 0 and used > self._limit
            share = self._limit // len({*self._by_tenant, tenant})
            greedy = own > 0 and used > self._limit // 2 and own + size > share and len(self._by_tenant) > 1
            if not full and not greedy and not self._closed:
                self._in_flight = used
                self._by_tenant[tenant] = own + size
                return
        self._metrics.refused(signal, transport, 0)
        if self._closed:
            raise OverloadedError("the service is shutting down", 5.0)
        if greedy or (full and own > share):
            raise RateLimitedError("this tenant's share of what waits for the disk is used up", 1.0)
        raise OverloadedError("too many requests are waiting for the disk", 1.0)


def _decode(
    signal: Signal, payload: bytes, tenant: str, received_ns: int, pause: Callable[[], None]
) -> tuple[Decoded[SpanEvent] | Decoded[LogEvent] | int, int, list[Rejected]]:
    if signal is Signal.METRICS:
        points = count_metric_points(payload)
        return points, points, []
    decoded: Decoded[SpanEvent] | Decoded[LogEvent]
    if signal is Signal.TRACES:
        decoded = decode_traces(payload, tenant, received_ns, pause)
    else:
        decoded = decode_logs(payload, tenant, received_ns)
    return decoded, len(decoded.events), decoded.rejected


def _why(rejected: list[Rejected]) -> str:
    """Each distinct reason once, with one example of it."""
    examples: dict[str, str] = {}
    counts: dict[str, int] = {}
    for one in rejected:
        examples.setdefault(one.reason, one.message)
        counts[one.reason] = counts.get(one.reason, 0) + 1
    return "; ".join(f"{counts[reason]} x {reason} ({example})" for reason, example in examples.items())
