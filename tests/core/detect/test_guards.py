"""What looks like a loop and is honest work: whatever the numbers and names, no detector may cry out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from detect_helper import feed, model, tool
from hypothesis import given
from hypothesis import strategies as st

from otel_cost.core.detect import DETECTORS
from otel_cost.core.model.vocabulary import Category, Severity
from otel_cost.edge.config import load_config
from otel_cost.edge.engine import build_engine

if TYPE_CHECKING:
    from otel_cost.core.detect import Observed

# Severities that the shipped rules turn down.
SHIPPED = {rule.detector.name: rule.severity for rule in build_engine(load_config(environ={})).rules.loops}
LOOPS = [name for name, detector in DETECTORS.items() if detector.category is Category.LOOP]

names = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=3, max_size=12)
files = st.lists(names, min_size=4, max_size=25, unique=True)
words = st.lists(names, min_size=2, max_size=8).map(" ".join)


def turns(*calls: Observed) -> list[Observed]:
    return [one for call in calls for one in (model(10), call)]


def alarms(*calls: Observed) -> list[tuple[str, str]]:
    """Detectors that fire at warning or louder, as the shipped rules have them."""
    found = []
    for name in LOOPS:
        for finding in feed(name, *calls):
            severity = SHIPPED.get(name) or finding.severity
            if finding.state == "firing" and severity is not Severity.NOTICE:
                found.append((name, finding.summary))
        for call in calls:
            call.traits = None
    return found


@given(st.lists(st.integers(0, 10**6), min_size=4, max_size=25, unique=True))
def test_polling_a_thing_that_moves(progress: list[int]) -> None:
    calls = [tool("read_output", {"handle": 7}, f"{done} of 1000000 rows") for done in progress]
    assert not alarms(*turns(*calls))


@given(st.integers(2, 11), st.sampled_from(["wait_for_build", "job_status", "poll"]))
def test_waiting_for_a_thing_that_does_not_move_yet(times: int, name: str) -> None:
    calls = [tool(name, {"id": 3}, "running") for _ in range(times)]
    assert not alarms(*turns(*calls, tool(name, {"id": 3}, "done")))


@given(files, st.sampled_from(["ok", "", "formatted", "true", "1 file changed"]))
def test_the_same_done_to_many_files(paths: list[str], said: str) -> None:
    assert not alarms(*turns(*[tool("format_file", {"path": f"src/{path}.py"}, said) for path in paths]))
    commands = [f"gzip -9 --keep data/{path}.csv --suffix .gz" for path in paths]
    assert not alarms(*turns(*[tool("bash", {"command": command}, said) for command in commands]))
    commands = [f"cd /repo && python tools/convert.py --input data/{path}.csv --out /tmp/out" for path in paths]
    assert not alarms(*turns(*[tool("bash", {"command": command}, said) for command in commands]))


@given(st.integers(0, 10**6), st.integers(4, 25), st.sampled_from(["ok", "sent", "accepted"]))
def test_the_same_done_for_many_ids(first: int, count: int, said: str) -> None:
    calls = [tool("send_reminder", {"customer": first + n, "channel": "mail"}, said) for n in range(count)]
    assert not alarms(*turns(*calls))
    nested = [tool("update", {"record": {"id": first + n, "state": "closed"}}, said) for n in range(count)]
    assert not alarms(*turns(*nested))


@given(files, st.integers(1, 100))
def test_page_after_page(rows: list[str], size: int) -> None:
    calls = [tool("list_orders", {"page": n, "size": size}, f"{row} {n}") for n, row in enumerate(rows)]
    assert not alarms(*turns(*calls))
    calls = [tool("bash", {"command": f"sed -n {n * size},{(n + 1) * size}p log"}, row) for n, row in enumerate(rows)]
    assert not alarms(*turns(*calls))


@given(st.lists(st.integers(1, 40), min_size=2, max_size=15, unique=True), st.booleans())
def test_fewer_tests_fail_after_each_edit(failing: list[int], told_as_error: bool) -> None:
    calls = []
    for n, count in enumerate(sorted(failing, reverse=True)):
        report = f"FAILED tests: {count} failed, {50 - count} passed"
        calls.append(tool("edit_file", {"path": "a.py", "new": f"line {n}"}, f"edited line {n}"))
        calls.append(tool("run_tests", {"target": "all"}, report, error=report if told_as_error else None))
    assert not alarms(*turns(*calls))


@given(files)
def test_tests_that_pass_after_each_edit(names: list[str]) -> None:
    calls = [
        call
        for name in names
        for call in (
            tool("edit_file", {"path": f"{name}.py", "new": name}, f"edited {name}"),
            tool("run_tests", {}, "all 12 tests passed"),
        )
    ]
    assert not alarms(*turns(*calls))


@given(files, words)
def test_notes_and_thoughts_are_answered_alike(thoughts: list[str], more: str) -> None:
    calls = [tool("think", {"thought": f"{thought} {more} {n}"}, "") for n, thought in enumerate(thoughts)]
    assert not alarms(*turns(*calls))


@given(st.lists(st.sampled_from([429, 500, 503]), min_size=1, max_size=3))
def test_a_client_that_retries_a_few_times(statuses: list[int]) -> None:
    failed = [model(None, failed=True, status_code=status, error_type="APIStatusError") for status in statuses]
    assert not alarms(*failed, model(10))
    tools = [tool("fetch", {"url": "https://x.test"}, error="server error", status_code=status) for status in statuses]
    assert not alarms(*turns(*tools, tool("fetch", {"url": "https://x.test"}, "hello")))


@given(files)
def test_each_search_finds_something_else(keys: list[str]) -> None:
    calls = [tool("search", {"query": f"where is {key} set"}, f"{key}.py:1: {key} = 1") for key in keys]
    assert not alarms(*turns(*calls))


@given(st.lists(names, min_size=3, max_size=4, unique=True))
def test_a_few_tries_that_differ_and_fail_alike(values: list[str]) -> None:
    calls = [tool("book", {"payment": value, "seats": 2}, error="the balance is not enough") for value in values]
    assert not alarms(*turns(*calls))


@pytest.mark.parametrize("tell", [True, False])
def test_calls_side_by_side_are_no_repeats(tell: bool) -> None:
    calls = [tool("get_weather", {"city": "Oslo"}, "rain" if tell else None) for _ in range(6)]
    for call in calls:
        call.step.start_ns, call.step.end_ns = 10**9, 2 * 10**9
    assert not alarms(model(10, (100, 50)), *calls, model(10, (400, 20)))


@given(st.permutations(["path", "limit", "offset"]), st.booleans())
def test_the_real_thing_is_still_seen(order: list[str], remark: bool) -> None:
    """The guards must not blind the detectors: key order and remarks do not make a call another one."""
    said = {"path": "a.py", "limit": 10, "offset": 0}
    calls = []
    for n in range(3):
        arguments = {key: said[key] for key in (order if n % 2 else reversed(order))}
        if remark:
            arguments["description"] = f"try {n}"
        call = tool("read_file", None, "the same")
        call.step.arguments = json.dumps(arguments)
        calls.append(call)
    assert alarms(*turns(*calls))
