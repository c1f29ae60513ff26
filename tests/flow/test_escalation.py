"""Escalation through the real engine: a strong model is refused until cheaper ones have failed in a named way."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace

import pytest
from policy_helper import HOUR, MINUTE, SECOND, T0, Stage

from otel_cost.core.decide import decision_json
from otel_cost.core.hooks import answer_hook, read_hook
from otel_cost.core.model.outcome import Outcome, Result
from otel_cost.core.rules import load_rules
from otel_cost.document import parse_document
from otel_cost.errors import DocumentError

RULES = """
escalation:
  - name: strong-after-tests-fail
    models: ["*strong*"]
    allow_if: {prior: {models: ["*nano*"], failed: [tests_failed], count: 2}}
    else: {do: [{downgrade: {to: nano-1}}]}
"""


@dataclass
class Agent:
    """One session that asks in the service's own words."""

    rules: str = RULES
    session: str = "s"
    now_ns: int = T0
    stage: Stage = field(init=False)

    def __post_init__(self) -> None:
        self.stage = Stage(self.rules)

    def says(self, event: str, **told: object) -> dict:
        self.now_ns += SECOND
        body = json.dumps({"session_id": self.session, "event": event, **told}).encode()
        read = read_hook("neutral", body, self.now_ns)
        return decision_json(self.stage.engine.hook(read, self.now_ns))

    def asks(self, model: str, **told: object) -> str:
        return self.says("before_model", model=model, **told)["decision"]

    def fails(self, command: str = "pytest -q", error: str = "2 failed, 3 passed", **told: object) -> None:
        self.says("before_tool", tool="bash", args={"command": command})
        self.says("after_tool", tool="bash", args={"command": command}, error=error, **told)


def test_denied_on_the_first_try_and_allowed_after_two_failures_of_the_cheap_model() -> None:
    agent = Agent()
    told = agent.says("before_model", model="strong-5")
    assert (told["decision"], told["model"], told["rule"]) == ("downgrade", "nano-1", "strong-after-tests-fail")
    assert told["evidence"]["needed"] == 2
    assert told["evidence"]["seen"] == 0
    assert "2 more" in told["evidence"]["would_change"]
    assert agent.asks("nano-1") == "allow"
    agent.fails()
    assert agent.asks("strong-5") == "downgrade"
    agent.fails(error="1 failed, 4 passed")
    assert agent.asks("strong-5") == "allow"
    assert agent.asks("other-model") == "allow"


def test_only_failures_with_the_right_name_and_of_the_right_model_count() -> None:
    agent = Agent()
    agent.asks("nano-1")
    agent.fails("ls /nowhere", "ls: cannot access '/nowhere'")
    agent.fails("make all", "make: *** [all] Error 2")
    assert agent.asks("strong-5") == "downgrade"
    agent.asks("middle-3")
    agent.fails()
    agent.fails()
    assert agent.asks("strong-5") == "downgrade"  # the middle one failed, not the cheap one
    agent.asks("nano-1")
    agent.fails()
    agent.fails()
    assert agent.asks("strong-5") == "allow"


def test_a_downgraded_call_is_one_of_the_model_it_was_downgraded_to() -> None:
    agent = Agent()
    assert agent.asks("strong-5") == "downgrade"
    agent.fails()
    agent.fails()
    assert agent.asks("strong-5") == "allow"


@pytest.mark.parametrize(
    ("ways", "tell"),
    [
        ("[]", lambda a: a.fails("ls x", "no")),
        ("[tool_failed]", lambda a: a.fails("ls x", "no")),
        ("[build_failed]", lambda a: a.fails("cargo build", "error[E0308]: mismatched types")),
        ("[model_failed]", lambda a: a.says("after_model", model="nano-1", error="overloaded")),
        ("[evaluation_failed]", lambda a: a.says("evaluation_failed")),
        ("[review_failed]", lambda a: a.says("after_tool", tool="review", failed="review_failed")),
        ("[bad_plan]", lambda a: a.says("note", failed=["bad_plan", "other"])),
    ],
)
def test_ways_to_fail(ways: str, tell) -> None:
    agent = Agent(RULES.replace("[tests_failed]", ways))
    agent.asks("nano-1")
    tell(agent)
    assert agent.asks("strong-5") == "downgrade"
    tell(agent)
    assert agent.asks("strong-5") == "allow"


def test_the_same_error_counts_from_its_second_time_on() -> None:
    agent = Agent(RULES.replace("tests_failed", "same_error"))
    agent.asks("nano-1")
    for number in range(3):
        assert agent.asks("strong-5") == "downgrade"
        agent.fails("deploy", f"cannot reach host 10.0.0.{number} after {number} s")
    assert agent.asks("strong-5") == "allow"


def test_a_success_and_another_run_are_no_ground() -> None:
    agent = Agent()
    agent.asks("nano-1")
    for _ in range(3):
        agent.says("after_tool", tool="bash", args={"command": "pytest"}, result="5 passed")
    assert agent.asks("strong-5") == "downgrade"
    agent.session = "other"
    agent.asks("nano-1")
    agent.fails()
    agent.fails()
    assert agent.asks("strong-5") == "allow"
    agent.session = "s"
    assert agent.asks("strong-5") == "downgrade"


