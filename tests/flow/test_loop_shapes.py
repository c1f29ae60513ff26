"""Each shape of loop and waste: OTLP bytes in, alert lines of `replay --json` out; and what is nearly one is none."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_cost.cli import run
from otel_cost.core.decode.otlp import decode_logs, decode_traces
from otel_cost.core.hooks import read_hook
from otel_cost.core.model.effects import Signal
from otel_cost.edge.config import load_config
from otel_cost.edge.engine import build_engine

if TYPE_CHECKING:
    from pathlib import Path

    from opentelemetry.proto.trace.v1.trace_pb2 import Span

START_NS = 1_793_620_800 * 10**9
SECOND = 10**9
TRACE = bytes(range(16))
ROOT = b"the root"


class Model(NamedTuple):
    """One model call. `asked` and `model`: requested, and what answered; `error`: its type and message."""

    tokens: int = 1000
    output: int = 100
    cached: int = 0
    model: str = "gpt-4o"
    asked: str = ""
    text: str = ""
    error: str = ""
    score: float | None = None  # what a judge said of it


class Tool(NamedTuple):
    """One tool call."""

    name: str
    arguments: dict[str, object]
    result: str = ""
    error: str = ""
    beside: bool = False  # starts with the one before it


def put(span: Span, said: dict[str, Any]) -> None:
    for key, value in said.items():
        pair = span.attributes.add(key=key)
        if isinstance(value, int):
            pair.value.int_value = value
        elif isinstance(value, float):
            pair.value.double_value = value
        else:
            pair.value.string_value = value


def semconv(span: Span, call: Model | Tool) -> None:
    """As the OpenTelemetry conventions have it."""
    if isinstance(call, Tool):
        span.name = f"execute_tool {call.name}"
        put(span, {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": call.name})
        put(span, {"gen_ai.tool.call.arguments": json.dumps(call.arguments), "gen_ai.tool.call.result": call.result})
    else:
        span.name = f"chat {call.asked or call.model}"
        put(span, {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai"})
        put(span, {"gen_ai.request.model": call.asked or call.model})
        if not call.error:
            put(span, {"gen_ai.response.model": call.model, "gen_ai.usage.input_tokens": call.tokens})
            put(span, {"gen_ai.usage.output_tokens": call.output, "gen_ai.usage.cache_read.input_tokens": call.cached})
        if call.text:
            parts = [{"type": "text", "content": call.text}]
            put(span, {"gen_ai.output.messages": json.dumps([{"role": "assistant", "parts": parts}])})
    if call.error:
        put(span, {"error.type": call.error.partition(":")[0]})
        span.status.code, span.status.message = 2, call.error


def openinference(span: Span, call: Model | Tool) -> None:
    """As Arize's instrumentations send it."""
    if isinstance(call, Tool):
        span.name = call.name
        put(span, {"openinference.span.kind": "TOOL", "tool.name": call.name})
        put(span, {"input.value": json.dumps(call.arguments), "input.mime_type": "application/json"})
        if not call.error:
            put(span, {"output.value": call.result})
    else:
        span.name = "ChatCompletion"
        put(span, {"openinference.span.kind": "LLM", "llm.provider": "openai", "llm.system": "openai"})
        put(span, {"llm.invocation_parameters": json.dumps({"model": call.asked or call.model})})
        put(span, {"llm.model_name": call.asked or call.model if call.error else call.model})
        if not call.error:
            put(span, {"llm.token_count.prompt": call.tokens, "llm.token_count.completion": call.output})
            put(span, {"llm.token_count.prompt_details.cache_read": call.cached})
        if call.text:
            put(span, {"llm.output_messages.0.message.role": "assistant"})
            put(span, {"llm.output_messages.0.message.content": call.text})
    if call.error:
        span.status.code, span.status.message = 2, call.error
        kind, _, message = call.error.partition(": ")
        event = span.events.add(name="exception", time_unix_nano=span.end_time_unix_nano)
        for key, value in (("exception.type", kind), ("exception.message", message)):
            event.attributes.add(key=key).value.string_value = value


