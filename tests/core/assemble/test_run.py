"""Counted once, in any order: steps in, calls out."""

from __future__ import annotations

import copy
import random
import sys
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_cost.core.assemble.packed import Parents
from otel_cost.core.assemble.run import Run
from otel_cost.core.assemble.snapshot import freeze, thaw
from otel_cost.core.assemble.summary import summarise, trace_summaries
from otel_cost.core.model.charge import Charge
from otel_cost.core.model.step import Step
from otel_cost.core.model.usage import Usage
from otel_cost.core.model.vocabulary import Flag, Kind, Reason, Source, Status

SECOND = 10**9
TRACE = bytes(15) + b"\x01"


def price(step: Step) -> Charge:
    """One nano-dollar a token: totals show at once what was counted."""
    if step.usage is None:
        return Charge(Status.UNPRICED, Reason.FAILED_CALL if step.failed else Reason.MISSING_USAGE)
    return Charge(Status.PRICED, nano=step.usage.input + step.usage.output, usage=step.usage)


def sid(number: int) -> bytes:
    return number.to_bytes(8, "big")


def model(number: int, parent: int = 0, tokens: tuple[int, int] | None = (100, 10), **more: object) -> Step:
    usage = None if tokens is None else Usage(input=tokens[0], output=tokens[1])
    said: dict[str, object] = {
        "source": Source.SPAN,
        "dialect": "test",
        "scope": "sdk",
        "kind": Kind.INFERENCE,
        "trace_id": TRACE,
        "span_id": sid(number),
        "parent_id": sid(parent) if parent else b"",
        "start_ns": number * SECOND,
        "end_ns": number * SECOND + SECOND // 2,
        "usage": usage,
        "requested_model": "gpt-5",
    }
    return Step(**said | more)  # type: ignore[arg-type]


def agent(number: int, parent: int = 0, tokens: tuple[int, int] | None = None, **more: object) -> Step:
    return model(number, parent, tokens, **{"kind": Kind.AGENT, "rollup": True, "requested_model": None} | more)


def tool(number: int, parent: int = 0, name: str = "bash", **more: object) -> Step:
    return model(number, parent, None, **{"kind": Kind.TOOL, "tool": name, "requested_model": None} | more)


def run_of(*steps: Step | tuple[int, int]) -> Run:
    """Feed steps, and plain spans as (id, parent), and finish."""
    run = Run("default", price, 0)
    for step in map(copy.copy, steps):
        if isinstance(step, tuple):
            run.add_span(TRACE, sid(step[0]), sid(step[1]) if step[1] else b"", None)
        elif step.span_id:
            run.add_span(step.trace_id, step.span_id, step.parent_id, step)
        else:
            run.add_step(step)
    run.finish()
    return run


def counted(run: Run) -> list[tuple[str, int | None, bool]]:
    said = [(call.kind.value, call.nano, call.failed) for call in run.calls.values()]
    return sorted(said, key=lambda line: (line[0], line[1] if line[1] is not None else -1, line[2]))


def tokens(run: Run) -> int:
    return sum(call.nano or 0 for call in run.calls.values())


def test_wrapper_with_the_same_usage_is_one_call() -> None:
    assert counted(run_of(model(2, parent=1), model(1, scope="framework"))) == [("inference", 110, False)]


def test_wrapper_with_the_sum_of_several_is_a_rollup() -> None:
    run = run_of(model(2, parent=1), model(3, parent=1), model(1, tokens=(200, 20), scope="framework"))
    assert tokens(run) == 220
    assert len(run.calls) == 2


def test_model_call_inside_a_tool_inside_a_model_call_is_its_own() -> None:
    run = run_of(model(3, parent=2, tokens=(7, 1)), tool(2, parent=1), model(1))
    assert counted(run) == [("inference", 8, False), ("inference", 110, False), ("tool", None, False)]


def test_agent_rollup_does_not_bill_when_something_below_it_tells() -> None:
    run = run_of(model(3, parent=2), (2, 1), agent(1, tokens=(100, 10)))
    assert counted(run) == [("inference", 110, False)]


