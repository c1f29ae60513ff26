"""The command `reprice`: totals first, then superseding rows with who, why and which book, and nothing else."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest

from otel_cost.cli import run
from otel_cost.core.model.attributes import PlainAttributes
from otel_cost.core.model.effects import Signal
from otel_cost.core.model.event import Resource, Scope, SpanEvent
from otel_cost.core.price.instants import parse_instant
from otel_cost.core.rules import load_rules
from otel_cost.document import parse_document
from otel_cost.edge.files import load_price_book
from otel_cost.edge.ledger import FILE, Batch
from otel_cost.edge.ledger.duckdb import DuckDbLedger
from otel_cost.edge.serve import discovery
from otel_cost.pipeline import Engine

if TYPE_CHECKING:
    from pathlib import Path

book = cache(load_price_book)  # today's, the same for every recording
MAY = parse_instant("2026-05-02T10:00:00Z")
SECOND = 10**9
HALF = "version: 1\ndiscounts: [{provider: anthropic, x: 0.5, source: contract of 2026}]\n"
FEE = "version: 1\nsource: contract\nfees: [{id: sandbox, match: {tool: run_*}, usd: 0.01}]\n"


def a_span(number: int, model: str | None, *, trace: int = 1, at: float = 0, **told: object) -> SpanEvent:
    said: dict[str, object] = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "anthropic"}
    if model is not None:
        said |= {
            "gen_ai.request.model": model,
            "gen_ai.usage.input_tokens": 10_000,
            "gen_ai.usage.output_tokens": 1_000,
        }
    start = MAY + int(at * SECOND)
    return SpanEvent(
        tenant="default", received_ns=start, resource=Resource(PlainAttributes({})), scope=Scope("sdk"), raw=b"",
        trace_id=trace.to_bytes(16, "big"), span_id=number.to_bytes(8, "big"), parent_id=b"", name="chat", kind=3,
        start_ns=start, end_ns=start + SECOND, status_code=0, status_message="",
        attributes=PlainAttributes(said | told),
    )  # fmt: skip


TOOL = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "run_tests"}
SPANS = [
    a_span(1, "claude-haiku-4-5"),  # 0.015
    a_span(2, "claude-haiku-4-5", at=2, **{"gen_ai.usage.cache_creation.ephemeral_1h_input_tokens": 8_000}),  # 0.023
    a_span(3, "claude-opus-5", at=4, **{"anthropic.usage.speed": "fast"}),  # 0.15
    a_span(4, "claude-sonnet-9", at=6),  # nobody lists it
    a_span(5, None, at=8, **TOOL),
    a_span(6, "claude-haiku-4-5", trace=2, at=86_400),  # 0.015
]


def record(ledger: DuckDbLedger, *spans: SpanEvent, wake: bool = False) -> None:
    """Through the engine with today's book into the ledger, every run closed."""

    class Asleep:
        def find(self, tenant: str, key: str) -> bytes | None:
            return ledger.find_snapshot(tenant, key) if wake else None

    engine = Engine(book(), load_rules([parse_document("version: 1", "rules.yaml")]), None, Asleep())
    for span in spans:
        engine.feed(Signal.TRACES, [span], 1, span.end_ns)
    engine.close(max(span.end_ns for span in spans))
    batch = Batch()
    batch.add(engine.take())
    ledger.commit(batch, 7)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    ledger = DuckDbLedger(tmp_path / FILE)
    record(ledger, *SPANS)
    ledger.close()
    return tmp_path


def prices(folder: Path, text: str) -> list[str]:
    path = folder / "mine.yaml"
    path.write_text(text)
    return ["--prices", str(path)]


