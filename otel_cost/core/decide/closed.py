"""Closed: which runs must not go on while nobody answers, because a rule with `fail: closed` watches them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_cost.core.rules.kind import Mode
from otel_cost.core.rules.match import lookup

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_cost.core.model.event import HookEvent
    from otel_cost.core.rules import RuleSet


def closed_by(rules: RuleSet) -> Callable[[HookEvent], str | None]:
    """For a hook call: the name of the first enforced rule that fails closed and, by what is known there, matches."""
    loops = [(rule.name, rule.match) for rule in rules.loops if _watches(rule.mode, rule.fail) and rule.action]
    budgets = [(rule.name, rule.budget.match) for rule in rules.budgets if _watches(rule.mode, rule.fail)]
    escalations = [(rule.name, rule.match) for rule in rules.escalation if _watches(rule.mode, rule.fail)]
    closed = [*loops, *budgets, *escalations]

    def rule_of(event: HookEvent) -> str | None:
        if not closed:
            return None
        known = lookup(_known(event))
        return next((name for name, match in closed if match(known)), None)

    return rule_of


def _watches(mode: Mode, fail: str) -> bool:
    return mode is Mode.ENFORCE and fail == "closed"


def _known(event: HookEvent) -> dict[str, object]:
    attribute = event.attributes.get
    return {
        "tenant": event.tenant,
        "session": event.session or None,
        "user": attribute("user.id"),
        "team": attribute("team.id"),
        "workflow": attribute("otel_cost.workflow"),
        "agent": event.agent,
        "model": event.model,
        "provider": event.provider,
        "tool": event.tool,
    }
