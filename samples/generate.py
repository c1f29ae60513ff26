"""Write the samples: small, seeded, made-up agent runs as OTLP/JSON, one export request per line.

    python samples/generate.py [FOLDER]

Nothing here is recorded from anybody. Times start at a fixed instant; `otel-cost demo` moves them to now.
"""

from __future__ import annotations

import json
import random
import sys
from dataclasses import dataclass, field
from pathlib import Path

SECOND = 10**9
START = 1_793_620_800 * SECOND  # 2026-11-02T12:00:00Z


def value(plain: object) -> dict[str, object]:
    """A plain value as OTLP/JSON's AnyValue; 64-bit integers are strings there."""
    if isinstance(plain, bool):
        return {"boolValue": plain}
    if isinstance(plain, int):
        return {"intValue": str(plain)}
    if isinstance(plain, float):
        return {"doubleValue": plain}
    if isinstance(plain, (list, tuple)):
        return {"arrayValue": {"values": [value(item) for item in plain]}}
    return {"stringValue": str(plain)}


def attributes(plain: dict[str, object]) -> list[dict[str, object]]:
    return [{"key": key, "value": value(item)} for key, item in plain.items() if item is not None]


@dataclass
class Trace:
    """A trace under construction, in one client's dialect."""

    seed: int
    service: str
    scope: str
    start_s: float = 0
    resource: dict[str, object] = field(default_factory=dict)
    spans: list[dict[str, object]] = field(default_factory=list)
    logs: list[dict[str, object]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self.trace_id = self.hex(16)
        self.now = START + int(self.start_s * SECOND)

    def hex(self, size: int) -> str:
        return self._random.randbytes(size).hex()

    def tokens(self, around: int) -> int:
        return int(around * self._random.uniform(0.9, 1.1))

    def span(
        self,
        name: str,
        seconds: float,
        said: dict[str, object],
        *,
        parent: str = "",
        kind: int = 1,
        error: str | None = None,
        span_id: str = "",
        start: int | None = None,
    ) -> str:
        """Add a finished span and move the clock to its end; children first, as SDKs export."""
        begin = self.now if start is None else start
        self.now = max(self.now, begin + int(seconds * SECOND))
        span_id = span_id or self.hex(8)
        span: dict[str, object] = {
            "traceId": self.trace_id,
            "spanId": span_id,
            "parentSpanId": parent,
            "flags": 257,
            "name": name,
            "kind": kind,
            "startTimeUnixNano": str(begin),
            "endTimeUnixNano": str(self.now if start is not None else begin + int(seconds * SECOND)),
            "attributes": attributes(said),
            "status": {"code": 2, "message": error} if error else {},
        }
        if error:
            span["events"] = [
                {
                    "timeUnixNano": span["endTimeUnixNano"],
                    "name": "exception",
                    "attributes": attributes({"exception.type": "RuntimeError", "exception.message": error}),
                }
            ]
        self.spans.append(span)
        return span_id

    def log(self, name: str, said: dict[str, object], parent: str = "") -> None:
        self.logs.append(
            {
                "timeUnixNano": str(self.now),
                "observedTimeUnixNano": str(self.now),
                "severityNumber": 9,
                "eventName": name,
                "body": {"stringValue": name},
                "attributes": attributes(said | {"event.name": name.rpartition(".")[2]}),
                "traceId": self.trace_id if parent else "",
                "spanId": parent,
            }
        )

    def lines(self, size: int = 8) -> list[str]:
        """Export requests of at most `size` spans, then the logs."""
        resource = {"attributes": attributes({"service.name": self.service} | self.resource)}
        scope = {"name": self.scope, "version": "1.0.0"}
        requests: list[dict[str, object]] = [
            {"resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": scope, "spans": some}]}]}
            for some in (self.spans[at : at + size] for at in range(0, len(self.spans), size))
        ]
        if self.logs:
            requests.append(
                {"resourceLogs": [{"resource": resource, "scopeLogs": [{"scope": scope, "logRecords": self.logs}]}]}
            )
        return [json.dumps(request, separators=(",", ":")) for request in requests]


def chat(model: str, provider: str, usage: dict[str, int | None], **more: object) -> dict[str, object]:
    """Attributes of a model call in the words of the GenAI conventions."""
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": provider,
        "gen_ai.request.model": model,
        "gen_ai.response.model": model,
        **{f"gen_ai.usage.{name}": count for name, count in usage.items()},
        **more,
    }


def tool(name: str, arguments: str, result: str, **more: object) -> dict[str, object]:
    return {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": name,
        "gen_ai.tool.call.arguments": arguments,
        "gen_ai.tool.call.result": result,
        **more,
    }


def agent(name: str, conversation: str, **more: object) -> dict[str, object]:
    return {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": name,
        "gen_ai.conversation.id": conversation,
        **more,
    }


def same_error_loop() -> Trace:
    """A coding agent runs the same failing test again and again; only line numbers and times change."""
    said: dict[str, object] = {"deployment.environment.name": "prod", "team.id": "payments"}
    trace = Trace(1, "checkout-bot", "example.agent", 0, said)
    root, begin = trace.hex(8), trace.now
    context = 9_000
    for turn in range(7):
        usage = {"input_tokens": context, "cache_read.input_tokens": context - 800, "output_tokens": trace.tokens(220)}
        said = chat("claude-sonnet-4-5", "anthropic", usage, **{"gen_ai.response.id": f"msg_{trace.hex(6)}"})
        trace.span("chat claude-sonnet-4-5", 4.1, said, parent=root, kind=3)
        if turn < 6:
            error = f"AssertionError at tests/test_cart.py:{40 + turn}: expected 3 items, got 2 after 0.{turn}1s"
            said = tool("run_tests", '{"path": "tests/test_cart.py"}', "")
            trace.span("execute_tool run_tests", 2.5, said, parent=root, error=error)
        context += 900
    said = agent("coder", "conv-cart-42", **{"user.id": "dana"})
    trace.span("invoke_agent coder", 0, said, span_id=root, start=begin)
    return trace