def test_failing_tests_that_the_harness_reports_as_a_success_are_failing_tests() -> None:
    agent = Agent()
    agent.asks("nano-1")
    for _ in range(2):
        agent.says("after_tool", tool="run_tests", args={}, result="==== 2 failed, 3 passed in 0.1s ====")
    assert agent.asks("strong-5") == "allow"


def test_a_rule_in_shadow_only_says_so() -> None:
    agent = Agent(RULES + "    mode: shadow\n")
    told = agent.says("before_model", model="strong-5")
    assert told["decision"] == "allow"
    assert [one["rule"] for one in told["shadow"]] == ["strong-after-tests-fail"]


def test_a_harness_that_cannot_change_the_model_is_told_once_or_refused() -> None:
    for otherwise, said in (("warn", ["warn", "allow"]), ("deny", ["deny", "deny"])):
        agent = Agent(RULES.replace("to: nano-1", f"to: nano-1, else: {otherwise}"))
        agent.stage.spend("s", T0 - MINUTE, 0.1, model="strong-5")
        asked = [agent.stage.asked("s", T0 + n, verbs={"warn", "deny"}) for n in range(2)]
        assert asked == said


@pytest.mark.parametrize("do", ["deny: {scope: model}", "deny: ", "stop: ", "ask: "])
def test_other_verbs(do: str) -> None:
    agent = Agent(RULES.replace("downgrade: {to: nano-1}", do))
    assert agent.asks("strong-5") == do.split(":", maxsplit=1)[0]
    assert agent.says("before_tool", tool="bash", args={})["decision"] == "allow"
    assert agent.asks("nano-1") == "allow"


def test_a_strong_call_in_telemetry_is_an_alert_once_and_ends_with_its_run() -> None:
    stage = Stage(RULES)
    stage.spend("r", T0, 0.1, model="nano-1")
    stage.spend("r", T0 + MINUTE, 1, model="strong-5")
    stage.spend("r", T0 + 2 * MINUTE, 1, model="strong-5")
    (alert,) = [one for one in stage.alerts if one.rule == "strong-after-tests-fail"]
    assert (alert.category, alert.kind, alert.action, alert.run_id) == ("policy", "escalation", "downgrade", "r")
    assert alert.evidence["model_route"] == ["nano-1", "strong-5"]
    assert alert.summary == "strong-5 after 0 of 2 failures of *nano* (tests_failed)"
    said = stage.advance(T0 + 3 * HOUR)
    assert [one.state for one in said if one.rule == "strong-after-tests-fail"] == ["resolved"]


def test_failures_in_telemetry_are_ground_in_the_order_of_time() -> None:
    stage = Stage(RULES)
    stage.spend("r", T0, 0.1, model="nano-1")
    for number in (1, 2):
        told = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": "bash",
            "gen_ai.tool.call.arguments": '{"command": "npm test"}',
            "gen_ai.conversation.id": "r",
            "error.type": "exit",
        }
        span = stage.span("r", 100 + number, T0 + number * MINUTE, told)
        span.status_code, span.status_message = 2, f"{number} failing"
        stage.feed(span)
    stage.spend("r", T0 + 3 * MINUTE, 1, model="strong-5")
    assert [alert.rule for alert in stage.alerts] == []
    stage.spend("r", T0 + 30 * SECOND, 1, model="strong-5")  # told late: it came before the failures
    assert [alert.rule for alert in stage.alerts] == ["strong-after-tests-fail"]


def test_an_exception_lifts_a_rule_while_it_holds_and_each_run_that_uses_it_is_told() -> None:
    rules = (
        RULES
        + """
exceptions:
  - name: demo-week
    applies_to: [strong-after-tests-fail]
    match: {team: research}
    exempt: true
    expires: 2026-03-02T01:00:00Z
    owner: o@example.com
    reason: demo
"""
    )
    agent = Agent(rules)
    assert agent.asks("strong-5") == "downgrade"
    assert [agent.asks("strong-5", team="research") for _ in range(2)] == ["allow", "allow"]
    asked, used = agent.stage.said()
    assert (asked.rule, asked.kind, asked.severity) == ("strong-after-tests-fail", "escalation_asked", "notice")
    assert (used.rule, used.kind, used.evidence["exempted_rule"]) == (
        "demo-week",
        "exception_used",
        "strong-after-tests-fail",
    )
    agent.now_ns = T0 + HOUR
    assert agent.asks("strong-5", team="research") == "downgrade"


