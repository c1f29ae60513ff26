from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from detect_helper import feed, model, places, tool

if TYPE_CHECKING:
    from otel_cost.core.detect import Observed

REPEATS = ("exact_repeat", "near_repeat", "cycle", "no_news", "redundant_read", "repeated_error")


def same(n: int = 3) -> list[Observed]:
    return [tool("read_file", {"path": "a.py"}, "content") for _ in range(n)]


def turns(*calls: Observed) -> list[Observed]:
    return [one for call in calls for one in (model(10), call)]


def test_three_equal_calls_with_equal_results_fire_once() -> None:
    (finding,) = feed("exact_repeat", *turns(*same(6)))
    assert (places(finding), finding.wasted_nano, finding.onset_span_id) == ([1, 3, 5], 20, b"\x03")
    assert finding.evidence["per_turn_nano"] == 10


def test_other_calls_may_lie_in_between() -> None:
    calls = [c for n in range(3) for c in (*same(1), tool("read_file", {"path": f"{n}.py"}, f"{n}"))]
    (finding,) = feed("exact_repeat", *calls)
    assert places(finding) == [0, 2, 4]


def test_an_episode_ends_after_three_calls_with_news() -> None:
    news = [tool("read_file", {"path": f"{n}.py"}, f"{n}") for n in range(3)]
    fired, over = feed("exact_repeat", *same(4), *news)
    assert (fired.state, over.state, places(over), over.at_span_id) == ("firing", "resolved", [0, 1, 2, 3], b"\x06")
    assert (fired.onset_span_id, fired.shape) == (over.onset_span_id, over.shape)


def test_a_reworded_call_with_the_same_result_is_a_near_repeat() -> None:
    commands = [
        "find /src -name '*.py' | xargs grep total | sort",
        'find /src -name "*.py" | xargs grep total | sort',
        "find /src -name '*.py' | xargs grep total | sort -u",
    ]
    calls = [tool("bash", {"command": command}, "") for command in commands]
    assert not feed("exact_repeat", *calls)
    (finding,) = feed("near_repeat", *calls)
    assert finding.evidence["arguments"] == "varied"


def test_what_cannot_be_news_does_not_hide_a_repeat() -> None:
    calls = [
        tool("inspect", {"job": 7}, f"pid {n} at 12:00:0{n}, took {n}.5 s, build 3f9a8b7c6d5e{n} still red, 3 left")
        for n in range(4)
    ]
    assert len(feed("exact_repeat", *calls)) == 1


def test_key_order_of_the_arguments_does_not_matter() -> None:
    calls = [
        tool("grep", {"a": 1, "b": 2}, "x"),
        tool("grep", {"b": 2, "a": 1}, "x"),
        tool("grep", {"a": 1, "b": 2}, "x"),
    ]
    assert len(feed("exact_repeat", *calls)) == 1


def test_a_cycle_of_two_calls_is_seen_in_its_third_round_and_its_first_is_not_waste() -> None:
    ab = [tool("read_file", {"path": "a.py"}, "a"), tool("run_tests", {"target": "t"}, "1 failed")]
    calls = [c for _ in range(4) for c in turns(*[tool(x.step.tool or "", None, x.step.result) for x in ab])]
    for call, original in zip(calls[1::2], ab * 4, strict=True):
        call.step.arguments = original.step.arguments
    (finding,) = feed("cycle", *calls)
    assert (places(finding), finding.wasted_nano) == ([1, 3, 5, 7, 9, 11], 40)
    assert (finding.onset_span_id, finding.evidence["period"]) == (b"\x05", 2)


def test_a_period_longer_than_six_is_no_cycle() -> None:
    assert not feed("cycle", *[tool("read", {"path": f"{n % 7}.py"}, f"{n % 7}") for n in range(40)])


def test_stretch_of_different_calls_that_all_repeat_something() -> None:
    first = [tool("read", {"path": f"{n}.py"}, f"content {n}") for n in range(3)]
    again = [tool("read", {"path": f"{n}.py"}, f"content {n}") for n in (1, 0, 2)]
    assert not feed("exact_repeat", *first, *again)
    (finding,) = feed("no_news", *first, *again)
    assert (finding.onset_span_id, finding.at_span_id) == (b"\x03", b"\x05")


def test_without_content_equal_tokens_stand_for_equal_calls() -> None:
    calls: list[Observed] = []
    for n in range(5):
        calls += [model(10, (1000 + 150 * n, 30)), tool("run_tests")]
    (finding,) = feed("exact_repeat", *calls)
    assert (places(finding), finding.at_span_id) == ([1, 3, 5], b"\x06")


def test_without_content_other_tokens_are_other_calls() -> None:
    calls: list[Observed] = []
    for n in range(8):
        calls += [model(10, (1000 + 1500 * n * n, 30 + n)), tool("read_file")]
    assert not feed("exact_repeat", *calls)


