"""Calls and what they cost by hand, told as spans and priced like any line of `otel-cost price`."""

from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from price_helper import shipped

from otel_cost.cli.price import answers
from otel_cost.core.model.money import exact_text
from otel_cost.core.price.instants import parse_instant

CASES: Final = yaml.safe_load((Path(__file__).parent / "cases.yaml").read_text())["cases"]
NOON: Final = "2026-11-02T12:00:00Z"  # a Monday, off-peak everywhere
KEYS: Final = {
    "op": "gen_ai.operation.name",
    "provider": "gen_ai.provider.name",
    "asked": "gen_ai.request.model",
    "model": "gen_ai.response.model",
    "input": "gen_ai.usage.input_tokens",
    "output": "gen_ai.usage.output_tokens",
    "cache_read": "gen_ai.usage.cache_read.input_tokens",
    "cache_write": "gen_ai.usage.cache_creation.input_tokens",
    "cache_write_1h": "gen_ai.usage.cache_creation.ephemeral_1h_input_tokens",
    "reasoning": "gen_ai.usage.reasoning.output_tokens",
}


def line_of(case: dict[str, Any]) -> str:
    told = case.get("call")
    attributes = {} if told is None else {KEYS[key]: value for key, value in ({"op": "chat"} | told).items()}
    return json.dumps(
        {
            "attributes": attributes | case.get("attributes", {}),
            "start_time": case.get("at", NOON),
            "context": case.get("context", {}),
            "scope": {"name": case.get("scope", "")},
            "name": case.get("name", ""),
        }
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_case(case: dict[str, Any]) -> None:
    (answer,) = answers([line_of(case)], shipped(), parse_instant(NOON))
    assert answer["reason"] == case.get("reason")
    if "charge" in case:
        by_hand = sum((Fraction(count) * Fraction(Decimal(str(rate))) for count, rate in case["charge"]), Fraction(0))
        assert answer["cost_usd"] == exact_text(by_hand / 10**6)
    else:
        assert answer["cost_usd"] is None
    assert answer["flags"] == case.get("flags", [])
