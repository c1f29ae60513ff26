"""Six command-line agents as they run without a person: where each finds the stub model, how a run is begun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from needs import missing

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
CLIS = Path(os.environ.get("OTEL_COST_HARNESS_CLIS") or CACHE / "otel-cost" / "harness-clis")
LIMIT_S = 100


def program(name: str) -> Path:
    """The agent's program; without it the test is skipped, or fails where `harness-clis` are required."""
    found = CLIS / "node_modules" / ".bin" / name
    if not found.exists():
        missing("harness-clis", f"bash {HERE.relative_to(HERE.parents[2])}/install")
    return found


@dataclass(frozen=True, slots=True)
class Agent:
    """One harness. `arguments(prompt)` of a new run, `again(prompt)` of one in the same session.

    `telemetry(home, address)` makes it send OTLP over HTTP: variables, or what it writes into its settings.
    """

    name: str
    arguments: Callable[[str], list[str]]
    environ: Callable[[str], dict[str, str]]  # of the model's address
    prepare: Callable[[Path, str], None] = lambda _home, _model: None
    again: Callable[[str], list[str]] | None = None
    telemetry: Callable[[Path, str], dict[str, str]] = lambda _home, otlp: {
        "OTEL_EXPORTER_OTLP_ENDPOINT": otlp,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    }


