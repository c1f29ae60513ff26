"""What a hook told at once is not counted again when the telemetry of the same call comes."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest
from hooks_helper import SECOND, Live, price

from otel_cost.core.assemble.run import Run
from otel_cost.core.hooks import hook_event
from otel_cost.core.model.attributes import PlainAttributes
from otel_cost.core.model.effects import Signal
from otel_cost.core.model.event import LogEvent, Resource, Scope, SpanEvent
from otel_cost.core.model.vocabulary import Flag, Kind, Source
from otel_cost.core.normalise import normalise_log, normalise_span
from otel_cost.core.normalise._hook import hook_step
from otel_cost.edge.config import load_config
from otel_cost.edge.engine import build_engine

if TYPE_CHECKING:
    from otel_cost.core.model.step import Step

NOW = 1_790_000_000 * SECOND
TRACE = "0af7651916cd43dd8448eb211c80319c"


def hooked(dialect: str, payload: dict[str, Any], at: int) -> Step:
    step = hook_step(hook_event(dialect, payload, NOW + at * SECOND))
    assert step is not None
    return step


def span(scope: str, name: str, at: int, attributes: dict[str, Any], number: int, parent: str = "") -> Step:
    step = normalise_span(
        SpanEvent(
            tenant="default", received_ns=NOW, resource=Resource(), scope=Scope(scope), raw=b"",
            trace_id=bytes.fromhex(TRACE), span_id=number.to_bytes(8, "big"), parent_id=bytes.fromhex(parent),
            name=name, kind=1, start_ns=NOW + at * SECOND - SECOND // 2, end_ns=NOW + at * SECOND,
            status_code=0, status_message="", attributes=PlainAttributes(attributes),
        )
    )  # fmt: skip
    assert step is not None
    return step


def record(scope: str, at: int, attributes: dict[str, Any]) -> Step:
    step = normalise_log(
        LogEvent(
            tenant="default", received_ns=NOW, resource=Resource(), scope=Scope(scope), raw=b"", trace_id=b"",
            span_id=b"", time_ns=NOW + at * SECOND, name=str(attributes["event.name"]), severity=9, body="",
            attributes=PlainAttributes(attributes),
        )
    )  # fmt: skip
    assert step is not None
    return step


def calls(steps: list[Step]) -> list[tuple[str, int, tuple[str, ...]]]:
    run = Run("default", price, 0)
    for step in steps:
        if step.span_id:
            run.add_span(step.trace_id, step.span_id, step.parent_id, step)
        else:
            run.add_step(step)
    run.finish()
    return sorted((c.kind.value, c.nano or 0, tuple(map(str, c.sources))) for c in run.calls.values())


def in_any_order(make: Any) -> list[tuple[str, int, tuple[str, ...]]]:
    results = [calls([make()[i] for i in order]) for order in itertools.permutations(range(len(make())))]
    assert all(result == results[0] for result in results)
    return results[0]


def test_an_id_joins_a_hook_to_its_span() -> None:
    def steps() -> list[Step]:
        told = {"session_id": "s", "hook_event_name": "PostToolUse", "tool_name": "Bash", "tool_use_id": "toolu_1"}
        said = {"span.type": "tool", "session.id": "s", "tool_name": "Bash", "gen_ai.tool.call.id": "toolu_1"}
        return [hooked("claude", told, 1), span("com.anthropic.claude_code.tracing", "claude_code.tool", 1, said, 1)]

    assert in_any_order(steps) == [("tool", 0, ("span", "hook"))]


def test_copilot_calls_are_paired_one_to_one_by_their_tool_and_time() -> None:
    """Two hooks and two spans of one tool, and one of another: neither has an id that the other tells."""

    def steps() -> list[Step]:
        parent = "b7ad6b7169203331"
        tools = [("bash", 1), ("bash", 5), ("edit", 6)]
        told = [
            hooked("copilot", {"sessionId": "s", "toolName": name, "toolArgs": {}, "toolResult": {},
                               "traceparent": f"00-{TRACE}-{parent}-01"}, at)
            for name, at in tools
        ]  # fmt: skip
        said = [
            span("github.copilot", f"execute_tool {name}", at, {
                "gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": name, "gen_ai.tool.call.id": f"call_{at}",
                "gen_ai.conversation.id": "s"}, at, parent)
            for name, at in tools
        ]  # fmt: skip
        return [*told[:2], *said[:2], told[2]]

    assert in_any_order(steps) == [("tool", 0, ("hook",)), *[("tool", 0, ("span", "hook"))] * 2]


def test_usage_of_a_codex_hook_is_that_of_its_record() -> None:
    def steps() -> list[Step]:
        usage = {"input_tokens": 900, "cached_input_tokens": 100, "output_tokens": 30, "reasoning_output_tokens": 5}
        told = {"session_id": "s", "hook_event_name": "PostModelRequest", "model": "gpt-5.2-codex",
                "status": "completed", "token_usage": {**usage, "total_tokens": 930}}  # fmt: skip
        said = {"event.name": "codex.sse_event", "event.kind": "response.completed", "conversation.id": "s",
                "model": "gpt-5.2-codex", "input_token_count": "900", "cached_token_count": "100",
                "output_token_count": "30", "reasoning_token_count": "5"}  # fmt: skip
        twice = [hooked("codex", told, 1), record("codex_exec", 1, said)]
        return [*twice, hooked("codex", told, 20), record("codex_exec", 20, said)]

    assert in_any_order(steps) == [("inference", 930, ("log", "hook"))] * 2


def test_the_record_speaks_where_a_hook_leaves_parts_out() -> None:
    told = {
        "session_id": "s", "hook_event_name": "AfterModel", "llm_request": {"model": "gemini-2.5-pro"},
        "llm_response": {"candidates": [{"finishReason": "STOP"}],
                         "usageMetadata": {"promptTokenCount": 20, "candidatesTokenCount": 30, "totalTokenCount": 57}},
    }  # fmt: skip
    said = {"event.name": "gemini_cli.api_response", "session.id": "s", "model": "gemini-2.5-pro",
            "input_token_count": 20, "output_token_count": 30, "thoughts_token_count": 7,
            "cached_content_token_count": 12, "total_token_count": 57}  # fmt: skip

    def steps() -> list[Step]:
        return [hooked("gemini", told, 1), record("gemini-cli", 1, said)]

    alone = hooked("gemini", told, 1)
    assert alone.usage is not None
    assert (alone.usage.output, alone.usage.cache_read, alone.flags) == (37, None, frozenset({Flag.INCOMPLETE}))
    assert in_any_order(steps) == [("inference", 57, ("log", "hook"))]
    run = Run("default", price, 0)
    for step in steps():
        run.add_step(step)
    (call,) = run.calls.values()
    assert call.flags == frozenset()
    assert call.step.usage is not None
    assert call.step.usage.cache_read == 12


def test_gemini_tools_are_paired_by_name_and_arguments() -> None:
    def steps() -> list[Step]:
        told = {"session_id": "s", "hook_event_name": "AfterTool", "tool_name": "run_shell_command",
                "tool_input": {"command": "ls", "description": "x"}, "tool_response": {"llmContent": "a"}}  # fmt: skip
        said = {"event.name": "gemini_cli.tool_call", "session.id": "s", "function_name": "run_shell_command",
                "function_args": '{"description": "x", "command": "ls"}', "success": True}  # fmt: skip
        return [hooked("gemini", told, 1), record("gemini-cli", 1, said)]

    assert in_any_order(steps) == [("tool", 0, ("log", "hook"))]


def test_an_opencode_answer_told_twice_and_its_span_are_one_call() -> None:
    def steps() -> list[Step]:
        began = (NOW + SECOND // 2) // 1_000_000
        info = {
            "id": "msg_1",
            "role": "assistant",
            "modelID": "gpt-5.2",
            "providerID": "openai",
            "time": {"created": began, "completed": began + 500},
            "tokens": {"input": 100, "output": 30, "reasoning": 10, "cache": {"read": 60, "write": 0}, "total": 200},
        }
        told = {"event": "event:message.updated",
                "input": {"type": "message.updated", "properties": {"sessionID": "s", "info": info}}}  # fmt: skip
        said = {"ai.operationId": "ai.streamText.doStream", "session.id": "s", "gen_ai.request.model": "gpt-5.2",
                "gen_ai.system": "openai", "ai.usage.inputTokens": 160, "ai.usage.outputTokens": 40,
                "ai.usage.cachedInputTokens": 60, "ai.response.id": "resp_1"}  # fmt: skip
        return [
            hooked("opencode", told, 1),
            hooked("opencode", told, 1),
            span("ai", "ai.streamText.doStream", 1, said, 7),
        ]

    assert in_any_order(steps) == [("inference", 200, ("span", "hook"))]


@pytest.mark.parametrize(
    ("dialect", "payload"),
    [
        ("claude", {"session_id": "s", "hook_event_name": "PreToolUse", "tool_name": "Bash", "tool_input": {}}),
        ("claude", {"session_id": "s", "hook_event_name": "PostToolBatch", "tool_calls": [{"tool_name": "Bash"}]}),
        ("copilot", {"sessionId": "s", "hookName": "permissionRequest", "toolName": "bash", "toolInput": {}}),
        ("gemini", {"session_id": "s", "hook_event_name": "AfterModel", "llm_response": {"candidates": [{}]}}),
        ("codex", {"session_id": "s", "hook_event_name": "PreModelRequest"}),
    ],
)
def test_what_only_asks_or_repeats_is_no_call(dialect: str, payload: dict[str, Any]) -> None:
    """A call that is refused was never made; a batch repeats its calls; a chunk is not the end."""
    assert hook_step(hook_event(dialect, payload, NOW)) is None


def test_a_hook_step_hangs_below_the_agent_that_traceparent_names() -> None:
    step = hooked(
        "copilot",
        {"sessionId": "s", "toolName": "bash", "toolArgs": {}, "toolResult": {},
         "traceparent": f"00-{TRACE}-b7ad6b7169203331-01"},
        1,
    )  # fmt: skip
    assert (step.source, step.kind) == (Source.HOOK, Kind.TOOL)
    assert (step.trace_id.hex(), step.parent_id.hex(), step.span_id) == (TRACE, "b7ad6b7169203331", b"")


def test_calls_without_spans_have_episodes_of_their_own() -> None:
    """Two loops told by hooks only, one after the other: two alarms, and no span is named that does not exist."""
    run = Live("neutral", "loops: [{name: same-error, detect: repeated_error, do: [{deny: {}}]}]")
    call = {"session_id": "s", "event": "after_tool", "tool": "bash"}
    for command, error in (("make a", "no module named foo"), ("make b", "permission denied")):
        for _ in range(3):
            run.ask({**call, "args": {"command": command}, "error": error})
        for name in "xyz":
            run.ask({**call, "args": {"command": f"cat {command}{name}"}, "result": name})
    assert [(alert.state, alert.seq) for alert in run.alerts] == [("firing", 1), ("resolved", 1)] * 2
    assert {alert.span_ids for alert in run.alerts} == {()}
    assert {(alert.onset_span_id, alert.at_span_id) for alert in run.alerts} == {(b"", b"")}


def test_a_span_that_lacks_the_id_of_a_tool_call_is_paired_by_tool_and_time() -> None:
    """OpenInference knows LangChain's id of a tool call from its result only: a failed one has none."""

    def steps() -> list[Step]:
        told = [
            hooked("neutral", {"session_id": "s", "trace_id": TRACE, "event": "after_tool", "tool": "bash",
                               "tool_call_id": f"call_{at}"}, at)
            for at in (1, 2)
        ]  # fmt: skip
        scope, tool = (
            "openinference.instrumentation.langchain",
            {"openinference.span.kind": "TOOL", "tool.name": "bash"},
        )
        return [*told, span(scope, "bash", 1, tool, 1), span(scope, "bash", 2, tool | {"tool_call.id": "call_2"}, 2)]

    assert in_any_order(steps) == [("tool", 0, ("span", "hook"))] * 2


