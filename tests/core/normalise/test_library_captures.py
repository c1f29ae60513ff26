"""What real libraries sent: the usage of their own model spans adds up to what is expected."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING

import pytest

from otel_cost.core.decode.otlp import decode_traces
from otel_cost.core.model.vocabulary import MODEL_KINDS, Kind
from otel_cost.core.normalise import normalise_span

if TYPE_CHECKING:
    from pathlib import Path

    from otel_cost.core.model.step import Step

# Clients whose every call is told by exactly one model span: no joining is needed to add them up.
CLIENTS = [
    "google-genai-otel",
    "openai-agents-openinference",
    "openinference-openai",
    "openlit-openai",
    "otel-openai-v2",
    "pydantic-ai",
    "traceloop-openai",
]


def steps_of(folder: Path, scenario: str) -> list[Step]:
    steps = []
    for path in sorted(folder.glob(f"{scenario}.[0-9]*.traces.pb*")):
        body = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        told = [normalise_span(span) for span in decode_traces(body, "default", 0).events]
        steps += [step for step in told if step is not None]
    return steps


@pytest.mark.parametrize("client", CLIENTS)
def test_usage_of_model_spans(shared: Path, client: str) -> None:
    captures = shared / "captures"
    expected = json.loads((captures / "expected.json").read_text())
    scenarios = [name for name in expected if name.startswith(f"{client}/")]
    assert scenarios
    for name in scenarios:
        steps = steps_of(captures / client, name.partition("/")[2])
        calls = [step for step in steps if step.kind in MODEL_KINDS and not step.rollup]
        usages = [step.usage for step in calls if step.usage is not None]
        best = expected[name]
        assert len(usages) == best["calls"], name
        assert sum(step.failed for step in calls) == best["failed"], name
        assert sum(step.kind is Kind.TOOL for step in steps) == best["tools"], name
        for field in ("input", "output", "cache_read", "cache_write", "reasoning"):
            if best[field] is not None:
                assert sum(getattr(usage, field) or 0 for usage in usages) == best[field], (name, field)
        assert all(step.problem is None for step in steps), name


def test_roll_ups_never_look_like_calls(shared: Path) -> None:
    steps = steps_of(shared / "captures" / "pydantic-ai-anthropic", "cached_an")
    agents = [step for step in steps if step.kind is Kind.AGENT]
    assert [step.rollup for step in agents] == [True]
    assert agents[0].usage is not None
    by_voice = [
        sum(step.usage.input for step in steps if step.usage and step.scope == scope and not step.rollup)
        for scope in ("pydantic-ai", "com.anthropic.sdk.python")
    ]
    assert by_voice == [agents[0].usage.input] * 2


def test_litellms_raw_children_tell_what_the_applications_span_lost(shared: Path) -> None:
    steps = steps_of(shared / "captures" / "litellm-otel", "agent")
    (agent,) = [step for step in steps if step.kind is Kind.AGENT]
    below = [step for step in steps if step.parent_id == agent.span_id]
    assert agent.usage is not None
    assert len({step.usage for step in below}) == len(below) > 1
    assert agent.usage in {step.usage for step in below}
