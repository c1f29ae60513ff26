"""One plugin is one file: dropped into its folder it works, and nothing else is touched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from otel_cost.core.detect import DETECTORS
from otel_cost.core.normalise import DIALECTS
from otel_cost.edge.export import EXPORTERS
from otel_cost.edge.notify import SINKS

ROOT = Path(__file__).resolve().parents[2]

DETECTOR = '''
"""Every call of one tool is too many."""

from pydantic import BaseModel

from otel_cost.core.detect import Detector, register
from otel_cost.core.model.finding import Finding
from otel_cost.core.model.vocabulary import Category, Severity


class Settings(BaseModel):
    tool: str


def observe(state, seen, settings):
    if seen.step.tool == settings.tool and not state:
        state.append(seen.step.span_id)
        yield Finding(
            detector="too_many", span_ids=tuple(state), onset_span_id=state[0], at_span_id=state[0],
            wasted_nano=0, shape=settings.tool, summary=f"{settings.tool} was called", severity=Severity.NOTICE,
        )


register(Detector(name="too_many", category=Category.WASTE, settings=Settings, state=list, observe=observe))
'''


def test_a_detector_is_one_file(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "otel_cost", tmp_path / "otel_cost", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "rules", tmp_path / "rules")
    (tmp_path / "otel_cost/core/detect/too_many.py").write_text(DETECTOR)
    rules = tmp_path / "mine.yaml"
    rules.write_text("version: 1\nloops: [{name: mine, detect: too_many, with: {tool: read_file}}]\n")
    told = subprocess.run(
        [
            *(sys.executable, "-m", "otel_cost", "replay", "--json", "--rules", str(rules)),
            str(ROOT / "samples/context-backpack.jsonl"),
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    alerts = [line for line in map(json.loads, told.stdout.splitlines()) if line["type"] == "alert"]
    assert next((alert["rule"], alert["kind"], alert["state"]) for alert in alerts) == ("mine", "too_many", "firing")


@pytest.mark.parametrize(
    ("registry", "folder"),
    [
        pytest.param(DIALECTS, "core/normalise", id="dialects"),
        pytest.param(DETECTORS, "core/detect", id="detectors"),
        pytest.param(EXPORTERS, "edge/export", id="exporters"),
        pytest.param(SINKS, "edge/notify", id="sinks"),
    ],
)
def test_every_file_registers_one_and_is_named_after_it(registry: dict[str, object], folder: str) -> None:
    files = {path.stem for path in (ROOT / "otel_cost" / folder).glob("[!_]*.py")}
    assert files <= set(registry)


def test_detectors_start_quiet_and_describe_their_settings() -> None:
    for name, detector in DETECTORS.items():
        assert detector.settings.model_json_schema()["properties"] is not None, name
        assert detector.state() is not None, name
