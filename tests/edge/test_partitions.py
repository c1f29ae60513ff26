"""Offsets said by positions: what a partition's next reader must read, and what had left before."""

from __future__ import annotations

from otel_cost.edge.partitions import Offset, Origin, Partition, Partitions

ONE, TWO = Partition("steps", 1), Partition("steps", 2)


def reading() -> Partitions:
    made = Partitions(1000)
    made.assign({ONE: Offset(10, 12, epoch=3), TWO: Offset(0, 0, epoch=1)})
    return made


def take(made: Partitions, partition: Partition, offset: int, received_ns: int = 5) -> tuple[int, bool] | None:
    return made.take(Origin(partition, offset), received_ns)


def test_each_record_has_the_next_position_and_one_is_taken_once() -> None:
    made = reading()
    assert take(made, ONE, 10) == (1000, True)
    assert take(made, TWO, 0) == (1001, False)
    assert take(made, ONE, 12) == (1002, False)  # offsets may have gaps
    assert take(made, ONE, 12) is None
    assert take(made, Partition("steps", 3), 0) is None


def test_positions_are_said_by_offsets_which_never_go_back() -> None:
    made = reading()
    assert made.offsets(1000, 1000) == {ONE: Offset(10, 12, 3), TWO: Offset(0, 0, 1)}
    for offset in (10, 11, 12):
        take(made, ONE, offset)
    take(made, TWO, 7)
    assert made.offsets(1001, 1003) == {ONE: Offset(11, 13, 3), TWO: Offset(7, 7, 1)}
    assert made.offsets(1004, 1004) == {ONE: Offset(13, 13, 3), TWO: Offset(8, 8, 1)}


def test_what_was_not_sent_is_needed() -> None:
    made = reading()
    for offset in (10, 11, 12):
        take(made, ONE, offset)
    assert made.offsets(1003, 1001)[ONE] == Offset(11, 12, 3)


def test_the_engines_time_is_that_of_whoever_lags_most() -> None:
    made = reading()
    assert made.clock(100) == 0  # nobody knows yet what there is to read
    made.at_end(ONE)
    take(made, TWO, 0, received_ns=40)
    assert made.clock(100) == 40
    made.at_end(TWO)
    assert made.clock(100) == 100
    take(made, ONE, 10, received_ns=60)
    assert made.clock(110) == 100
    made.drop([ONE])
    assert made.clock(120) == 120
    assert len(made) == 1
    assert TWO in made
