from __future__ import annotations

import pytest
from detect_helper import feed, model, places
from hypothesis import given
from hypothesis import strategies as st

from otel_cost.core.detect import Observed
from otel_cost.core.model.outcome import Outcome, Result
from otel_cost.core.model.step import Step
from otel_cost.core.model.vocabulary import Kind, Source


def judged(score: float | None = None, value: Result = Result.UNKNOWN, name: str = "relevance") -> Observed:
    step = Step(source=Source.SPAN, dialect="test", scope="test", kind=Kind.OTHER)
    outcome = Outcome(
        id="x", tenant="default", name=name, value=value, at_ns=0, source="evaluation", keys=(), score=score
    )
    return Observed(step, None, failed=False, judged=outcome)


def rounds(*scores: float) -> list[Observed]:
    return [one for score in scores for one in (model(10), judged(score))]


def test_work_that_stays_bad_is_told_of_with_what_the_new_tries_cost() -> None:
    (finding,) = feed("low_evaluation", *rounds(0.2, 0.21, 0.2, 0.19))
    assert (places(finding), finding.wasted_nano, finding.evidence["best_percent"]) == ([1, 3, 5], 20, 21)


def test_a_label_counts_where_there_is_no_score() -> None:
    assert len(feed("low_evaluation", *[judged(value=Result.FAILURE) for _ in range(3)])) == 1


@pytest.mark.parametrize(
    "calls",
    [
        pytest.param(rounds(0.2, 0.3), id="twice is bad luck"),
        pytest.param(rounds(0.1, 0.2, 0.3, 0.4, 0.49), id="it gets better"),
        pytest.param(rounds(0.2, 0.2, 0.9, 0.2, 0.2), id="it was good in between"),
        pytest.param([judged(score, name=str(n)) for n, score in enumerate((0.1, 0.1, 0.1, 0.1))], id="other judges"),
        pytest.param([judged(40.0) for _ in range(4)], id="nobody knows where the scale ends"),
        pytest.param([judged(0.9, Result.SUCCESS) for _ in range(4)], id="good work"),
    ],
)
def test_no_loop(calls: list[Observed]) -> None:
    assert not feed("low_evaluation", *calls)


def test_a_good_one_ends_it_with_the_total() -> None:
    fired, over = feed("low_evaluation", *rounds(0.2, 0.2, 0.2, 0.2, 0.8))
    assert (fired.wasted_nano, over.state, over.wasted_nano) == (20, "resolved", 30)


@given(st.lists(st.floats(0, 1), max_size=30))
def test_each_episode_is_told_once(scores: list[float]) -> None:
    findings = feed("low_evaluation", *rounds(*scores))
    onsets = [finding.onset_span_id for finding in findings if finding.state == "firing"]
    assert len(onsets) == len(set(onsets))
    assert all(score < 0.5 for f in findings for place in places(f) for score in [scores[place // 2]])
