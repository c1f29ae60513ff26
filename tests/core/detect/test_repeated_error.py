from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from detect_helper import feed, model, places, tool
from hypothesis import given
from hypothesis import strategies as st

if TYPE_CHECKING:
    from otel_cost.core.detect import Observed


def turn(call: Observed, nano: int | None = 10) -> list[Observed]:
    return [model(nano), call]


def fail(text: str, args: object = None) -> Observed:
    return tool("run_tests", args or {"target": "x"}, error=text)


def test_three_equal_failures_fire_once_and_the_first_is_not_waste() -> None:
    calls = [call for n in range(5) for call in turn(fail(f"File a{n}.py line {n}: no module named foo"))]
    (finding,) = feed("repeated_error", *calls)
    assert (finding.state, places(finding), finding.wasted_nano) == ("firing", [1, 3, 5], 20)
    assert (finding.onset_span_id, finding.at_span_id) == (b"\x03", b"\x05")


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("open /srv/a/x.py: permission denied", "open /home/b/y.py: permission denied"),
        ("waited 3.5 s at 2026-01-02T03:04:05Z, bad input", "waited 77 s at 2026-01-09T23:59:59.123Z, bad input"),
        ("object 0xdeadbeef is closed", "object 0x1f is closed"),
        ("job 8f14e45f-ceea-467f-9c3b-1d0a2c3e4f50 is unknown", "job 1b4e28ba-2fa1-11d2-883f-0016d3cca427 is unknown"),
        ("cannot find 'x' here", "cannot find `x` here"),
    ],
)
def test_paths_numbers_times_ids_and_quotes_do_not_make_an_error_another(one: str, two: str) -> None:
    assert len(feed("repeated_error", fail(one), fail(two), fail(one))) == 1


@pytest.mark.parametrize(
    "calls",
    [
        pytest.param([fail("a"), fail("a")], id="two are bad luck"),
        pytest.param(
            [fail("no module named foo"), fail("no module named bar"), fail("syntax error")], id="other errors"
        ),
        pytest.param([fail("3 failed"), fail("2 failed"), fail("1 failed")], id="fewer tests fail each time"),
        pytest.param(
            [fail("a"), fail("a"), tool("run_tests", {"target": "x"}, "ok"), fail("a")], id="the call worked in between"
        ),
        pytest.param(
            [fail("a"), fail("a"), *[tool("read", {"path": str(n)}, str(n)) for n in range(3)], fail("a")],
            id="three good calls in between",
        ),
        pytest.param([tool("fetch", {}, error="boom", status_code=503) for _ in range(4)], id="faults of the network"),
        pytest.param([tool("fetch", {}, error_type="RateLimitError") for _ in range(4)], id="rate limits"),
        pytest.param(
            [
                tool("sh", error_type="E"),
                tool("sh"),
                tool("sh", error_type="E"),
                tool("sh"),
                tool("sh", error_type="E"),
            ],
            id="only the type is told, and calls went well in between",
        ),
    ],
)
def test_no_loop(calls: list[Observed]) -> None:
    assert not feed("repeated_error", *calls)


def test_other_work_between_the_failures_does_not_hide_them() -> None:
    calls = [c for n in range(3) for c in (fail("file already exists"), tool("bash", {"command": f"rm {n}"}, ""))]
    assert len(feed("repeated_error", *calls)) == 1


def test_a_type_alone_counts_when_nothing_else_happens() -> None:
    assert len(feed("repeated_error", *[tool("Bash", error_type="ShellError") for _ in range(3)])) == 1


def test_failure_in_the_result_of_a_call_reported_as_success() -> None:
    calls = [tool("exec", {"cmd": f"make {n}"}, f"Process exited with code 2\nmissing target {n}") for n in range(3)]
    assert len(feed("repeated_error", *calls)) == 1


def test_the_end_of_an_episode_tells_its_whole_cost() -> None:
    failures = [call for _ in range(4) for call in turn(fail("a"))]
    fired, over = feed("repeated_error", *failures, *turn(tool("run_tests", {"target": "x"}, "12 passed")))
    assert (fired.wasted_nano, over.state, over.wasted_nano, over.onset_span_id) == (20, "resolved", 30, b"\x03")
    assert over.shape == fired.shape


def test_a_turn_without_a_price_leaves_no_sum() -> None:
    (finding,) = feed("repeated_error", *turn(fail("a")), *turn(fail("a"), None), *turn(fail("a")))
    assert finding.wasted_nano is None


def test_history_is_read_anew_after_content_is_gone() -> None:
    calls = [fail("same") for _ in range(3)]
    first = feed("repeated_error", *calls)
    for call in calls:
        call.step.forget_content()
    assert feed("repeated_error", *calls) == first


def test_nothing_of_the_content_is_in_the_finding() -> None:
    (finding,) = feed("repeated_error", *[fail("secret-word broke", {"token": "secret-word"}) for _ in range(3)])
    assert "secret" not in repr(finding)


@given(st.lists(st.booleans(), max_size=40), st.integers(2, 4))
def test_each_episode_fires_once_and_no_failure_is_blamed_twice(failed: list[bool], count: int) -> None:
    calls = [fail("a") if bad else tool("run_tests", {"target": "x"}, "ok") for bad in failed]
    findings = feed("repeated_error", *calls, count=count)
    blamed = [place for f in findings if f.state == "firing" for place in places(f)]
    assert len(blamed) == len(set(blamed))
    onsets = [f.onset_span_id for f in findings if f.state == "firing"]
    assert len(onsets) == len(set(onsets))
