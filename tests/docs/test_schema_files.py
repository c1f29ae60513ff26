"""The schemas that editors fetch are those of the code: `otel-cost schema KIND > docs/schema/KIND.schema.json`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "schema"


@pytest.mark.parametrize("kind", ["rules", "config", "prices"])
def test_the_published_schema_is_the_one_in_force(kind: str) -> None:
    told = subprocess.run(
        [sys.executable, "-m", "otel_cost", "schema", kind], capture_output=True, text=True, check=True
    ).stdout
    written = (FOLDER / f"{kind}.schema.json").read_text("utf-8")
    assert json.loads(written) == json.loads(told), f"run: otel-cost schema {kind} > docs/schema/{kind}.schema.json"