@pytest.mark.parametrize("early", [(), (0,), (1,), (0, 1), (0, 1, 2)])
def test_failures_of_one_command_count_together_whatever_told_of_them_first(early: tuple[int, ...]) -> None:
    """Codex names its shell and the command in it otherwise in hooks than in its records."""
    live = Live("codex", "loops: [{name: same-error, detect: repeated_error, do: [{deny: {}}]}]")
    said = 'Traceback (most recent call last):\n  File "<string>", line 1, in <module>\nAssertionError\n'
    call = {"session_id": "s", "tool_name": "Bash"}
    answers = []
    for number in range(4):
        this = call | {"tool_use_id": f"call_{number}", "tool_input": {"command": f"make test # {number}"}}
        answers.append(live.ask(this | {"hook_event_name": "PreToolUse"}))
        if number in early:
            told = {"event.name": "codex.tool_result", "conversation.id": "s", "output": said}
            told |= {"tool_name": "exec_command", "call_id": f"call_{number}"}
            told |= {"arguments": f'{{"cmd":"make test # {number}"}}'}
            live.take(record("codex_otel.log_only", number, told))
        live.ask(this | {"hook_event_name": "PostToolUse", "tool_response": said})
    assert answers[:3] == [{}, {}, {}]
    assert answers[3]["hookSpecificOutput"]["permissionDecision"] == "deny"
    assert len(live.alerts) == 1
    other = call | {"hook_event_name": "PreToolUse", "tool_input": {"command": "cat notes"}}
    assert live.ask(other) == {}


