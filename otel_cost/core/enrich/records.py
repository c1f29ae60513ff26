"""Log records that are ours: alerts and corrections, with the resource and scope they travel under.

The same facts as JSON (`alert_json`, `correction_json`) go to every sink and to
`replay --json`, so that there is one wording of an alert.
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Final

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs, SeverityNumber
from opentelemetry.proto.resource.v1 import resource_pb2

from otel_cost.core.model.attributes import PlainAttributes
from otel_cost.core.model.effects import Outgoing, Signal
from otel_cost.core.model.event import Resource, Scope
from otel_cost.core.model.money import exact_text, nano_to_float, nano_to_text
from otel_cost.core.model.vocabulary import Severity

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from otel_cost.core.model.effects import Correction
    from otel_cost.core.model.finding import Alert

ALERT_EVENT: Final = "otel_cost.alert"
CORRECTION_EVENT: Final = "otel_cost.correction"

OWN_RESOURCE: Final = Resource(
    PlainAttributes({"service.name": "otel-cost"}),
    ResourceLogs(
        resource=resource_pb2.Resource(
            attributes=[KeyValue(key="service.name", value=AnyValue(string_value="otel-cost"))]
        )
    ).SerializeToString(),
)
OWN_SCOPE: Final = Scope(
    name="otel_cost", envelope=ScopeLogs(scope=InstrumentationScope(name="otel_cost")).SerializeToString()
)

_LEVELS: Final = {
    Severity.NOTICE: (SeverityNumber.SEVERITY_NUMBER_WARN, "WARN"),
    Severity.WARNING: (SeverityNumber.SEVERITY_NUMBER_WARN, "WARN"),
    Severity.CRITICAL: (SeverityNumber.SEVERITY_NUMBER_ERROR, "ERROR"),
}


def alert_json(alert: Alert) -> dict[str, object]:
    """An alert in the words of contract section 2.2: ids as lower-case hex, money as decimal strings or None."""
    return {
        "type": "alert",
        "id": alert.id,
        "run_id": alert.run_id,
        "tenant": alert.tenant,
        "trace_id": alert.trace_id.hex(),
        "rule": alert.rule,
        "category": alert.category.value,
        "kind": alert.kind,
        "state": alert.state,
        "seq": alert.seq,
        "span_ids": [span_id.hex() for span_id in alert.span_ids],
        "onset_span_id": alert.onset_span_id.hex(),
        "at_span_id": alert.at_span_id.hex(),
        "at_unix_nano": str(alert.at_ns),
        "severity": alert.severity.value,
        "wasted_usd": _money(alert.wasted_nano),
        "action": alert.action,
        "summary": alert.summary,
        "fingerprint": alert.fingerprint,
        "evidence": _plain(alert.evidence),
    }


def correction_json(correction: Correction) -> dict[str, object]:
    """A correction in the same style: what a call was said to cost, what it does cost, and why it changed."""
    return {
        "type": "correction",
        "run_id": correction.run_id,
        "tenant": correction.tenant,
        "call_id": correction.call_id,
        "trace_id": correction.trace_id.hex(),
        "span_id": correction.span_id.hex(),
        "at_unix_nano": str(correction.at_ns),
        "old_usd": _money(correction.old_nano),
        "new_usd": _money(correction.new_nano),
        "why": correction.why,
        **({"who": correction.who} if correction.who else {}),
        **({"price_book": correction.price_book} if correction.price_book else {}),
    }


def alert_outgoing(alert: Alert, position: int) -> Outgoing:
    """An alert on its way downstream: told once to each exporter, wherever its signal goes."""
    key = f"{alert.tenant}/{alert.id}"
    return Outgoing(Signal.LOGS, position, alert_record(alert), b"", OWN_RESOURCE, OWN_SCOPE, key=key)


def alert_record(alert: Alert) -> bytes:
    """An encoded `LogRecord` at the span that made the alert fire.

    Attributes are `otel_cost.alert.*`; evidence is flattened beside them with dotted
    keys and never overwrites one of the alert's own.
    """
    said = {
        "id": alert.id,
        "rule": alert.rule,
        "category": alert.category.value,
        "kind": alert.kind,
        "state": alert.state,
        "severity": alert.severity.value,
        "fingerprint": alert.fingerprint,
        "action": alert.action,
        "seq": alert.seq,
        "tenant": alert.tenant,
        "span_ids": [span_id.hex() for span_id in alert.span_ids],
        "onset_span_id": alert.onset_span_id.hex(),
        **_usd("wasted_usd", alert.wasted_nano),
    }
    for key, value in _flat(alert.evidence):
        said.setdefault(key, value)
    number, level = _LEVELS[alert.severity]
    return LogRecord(
        time_unix_nano=alert.at_ns,
        observed_time_unix_nano=alert.at_ns,
        severity_number=number,
        severity_text=level,
        event_name=ALERT_EVENT,
        body=AnyValue(string_value=alert.summary),
        attributes=_pairs(ALERT_EVENT, said.items(), alert.run_id),
        trace_id=alert.trace_id,
        span_id=alert.at_span_id,
    ).SerializeToString()


def correction_record(correction: Correction) -> bytes:
    """An encoded `LogRecord` at the span whose charge has changed; a side that has no price has no key."""
    said = {
        "call_id": correction.call_id,
        "tenant": correction.tenant,
        **_usd("old_usd", correction.old_nano),
        **_usd("new_usd", correction.new_nano),
        "why": correction.why,
    }
    return LogRecord(
        time_unix_nano=correction.at_ns,
        observed_time_unix_nano=correction.at_ns,
        severity_number=SeverityNumber.SEVERITY_NUMBER_INFO,
        severity_text="INFO",
        event_name=CORRECTION_EVENT,
        attributes=_pairs(CORRECTION_EVENT, said.items(), correction.run_id),
        trace_id=correction.trace_id,
        span_id=correction.span_id,
    ).SerializeToString()


def _money(nano: int | None) -> str | None:
    return None if nano is None else nano_to_text(nano)


def _usd(key: str, nano: int | None) -> dict[str, object]:
    """A double for dashboards and the exact text; nothing where there is no price."""
    return {} if nano is None else {key: nano_to_float(nano), f"{key}_exact": nano_to_text(nano)}


def _pairs(namespace: str, said: Iterable[tuple[str, object]], run_id: str) -> list[KeyValue]:
    pairs = [KeyValue(key=f"{namespace}.{key}", value=_any(value)) for key, value in said if value is not None]
    pairs.append(KeyValue(key="otel_cost.run.id", value=AnyValue(string_value=run_id)))
    return pairs


def _flat(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Nested maps as dotted keys, because most backends cannot query a map."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _plain(value)


def _plain(value: object) -> object:
    """JSON types only: ids as hex, exact numbers as decimal text."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        inner = [_plain(item) for item in value]
        return sorted(inner, key=str) if isinstance(value, set | frozenset) else inner
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Fraction):
        return exact_text(value)
    if isinstance(value, Decimal):
        return format(value, "f")
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"evidence cannot hold a {type(value).__name__}")


def _any(value: object) -> AnyValue:
    out = AnyValue()
    if isinstance(value, bool):
        out.bool_value = value
    elif isinstance(value, int) and -(1 << 63) <= value < 1 << 63:
        out.int_value = value
    elif isinstance(value, float):
        out.double_value = value
    elif isinstance(value, list):
        out.array_value.values.extend(map(_any, value))
        if not value:
            out.array_value.SetInParent()
    elif isinstance(value, dict):
        out.kvlist_value.values.extend(KeyValue(key=key, value=_any(inner)) for key, inner in value.items())
    elif value is not None:
        out.string_value = str(value).encode("utf-8", "replace").decode()
    return out
