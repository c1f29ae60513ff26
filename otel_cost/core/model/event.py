"""Event: what the engine is fed, one at a time: a span, a log record or a hook call.

Every event carries its tenant and receive time; all times are integer
nanoseconds since the Unix epoch. `raw` is the sender's own encoding, which is
what goes downstream: nothing here is ever re-encoded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from otel_cost.core.model.attributes import PlainAttributes, text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_cost.core.model.attributes import Attributes, Value
    from otel_cost.core.model.usage import Usage

DEFAULT_TENANT: Final = "default"


@dataclass(slots=True, eq=False)
class Resource:
    """Who sent it. One object is shared by everything below one resource envelope.

    `envelope` is the encoded `ResourceSpans`/`ResourceLogs` without its scopes
    (resource, schema URL, unknown fields).
    """

    attributes: Attributes = field(default_factory=PlainAttributes)
    envelope: bytes = b""
    service: str = field(init=False)  # `service.name`, which every span is asked for

    def __post_init__(self) -> None:
        self.service = text(self.attributes, "service.name") or ""


@dataclass(slots=True, eq=False)
class Scope:
    """Which instrumentation library spoke. `envelope`: the encoded scope message without its records."""

    name: str = ""
    version: str = ""
    attributes: Attributes = field(default_factory=PlainAttributes)
    envelope: bytes = b""


@dataclass(slots=True, eq=False)
class SpanEvent:
    """A finished span. `parent_id` is empty on a root."""

    tenant: str
    received_ns: int
    resource: Resource
    scope: Scope
    raw: bytes
    trace_id: bytes
    span_id: bytes
    parent_id: bytes
    name: str
    kind: int  # opentelemetry.proto.trace.v1.Span.SpanKind
    start_ns: int
    end_ns: int
    status_code: int  # 0 unset, 1 ok, 2 error
    status_message: str
    attributes: Attributes
    raw_events: Sequence[bytes] = ()  # encoded Span.Event; read with `span_events`

    @property
    def is_error(self) -> bool:
        return self.status_code == STATUS_ERROR


@dataclass(slots=True, eq=False)
class LogEvent:
    """A log record. Ids are empty where the sender gave none."""

    tenant: str
    received_ns: int
    resource: Resource
    scope: Scope
    raw: bytes
    trace_id: bytes
    span_id: bytes
    time_ns: int  # the record's time, else its observed time, else the receive time
    name: str  # `event_name`, else attribute `event.name`, else ""
    severity: int
    body: Value
    attributes: Attributes


@dataclass(slots=True, eq=False)
class MetricPoint:
    """One number of a metric that counts: what was added from `start_ns` to `time_ns`.

    `cumulative`: all that was counted since `start_ns`, told again with every export.
    `start_ns` is 0 where the sender does not know since when it counts.
    """

    tenant: str
    received_ns: int
    resource: Resource
    scope: Scope
    name: str
    start_ns: int
    time_ns: int
    value: int | float  # of a histogram: the sum of what was measured
    cumulative: bool
    attributes: Attributes


@dataclass(slots=True, eq=False)
class HookEvent:
    """A harness asks before or tells after one of its steps (design section 2.6).

    `event` is what happens, in words common to all harnesses: session_start,
    prompt, before_model, after_model, before_tool, permission, after_tool,
    after_batch, agent_start, agent_stop, model_switch (`model` is the one asked for),
    model_switched, stop, session_end, or `other`; `name` is what the harness itself
    calls it. Text of arguments, results and errors is content.
    """

    tenant: str
    received_ns: int
    harness: str
    event: str
    session: str  # as the harness's telemetry names the run; "" where it does not say
    trace_id: bytes
    attributes: Attributes
    name: str = ""
    dialect: str = ""  # how `raw` is to be read again
    raw: bytes = b""
    parent_span_id: bytes = b""  # of `traceparent`
    parent_session: str | None = None  # the session that this one was started by
    agent: str | None = None  # kind of sub-agent; None: the main thread
    agent_id: str | None = None

    tool: str | None = None
    tool_call_id: str | None = None
    arguments: str | None = None  # content, as text; JSON where the harness gave a structure
    arguments_hash: str | None = None  # keyed; the same for calls that differ in a comment or a description only
    known_as: tuple[str, str | None] | None = None  # tool and arguments as telemetry has them, where it differs
    result: str | None = None  # content
    failed: bool = False
    failures: frozenset[str] = frozenset()  # names of what failed, where the harness gives some
    error: str | None = None  # content
    duration_ns: int = 0

    provider: str | None = None
    model: str | None = None
    former_model: str | None = None  # at work until a switch
    call_id: str | None = None  # an id of the model call that no other one bears
    usage: Usage | None = None  # where the harness tells it with the event
    usage_told: tuple[int, int] | None = None  # input and output as written, which telemetry repeats
    unattended: bool = False  # nobody is there who could be asked about it
    usage_is_partial: bool = False  # the harness leaves parts out (cached tokens)

    carries: frozenset[str] = frozenset()  # verbs that the harness obeys at this very event
    ever: frozenset[str] = frozenset()  # verbs that it obeys at some event
    gates: frozenset[str] = frozenset()  # events at which it can be refused something

    @property
    def call(self) -> tuple[str | None, str | None]:
        """Tool and arguments (or what stands for them) as everything that tells of the same call is compared."""
        if self.known_as is not None:
            return self.known_as
        return self.tool, self.arguments if self.arguments is not None else self.arguments_hash


Event = SpanEvent | LogEvent | HookEvent

STATUS_ERROR: Final = 2
