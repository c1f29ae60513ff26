"""Shapes: which texts count as the same."""

from __future__ import annotations

import pytest

from otel_cost.core.detect._shape import error_shape, failures, identity, result_shape, value_of
from otel_cost.core.detect._verbs import command_verb


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("built in 3.2s", "built in 41 ms"),
        ("at 2026-11-02T10:11:12.5Z done", "at 2026-11-03 09:00:00 done"),
        ("[10:11:12] up", "[23:59:00,123] up"),
        ("20261102T10:11:12", "20261102T11:12:13"),
        ("waited 5 µs", "waited 7µs"),
        ("pid 77 gone", "pid 4711 gone"),
        ("object at 0x7f3a", "object at 0x11"),
        ("request 0123456789abcdef0123", "request fedcba98765432100000"),
        ("a  b\n\nc", "a b\nc"),
        ("x" * 700 + " took 1 s", "x" * 700 + " took 2 s"),
    ],
)
def test_results_that_differ_in_what_is_no_news(one: str, two: str) -> None:
    assert result_shape(one) == result_shape(two)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("3 files", "4 files"),
        ("page 2 of 7", "page 3 of 7"),
        ("x1s", "x2s"),
        ("line 10:20", "line 10:21"),
        ("x" * 700 + "1" + "y" * 700, "x" * 700 + "2" + "y" * 700),
    ],
)
def test_results_that_bring_news(one: str, two: str) -> None:
    assert result_shape(one) != result_shape(two)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("No such file: '/tmp/a.txt'", 'no such file: "/var/log/b.txt"'),
        ("port 8080 in use", "port 9090 in use"),
        (
            "Traceback (most recent call last):\n  a.py, line 1\nKeyError: x",
            "traceback (most recent call last):\nKeyError: x",
        ),
        ("building\nERROR: no rule for target 41\ndone", "built\nERROR: no rule for target 52\nbye"),
        ("https://a.example/x?y=1 refused", "http://b.example refused"),
    ],
)
def test_errors_of_one_shape(one: str, two: str) -> None:
    assert error_shape(one) == error_shape(two)


def test_errors_of_other_words_have_other_shapes() -> None:
    assert error_shape("column a unknown") != error_shape("column b unknown")


@pytest.mark.parametrize(
    ("report", "number"),
    [
        ("3 failed, 10 passed", 3),
        ("Tests run: 5, Failures: 2, Errors: 1", 2),
        ("FAILURES = 12", 12),
        ("12 errors\n3 failing", 12),
        ("all well", None),
        ("myerrors: 4", None),
    ],
)
def test_failures_that_a_report_counts(report: str, number: int | None) -> None:
    assert failures(report) == number


def test_the_order_of_keys_and_remarks_are_no_part_of_a_call() -> None:
    first = value_of('{"command": "ls  # look", "depth": [1, {"b": 2, "a": 1}], "description": "list"}')
    second = value_of('{"depth": [1, {"a": 1, "b": 2}], "command": "ls"}')
    assert identity("sh", first) == identity("sh", second)
    assert identity("sh", first) != identity("bash", second)
    assert (
        identity("sh", {"n": 1, "s": "1"}) == identity("sh", {"s": "1", "n": 1}) != identity("sh", {"n": "1", "s": 1})
    )


@pytest.mark.parametrize(
    ("command", "verb"),
    [
        ("ls -la", ""),
        ("create a.py", "write"),
        ("view a.py", "read"),
        ("cd x && python -m pytest -q", "check"),
        ("A=1 rm x", "write"),
        ("cat a | tee b", "write"),
        ("echo hi > out.txt", "write"),
        ("cat x 2>/dev/null", ""),
        ("sleep 5", "poll"),
        ("true; ./run.sh", "check"),
    ],
)
def test_what_a_command_does(command: str, verb: str) -> None:
    assert command_verb(command) == verb
