"""Rule files: what loads, what is refused and how it is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from otel_cost.core.detect import DETECTORS
from otel_cost.core.model.attributes import PlainAttributes
from otel_cost.core.model.vocabulary import Severity
from otel_cost.core.rules import load_rules, rules_schema
from otel_cost.core.rules.kind import KINDS, Mode, decision_verbs
from otel_cost.core.rules.match import lookup
from otel_cost.document import parse_document
from otel_cost.errors import DocumentError

if TYPE_CHECKING:
    from otel_cost.core.rules import RuleSet

STARTER = Path(__file__).resolve().parents[3] / "rules" / "starter.yaml"


def rules_of(*texts: str) -> RuleSet:
    return load_rules(parse_document(f"version: 1\n{text}", f"{i}.yaml") for i, text in enumerate(texts))


def refusals(*texts: str) -> str:
    with pytest.raises(DocumentError) as raised:
        rules_of(*texts)
    return str(raised.value)


def test_the_shipped_pack_loads_and_tells_without_limits() -> None:
    rules = load_rules([parse_document(STARTER.read_text(), "bundled:starter")])
    assert {"same-error-3x", "context-growth"} <= {rule.name for rule in rules.loops}
    assert {rule.mode for rule in rules.loops} == {Mode.ENFORCE}
    assert {rule.action for rule in rules.loops} <= {"", "warn"}
    assert rules.budgets == ()
    assert [action.verb for action in rules.loops[0].actions] == ["warn", "alert"]


def test_a_loop_rule_has_its_detectors_settings_and_a_compiled_match() -> None:
    rules = rules_of("""
loops:
  - name: r
    detect: repeated_error
    with: {count: 4}
    match: {workflow: {not: incident}}
    severity: critical
    do: [{deny: {scope: tool, text: stop it}}, {ask: }, {alert: {}}]
""")
    (rule,) = rules.loops
    assert rule.detector is DETECTORS["repeated_error"]
    assert rule.settings.model_dump()["count"] == 4
    assert rule.severity is Severity.CRITICAL
    assert rule.action == "deny,ask"
    assert rule.match(lookup({"workflow": "x"}))
    assert not rule.match(lookup({"workflow": "incident"}))


def test_verbs_are_listed_strictest_first() -> None:
    text = (
        "loops: [{name: r, detect: repeated_error, do: [{warn: }, {stop: }, {delay: {for: 5s}}, {downgrade: {to: m}}]}]"
    )
    (rule,) = rules_of(text).loops
    assert decision_verbs(rule.actions) == "stop,downgrade,delay,warn"
    assert rule.actions[2].arguments.for_ == 5 * 10**9


def test_the_default_mode_holds_where_a_rule_does_not_say_and_off_is_off() -> None:
    rules = rules_of(
        "defaults: {mode: shadow}",
        """
loops:
  - {name: a, detect: repeated_error}
  - {name: b, detect: repeated_error, mode: enforce}
  - {name: c, detect: repeated_error, mode: off}
""",
    )
    assert [(rule.name, rule.mode) for rule in rules.loops] == [("a", Mode.SHADOW), ("b", Mode.ENFORCE)]


def test_identity_takes_the_first_hit_and_the_record_before_its_resource() -> None:
    identity = rules_of("""
identity:
  user: [user.id, user.email]
  workflow: [{from: vcs.ref.head.name, re: "^(\\\\w+)/"}, wf]
  team: [team.id]
