"""Every payload that a real harness was seen to send is understood."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hooks_helper import FOLDERS, Live
from hypothesis import given
from hypothesis import strategies as st

from otel_cost.core.decide import ALLOWED
from otel_cost.core.hooks import HOOKS, answer_hook, hook_event, read_hook
from otel_cost.core.normalise._hook import hook_step
from otel_cost.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from otel_cost.core.model.event import HookEvent

NOW = 1_790_000_000 * 10**9
KEYS = [
    "hook_event_name", "event", "session_id", "sessionId", "input", "output", "tool_name", "toolName",
    "tool_input", "toolArgs", "toolResult", "tool_response", "llm_response", "candidates", "usageMetadata",
    "token_usage", "properties", "info", "tokens", "time", "error", "usage", "trace_id", "traceparent", "args",
    "tool_calls", "PostToolUse", "message",
]  # fmt: skip
SAME_ERROR = """\
loops: [{name: same-error, detect: repeated_error, with: {count: 3}, do: [{VERB: {}}]}]
"""


def told(shared: Path, dialect: str) -> Iterator[tuple[str, dict[str, Any], HookEvent]]:
    for path in sorted((shared / "hook-payloads" / FOLDERS[dialect]).glob("*.json")):
        if not path.name.startswith(("sequence", "effects")):
            payload = json.loads(path.read_bytes())["payload"]
            yield path.name.rsplit(".", 2)[0].replace("event-", "event:"), payload, hook_event(dialect, payload, NOW)


@pytest.mark.parametrize("dialect", FOLDERS)
def test_each_payload_names_its_event_its_session_and_its_call(shared: Path, dialect: str) -> None:
    seen = 0
    for name, payload, event in told(shared, dialect):
        seen += 1
        assert event.name == name
        assert event.name in HOOKS[dialect].events
        assert event.session or event.event == "other"
        assert answer_hook(dialect, event, ALLOWED) == {}
        if event.event in {"before_tool", "permission", "after_tool"}:
            assert event.tool
            assert event.arguments
            assert len(event.arguments_hash or "") == 16
        # Gemini and Copilot have no ids for calls, and a permission is asked before there is one.
        if dialect not in {"gemini", "copilot"} and event.event in {"before_tool", "after_tool"}:
            assert event.tool_call_id in json.dumps(payload)
        if event.failed:
            assert event.error
    assert seen > 10


@pytest.mark.parametrize("dialect", FOLDERS)
def test_the_same_command_has_one_hash_before_and_after_in_every_harness(shared: Path, dialect: str) -> None:
    hashes: dict[str, set[str | None]] = {"assert 1 == 2": set(), "cat calc.py": set()}
    for _, _, event in told(shared, dialect):
        for words, found in hashes.items():
            if event.tool and words in (event.arguments or ""):
                found.add(event.arguments_hash)
    assert {words: len(found) for words, found in hashes.items()} == {"assert 1 == 2": 1, "cat calc.py": 1}
    assert hashes["assert 1 == 2"] == {"38321de70d3fd30c"}  # also with a comment or another description


@pytest.mark.parametrize("dialect", FOLDERS)
def test_a_failed_command_is_known_to_have_failed_and_no_other(shared: Path, dialect: str) -> None:
    finished = [event for _, _, event in told(shared, dialect) if event.event == "after_tool"]
    for event in finished:
        assert event.failed == ("assert 1 == 2" in (event.arguments or "")), event.name
        if event.failed:
            assert "AssertionError" in (event.error or "")
    assert finished


def test_usage_in_payloads_is_a_step_at_once(shared: Path) -> None:
    for dialect in ("codex", "gemini", "opencode"):
        usages = [step.usage for _, _, event in told(shared, dialect) if (step := hook_step(event)) and step.usage]
        assert usages
        assert all((usage.input, usage.output) == (20, 30) for usage in usages)


def test_children_know_their_parents(shared: Path) -> None:
    for dialect in ("codex", "copilot", "opencode"):
        pairs = {(e.session, e.parent_session) for _, _, e in told(shared, dialect) if e.parent_session}
        assert pairs, dialect
        assert all(session != parent for session, parent in pairs)
    assert any(event.agent_id for _, _, event in told(shared, "claude"))


def before_tool(shared: Path, dialect: str, scenario: str) -> Iterator[dict[str, Any]]:
    for hook in json.loads((shared / f"hook-payloads/{FOLDERS[dialect]}/sequence.{scenario}.json").read_bytes())[
        "hooks"
    ]:
        yield hook["payload"]


@pytest.mark.parametrize("verb", ["deny", "stop"])
@pytest.mark.parametrize("dialect", FOLDERS)
def test_in_a_recorded_run_the_fourth_try_is_refused(shared: Path, dialect: str, verb: str) -> None:
    """The recorded run went on, whatever was answered; from the refusal on, what follows would not have been."""
    live = Live(dialect, SAME_ERROR.replace("VERB", verb))
    answers: list[tuple[str, dict[str, Any]]] = []
    for payload in before_tool(shared, dialect, "fail"):
        event = hook_event(dialect, payload, live.now)
        answers.append((event.event, live.ask(payload)))
        if event.event in {"before_tool", "permission"} and answers[-1][1]:
            break
    tries = [answer for event, answer in answers if event == "before_tool"]
    assert len(tries) == 4
    assert tries[:3] == [{}, {}, {}]
    assert answers[-1][1] not in ({}, None)
    assert len(live.alerts) == 1


@pytest.mark.parametrize("dialect", [*FOLDERS, "neutral"])
@given(
    payload=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(KEYS),
                inner,
                max_size=6,
            )
        ),
        max_leaves=20,
    )
)
def test_no_payload_breaks_a_reader(dialect: str, payload: object) -> None:
    try:
        event = read_hook(dialect, json.dumps(payload).encode(), NOW)
    except DecodeError:
        return
    hook_step(event)
    answer_hook(dialect, event, ALLOWED)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000])
def test_what_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(DecodeError):
        read_hook("claude", body, NOW)
