"""Files in, lines out."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from otel_cost.cli import run

SAMPLES = Path(__file__).resolve().parents[2] / "samples"


def replay(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, list[dict], str]:
    code = run(["replay", "--json", *map(str, arguments)])
    told = capsys.readouterr()
    return code, [json.loads(line) for line in told.out.splitlines()], told.err


def test_a_folder_is_read_in_order_and_strangers_are_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    body = (SAMPLES / "same-error-loop.jsonl").read_bytes()
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(body))
    (tmp_path / "labels.jsonl").write_text('{"id": 1}\n')
    (tmp_path / "a.meta.json").write_text("{}")
    (tmp_path / "README.md").write_text("hello")
    code, lines, err = replay(capsys, tmp_path)
    assert code == 0
    assert "3 files are no OTLP" in err
    (line,) = (line for line in lines if line["type"] == "run")
    assert (line["run_id"], line["user"], line["llm_calls"], line["tool_calls"]) == ("conv-cart-42", "dana", 7, 6)
    calls = [line for line in lines if line["type"] == "call"]
    assert [call["start_time"] for call in calls] == sorted(call["start_time"] for call in calls)
    (alert,) = (line for line in lines if line["type"] == "alert" and line["state"] == "firing")
    assert (alert["rule"], alert["category"], alert["kind"]) == ("same-error-3x", "loop", "repeated_error")
    assert alert["onset_span_id"] in alert["span_ids"]
    assert alert["at_span_id"] == alert["span_ids"][-1]


@pytest.mark.parametrize(
    ("name", "body", "code", "said"),
    [
        pytest.param("x.json", b"{", 1, "no JSON", id="broken JSON"),
        pytest.param("x.traces.pb", b"\xff\xff", 1, "x.traces.pb", id="broken protobuf"),
        pytest.param("x.jsonl.gz", b"\x1f\x8bnonsense", 1, "broken gzip", id="broken gzip"),
        pytest.param("x.pb", b"", 2, "which signal", id="a signal nobody can tell"),
    ],
)
def test_what_cannot_be_read_is_named(
    name: str, body: bytes, code: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(body)
    told = replay(capsys, tmp_path / name)
    assert told[0] == code
    assert said in told[2]


def test_a_missing_path_is_unusable(capsys: pytest.CaptureFixture[str]) -> None:
    assert replay(capsys, "nowhere")[0] == 2


def test_tables_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["replay", str(SAMPLES)]) == 0
    shown = capsys.readouterr().out
    for word in ("Dearest runs", "conv-migrate-7", "unpriced", "at least", "Alerts", "same-error-3x"):
        assert word in shown


def test_a_file_of_which_nothing_is_left_is_an_input_that_could_not_be_decoded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = (SAMPLES / "same-error-loop.jsonl").read_text().splitlines()[0]
    bad = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "00" * 16, "spanId": "00" * 8}]}]}]})
    file = tmp_path / "a.jsonl"
    file.write_text(f"{bad}\n{good}\n")
    code, lines, err = replay(capsys, file)
    assert code == 1
    assert "trace" in err
    assert [line for line in lines if line["type"] == "run"]  # what follows it is read all the same
    mixed = json.loads(good)
    mixed["resourceSpans"][0]["scopeSpans"][0]["spans"].append({"traceId": "00" * 16, "spanId": "00" * 8})
    file.write_text(json.dumps(mixed) + "\n")
    code, lines, err = replay(capsys, file)
    assert (code, "trace" in err) == (0, True)  # one record in many: said, no more
