"""The rules in the documentation load, each block as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from otel_cost.core.rules import load_rules
from otel_cost.document import parse_document, validate
from otel_cost.edge.files import bundled_rules
from otel_cost.edge.rule_tests import RuleTestFile

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "rules.md").read_text()
BLOCKS = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.splitlines()[1].rstrip(":"))
def test_every_block_loads(block: str) -> None:
    document = parse_document(block, "docs/rules.md")
    if "tests:" in block:
        validate(document, RuleTestFile)
    else:
        assert load_rules([document], 1_780_000_000 * 10**9).notes == ()


def test_every_pack_is_named() -> None:
    assert len(BLOCKS) >= 6
    for pack in bundled_rules():
        assert f"`bundled:{pack}`" in TEXT
