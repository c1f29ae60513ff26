"""Coverage-guided fuzzing of everything that reads what strangers write.

    python tests/fuzz/targets.py TARGET [-max_total_time=60] [CORPUS]     (options are libFuzzer's)

Needs `atheris` (`pip install --group fuzz`). A finding is written to `crash-…` by libFuzzer.
"""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

import atheris

with atheris.instrument_imports(include=["otel_cost"]):
    from otel_cost.core.decode.otlp import decode_logs, decode_metrics, decode_traces
    from otel_cost.core.decode.otlp_json import json_to_protobuf
    from otel_cost.core.hooks import HOOKS, read_hook
    from otel_cost.core.model.effects import Signal
    from otel_cost.core.normalise import normalise_log, normalise_span
    from otel_cost.core.redact import Redactor, Rule
    from otel_cost.core.rules import load_rules
    from otel_cost.document import parse_document
    from otel_cost.edge.receive.compression import decompress
    from otel_cost.edge.receive.refusals import RefusalError
    from otel_cost.errors import DecodeError, DocumentError

if TYPE_CHECKING:
    from collections.abc import Callable

_REDACTOR = Redactor(Rule.HASH, {}, b"k")
_DIALECTS = sorted(HOOKS)


def traces(data: bytes) -> None:
    """Decoded records are normalised too: what is kept must be readable to the last stage."""
    try:
        for span in decode_traces(data, "t", 1).events:
            normalise_span(span)
        _REDACTOR.redact(Signal.TRACES, data, "t")
    except DecodeError:
        pass


def logs(data: bytes) -> None:
    try:
        for record in decode_logs(data, "t", 1).events:
            normalise_log(record)
        _REDACTOR.redact(Signal.LOGS, data, "t")
    except DecodeError:
        pass


def metrics(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        decode_metrics(data, "t", 1)


def json(data: bytes) -> None:
    for signal in Signal:
        try:
            json_to_protobuf(signal, data)
        except DecodeError:
            continue


def hooks(data: bytes) -> None:
    dialect = _DIALECTS[data[0] % len(_DIALECTS)] if data else _DIALECTS[0]
    body = _REDACTOR.redact_hook(data[1:], "t")
    for one in (data[1:], body):
        try:
            read_hook(dialect, one, 1)
        except DecodeError:
            continue


def rules(data: bytes) -> None:
    with contextlib.suppress(DocumentError):
        load_rules([parse_document(data.decode("utf-8", "replace"), "rules.yaml")])


def compression(data: bytes) -> None:
    for encoding in ("gzip", "deflate", "zstd"):
        try:
            decompress(data, encoding, 1 << 16)
        except RefusalError:
            continue


TARGETS: dict[str, Callable[[bytes], None]] = {
    one.__name__: one for one in (traces, logs, metrics, json, hooks, rules, compression)
}


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"name a target: {', '.join(TARGETS)}")
    atheris.Setup([sys.argv[0], *sys.argv[2:]], TARGETS[sys.argv[1]])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