def test_agent_rollup_that_is_the_only_record_bills_flagged() -> None:
    run = run_of(tool(2, parent=1), agent(1, tokens=(100, 10)))
    (call,) = (call for call in run.calls.values() if call.kind is Kind.INFERENCE)
    assert call.nano == 110
    assert Flag.AGGREGATE in call.flags


def test_same_response_id_in_two_traces_is_one_call() -> None:
    other = model(9, ids=("response:x",), trace_id=bytes(15) + b"\x02", scope="framework", start_ns=0)
    assert len(run_of(model(1, ids=("response:x",)), other).calls) == 1


def test_four_equal_parallel_calls_of_one_client_stay_four() -> None:
    steps = [model(n, start_ns=SECOND, end_ns=2 * SECOND) for n in range(1, 5)]
    assert len(run_of(*steps).calls) == 4


def test_four_parallel_calls_told_by_two_layers_are_four_and_flagged() -> None:
    inner = [model(n, start_ns=SECOND + n, end_ns=2 * SECOND) for n in range(1, 5)]
    outer = [model(n + 10, start_ns=SECOND + n - 1, end_ns=2 * SECOND + 9, scope="framework") for n in range(1, 5)]
    run = run_of(*inner, *outer)
    assert len(run.calls) == 4
    assert all(Flag.MERGED_BY_GUESS in call.flags for call in run.calls.values())


def test_equal_calls_one_after_the_other_in_two_layers_are_not_confused() -> None:
    run = run_of(model(1), model(5), model(11, scope="framework", start_ns=SECOND - 1, end_ns=2 * SECOND))
    assert len(run.calls) == 2


@pytest.mark.parametrize(
    ("knows", "calls"),
    [(Usage(input=70, output=10), 1), (Usage(input=70, output=10, cache_read=0), 2), (Usage(input=69, output=10), 2)],
)
def test_one_layer_may_leave_out_the_cached_part_that_another_tells(knows: Usage, calls: int) -> None:
    whole = Usage(input=100, output=10, cache_read=30)
    run = run_of(model(1, usage=whole), model(2, scope="framework", start_ns=SECOND, end_ns=2 * SECOND, usage=knows))
    assert len(run.calls) == calls
    assert whole in {call.step.usage for call in run.calls.values()}


def test_an_equal_call_is_a_better_match_than_one_that_is_a_token_apart() -> None:
    said = {"requested_model": "claude-sonnet-4-5", "start_ns": SECOND, "end_ns": 2 * SECOND}
    inner = [model(1, tokens=(100, 10), **said), model(2, tokens=(100, 11), **said)]
    outer = [model(n + 10, tokens=(100, n), scope="framework", **said) for n in (10, 11)]
    run = run_of(*inner, *outer)
    assert sorted(call.step.usage.output for call in run.calls.values() if call.step.usage) == [10, 11]
    assert not any(Flag.CONFLICT in call.flags for call in run.calls.values())


def test_the_host_of_a_model_is_no_part_of_its_name() -> None:
    hosted = "us.anthropic.claude-x-v1:0"
    outer = model(2, scope="framework", start_ns=SECOND, end_ns=2 * SECOND, requested_model=hosted)
    assert len(run_of(model(1, requested_model="claude-x-v1:0"), outer).calls) == 1


def test_failed_tries_under_a_green_call_are_calls_of_their_own() -> None:
    tries = [model(n, parent=1, tokens=None, failed=True, requested_model="gpt-5-nano") for n in (2, 3)]
    run = run_of(*tries, model(1, scope="framework"))
    assert counted(run) == [("inference", None, True), ("inference", None, True), ("inference", 110, False)]


def test_span_and_log_of_one_call_by_hint_one_to_one() -> None:
    spans = [model(n, hints=("p1",)) for n in (1, 3)]
    logs = [
        model(n, tokens=(100, 60), hints=("p1",), source=Source.LOG, span_id=b"", trace_id=b"", scope="logs")
        for n in (1, 3)
    ]
    for step in spans:
        step.flags = frozenset({Flag.INCOMPLETE})
    run = run_of(*spans, *logs)
    assert tokens(run) == 320
    assert {call.sources for call in run.calls.values()} == {(Source.SPAN, Source.LOG)}
    assert not any(Flag.INCOMPLETE in call.flags for call in run.calls.values())