def test_a_hook_names_the_agent_of_a_record_whose_ancestors_are_missing() -> None:
    """Codex's record of the third failure came before its hook, under a span that was sent seconds later."""
    engine = build_engine(load_config(environ={}), rules=["bundled:starter"])
    told = {"session_id": "s", "tool_name": "Bash", "tool_input": {"command": "make test"}}
    said = "Traceback (most recent call last):\nAssertionError\n"
    for number in range(3):
        call = told | {"tool_use_id": f"call_{number}", "hook_event_name": "PostToolUse", "tool_response": said}
        if number == 2:
            log = LogEvent(
                tenant="default", received_ns=NOW, resource=Resource(), scope=Scope("codex_otel.log_only"), raw=b"",
                trace_id=bytes.fromhex(TRACE), span_id=b"missing!", time_ns=NOW + number * SECOND, name="", severity=9,
                body="", attributes=PlainAttributes({
                    "event.name": "codex.tool_result", "conversation.id": "s", "tool_name": "exec_command",
                    "call_id": "call_2", "arguments": '{"cmd":"make test"}', "output": said}),
            )  # fmt: skip
            engine.feed(Signal.LOGS, [log], 1, NOW + number * SECOND)
        engine.hook(hook_event("codex", call, NOW + number * SECOND), NOW + number * SECOND)
    alerts = [alert for alert in engine.take().alerts if alert.kind == "repeated_error"]
    assert [alert.state for alert in alerts] == ["firing"]


