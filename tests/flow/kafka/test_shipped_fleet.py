"""The config that is shipped for a fleet, as it is, on a real Kafka and a real PostgreSQL: two workers, one ledger."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2]))

from work import work
from workers import write

from postgres import running

if TYPE_CHECKING:
    from brokers import Kafka

CONFIG = Path(__file__).parents[3] / "deploy" / "kubernetes" / "fleet" / "otel-cost.yaml"
INGEST, OPERATOR = "ingest-key-of-16-or-more", "operator-key-of-16-or-more"
TRACES, SPANS = 6, 10


def asked(api: str, path: str) -> Any:
    request = urllib.request.Request(api + path, headers={"authorization": f"Bearer {OPERATOR}"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def calls(api: str) -> int:
    with suppress(urllib.error.URLError, OSError):
        return sum(int(row["calls"]) for row in asked(api, "/v1/report")["rows"])
    return 0


def calls_in(bodies: list[bytes]) -> int:
    """Spans that tell of a model or tool call."""
    spans = [
        span
        for body in bodies
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    named = [one.value.string_value for span in spans for one in span.attributes if one.key == "gen_ai.operation.name"]
    return sum(name in {"chat", "execute_tool"} for name in named)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_workers_of_the_shipped_config_share_what_there_is(kafka: Kafka, tmp_path: Path) -> None:
    kafka.create(**dict.fromkeys(("otlp_spans", "otlp_logs", "otel-cost.steps", "otel-cost.dead-letter"), 4))
    started: list[subprocess.Popen[str]] = []
    with running() as server:
        environ = os.environ | {
            "KAFKA_BROKER": kafka.bootstrap.split(",")[0],
            "LEDGER_URL": server.url(),
            "OTEL_COST_INGEST_KEY": INGEST,
            "OTEL_COST_OPERATOR_KEY": OPERATOR,
        }
        apis = []
        try:
            for name in ("worker-0", "worker-1"):
                with (tmp_path / f"{name}.log").open("w") as log:
                    process = subprocess.Popen(
                        [
                            sys.executable,
                            "-m",
                            "otel_cost",
                            "serve",
                            "-c",
                            str(CONFIG),
                            "--set",
                            "api.endpoint=127.0.0.1:0",
                        ],
                        stdout=subprocess.PIPE,
                        stderr=log,
                        text=True,
                        env=environ | {"HOSTNAME": name, "OTEL_COST_DATA_DIR": str(tmp_path / name)},
                    )
                started.append(process)
                assert process.stdout is not None
                ready = re.search(r"api=(\S+)", process.stdout.readline())
                assert ready is not None, (tmp_path / f"{name}.log").read_text()
                apis.append(ready[1])
            bodies = work(TRACES, SPANS)
            write(kafka.bootstrap, "otlp_spans", bodies)
            # Everybody's runs, whichever worker is asked, and each call once.
            deadline, found = time.monotonic() + 360, list[int]()
            while time.monotonic() < deadline and found != [calls_in(bodies)] * 2:
                found = [calls(api) for api in apis]
                time.sleep(0.5)
            assert found == [calls_in(bodies)] * 2
            assert asked(apis[0], "/v1/report?by=user") == asked(apis[1], "/v1/report?by=user")
            with pytest.raises(urllib.error.HTTPError, match="401"):
                urllib.request.urlopen(apis[0] + "/v1/report", timeout=60)
        finally:
            for process in started:
                process.send_signal(signal.SIGTERM)
            for process in started:
                process.wait(180)
