"""Payloads that were not captured: other tools, other forms of failure, newer fields, broken text, missing parts."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hooks_helper import Live
from hypothesis import given
from hypothesis import strategies as st

from otel_cost.core.decide import Verb
from otel_cost.core.hooks import HOOKS, answer_hook, hook_event, read_hook
from otel_cost.core.normalise._hook import hook_step

NOW = 1_790_000_000 * 10**9
ARGS = {"path": ["a", {"b": None}], "n": 3}


def after(dialect: str, tool: str, args: Any, response: Any, **more: Any) -> dict[str, Any]:
    """A finished tool call as each dialect tells it."""
    match dialect:
        case "copilot":
            return {"sessionId": "s", "toolName": tool, "toolArgs": args, "toolResult": response, **more}
        case "opencode":
            given = {"sessionID": "s", "tool": tool, "callID": "c", "args": args}
            return {"event": "tool.execute.after", "input": given, "output": response, **more}
        case "cursor":
            told = {"conversation_id": "s", "tool_name": tool, "tool_input": args, "tool_output": response}
            return {"hook_event_name": "postToolUse", **told, **more}
    name = "AfterTool" if dialect == "gemini" else "PostToolUse"
    told = {"session_id": "s", "tool_name": tool, "tool_input": args, "tool_response": response}
    return {"hook_event_name": name, **told, **more}


MCP_FAILED = {"content": [{"type": "text", "text": "no such issue: 7"}], "isError": True}
MCP_FINE = {"content": [{"type": "text", "text": "Error: the title of an issue"}], "isError": False}


@pytest.mark.parametrize(
    ("dialect", "response", "error"),
    [
        ("claude", MCP_FAILED, "no such issue: 7"),
        ("claude", MCP_FINE, None),
        ("claude", [{"type": "text", "text": "plain parts"}], None),
        ("codex", MCP_FAILED, "no such issue: 7"),
        ("codex", json.dumps(MCP_FAILED), "no such issue: 7"),
        ("codex", MCP_FINE, None),
        ("codex", '{"output":"bad\\n","metadata":{"exit_code":2,"duration_seconds":0.1}}', "bad\n"),
        ("codex", '{"output":"Error: said a log","metadata":{"exit_code":0}}', None),
        ("codex", {"exit_code": 127, "output": "x: command not found"}, "x: command not found"),
        ("codex", '{"agent_id":"7","nickname":"Bohr"}', None),
        ("codex", "bash: line 1: foo: command not found\n", "bash: line 1: foo: command not found\n"),
        ("gemini", {"llmContent": "x", "error": {"message": "tool broke", "type": "mcp_tool_error"}}, "tool broke"),
        ("gemini", {"llmContent": [{"text": "Output: fine\nExit Code: 0"}]}, None),
        ("gemini", {"llmContent": "Output: out\nError: err\nExit Code: 3"}, "out\nerr"),
        ("qwen", {"llmContent": "x", "error": {"message": "tool broke", "type": "execution_failed"}}, "tool broke"),
        ("qwen", {"llmContent": "Output: (empty)\nError: (none)\nExit Code: 1"}, "Exit Code: 1"),
        ("copilot", {"resultType": "failure", "textResultForLlm": "no match"}, "no match"),
        ("copilot", {"resultType": "denied"}, "denied"),
        ("copilot", {"resultType": "success", "textResultForLlm": "x\n<exited with exit code 1>"}, "x"),
        ("copilot", {"resultType": "success", "textResultForLlm": "x\n<shellId: 3 completed with exit code 0>"}, None),
        ("opencode", {"output": "boom", "metadata": {"exit": 1}}, "boom"),
        ("opencode", {"output": "fine", "metadata": {"exit": 0}}, None),
        ("opencode", {"output": "", "metadata": {"exit": 2}}, "exit 2"),
        ("opencode", {"output": "a", "metadata": {"error": "tool broke"}}, "tool broke"),
        ("cursor", '{"ok": true}', None),
    ],
)
def test_failures_in_the_forms_of_each_harness(dialect: str, response: Any, error: str | None) -> None:
    event = hook_event(dialect, after(dialect, "mcp__tracker__issue", ARGS, response, newer={"field": [1]}), NOW)
    assert (event.tool, event.failed, event.error) == ("mcp__tracker__issue", error is not None, error)
    step = hook_step(event)
    assert step is not None
    assert step.failed == (error is not None)


@pytest.mark.parametrize("dialect", ["claude", "codex", "qwen", "cursor"])
def test_an_own_event_for_failures(dialect: str) -> None:
    payload = after(dialect, "Write", ARGS, None)
    name = "postToolUseFailure" if dialect == "cursor" else "PostToolUseFailure"
    told = "error_message" if dialect == "cursor" else "error"
    event = hook_event(dialect, {**payload, "hook_event_name": name, told: "disk full"}, NOW)
    if dialect != "codex":  # has no such event
        assert (event.event, event.failed, event.error) == ("after_tool", True, "disk full")


HALF = '{"session_id":"s","hook_event_name":"PostToolUse","tool_name":"Bash","tool_input":{"command":"caf\\ud83d"},'


@pytest.mark.parametrize("dialect", ["claude", "codex", "qwen"])
def test_half_a_character_and_bytes_that_are_no_text(dialect: str) -> None:
    """Outputs are cut where a limit falls; JavaScript writes half a pair as it is, Rust as bytes."""
    body = HALF.encode() + b'"tool_response":{"stdout":"\xe9\xff\\udc00","llmContent":"x"}}'
    event = read_hook(dialect, b"\xef\xbb\xbf" + body, NOW)
    assert (event.session, event.tool, len(event.arguments_hash or "")) == ("s", "Bash", 16)
    live = Live(dialect, "loops: [{name: e, detect: exact_repeat, do: [{deny: {}}]}]")
    for number in range(4):
        live.told(read_hook(dialect, body, NOW + number * 10**9))
    before = body.replace(b"PostToolUse", b"PreToolUse")
    event, decision = live.told(read_hook(dialect, before, NOW))
    assert answer_hook(dialect, event, decision)["hookSpecificOutput"]["permissionDecision"] == "deny"


# JSON as programs write it: lone surrogates, huge numbers, deep nesting, any type in any place.
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=True)
    | st.text(st.characters(), max_size=12)
    | st.just("\ud800")
    | st.just("x" * 40_000),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


KEYS = ["duration_ms", "agent_id", "error", "model", "traceparent", "tool_use_id", "tool_calls", "user", "prompt_id"]


@pytest.mark.parametrize("dialect", sorted(set(HOOKS) - {"neutral"}))
@given(args=VALUES, response=VALUES, more=st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4))
def test_any_arguments_and_any_result_are_taken(dialect: str, args: Any, response: Any, more: dict[str, Any]) -> None:
    live = Live(dialect, "loops: [{name: e, detect: exact_repeat, do: [{stop: {}}]}]")
    body = json.dumps({**after(dialect, "tool \ud800/x", args, response), **more}).encode()
    for number in range(4):
        event, decision = live.told(read_hook(dialect, body, NOW + number))
        assert "s" in {event.session, event.parent_session}
        json.dumps(answer_hook(dialect, event, decision)).encode()


@pytest.mark.parametrize("dialect", sorted(set(HOOKS) - {"neutral"}))
def test_an_event_of_a_newer_version_is_no_objection(dialect: str) -> None:
    payload: dict[str, Any] = {"session_id": "s", "hook_event_name": "SomethingNew", "tool_name": "Bash"}
    if dialect == "copilot":
        payload = {"sessionId": "s", "hookName": "somethingNew"}
    if dialect == "opencode":
        payload = {"event": "something.new", "input": {"sessionID": "s"}, "output": {}}
    if dialect == "cursor":
        payload = {"conversation_id": "s", "hook_event_name": "somethingNew"}
    event = hook_event(dialect, payload, NOW)
    assert event.event == "other"
    assert hook_step(event) is None
    live = Live(dialect, "loops: [{name: e, detect: exact_repeat, do: [{stop: {}}]}]")
    assert answer_hook(dialect, event, live.standing.decide(event)) == {}
    assert Verb.STOP not in event.carries
