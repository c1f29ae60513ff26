"""What stands: which calls an alert refuses, for whom, and for how long."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hooks_helper import SECOND, Live

from otel_cost.core.decide import Verb
from otel_cost.core.decide.standing import KEEP_NS, Standing
from otel_cost.core.hooks import hook_event
from otel_cost.core.model.call import Call
from otel_cost.core.model.charge import Charge
from otel_cost.core.model.finding import Alert
from otel_cost.core.model.step import Step
from otel_cost.core.model.vocabulary import Category, Kind, Severity, Source, Status
from otel_cost.core.rules.kind import Action

if TYPE_CHECKING:
    from pathlib import Path

ERROR = "File a.py line 3: no module named foo"
RULES = "loops: [{name: same-error, detect: repeated_error, with: {count: 3}, do: [ACTION]}]"
NOW = 1_790_000_000 * SECOND


def live(action: str) -> Live:
    return Live("neutral", RULES.replace("ACTION", action))


def before(command: str = "make test", tool: str = "bash", **more: Any) -> dict[str, Any]:
    return {"session_id": "s", "event": "before_tool", "tool": tool, "args": {"command": command}, **more}


def after(command: str = "make test", error: str | None = ERROR, tool: str = "bash", **more: Any) -> dict[str, Any]:
    told = {"error": error} if error else {"result": f"fine: {command}"}
    return {**before(command, tool, **more), "event": "after_tool", **told}


def fail(run: Live, times: int = 3, **more: Any) -> list[dict[str, Any]]:
    return [run.ask(after(error=ERROR.replace("3", str(n)), **more)) for n in range(times)]


def verbs(run: Live, *payloads: dict[str, Any]) -> list[str]:
    return [run.ask(payload)["decision"] for payload in payloads]


def test_the_fourth_try_is_denied_and_an_unrelated_tool_is_not() -> None:
    run = live("{deny: {}}")
    for _ in range(3):
        assert verbs(run, before()) == ["allow"]
        fail(run, 1)
    denied = run.ask(before())
    assert (denied["decision"], denied["rule"]) == ("deny", "same-error")
    assert "Do not repeat this call" in denied["text"]
    assert denied["evidence"]["repeats"] == 3
    assert verbs(run, before("cat notes.txt"), before(tool="read")) == ["allow", "allow"]
    assert len(run.alerts) == 1


def test_a_comment_or_another_description_does_not_make_it_another_call() -> None:
    run = live("{deny: {}}")
    fail(run)
    again = before("make test # once more")
    again["args"]["description"] = "this time it works"
    assert verbs(run, again) == ["deny"]


def test_arguments_that_varied_from_try_to_try_are_all_refused_and_so_is_the_next_of_their_kind() -> None:
    run = live("{deny: {}}")
    for name in ("a.py", "b.py", "c.py"):
        run.ask(after(f"python src/{name}"))
    assert verbs(run, *(before(f"python src/{name}") for name in ("a.py", "b.py", "d.py"))) == ["deny"] * 3
    assert verbs(run, before("ls -la")) == ["allow"]


def test_the_same_failure_by_other_arguments_is_refused_from_then_on() -> None:
    run = live("{deny: {}}")
    fail(run)
    other = "env PYTHONPATH=. pytest --lf -x"
    assert verbs(run, before(other), after(other), before(other)) == ["allow", "allow", "deny"]


def test_a_deny_ends_when_its_alert_resolves() -> None:
    run = live("{deny: {}}")
    fail(run)
    assert verbs(run, before()) == ["deny"]
    for name in ("x", "y", "z"):
        run.ask(after(f"cat {name}.txt", error=None))
    assert [alert.state for alert in run.alerts] == ["firing", "resolved"]
    assert verbs(run, before()) == ["allow"]


def test_a_loop_of_one_agent_is_not_anothers() -> None:
    run = live("{deny: {}}")
    fail(run, agent_id="child")
    assert verbs(run, before(agent_id="child"), before()) == ["deny", "allow"]


def test_a_stop_is_for_the_session_and_all_it_started() -> None:
    run = live("{stop: {}}")
    run.ask({"session_id": "child", "parent_session_id": "s", "event": "session_start"})
    run.ask({"session_id": "grandchild", "parent_session_id": "child", "event": "session_start"})
    fail(run)
    asked = [before("ls", session_id=session) for session in ("s", "child", "grandchild", "stranger")]
    assert verbs(run, *asked) == ["stop", "stop", "stop", "allow"]
    assert verbs(run, before("ls", agent_id="sub"), {"session_id": "s", "event": "prompt"}) == ["stop", "stop"]


def test_a_warning_is_said_once_per_episode_and_only_where_it_is_heard() -> None:
    run = Live("gemini", RULES.replace("ACTION", "{warn: {text: Look elsewhere.}}"))
    call = {"session_id": "s", "tool_name": "run", "tool_input": {"command": "make test"}}
    failed = {**call, "hook_event_name": "AfterTool", "tool_response": {"llmContent": "Output: Error\nExit Code: 1"}}
    assert [run.ask(failed) for _ in range(2)] == [{}, {}]
    # Context before a tool is ignored by this harness: the warning waits for the event after one.
    alerts = len(run.alerts)
    said = run.ask(failed)
    assert (alerts, len(run.alerts)) == (0, 1)
    assert said["hookSpecificOutput"]["additionalContext"] == "Look elsewhere."
    assert run.ask({**call, "hook_event_name": "BeforeTool"}) == {}
    assert run.ask(failed) == {}


@pytest.mark.parametrize("verb", ["ask", "delay"])
def test_ask_and_delay_hold_the_run_that_burns(verb: str) -> None:
    run = live("{ask: {}}" if verb == "ask" else "{delay: {for: 5s}}")
    fail(run)
    assert verbs(run, before("anything")) == [verb]
    assert run.ask(before("more")).get("delay_ms") == (5000 if verb == "delay" else None)
    assert verbs(run, before("ls", session_id="other")) == ["allow"]


def test_who_has_agreed_is_not_asked_again_in_the_same_episode() -> None:
    run = live("{ask: {}}")
    fail(run)
    assert verbs(run, before("ls"), before("pwd")) == ["ask", "ask"]
    run.ask(after("ls", error=None))  # it ran: the user said yes
    assert verbs(run, before("ls"), before("pwd")) == ["allow", "allow"]


def test_shadow_tells_and_does_nothing() -> None:
    run = Live("neutral", RULES.replace("do:", "mode: shadow, do:").replace("ACTION", "{stop: {}}"))
    fail(run)
    answer = run.ask(before())
    assert (answer["decision"], answer["shadow"][0]["decision"]) == ("allow", "stop")


def test_copilot_ends_a_run_at_the_permission_it_asks_for() -> None:
    run = Live("copilot", RULES.replace("ACTION", "{stop: {}}"))
    call = {"sessionId": "s", "toolName": "bash", "toolArgs": {"command": "make"}}
    leave = {"sessionId": "s", "hookName": "permissionRequest", "toolName": "bash", "toolInput": {"command": "make"}}
    result = {"resultType": "success", "textResultForLlm": "make: *** no rule\n<shellId: 0 completed with exit code 2>"}
    for _ in range(3):
        assert run.ask(call) == run.ask(leave) == run.ask({**call, "toolResult": result}) == {}
    assert run.ask(call) == {}  # a refusal here would keep it from asking
    assert run.ask(leave)["interrupt"] is True
    # A tool that is never asked about is refused at once, and so is all else once a call has slipped through.
    assert run.ask({**call, "toolName": "task"})["permissionDecision"] == "deny"
    run.ask({**call, "toolResult": result})
    assert run.ask(call)["permissionDecision"] == "deny"


# --- Alerts without a call: budgets ---------------------------------------------------------------


def alert(state: str = "firing", **more: Any) -> Alert:
    said: dict[str, Any] = {
        "id": "f-1", "tenant": "default", "run_id": "run", "trace_id": b"", "rule": "run-cap", "kind": "budget",
        "category": Category.BUDGET, "state": state, "seq": 1, "severity": Severity.WARNING, "span_ids": (),
        "onset_span_id": b"", "at_span_id": b"", "at_ns": NOW, "wasted_nano": None, "action": "", "fingerprint": "f",
        "summary": "run-cap: 5.10 of 5.00 USD",
    }  # fmt: skip
    return Alert(**said | more)


def actions(*written: dict[str, Any]) -> tuple[Action, ...]:
    return tuple(Action.model_validate(one) for one in written)


def asked(standing: Standing, payload: dict[str, Any], dialect: str = "neutral", at: int = NOW + 1) -> str:
    return str(standing.decide(hook_event(dialect, payload, at)).verb)


def test_a_budget_holds_for_whom_it_names_until_its_window_ends() -> None:
    standing = Standing()
    standing.note(
        alert(), actions({"deny": {"scope": "all"}}), now_ns=NOW, keys=["user:ann"], until_ns=NOW + 60 * SECOND
    )
    ann, bob = before(user="ann"), before(user="bob")
    assert [asked(standing, ann), asked(standing, bob)] == ["deny", "allow"]
    assert asked(standing, ann, at=NOW + 60 * SECOND) == "allow"


def test_a_stop_is_lifted_when_the_budget_clears() -> None:
    standing = Standing()
    standing.note(alert(), actions({"stop": {}}), now_ns=NOW, sessions=["s"])
    assert asked(standing, before()) == "stop"
    standing.note(alert("resolved"), actions({"stop": {}}), now_ns=NOW)
    assert asked(standing, before()) == "allow"


def test_several_rules_the_strictest_first() -> None:
    standing = Standing()
    standing.note(alert(), actions({"ask": {}}), now_ns=NOW, sessions=["s"])
    standing.note(alert(fingerprint="g", rule="other"), actions({"deny": {"scope": "all"}}), now_ns=NOW, sessions=["s"])
    decision = standing.decide(hook_event("neutral", before(), NOW + 1))
    assert (decision.verb, [other.rule for other in decision.others]) == (Verb.DENY, ["run-cap"])


@pytest.mark.parametrize(
    ("dialect", "payload", "verb"),
    [
        ("gemini", {"session_id": "s", "hook_event_name": "BeforeModel"}, "downgrade"),
        ("gemini", {"session_id": "s", "hook_event_name": "BeforeTool", "tool_name": "x"}, "allow"),
        ("claude", {"session_id": "s", "hook_event_name": "PreToolUse", "tool_name": "x"}, "warn"),
        ("codex", {"session_id": "s", "hook_event_name": "PreModelRequest"}, "allow"),
    ],
)
def test_a_downgrade_waits_for_the_event_that_can(dialect: str, payload: dict[str, Any], verb: str) -> None:
    standing = Standing()
    standing.note(alert(), actions({"downgrade": {"to": "small"}}), now_ns=NOW, sessions=["s"])
    assert asked(standing, payload, dialect) == verb


def test_a_refused_model_is_every_tool_where_a_harness_does_not_ask_before_models() -> None:
    standing = Standing()
    standing.note(alert(), actions({"deny": {"scope": "model"}}), now_ns=NOW, sessions=["s"])
    tool = {"session_id": "s", "hook_event_name": "PreToolUse", "tool_name": "x"}
    assert asked(standing, tool, "claude") == "deny"
    assert asked(standing, {**tool, "hook_event_name": "BeforeTool"}, "gemini") == "allow"
    assert asked(standing, {**tool, "hook_event_name": "BeforeModel"}, "gemini") == "deny"


def test_what_holds_in_an_outage_is_told_before_it() -> None:
    standing = Standing(lambda event: "run-cap" if event.session == "guarded" else None)
    assert standing.decide(hook_event("neutral", before(), NOW)).outage is None
    closed = standing.decide(hook_event("neutral", before(session_id="guarded"), NOW)).outage
    assert closed is not None
    assert (closed.verb, closed.rule) == (Verb.DENY, "run-cap")
    standing.note(alert(), actions({"stop": {}}), now_ns=NOW, sessions=["guarded"])
    # Also from an event at which this harness obeys no stop.
    event = hook_event("claude", {"session_id": "guarded", "hook_event_name": "PostToolUseFailure"}, NOW + 1)
    decision = standing.decide(event)
    assert decision.verb is Verb.ALLOW
    assert decision.outage is not None
    assert decision.outage.verb is Verb.STOP


def test_memory_is_bounded() -> None:
    standing = Standing()
    for number in range(30_000):
        standing.note(
            alert(fingerprint=str(number)), actions({"stop": {}}), now_ns=NOW, sessions=[f"s{number}"], keys=["x:y"]
        )
    assert asked(standing, before(session_id="s29999")) == "stop"
    assert asked(standing, before(session_id="s0")) == "allow"
    assert len(standing._entries) <= 20_000


def test_nothing_stands_for_ever() -> None:
    standing = Standing()
    standing.note(alert(), actions({"stop": {}}), now_ns=NOW, sessions=["s"])
    assert asked(standing, before(), at=NOW + KEEP_NS + 1) == "allow"


def test_a_hash_in_place_of_arguments_is_the_same_call_for_detectors_and_decisions() -> None:
    run = Live("neutral", "loops: [{name: again, detect: exact_repeat, do: [{deny: {}}]}]")
    call = {"session_id": "s", "tool": "read", "args_hash": "5f1d"}
    for _ in range(3):
        run.ask({**call, "event": "after_tool", "result": "the same"})
    assert verbs(run, {**call, "event": "before_tool"}, {**call, "event": "before_tool", "args_hash": "77aa"}) == [
        "deny",
        "allow",
    ]


def test_a_call_without_arguments_can_be_repeated_too() -> None:
    run = live("{deny: {}}")
    call = {"session_id": "s", "tool": "run_tests", "args": {}}
    for _ in range(3):
        run.ask({**call, "event": "after_tool", "error": ERROR})
    assert verbs(run, {**call, "event": "before_tool"}) == ["deny"]


def test_what_stands_outlives_the_process_where_its_rule_does() -> None:
    standing = Standing()
    standing.observe(hook_event("neutral", before(session_id="child", parent_session_id="s"), NOW))
    for rule, verb in (("stays", {"stop": {"text": "No more."}}), ("goes", {"deny": {"scope": "all"}})):
        told = replace(alert(fingerprint=rule), rule=rule)
        standing.note(told, actions(verb), now_ns=NOW, sessions=["s"])
    fresh = Standing()
    fresh.restore(standing.keep({"stays", "goes"}), {"stays"}, NOW + 100)
    for session in ("s", "child"):
        decision = fresh.decide(hook_event("neutral", before(session_id=session), NOW + 1))
        assert (decision.verb, decision.rule, decision.text, decision.others) == (Verb.STOP, "stays", "No more.", ())
    assert asked(fresh, before(), at=NOW + 101) == "allow"
    fresh.note(replace(alert(fingerprint="stays"), state="resolved"), (), now_ns=NOW + 2)
    assert asked(fresh, before()) == "allow"


def test_a_denied_call_is_the_same_call_after_a_restart(shared: Path) -> None:
    live = Live("claude", "loops: [{name: same-error, detect: repeated_error, do: [{deny: {scope: same_call}}]}]")
    payload = {"session_id": "s", "tool_name": "Bash", "tool_input": {"command": "make test"}}
    for number in range(3):
        failed = {"hook_event_name": "PostToolUseFailure", "tool_use_id": f"t{number}", "error": "Exit code 2: no"}
        live.ask(payload | failed)
    fresh = Standing()
    fresh.restore(live.standing.keep({"same-error"}), {"same-error"}, live.now + 10**12)
    for command, verb in (("make test", Verb.DENY), ("make test # again", Verb.DENY), ("cat notes", Verb.ALLOW)):
        again = payload | {"hook_event_name": "PreToolUse", "tool_input": {"command": command}}
        assert fresh.decide(hook_event("claude", again, live.now + 1)).verb is verb


@pytest.mark.parametrize("kept", [b"", b"\xff", b"\x93\x02\x90\x90", b"\x93\x01\x91\x90\x90", b"[1]", b"\x01"])
def test_bytes_of_another_kind_let_nothing_stand(kept: bytes) -> None:
    standing = Standing()
    standing.restore(kept, {"r"}, NOW + 100)
    assert asked(standing, before()) == "allow"


@pytest.mark.parametrize("told", ["by its id", "by its arguments", "by its tool alone"])
def test_a_refused_call_is_no_failure_when_telemetry_tells_of_it(told: str) -> None:
    run = live("{deny: {}}")
    fail(run)
    own = "call_4" if told == "by its id" else None
    run.ask(before("make test # 4", **({"tool_call_id": own} if own else {})))
    arguments = None if told == "by its tool alone" else '{"command": "make test # 4"}'

    def telemetry(number: int, failed: bool, tool: str = "bash") -> Call:
        step = Step(Source.SPAN, "any", "any", Kind.TOOL, tool=tool, tool_call_id=own, arguments=arguments, session="s")
        return Call(f"call-{number}", step, (step,), Charge(Status.UNPRICED), Kind.TOOL, failed=failed)

    ran, refused = telemetry(1, failed=own is not None), telemetry(2, failed=True)
    assert run.standing.refused(telemetry(3, failed=True, tool="read"), "default", ["s"]) is (own is not None)
    assert not run.standing.refused(refused, "default", ["another"])
    if own is None:
        assert not run.standing.refused(ran, "default", ["s"])
    assert run.standing.refused(refused, "default", ["s"])
    assert run.standing.refused(refused, "default", ["s"])  # told by a span and by a record
    if own is None:  # it was one
        assert not run.standing.refused(telemetry(5, failed=True), "default", ["s"])
