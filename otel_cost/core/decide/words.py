"""Words: what a rule's alert decides, action by action, in the texts that its rule gives or fixed ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from otel_cost.core.decide import Decision, Verb
from otel_cost.core.decide.texts import text_of
from otel_cost.core.model.vocabulary import Category
from otel_cost.core.rules.template import filled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from otel_cost.core.model.finding import Alert
    from otel_cost.core.rules.kind import Actions

_NS_PER_MS: Final = 1_000_000


def decisions_of(alert: Alert, actions: Actions) -> Iterator[tuple[Decision, str]]:
    """(decision, scope of a deny) of each action that decides something."""
    for action in actions:
        try:
            verb = Verb.of(action.verb)
        except KeyError:
            continue  # `alert` and `issue` tell people and decide nothing
        if verb is Verb.ALLOW:
            continue
        arguments: Any = action.arguments
        scope: str = arguments.scope if verb is Verb.DENY else ""
        model: str | None = arguments.to if verb is Verb.DOWNGRADE else None
        text = getattr(arguments, "text", None)
        text = None if text is None else filled(text, _known(alert))
        yield (
            Decision(
                verb=verb,
                reason=alert.summary,
                rule=alert.rule,
                text=text or text_of(verb, alert.summary, same_call=scope == "same_call", model=model),
                model=model,
                otherwise=Verb.of(getattr(arguments, "otherwise", "warn")),
                delay_ms=arguments.for_ // _NS_PER_MS if verb is Verb.DELAY else None,
                evidence={
                    "would_change": would_change(alert, scope),
                    **_plain(alert.evidence),
                    "alert": alert.id,
                    "kind": alert.kind,
                    "run_id": alert.run_id,
                },
            ),
            scope,
        )


def would_change(alert: Alert, scope: str = "") -> str:
    """What has to be otherwise for the rule to say nothing; names and numbers only."""
    said = alert.evidence
    if "would_change" in said:
        return str(said["would_change"])
    if alert.category is Category.BUDGET:
        ends = {"rolling": "when what was spent before leaves the window", "calendar": "when the next window begins"}
        window = str(said.get("window"))
        soonest = ends.get(window.partition(" ")[0], "not by itself: the limit is for the whole of it")
        if alert.kind == "burn_rate":
            return (
                f"money going less than {said.get('burn_rate')} times as fast as {said.get('limit_usd')} USD a window"
            )
        return (
            f"less than {said.get('threshold')} USD counted, {said.get('observed')} now: {soonest}; "
            f"or an exception (otel-cost allow {alert.id})"
        )
    if alert.category is Category.DRIFT:
        return "runs that cost what they did before"
    if scope == "same_call":
        return "another call than the one that is refused"
    return f"an end of {alert.kind.replace('_', ' ')}: a call that brings something new; or an exception"


def _known(alert: Alert) -> Callable[[str], object]:
    """What the messages of a rule may name, as its alert knows it."""
    known: dict[str, object] = {
        **alert.evidence,
        "rule": alert.rule,
        "kind": alert.kind,
        "summary": alert.summary,
        "severity": alert.severity.value,
        "run_id": alert.run_id,
        "tenant": alert.tenant,
    }
    group = alert.evidence.get("group")
    return lambda name: known.get(name, group.get(name) if isinstance(group, dict) else None)


def _plain(evidence: dict[str, object]) -> dict[str, Any]:
    return {key: value for key, value in evidence.items() if value is not None}
