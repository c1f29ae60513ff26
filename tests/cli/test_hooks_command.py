"""`hooks install`, `uninstall`, `status`: a harness's config is the user's plus ours, then the user's again."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tomllib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_cost.cli import run
from otel_cost.edge.harness import HARNESSES, Setup
from otel_cost.edge.harness._json_text import append, parse, remove
from otel_cost.edge.harness.codex import trusted_hash
from otel_cost.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

FILES = {
    "claude": ".claude/settings.json",
    "codex": ".codex/config.toml",
    "gemini": ".gemini/settings.json",
    "qwen": ".qwen/settings.json",
    "copilot": ".copilot/hooks/otel-cost.json",
    "opencode": ".config/opencode/plugin/otel-cost.js",
    "cursor": ".cursor/hooks.json",
}
SHARED_FILES = ("claude", "codex", "gemini", "qwen", "cursor")
URL = "http://127.0.0.1:8317"

JSON_BEFORE = """\
{
    "model": "opus",   // my favourite
    "hooks": {
        "PreToolUse": [
            {"matcher": "Bash", "hooks": [{"type": "command", "command": "audit.sh"}]}
        ],
        "Stop": []
    },
    "env": {"A": "1"}
}
"""
TOML_BEFORE = """\
model = "gpt-5.2-codex"  # mine

[[hooks.PreToolUse]]
matcher = "^Bash$"
[[hooks.PreToolUse.hooks]]
type = "command"
command = "audit.sh"

