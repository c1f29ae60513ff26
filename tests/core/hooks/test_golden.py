"""Golden answers: every verb at every event of every dialect, as each harness was seen to obey it.

The files are read by people: a changed answer is a changed line there. What is
left out of a file is `{}`: the harness goes on, and another event carries the decision, if any can.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from otel_cost.core.decide import Decision, Verb
from otel_cost.core.hooks import HOOKS, answer_hook, hook_event, outage_answers

GOLDEN = Path(__file__).with_name("golden")
SAYING = "Do not repeat this."

# What makes a payload of each dialect; opencode's and Copilot's do not name their event.
COPILOT: dict[str, dict[str, Any]] = {
    "sessionStart": {"source": "new"},
    "userPromptSubmitted": {"prompt": "p"},
    "preToolUse": {"toolName": "bash", "toolArgs": {"command": "ls"}},
    "permissionRequest": {"hookName": "permissionRequest", "toolName": "bash", "toolInput": {"command": "ls"}},
    "postToolUse": {"toolName": "bash", "toolArgs": {}, "toolResult": {"resultType": "success"}},
    "subagentStart": {"agentName": "general"},
    "subagentStop": {"agentName": "general", "stopReason": "end_turn"},
    "agentStop": {"stopReason": "end_turn"},
    "sessionEnd": {"reason": "complete"},
    "errorOccurred": {"errorContext": "model_call"},
    "notification": {"notification_type": "permission_prompt"},
}


def payload(dialect: str, name: str) -> dict[str, Any]:
    match dialect:
        case "copilot":
            return {"sessionId": "s", **COPILOT[name]}
        case "opencode":
            given = {"sessionID": "s", "tool": "bash"} if name.startswith("tool") else {"sessionID": "s"}
            return {"event": name, "input": given, "output": {"args": {"command": "ls"}}}
        case "neutral":
            return {"session_id": "s", "event": name, "tool": "bash"}
    return {"session_id": "s", "hook_event_name": name, "tool_name": "Bash", "tool_input": {"command": "ls"}}


def decision(verb: Verb, **more: Any) -> Decision:
    said: dict[str, Any] = {"reason": "bash failed the same way 3 times", "rule": "same-error", "text": SAYING}
    if verb is Verb.DOWNGRADE:
        said["model"] = "small-model"
    if verb is Verb.DELAY:
        said["delay_ms"] = 5000
    return Decision(verb=verb, **said | more)


def answers(dialect: str) -> dict[str, dict[str, Any]]:
    """Event → verb → answer, without what is `{}`."""
    table: dict[str, dict[str, Any]] = {}
    for name in HOOKS[dialect].events:
        event = hook_event(dialect, payload(dialect, name), 1)
        row = {str(verb): answer_hook(dialect, event, decision(verb)) for verb in Verb}
        table[name] = {verb: answer for verb, answer in row.items() if answer}
    return table


@pytest.mark.parametrize("dialect", HOOKS)
def test_answers_are_the_golden_ones(dialect: str) -> None:
    assert answers(dialect) == json.loads((GOLDEN / f"{dialect}.json").read_bytes())


@pytest.mark.parametrize("dialect", sorted(set(HOOKS) - {"neutral"}))
def test_no_objection_is_nothing_and_never_an_allow(dialect: str) -> None:
    for name in HOOKS[dialect].events:
        event = hook_event(dialect, payload(dialect, name), 1)
        assert answer_hook(dialect, event, Decision()) == {}
        for verb in Verb:
            said = json.dumps(answer_hook(dialect, event, decision(verb)))
            assert "allow" not in said
            assert "approve" not in said


def test_no_stop_makes_an_agent_go_on() -> None:
    """Words at these events mean another round; some of them were seen to cost eight model calls."""
    for dialect, name in [("claude", "Stop"), ("codex", "Stop"), ("gemini", "AfterAgent"), ("qwen", "Stop"),
                          ("copilot", "agentStop"), ("claude", "SubagentStop"), ("qwen", "SubagentStop")]:  # fmt: skip
        event = hook_event(dialect, payload(dialect, name), 1)
        assert [answer_hook(dialect, event, decision(verb)) for verb in Verb] == [{}] * len(Verb)


def test_codex_never_gets_two_things_in_one_answer() -> None:
    event = hook_event("codex", payload("codex", "PreToolUse"), 1)
    for verb in (Verb.ASK, Verb.DENY, Verb.STOP):
        answer = answer_hook("codex", event, decision(verb))
        assert list(answer) == ["hookSpecificOutput"]
        assert answer["hookSpecificOutput"] == {
            "hookEventName": "PreToolUse",
            "permissionDecision": "deny",
            "permissionDecisionReason": SAYING,
        }


def test_a_refusal_always_has_words() -> None:
    """Codex runs the tool after a deny without a reason."""
    event = hook_event("codex", payload("codex", "PreToolUse"), 1)
    answer = answer_hook("codex", event, Decision(verb=Verb.DENY))
    assert answer["hookSpecificOutput"]["permissionDecisionReason"]


@pytest.mark.parametrize("dialect", ["claude", "codex", "qwen", "copilot"])
def test_where_no_model_can_be_changed_the_rule_says_what_happens(dialect: str) -> None:
    name = {"copilot": "preToolUse"}.get(dialect, "PreToolUse")
    event = hook_event(dialect, payload(dialect, name), 1)
    denied = answer_hook(dialect, event, decision(Verb.DOWNGRADE, otherwise=Verb.DENY))
    assert denied == answer_hook(dialect, event, decision(Verb.DENY))
    warned = answer_hook(dialect, event, decision(Verb.DOWNGRADE))
    assert warned == answer_hook(dialect, event, decision(Verb.WARN))


def test_a_switch_of_models_is_refused_to_a_program_and_asked_of_a_person() -> None:
    """As Claude Code 2.1.330 was seen to send it; `block` there left the model as it was."""
    said = payload("claude", "PreModelSwitch") | {"from_model": "small", "to_model": "big"}
    program, person = (hook_event("claude", said | {"source": source}, 1) for source in ("sdk", "picker"))
    refused = {"decision": "block", "reason": SAYING}
    for verb in (Verb.DOWNGRADE, Verb.ASK, Verb.DENY):
        assert answer_hook("claude", program, decision(verb)) == refused
    assert answer_hook("claude", person, decision(Verb.ASK))["hookSpecificOutput"]["permissionDecision"] == "ask"
    assert answer_hook("claude", person, decision(Verb.DENY)) == refused
    assert answer_hook("claude", person, decision(Verb.WARN)) == {}


def test_copilot_lets_pass_what_it_will_ask_leave_for() -> None:
    before = hook_event("copilot", payload("copilot", "preToolUse"), 1)
    assert answer_hook("copilot", before, decision(Verb.STOP, defer=True)) == {}
    assert answer_hook("copilot", before, decision(Verb.STOP))["permissionDecision"] == "deny"


@pytest.mark.parametrize("dialect", HOOKS)
def test_while_nobody_answers_a_stop_is_told_wherever_it_is_obeyed(dialect: str) -> None:
    golden = json.loads((GOLDEN / f"{dialect}.json").read_bytes())
    told = outage_answers(dialect, decision(Verb.STOP, defer=True))
    assert told
    assert all(answer == golden[name]["stop"] for name, answer in told.items())
    kinds = {HOOKS[dialect].events[name][0] for name in told}
    assert {"before_tool", "prompt"} <= kinds