def written(calls: list[Model | Tool], dialect: Any) -> bytes:
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    resource.resource.attributes.add(key="service.name").value.string_value = "agent"
    scope = resource.scope_spans.add()
    if dialect is openinference:
        scope.scope.name = "openinference.instrumentation.openai"
    at_ns = START_NS
    for number, call in enumerate(calls):
        span = scope.spans.add(trace_id=TRACE, span_id=(number + 1).to_bytes(8, "big"), parent_span_id=ROOT)
        if not (isinstance(call, Tool) and call.beside):
            at_ns += SECOND
        span.start_time_unix_nano, span.end_time_unix_nano = at_ns, at_ns + SECOND * 9 // 10 + number
        dialect(span, call)
        if isinstance(call, Model) and call.score is not None:
            event = span.events.add(name="gen_ai.evaluation.result", time_unix_nano=span.end_time_unix_nano)
            event.attributes.add(key="gen_ai.evaluation.name").value.string_value = "faithful"
            event.attributes.add(key="gen_ai.evaluation.score.value").value.double_value = call.score
    return request.SerializeToString()


def alerts(folder: Path, capsys: pytest.CaptureFixture[str], body: bytes) -> list[dict[str, Any]]:
    file = folder / "run.traces.pb"
    file.write_bytes(body)
    assert run(["replay", "--json", str(file)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return [
        line
        for line in lines
        if line["type"] == "alert" and line["state"] == "firing" and line["category"] in {"loop", "waste"}
    ]


def turns(*tools: Tool) -> list[Model | Tool]:
    """Each tool call after a model call; prompts grow a little."""
    return [one for n, tool in enumerate(tools) for one in (Model(1000 + 50 * n), tool)]


def news(first: int, count: int) -> list[Tool]:
    return [Tool("read_file", {"path": f"src/m{n}.py"}, f"module {n} does {n * 7} things") for n in range(first, count)]


CHANT = "I will now look at the file again to be quite sure. " * 40
TABLE = "\n".join(f"| row {n} | {n * n} | {n**3} | a value that is not the same {n * 7} |" for n in range(90))
READ = Tool("read_file", {"path": "src/a.py"}, "the text of a")
WRITE = Tool("write_file", {"path": "src/a.py", "content": "new"}, "wrote 3 bytes")
LIST = Tool("list_files", {"path": "/"}, "many files")
ORDERS = (
    "Please open the museum site and find the opening hours for Monday",
    "Please open the museum site and find its opening hours for Monday",
    "Open the museum site and please find the opening hours for Monday",
)
ANSWERS = ("The page shows a cookie banner", "The page shows a cookie banner.", "The page shows that cookie banner")
LIMIT = "RateLimitError: Error code: 429 - rate limit reached"
WORK = ("login page bug", "slow search index", "broken mail template", "missing tax rules", "wrong currency sign")


def names(page: int) -> str:
    return " ".join(f"name{page}x{k}" for k in range(30))


SHAPES: dict[str, tuple[str, list[Model | Tool]]] = {
    "costly_passenger": ("notice", [Model(), LIST, *[Model(21_050 + 100 * n) for n in range(12)]]),
    "chanting": ("warning", [Model(text=CHANT)]),
    "cache_thrash": (
        "warning",
        [Model(10_000), Model(11_000, cached=9_984), *[Model(12_000 + 1000 * n) for n in range(5)]],
    ),
    "fallback_escalation": (
        "warning",
        [
            Model(model="gpt-4o-mini"),
            Model(asked="gpt-4o-mini", error="InternalServerError: Error code: 500"),
            Model(model="gpt-4o"),
        ],
    ),
    "fan_out": (
        "notice",
        [Model(), *[Tool("task", {"prompt": f"look at part {n}"}, f"{n} is fine", beside=n > 0) for n in range(12)]],
    ),
    "redundant_read": ("notice", turns(READ, *news(0, 25), READ, *news(30, 55), READ)),
    "agent_ping_pong": (
        "warning",
        turns(*[one for n in range(5) for one in (Tool("transfer_to_b", {}, "transferred to b"), *news(n, n + 1))]),
    ),
    "planner_restating": (
        "notice",  # as the starter rules have it
        turns(
            *[Tool("browser", {"instruction": order}, answer) for order, answer in zip(ORDERS, ANSWERS, strict=True)]
        ),
    ),
    "retry_storm": ("warning", [Model(error=LIMIT) for _ in range(5)]),
    "low_evaluation": ("warning", [Model(score=0.2), Model(score=0.21), Model(score=0.2), Model(score=0.22)]),
}

NEARLY: dict[str, list[Model | Tool]] = {
    "a small result is carried": [Model(), LIST, *[Model(2_000 + 100 * n) for n in range(12)]],
    "a large result goes with a compaction": [
        Model(5000),
        LIST,
        Model(25_000),
        Model(25_100),
        Model(6000),
        Model(6100),
    ],
    "an answer with a table": [Model(text=TABLE)],
    "a cache that is read": [Model(10_000), *[Model(11_000 + 1000 * n, cached=9_984 + 1000 * n) for n in range(8)]],
    "a dated name of the model asked for": [
        Model(model="gpt-4o-mini-2024-07-18", asked="gpt-4o-mini"),
        Model(asked="gpt-4o-mini", error="InternalServerError: Error code: 500"),
        Model(model="gpt-4o-mini-2024-07-18", asked="gpt-4o-mini"),
    ],
    "sub-agents one after the other": turns(
        *[Tool("task", {"prompt": f"look at part {n}"}, f"part {n} has {n * 3} doors") for n in range(12)]
    ),
    "reading again after a write": turns(READ, *news(0, 25), WRITE, READ, *news(30, 55), WRITE, READ),
    "hand-offs of other work": turns(
        *[Tool("transfer_to_b", {"task": f"please look into the {work}"}, f"{work} is done") for work in WORK]
    ),
    "an order for the next page": turns(
        *[Tool("browser", {"instruction": "Scroll down and list further names"}, names(n)) for n in range(8)]
    ),
    "two tries and an answer": [Model(error=LIMIT), Model(error=LIMIT), Model(), Model(error=LIMIT), Model()],
    "evaluations that rise": [Model(score=0.1), Model(score=0.2), Model(score=0.3), Model(score=0.45)],
    "polling until it is done": turns(
        *[Tool("get_job_status", {"id": "j1"}, f"running, {10 * n} % done") for n in range(8)],
        Tool("get_job_status", {"id": "j1"}, "done"),
    ),
    "polling what does not move yet": turns(*[Tool("wait_for_job", {"id": "j1"}, "still running") for _ in range(8)]),
    "a batch over files that all are well": turns(
        *[Tool("bash", {"command": f"ruff check src/part_{n}.py"}, "All checks passed!") for n in range(12)]
    ),
    "pages": turns(*[Tool("search", {"query": "orders", "page": n}, names(n)) for n in range(9)]),
    "tests that fail less after each edit": turns(
        *[
            one
            for n in range(7)
            for one in (
                Tool("edit_file", {"path": "a.py", "new": f"try {n}"}, f"edited line {n}"),
                Tool("run_tests", {"target": "t"}, f"{9 - n} failed", error=f"TestsFailed: {9 - n} failed"),
            )
        ]
    ),
    "success that always reads the same": turns(
        *[Tool("insert_row", {"table": "orders", "id": n}, "ok") for n in range(10)]
    ),
    "a server that is busy for a moment": turns(
        *[Tool("fetch_order", {"id": "o7"}, error="HTTPError: 503 Service Unavailable") for _ in range(2)],
        Tool("fetch_order", {"id": "o7"}, "order o7, 3 items"),
    ),
}


@pytest.mark.parametrize("dialect", [semconv, openinference])
@pytest.mark.parametrize("kind", SHAPES)
def test_a_shape_is_told(kind: str, dialect: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    severity, calls = SHAPES[kind]
    told = [one for one in alerts(tmp_path, capsys, written(calls, dialect)) if one["kind"] == kind]
    assert told, "nothing was told"
    assert told[-1]["severity"] == severity
    ids = {(n + 1).to_bytes(8, "big").hex() for n in range(len(calls))}
    assert {told[-1]["onset_span_id"], told[-1]["at_span_id"], *told[-1]["span_ids"]} <= ids
    assert "wasted_usd" in told[-1]


@pytest.mark.parametrize("dialect", [semconv, openinference])
@pytest.mark.parametrize("case", NEARLY)
def test_what_is_nearly_a_shape_is_none(
    case: str, dialect: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not [(one["kind"], one["summary"]) for one in alerts(tmp_path, capsys, written(NEARLY[case], dialect))]


@pytest.mark.parametrize(
    ("scores", "told"), [((0.2, 0.21, 0.2, 0.22), 1), ((0.2, 0.4, 0.6, 0.3), 0), ((0.2, 0.9, 0.2, 0.2), 0)]
)
def test_evaluations_that_come_as_log_records(scores: tuple[float, ...], told: int) -> None:
    engine = build_engine(load_config(environ={}))
    request = ExportTraceServiceRequest.FromString(written([Model() for _ in scores], semconv))
    spans = list(request.resource_spans[0].scope_spans[0].spans)
    for number, (span, score) in enumerate(zip(spans, scores, strict=True)):
        one = ExportTraceServiceRequest()
        one.resource_spans.add().scope_spans.add().spans.append(span)
        at_ns = span.end_time_unix_nano
        engine.feed(Signal.TRACES, decode_traces(one.SerializeToString(), "default", 0).events, 2 * number, at_ns)
        logs = ExportLogsServiceRequest()
        record = (
            logs.resource_logs.add()
            .scope_logs.add()
            .log_records.add(
                time_unix_nano=at_ns + 1,
                trace_id=span.trace_id,
                span_id=span.span_id,
                event_name="gen_ai.evaluation.result",
            )
        )
        record.attributes.add(key="gen_ai.evaluation.name").value.string_value = "faithful"
        record.attributes.add(key="gen_ai.evaluation.score.value").value.double_value = score
        engine.feed(Signal.LOGS, decode_logs(logs.SerializeToString(), "default", 0).events, 2 * number + 1, at_ns + 1)
    alerts = [one for one in engine.take().alerts if one.kind == "low_evaluation" and one.state == "firing"]
    assert len(alerts) == told


# ---- the same from hooks alone ----------------------------------------------------------------------------------


def by_hooks(calls: list[Model | Tool]) -> list[tuple[str, str]]:
    """Kinds and severities of what is told of an agent whose hooks speak of its tool calls, and no telemetry does."""
    engine = build_engine(load_config(environ={}))
    at_ns = START_NS
    tools = [call for call in calls if isinstance(call, Tool)]
    for number, call in enumerate(tools):
        said = {
            "session_id": "s-1",
            "cwd": "/home/user",
            "tool_name": call.name,
            "tool_use_id": f"toolu_{number}",
            "tool_input": call.arguments,
        }
        after = {"hook_event_name": "PostToolUseFailure", "error": call.error}
        if not call.error:
            after = {"hook_event_name": "PostToolUse", "tool_response": call.result}
        for event in ({"hook_event_name": "PreToolUse"}, after):
            at_ns += SECOND
            engine.hook(read_hook("claude", json.dumps(said | event).encode(), at_ns), at_ns, number)
    engine.close(at_ns)
    return [
        (alert.kind, alert.severity.value)
        for alert in engine.take().alerts
        if alert.state == "firing" and alert.category in {"loop", "waste"}
    ]


SEEN_BY_HOOKS: dict[str, tuple[str, list[Model | Tool]]] = {
    name: SHAPES[name] for name in ("redundant_read", "agent_ping_pong", "planner_restating")
} | {
    "exact_repeat": ("warning", [READ, READ, READ]),
    "near_repeat": (
        "warning",
        [
            Tool("Bash", {"command": f"grep -rn total lib tests docs samples | head {more}"}, "no match")
            for more in ("", "-q", "| cat")
        ],
    ),
    "repeated_error": (
        "warning",
        [Tool("Bash", {"command": "make all"}, error=f"Exit code 2: no rule at line {n}") for n in range(3)],
    ),
    "retry_storm": (
        "warning",
        [Tool("fetch_order", {"id": "o7"}, error="Error code: 503 Service Unavailable") for _ in range(4)],
    ),
    "edit_test_churn": (
        "warning",
        [
            one
            for n in range(5)
            for one in (
                Tool("Edit", {"file_path": "a.py", "new_string": f"try {n}"}, f"edited {n}"),
                Tool("Bash", {"command": "pytest -q"}, error=f"Exit code 1: {WORK[n]}"),
            )
        ],
    ),
    "recreate_churn": (
        "warning",
        [Tool("Write", {"file_path": "a.py", "content": f"v{n}"}, f"wrote version {n}") for n in range(5)],
    ),
    "error_cascade": (
        "notice",  # as the starter rules have it
        [Tool("Bash", {"command": f"do {work}"}, error=f"Exit code 1: {work}") for work in WORK],
    ),
}


@pytest.mark.parametrize("kind", SEEN_BY_HOOKS)
def test_hooks_alone_show_a_shape(kind: str) -> None:
    severity, calls = SEEN_BY_HOOKS[kind]
    told = by_hooks(calls)
    assert (kind, severity) in told, told


@pytest.mark.parametrize("case", [name for name, calls in NEARLY.items() if any(isinstance(c, Tool) for c in calls)])
def test_hooks_alone_of_what_is_nearly_a_shape(case: str) -> None:
    assert not by_hooks(NEARLY[case])
