"""Two services on one ledger that see the same loops: each alert is told once, to backends and to people."""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from running import Process, until

sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))

from kill_loop import looping_runs

if TYPE_CHECKING:
    from backends import OverGrpc, OverHttp

    from postgres import Server

RULES = """
version: 1
loops:
  - {{name: same-error-3x, detect: repeated_error, with: {{count: 3}}, do: [{{alert: people}}]}}
contacts:
  - {{name: people, file: {{path: {told}}}}}
"""


@pytest.mark.slow
def test_each_alert_is_told_once(postgres: Server, backends: tuple[OverGrpc, OverHttp], tmp_path: Path) -> None:
    url, (_, backend) = postgres.url(), backends
    nodes = []
    for name in ("one", "other"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "rules.yaml").write_text(RULES.format(told=folder / "told.jsonl"))
        config = f"ledger: {url}\nrules: [rules.yaml]\nengine: {{settle: 100ms, idle: 3s}}\n"
        config += f"exporters: {{otlp_http: {{endpoint: 'http://127.0.0.1:{backend.port}'}}}}\n"
        nodes.append(Process(folder, config))
    try:
        for body in looping_runs(20, 3):
            for node in nodes:
                headers = {"Content-Type": "application/x-protobuf"}
                asked = urllib.request.Request(f"http://{node.http}/v1/traces", body, headers)
                urllib.request.urlopen(asked, timeout=60).close()

        def told() -> list[str]:
            files = [tmp_path / name / "told.jsonl" for name in ("one", "other")]
            return [json.loads(line)["id"] for file in files if file.exists() for line in file.read_text().splitlines()]

        def exported() -> list[str]:
            logs = [log for log in backend.logs() if log.event_name == "otel_cost.alert"]
            said = [{one.key: one.value.string_value for one in log.attributes} for log in logs]
            return [one["otel_cost.alert.id"] for one in said]

        # Each fires, and is resolved when its run has been quiet for a while.
        until(lambda: len(exported()) == 40 and len(told()) >= 20)
        assert nodes[0].stop() == nodes[1].stop() == 0
        assert len(exported()) == len(set(exported())) == 40
        assert len(told()) == len(set(told()))  # people hear that one is resolved when their group is told again
        assert set(told()) <= set(exported())
    finally:
        for node in nodes:
            node.process.kill()