def said(tokens: int, *results: str) -> list[Observed]:
    """A turn in which the model wrote so many tokens, and what its tool calls brought back; arguments are not told."""
    return [model(10, (1000, tokens)), *[tool("bash", None, result) for result in results]]


LONG = "total 12\nsrc docs tests and some more of what a listing says"


def test_without_arguments_what_the_model_wrote_stands_for_them() -> None:
    (finding,) = feed("exact_repeat", *[call for _ in range(3) for call in said(40, LONG)])
    assert places(finding) == [1, 3, 5]
    assert not feed("exact_repeat", *[call for n in range(6) for call in said(20 + 9 * n, LONG)]), "other calls"
    assert not feed("exact_repeat", *[call for n in range(6) for call in said(40, f"{LONG} {n}")]), "other results"
    assert not feed("exact_repeat", *said(40, LONG, LONG, LONG, LONG)), "calls of one turn"
    assert not feed("exact_repeat", *[call for _ in range(6) for call in said(8, "ok")]), "short, and always well"


def test_a_sender_that_tells_arguments_means_none_where_it_tells_none() -> None:
    told = [model(10, (1000, 40)), tool("read", {"path": "a"}, "text")]
    assert not feed("exact_repeat", *told, *[call for _ in range(4) for call in said(40, LONG)])


def test_a_result_size_stands_for_a_result() -> None:
    assert len(feed("exact_repeat", *[tool("read", {"path": "a"}, result_size=812) for _ in range(3)])) == 1


def poll(n: int, result: str) -> Observed:
    return tool("read_output", {"handle": "h1"}, result)


@pytest.mark.parametrize("detector", REPEATS)
@pytest.mark.parametrize(
    "calls",
    [
        pytest.param([poll(n, f"{n} of 40 done") for n in range(10)], id="polling that moves on"),
        pytest.param([poll(n, "still running") for n in range(9)], id="polling that waits a while"),
        pytest.param([tool("lint", {"path": f"src/m{n}.py"}, "ok") for n in range(12)], id="batch over files"),
        pytest.param(
            [tool("bash", {"command": f"convert img/{n}.png out/{n}.jpg --quality high"}, "") for n in range(12)],
            id="batch over files in a shell",
        ),
        pytest.param(
            [tool("bash", {"command": f"python job.py run the nightly job for shard {n}"}, "done") for n in range(9)],
            id="batch over numbers",
        ),
        pytest.param(
            [tool("search", {"q": "agents cost", "page": n}, f"results {n}") for n in range(12)], id="pagination"
        ),
        pytest.param(
            [tool("attach_file", {"name": name}, "True") for name in "abcdefghij"], id="constant success results"
        ),
        pytest.param(
            [
                call
                for n in range(6)
                for call in (
                    tool("edit", {"path": "a.py", "old": f"{n}", "new": f"{n + 1}"}, f"edited {n}"),
                    tool("run_tests", {"target": "t"}, "12 passed"),
                )
            ],
            id="tests run again after each edit",
        ),
        pytest.param(
            [tool("agent", {"prompt": "review all the code"}, "fine", start_ns=5, end_ns=10**10) for _ in range(4)],
            id="equal sub-agents side by side",
        ),
        pytest.param([tool("transfer_to_billing", {}, "transferred") for _ in range(3)], id="hand-offs"),
        pytest.param(
            [c for n in range(8) for c in (model(5, (2000 * 2**n, 40)), tool("read", {"path": f"m{n}"}, f"{n}"))],
            id="eight different reads with a growing context",
        ),
    ],
)
def test_no_loop(detector: str, calls: list[Observed]) -> None:
    assert not feed(detector, *calls)


def test_a_file_may_be_read_again_after_a_write_or_a_compaction() -> None:
    write = tool("edit", {"path": "a.py", "old": "1", "new": "2"}, "edited")
    assert not feed("redundant_read", *same(2), write, *same(2))
    assert not feed("redundant_read", model(1, (9000, 5)), *same(2), model(1, (2000, 5)), *same(2))
    (finding,) = feed(
        "redundant_read", *same(1), *[tool("read", {"path": f"{n}"}, f"{n}") for n in range(30)], *same(2)
    )
    assert places(finding) == [0, 31, 32]


def test_state_stays_small() -> None:
    calls = [tool("bash", {"command": f"echo {n} | tee log/{n % 11}"}, f"{n % 13}") for n in range(250)]
    from otel_cost.core.detect import DETECTORS

    for name in REPEATS:
        found = DETECTORS[name]
        state, settings = found.state(), found.settings()
        for call in calls:
            list(found.observe(state, call, settings))
        assert len(getattr(state, "groups", ())) < 25
        assert len(getattr(state, "streaks", ())) < 25
