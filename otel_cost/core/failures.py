"""Failures: in which named ways a call failed, told by its own record. Hashes and names only are kept.

`tests_failed` a test run that failed or reports failing tests · `build_failed` · `tool_failed` any tool ·
`model_failed` a model call · `same_error` the shape of an error that came before in this run · and the type of the
error as it is told. Evaluations, outcomes, loops and hooks bring names of their own.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from otel_cost.core.detect._shape import command_of
from otel_cost.core.detect._traits import Traits
from otel_cost.core.model.vocabulary import MODEL_KINDS, Kind

if TYPE_CHECKING:
    from otel_cost.core.model.call import Call

_TESTS: Final = re.compile(
    r"(?:^|[^a-z])(?:py|unit|go|c)?test(?:s|ing|suite)?(?:[^a-z]|$)"
    r"|\b(?:tox|nox|jest|vitest|mocha|ava|rspec|minitest|phpunit|pest|nosetests|unittest|gotestsum|playwright|cypress)\b",
    re.IGNORECASE,
)
_BUILDS: Final = re.compile(
    r"\b(?:build|compile|make|tsc|gcc|g\+\+|clang|javac|rustc|webpack|vite|cargo check|go vet|mvn|gradle)\b",
    re.IGNORECASE,
)
_LONGEST: Final = 400


def ways_of(call: Call, seen: set[bytes]) -> frozenset[str]:
    """The names of a call's failure; none where it went well.

    `seen`: shapes of the errors that its run has had; its own is added.
    """
    step = call.step
    if step.kind is not Kind.TOOL and (step.kind not in MODEL_KINDS or not call.failed):
        return frozenset()
    traits: Any = Traits(step, call.failed)
    names = {name for one in call.steps for name in one.failed_ways}
    if step.kind is Kind.TOOL:
        what = f"{step.tool or step.name} {command_of(step.arguments or '')}"[:_LONGEST]
        is_test = _TESTS.search(what) is not None
        if (is_test and traits.failed) or (traits.failures or 0) > 0:
            names.add("tests_failed")
        if traits.failed:
            names.add("tool_failed")
            if not is_test and _BUILDS.search(what):
                names.add("build_failed")
    else:
        names.add("model_failed")
    if not names:
        return frozenset()
    if step.error_type:
        names.add(step.error_type)
    if traits.error is not None:
        if traits.error in seen:
            names.add("same_error")
        seen.add(traits.error)
    return frozenset(names)
