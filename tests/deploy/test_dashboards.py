"""What is shipped for Prometheus and Grafana asks only for what the service tells."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from needs import need_program

sys.path.insert(0, str(Path(__file__).parents[1] / "flow"))

from running import Process, until

from otel_cost.guard import Guard

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "otel-cost.rules.yaml"
DASHBOARD = ROOT / "deploy" / "grafana" / "otel-cost.json"
ENRICH = "".join(file.read_text() for file in (ROOT / "otel_cost" / "core" / "enrich").glob("*.py"))
CONFIG = """
rules: []
exporters: {otlp_http/b: {endpoint: "http://127.0.0.1:9"}}
service: {pipelines: {traces: {receivers: [otlp], exporters: [otlp_http/b]}}}
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The metrics of a service that has answered a hook."""
    process = Process(tmp_path_factory.mktemp("service"), CONFIG)
    Guard(process.api, timeout_s=30).run("s").before_tool("x", {})
    until(lambda: "otel_cost_hooks_total" in process.get("/metrics"))
    yield process.get("/metrics")
    process.stop()


def metrics_of(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:otel_cost|otelcol)_\w+", expression))


def panels() -> list[dict]:
    return json.loads(DASHBOARD.read_text())["panels"]


def queries(kind: str, key: str) -> list[str]:
    return [target[key] for panel in panels() if panel["datasource"]["type"] == kind for target in panel["targets"]]


def test_alert_rules_ask_for_metrics_that_there_are(told: str) -> None:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    assert len({rule["alert"] for rule in group["rules"]}) == len(group["rules"]) >= 8
    for rule in group["rules"]:
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["annotations"]["summary"]
        for name in metrics_of(rule["expr"]):
            assert re.search(rf"^{name}(?:{{| )", told, re.MULTILINE), name


def test_the_dashboard_asks_for_metrics_and_attributes_that_there_are(told: str) -> None:
    for query in queries("prometheus", "expr"):
        assert metrics_of(query)
        for name in metrics_of(query):
            assert re.search(rf"^{name}(?:{{| )", told, re.MULTILINE), name
    for query in queries("tempo", "query"):
        names = re.findall(r"span\.(otel_cost\.[\w.]+)", query)
        assert names
        for name in names:
            assert f'"{name}"' in ENRICH, name


def test_the_dashboard_has_no_two_panels_in_one_place() -> None:
    places = [panel["gridPos"] for panel in panels()]
    for number, one in enumerate(places):
        assert one["x"] + one["w"] <= 24
        for other in places[:number]:
            apart = one["x"] >= other["x"] + other["w"] or other["x"] >= one["x"] + one["w"]
            assert apart or one["y"] >= other["y"] + other["h"] or other["y"] >= one["y"] + one["h"]
    assert len({panel["id"] for panel in panels()}) == len(places)


def test_promtool_agrees() -> None:
    promtool = need_program("promtool", "apt-get install prometheus")
    checked = subprocess.run(
        [promtool, "check", "rules", str(RULES)], capture_output=True, text=True, timeout=60, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
