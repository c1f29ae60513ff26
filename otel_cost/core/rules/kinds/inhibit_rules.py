"""Rule kind `inhibit_rules`: alerts that are not told while another one says it all."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, InstanceOf, WithJsonSchema

from otel_cost.core.rules.alerting import Inhibition, Matchers, check_label
from otel_cost.core.rules.kind import Name, RuleKind, Site, Strict, register


def compile_matchers(written: object) -> Matchers:
    """Conditions on alerts, checked; `Mistakes` for what is wrong."""
    return written if isinstance(written, Matchers) else Matchers.of(written)  # type: ignore[arg-type]  # it is checked there


_SCHEMA = {
    "type": "object",
    "description": "All keys must hold: rule, category, severity, run, a dimension … → value, glob, list or operators",
    "minProperties": 1,
    "examples": [{"severity": "critical", "category": "budget"}],
}
AlertMatch = Annotated[InstanceOf[Matchers], BeforeValidator(compile_matchers), WithJsonSchema(_SCHEMA)]


class InhibitRuleModel(Strict):
    """While an alert that `source` matches is firing, alerts that `target` matches are not told."""

    name: Name | None = None
    source: AlertMatch
    target: AlertMatch
    equal: tuple[Annotated[str, AfterValidator(check_label)], ...] = ()


def _build(model: InhibitRuleModel, _site: Site) -> Inhibition:
    return Inhibition(source=model.source, target=model.target, equal=model.equal)


KIND: RuleKind[Inhibition] = register(RuleKind(name="inhibit_rules", model=InhibitRuleModel, build=_build))
