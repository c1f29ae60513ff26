"""Each preset line by line: where it sends, with which headers, and which keys make the cost show there."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from test_kinds import NANO, USAGE, WITH_FEE, call, span, vendor_keys

from otel_cost.core.model.effects import Signal
from otel_cost.core.model.vocabulary import Kind
from otel_cost.edge.export import EXPORTERS

SHEET = Path(os.environ.get("OTEL_COST_SHARED", Path(__file__).parents[4] / "shared")) / "reference" / "backends.md"
ALL, TRACES = frozenset(Signal), frozenset({Signal.TRACES})


@dataclass(frozen=True)
class Line:
    preset: str
    settings: dict[str, Any]
    url: str  # of traces
    headers: dict[str, str] = field(default_factory=dict)
    signals: frozenset[Signal] = TRACES


BASIC_LANGFUSE = {"authorization": "Basic cGs6c2s=", "x-langfuse-ingestion-version": "4"}
KEYS = {"public_key": "pk", "secret_key": "sk"}
LINES = [
    Line("honeycomb", {"api_key": "k"}, "https://api.honeycomb.io/v1/traces", {"x-honeycomb-team": "k"}, ALL),
    Line(
        "honeycomb",
        {"api_key": "k", "region": "eu", "dataset": "d"},
        "https://api.eu1.honeycomb.io/v1/traces",
        {"x-honeycomb-team": "k", "x-honeycomb-dataset": "d"},
        ALL,
    ),
    Line("langsmith", {"api_key": "k"}, "https://api.smith.langchain.com/otel/v1/traces", {"x-api-key": "k"}),
    *(
        Line(
            "langsmith",
            {"api_key": "k", "region": region, "project": "p", "tenant_id": "t"},
            f"https://{region}.api.smith.langchain.com/otel/v1/traces",
            {"x-api-key": "k", "langsmith-project": "p", "x-tenant-id": "t"},
        )
        for region in ("eu", "apac", "aws")
    ),
    Line(
        "langsmith",
        {"api_key": "k", "endpoint": "https://smith.example.com/api/v1/otel"},
        "https://smith.example.com/api/v1/otel/v1/traces",
        {"x-api-key": "k"},
    ),
    Line("langfuse", KEYS, "https://cloud.langfuse.com/api/public/otel/v1/traces", BASIC_LANGFUSE),
    *(
        Line(
            "langfuse",
            {**KEYS, "region": region},
            f"https://{region}.cloud.langfuse.com/api/public/otel/v1/traces",
            BASIC_LANGFUSE,
        )
        for region in ("us", "jp", "hipaa")
    ),
    Line("phoenix", {"endpoint": "http://phoenix:6006"}, "http://phoenix:6006/v1/traces"),
    Line(
        "phoenix",
        {"endpoint": "https://app.phoenix.arize.com/s/space", "api_key": "k"},
        "https://app.phoenix.arize.com/s/space/v1/traces",
        {"authorization": "Bearer k"},
    ),
    *(
        Line(
            "datadog",
            {"api_key": "k", "site": site},
            f"https://otlp.{site}/v1/traces",
            {"dd-api-key": "k", "dd-otlp-source": "llmobs"},
        )
        for site in (
            "datadoghq.com", "us3.datadoghq.com", "us5.datadoghq.com", "ap1.datadoghq.com", "ap2.datadoghq.com",
            "datadoghq.eu",
        )
    ),
    Line(
        "grafana",
        {"endpoint": "https://otlp-gateway-prod-eu-west-0.grafana.net/otlp", "instance_id": "42", "token": "glc"},
        "https://otlp-gateway-prod-eu-west-0.grafana.net/otlp/v1/traces",
        {"authorization": "Basic NDI6Z2xj"},
        ALL,
    ),
]  # fmt: skip


@pytest.mark.parametrize("line", LINES, ids=lambda line: f"{line.preset} {line.url.split('/')[2]}")
def test_where_it_sends_and_with_which_headers(line: Line) -> None:
    kind = EXPORTERS[line.preset]
    exporter: Any = kind.build(kind.settings.model_validate(line.settings))
    assert exporter._urls[Signal.TRACES] == line.url
    ours = {"content-type", "content-encoding", "user-agent"}
    assert {name: value for name, value in exporter._headers.items() if name not in ours} == line.headers
    assert exporter._headers["content-type"] == "application/x-protobuf"
    assert kind.signals == line.signals
    if Signal.LOGS in kind.signals:
        assert exporter._urls[Signal.LOGS] == line.url.removesuffix("traces") + "logs"
    exporter.close()


@pytest.mark.parametrize("preset", sorted({line.preset for line in LINES}))
def test_requests_stay_below_every_known_limit(preset: str) -> None:
    settings = EXPORTERS[preset].settings.model_validate(next(one.settings for one in LINES if one.preset == preset))
    batch = settings.sending_queue.batch
    assert (batch.max_size, batch.max_bytes) == (512, 900_000)  # 1 MB per event and 3.5 MB per request are the tightest


def test_the_reference_names_what_is_expected_here() -> None:
    if not SHEET.exists():
        pytest.skip(f"{SHEET} is not there; set OTEL_COST_SHARED")
    sheet = SHEET.read_text(encoding="utf-8").lower()
    for line in LINES:
        assert all(name in sheet for name in line.headers), line
    for words in SAID_THERE:
        assert words in sheet, words
        assert any(words in line.url for line in LINES), words
    for key in COST_KEYS.values():
        assert all(name.lower() in sheet for name in key), key


# As the reference writes endpoints.
SAID_THERE = (
    "https://api.honeycomb.io", "https://api.eu1.honeycomb.io", "https://api.smith.langchain.com/otel/v1/traces",
    "eu.api.smith", "apac.api.smith", "aws.api.smith", "/api/v1/otel", "https://cloud.langfuse.com/api/public/otel",
    "us.cloud", "jp.cloud", "hipaa.cloud", ":6006/v1/traces", "https://app.phoenix.arize.com/s/",
    "datadoghq.com", "us3.", "us5.", "ap1.", "ap2.datadoghq.com", "datadoghq.eu", "https://otlp-gateway-",
    ".grafana.net/otlp",
)  # fmt: skip

# The keys by which each shows tokens and cost, as its section of the reference says; none where it reads ours.
COST_KEYS: dict[str, set[str]] = {
    "honeycomb": set(),
    "langsmith": {"langsmith.usage_metadata", "langsmith.span.kind"},
    "langfuse": {"langfuse.observation.usage_details", "langfuse.observation.cost_details"},
    "phoenix": {"llm.token_count.", "llm.cost.", "openinference.span.kind", "llm.model_name", "llm.provider"},
    "datadog": set(),
    "grafana": set(),
}


def keys_for(preset: str, outgoing: Any) -> dict[str, object]:
    return {} if EXPORTERS[preset].extra_attributes is None else vendor_keys(preset, outgoing)


@pytest.mark.parametrize("preset", sorted(COST_KEYS))
def test_vendor_keys_are_those_and_no_others(preset: str) -> None:
    priced = call(WITH_FEE)
    priced.step.provider, priced.step.requested_model = "openai", "gpt-5"
    said = keys_for(preset, span(priced))
    wanted = COST_KEYS[preset]
    assert {next((key for key in wanted if name.startswith(key)), name) for name in said} == wanted


def numbers(value: object) -> dict[str, Any]:
    return json.loads(str(value), parse_float=Decimal, parse_int=Decimal)


def test_costs_are_exact_sums_of_the_ledger() -> None:
    whole = Decimal(sum(WITH_FEE.values())) / 10**9
    smith = numbers(keys_for("langsmith", span(call(WITH_FEE)))["langsmith.usage_metadata"])
    assert smith["total_cost"] == whole
    assert smith["input_tokens"] == USAGE.input  # inclusive, with the cached part as a detail of it
    assert smith["input_token_details"]["cache_read"] == USAGE.cache_read
    fuse = keys_for("langfuse", span(call(WITH_FEE)))
    costs, usage = (numbers(fuse[f"langfuse.observation.{name}_details"]) for name in ("cost", "usage"))
    assert costs["total"] == whole == sum(cost for name, cost in costs.items() if name != "total")
    assert usage["total"] == USAGE.input + USAGE.output == sum(n for name, n in usage.items() if name != "total")
    assert all(re.fullmatch(r"\d+(\.\d{1,12})?", str(one)) for one in costs.values())


@pytest.mark.parametrize("preset", sorted(COST_KEYS))
@pytest.mark.parametrize("why", ["parent", "tool", "no price"])
def test_no_cost_is_written_where_there_is_none(preset: str, why: str) -> None:
    """Every backend sums: a figure on a parent counts twice, and a zero reads as free."""
    outgoing = {
        "parent": span(None),
        "tool": span(call(NANO, kind=Kind.TOOL)),
        "no price": span(call(None)),
    }[why]
    said = keys_for(preset, outgoing)
    assert not [name for name in said if "cost" in name]
    assert "cost" not in json.dumps(said)
    if why != "no price":
        assert said == {}


def test_phoenix_keeps_what_the_sender_said_of_kind_and_model() -> None:
    mine = span(call(NANO), openinference__span__kind="CHAIN", llm__model_name="mine")
    said = keys_for("phoenix", mine)
    assert not {"openinference.span.kind", "llm.model_name"} & said.keys()
    assert said["llm.token_count.prompt"] == USAGE.input
    assert keys_for("phoenix", span(call(NANO, kind=Kind.EMBEDDING)))["openinference.span.kind"] == "EMBEDDING"
