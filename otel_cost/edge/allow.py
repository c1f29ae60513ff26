"""Allow: a dated exception from an alert, as a rule file that people can read, review and remove.

    otel-cost allow 3f9c2a… --for 2h --reason "customer outage"

A budget is relaxed for the group that the alert names, from the start of the window
in which it was crossed; a loop or an escalation is lifted for the alert's run.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Final

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from otel_cost.core.rules import RuleFile
from otel_cost.document import Document, parse_document, problems_of
from otel_cost.edge.files import replace_file
from otel_cost.errors import DocumentError, UsageError
from otel_cost.quantities import Duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from otel_cost.core.rules import RuleSet

FOLDER: Final = "exceptions"  # in the data dir; the service reads it after the rules of its config
_SECOND_NS: Final = 10**9
_Line = Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f]*$")]


class Wish(BaseModel):
    """What is asked for. Without `usd` the rule is lifted altogether for that time."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    alert: _Line  # id or fingerprint
    for_: Annotated[Duration, Field(alias="for", gt=0, le=90 * 86_400 * _SECOND_NS)]
    reason: _Line
    owner: _Line
    usd: Annotated[Decimal, Field(gt=0)] | None = None  # so much on top of the limit instead


def read_wish(told: Mapping[str, object]) -> Wish:
    """A wish as a request or a command tells it.

    Raises:
        UsageError: it is none; every mistake in one text.
    """
    document = Document("allow", dict(told), {})
    try:
        return Wish.model_validate(told)
    except ValidationError as error:
        problems = problems_of(error, document, Wish)
        said = [
            f"{problem.path}: {problem.message}{f' ({problem.hint})' if problem.hint else ''}" for problem in problems
        ]
        raise UsageError("; ".join(one.removeprefix(": ") for one in said)) from None


def find_alert(wish: Wish, alerts: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The alert that a wish names, the latest first where several have that fingerprint.

    Raises:
        UsageError: there is none.
    """
    wanted = wish.alert.removesuffix("-resolved")
    for alert in alerts:
        if wanted in {str(alert["id"]).removesuffix("-resolved"), alert["fingerprint"]}:
            return alert
    raise UsageError(f"no alert `{wish.alert}` is known\n    `GET /v1/alerts` and `otel-cost explain RUN` list them")


def exception_of(wish: Wish, alert: Mapping[str, Any], rules: RuleSet | None, now_ns: int) -> dict[str, Any]:
    """The exception as one entry of a rule file. `rules`: those in force, where they are known.

    Raises:
        UsageError: nothing can be relaxed there.
    """
    rule, category = str(alert["rule"]), alert["category"]
    if category not in {"budget", "loop", "waste"} and alert["kind"] != "escalation":
        raise UsageError(f"an alert of `{rule}` ({alert['kind']}) is about nothing that a rule refuses")
    if rules is not None and rule not in _names(rules):
        raise UsageError(f"the rule `{rule}` is not in force any more: nothing has to be relaxed")
    if wish.usd is not None and category != "budget":
        raise UsageError(f"`{rule}` knows no limit that `usd` could raise: leave it out to lift the rule")
    evidence = alert["evidence"]
    made: dict[str, Any] = {
        "name": f"allow-{alert['fingerprint'][:8]}-{datetime.fromtimestamp(now_ns // _SECOND_NS, UTC):%Y%m%dt%H%M%Sz}",
        "applies_to": [rule],
    }
    if category == "budget":
        made["match"] = {name: _literal(value) for name, value in evidence["group"].items()}
        if evidence.get("window_start"):
            made["starts"] = str(evidence["window_start"])[:19] + "Z"
    else:
        made["match"] = {"run": _literal(alert["run_id"])}
    made |= {"exempt": True} if wish.usd is None else {"grant": {"usd": wish.usd}}
    expires = datetime.fromtimestamp(-(-(now_ns + wish.for_) // _SECOND_NS), UTC)
    return {**made, "expires": f"{expires:%Y-%m-%dT%H:%M:%SZ}", "owner": wish.owner, "reason": wish.reason}


def _names(rules: RuleSet) -> set[str]:
    budgets, loops = {one.name for one in rules.budgets}, {one.name for one in rules.loops}
    return budgets | loops | {one.name for one in rules.escalation}


def write_exception(folder: Path, made: Mapping[str, Any], alert: Mapping[str, Any]) -> Path:
    """The rule file, complete or not there at all.

    Raises:
        UsageError: it cannot be written, or is no rule file.
    """
    head = f"# From alert {alert['id']}: {' '.join(str(alert['summary']).split())}\n"
    body = yaml.dump({"version": 1, "exceptions": [dict(made)]}, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    text = head + body.replace("$", "$$")
    document = parse_document(text, made["name"])
    try:
        # As a file of its own it would name rules that are nowhere: its own words are checked.
        RuleFile.model_validate(document.value)
    except ValidationError as error:
        raise UsageError(str(DocumentError(problems_of(error, document, RuleFile)))) from None
    file = folder / f"{made['name']}.yaml"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(file, text.encode())
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror or error}") from error
    return file


class _Dumper(yaml.SafeDumper):
    """Money as it is written."""


_Dumper.add_representer(
    Decimal, lambda dumper, value: dumper.represent_scalar("tag:yaml.org,2002:float", f"{value:f}", style="")
)


def _literal(value: object) -> object:
    """A value that a match takes as it is: nothing stands for what is not told, and signs of globs for themselves."""
    if value in ("", None):
        return None
    text = str(value)
    return {"eq": text} if re.search(r"[*?\[]", text) else text
