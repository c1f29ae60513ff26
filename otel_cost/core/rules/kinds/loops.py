"""Rule kind `loops`: what to do when a detector sees a loop or waste."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from otel_cost.core.detect import DETECTORS
from otel_cost.core.model.vocabulary import Severity
from otel_cost.core.rules.kind import Actions, Fail, Mode, Name, RuleKind, Site, Strict, decision_verbs, register
from otel_cost.core.rules.match import Match, Matcher
from otel_cost.document import nearest, problems_of
from otel_cost.errors import DocumentError

if TYPE_CHECKING:
    from otel_cost.core.detect import Detector


def _schema_of_detectors(schema: dict[str, Any]) -> None:
    """Name the detectors, and give each its own `with:`."""
    schema["properties"]["detect"]["enum"] = list(DETECTORS)
    schema["allOf"] = [
        {
            "if": {"properties": {"detect": {"const": name}}},
            "then": {"properties": {"with": detector.settings.model_json_schema()}},
        }
        for name, detector in DETECTORS.items()
    ]


class LoopModel(Strict):
    """One detector with its settings, and what is to be done when it fires."""

    model_config = ConfigDict(json_schema_extra=_schema_of_detectors)

    name: Name
    detect: str
    with_: dict[str, Any] = Field(default_factory=dict, alias="with")
    match: Match = Field(default_factory=Matcher)
    mode: Mode | None = None
    severity: Severity | None = None  # None: as the detector sees it
    fail: Fail | None = None
    do: Actions = ()

    @field_validator("detect")
    @classmethod
    def _known(cls, detector: str) -> str:
        if detector not in DETECTORS:
            raise ValueError(f"unknown detector `{detector}`\n{nearest(detector, DETECTORS)}")
        return detector


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop rule, ready to run. `settings` is an instance of `detector.settings`."""

    name: str
    detector: Detector[Any]
    settings: BaseModel
    match: Matcher
    mode: Mode
    severity: Severity | None
    actions: Actions
    fail: Fail = "open"

    @property
    def action(self) -> str:
        """The decisions it asks for, strictest first; "" = tell only."""
        return decision_verbs(self.actions)


def _build(model: LoopModel, site: Site) -> Loop:
    detector = DETECTORS[model.detect]
    try:
        settings = detector.settings.model_validate(model.with_)
    except ValidationError as error:
        raise DocumentError(problems_of(error, site.document, detector.settings, at=(*site.path, "with"))) from None
    mode = model.mode or site.defaults.mode
    fail = model.fail or site.defaults.fail
    return Loop(model.name, detector, settings, model.match, mode, model.severity, model.do, fail)


# What findings tell; each detector tells some of it.
_FACTS = (
    "kind", "tool", "model", "what", "repeats", "times", "rounds", "period", "calls", "tokens", "rises", "failures",
    "arguments", "error_type", "meant_model", "price_percent", "first_input_tokens", "last_input_tokens",
    "carried_tokens", "tools", "retries", "model_route",
)  # fmt: skip

KIND = register(RuleKind(name="loops", model=LoopModel, build=_build, facts=_FACTS))
