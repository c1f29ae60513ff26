"""Where the records of a run meet: the first word on a name stands, for every worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_cost.edge.receive.homes import Homes

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from otel_cost.edge.receive.homes import Name


class Shared:
    """What workers share, in memory."""

    def __init__(self) -> None:
        self.homes: dict[Name, str] = {}
        self.asked = 0

    def find_homes(self, names: Collection[Name]) -> dict[Name, str]:
        self.asked += 1
        return {name: self.homes[name] for name in names if name in self.homes}

    def claim_homes(self, homes: Mapping[Name, str]) -> dict[Name, str]:
        return {name: self.homes.setdefault(name, home) for name, home in homes.items()}


def test_what_is_told_together_goes_together() -> None:
    told = [("t", ["a"]), ("t", ["b", "session:s"]), ("t", ["a", "session:s"]), ("t", []), ("other", ["a"])]
    assert Homes().settle(told) == ["session:s", "session:s", "session:s", "", "a"]


def test_a_trace_stays_where_it_began_and_takes_its_session_along() -> None:
    homes = Homes()
    assert homes.settle([("t", ["a"])]) == ["a"]
    assert homes.settle([("t", ["a", "session:s"])]) == ["a"]
    assert homes.settle([("t", ["b", "session:s"]), ("t", ["b"])]) == ["a", "a"]


def test_a_response_id_leads_to_the_run_that_told_of_it_first() -> None:
    homes = Homes()
    homes.settle([("t", ["a", "session:s", "response:1"])])
    assert homes.settle([("t", ["b", "response:1"])]) == ["session:s"]


def test_workers_agree() -> None:
    shared = Shared()
    one, other = Homes(shared), Homes(shared)
    assert one.settle([("t", ["a"])]) == ["a"]
    assert other.settle([("t", ["a", "session:s"]), ("t", ["b", "session:s"])]) == ["a", "a"]
    asked = shared.asked
    assert one.settle([("t", ["a"])]) == ["a"]
    assert shared.asked == asked  # what was said once is known


def test_little_memory_forgets_and_asks_again() -> None:
    shared = Shared()
    homes = Homes(shared, most=2)
    for trace in "abcd":
        homes.settle([("t", [trace])])
    assert homes.settle([("t", ["a"])]) == ["a"]