@dataclass(slots=True)
class Machine:
    """A home folder of its own with one agent in it."""

    agent: Agent
    folder: Path
    model: str
    otlp: str  # where its telemetry goes
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def __post_init__(self) -> None:
        for made in (self.home, self.folder / "work"):
            made.mkdir(parents=True)
        self.agent.prepare(self.home, self.model)
        # Nothing of whoever runs the tests: no keys, no settings, no proxy for loopback.
        self.environ = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "TERM": "dumb",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
            **self.agent.environ(self.model),
            **self.agent.telemetry(self.home, self.otlp),
            **self.environ,
        }

    def hooks(self, *arguments: str) -> str:
        """`otel-cost hooks …` in this home; what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "otel_cost", "hooks", *arguments],
            env=self.environ, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run(self, prompt: str, *, again: bool = False) -> subprocess.CompletedProcess[str]:
        arguments = self.agent.again if again else self.agent.arguments
        assert arguments is not None
        return subprocess.run(
            [str(program(self.agent.name)), *arguments(prompt)],
            cwd=self.folder / "work", env=self.environ, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=LIMIT_S, check=False,
        )  # fmt: skip


def _written(home: Path, place: str, text: str) -> None:
    (home / place).parent.mkdir(parents=True, exist_ok=True)
    (home / place).write_text(text)


_CLAUDE = ["--dangerously-skip-permissions", "--model", "claude-sonnet-4-5", "--output-format", "json"]
CLAUDE = Agent(
    "claude",
    lambda prompt: ["-p", prompt, *_CLAUDE],
    lambda model: {
        "ANTHROPIC_BASE_URL": model,
        "ANTHROPIC_API_KEY": "stub",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
        "IS_SANDBOX": "1",
    },
    telemetry=lambda _home, otlp: {
        "CLAUDE_CODE_ENABLE_TELEMETRY": "1",
        "CLAUDE_CODE_ENHANCED_TELEMETRY_BETA": "1",
        **{f"OTEL_{signal}_EXPORTER": "otlp" for signal in ("TRACES", "LOGS", "METRICS")},
        "OTEL_EXPORTER_OTLP_ENDPOINT": otlp,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    },
    again=lambda prompt: ["-p", prompt, "--continue", *_CLAUDE],
)


def _codex_telemetry(home: Path, otlp: str) -> dict[str, str]:
    settings = home / ".codex" / "config.toml"
    lines = [settings.read_text(), "[otel]", 'environment = "test"']
    for key, path in (("exporter", "logs"), ("trace_exporter", "traces"), ("metrics_exporter", "metrics")):
        lines.append(f'{key} = {{ otlp-http = {{ endpoint = "{otlp}/v1/{path}", protocol = "binary" }} }}')
    settings.write_text("\n".join(lines) + "\n")
    return {}


def _opencode_telemetry(home: Path, otlp: str) -> dict[str, str]:
    settings = home / ".config" / "opencode" / "opencode.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"experimental": {"openTelemetry": True}}))
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": otlp, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}


_CODEX = ["exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"]
CODEX = Agent(
    "codex",
    lambda prompt: [*_CODEX, prompt],
    lambda _model: {"STUB_KEY": "stub"},
    lambda home, model: _written(
        home,
        ".codex/config.toml",
        'model = "gpt-5.2-codex"\nmodel_provider = "stub"\n[model_providers.stub]\nname = "stub"\n'
        f'base_url = "{model}/v1"\nwire_api = "responses"\nenv_key = "STUB_KEY"\n',
    ),
    again=lambda prompt: [*_CODEX, "resume", "--last", prompt],
    telemetry=_codex_telemetry,
)

GEMINI = Agent(
    "gemini",
    lambda prompt: ["-y", "-m", "gemini-2.5-pro", "-p", prompt],
    lambda model: {
        "GEMINI_API_KEY": "stub",
        "GOOGLE_GEMINI_BASE_URL": model,
        "GEMINI_CLI_TRUST_WORKSPACE": "true",
    },
    lambda home, _model: _written(
        home,
        ".gemini/settings.json",
        json.dumps({"security": {"auth": {"selectedType": "gemini-api-key"}}, "general": {"disableAutoUpdate": True}}),
    ),
    telemetry=lambda _home, otlp: {
        "GEMINI_TELEMETRY_ENABLED": "true",
        "GEMINI_TELEMETRY_TARGET": "local",
        "GEMINI_TELEMETRY_OTLP_ENDPOINT": otlp,
        "GEMINI_TELEMETRY_OTLP_PROTOCOL": "http",
        "GEMINI_TELEMETRY_TRACES_ENABLED": "true",
    },
)

_QWEN = ["-y", "--auth-type", "openai"]
QWEN = Agent(
    "qwen",
    lambda prompt: [*_QWEN, "-p", prompt],
    lambda model: {"OPENAI_API_KEY": "stub", "OPENAI_BASE_URL": f"{model}/v1", "OPENAI_MODEL": "qwen3-coder-plus"},
    telemetry=lambda _home, otlp: {
        "QWEN_TELEMETRY_ENABLED": "true",
        "QWEN_TELEMETRY_TARGET": "local",
        "QWEN_TELEMETRY_OTLP_ENDPOINT": otlp,
        "QWEN_TELEMETRY_OTLP_PROTOCOL": "http",
    },
    again=lambda prompt: [*_QWEN, "--continue", "-p", prompt],
)

OPENCODE = Agent(
    "opencode",
    lambda prompt: ["run", prompt],
    lambda _model: {"OPENCODE_DISABLE_MODELS_FETCH": "1", "OPENCODE_DISABLE_AUTOUPDATE": "1"},
    lambda home, model: _written(
        home,
        ".config/opencode/opencode.json",
        json.dumps(
            {
                "model": "openai/gpt-5.2",
                "small_model": "openai/gpt-5.2",
                "autoupdate": False,
                "share": "disabled",
                "provider": {
                    "openai": {
                        "options": {"baseURL": f"{model}/v1", "apiKey": "stub"},
                        "models": {name: {"name": name} for name in ("gpt-5.2", "gpt-5.2-mini")},
                    }
                },
            }
        ),
    ),
    telemetry=_opencode_telemetry,
)

COPILOT = Agent(
    "copilot",
    lambda prompt: ["-p", prompt, "--allow-all-tools"],
    lambda model: {
        "COPILOT_OFFLINE": "true",
        "COPILOT_AUTO_UPDATE": "false",
        "COPILOT_PROVIDER_BASE_URL": f"{model}/v1",
        "COPILOT_PROVIDER_API_KEY": "stub",
        "COPILOT_MODEL": "gpt-5.4",
        "COPILOT_OTEL_ENABLED": "true",
    },
)

AGENTS = {agent.name: agent for agent in (CLAUDE, CODEX, GEMINI, QWEN, OPENCODE, COPILOT)}


class Conversation:
    """Claude Code as a program drives it: JSON lines in, JSON lines out."""

    def __init__(self, machine: Machine) -> None:
        arguments = ["-p", "--input-format", "stream-json", "--output-format", "stream-json", "--verbose"]
        self._process = subprocess.Popen(
            [str(program("claude")), *arguments, "--dangerously-skip-permissions", "--model", "claude-sonnet-4-5"],
            cwd=machine.folder / "work", env=machine.environ,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    def says(self, line: dict[str, object]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(line) + "\n")
        self._process.stdin.flush()

    def until(self, kind: str) -> dict[str, object]:
        """The next line of a kind; the test's own time-out is the limit."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said: dict[str, object] = json.loads(line)
            if said.get("type") == kind:
                return said
        raise AssertionError(f"no {kind} before the end")

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.kill()
        self._process.wait(20)
