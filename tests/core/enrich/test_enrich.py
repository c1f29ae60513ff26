"""What leaves is the sender's bytes, then ours; alerts say one thing in every form."""

from __future__ import annotations

import json
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from otel_cost.core.enrich.attributes import (
    call_attributes,
    decision_attributes,
    loop_attributes,
    run_attributes,
    step_attributes,
    subtree_attributes,
    trace_attributes,
)
from otel_cost.core.enrich.records import (
    OWN_RESOURCE,
    OWN_SCOPE,
    alert_json,
    alert_record,
    correction_json,
    correction_record,
)
from otel_cost.core.model.attributes import plain_value
from otel_cost.core.model.call import Call
from otel_cost.core.model.charge import Charge, Item
from otel_cost.core.model.effects import Correction, Signal
from otel_cost.core.model.finding import Alert
from otel_cost.core.model.money import Rate
from otel_cost.core.model.step import Step
from otel_cost.core.model.vocabulary import Basis, Category, Kind, Reason, Severity, Source, Status


def called(charge: Charge) -> Call:
    step = Step(source=Source.SPAN, dialect="test", scope="test", kind=Kind.INFERENCE)
    return Call("id", step, (step,), charge, Kind.INFERENCE)


def priced(**parts: int) -> Call:
    items = tuple(Item(part, part, 1, Rate(1), nano, "test", None) for part, nano in parts.items())
    charge = Charge(
        Status.PRICED, None, sum(parts.values()), items, basis=Basis.EXCLUSIVE, price_book="2026-11-01+ab12"
    )
    return called(charge)


def on_span(extra: bytes) -> dict[str, object]:
    return {pair.key: plain_value(pair.value) for pair in Span.FromString(extra).attributes}


def test_priced_call_says_its_cost_and_its_parts() -> None:
    call = priced(input=12_000_000, cache_read=500, output=3)
    assert on_span(call_attributes(call, "run-1")) == {
        "otel_cost.status": "priced",
        "otel_cost.usage.basis": "exclusive",
        "otel_cost.price_book": "2026-11-01+ab12",
        "otel_cost.run.id": "run-1",
        "otel_cost.usd": 0.012000503,
        "otel_cost.usd_exact": "0.012000503",
        "otel_cost.input_usd": 0.012,
        "otel_cost.cache_read_usd": 5e-7,
        "otel_cost.output_usd": 3e-9,
    }


def test_items_of_one_part_are_one_sum() -> None:
    items = tuple(Item(unit, "cache_write", 1, Rate(1), 10, "test", None) for unit in ("cache_write", "cache_write_1h"))
    said = on_span(call_attributes(called(Charge(Status.PRICED, None, 20, items)), "r"))
    assert said["otel_cost.cache_write_usd"] == 2e-8


@pytest.mark.parametrize(
    "charge",
    [
        pytest.param(Charge(Status.UNPRICED, Reason.UNKNOWN_MODEL), id="unpriced"),
        pytest.param(Charge(Status.INVALID, Reason.NEGATIVE_TOKENS), id="invalid"),
    ],
)
def test_unknown_cost_has_a_reason_and_no_cost_key(charge: Charge) -> None:
    said = on_span(call_attributes(called(charge), "r"))
    assert said["otel_cost.reason"] == charge.reason
    assert not [key for key in said if "usd" in key]


def test_free_is_told_as_zero() -> None:
    said = on_span(call_attributes(priced(input=0), "r"))
    assert (said["otel_cost.usd"], said["otel_cost.usd_exact"]) == (0.0, "0")


def test_log_records_carry_the_same_in_their_own_field() -> None:
    call = priced(output=7)
    record = LogRecord.FromString(call_attributes(call, "r", Signal.LOGS))
    assert {pair.key: plain_value(pair.value) for pair in record.attributes} == on_span(call_attributes(call, "r"))


def test_other_marks() -> None:
    extra = (
        step_attributes(Status.ROLLUP, "r")
        + loop_attributes("repeated_error", "loop-1", 300)
        + decision_attributes("deny", "same-error-3x")
        + trace_attributes(1_500_000_000, 0, 4)
        + subtree_attributes(2)
    )
    assert on_span(extra) == {
        "otel_cost.status": "rollup",
        "otel_cost.run.id": "r",
        "otel_cost.loop.kind": "repeated_error",
        "otel_cost.loop.id": "loop-1",
        "otel_cost.loop.iteration": 300,
        "otel_cost.decision": "deny",
        "otel_cost.rule": "same-error-3x",
        "otel_cost.trace.usd": 1.5,
        "otel_cost.trace.wasted_usd": 0.0,
        "otel_cost.trace.llm_calls": 4,
        "otel_cost.subtree.usd": 2e-9,
    }
    assert on_span(trace_attributes(None, None, 0)) == {"otel_cost.trace.llm_calls": 0}
    assert subtree_attributes(None) == b""
    assert on_span(run_attributes("r")) == {"otel_cost.run.id": "r"}