""").identity
    record = PlainAttributes({"user.email": "a@example.com", "vcs.ref.head.name": "fix/1", "team.id": ""})
    resource = PlainAttributes({"user.email": "b@example.com", "team.id": 7})
    assert identity.of(record, resource) == {"user": "a@example.com", "workflow": "fix", "team": "7"}
    assert identity.of(PlainAttributes({"vcs.ref.head.name": "main", "wf": "w"})) == {"workflow": "w"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lops: []", "0.yaml:2:1: lops: unknown key `lops`\n    did you mean `loops`?"),
        ("loops: [{name: a, detect: repeted_error}]", "did you mean `repeated_error`?"),
        (
            "loops: [{name: a, detect: repeated_error, with: {cuont: 3}}]",
            "0.yaml:2:50: loops[0].with.cuont: unknown key `cuont`\n    did you mean `count`?",
        ),
        (
            "loops: [{name: a, detect: repeated_error, do: [{dney: {}}]}]",
            "0.yaml:2:49: loops[0].do[0].dney: unknown key `dney`\n    did you mean `deny`?",
        ),
        ("loops: [{name: a, detect: repeated_error, do: [{warn: , ask: }]}]", "an action is exactly one verb"),
        ("loops: [{name: a, detect: repeated_error, do: [{delay: {for: 5}}]}]", "`5` is not a duration"),
        ("loops: [{name: a, detect: repeated_error, match: {usr: x}}]", "loops[0].match.usr: unknown name `usr`"),
        (
            "loops: [{name: a, detect: repeated_error, do: [{alert: ops}]}]",
            "loops[0].do[0]: unknown contact `ops`\n    no `contacts` are given",
        ),
        ("identity: {team: [{lookup: teams.csv, by: user}]}", "identity.team[0].lookup: `teams.csv` cannot be read"),
        ("identity: {user: [{from: x, re: '('}]}", "is not a regular expression"),
        (
            "budgets: [{name: b, per: [usr], limit: {usd: 20, window: 1 weeek}}]",
            "0.yaml:2:58: budgets[0].limit.window: `1 weeek` is not a window\n    write a number and h, d, w or mo",
        ),
        ("budgets: [{name: b, limit: {usd: 20}}]", "`limit.window` is missing"),
        ("budgets: [{name: b, limit: {usd: 1, window: 1h}, warn: [{at: 5x}]}]", "budgets[0].warn[0].at: `5x` is not a"),
        ("exceptions: [{name: e, applies_to: [b], grant: {usd: 1}, expires: 2026-12-01T00:00:00, owner: o, reason: r}]",
         "a time without zone"),
        ("regressions: [{name: r, per: [workflow], baseline: {last: 14d}, fire: {ratio: 1.5, for: 6 of last 5}}]",
         "`6 of last 5` is not understood"),
        ("routes: [{to: [x], keep: all, sample: 0.1}]", "either `keep: all` or `sample: SHARE`"),
        ("contacts: [{name: c}]", "exactly one of `slack`, `webhook`, `pagerduty`"),
    ],
)  # fmt: skip
def test_refused(text: str, said: str) -> None:
    assert said in refusals(text)


def test_names_are_unique_over_files() -> None:
    rule = "loops: [{name: a, detect: repeated_error}]"
    assert refusals(rule, rule) == "1.yaml:2:16: loops[0].name: `a` is given twice\n    first at 0.yaml:2"
    assert "`defaults.mode` is given twice" in refusals("defaults: {mode: off}", "defaults: {mode: off}")


def test_the_version_is_asked_for() -> None:
    with pytest.raises(DocumentError, match="`version` is missing"):
        load_rules([parse_document("loops: []", "x.yaml")])


FULL = """
identity:
  user: [user.id, user.email]
  workflow: [otel_cost.workflow, {from: vcs.ref.head.name, re: "^x/"}]
budgets:
  - name: user-hourly
    per: [user]
    match: {workflow: {not: incident}}
    limit: {usd: 20, window: 1h, kind: rolling}
    warn: [{at: 50%}, {at: 80%}, {burn_rate: 6, over: [1h, 5m]}]
    at_limit: {target: top_burner, do: [{delay: {for: 5s}}], hard_stop_at: 130%}
  - {name: run-cap, per: [run], limit: {usd: 5}, warn: [{at: 60%}], at_limit: {do: [{ask: {}}]}}
exceptions:
  - name: inc-4312
    applies_to: [user-hourly, run-cap]
    match: {workflow: incident}
    grant: {usd: 200}
    expires: 2026-12-01T00:00:00Z
    owner: oncall@example.com
    reason: customer outage
escalation:
  - name: strong-after-tests-fail
    models: ["*opus*"]
    allow_if: {prior: {models: ["*haiku*"], failed: [tests_failed], count: 2}}
    else: {do: [{downgrade: {to: claude-haiku-4-5}}]}
outcomes:
  - name: merged_pr
    from: {webhook: github, event: pull_request.closed, if: merged}
    join: [vcs.ref.head.name]
    value: success
regressions:
  - name: workflow-drift
    per: [workflow]
    baseline: {last: 14d, min_runs: 20, stat: p50}
    fire: {ratio: 1.5, for: 3 of last 5}
    do: [{issue: agent-cost}]
routes:
  - {match: {any: [loop, over_budget], cost_usd: {gte: 1}}, to: [langsmith, honeycomb], keep: all}
  - {match: {resource.deployment.environment.name: prod}, to: [honeycomb], sample: 0.1}
contacts:
  - {name: agents, slack: {url: "https://hooks.example.com/x"}, group_by: [workflow, rule], repeat: 4h}
  - {name: agent-cost, github: {repo: org/repo, token: t}}
"""


def test_every_kind_loads() -> None:
    rules = load_rules([parse_document("version: 1\n" + FULL, "0.yaml")])
    assert {name for name, found in rules.rules.items() if found} == set(KINDS) - {"defaults", "inhibit_rules", "loops"}


def test_the_schema_describes_every_kind_and_each_detectors_settings() -> None:
    schema = json.loads(json.dumps(rules_schema()))
    assert set(schema["properties"]) == {"version", *KINDS}
    assert schema["additionalProperties"] is False
    loop = schema["$defs"]["LoopModel"]
    assert loop["properties"]["detect"]["enum"] == list(DETECTORS)
    settings = {part["if"]["properties"]["detect"]["const"]: part["then"] for part in loop["allOf"]}
    assert "count" in settings["repeated_error"]["properties"]["with"]["properties"]
