"""`otel-cost serve` with a Kafka receiver, as processes of their own, and what they say all together."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from confluent_kafka import Producer
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

CONFIG = """
receivers:
  kafka:
    brokers: [{brokers}]
    group_instance_id: {name}
    group_id: {topics}
    traces: {{topic: {topics}_spans}}
    logs: {{topic: {topics}_logs}}
    steps: {{topic: {topics}_steps}}
    dead_letter: {{topic: {topics}_dead}}
    session_timeout: 6s
    heartbeat_interval: 1s
engine: {{settle: 500ms, idle: {idle}}}
{more}
"""


class Worker:
    """One worker; `name` is its own over restarts, `topics` what the names of its topics begin with."""

    def __init__(self, folder: Path, name: str, brokers: str, topics: str, more: str = "", idle: str = "30m") -> None:
        self.name, self._folder = name, folder / name
        self._folder.mkdir(parents=True, exist_ok=True)
        quoted = ", ".join(f'"{broker}"' for broker in brokers.split(","))
        self.config = self._folder / "config.yaml"
        self.config.write_text(CONFIG.format(brokers=quoted, name=name, topics=topics, more=more, idle=idle))
        self.log = self._folder / "log.txt"
        self.process: subprocess.Popen[str] | None = None
        self.api = ""

    def start(self) -> Worker:
        command = [sys.executable, "-m", "otel_cost", "serve", "-c", str(self.config)]
        command += ["--data-dir", str(self._folder / "data"), "--set", "api.endpoint=127.0.0.1:0"]
        environment = os.environ | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        ready = re.fullmatch(r"otel-cost ready api=(\S+)\n", line)
        assert ready, line + self.log.read_text()
        self.api = ready[1]
        return self

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.api + path, timeout=60) as answer:
            body = answer.read().decode()
        return json.loads(body) if answer.headers["Content-Type"].startswith("application/json") else body

    def is_ready(self) -> bool:
        with suppress(urllib.error.URLError, OSError):
            self.get("/readyz")
            return True
        return False

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(180)

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def metric(self, name: str) -> float:
        """The sum over all labels."""
        lines = [line for line in self.get("/metrics").splitlines() if re.match(rf"{name}(_total)?[ {{]", line)]
        return sum(float(line.rpartition(" ")[2]) for line in lines)


def write(brokers: str, topic: str, bodies: Iterable[bytes]) -> None:
    """As a Collector writes: each request under the id of its trace."""
    producer = Producer({"bootstrap.servers": brokers, "log_level": 0, "message.max.bytes": 10_000_000})
    failed: list[object] = []
    for body in bodies:
        producer.produce(
            topic, body, _trace_of(body), on_delivery=lambda error, _: failed.append(error) if error else None
        )
        producer.poll(0)
    assert producer.flush(240) == 0
    assert not failed


def _trace_of(body: bytes) -> bytes | None:
    try:
        request = ExportTraceServiceRequest.FromString(body)
    except DecodeError:
        return None
    return request.resource_spans[0].scope_spans[0].spans[0].trace_id


def steady(read: Any, seconds: float = 300, still_s: float = 3.0) -> Any:
    """What `read` says once it has said the same for a while."""
    deadline, since, last = time.monotonic() + seconds, time.monotonic(), object()
    while time.monotonic() < deadline:
        said = read()
        if said != last:
            last, since = said, time.monotonic()
        elif time.monotonic() - since >= still_s:
            return said
        time.sleep(0.25)
    raise AssertionError("it never came to rest")