def test_a_span_that_comes_later_under_another_id_is_no_second_failure() -> None:
    """Qwen's spans speak for the call that its hook told of first, and only say that something failed."""
    engine = build_engine(load_config(environ={}), rules=["bundled:starter"])
    for number in range(4):
        at = NOW + number * SECOND
        call = {"session_id": "s", "tool_name": "run_shell_command", "tool_input": {"command": "make test"}}
        call |= {"tool_call_id": f"call_{number}", "hook_event_name": "PostToolUseFailure", "error": "it broke"}
        engine.hook(hook_event("qwen", call, at), at)
    for number in range(4):
        at = NOW + (number + 9) * SECOND
        span = SpanEvent(
            tenant="default", received_ns=at, resource=Resource(), scope=Scope("qwen-code"), raw=b"",
            trace_id=bytes.fromhex(TRACE), span_id=bytes([number + 1] * 8), parent_id=b"", name="qwen-code.tool",
            kind=1, start_ns=NOW + number * SECOND - 9, end_ns=NOW + number * SECOND, status_code=2,
            status_message="Tool execution failed", attributes=PlainAttributes({
                "session.id": "s", "tool.name": "run_shell_command", "tool.call_id": f"call_{number}",
                "gen_ai.tool.call.id": f"call_{number}", "gen_ai.tool.name": "run_shell_command"}),
        )  # fmt: skip
        engine.feed(Signal.TRACES, [span], 1, at)
    alerts = [alert for alert in engine.take().alerts if alert.kind == "repeated_error"]
    assert [alert.state for alert in alerts] == ["firing"]
    (run,) = list(engine.runs)
    assert len([one for one in run.calls.values() if one.kind is Kind.TOOL]) == 4
