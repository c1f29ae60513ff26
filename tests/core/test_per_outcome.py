"""Cost per outcome: rows add up to the whole, both denominators, nothing averaged over holes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from otel_cost.core.model.money import usd_to_nano
from otel_cost.core.model.outcome import Outcome, Result
from otel_cost.core.per_outcome import Part, cost_per_outcome


def told(name: str, value: str = "success", subject: str | None = None, at: int = 1) -> Outcome:
    return Outcome(
        id=f"{name}{subject}{at}",
        tenant="t",
        name=name,
        value=Result(value),
        at_ns=at,
        source="api",
        keys=(),
        subject=subject,
    )


def run(number: int) -> tuple[str, str]:
    return "t", f"run-{number}"


def part(number: int, nano: int | None, *group: str, calls: int = 1, holes: int = 0) -> Part:
    return Part(run(number), group, nano, calls, holes)


def test_a_success_pays_for_the_tries_that_failed() -> None:
    parts = [part(n, 600_000_000, "cheap") for n in range(5)] + [part(n, 10**9, "strong") for n in (5, 6)]
    outcomes = {run(n): [told("tests", "success" if n in {0, 5, 6} else "failure", at=n)] for n in range(7)}
    rows = {row["model_route"]: row for row in cost_per_outcome(parts, outcomes, ["model_route"])}
    cheap, strong = rows["cheap"], rows["strong"]
    assert (cheap["tries"], cheap["successes"], cheap["failures"], cheap["success_rate"]) == (5, 1, 4, 0.2)
    assert (cheap["cost_per_try_usd"], cheap["cost_per_success_usd"]) == ("0.6", "3")
    assert (strong["cost_per_try_usd"], strong["cost_per_success_usd"]) == ("1", "1")


def test_a_thing_that_several_runs_worked_on_succeeds_once() -> None:
    parts = [part(n, 10**9) for n in range(3)]
    outcomes = {run(n): [told("merged_pr", "success", "acme/shop#12")] for n in range(3)}
    (row,) = cost_per_outcome(parts, outcomes, [])
    assert (row["tries"], row["successes"], row["cost_per_try_usd"], row["cost_per_success_usd"]) == (3, 1, "1", "3")


def test_one_ticket_is_one_success_without_a_name_too_and_judges_count_run_by_run() -> None:
    parts = [part(n, 10**9) for n in range(3)]
    ticket = told("resolved")
    (row,) = cost_per_outcome(parts, {run(n): [ticket] for n in range(3)}, [])
    assert (row["successes"], row["cost_per_success_usd"]) == (1, "3")
    (row,) = cost_per_outcome(parts, {run(n): [told("tests", at=n)] for n in range(3)}, [])
    assert (row["successes"], row["cost_per_success_usd"]) == (3, "1")


def test_the_last_word_on_a_thing_counts() -> None:
    outcomes = {
        run(0): [told("pr", "failure", "a#1", 1), told("pr", "success", "a#1", 2), told("pr", "failure", "a#2", 1)]
    }
    (row,) = cost_per_outcome([part(0, 8)], outcomes, [])
    assert (row["successes"], row["failures"]) == (1, 1)


def test_what_nobody_judged_is_a_row_of_its_own_and_the_last() -> None:
    rows = cost_per_outcome([part(0, 1), part(1, 10**9)], {run(0): [told("pr")]}, [])
    assert [row["outcome"] for row in rows] == ["pr", None]
    assert (rows[1]["tries"], rows[1]["cost_per_success_usd"], rows[1]["withheld"]) == (1, None, None)


def test_averages_are_withheld_where_most_calls_have_no_price() -> None:
    outcomes = {run(n): [told("pr")] for n in range(2)}
    (row,) = cost_per_outcome([part(0, 10**9, calls=4), part(1, None, calls=5, holes=5)], outcomes, [])
    assert (row["cost_usd"], row["cost_per_try_usd"], row["cost_per_success_usd"]) == ("1", None, None)
    assert (row["withheld"], row["incomplete_runs"]) == ("5 of 9 model calls have no full price", 1)
    (row,) = cost_per_outcome([part(0, 10**9, calls=5), part(1, None, calls=4, holes=4)], outcomes, [])
    assert (row["cost_per_try_usd"], row["withheld"], row["unpriced_calls"]) == ("0.5", None, 4)


NAMES = st.sampled_from(["pr", "ticket", "eval"])


@given(
    st.lists(
        st.tuples(st.integers(0, 8), st.one_of(st.none(), st.integers(0, 10**12)), st.sampled_from(["a", "b", "c"])),
        max_size=40,
    ),
    st.dictionaries(st.integers(0, 8), st.lists(NAMES, max_size=4)),
)
def test_rows_add_up_to_the_whole_to_the_nano_dollar(
    spent: list[tuple[int, int | None, str]], judged: dict[int, list[str]]
) -> None:
    parts = [part(number, nano, group) for number, nano, group in spent]
    outcomes = {run(n): [told(name) for name in names] for n, names in judged.items() if names}
    for by in (["agent"], []):
        groups = parts if by else [one._replace(group=()) for one in parts]
        rows = cost_per_outcome(groups, outcomes, by)
        total = sum(usd_to_nano(str(row["cost_usd"])) for row in rows if row["cost_usd"] is not None)
        assert total == sum(nano or 0 for _, nano, _ in spent)
