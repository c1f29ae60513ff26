"""The command `price`: one answer per line, in order, exact."""

from __future__ import annotations

import io
import json
import sys
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from otel_cost.cli import run

if TYPE_CHECKING:
    from pathlib import Path

GOOD = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "gpt-5",
    "gen_ai.usage.input_tokens": 10_000,
    "gen_ai.usage.output_tokens": 1_000,
}


def priced(
    lines: list[object], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *options: str
) -> tuple[int, list[dict[str, Any]]]:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    code = run(["price", "-", "--json", *options])
    return code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_every_public_case(shared: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    cases = yaml.safe_load((shared / "pricing-cases" / "cases.yaml").read_text())["cases"]
    lines: list[object] = [
        {key: case[key] for key in ("attributes", "start_time", "context") if key in case} for case in cases
    ]
    code, answers = priced(lines, capsys, monkeypatch)
    assert (code, len(answers)) == (0, len(cases))
    for case, answer in zip(cases, answers, strict=True):
        expect = case["expect"]
        cost = answer["cost_usd"]
        assert answer["status"] == expect["status"], case["id"]
        assert answer["reason"] == expect.get("reason"), case["id"]
        assert (cost and Decimal(cost)) == (expect["cost_usd"] and Decimal(expect["cost_usd"])), case["id"]
        assert set(expect.get("flags", ())) <= set(answer["flags"]), case["id"]


def test_a_bad_line_has_its_answer_in_its_place(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bad: list[object] = ["{not json", "[1]", {"attributes": 7}, {"attributes": GOOD, "start_time": "soon"}, {"x": 1}]
    lines = [GOOD, *bad, {"attributes": GOOD, "context": {"tier": "gold"}}, {"attributes": GOOD}]
    code, answers = priced(lines, capsys, monkeypatch)
    assert code == 1
    assert [answer["reason"] for answer in answers] == [None, *["bad_input"] * 6, None]
    assert all(answer["cost_usd"] is None and answer["items"] == [] for answer in answers[1:7])


def test_items_add_up_and_name_their_source(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = {
        "attributes": GOOD | {"gen_ai.usage.cache_read.input_tokens": 4_000},
        "context": {"units": {"web_search": 2}},
    }
    _, (answer,) = priced([line], capsys, monkeypatch, "--at", "2026-11-01T00:00:00Z")
    assert [(item["unit"], item["quantity"]) for item in answer["items"]] == [
        ("input", 6_000),
        ("cache_read", 4_000),
        ("output", 1_000),
        ("web_search", 2),
    ]
    assert sum(Decimal(item["usd"]) for item in answer["items"]) == Decimal(answer["cost_usd"]) == Decimal("0.038")
    assert answer["items"][0]["rate"] == "0.00000125"
    assert all("owner of the price: https://" in item["source"] for item in answer["items"])
    assert answer["usage"] == {
        "input": 10_000,
        "cache_read": 4_000,
        "cache_write": None,
        "output": 1_000,
        "reasoning": None,
    }


def test_a_map_without_an_operation_and_a_lone_rollup(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = {key: value for key, value in GOOD.items() if key != "gen_ai.operation.name"}
    rollup = GOOD | {"gen_ai.operation.name": "invoke_agent"}
    code, answers = priced([bare, rollup], capsys, monkeypatch)
    assert (code, [answer["cost_usd"] for answer in answers]) == (0, ["0.0225", "0.0225"])
    assert (answers[0]["flags"], answers[1]["flags"]) == ([], ["aggregate"])


def test_one_call_in_options(capsys: pytest.CaptureFixture[str]) -> None:
    options = "--provider anthropic --model claude-haiku-4-5 --input 10000 --output 500 --cache-write 8000"
    assert run(["price", *options.split(), "--cache-write-1h", "8000", "--at", "2026-11-01", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cost_usd"] == "0.0205"


def test_the_users_prices_win(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("version: 1\ndiscounts: [{provider: openai, x: 0.5, source: contract}]\n")
    options = ["--provider", "openai", "--model", "gpt-5", "--input", "10000", "--output", "1000", "--json", "--prices"]
    assert run(["price", *options, str(mine)]) == 0
    assert json.loads(capsys.readouterr().out)["cost_usd"] == "0.01125"


@pytest.mark.parametrize("options", [["--at", "noon"], ["nowhere.jsonl"], ["--prices", "nowhere"], ["--unit", "x"]])
def test_unusable_arguments(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["price", *options]) == 2
    assert capsys.readouterr().err
