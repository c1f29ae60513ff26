"""Context backpack: 20k to 240k input over twelve turns, cache hits falling; what came back is told from new work."""

from __future__ import annotations

import random
from decimal import Decimal

import pytest
from money_helper import Desk, agent, chat, tool

from otel_cost.core.model.money import usd_to_nano
from otel_cost.edge.ledger import Batch
from otel_cost.edge.ledger.duckdb import DuckDbLedger
from otel_cost.edge.ledger.story import story_of

TURNS = 12
ANSWER = 200
INPUT, CACHED = Decimal("0.00000002"), Decimal("0.000000001")  # the prices of money_helper above its step


def sizes() -> list[tuple[int, int]]:
    """Input and cached tokens of each turn: 20,000 more a turn, and less and less of it from the cache."""
    return [(20_000 * turn, 20_000 * (turn - 1) * (TURNS - turn) // TURNS) for turn in range(1, TURNS + 1)]


def events() -> list:
    told = [agent(1, lasts=500)]
    for turn, (size, cached) in enumerate(sizes()):
        told.append(chat(10 + 2 * turn, 1, (size, ANSWER), cached, at=10 * turn))
        if turn < TURNS - 1:
            told.append(tool(11 + 2 * turn, 1, f"read_{turn}", at=10 * turn + 2))
    return told


def by_hand() -> tuple[Decimal, Decimal]:
    """USD carried and new; the cached beginning of a prompt is the cheap one."""
    carried = new = Decimal(0)
    before = 0
    for size, cached in sizes():
        again = min(before, cached), max(before - cached, 0)
        carried += again[0] * CACHED + again[1] * INPUT
        new += (cached - again[0]) * CACHED + (size - cached - again[1]) * INPUT
        before = size + ANSWER
    return carried, new


@pytest.mark.parametrize("seed", range(3))
def test_carried_dollars_are_told_from_new_work(seed: int) -> None:
    told = events()
    random.Random(seed).shuffle(told)
    desk = Desk()
    desk.tell(*told)
    desk.close()
    ledger = DuckDbLedger()
    batch = Batch()
    batch.closed["default", desk.run.summary.run_id] = desk.run
    ledger.commit(batch, 1)
    written, live = ledger.run(desk.run.summary.run_id), story_of(desk.run, is_open=False)
    ledger.close()
    assert written is not None
    assert written["sums"] == live["sums"]
    cost = live["sums"]["cost"]
    carried, new = by_hand()
    assert (Decimal(cost["carried_usd"]), Decimal(cost["new_usd"])) == (carried, new)
    assert sum(usd_to_nano(usd) for usd in cost.values()) == desk.run.summary.nano
    assert carried > 4 * new  # the backpack is most of it
    (prompt,) = [one for one in live["sums"]["carried"] if one["origin"] == "prompt"]
    assert (prompt["tokens"], prompt["calls"]) == (20_000, TURNS - 1)
    results = {one["tool"]: one for one in live["sums"]["tools"]}
    assert Decimal(results["read_0"]["carried_usd"]) > Decimal(results["read_9"]["carried_usd"])
    assert [turn["carried_tokens"] for turn in live["sums"]["turns"]] == [
        max(20_000 * turn + ANSWER, 0) if turn else 0 for turn in range(TURNS)
    ]
    assert sum(usd_to_nano(turn["cost_usd"]) for turn in live["sums"]["turns"]) == desk.run.summary.nano
    assert usd_to_nano(live["tree"][0]["subtree_usd"]) == desk.run.summary.nano
