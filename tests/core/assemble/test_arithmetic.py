"""Where a run's money went: worked out by hand, and sums that hold for any run."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from otel_cost.core.assemble.arithmetic import Entry, Origin, Told, Try, reckon

if TYPE_CHECKING:
    from otel_cost.core.assemble.arithmetic import Arithmetic


def ask(
    at: int,
    tokens: int,
    answer: int = 0,
    *,
    parent: int | None = None,
    cached: int = 0,
    model: str = "m",
    agent: str | None = None,
    failed: bool = False,
) -> Entry:
    """A model call: ten nano-dollars a token, one where it was read from the cache, fifty for the answer."""
    bands = ((cached, cached), (tokens - cached, 10 * (tokens - cached)))
    told = Told(input=tokens, answer=answer, bands=bands, output_nano=50 * answer)
    nano = told.input_nano + told.output_nano
    return Entry("inference", model, parent, agent, start_ns=at, end_ns=at + 1, nano=nano, told=told, failed=failed)


def use(
    at: int, tool: str = "grep", like: str | None = None, *, parent: int | None = None, failed: bool = False
) -> Entry:
    return Entry("tool", tool, parent, start_ns=at, end_ns=at + 1, likeness=like, failed=failed)


def agent(at: int, name: str, *, parent: int | None = None, until: int = 1000) -> Entry:
    return Entry("agent", name, parent, name, start_ns=at, end_ns=until, is_call=False)


def carried(run: Arithmetic) -> list[tuple[int, int, int, int]]:
    return [(one.carried_tokens, one.carried_nano, one.new_tokens, one.new_nano) for one in run.spent]


def test_what_a_tool_brought_is_charged_to_it_each_time_it_comes_back() -> None:
    run = reckon([ask(0, 100, 20), use(2), ask(4, 220, 5), use(6), ask(8, 300)])
    assert carried(run) == [(0, 0, 100, 1000), (0,) * 4, (120, 1200, 100, 1000), (0,) * 4, (225, 2250, 75, 750)]
    told = {
        (one.origin, one.entry): (one.tokens, one.first_nano, one.carried_nano, one.calls) for one in run.passengers
    }
    assert told == {
        (Origin.PROMPT, 0): (100, 1000, 2000, 2),
        (Origin.ANSWER, 0): (20, 0, 400, 2),
        (Origin.TOOL, 1): (100, 1000, 1000, 1),
        (Origin.ANSWER, 2): (5, 0, 50, 1),
        (Origin.TOOL, 3): (75, 750, 0, 0),
    }


def test_a_cache_holds_the_beginning_of_a_prompt() -> None:
    run = reckon([ask(0, 100), use(1), ask(2, 200, cached=60)])
    assert carried(run)[2] == (100, 60 + 400, 100, 1000)


def test_a_compacted_prompt_and_one_on_the_side_begin_anew() -> None:
    run = reckon([ask(0, 1000), ask(2, 50, model="small"), use(4), ask(6, 1100), ask(8, 200)])
    assert [one.carried_tokens for one in run.spent] == [0, 0, 0, 1000, 0]


def test_prompts_of_the_same_size_one_after_the_other_carry_nothing() -> None:
    run = reckon([ask(at, 100, 40) for at in range(0, 10, 2)])
    assert sum(one.carried_nano for one in run.spent) == 0


def test_calls_at_the_same_time_carry_nothing() -> None:
    run = reckon([ask(0, 100), ask(0, 200), ask(0, 300)])
    assert sum(one.carried_nano for one in run.spent) == 0


def test_threads_hang_below_the_tool_that_set_them_off() -> None:
    entries = [
        agent(0, "coder"),
        ask(1, 100, parent=0),
        use(3, "delegate", parent=0),
        agent(4, "tester", parent=2, until=9),
        ask(5, 50, parent=3),
        ask(10, 120, parent=0),
    ]
    run = reckon(entries)
    assert [(one.agent, one.parent, one.nano, one.subtree_nano) for one in run.threads] == [
        ("coder", None, 2200, 2700),
        ("tester", 0, 500, 500),
    ]
    assert [(turn.thread, turn.number, turn.nano) for turn in run.turns] == [(0, 1, 1500), (1, 1, 500), (0, 2, 1200)]
    assert run.subtree_nano[:3] == [2700, 1000, 500]


def test_an_agent_that_is_asked_again_goes_on() -> None:
    run = reckon([agent(0, "a", until=3), ask(1, 100, 10, parent=0), agent(4, "a", until=7), ask(5, 150, parent=2)])
    assert len(run.threads) == 1
    assert run.spent[3].carried_tokens == 110
    assert [turn.number for turn in run.turns] == [1, 2]


def test_tries() -> None:
    entries = [
        ask(0, 10),
        use(1, "test", "x", failed=True),
        ask(2, 20),
        use(3, "test", "x", failed=True),  # the same again: a retry, and so is the call that asked for it
        ask(4, 30),
        use(5, "edit", "y"),  # something new
        ask(6, 40),
        use(7, "test", "x"),  # after something new it is a first try
        ask(8, 50),
        use(9, "test", "x"),  # it went well before: rework
        ask(10, 60),
    ]
    run = reckon(entries)
    assert [one.attempt for one in run.spent] == [
        Try.FIRST, Try.FIRST, Try.RETRY, Try.RETRY, Try.FIRST, Try.FIRST, Try.FIRST, Try.FIRST, Try.REWORK, Try.REWORK,
        Try.FIRST,
    ]  # fmt: skip


def test_a_refused_call_is_no_try_and_one_that_broke_off_is() -> None:
    refused = replace(ask(0, 10), failed=True, nano=None, told=None)
    assert [one.attempt for one in reckon([refused, ask(2, 10)]).spent] == [Try.FIRST, Try.FIRST]
    assert [one.attempt for one in reckon([ask(0, 10, failed=True), ask(2, 10)]).spent] == [Try.FIRST, Try.RETRY]


def test_what_a_repeated_tool_sets_off_is_repeated_work() -> None:
    entries = [
        ask(0, 10),
        use(1, "delegate", "x", failed=True),
        ask(2, 20),
        use(3, "delegate", "x"),
        agent(4, "sub", parent=3),
        ask(5, 99, parent=4),
    ]
    assert reckon(entries).spent[5].attempt is Try.RETRY


# Any run -----------------------------------------------------------------------------------------

money = st.integers(0, 10**12)
tokens = st.integers(0, 300_000)


@st.composite
def tolds(draw: st.DrawFn) -> Told:
    bands = draw(st.lists(st.tuples(tokens, money), max_size=3))
    return Told(
        input=draw(st.one_of(st.just(sum(size for size, _ in bands)), tokens)),
        answer=draw(st.integers(-5, 10_000).map(lambda count: max(count, 0))),
        bands=tuple(bands),
        output_nano=draw(money),
        fee_nano=draw(money),
        other_nano=draw(money),
        sums_up=draw(st.booleans()),
    )


@st.composite
def runs(draw: st.DrawFn) -> list[Entry]:
    entries = []
    for _ in range(draw(st.integers(0, 14))):
        kind = draw(
            st.sampled_from(["inference", "inference", "embedding", "tool", "tool", "agent", "workflow", "fee"])
        )
        told = draw(st.one_of(st.none(), tolds())) if kind in {"inference", "embedding"} else None
        nano = None if told is None else told.input_nano + told.output_nano + told.fee_nano + told.other_nano
        if kind in {"tool", "fee"}:
            nano = draw(st.one_of(st.none(), money))
        start = draw(st.integers(0, 30))
        entries.append(
            Entry(
                kind,
                draw(st.sampled_from("abc")),
                draw(st.one_of(st.none(), st.integers(0, 13))),
                draw(st.one_of(st.none(), st.sampled_from("AB"))),
                start_ns=start,
                end_ns=start + draw(st.integers(0, 9)),
                failed=draw(st.booleans()),
                is_call=kind not in {"agent", "workflow"},
                nano=nano,
                told=told,
                likeness=draw(st.sampled_from([None, "x", "y"])) if kind == "tool" else None,
            )
        )
    count = len(entries)
    return [replace(one, parent=None if one.parent is None or one.parent >= count else one.parent) for one in entries]


@given(runs())
def test_everything_adds_up(entries: list[Entry]) -> None:
    run = reckon(entries)
    cost = sum(entry.nano or 0 for entry in entries)
    assert sum(thread.nano or 0 for thread in run.threads) == cost
    assert sum(thread.subtree_nano or 0 for thread in run.threads if thread.parent is None) == cost
    for entry, spent in zip(entries, run.spent, strict=True):
        if entry.told is not None:
            assert spent.carried_nano + spent.new_nano == entry.told.input_nano
            assert spent.carried_tokens + spent.new_tokens == entry.told.input
            assert min(spent.carried_nano, spent.new_nano) >= 0
    assert sum(one.first_nano + one.carried_nano for one in run.passengers) == sum(
        entry.told.input_nano
        for entry in entries
        if entry.kind == "inference" and entry.told is not None and not entry.told.sums_up and entry.told.input
    )
    in_turns = [run.turns[place] for place in range(len(run.turns))]
    assert len({turn.call for turn in in_turns}) == len(in_turns)
    for number, thread in enumerate(run.threads):
        assert [run.thread_of[index] for index in thread.entries] == [number] * len(thread.entries)


@given(st.lists(st.tuples(st.integers(1, 5000), st.integers(0, 300), st.integers(0, 100)), min_size=1, max_size=12))
def test_a_conversation_costs_what_a_slow_reading_says(turns: list[tuple[int, int, int]]) -> None:
    """Each call sends everything so far, its answer and a new result: counted token by token, in decimal dollars."""
    entries: list[Entry] = []
    history = 0
    carried_usd = new_usd = Decimal(0)
    for at, (fresh, answer, percent) in enumerate(turns):
        size = history + fresh
        cached = history * percent // 100
        entries.append(ask(4 * at, size, answer, cached=cached))
        entries.append(use(4 * at + 2))
        for position in range(size):
            price = Decimal("0.000000001") if position < cached else Decimal("0.00000001")
            if position < history:
                carried_usd += price
            else:
                new_usd += price
        history = size + answer
    run = reckon(entries)
    assert Decimal(sum(one.carried_nano for one in run.spent)).scaleb(-9) == carried_usd
    assert Decimal(sum(one.new_nano for one in run.spent)).scaleb(-9) == new_usd
