"""Which call is the same call again."""

from __future__ import annotations

import json
from typing import Any

import pytest

from otel_cost.core.decide.shape import arguments_hash, error_hash, shape_of
from otel_cost.core.detect._shape import without_comments


def bash(command: str, **more: Any) -> str:
    return json.dumps({"command": command, **more})


@pytest.mark.parametrize(
    ("one", "two"),
    [
        pytest.param(bash("make test"), bash("make test # try 2"), id="comment"),
        pytest.param(bash("make test"), bash("# again\nmake test  "), id="comment line"),
        pytest.param(
            bash("make test", description="a"), bash("make test", description="other words"), id="description"
        ),
        pytest.param('{"a": 1, "b": 2}', '{"b":2,"a":1}', id="order of keys"),
        pytest.param('{"command": ["bash", "-lc", "ls"]}', '{"command": ["bash", "-lc", "ls # x"]}', id="list"),
    ],
)
def test_the_same(one: str, two: str) -> None:
    assert arguments_hash(one) == arguments_hash(two)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (bash("make test"), bash("make build")),
        (bash("echo '# not a comment'"), bash("echo '# another'")),
        (bash('echo "# a"'), bash('echo "# b"')),
        (bash("echo a#b"), bash("echo a#c")),
        (bash("echo \\# a"), bash("echo \\# b")),
    ],
)
def test_not_the_same(one: str, two: str) -> None:
    assert arguments_hash(one) != arguments_hash(two)


def test_comments_are_the_shells() -> None:
    assert without_comments("a # b\nc;#d\ne 'it''s # f' # g") == "a\nc;\ne 'it''s # f'"


def test_details_count_unless_the_tries_differed_in_them() -> None:
    one, two = shape_of("read", '{"path": "src/a.py", "line": 3}'), shape_of("read", '{"path": "src/b.py", "line": 9}')
    assert not one.is_same(two, varied=False)
    assert one.is_same(two, varied=True)
    assert not one.is_same(shape_of("write", '{"path": "src/a.py", "line": 3}'), varied=True)


def test_errors_that_differ_in_paths_numbers_and_times_are_one() -> None:
    one = error_hash("bash", "12:00:01 File /tmp/a.py line 3: no module named foo")
    assert one == error_hash("bash", "13:59:59 File /srv/b.py line 77: no module named foo")
    assert one != error_hash("bash", "permission denied")
    assert one != error_hash("sh", "12:00:01 File /tmp/a.py line 3: no module named foo")
