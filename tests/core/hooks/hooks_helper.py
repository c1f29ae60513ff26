"""A live run in small: hook calls go through assembly, detectors and decisions as the service drives them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from otel_cost.core.assemble.run import Run
from otel_cost.core.decide.standing import Standing
from otel_cost.core.hooks import answer_hook, hook_event
from otel_cost.core.model.charge import Charge
from otel_cost.core.model.vocabulary import Reason, Status
from otel_cost.core.normalise._hook import hook_step
from otel_cost.core.rules import load_rules
from otel_cost.core.rules.kind import Mode
from otel_cost.core.watch import Watch
from otel_cost.document import parse_document

if TYPE_CHECKING:
    from otel_cost.core.decide import Decision
    from otel_cost.core.model.event import HookEvent
    from otel_cost.core.model.finding import Alert
    from otel_cost.core.model.step import Step

SECOND = 10**9
FOLDERS = {
    "claude": "claude-code",
    "codex": "codex-cli",
    "gemini": "gemini-cli",
    "qwen": "qwen-code",
    "copilot": "copilot-cli",
    "opencode": "opencode",
}


def price(step: Step) -> Charge:
    if step.usage is None:
        return Charge(Status.UNPRICED, Reason.NO_RATE)
    return Charge(Status.PRICED, nano=step.usage.input + step.usage.output, usage=step.usage)


class Live:
    """One harness with one run. `rules`: a rule file's `loops:`."""

    def __init__(self, dialect: str, rules: str) -> None:
        self.dialect, self.now = dialect, 1_790_000_000 * SECOND
        self.rules = {rule.name: rule for rule in load_rules([parse_document(f"version: 1\n{rules}", "r.yaml")]).loops}
        self.watch = Watch(list(self.rules.values()))
        self.standing = Standing()
        self.run = Run("default", price, 0)
        self.alerts: list[Alert] = []

    def ask(self, payload: dict[str, Any]) -> dict[str, Any]:
        """The answer to a payload, after everything that follows from it."""
        event, decision = self.decide(payload)
        return answer_hook(self.dialect, event, decision)

    def decide(self, payload: dict[str, Any]) -> tuple[HookEvent, Decision]:
        self.now += SECOND
        return self.told(hook_event(self.dialect, payload, self.now))

    def told(self, event: HookEvent) -> tuple[HookEvent, Decision]:
        self.standing.observe(event)
        step = hook_step(event)
        if step is not None:
            self.take(step)
        return event, self.standing.decide(event)

    def take(self, step: Step) -> None:
        if step.session:
            self.run.sessions.add(step.session)
        self.run.add_step(step)
        changes, self.run.changes = self.run.changes, []
        for change in changes:
            if change.new is None:
                continue
            for alert in self.watch.feed(self.run, change.new, self.now):
                self.alerts.append(alert)
                rule = self.rules[alert.rule]
                self.standing.note(
                    alert,
                    rule.actions,
                    now_ns=self.now,
                    call=change.new,
                    sessions=self.run.sessions,
                    shadow=rule.mode is Mode.SHADOW,
                )
