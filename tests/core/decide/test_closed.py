"""Which runs must not go on while nobody answers."""

from __future__ import annotations

from typing import Any

import pytest

from otel_cost.core.decide.closed import closed_by
from otel_cost.core.hooks import hook_event
from otel_cost.core.rules import load_rules
from otel_cost.document import parse_document

LOOP = "name: same-error, detect: repeated_error, do: [{deny: }]"


@pytest.mark.parametrize(
    ("rules", "rule"),
    [
        (f"loops: [{{{LOOP}}}]", None),
        (f"loops: [{{{LOOP}, fail: closed}}]", "same-error"),
        (f"defaults: {{fail: closed}}\nloops: [{{{LOOP}}}]", "same-error"),
        (f"defaults: {{fail: closed}}\nloops: [{{{LOOP}, fail: open}}]", None),
        (f"loops: [{{{LOOP}, fail: closed, mode: shadow}}]", None),
        (f"loops: [{{{LOOP}, fail: closed, match: {{workflow: nightly}}}}]", None),
        (f"loops: [{{{LOOP}, fail: closed, match: {{workflow: refactor, user: a*}}}}]", "same-error"),
        ("defaults: {fail: closed}\nloops: [{name: tell, detect: repeated_error, do: [{alert: }]}]", None),
        ("budgets: [{name: cap, per: [run], limit: {usd: 5}, fail: closed}]", "cap"),
        ("budgets: [{name: cap, per: [run], limit: {usd: 5}, fail: closed, match: {team: red}}]", None),
    ],
)
def test_a_rule_that_fails_closed_holds_for_whom_it_matches(rules: str, rule: str | None) -> None:
    payload: dict[str, Any] = {"event": "before_model", "session_id": "s", "user": "ann", "workflow": "refactor"}
    loaded = load_rules([parse_document(f"version: 1\n{rules}", "r.yaml")])
    assert closed_by(loaded)(hook_event("neutral", payload, 1)) == rule
