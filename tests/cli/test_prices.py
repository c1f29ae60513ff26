"""The command `prices`: what the book asks, where another list differs, and taking that over."""

from __future__ import annotations

import json
from importlib import metadata
from typing import TYPE_CHECKING, Any

import pytest

from otel_cost.cli import run

if TYPE_CHECKING:
    from pathlib import Path


def sold(by: str, into: float, out: float, **more: float) -> dict[str, Any]:
    """An entry of LiteLLM's table; rates are USD per million tokens."""
    rates = {"input_cost_per_token": into, "output_cost_per_token": out, **more}
    return {"litellm_provider": by, "mode": "chat"} | {key: rate / 1e6 for key, rate in rates.items()}


TABLE = {
    "sample_spec": {"litellm_provider": "one of many", "mode": "chat"},
    "gpt-4.1": sold("openai", 2, 9, input_cost_per_token_batches=1, output_cost_per_token_batches=4),
    "gpt-4o": sold("openai", 0, 10),
    "gpt-made-up": {"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": 7e-6},
    "gemini/gemini-2.5-pro": sold(
        "gemini", 1.25, 10, input_cost_per_token_above_200k_tokens=3.5, output_cost_per_token_above_200k_tokens=15
    ),
    "groq/llama-3.3-70b-versatile": sold("groq", 0.59, 0.79, input_cost_per_token_flex=0.3),
    "dall-e-3": {"litellm_provider": "openai", "mode": "image_generation", "input_cost_per_pixel": 1e-8},
    "nobody/x": sold("nobody_we_know", 1, 1),
}
AT = ["--at", "2026-11-01T00:00:00Z"]


@pytest.fixture
def table(tmp_path: Path) -> str:
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps(TABLE))
    return str(path)