[features]
web_search = true"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("CODEX_HOME", "CLAUDE_CONFIG_DIR", "XDG_CONFIG_HOME", "QWEN_HOME", "GEMINI_CLI_HOME", "COPILOT_HOME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def given_file(home: Path, harness: str) -> Path:
    path = home / FILES[harness]
    path.parent.mkdir(parents=True)
    path.write_text(TOML_BEFORE if harness == "codex" else JSON_BEFORE)
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("harness", FILES)
def test_on_a_fresh_home_it_is_installed_and_leaves_nothing_behind(
    home: Path, harness: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["hooks", "install", harness]) == 0
    assert "+++ " in capsys.readouterr().out
    path = home / FILES[harness]
    assert run(["hooks", "status", harness, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["harness"], said["state"], said["file"]) == (harness, "installed", str(path))
    assert run(["hooks", "uninstall", harness]) == 0
    assert [one for one in home.rglob("*") if one.is_file()] == []


@pytest.mark.parametrize("harness", SHARED_FILES)
def test_the_users_own_config_comes_back_byte_by_byte(home: Path, harness: str) -> None:
    path = given_file(home, harness)
    before = path.read_bytes()
    assert run(["hooks", "install", harness]) == 0
    installed = path.read_bytes()
    assert installed != before
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.with_name(path.name + ".before-otel-cost").read_bytes() == before
    assert run(["hooks", "install", harness]) == 0  # again: nothing changes
    assert path.read_bytes() == installed
    assert run(["hooks", "uninstall", harness]) == 0
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("harness", SHARED_FILES)
def test_what_the_user_changes_in_between_stays(home: Path, harness: str) -> None:
    path = given_file(home, harness)
    run(["hooks", "install", harness])
    old, new = ("# mine", "# still mine") if harness == "codex" else ("// my favourite", "// not any more")
    path.write_text(path.read_text().replace(old, new))
    run(["hooks", "uninstall", harness])
    expected = (TOML_BEFORE if harness == "codex" else JSON_BEFORE).replace(old, new)
    if harness == "codex":
        assert path.read_text().rstrip() == expected
    else:
        assert path.read_text() == expected


@pytest.mark.parametrize("harness", FILES)
def test_a_dry_run_prints_and_writes_nothing(home: Path, harness: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["hooks", "install", harness, "--dry-run"]) == 0
    assert "+++ " in capsys.readouterr().out
    assert list(home.iterdir()) == []


def test_claude_asks_by_the_client_tells_over_http_and_keeps_the_users_hooks(home: Path) -> None:
    path = given_file(home, "claude")
    run(["hooks", "install", "claude", "--url", "http://127.0.0.1:9999/"])
    hooks = parse(path.read_text()).value["hooks"]
    told = {"type": "http", "url": "http://127.0.0.1:9999/v1/hooks/claude", "timeout": 0.3}
    users, ours = hooks["PreToolUse"]
    assert users == {"matcher": "Bash", "hooks": [{"type": "command", "command": "audit.sh"}]}
    (asked,) = ours["hooks"]
    assert (asked["type"], asked["timeout"]) == ("command", 1)
    assert asked["command"].endswith("hook claude --url http://127.0.0.1:9999/")
    assert {event for event, groups in hooks.items() if {"hooks": [told]} in groups} == {
        "PostToolUse", "PostToolUseFailure", "PostToolBatch", "PostModelSwitch", "SubagentStop",
    }  # fmt: skip
    # What can be refused is to be refused during an outage, too; session events are silently not sent over HTTP.
    assert {event for event, groups in hooks.items() if {"hooks": [asked]} in groups} == {
        "SessionStart", "UserPromptSubmit", "PreToolUse", "SessionEnd",
    }  # fmt: skip
    assert hooks["PreModelSwitch"] == [{"hooks": [asked | {"timeout": 5}]}]  # there a time-out blocks


@pytest.mark.parametrize("harness", ["claude", "qwen"])
def test_questions_over_http_are_said_by_status_and_mended_by_install(
    home: Path, harness: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run(["hooks", "install", harness])
    path = home / FILES[harness]
    settings = json.loads(path.read_text())
    settings["hooks"]["PreToolUse"][0]["hooks"] = settings["hooks"]["PostToolUse"][0]["hooks"]
    path.write_text(json.dumps(settings))
    capsys.readouterr()
    run(["hooks", "status", harness])
    assert "PreToolUse over HTTP: a stop does not hold" in " ".join(capsys.readouterr().out.split())
    run(["hooks", "install", harness])
    capsys.readouterr()
    run(["hooks", "status", harness])
    assert "over HTTP" not in capsys.readouterr().out


def test_another_url_takes_the_place_of_the_first(home: Path) -> None:
    run(["hooks", "install", "qwen"])
    run(["hooks", "install", "qwen", "--url", "http://127.0.0.1:9999"])
    text = (home / FILES["qwen"]).read_text()
    assert "8317" not in text
    assert len(json.loads(text)["hooks"]["UserPromptSubmit"]) == 1


def test_codex_trusts_what_is_installed_at_the_place_where_it_stands(home: Path) -> None:
    path = given_file(home, "codex")
    run(["hooks", "install", "codex"])
    config = tomllib.loads(path.read_text())
    # The user's own group comes first: ours is the second.
    place = f"{path}:pre_tool_use:1:0"
    (hook,) = config["hooks"]["PreToolUse"][1]["hooks"]
    assert set(config["hooks"]["state"]) == {
        place, f"{path}:user_prompt_submit:0:0", f"{path}:post_tool_use:0:0", f"{path}:post_model_request:0:0",
        f"{path}:subagent_stop:0:0",
    }  # fmt: skip
    handler = f'{{"async":false,"command":"{hook["command"]}","timeout":1,"type":"command"}}'
    identity = f'{{"event_name":"pre_tool_use","hooks":[{handler}]}}'
    told = config["hooks"]["state"][place]["trusted_hash"]
    assert told == f"sha256:{hashlib.sha256(identity.encode()).hexdigest()}"
    assert told == trusted_hash("pre_tool_use", hook["command"], 1)
    assert type(hook["timeout"]) is int


def test_status_says_when_codex_would_skip_a_hook(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = given_file(home, "codex")
    run(["hooks", "install", "codex"])
    path.write_text("[[hooks.PostToolUse]]\n" + path.read_text().replace('model = "gpt-5.2-codex"  # mine\n', ""))
    capsys.readouterr()
    run(["hooks", "status", "codex", "--json"])
    said = json.loads(capsys.readouterr().out)
    assert (said["state"], said["trust"]["PostToolUse"], said["trust"]["PreToolUse"]) == (
        "incomplete", "untrusted", "trusted",
    )  # fmt: skip
    run(["hooks", "install", "codex"])
    capsys.readouterr()
    run(["hooks", "status", "codex", "--json"])
    assert json.loads(capsys.readouterr().out)["state"] == "installed"


@pytest.mark.parametrize(
    ("harness", "text"),
    [
        ("claude", "{"),
        ("claude", '{"hooks": []}'),
        ("gemini", "[1]"),
        ("codex", "a = ["),
        ("codex", 'hooks = {PreToolUse = [{hooks = [{type = "command", command = "x"}]}]}\n'),
    ],
)
def test_a_config_that_cannot_be_edited_is_left_alone(
    home: Path, harness: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = home / FILES[harness]
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert run(["hooks", "install", harness]) == 2
    assert str(path) in capsys.readouterr().err
    assert path.read_text() == text


def test_a_linked_config_stays_a_link(home: Path) -> None:
    real = home / "dotfiles" / "settings.json"
    real.parent.mkdir()
    real.write_text("{}\n")
    (home / ".claude").mkdir()
    (home / ".claude" / "settings.json").symlink_to(real)
    run(["hooks", "install", "claude"])
    assert (home / ".claude" / "settings.json").is_symlink()
    assert "v1/hooks/claude" in real.read_text()
    run(["hooks", "uninstall", "claude"])
    assert real.read_text() == "{}\n"


def test_switched_off_hooks_are_said(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = home / FILES["gemini"]
    path.parent.mkdir(parents=True)
    path.write_text('{"hooksConfig": {"enabled": false}}')
    run(["hooks", "install", "gemini"])
    run(["hooks", "status", "gemini"])
    assert "switched off" in capsys.readouterr().out


def test_chunks_cost_time_and_are_asked_for_only_on_demand(home: Path) -> None:
    run(["hooks", "install", "gemini"])
    events = set(json.loads((home / FILES["gemini"]).read_text())["hooks"])
    run(["hooks", "install", "gemini", "--live-usage"])
    assert set(json.loads((home / FILES["gemini"]).read_text())["hooks"]) == events | {"AfterModel"}


def test_an_unknown_harness_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["hooks", "install", "emacs"]) == 2
    assert "claude" in capsys.readouterr().err


# --- JSON in place ---------------------------------------------------------------------------------

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(st.text(max_size=3), plain, max_size=3).filter(lambda value: "hooks" not in value),
    st.sampled_from([None, 2, 4, "\t"]),
)
def test_adding_and_cutting_is_nothing(value: dict[str, Any], indent: int | str | None) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    added = append(text, ("hooks", "E"), {"marker": 1})
    assert parse(added).value == value | {"hooks": {"E": [{"marker": 1}]}}
    cut = remove(added, ("hooks", "E"), lambda item: item == {"marker": 1})
    assert cut == text


@given(st.text(alphabet='{}[]",:/*\n 1a', max_size=30))
def test_only_json_is_read_and_then_as_python_reads_it(text: str) -> None:
    try:
        value = json.loads(text)
    except ValueError:
        try:
            parse(text)
        except UsageError:
            return
    else:
        assert parse(text).value == value


# --- The plugin -------------------------------------------------------------------------------------

DRIVER = """
import { pathToFileURL } from "node:url"
const { OtelCost } = await import(pathToFileURL(process.argv[2]))
const answers = JSON.parse(process.argv[3])
const log = { asked: [], aborted: [], threw: null }
globalThis.fetch = async (url, options) => {
  const body = JSON.parse(options.body)
  log.asked.push([url, body])
  const answer = answers.shift()
  if (answer === null) throw new Error("no service")
  return { json: async () => answer.body, headers: new Headers(answer.headers ?? {}) }
}
const client = { session: { abort: async (what) => { log.aborted.push(what.path.id) } } }
const hooks = await OtelCost({ client })
const calls = JSON.parse(process.argv[4])
for (const [name, input, output] of calls) {
  log.threw = null
  try { await hooks[name](input, output) } catch (error) { log.threw = error.message }
  log.output = output
}
console.log(JSON.stringify(log))
"""
BEFORE = ["tool.execute.before", {"tool": "bash", "sessionID": "s", "callID": "c"}, {"args": {"command": "ls"}}]
AFTER = [
    "tool.execute.after",
    {"tool": "bash", "sessionID": "s", "callID": "c", "args": {"command": "ls"}},
    {"output": "a", "metadata": {"exit": 0, "output": "a"}},
]
MESSAGE = ["chat.message", {"sessionID": "s"}, {"message": {"id": "m", "model": {"providerID": "p", "modelID": "big"}}}]


@pytest.fixture
def plugin(tmp_path: Path) -> Any:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node to run the plugin with")
    file, driver = tmp_path / "otel-cost.mjs", tmp_path / "driver.mjs"
    file.write_text(HARNESSES["opencode"].install("", Setup(file, url=URL)))
    driver.write_text(DRIVER)

    def started(answers: list[Any], *calls: Any) -> dict[str, Any]:
        told = [node, str(driver), str(file), json.dumps(answers), json.dumps(calls)]
        done = subprocess.run(told, capture_output=True, text=True, timeout=30, check=True)
        return dict(json.loads(done.stdout))

    return started


def says(**body: Any) -> dict[str, Any]:
    return {"body": body}


def test_the_plugin_asks_with_what_is_needed_and_goes_on_without_objection(plugin: Any) -> None:
    log = plugin([says()], BEFORE)
    assert log["asked"] == [
        [f"{URL}/v1/hooks/opencode", {"event": BEFORE[0], "input": BEFORE[1], "output": {"args": {"command": "ls"}}}]
    ]
    assert (log["threw"], log["aborted"]) == (None, [])


@pytest.mark.parametrize(("answer", "aborted"), [({"deny": "No."}, []), ({"stop": "No."}, ["s"])])
def test_the_plugin_throws_what_is_refused(plugin: Any, answer: dict[str, str], aborted: list[str]) -> None:
    log = plugin([says(**answer)], BEFORE)
    assert (log["threw"], log["aborted"]) == ("No.", aborted)


@pytest.mark.parametrize("answer", [None, says(deny=0), {"body": None}, {"body": [1]}, says(delay_ms="x")])
def test_the_plugin_never_throws_by_accident(plugin: Any, answer: Any) -> None:
    for call in (BEFORE, AFTER, MESSAGE):
        assert plugin([answer], call)["threw"] is None


def test_the_plugin_adds_a_warning_to_the_result_and_changes_the_model(plugin: Any) -> None:
    assert plugin([says(warn="Look elsewhere.")], AFTER)["output"]["output"] == "a\n\nLook elsewhere."
    assert plugin([says(model="small")], MESSAGE)["output"]["message"]["model"] == {
        "providerID": "p", "modelID": "small",
    }  # fmt: skip
    assert plugin([says(model="q/small")], MESSAGE)["output"]["message"]["model"]["providerID"] == "q"


def test_the_plugin_remembers_a_stop_across_an_outage(plugin: Any) -> None:
    kept = json.dumps({"why": "stop", "answers": {"tool.execute.before": {"stop": "No more."}}})
    told = {"body": {}, "headers": {"otel-cost-decision": "allow", "otel-cost-outage": kept}}
    log = plugin([told, None], AFTER, BEFORE)
    assert (log["threw"], log["aborted"]) == ("No more.", ["s"])
    lifted = {"body": {}, "headers": {"otel-cost-decision": "allow"}}
    assert plugin([told, lifted, None], AFTER, AFTER, BEFORE)["threw"] is None