def test_an_exception_lifts_a_loop_rule() -> None:
    loops = "loops: [{name: l, detect: repeated_error, do: [{deny: {scope: all}}]}]\n"
    exception = (
        "exceptions: [{name: e, applies_to: [l], match: {workflow: w}, exempt: true, expires: 2027-01-01T00:00:00Z,"
        " owner: o, reason: r}]"
    )
    for workflow, said in (("w", ["exception_used"]), ("v", ["repeated_error"])):
        agent = Agent(loops + exception)
        for _ in range(4):
            agent.fails("deploy", "cannot reach the host", workflow=workflow)
        assert [alert.kind for alert in agent.stage.said()] == said
        refused = agent.says("before_tool", tool="bash", args={"command": "ls"})["decision"]
        assert refused == ("allow" if workflow == "w" else "deny")


def test_who_asks_may_be_told_by_an_attribute_that_the_rules_name() -> None:
    agent = Agent("identity: {team: [my.team]}\n" + RULES + "    match: {team: core}\n")
    assert agent.asks("strong-5", attributes={"my.team": "core"}) == "downgrade"
    assert agent.asks("strong-5", attributes={"my.team": "web"}) == "allow"


def test_a_model_that_is_kept_back_is_no_way_down() -> None:
    text = RULES.replace("to: nano-1", "to: strong-4")
    with pytest.raises(DocumentError, match="`strong-4` is one of the models that this rule keeps back"):
        load_rules([parse_document(f"version: 1\n{text}", "r.yaml")])


def test_an_evaluation_that_says_no_is_a_failure_and_one_that_says_yes_after_all_is_none() -> None:
    agent = Agent(RULES.replace("[tests_failed], count: 2", "[answer_quality], count: 1"))
    agent.asks("nano-1")
    news = Outcome(
        id="e1",
        tenant="default",
        name="answer_quality",
        value=Result.FAILURE,
        at_ns=agent.now_ns + 1,
        source="evaluation",
        keys=("session:s",),
    )
    agent.stage.engine.learn(news)
    assert agent.asks("strong-5") == "allow"
    agent.stage.engine.learn(replace(news, value=Result.SUCCESS, at_ns=news.at_ns + 1))
    assert agent.asks("strong-5") == "downgrade"


def test_what_is_known_of_a_run_outlives_the_process_and_its_run() -> None:
    agent = Agent()
    agent.asks("nano-1")
    agent.fails()
    agent.fails()
    agent.stage.engine.close(agent.now_ns)
    kept = agent.stage.engine.keep_standing()
    again = Agent(now_ns=agent.now_ns)
    assert again.asks("strong-5") == "downgrade"
    again = Agent(now_ns=agent.now_ns)
    again.stage.engine.restore_standing(kept, agent.now_ns + HOUR)
    assert again.asks("strong-5") == "allow"
    again.stage.engine.restore_standing(b"nonsense", agent.now_ns + HOUR)
    assert again.asks("strong-5") == "allow"


def test_an_answer_that_allows_bears_the_rules_too() -> None:
    agent = Agent()
    assert agent.says("before_tool", tool="x")["evidence"]["rules_hash"] == agent.stage.engine.rules.hash


def switches(agent: Agent, event: str, to: str, source: str = "command") -> dict:
    agent.now_ns += SECOND
    told = {"session_id": "s", "hook_event_name": event, "from_model": "nano-1", "to_model": to, "source": source}
    read = read_hook("claude", json.dumps(told).encode(), agent.now_ns)
    return answer_hook("claude", read, agent.stage.engine.hook(read, agent.now_ns))


@pytest.mark.parametrize(
    ("verb", "source", "said"),
    [("downgrade: {to: nano-1}", "command", "block"), ("deny: {}", "picker", "block"),
     ("ask: {}", "sdk", "block"), ("ask: {}", "command", "ask")],
)  # fmt: skip
def test_claude_code_switches_to_a_strong_model_only_after_the_named_failures(
    verb: str, source: str, said: str
) -> None:
    agent = Agent(RULES.replace("downgrade: {to: nano-1}", verb))
    agent.fails()  # of a model that nothing has told of before the switch
    refused = switches(agent, "PreModelSwitch", "strong-5", source)
    assert said in {refused.get("decision"), refused.get("hookSpecificOutput", {}).get("permissionDecision")}
    agent.fails(error="1 failed, 4 passed")
    assert switches(agent, "PreModelSwitch", "strong-5", source) == {}


def test_the_model_that_claude_code_has_switched_to_is_the_one_at_work() -> None:
    agent = Agent(RULES.replace("downgrade: {to: nano-1}", "deny: {}"))
    agent.says("session_start", model="nano-1")
    assert agent.says("before_tool", tool="bash", args={"command": "ls"})["decision"] == "allow"
    switches(agent, "PostModelSwitch", "strong-5")  # of a fallback: nobody was asked
    assert agent.says("before_tool", tool="bash", args={"command": "ls"})["decision"] == "deny"


def test_a_proxy_that_answers_by_another_name_still_failed_as_the_model_that_was_asked_for() -> None:
    agent = Agent()
    agent.asks("nano-1")
    agent.says("after_model", model="vendor-mini-2026-01-01")
    agent.fails()
    assert agent.asks("strong-5") == "downgrade"
    agent.says("after_model", model="vendor-mini-2026-01-01")
    agent.fails(error="1 failed, 4 passed")
    assert agent.asks("strong-5") == "allow"