def lines(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> list[dict[str, Any]]:
    assert run(["prices", *arguments]) == code
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_show_gives_rates_with_source_and_date(capsys: pytest.CaptureFixture[str]) -> None:
    told = lines(capsys, "show", "--provider", "openai", "--model", "o3", *AT, "--json")
    (standard,) = [line for line in told if (line["tier"], line["unit"]) == ("standard", "input_mtok")]
    assert (standard["usd"], standard["per"], standard["valid_from"]) == ("2", 1_000_000, "2025-06-10T00:00:00Z")
    assert standard["source"].startswith("genai-prices ")
    assert {line["tier"] for line in told} >= {"standard", "flex", "batch"}
    (before,) = [
        line
        for line in lines(capsys, "show", "--provider", "openai", "--model", "o3", "--at", "2025-06-09", "--json")
        if (line["tier"], line["unit"]) == ("standard", "input_mtok")
    ]
    assert before["usd"] == "10"


def test_show_gives_steps_as_a_price_file_has_them(capsys: pytest.CaptureFixture[str]) -> None:
    told = lines(capsys, "show", "--provider", "gcp.gemini", "--model", "gemini-2.5-pro", *AT, "--json")
    assert told[0]["usd"] == {"base": "1.25", "tiers": [{"start": 200000, "price": "2.5"}]}


def test_show_lists_a_seller(capsys: pytest.CaptureFixture[str]) -> None:
    told = lines(capsys, "show", "--provider", "groq", *AT, "--json")
    assert {line["provider"] for line in told} == {"groq"}
    assert len({line["model"] for line in told}) > 10


def test_diff_names_each_disagreement_and_its_class(table: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = lines(capsys, "diff", "--against", table, *AT, "--json")
    steps = [{"base": "1.25", "tiers": [{"start": 200000, "price": price}]} for price in ("2.5", "3.5")]
    seen = [(line["class"], line["model"], line["tier"], line["unit"], line["ours"], line["theirs"]) for line in told]
    assert seen == [
        ("rate", "llama-3.3-70b-versatile", "flex", "input_mtok", "0.59", "0.3"),
        ("rate", "gpt-4.1", "standard", "output_mtok", "8", "9"),
        ("long_context", "gemini-2.5-pro", "standard", "input_mtok", *steps),
        ("zero", "gpt-4o", "standard", "input_mtok", "2.5", "0"),
        ("unknown_model", "gpt-made-up", "standard", "input_mtok", None, "7"),
    ]


def test_diff_is_narrowed(table: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = lines(capsys, "diff", "--against", table, "--provider", "openai", "--kind", "rate", *AT, "--json")
    assert [line["model"] for line in told] == ["gpt-4.1"]
    assert lines(capsys, "diff", "--against", table, "--model", "gemini-3", *AT, "--json") == []


def test_diff_without_the_package_says_how_to_get_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr("otel_cost.cli.prices.distribution", absent)
    assert run(["prices", "diff"]) == 2
    assert "pip install --no-deps litellm" in capsys.readouterr().err


def test_adopting_a_difference_settles_it_and_leaves_history(
    table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = lines(capsys, "diff", "--against", table, *AT, "--json")
    picked, mine = tmp_path / "picked.jsonl", tmp_path / "mine.yaml"
    picked.write_text("\n".join(json.dumps(line) for line in told if line["class"] != "zero"))
    assert run(["prices", "adopt", str(picked), "--into", str(mine), "--who", "ann", "--from", "2026-10-01"]) == 0
    capsys.readouterr()
    left = lines(capsys, "diff", "--against", table, "--prices", str(mine), *AT, "--json")
    assert [line["class"] for line in left] == ["zero"]
    (adopted,) = [
        line
        for line in lines(
            capsys, "show", "--provider", "openai", "--model", "gpt-4.1", "--prices", str(mine), *AT, "--json"
        )
        if (line["tier"], line["unit"]) == ("standard", "output_mtok")
    ]
    assert (adopted["usd"], adopted["valid_from"]) == ("9", "2026-10-01T00:00:00Z")
    assert adopted["source"].startswith("LiteLLM's model table, theirs.json (read 2")
    assert adopted["source"].endswith("by ann)")
    before = ["--prices", str(mine), "--at", "2026-09-30", "--json"]
    assert [
        line["usd"]
        for line in lines(capsys, "show", "--provider", "openai", "--model", "gpt-4.1", *before)
        if (line["tier"], line["unit"]) == ("standard", "output_mtok")
    ] == ["8"]
    assert run(["prices", "adopt", str(picked), "--into", str(mine), "--who", "ann"]) == 2
    assert "exists already" in capsys.readouterr().err


def test_what_another_sellers_list_holds_is_adopted_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, picked, mine = tmp_path / "t.json", tmp_path / "p.jsonl", tmp_path / "m.yaml"
    table.write_text(json.dumps({"azure_ai/claude-opus-4-6": sold("azure_ai", 6, 25)}))
    told = lines(capsys, "diff", "--against", str(table), *AT, "--json")
    assert [(line["unit"], line["ours"], line["theirs"]) for line in told] == [("input_mtok", "5", "6")]
    picked.write_text(json.dumps(told[0]))
    assert run(["prices", "adopt", str(picked), "--into", str(mine), "--who", "ann", "--from", "2026-10-01"]) == 0
    capsys.readouterr()
    shown = lines(
        capsys, "show", "--provider", "azure", "--model", "claude-opus-4-6", "--prices", str(mine), *AT, "--json"
    )
    rated = {line["unit"]: line["usd"] for line in shown if line["tier"] == "standard"}
    assert (rated["input_mtok"], rated["output_mtok"], rated["cache_read_mtok"]) == ("6", "25", "0.5")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show", "--provider", "nobody"], "the book knows no provider `nobody`"),
        (["show", "--provider", "openai", "--model", "gpt-9"], "unknown_model"),
        (["show", "--at", "soon"], "is not a time"),
        (["diff", "--against", "nowhere.json"], "No such file"),
        (["diff", "--kind", "colour"], "is none of"),
        (["adopt", "nowhere.jsonl", "--into", "x.yaml", "--who", "ann"], "No such file"),
    ],
)
def test_unusable_arguments(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["prices", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_file_that_is_no_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.json"
    for text in ("{}", "[]", "{", '{"a": 1}'):
        other.write_text(text)
        assert run(["prices", "diff", "--against", str(other)]) == 2
        assert str(other) in capsys.readouterr().err
