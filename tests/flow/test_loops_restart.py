"""What finished runs have taught is known after a restart: usual runs of a workflow, loops seen before."""

from __future__ import annotations

import json
import time
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from running import Process, until

if TYPE_CHECKING:
    from pathlib import Path

TOKENS = {"gen_ai.usage.input_tokens": 1000, "gen_ai.usage.output_tokens": 100}  # 0.0035 USD with gpt-4o


def a_run(trace: int, turns: int, start_ns: int, *, failing: bool = False) -> bytes:
    """A run of the workflow `nightly`: so many turns of a model call and a tool call, each with news or all failing."""
    request = ExportTraceServiceRequest()
    spans = request.resource_spans.add().scope_spans.add().spans
    trace_id = trace.to_bytes(16, "big")
    for number in range(2 * turns):
        span = spans.add(trace_id=trace_id, span_id=(trace * 1000 + number + 1).to_bytes(8, "big"))
        span.parent_span_id = (trace * 1000 + 999).to_bytes(8, "big")
        span.start_time_unix_nano = start_ns + number * 10**7
        span.end_time_unix_nano = span.start_time_unix_nano + 10**7
        said: dict[str, Any] = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai"} | TOKENS
        said["gen_ai.request.model"] = "gpt-4o"
        if number % 2:
            said = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "bash"}
            said["gen_ai.tool.call.arguments"] = json.dumps({"command": "deploy" if failing else f"deploy {number}"})
            said["gen_ai.tool.call.result"] = "no such host: live" if failing else f"part {number} is up"
            if failing:
                said["error.type"] = "CommandError"
        for key, value in said.items():
            pair = span.attributes.add(key=key)
            if isinstance(value, int):
                pair.value.int_value = value
            else:
                pair.value.string_value = value
    root = spans.add(trace_id=trace_id, span_id=(trace * 1000 + 999).to_bytes(8, "big"), name="invoke_workflow nightly")
    root.start_time_unix_nano, root.end_time_unix_nano = start_ns, start_ns + 2 * turns * 10**7
    for key, text in (("gen_ai.operation.name", "invoke_workflow"), ("gen_ai.workflow.name", "nightly")):
        root.attributes.add(key=key).value.string_value = text
    return request.SerializeToString()


def send(process: Process, *bodies: bytes) -> None:
    for body in bodies:
        request = urllib.request.Request(
            f"http://{process.http}/v1/traces", body, {"Content-Type": "application/x-protobuf"}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.status == 200


def firing(process: Process, kind: str) -> list[dict[str, Any]]:
    return [one for one in process.get("/v1/alerts")["alerts"] if one["kind"] == kind]


@pytest.mark.slow
def test_what_was_learnt_is_known_after_a_restart(tmp_path: Path) -> None:
    now_ns = time.time_ns() - 3600 * 10**9
    first = Process(tmp_path)
    try:
        send(first, *[a_run(n, 3, now_ns + n * 10**9) for n in range(1, 26)])
        send(first, a_run(50, 4, now_ns, failing=True))
        until(lambda: first.get("/v1/loops")["loops"])
    finally:
        assert first.stop() == 0  # all runs are over
    second = Process(tmp_path)
    try:
        (known,) = second.get("/v1/loops")["loops"]
        assert (known["times"], known["runs"], known["kind"]) == (1, 1, "repeated_error")
        assert known["burn_usd"] == "0.0105"  # turns two to four
        later_ns = time.time_ns() - 60 * 10**9
        send(second, a_run(60, 12, later_ns), a_run(70, 3, later_ns + 10**9, failing=True))
        until(lambda: firing(second, "runaway") and len(firing(second, "repeated_error")) == 2)
        (beyond,) = firing(second, "runaway")
        assert (beyond["evidence"]["usual_calls"], beyond["trace_id"]) == (8, (60).to_bytes(16, "big").hex())
        assert beyond["evidence"]["finished_runs"] == 26
        again = next(one for one in firing(second, "repeated_error") if int(one["trace_id"], 16) == 70)
        assert again["evidence"]["seen"] == {"times": 1, "runs": 1, "burn_usd": "0.0105"}
        assert again["evidence"]["loop"] == known["loop"]
        (both,) = (one for one in second.get("/v1/loops")["loops"] if one["loop"] == known["loop"])
        assert (both["times"], both["runs"], both["first_seen"]) == (2, 2, known["first_seen"])
        assert both["last_seen"] > known["last_seen"]
        assert second.get("/v1/loops?top=1&tenant=nobody") == {"loops": []}
    finally:
        assert second.stop() == 0