def ordered(
    data_dir: Path, capsys: pytest.CaptureFixture[str], *more: str, why: str = "contract was wrong"
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    assert run(["reprice", "--why", why, "--who", "ann", "--data-dir", str(data_dir), "--json", *more]) == 0
    *models, total = map(json.loads, capsys.readouterr().out.splitlines())
    return total, {line["model"]: line for line in models}


def kept(data_dir: Path) -> dict[str, Any]:
    ledger = DuckDbLedger(data_dir / FILE, read_only=True)
    runs = {name: ledger.run(name) for name in (one.to_bytes(16, "big").hex() for one in (1, 2))}
    answer = {"runs": runs, "list": ledger.runs(), "report": ledger.report(["model"]), "cursor": ledger.cursor()}
    ledger.close()
    return answer


def test_a_dry_run_shows_totals_and_changes_nothing(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = kept(data_dir)
    total, models = ordered(data_dir, capsys, *prices(data_dir, HALF))
    assert (total["old_usd"], total["new_usd"], total["delta_usd"]) == ("0.203", "0.1015", "-0.1015")
    assert (total["calls"], total["changed"], total["runs"], total["applied"]) == (6, 4, 2, False)
    assert (models["claude-haiku-4-5"]["calls"], models["claude-haiku-4-5"]["new_usd"]) == (3, "0.0265")
    assert models["claude-opus-5"]["new_usd"] == "0.075"  # fast is still fast
    assert (models["claude-sonnet-9"]["old_usd"], models["claude-sonnet-9"]["changed"]) == (None, 0)
    assert kept(data_dir) == before


def test_the_same_book_changes_nothing_even_when_applied(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = kept(data_dir)
    total, _ = ordered(data_dir, capsys, "--apply")
    assert (total["changed"], total["delta_usd"], total["applied"]) == (0, "0", True)
    assert kept(data_dir) == before


def test_applied_rows_supersede_and_say_who_why_and_which_book(
    data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = kept(data_dir)
    total, _ = ordered(data_dir, capsys, "--apply", *prices(data_dir, HALF))
    after = kept(data_dir)
    story = after["runs"][(1).to_bytes(16, "big").hex()]
    assert story["cost_usd"] == "0.094"
    assert [trace["cost_usd"] for trace in story["traces"]] == ["0.094"]
    assert sum(row["calls"] for row in after["report"]) == 6
    assert {row["model"]: row["cost_usd"] for row in after["report"]}["claude-opus-5"] == "0.075"
    assert [(leg["model"], leg["cost_usd"]) for leg in story["model_route"]] == [
        ("claude-haiku-4-5", "0.019"),
        ("claude-opus-5", "0.075"),
        ("claude-sonnet-9", None),
    ]
    corrections = story["corrections"]
    assert sorted((one["old_usd"], one["new_usd"]) for one in corrections) == [
        ("0.015", "0.0075"),
        ("0.023", "0.0115"),
        ("0.15", "0.075"),
    ]
    assert {(one["why"], one["who"], one["price_book"]) for one in corrections} == {
        ("repriced: contract was wrong", "ann", total["price_book"])
    }
    books = {call["model"] or call["tool"]: call["price_book"] for call in story["calls"]}
    assert books["claude-opus-5"] == total["price_book"] != books["claude-sonnet-9"]
    # What was told beside the money is as it was.
    for was, now in zip(before["runs"][story["run_id"]]["calls"], story["calls"], strict=True):
        untouched = was.keys() - {"cost_usd", "items", "price_book"}
        assert {key: was[key] for key in untouched} == {key: now[key] for key in untouched}
    assert after["cursor"] == before["cursor"]


def test_a_second_time_there_is_nothing_to_do(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half = prices(data_dir, HALF)
    ordered(data_dir, capsys, "--apply", *half)
    after = kept(data_dir)
    total, _ = ordered(data_dir, capsys, "--apply", *half)
    assert (total["changed"], total["runs"]) == (0, 0)
    assert kept(data_dir) == after


def test_only_what_is_asked_for(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half = prices(data_dir, HALF)
    _, models = ordered(data_dir, capsys, "--model", "Claude-Haiku*", "--until", "2026-05-03", *half)
    assert {name: line["calls"] for name, line in models.items()} == {"claude-haiku-4-5": 2}
    total, _ = ordered(data_dir, capsys, "--apply", "--model", "claude-opus-5", *half)
    assert (total["calls"], total["changed"]) == (1, 1)
    costs = {row["model"]: row["cost_usd"] for row in kept(data_dir)["report"]}
    assert (costs["claude-opus-5"], costs["claude-haiku-4-5"]) == ("0.075", "0.053")
    total, _ = ordered(data_dir, capsys, "--since", "2026-05-03", *half)
    assert (total["calls"], total["old_usd"]) == (1, "0.015")


def test_what_had_no_price_gets_one_and_a_tool_its_fee(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = "providers: [{id: anthropic, models: [{id: claude-sonnet-9, prices: [{input_mtok: 1, output_mtok: 1}]}]}]"
    total, models = ordered(data_dir, capsys, "--apply", *prices(data_dir, f"{FEE}{listed}\n"))
    assert (models["claude-sonnet-9"]["old_usd"], models["claude-sonnet-9"]["new_usd"]) == (None, "0.011")
    assert models["run_tests"]["new_usd"] == "0.01"
    assert total["delta_usd"] == "0.021"
    story = kept(data_dir)["runs"][(1).to_bytes(16, "big").hex()]
    assert (story["complete"], story["unpriced_calls"], story["cost_usd"]) == (True, 0, "0.209")


def test_a_late_span_finds_the_prices_that_were_written(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ordered(data_dir, capsys, "--apply", *prices(data_dir, HALF))
    ledger = DuckDbLedger(data_dir / FILE)
    record(ledger, a_span(9, "claude-haiku-4-5", at=10), wake=True)
    ledger.close()
    story = kept(data_dir)["runs"][(1).to_bytes(16, "big").hex()]
    assert story["cost_usd"] == "0.109"  # 0.094 as it was written, 0.015 for the new one
    assert len(story["corrections"]) == 3


def test_runs_of_which_nothing_is_kept_are_told(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = DuckDbLedger(data_dir / FILE)
    ledger._db.execute("DELETE FROM snapshots WHERE run_id = ?", [(2).to_bytes(16, "big").hex()])
    ledger.close()
    total, _ = ordered(data_dir, capsys, *prices(data_dir, HALF))
    assert (total["runs_left_out"], total["calls"]) == (1, 5)


def test_not_beside_a_running_service(
    data_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    discovery.announce(data_dir, "http://127.0.0.1:8317")
    assert run(["reprice", "--why", "x", "--apply", "--data-dir", str(data_dir)]) == 2
    assert "a service runs on" in capsys.readouterr().err


def test_unusable_arguments(data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["reprice", "--data-dir", str(data_dir)]) == 2
    assert "--why" in capsys.readouterr().err
    assert run(["reprice", "--why", " ", "--data-dir", str(data_dir)]) == 2
    assert "--why" in capsys.readouterr().err
    assert run(["reprice", "--why", "x", "--data-dir", str(tmp_path / "nowhere")]) == 2
    assert "nothing has been recorded" in capsys.readouterr().err
    assert run(["reprice", "--why", "x", "--since", "then", "--data-dir", str(data_dir)]) == 2


def test_for_a_reader_at_a_terminal(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half = prices(data_dir, HALF)
    assert run(["reprice", "--why", "x", "--data-dir", str(data_dir), *half]) == 0
    assert "nothing was changed" in capsys.readouterr().out
    assert run(["reprice", "--why", "x", "--apply", "--data-dir", str(data_dir), *half]) == 0
    assert "4 corrections in 2 runs" in capsys.readouterr().out
    assert run(["reprice", "--why", "x", "--model", "none-*", "--data-dir", str(data_dir)]) == 0
    assert "no recorded call" in capsys.readouterr().out