def context_backpack() -> Trace:
    """Twelve turns that drag everything along: 20k to 240k input tokens, the cache missing more and more."""
    said: dict[str, object] = {"deployment.environment.name": "prod", "team.id": "platform"}
    trace = Trace(2, "migration-agent", "example.agent", 600, said)
    root, begin = trace.hex(8), trace.now
    for turn in range(12):
        context = 20_000 * (turn + 1)
        usage = {
            "input_tokens": context,
            "cache_read.input_tokens": int(context * (0.9 - 0.06 * turn)),
            "output_tokens": trace.tokens(600),
        }
        said = chat("gpt-5", "openai", usage, **{"gen_ai.response.id": f"resp_{trace.hex(6)}"})
        trace.span("chat gpt-5", 9, said, parent=root, kind=3)
        path = f"src/module_{turn}.py"
        said = tool("read_file", json.dumps({"path": path}), f"{path} " * 40)
        trace.span("execute_tool read_file", 0.2, said, parent=root)
    said = agent("migrator", "conv-migrate-7", **{"user.id": "sam"})
    trace.span("invoke_agent migrator", 0, said, span_id=root, start=begin)
    return trace


def team_of_agents() -> Trace:
    """A planner with two subagents, in OpenInference's words; the cheap model fails and a dear one takes over."""
    trace = Trace(3, "research-desk", "openinference.instrumentation.example", 1500, {"team.id": "research"})
    root, begin = trace.hex(8), trace.now

    def llm(model: str, tokens_in: int, tokens_out: int, parent: str, error: str | None = None) -> None:
        said: dict[str, object] = {"openinference.span.kind": "LLM", "llm.model_name": model, "llm.provider": "openai"}
        if error is None:
            said |= {"llm.token_count.prompt": tokens_in, "llm.token_count.completion": tokens_out}
        trace.span("ChatCompletion", 3, said, parent=parent, error=error)

    for name, question in (("searcher", "licences"), ("writer", "summary")):
        sub, sub_begin = trace.hex(8), trace.now
        llm("gpt-5-mini", trace.tokens(3000), trace.tokens(200), sub)
        said = {"openinference.span.kind": "TOOL", "tool.name": "web_search", "input.value": question}
        trace.span("web_search", 1, said, parent=sub)
        if name == "writer":
            llm("gpt-5-mini", 0, 0, sub, error="RateLimitError: 429 too many requests")
            llm("gpt-5.2-pro", trace.tokens(6000), trace.tokens(1500), sub)
        else:
            llm("gpt-5-mini", trace.tokens(5000), trace.tokens(700), sub)
        said = {"openinference.span.kind": "AGENT", "agent.name": name}
        trace.span(name, 0, said, parent=root, span_id=sub, start=sub_begin)
    said = {"openinference.span.kind": "AGENT", "agent.name": "planner", "session.id": "research-11", "user.id": "kim"}
    trace.span("planner", 0, said, span_id=root, start=begin)
    return trace


def coding_cli() -> Trace:
    """A coding CLI that tells each call twice, as a span and as a log record: counted once."""
    trace = Trace(4, "claude-code", "com.anthropic.claude_code.tracing", 2400, {"user.email": "lee@example.com"})
    root, begin = trace.hex(8), trace.now
    session = {"session.id": "cli-5f2e"}
    for turn in range(3):
        usage: dict[str, object] = {
            "model": "claude-sonnet-4-5",
            "input_tokens": 12,
            "output_tokens": trace.tokens(400),
            "cache_read_tokens": 15_000 * turn,
            "cache_creation_tokens": 15_000,
            "request_id": f"req_{trace.hex(6)}",
        }
        call = trace.span("claude_code.llm_request", 5, usage | session | {"span.type": "llm_request"}, parent=root)
        trace.log("claude_code.api_request", usage | session | {"cost_usd": 0.06, "duration_ms": 5000}, parent=call)
        said = {"span.type": "tool", "tool_name": "Edit", "tool_use_id": f"toolu_{trace.hex(6)}"}
        trace.span("claude_code.tool", 0.4, said | session, parent=root)
    trace.span("claude_code.interaction", 0, session | {"span.type": "interaction"}, span_id=root, start=begin)
    return trace


def holes() -> Trace:
    """What cannot be priced is shown as a hole: a stream without usage, a model nobody has a price for."""
    trace = Trace(5, "support-bot", "example.agent", 3000, {"team.id": "support"})
    root, begin = trace.hex(8), trace.now
    trace.span("chat gpt-5", 6, chat("gpt-5", "openai", {}), parent=root, kind=3)
    unknown = chat("in-house-70b", "acme", {"input_tokens": 4000, "output_tokens": 300})
    trace.span("chat in-house-70b", 2, unknown, parent=root, kind=3)
    priced = chat("gpt-5-mini", "openai", {"input_tokens": trace.tokens(2000), "output_tokens": trace.tokens(150)})
    trace.span("chat gpt-5-mini", 2, priced, parent=root, kind=3)
    said = agent("helper", "conv-help-3", **{"user.id": "ana"})
    trace.span("invoke_agent helper", 0, said, span_id=root, start=begin)
    return trace


SAMPLES = {
    "same-error-loop": same_error_loop,
    "context-backpack": context_backpack,
    "team-of-agents": team_of_agents,
    "coding-cli": coding_cli,
    "holes": holes,
}


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    for name, make in SAMPLES.items():
        (folder / f"{name}.jsonl").write_text("\n".join(make().lines()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
