"""LiteLLM's proxy as a process of its own, with the guardrail in it, between a client and a model that it makes up."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from guard_helper import DELAY, DOWNGRADE, ESCALATION, STOP, STOP_TEXT, WARN
from running import until

from needs import missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from running import Process

    Serve = Callable[[str], Process]

ROOT = Path(__file__).parents[2]
PROXY = Path(os.environ.get("OTEL_COST_LITELLM", ROOT / ".venv-litellm" / "bin" / "litellm"))
CONFIG = """
model_list:
  - {model_name: big-model, litellm_params: {model: openai/gpt-4o, api_key: none, mock_response: "I am big."}}
  - {model_name: small-model, litellm_params: {model: openai/gpt-4o-mini, api_key: none, mock_response: "I am small."}}
guardrails:
  - guardrail_name: otel-cost
    litellm_params: {guardrail: otel_cost.guard.litellm.CostGuardrail, mode: pre_call, default_on: true}
"""


class Proxy:
    def __init__(self, folder: Path, api: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            self.port = taken.getsockname()[1]
        (folder / "litellm.yaml").write_text(CONFIG)
        self.log = folder / "litellm.txt"
        environment = os.environ | {
            "OTEL_COST_API": api,
            "PYTHONPATH": str(ROOT),
            "NO_PROXY": "127.0.0.1",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        }
        arguments = ["--config", "litellm.yaml", "--host", "127.0.0.1", "--port", str(self.port)]
        self.process = subprocess.Popen(
            [str(PROXY), *arguments], cwd=folder, env=environment, stdout=self.log.open("ab"), stderr=subprocess.STDOUT
        )
        until(self._ready, 110)

    def _ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health/liveliness", timeout=2) as answer:
                return answer.status == 200
        except OSError:
            return False

    def chat(self, messages: list[dict[str, Any]], session: str, **more: Any) -> dict[str, Any]:
        body = {"model": "big-model", "messages": messages, "litellm_session_id": session, **more}
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())

    def loop(self, session: str, turns: int = 5) -> list[str]:
        """An agent whose tests fail each time; what the model said in each turn."""
        messages: list[dict[str, Any]] = [{"role": "user", "content": "Make the tests pass."}]
        said = []
        for turn in range(turns):
            answer = self.chat(messages, session)["choices"][0]["message"]["content"]
            said.append(answer)
            call = {"id": f"{session}_{turn}", "type": "function", "function": {"name": "run_tests", "arguments": "{}"}}
            messages += [
                {"role": "assistant", "content": answer, "tool_calls": [call]},
                {
                    "role": "tool",
                    "tool_call_id": call["id"],
                    "content": f"Error: 3 tests failed in 0.{turn}s, line {turn}",
                },
            ]
        return said


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Callable[[str], Proxy]]:
    if not PROXY.exists():
        missing("litellm", "make integrations")
    started: list[Proxy] = []

    def start(api: str) -> Proxy:
        started.append(Proxy(tmp_path, api))
        return started[-1]

    yield start
    for one in started:
        one.process.send_signal(signal.SIGKILL)
        one.process.wait(30)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_is_stopped_and_others_are_not_and_then_nobody_answers(
    serve: Serve, proxy: Callable[[str], Proxy]
) -> None:
    process = serve(STOP)
    litellm = proxy(process.api)
    assert litellm.loop("s-1") == ["I am big."] * 3 + [STOP_TEXT] * 2
    assert litellm.chat([{"role": "user", "content": "Hi."}], "s-2")["choices"][0]["message"]["content"] == "I am big."
    until(lambda: process.get("/v1/runs/s-1")["llm_calls"] == 3)
    story = process.get("/v1/runs/s-1")
    assert (story["tool_calls"], story["cost_usd"] is not None) == (4, True)
    process.stop()
    assert litellm.loop("s-1", turns=1) == [STOP_TEXT]  # what was said outlasts the service
    assert litellm.loop("s-3") == ["I am big."] * 5


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("rules", "said", "took_s"),
    [
        (DOWNGRADE, ["I am big."] * 3 + ["I am small."] * 2, 0),
        (DELAY, ["I am big."] * 5, 0.6),
        (WARN, ["I am big."] * 5, 0),
        (ESCALATION, ["I am small."] * 2 + ["I am big."] * 3, 0),
    ],
)
def test_a_run_is_slowed_down_downgraded_or_warned(
    serve: Serve, proxy: Callable[[str], Proxy], rules: str, said: list[str], took_s: float
) -> None:
    litellm = proxy(serve(rules).api)
    began = time.monotonic()
    assert litellm.loop("s") == said
    assert time.monotonic() - began >= took_s
