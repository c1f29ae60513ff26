"""Usage metrics count only what nothing else tells, once, in any order, and give way when something better comes."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st
from money_helper import HOUR, SECOND, Desk, agent, chat, claude_log, point, span, spoken

if TYPE_CHECKING:
    from otel_cost.core.model.event import MetricPoint

HISTOGRAM = "gen_ai.client.token.usage"
COUNTER = "gen_ai.client.inference.usage"


def tokens(type_: str, amount: float, until: float = 60, **more: object) -> MetricPoint:
    return point(amount, until, type=type_, session__id="s", **more)


def of_sdk(type_: str, amount: float, until: float = 60, **more: object) -> MetricPoint:
    told = {"name": HISTOGRAM, "cumulative": True, "service": "app", "gen_ai__provider__name": "anthropic"}
    return point(amount, until, gen_ai__token__type=type_, **(told | more))


def test_a_session_that_only_metrics_tell_of_is_billed_when_it_closes() -> None:
    desk = Desk()
    desk.tell(tokens("input", 100), tokens("cacheRead", 400), tokens("output", 10))
    desk.tell(point(0.5, 60, name="claude_code.cost.usage", session__id="s"))
    assert desk.rows == {}
    desk.wait(3600)
    assert desk.total == 100 * 10 + 400 * 1 + 10 * 50
    (call,) = desk.lines("call")
    assert call["usage"] == {"input": 500, "cache_read": 400, "cache_write": None, "output": 10, "reasoning": None}
    assert (call["sources"], call["flags"], call["session"]) == (["metric"], ["aggregate"], "s")
    assert (call["basis"], call["reported_usd"], call["trace_id"]) == ("exclusive", "0.5", None)
    (run,) = desk.lines("run")
    assert (run["run_id"], run["cost_usd"], run["llm_calls"], run["complete"]) == ("s", "0.0000019", 1, True)


def test_a_log_of_the_session_silences_its_metrics_whichever_came_first() -> None:
    log = claude_log("s", input_tokens=7, output_tokens=1)
    metrics = tokens("input", 100), tokens("output", 10)
    for events in ((log, *metrics), (*metrics, log)):
        desk = Desk()
        desk.tell(*events)
        desk.close()
        assert desk.total == 7 * 10 + 50
        assert [call["sources"] for call in desk.lines("call")] == [["log"]]


def test_another_session_of_the_same_client_keeps_its_metrics() -> None:
    desk = Desk()
    desk.tell(claude_log("other", input_tokens=7, output_tokens=1), tokens("input", 100), tokens("output", 10))
    desk.close()
    assert desk.total == 7 * 10 + 50 + 100 * 10 + 500


def test_a_sum_of_short_calls_is_not_one_long_call() -> None:
    desk = Desk()
    desk.tell(tokens("input", 5000), tokens("output", 10))
    desk.close()
    assert desk.total == 5000 * 10 + 500


def test_tools_told_by_spans_leave_the_metrics_their_word() -> None:
    desk = Desk()
    desk.tell(span(1, gen_ai__operation__name="execute_tool", gen_ai__tool__name="bash", session__id="s"))
    desk.tell(span(2, gen_ai__conversation__id="s", session__id="s"))
    desk.tell(tokens("input", 100), tokens("output", 10))
    desk.close()
    assert desk.total == 1500


def test_a_late_span_takes_the_metrics_back_days_later() -> None:
    desk = Desk()
    desk.tell(tokens("input", 100), tokens("output", 10))
    desk.wait(3600)
    assert desk.total == 1500
    desk.wait(3 * 86400)
    desk.tell(chat(1, tokens=(100, 10), session__id="s", gen_ai__conversation__id="s"))
    assert spoken(desk.corrections) == [(1500, None)]
    desk.wait(3600)
    assert desk.total == 1500
    assert [call["sources"] for call in desk.lines("call")] == [["span"]]


def test_metrics_that_became_part_of_another_run_are_not_billed_apart() -> None:
    desk = Desk()
    desk.tell(tokens("input", 100), tokens("output", 10))
    desk.tell(chat(1, 3), chat(2, 3), agent(3, gen_ai__conversation__id="s"))  # whose trace it is comes last
    desk.wait(3600)
    assert desk.total == 2 * 1500
    assert [run["run_id"] for run in desk.lines("run")] == ["s"]


def test_what_was_billed_and_written_down_leaves_with_its_run() -> None:
    desk = Desk()
    desk.tell(of_sdk("input", 100), of_sdk("output", 10))
    desk.wait(3600)
    assert desk.runs["sender:app"].summary.nano == 1500
    desk.tell(chat(1, service="app"))
    assert spoken(desk.corrections) == [(1500, None)]
    desk.wait(3600)
    assert desk.total == 1500
    assert desk.runs["sender:app"].summary.nano is None
    desk.tell(of_sdk("input", 150, 7200))  # it wakes as it is
    assert spoken(desk.corrections) == [(1500, None)]


def test_growing_totals_count_once_and_begin_anew() -> None:
    desk = Desk()
    for until, amount in ((60, 100), (120, 100), (180, 250)):
        desk.tell(of_sdk("input", amount, until), of_sdk("output", 0, until))
    desk.tell(of_sdk("input", 30, 240, since=200), of_sdk("input", 35, 300, since=200))
    desk.tell(of_sdk("input", 5, 360, since=200))  # fewer under the same start: begun anew without saying so
    desk.close()
    assert desk.total == (250 + 35 + 5) * 10
    (call,) = desk.lines("call")
    assert call["flags"] == ["aggregate", "incomplete"]  # a histogram never tells what was cached


def test_a_total_of_unknown_age_counts_from_where_it_was_first_seen() -> None:
    desk = Desk()
    desk.tell(of_sdk("input", 1000, 60, since=None), of_sdk("input", 1100, 120, since=None))
    desk.close()
    assert desk.total == 100 * 10


def test_a_sender_that_tells_calls_by_span_has_no_metrics_of_its_own() -> None:
    metrics = of_sdk("input", 100), of_sdk("output", 10)
    call = chat(1, service="app")
    for events in ((call, *metrics), (*metrics, call)):
        desk = Desk()
        desk.tell(*events)
        desk.close()
        assert desk.total == 1500
        assert [line["sources"] for line in desk.lines("call")] == [["span"]]
        assert len(desk.lines("run")) == 1


def test_another_process_of_a_service_is_another_sender() -> None:
    desk = Desk()
    desk.tell(chat(1, service="other"), of_sdk("input", 100, instance="a"), of_sdk("output", 10, instance="a"))
    desk.tell(of_sdk("input", 10, instance="b"))
    desk.close()
    assert desk.total == 1500 + 1500 + 100
    assert {run["run_id"] for run in desk.lines("run")} == {f"{1:032x}", "sender:app:a", "sender:app:b"}


def test_two_lines_of_conventions_are_one_usage() -> None:
    desk = Desk()
    desk.tell(of_sdk("input", 100), of_sdk("output", 10))
    told = {"cumulative": True, "service": "app", "gen_ai__provider__name": "anthropic"}
    for part, amount in (("input_tokens", 100), ("cache_read.input_tokens", 80), ("output_tokens", 10)):
        desk.tell(point(amount, 60, name=f"{COUNTER}.{part}", **told))
    desk.close()
    assert desk.total == 20 * 10 + 80 * 1 + 500
    (call,) = desk.lines("call")
    assert call["flags"] == ["aggregate"]


def test_a_service_that_never_rests_is_written_down_every_hour_and_counted_once() -> None:
    desk = Desk()
    for minute in range(1, 200):
        desk.tell(of_sdk("input", minute * 10, minute * 60))
    assert desk.now_ns - 3 * HOUR > 0
    assert desk.total >= 170 * 100  # the last hour is still open
    desk.close()
    assert desk.total == 199 * 100
    assert set(desk.runs) == {"sender:app"}
    assert len(desk.lines("call")) == 4


def test_without_an_archive_a_total_is_not_counted_again_after_a_rest() -> None:
    desk = Desk(archive=False)
    desk.tell(of_sdk("input", 100, 60))
    desk.wait(3600)
    desk.tell(of_sdk("input", 130, 3700))
    desk.close()
    assert desk.total == 1300


def test_agents_do_not_count_themselves() -> None:
    desk = Desk()
    desk.tell(of_sdk("input", 100, gen_ai__operation__name="invoke_agent"))
    desk.close()
    assert desk.runs == {}


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["input", "output", "cacheRead"]), st.integers(0, 500)), max_size=12),
    st.lists(st.tuples(st.sampled_from(["input", "output"]), st.integers(0, 500)), max_size=12),
    st.integers(0, 2**32),
)
def test_order_and_resends_of_data_points_change_nothing(
    added: list[tuple[str, int]], grown: list[tuple[str, int]], seed: int
) -> None:
    points = [tokens(type_, amount, 60 + 60 * index) for index, (type_, amount) in enumerate(added)]
    totals: dict[str, int] = {}
    for index, (type_, amount) in enumerate(grown):
        totals[type_] = totals.get(type_, 0) + amount
        points.append(of_sdk(type_, totals[type_], 60 + 60 * index))
    desk = Desk()
    shuffled = [*points, *points]
    random.Random(seed).shuffle(shuffled)
    desk.tell(*shuffled)
    desk.close()
    want = {"input": 10, "cacheRead": 1, "output": 50}
    assert desk.total == sum(amount * want[type_] for type_, amount in [*added, *grown])


def test_times_are_those_of_what_was_counted() -> None:
    desk = Desk()
    desk.tell(tokens("input", 100, 60, since=0), tokens("input", 100, 120, since=60))
    desk.close()
    summary = desk.run.summary
    assert summary.end_ns - summary.start_ns == 120 * SECOND
