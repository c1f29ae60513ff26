"""The pages that promise something name tests that exist."""

from __future__ import annotations

import ast
import sys
from functools import cache
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from promises import FAULTS, PAGES, ROOT, SECURITY


@cache
def names_in(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / "tests" / file).read_text())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def test_every_named_test_exists() -> None:
    named = {test for promise in (*FAULTS, *SECURITY) for test in promise.tests.split()}
    missing = []
    for test in sorted(named):
        file, _, name = test.partition("::")
        if not (ROOT / "tests" / file).exists() or name not in names_in(file):
            missing.append(test)
    assert missing == []


def test_every_fault_has_a_test() -> None:
    assert len(FAULTS) == 74
    assert [promise.what for promise in FAULTS if not promise.tests] == []


@pytest.mark.parametrize("name", PAGES)
def test_the_pages_are_what_was_promised(name: str) -> None:
    """Else run `python tests/promises.py`."""
    assert (ROOT / "docs" / name).read_text() == PAGES[name]
