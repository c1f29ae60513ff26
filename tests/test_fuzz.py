"""Whatever is sent or written, it is understood or refused with its own error: nothing else comes out.

Decoding has properties of its own in `tests/core/decode`; these are hooks, rules and config.
"""

# ruff: noqa: PT017 - lists of keys; and that it fails is not asked for; how it fails is.
from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_cost.core.hooks import HOOKS, read_hook
from otel_cost.core.model.effects import Signal
from otel_cost.core.redact import Redactor, Rule
from otel_cost.core.rules import load_rules
from otel_cost.document import parse_document
from otel_cost.edge.config import check_config
from otel_cost.edge.receive.compression import decompress
from otel_cost.edge.receive.refusals import RefusalError
from otel_cost.errors import DecodeError, DocumentError, OtelCostError

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=20,
)
HOOK_KEYS = st.sampled_from(
    [
        "session_id",
        "hook_event_name",
        "tool_name",
        "tool_input",
        "tool_response",
        "event",
        "tool",
        "args",
        "toolName",
        "toolArgs",
        "prompt",
        "cwd",
        "transcript_path",
        "model",
        "error",
        "trace_id",
        "timestamp",
        "llm_request",
    ]
)
RULE_KEYS = st.sampled_from(
    [
        "version",
        "defaults",
        "budgets",
        "loops",
        "exceptions",
        "identity",
        "name",
        "detect",
        "with",
        "count",
        "do",
        "deny",
        "match",
        "mode",
        "limit",
        "usd",
        "window",
        "per",
        "warn",
        "at",
        "at_limit",
        "not",
        "any",
        "re",
        "expires",
        "owner",
    ]
)
CONFIG_KEYS = st.sampled_from(
    [
        "receivers",
        "otlp",
        "protocols",
        "grpc",
        "http",
        "endpoint",
        "exporters",
        "file",
        "path",
        "api",
        "journal",
        "fsync",
        "auth",
        "keys",
        "name",
        "hash",
        "tenant",
        "tls",
        "cert_file",
        "content",
        "default",
        "service",
        "pipelines",
        "traces",
    ]
)


def documents(keys: st.SearchStrategy[str]) -> st.SearchStrategy[object]:
    words = st.sampled_from(["1h", "5s", "80%", "repeated_error", "team", "127.0.0.1:0", "*", "(", "keep", "sha256:0"])
    return st.recursive(
        SCALARS | words,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=5),
        max_leaves=25,
    )


@pytest.mark.parametrize("dialect", sorted(HOOKS))
@given(body=st.dictionaries(HOOK_KEYS, JSON, max_size=8) | JSON, junk=st.binary(max_size=30))
@settings(max_examples=60)
def test_hooks(dialect: str, body: object, junk: bytes) -> None:
    for payload in (json.dumps(body).encode(), json.dumps(body).encode()[:-1], junk):
        try:
            event = read_hook(dialect, payload, 1)
        except DecodeError:
            continue
        assert event.received_ns == 1


def _written(value: object) -> str:
    return yaml.safe_dump(value, allow_unicode=True)


@given(documents(RULE_KEYS))
@settings(max_examples=150)
def test_rules(value: object) -> None:
    try:
        load_rules([parse_document(_written(value), "rules.yaml")])
    except DocumentError as error:
        assert all(problem.line >= 1 and problem.message for problem in error.problems)


@given(documents(CONFIG_KEYS))
@settings(max_examples=150)
def test_config(value: object) -> None:
    try:
        check_config(parse_document(_written(value), str(Path("config.yaml"))))
    except OtelCostError as error:
        assert str(error)


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda raw: raw.decode("latin-1")))
def test_yaml_of_any_text(text: str) -> None:
    try:
        parse_document(text, "any.yaml")
    except DocumentError as error:
        assert error.problems


@given(st.binary(max_size=200), st.sampled_from(["gzip", "deflate", "zstd"]), st.integers(0, 300))
def test_decompression(body: bytes, encoding: str, limit: int) -> None:
    try:
        assert len(decompress(body, encoding, limit)) <= limit
    except RefusalError as refused:
        assert refused.http_status in {400, 413}


@given(st.binary(max_size=200), st.sampled_from(list(Signal)))
def test_redaction(payload: bytes, signal: Signal) -> None:
    try:
        Redactor(Rule.DROP, {}, b"k").redact(signal, payload, "t")
    except DecodeError as error:
        assert str(error)