def test_part_of_a_tool_makes_its_call_fail_and_is_no_call_of_its_own() -> None:
    part = tool(2, parent=1, partial=True, failed=True, error_message="boom")
    run = run_of(part, tool(1))
    assert counted(run) == [("tool", None, True)]


def test_part_whose_whole_never_came_counts() -> None:
    assert counted(run_of(tool(2, parent=1, partial=True, failed=True))) == [("tool", None, True)]


def test_leaf_without_model_takes_it_from_above() -> None:
    above = model(1, tokens=None, kind=Kind.OTHER, requested_model="gpt-5.2-codex")
    run = run_of(model(3, parent=2, requested_model=None), (2, 1), above)
    assert [call.step.model for call in run.calls.values()] == ["gpt-5.2-codex"]


def test_resent_span_counts_once_and_the_richer_copy_speaks() -> None:
    poor, rich = model(1, tokens=(100, 0)), model(1, tokens=(100, 10))
    for copies in ((poor, rich), (rich, poor)):
        run = run_of(*[model(1, tokens=(s.usage.input, s.usage.output)) for s in copies if s.usage])
        assert tokens(run) == 110
        assert all(Flag.CONFLICT in call.flags for call in run.calls.values())


def test_cycle_of_parents_ends() -> None:
    run = run_of(model(1, parent=2), (2, 3), (3, 1), model(4, parent=4))
    assert len(run.calls) == 2


def test_calls_in_a_circle_are_calls_all_the_same() -> None:
    """Nobody is the wrapper of anybody there."""
    run = run_of(*(model(n, parent=n % 3 + 1, tokens=(100 * n, 10)) for n in range(1, 4)))
    assert len(run.calls) == 3


def test_traces_of_a_run_add_up_to_it() -> None:
    run = run_of(model(1), model(2, trace_id=bytes(15) + b"\x02", tokens=(5, 5)))
    assert summarise(run).nano == sum(line.nano or 0 for line in trace_summaries(run)) == 120


@st.composite
def forests(draw: st.DrawFn) -> list[Step | tuple[int, int]]:
    """A random tree of spans of every sort, some told twice by another scope, some by a log record as well."""
    count = draw(st.integers(1, 14))
    spans: list[Step | tuple[int, int]] = []
    for number in range(1, count + 1):
        parent = draw(st.integers(0, number - 1))
        kind = draw(st.sampled_from(["plain", "model", "agent", "tool", "failed", "part"]))
        size = (draw(st.integers(1, 3)) * 100, draw(st.integers(1, 2)) * 10)
        scope = draw(st.sampled_from(["sdk", "framework"]))
        start = draw(st.integers(0, 5)) * SECOND
        times = {"start_ns": start, "end_ns": start + draw(st.integers(1, 5)) * SECOND, "scope": scope}
        if kind == "plain":
            spans.append((number, parent))
        elif kind == "model":
            ids = draw(st.sampled_from([(), ("response:a",), ("response:b",)]))
            spans.append(model(number, parent, size, ids=ids, **times))
            if draw(st.booleans()):
                record = {"source": Source.LOG, "span_id": b"", "parent_id": b"", "hints": ("h",)}
                spans.append(model(number, 0, size, ids=ids, **times | record))
        elif kind == "agent":
            spans.append(agent(number, parent, draw(st.sampled_from([None, size])), **times))
        elif kind == "failed":
            spans.append(model(number, parent, None, failed=True, **times))
        else:
            spans.append(tool(number, parent, partial=kind == "part", **times))
    return spans


@settings(max_examples=300, deadline=None)
@given(forests(), st.integers(0, 2**32))
def test_any_order_and_duplication_give_the_same_calls(spans: list[Step | tuple[int, int]], seed: int) -> None:
    shuffled = [*spans, *spans]
    random.Random(seed).shuffle(shuffled)
    assert counted(run_of(*shuffled)) == counted(run_of(*spans))


@settings(max_examples=100, deadline=None)
@given(forests())
def test_a_run_wakes_as_it_fell_asleep(spans: list[Step | tuple[int, int]]) -> None:
    run = run_of(*spans)
    woken = thaw(freeze(run), price, 0)
    assert counted(woken) == counted(run)
    assert set(woken.calls) == set(run.calls)
    assert summarise(woken) == summarise(run)