@given(
    st.text(max_size=300),
    st.dictionaries(st.sampled_from(["input", "cache_read", "output", "fee"]), st.integers(0, 2**62), max_size=4),
    st.text(max_size=300).map(lambda name: "x" + name),
)
def test_enriched_span_is_the_original_and_ours(name: str, parts: dict[str, int], run_id: str) -> None:
    original = Span(trace_id=bytes(range(16)), span_id=b"\xff" * 8, name=name)
    original.attributes.add(key="gen_ai.request.model").value.string_value = name
    unknown = b"\xa2\x3f\x03abc"  # field 1012 of some later version of OTLP
    raw = original.SerializeToString() + unknown
    extra = call_attributes(priced(**parts), run_id)
    span = Span.FromString(raw + extra)
    assert span.attributes[0] == original.attributes[0]
    assert plain_value(span.attributes[4].value) == run_id
    assert float(str(on_span(extra)["otel_cost.usd_exact"])) == pytest.approx(sum(parts.values()) / 1e9)
    del span.attributes[1:]
    assert span.SerializeToString() == raw


ALERT = Alert(
    id="ab:1",
    tenant="acme",
    run_id="run-1",
    trace_id=b"\x01" * 16,
    rule="same-error-3x",
    category=Category.LOOP,
    kind="repeated_error",
    state="firing",
    seq=1,
    severity=Severity.CRITICAL,
    span_ids=(b"\x02" * 8, b"\x03" * 8),
    onset_span_id=b"\x02" * 8,
    at_span_id=b"\x03" * 8,
    at_ns=1_700_000_000_000_000_001,
    wasted_nano=22_500_000,
    action="deny",
    summary="Bash failed the same way 3 times",
    fingerprint="ab",
    evidence={
        "observed": 3,
        "threshold": 3,
        "user": None,
        "rule": "forged",
        "tools": ("Bash", "Read"),
        "cost": {"usd": Fraction(1, 8)},
        "model_route": [{"model": "m", "calls": 2}],
    },
)


def test_alert_in_json_has_the_words_of_the_contract() -> None:
    said = json.loads(json.dumps(alert_json(ALERT)))
    assert said["type"] == "alert"
    assert said["trace_id"] == "01" * 16
    assert said["span_ids"] == ["02" * 8, "03" * 8]
    assert (said["category"], said["severity"], said["wasted_usd"]) == ("loop", "critical", "0.0225")
    assert said["evidence"]["cost"] == {"usd": "0.125"}


def test_alert_record_is_at_the_offender_and_evidence_cannot_forge_its_fields() -> None:
    record = LogRecord.FromString(alert_record(ALERT))
    assert (record.event_name, record.severity_text, record.severity_number) == ("otel_cost.alert", "ERROR", 17)
    assert (record.trace_id, record.span_id) == (ALERT.trace_id, ALERT.at_span_id)
    assert record.time_unix_nano == ALERT.at_ns
    said = {pair.key.removeprefix("otel_cost.alert."): plain_value(pair.value) for pair in record.attributes}
    assert said["rule"] == "same-error-3x"
    assert (said["observed"], said["threshold"]) == (3, 3)
    assert said["tools"] == ["Bash", "Read"]
    assert said["cost.usd"] == "0.125"
    assert said["model_route"] == [{"model": "m", "calls": 2}]
    assert (said["wasted_usd"], said["wasted_usd_exact"]) == (0.0225, "0.0225")
    assert "user" not in said
    assert said["otel_cost.run.id"] == "run-1"


def test_correction_tells_old_new_and_why() -> None:
    correction = Correction("acme", "run-1", "call-1", b"\x01" * 16, b"\x02" * 8, 5, None, 10, "late twin")
    record = LogRecord.FromString(correction_record(correction))
    said = {pair.key.removeprefix("otel_cost.correction."): plain_value(pair.value) for pair in record.attributes}
    assert record.event_name == "otel_cost.correction"
    assert (said["new_usd_exact"], said["why"], "old_usd" in said) == ("0.00000001", "late twin", False)
    assert correction_json(correction)["old_usd"] is None


def test_own_records_travel_under_our_name() -> None:
    resource = ResourceLogs.FromString(OWN_RESOURCE.envelope)
    assert resource.resource.attributes[0].value.string_value == "otel-cost"
    assert ScopeLogs.FromString(OWN_SCOPE.envelope).scope.name == OWN_SCOPE.name == "otel_cost"
