"""What was told and turns out otherwise is corrected: in the ledger, downstream, and to the same total everywhere."""

from __future__ import annotations

from money_helper import DAY, Desk, agent, chat, claude_log, span, spoken, tool

from otel_cost.core.model.vocabulary import Flag

IDLE = 3600
ROLLUP = {
    "gen_ai__request__model": "claude-mint",
    "gen_ai__usage__input_tokens": 100,
    "gen_ai__usage__output_tokens": 10,
}


def flags(desk: Desk) -> list[list[str]]:
    return [call["flags"] for call in desk.lines("call")]


def test_a_twin_that_says_the_same_changes_nothing() -> None:
    desk = Desk()
    desk.tell(chat(2, 1))
    desk.wait(10)
    told = dict(desk.rows)
    desk.tell(chat(1, scope="framework", lasts=2))
    desk.wait(10)
    assert desk.rows == told == {next(iter(told)): 1500}
    assert desk.corrections == []
    assert desk.downstream() == 1500


def test_a_late_twin_that_tells_more_corrects() -> None:
    desk = Desk()
    desk.tell(chat(2, 1))
    desk.wait(10)
    (name,) = desk.rows
    desk.tell(chat(1, scope="framework", lasts=2, cached=80))
    desk.wait(10)
    assert desk.rows == {name: 20 * 10 + 80 * 1 + 10 * 50}
    assert spoken(desk.corrections) == [(1500, 780)]
    assert desk.corrections[0].call_id == name
    assert desk.downstream() == 780


def test_two_calls_that_turn_out_to_be_one_leave_one_row() -> None:
    desk = Desk()
    desk.tell(chat(2, 9), chat(5, 8, at=0.1, lasts=0.8, scope="framework", tokens=(100, 12)))
    desk.wait(10)
    assert desk.total == 1500 + 1600
    desk.tell(span(9, 5, at=0.1, lasts=0.9, name="http"))  # the framework's call is above the SDK's after all
    desk.wait(10)
    assert len(desk.rows) == 1
    assert desk.total == desk.downstream()
    desk.close()
    assert len(desk.lines("call")) == 1


def test_an_answer_that_names_itself_late_is_one_call() -> None:
    desk = Desk()
    desk.tell(chat(2, gen_ai__response__id="r1"))
    desk.wait(10)
    desk.tell(chat(3, trace_id=2, scope="gateway", tokens=(100, 12), gen_ai__response__id="r1"))
    desk.wait(10)
    assert len(desk.rows) == 1
    assert desk.total == desk.downstream()
    desk.close()
    assert flags(desk) == [["conflict"]]
    assert len(desk.lines("run")) == 1


def test_a_rollup_that_was_billed_gives_way_to_a_late_child() -> None:
    desk = Desk()
    desk.tell(tool(2, 1), agent(1, **ROLLUP))
    desk.wait(10)
    desk.wait(10)
    assert desk.total == 1500
    (name,) = (call_id for call_id, nano in desk.rows.items() if nano)
    desk.tell(chat(3, 1))
    desk.wait(10)
    assert desk.total == 1500
    desk.close()
    assert name not in desk.rows
    assert spoken(desk.corrections) == [(1500, None)]
    assert desk.downstream() == desk.total == 1500
    assert [call["kind"] for call in desk.lines("call") if call["cost_usd"]] == ["inference"]
    assert not any(Flag.AGGREGATE in one for one in flags(desk))


def test_a_resend_that_says_otherwise_is_a_conflict_and_the_richer_copy_counts() -> None:
    poor, rich = chat(1), chat(1, cached=80)
    for first, second in ((poor, rich), (rich, poor)):
        desk = Desk()
        desk.tell(first)
        desk.wait(10)
        desk.tell(second)
        desk.wait(10)
        assert desk.total == 780
        assert desk.downstream() == 780
        assert spoken(desk.corrections) == ([(1500, 780)] if first is poor else [])
        desk.close()
        assert flags(desk) == [["conflict"]]


def test_days_later_a_twin_wakes_its_run_and_keeps_its_row() -> None:
    desk = Desk()
    desk.tell(chat(2, 1), tool(3, 1, at=2), chat(4, 1, at=4, tokens=(200, 20)))
    desk.wait(IDLE)
    rows = dict(desk.rows)
    desk.wait(3 * DAY // 10**9)
    desk.tell(chat(5, 1, at=-0.1, lasts=1.2, scope="framework", cached=80, gen_ai__response__id="r"))
    desk.wait(IDLE)
    assert desk.rows.keys() == rows.keys()
    assert spoken(desk.corrections) == [(1500, 780)]
    assert desk.total == desk.downstream() == 780 + 3000
    assert len(desk.runs) == 1
    assert desk.lines("run")[0]["cost_usd"] == "0.00000378"


def test_days_later_a_child_takes_a_rollups_bill() -> None:
    desk = Desk()
    desk.tell(agent(1, **ROLLUP))
    desk.wait(IDLE)
    assert desk.total == 1500
    desk.wait(3 * DAY // 10**9)
    desk.tell(chat(2, 1))
    desk.wait(IDLE)
    assert desk.total == desk.downstream() == 1500
    assert spoken(desk.corrections) == [(1500, None)]
    assert len(desk.rows) == 1


def test_a_log_comes_late_and_the_span_carries_the_cost() -> None:
    desk = Desk()
    desk.tell(claude_log("s", input_tokens=100, output_tokens=10, request_id="q"))
    desk.wait(10)
    assert desk.total == desk.downstream() == 1500
    told = {"span__type": "llm_request", "session__id": "s", "model": "claude-mint", "request_id": "q"}
    desk.tell(span(1, scope="com.anthropic.claude_code.tracing", input_tokens=100, output_tokens=10, **told))
    desk.wait(10)
    desk.close()
    assert desk.total == 1500
    assert len(desk.rows) == 1


def test_a_session_named_late_makes_one_run_of_two_and_no_call_twice() -> None:
    desk = Desk()
    desk.tell(chat(1), chat(2, trace_id=2, gen_ai__conversation__id="s"))
    desk.wait(10)
    assert desk.total == 3000
    desk.tell(span(3, at=5, gen_ai__operation__name="execute_tool", gen_ai__conversation__id="s"))
    desk.wait(10)
    desk.close()
    assert desk.total == desk.downstream() == 3000
    assert [run["run_id"] for run in desk.lines("run")] == ["s"]
    assert desk.corrections == []


def test_a_budget_follows_what_is_corrected() -> None:
    rules = 'budgets:\n  - {name: cap, per: [run], limit: {usd: "0.000002"}, at_limit: {do: [{ask: {}}]}}'
    desk = Desk(rules)
    desk.tell(chat(2, 1), chat(4, 1, at=4))
    desk.wait(10)
    assert [alert.state for alert in desk.alerts] == ["firing"]
    desk.tell(chat(2, 1, cached=100), chat(4, 1, at=4, cached=100))
    assert spoken(desk.corrections) == [(1500, 600), (1500, 600)]
    assert desk.total <= 3000
    desk.wait(10)
    assert desk.total == 1200
    assert [one["spent_usd"] for one in desk.engine.policy.standings(desk.now_ns)] == ["0.0000012"]