@settings(max_examples=100, deadline=None)
@given(forests(), forests())
def test_two_runs_that_become_one_count_like_one(left: list[Step | tuple[int, int]], right: list) -> None:
    other_trace = bytes(15) + b"\x02"
    moved = []
    for span in right:
        if isinstance(span, Step):
            span.trace_id = other_trace
            moved.append(span)
    whole = run_of(*left, *moved)
    first, second = run_of(*left), run_of(*moved)
    told = {call_id: call.nano for run in (first, second) for call_id, call in run.calls.items()}
    first.changes.clear()
    second.changes.clear()
    first.absorb(second)
    first.finish()
    assert counted(first) == counted(whole)
    for change in first.changes:
        if change.new is None and change.old is not None:
            told.pop(change.old.id, None)
        elif change.new is not None:
            told[change.new.id] = change.new.nano
    assert told == {call_id: call.nano for call_id, call in first.calls.items()}


@given(st.dictionaries(st.integers(1, 2**64 - 1), st.integers(0, 2**64 - 1)), st.integers(0, 300))
def test_packed_parents_are_a_dictionary(some: dict[int, int], more: int) -> None:
    told = {
        sid(span): sid(parent) if parent else b"" for span, parent in (dict.fromkeys(range(1, more), 9) | some).items()
    }
    parents = Parents()
    for number, (span, parent) in enumerate(told.items()):
        assert parents.get(span) is None
        assert parents.put(span, parent)
        assert not parents.put(span, sid(5))
        assert parents.get(span) == parent
        assert parents.count == number + 1
    assert dict(parents.items()) == told
    assert [word.to_bytes(8, "big") for word in parents.words()[::2]] == [span for span, _ in parents.items()]
    assert all(parents.get(span) == parent for span, parent in told.items())


def test_packed_parents_are_found_whole() -> None:
    """Neither the end of one id and the beginning of the next, nor what is told of parents, is a span."""
    parents = Parents()
    parents.put(bytes.fromhex("0000000000000001"), bytes.fromhex("00000000000000aa"))
    parents.put(bytes.fromhex("0000000200000003"), b"")
    for other in ("0000000100000002", "00000000000000aa", "0000000000000000"):
        assert parents.get(bytes.fromhex(other)) is None
        assert parents.put(bytes.fromhex(other), b"") is True


def test_packed_parents_take_at_most_64_bytes_a_span() -> None:
    rng = random.Random(7)
    for spans in (50, 127, 200, 100_000):
        parents = Parents()
        for _ in range(spans):
            parents.put((rng.getrandbits(64) | 1).to_bytes(8, "big"), rng.randbytes(8))
        columns = (parents._keys, parents._values) if spans > 127 else (parents._spans, parents._above)
        assert Fraction(sum(map(sys.getsizeof, columns)), parents.count) <= 64


@pytest.mark.parametrize("junk", [b"", b"not zlib"])
def test_broken_snapshot_is_an_error_not_a_run(junk: bytes) -> None:
    with pytest.raises(Exception):  # noqa: B017, PT011  # zlib's own errors
        thaw(junk, price, 0)


def test_tool_inside_a_record_that_runs_its_tools_itself_proves_a_loss() -> None:
    for order in ([1, 2], [2, 1]):
        steps = {1: model(1, calls_tools=True), 2: tool(2, parent=1)}
        run = run_of(*(steps[number] for number in order))
        (call,) = (call for call in run.calls.values() if call.kind is Kind.INFERENCE)
        assert Flag.INCOMPLETE in call.flags
        assert not summarise(run).complete
        assert tokens(run) == 110


def test_repeated_tool_call_ids_of_one_client_are_several_calls() -> None:
    spans = [tool(n, ids=("tool_call:call_0",)) for n in (1, 3)]
    logs = [tool(n, ids=("tool_call:call_0",), source=Source.LOG, span_id=b"") for n in (1, 3)]
    assert [call.sources for call in run_of(*spans, *logs).calls.values()] == [(Source.SPAN, Source.LOG)] * 2
