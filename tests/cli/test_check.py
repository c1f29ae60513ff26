"""The command line as a user meets it: check, schema, config show, and the exit codes of all."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from otel_cost.cli import run

GOOD = "version: 1\nloops: [{name: mine, detect: repeated_error}]\n"


def written(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def test_all_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = written(tmp_path, "r.yaml", GOOD)
    config = written(tmp_path, "c.yaml", "rules: [r.yaml]\napi: {endpoint: '127.0.0.1:0'}")
    assert run(["check", rules, config, "bundled:starter"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{rules}: no mistakes",
        f"{config}: no mistakes",
        "bundled:starter: no mistakes",
    ]


def test_every_mistake_in_every_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = written(tmp_path, "1.yaml", "version: 1\nloops: [{name: a, detect: repeted_error}]\n")
    two = written(tmp_path, "2.yaml", "a: [\n")
    config = written(tmp_path, "3.yaml", "api: {endpoint: x}\nengine: {setle: 1s}\n")
    assert run(["check", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert f"{one}: 1 mistake\n{one}:2:27: loops[0].detect: unknown detector `repeted_error`" in out
    assert f"{two}: 1 mistake\n{two}:2:1: not YAML" in out
    assert f"{config}: 2 mistakes\n{config}:1:17: api.endpoint" in out
    assert "did you mean `settle`?" in out


def test_mistakes_in_rules_that_a_config_names_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = written(tmp_path, "r.yaml", "version: 1\nloops: [{name: a}]\n")
    config = written(tmp_path, "c.yaml", "rules: [r.yaml]\n")
    assert run(["check", config]) == 1
    assert f"{bad}:2:9: loops[0]: `detect` is missing" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [["check", "nope.yaml"], ["check", "bundled:nope"], ["check"], ["nope"], ["config", "show", "-c", "nope.yaml"]],
)
def test_what_cannot_be_done_as_asked_is_exit_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_config_that_does_not_load_is_exit_2_with_its_mistakes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = written(tmp_path, "c.yaml", "journl: {}")
    assert run(["config", "show", "-c", config]) == 2
    assert f"{config}:1:1: journl: unknown key" in capsys.readouterr().err


def test_config_show_prints_what_is_in_effect(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "show", "--set", "engine.settle=7s", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["engine"]["settle"] == "7s"


@pytest.mark.parametrize("of", ["rules", "config", "prices"])
def test_schema_is_json_schema(of: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["schema", of]) == 0
    assert json.loads(capsys.readouterr().out)["type"] == "object"


def test_help_lists_every_command_without_importing_any() -> None:
    code = (
        "import sys; from otel_cost.cli import run; status = run(['--help']);"
        "loaded = [name for name in sys.modules if name.startswith(('otel_cost.cli.', 'duckdb', 'grpc', 'pydantic'))];"
        "sys.exit(f'imported {loaded}' if loaded else status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    commands = Path(__file__).resolve().parents[2] / "otel_cost" / "cli"
    for command in commands.glob("[!_]*.py"):
        assert f" {command.stem.replace('_', '-')} " in done.stdout


def test_help_is_there_at_once() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "otel_cost", "--help"], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0  # CPU; about 0.2 s


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("enginee: {settle: 2s}", "enginee: unknown key `enginee`\n    did you mean `engine`?"),
        ("lopps: []", "lopps: unknown key `lopps`\n    did you mean `loops`?"),
    ],
)
def test_a_file_with_one_misspelt_key_is_read_as_what_it_was_meant_to_be(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["check", written(tmp_path, "a.yaml", text)]) == 1
    assert said in capsys.readouterr().out


def test_rules_given_for_their_tests_are_one_mistake_that_says_where_tests_go(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = written(tmp_path, "r.yaml", "version: 1\nloops: []\n")
    assert run(["test", rules]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"{rules}:1:1: there are no `tests` in it\n")
    assert "NAME.test.yaml, with `rules: [r.yaml]`" in said
