"""What wakes a detector: it says the same of any calls, whether it sees all of them or only those that it asks for."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from detect_helper import model, tool

from otel_cost.core.detect import DETECTORS, Observed
from otel_cost.core.detect._memory import Memory
from otel_cost.core.detect._pace import Pace, Taken, Usual
from otel_cost.core.detect._signs import EVERY

if TYPE_CHECKING:
    from otel_cost.core.model.finding import Finding

CHOOSY = sorted(name for name, detector in DETECTORS.items() if detector.wakes != EVERY)
TOOLS = ("read_file", "write_file", "run_tests", "sleep_wait", "transfer_to_b", "task", "bash")
ORDER = "please look for the thing in the house"
ARGUMENTS = (
    {"path": "a.py"},
    {"path": "b.py"},
    {"command": "pytest -q"},
    {"command": "cat x | sort > y"},
    {"message": ORDER},
    {"message": f"{ORDER} again"},
    None,
)
RESULTS = ("ok", "3 failed, 2 passed", "no such file", "def f(): return 1", None)
ERRORS = ("file not found: a.txt", "boom 17", "429 Too Many Requests", "503 Service Unavailable", "permission denied")


def story(seed: int) -> list[Observed]:
    """Calls as an agent makes them that has only a few ideas, at most; the same for the same seed."""
    rng = random.Random(seed)
    ideas = [
        (rng.choice(TOOLS), rng.choice(ARGUMENTS), rng.choice(RESULTS), rng.choice(ERRORS))
        for _ in range(rng.choice((1, 2, 3, 6)))
    ]
    breaks, models, told = rng.choice((0.0, 0.2, 0.7)), rng.choice((0.0, 0.3, 0.5)), rng.random() < 0.7
    calls, tokens = [], 100
    usual = Usual()
    usual.add(Taken(50, 10))
    pace = Pace(usual=usual if rng.random() < 0.5 else None)
    for place in range(rng.randrange(10, 90)):
        fails = rng.random() < breaks
        if rng.random() < models:
            tokens = 100 if rng.random() < 0.05 else tokens + rng.randrange(0, 300)
            answer = rng.choice((None, "fine", "the same words, " * 60))
            seen = model(10, (tokens, 20), output_text=answer, response_model=rng.choice((None, "gpt-5", "gpt-5-mini")))
            if fails:
                seen = model(None, None, failed=True, error_message=rng.choice(ERRORS), error_type="E")
        else:
            name, arguments, result, error = rng.choice(ideas)
            seen = tool(name, arguments, result if told else None, error=error if fails else None)
        seen.step.span_id = bytes([place])
        seen.step.start_ns = place * 10**9
        seen.step.end_ns = seen.step.start_ns + rng.choice((1, 15)) * 10**8
        pace.calls += 1
        seen.pace = pace
        calls.append(seen)
    return calls


def findings(name: str, calls: list[Observed], *, all_calls: bool) -> tuple[list[Finding], int]:
    """What a detector says, and how many calls it was shown."""
    detector, memory, said, shown = DETECTORS[name], Memory(), [], 0
    state = detector.state()
    settings = detector.settings(**({"min_runs": 1} if name == "runaway" else {}))
    for call in calls:
        memory.look(call)
        awake = detector.wakes & call.signs or (detector.busy is not None and detector.busy(state))
        if call.step.kind in detector.kinds and (all_calls or awake):
            shown += 1
            said += detector.observe(state, call, settings)
    return said, shown


@pytest.mark.parametrize("name", CHOOSY)
def test_what_does_not_wake_a_detector_changes_nothing_that_it_says(name: str) -> None:
    said, seen = Counter[str](), Counter[str]()
    for seed in range(300):
        everything, of_all = findings(name, story(seed), all_calls=True)
        some, of_some = findings(name, story(seed), all_calls=False)
        assert some == everything, seed
        said.update(finding.state for finding in everything)
        seen.update({"all": of_all, "some": of_some})
    assert said["firing"] > 0
    assert seen["some"] < 0.8 * seen["all"]
