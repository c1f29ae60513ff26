"""Alerting: who hears of an alert, together with what, and what keeps it quiet. In Alertmanager's words.

Works on alerts as JSON (`alert_json`), because what waits to be told outlives the
process. Everything here is a function of the alert, of what was told before and of the time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from otel_cost.core.rules.match import DIMENSIONS, compile_labels
from otel_cost.document import nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from otel_cost.core.rules.match import Condition

    AlertJson = Mapping[str, Any]

# What an alert itself says, beside its dimensions and what its rule compared.
LABELS: Final = ("rule", "category", "kind", "severity", "state", "run", "trace", "fingerprint", "budget")
_FIELDS: Final = {"run": "run_id", "trace": "trace_id"}


def check_label(name: str) -> str:
    """A name to group alerts by or to match them on, as it is.

    Raises:
        ValueError: neither a label of alerts nor a dimension.
    """
    if name in LABELS or name in DIMENSIONS or name.startswith("attr:") or "." in name:
        return name
    raise ValueError(f"unknown label `{name}`\n{nearest(name, (*LABELS, *DIMENSIONS, 'attr:KEY'))}")


def label(alert: AlertJson, name: str) -> object:
    """What an alert says under a name; None: nothing."""
    key = _FIELDS.get(name, name)
    if key in alert:
        return alert[key]
    evidence = alert.get("evidence") or {}
    group = evidence.get("group")
    for facts in (evidence, group if isinstance(group, dict) else {}):
        for known in (name, name.removeprefix("attr:")):
            if facts.get(known) is not None:
                return facts[known]
    if name == "model":
        return evidence.get("model_route")
    return None


def group_of(alert: AlertJson, by: Iterable[str]) -> dict[str, str]:
    """The group of an alert: what it says under each name, empty where it says nothing. The tenant is always one."""
    said = {name: label(alert, name) for name in by}
    named = {name: ", ".join(map(str, value)) if isinstance(value, list) else value for name, value in said.items()}
    return {"tenant": str(alert["tenant"])} | {
        name: "" if value is None else str(value) for name, value in named.items()
    }


def is_lasting(alert: AlertJson) -> bool:
    """Does it go on until it is resolved? Notices and facts that were noted once do not."""
    return alert["severity"] != "notice" and alert["category"] in {"loop", "waste", "budget", "drift"}


@dataclass(frozen=True, slots=True)
class Matchers:
    """Conditions on an alert, all of which must hold. `written`: name → value, glob, list or operators."""

    written: Mapping[str, object] = field(default_factory=dict)
    conditions: tuple[tuple[str, Condition], ...] = field(default=(), compare=False)

    @classmethod
    def of(cls, written: Mapping[str, object]) -> Matchers:
        """Compiled.

        Raises:
            Mistakes: every wrong name, operator or value.
        """
        return cls(written, compile_labels(written, check_label))

    def __call__(self, alert: AlertJson) -> bool:
        return all(condition(label(alert, name)) for name, condition in self.conditions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """Somebody's word that alerts of a kind are known and need no telling until a time."""

    id: str
    matchers: Matchers
    until_ns: int
    who: str
    reason: str
    at_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Inhibition:
    """While an alert that `source` matches is firing, those that `target` matches are not told; `equal` joins them."""

    source: Matchers
    target: Matchers
    equal: tuple[str, ...] = ()


def silencing(alert: AlertJson, silences: Iterable[Silence], now_ns: int) -> Silence | None:
    """The silence that keeps an alert quiet now."""
    return next((one for one in silences if now_ns < one.until_ns and one.matchers(alert)), None)


def is_inhibited(alert: AlertJson, rules: Iterable[Inhibition], firing: Iterable[AlertJson]) -> bool:
    """Does a firing alert say it all? An alert never keeps itself quiet."""
    wanted = [rule for rule in rules if rule.target(alert)]
    return bool(wanted) and any(
        other["fingerprint"] != alert["fingerprint"]
        and other["tenant"] == alert["tenant"]
        and rule.source(other)
        and all(label(other, name) == label(alert, name) for name in rule.equal)
        for rule in wanted
        for other in firing
    )


def last_words(alerts: Iterable[AlertJson]) -> list[AlertJson]:
    """The last thing that was said of each fingerprint, in the order of the first."""
    last: dict[str, AlertJson] = {}
    for alert in alerts:
        known = last.get(alert["fingerprint"])
        if known is None or _when(known) <= _when(alert):
            last[alert["fingerprint"]] = alert
    return list(last.values())


def _when(alert: AlertJson) -> tuple[int, int, bool]:
    return int(alert["seq"]), int(alert["at_unix_nano"]), alert["state"] != "firing"
