from __future__ import annotations

from typing import TYPE_CHECKING

from detect_helper import feed, model, places, tool

from otel_cost.core.model.vocabulary import Severity

if TYPE_CHECKING:
    from otel_cost.core.detect import Observed


def edit(n: int, path: str = "a.py") -> Observed:
    return tool("edit", {"path": path, "new": f"try {n}"}, f"edited {n}")


def check(text: str, *, failed: bool = True) -> Observed:
    return tool("run_tests", {"target": "t"}, error=text) if failed else tool("run_tests", {"target": "t"}, text)


def test_editing_in_vain_is_seen_in_the_fourth_round_although_the_errors_differ() -> None:
    errors = ["NameError: x", "TypeError: y", "KeyError: z", "ValueError: v", "OSError: o"]
    calls = [c for n, error in enumerate(errors) for c in (model(10), edit(n), model(10), check(error))]
    (finding,) = feed("edit_test_churn", *calls)
    # Rounds 2 to 4, each of two turns at 10.
    assert (places(finding), finding.wasted_nano) == ([3, 7, 11, 15], 60)


def test_fewer_failures_each_time_is_how_work_goes() -> None:
    calls = [c for n in range(8) for c in (edit(n), check(f"{20 - n} failed"))]
    assert not feed("edit_test_churn", *calls)


def test_a_check_that_passes_ends_the_churn() -> None:
    rounds = [c for n in range(3) for c in (edit(n), check(f"error {n} in line"))]
    passed = check("12 passed", failed=False)
    assert not feed("edit_test_churn", *rounds, edit(9), passed, *rounds)
    fired, over = feed("edit_test_churn", *rounds, edit(8), check("other"), edit(9), passed)
    assert (fired.state, over.state, over.at_span_id) == ("firing", "resolved", b"\x09")


def test_a_file_written_whole_four_times() -> None:
    calls = [
        tool("editor", {"command": "create", "path": "a.py", "file_text": f"v{n}"}, f"created {n}") for n in range(5)
    ]
    (finding,) = feed("recreate_churn", *calls)
    assert places(finding) == [0, 1, 2, 3]
    other = [tool("write_file", {"path": f"{n}.py", "content": "x"}, "ok") for n in range(9)]
    assert not feed("recreate_churn", *other)


def test_five_different_errors_in_a_row_and_the_same_one_counts_once() -> None:
    words = ["alpha missing", "beta refused", "gamma invalid", "delta unknown", "epsilon denied", "zeta failed"]
    (finding,) = feed("error_cascade", *[tool("bash", {"n": w}, error=w) for w in words])
    assert places(finding) == [0, 1, 2, 3, 4]
    assert not feed("error_cascade", *[tool("bash", {"n": n}, error=words[n % 4]) for n in range(12)])
    good = tool("bash", {"n": "ok"}, "fine")
    assert not feed("error_cascade", *[tool("x", {}, error=w) for w in words[:4]], good, tool("x", {}, error="eta"))


def refused(n: int, seconds: int = 1) -> Observed:
    at = (n + 1) * seconds * 10**9
    return model(None, failed=True, error_type="RateLimitError", start_ns=at, end_ns=at + 10**8)


def test_four_refused_calls_are_a_storm_that_a_success_ends() -> None:
    fired, over = feed("retry_storm", *[refused(n) for n in range(5)], model(10))
    assert (places(fired), fired.wasted_nano, over.state, over.evidence["repeats"]) == ([0, 1, 2, 3], 0, "resolved", 5)


def test_no_storm() -> None:
    assert not feed("retry_storm", *[refused(n) for n in range(3)], model(10), *[refused(n) for n in range(4, 7)])
    assert not feed("retry_storm", *[refused(n, seconds=100) for n in range(9)]), "minutes apart"
    asked_wrongly = [
        model(None, failed=True, error_type="BadRequestError", error_message="bad schema") for _ in range(4)
    ]
    assert not feed("retry_storm", *asked_wrongly)
    assert len(feed("repeated_error", *asked_wrongly)) == 1


def test_an_answer_that_chants() -> None:
    chant = "I will now look at the file again to be quite sure. " * 40
    (finding,) = feed("chanting", model(77, (10, 900), output_text="Let me see. " * 3 + chant))
    assert finding.wasted_nano == 77
    prose = " ".join(f"Sentence number {n} says something of its own." for n in range(100))
    table = "\n".join(f"| row {n} | {n * n} | {n**3} | a value that is not the same {n * 7} |" for n in range(90))
    assert not feed(
        "chanting", model(5, output_text=prose), model(5, output_text=table), model(5, output_text="no " * 20)
    )


def order(text: str, answer: str) -> Observed:
    return tool("browser", {"instruction": text}, answer)


def test_an_order_restated_without_new_answers() -> None:
    calls = [
        order("Please open the museum site and find the opening hours for Monday", "The page shows a cookie banner"),
        order("Please open the museum site and find its opening hours for Monday", "The page shows a cookie banner."),
        order("Open the museum site and please find the opening hours for Monday", "The page shows that cookie banner"),
    ]
    (finding,) = feed("planner_restating", *calls)
    assert places(finding) == [0, 1, 2]
    scrolled = [
        order("Scroll down and list further names", " ".join(f"name{n}x{k}" for k in range(30))) for n in range(9)
    ]
    assert not feed("planner_restating", *scrolled), "each page brings new names"


def test_ping_pong_counts_hand_offs_of_the_same_work_only() -> None:
    same = [
        c for _ in range(5) for c in (tool("transfer_to_b", {"task": "fix the login bug"}, "done"), tool("x", {}, "y"))
    ]
    (finding,) = feed("agent_ping_pong", *same)
    assert places(finding) == [0, 2, 4, 6]
    words = ["login page bug", "slow search index", "broken mail template", "missing tax rules", "wrong currency sign"]
    assert not feed("agent_ping_pong", *[tool("transfer_to_b", {"task": f"please {w}"}, "ok") for w in words])


def test_a_crowd_of_sub_agents_is_a_notice() -> None:
    crowd = [tool("task", {"prompt": f"look at part {n}"}) for n in range(12)]
    fired, over = feed("fan_out", model(1), *crowd, model(1))
    assert (fired.severity, fired.wasted_nano, over.evidence["repeats"]) == (Severity.NOTICE, None, 12)
    spread = [c for n in range(12) for c in (model(1), tool("task", {"prompt": f"look at part {n}"}))]
    assert not feed("fan_out", *spread)
