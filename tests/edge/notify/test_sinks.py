"""Sinks: the same facts, one line each."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError

from otel_cost.edge.notify import SINKS, build_sink
from otel_cost.edge.notify._contract import Unavailable
from otel_cost.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

MESSAGE = {"type": "alert", "rule": "r", "summary": "caf\u00e9 \u001b[31m\nsecond line", "wasted_usd": None}


def test_file_sink_appends_one_line_per_message_over_rotation(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "alerts.jsonl"
    sink = build_sink("file", {"path": str(path)})
    sink.send(MESSAGE)
    sink.send(MESSAGE)
    assert [json.loads(line) for line in path.read_text("utf-8").splitlines()] == [MESSAGE, MESSAGE]
    path.rename(tmp_path / "rotated")
    sink.send(MESSAGE)
    assert len(path.read_text("utf-8").splitlines()) == 1
    sink.close()


def test_file_sink_that_cannot_write_says_try_later(tmp_path: Path) -> None:
    sink = build_sink("file", {"path": str(tmp_path)})
    with pytest.raises(Unavailable):
        sink.send(MESSAGE)


def test_console_sink_keeps_control_characters_from_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    build_sink("console", None).send(MESSAGE)
    shown = capsys.readouterr()
    assert json.loads(shown.err) == MESSAGE
    assert shown.err.isascii()
    assert "\x1b" not in shown.err
    assert shown.out == ""


def test_unknown_sink_and_unknown_key_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="console, email, file"):
        build_sink("pigeon", {})
    with pytest.raises(ValidationError, match="pth"):
        build_sink("file", {"path": str(tmp_path), "pth": 1})


@pytest.mark.parametrize("name", sorted(SINKS))
def test_settings_forbid_what_they_do_not_know(name: str) -> None:
    assert SINKS[name].settings.model_json_schema()["additionalProperties"] is False
