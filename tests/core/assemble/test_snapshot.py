"""Runs asleep: with the charges and the tree they had, also those that an earlier version put to sleep."""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from test_run import TRACE, agent, counted, forests, model, price, run_of, tool

from otel_cost.core.assemble.run import Run
from otel_cost.core.assemble.snapshot import freeze, recorded_nodes, thaw
from otel_cost.core.assemble.tree import nodes
from otel_cost.core.model.charge import Charge, Item
from otel_cost.core.model.money import Rate
from otel_cost.core.model.usage import Usage
from otel_cost.core.model.vocabulary import Basis, Flag, Kind, Reason, Source, Status

if TYPE_CHECKING:
    from otel_cost.core.model.step import Step

# Version 2, of an agent, a model call that two records tell of, a tool, and a call that only a log record tells of.
OF_VERSION_2 = base64.b64decode(
    """
    eAGdVM2LI0UU72RmQBbBOXvSmwiDnWx2YtaLePG6B0H0YFPd9Top06lqq6onjKe4c/EiZFcaFkEYnHR3MrO7guxhDx6KTPDgIS548jJ/ggf/Al
    9/Zdzgqlj0x3v1+X6/96t3Ze1nRyAVE7yZauCE64yCT6JAL4in2RE4XFlzBSqfoqbpmCgNdDLTIqAnT2+5nguUtsBrdfyOexPaHvX8Q+BPXdrr
    uu1el3Zs275ptzzao0Ba1OBIp30I7qEP3bbt9rrdXqfnUeqazCNSMpCTZAQapEkVcAryNPlUsPxoNSAhqEmqJfFAffHba7jzP7XW6k7TKluj+u
    9W/52t/sq16v563V41UPuJJyKu92aKjODKejWjjATg6ZkGpbfomxdhOoyu9uvd60MXIgRJNBJqLjwSBMrRQgRqmYVEatxxOQ+lOGKI3TyWoEIk
    HpyRoBCYrMqESQaMazVNXKKYyiI+5GLMM1znBjAyCfI3UpNHEkIhMV8OJlaYJxvXPXbqI5ZzojWMQq0aiR+Qvppe+IQFuGZMjtX0oYh0GGnHhX
    7El+cgpZCOPg7BXChNdKQcDwMzc9IHrhGtORsPxORhDsjJseVdFwgCBeUo9jmYxz7jTA0cCUTliso8EUQjrq6s/VSJSHoQz1RI+NbnLBD9RHnI
    XHym6DB/F77ENIyFLLy8ZzZknMZJEcuCcR8kcA+uLVStCK7dLD8HA4xXL9Wp2Vg7G2t3Y+2trAWmqAQar6zNQHNjXS9rrqwZx/ji2Ygwfoptjo
    RJjfcpXr/zzc/W+odnn1jr34dvWL/g6Y039/4oDTj90UpR+cXEjwZvWetn316WQy+//VVpvP/rh6Vxwl+3UimCIArjyyW27yV8FqEaMX+FYmKT
    9EN9cKv8Vs4Zoyqe3juvxXWb/NWeTpNIIYexuZswjsmnaSmCG9u+MWmplTg/+rIkvgRssBV0x7mBKh2YecCGwLGSFF223WqZpJD/1yffMfrCWp
    IgmFDdbzRTb0BkH75MS+GloWQe0LQUkkGyueDP34dK0OfFTMcVYnhaQtsGkjC8Aur+gxJvhXptvfLeuw06C5jST9p2+/DAbuHzgW3fLp6PH1S8
    1PSsrYOfzM6NYoEpML2oCpaY7u1sQZpH/DlQj0YM6y7vO0U+CoTmPyI0JaRpFcbfl9wqjN1/CaMuCHmy/lcQfwLNL38+
    """
)


def unpriced(_: Step) -> Charge:
    return Charge(Status.UNPRICED)


def charges(run: Run) -> dict[str, tuple[object, ...]]:
    return {
        call.id: (
            call.charge.status, call.charge.reason, call.charge.nano, call.charge.basis, call.charge.flags,
            call.charge.price_book, call.charge.usage, tuple(call.charge.items),
        )
        for call in run.calls.values()
    }  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(forests(), st.booleans())
def test_a_run_asleep_tells_its_tree_and_keeps_its_charges(spans: list[Step | tuple[int, int]], up: bool) -> None:
    run = run_of(*(reversed(spans) if up else spans))
    frozen = freeze(run)
    assert recorded_nodes(frozen, run.id) == nodes(run)
    assert charges(thaw(frozen, unpriced, 0)) == charges(run)


def test_a_call_whose_inner_record_came_first_wakes_as_one_call() -> None:
    run = run_of(model(2, 1), model(1))
    assert counted(run) == [("inference", 110, False)]
    woken = thaw(freeze(run), price, 0)
    assert charges(woken) == charges(run)
    woken.add_span(TRACE, bytes([9] * 8), b"", None)
    woken.finish()
    assert charges(thaw(freeze(woken), price, 0)) == charges(run)


def test_a_charge_wakes_with_every_word_it_was_told_with() -> None:
    items = (
        Item("input", "input", 90, Rate(10**6), 90, "list", "2026-01-01T00:00:00Z"),
        Item("output", "output", 10, Rate(5 * 10**6, 3), 17, "list", None),
    )
    told = Charge(
        Status.PRICED, None, 107, items, Usage(input=100, output=10, cache_write=7, cache_write_1h=3), Basis.INCLUSIVE,
        frozenset({Flag.ESTIMATED}), "book",
    )  # fmt: skip
    run = Run("default", lambda step: told if step.usage else Charge(Status.INVALID, Reason.BAD_INPUT), 0)
    for step in (agent(1), model(2, 1), model(3, 1, (100, 20)), tool(4, 1)):
        run.add_span(step.trace_id, step.span_id, step.parent_id, step)
    run.finish()
    woken = thaw(freeze(run), unpriced, 0)
    assert charges(woken) == charges(run)
    assert charges(thaw(freeze(woken), unpriced, 0)) == charges(run)
    assert recorded_nodes(freeze(woken), run.id) == nodes(run)


def test_a_run_without_steps_wakes() -> None:
    run = Run("default", unpriced, 0)
    assert recorded_nodes(freeze(run), "") == []
    assert thaw(freeze(run), unpriced, 0).calls == {}


def test_what_an_earlier_version_put_to_sleep_wakes_as_it_was() -> None:
    run = run_of(
        agent(1, name="main", agent="main"),
        (2, 1),
        model(3, 2, ids=("response:a",)),
        model(4, 3, scope="framework", ids=("response:a",)),
        tool(5, 2, likeness="0011"),
        model(6, 0, None, source=Source.LOG, span_id=b"", failed=True),
    )
    woken = thaw(OF_VERSION_2, price, 0)
    assert counted(woken) == counted(run)
    assert nodes(woken) == nodes(run)
    assert woken.told == {call.id: call.nano for call in run.calls.values()}
    (call,) = (call for call in woken.calls.values() if call.kind is Kind.INFERENCE and call.nano is not None)
    assert call.charge.usage == Usage(input=100, output=10)
    assert tuple(call.charge.items) == (
        Item("input", "input", 100, Rate(10**6), 100, "list", "2026-01-01T00:00:00Z"),
        Item("output", "output", 10, Rate(3 * 10**6, 3), 10, "list", None),
    )
    assert recorded_nodes(OF_VERSION_2, run.id) is None
    assert recorded_nodes(freeze(woken), run.id) == nodes(run)
