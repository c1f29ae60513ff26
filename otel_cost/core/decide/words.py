"""Words: what a rule's alert decides, action by action, in the texts that its rule gives or fixed ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from otel_cost.core.decide import Decision, Verb
from otel_cost.core.decide.texts import text_of
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
                evidence={**_plain(alert.evidence), "alert": alert.id, "kind": alert.kind, "run_id": alert.run_id},
            ),
            scope,
        )


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
