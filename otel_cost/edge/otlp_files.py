"""OTLP files: export requests as bodies on disk, in the order in which they are to be fed."""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from otel_cost.core.decode.otlp import decode_traces
from otel_cost.core.decode.otlp_json import json_to_protobuf
from otel_cost.core.model.effects import Signal
from otel_cost.errors import DecodeError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_TOP_KEYS: Final = {"resourceSpans": Signal.TRACES, "resourceLogs": Signal.LOGS, "resourceMetrics": Signal.METRICS}


class NotOtlpError(DecodeError):
    """JSON of something else."""


@dataclass(slots=True, frozen=True)
class Request:
    """One export request as protobuf. `origin` names the file, and the line of a `.jsonl`."""

    signal: Signal
    payload: bytes
    origin: str


def otlp_files(paths: Iterable[Path]) -> tuple[list[Path], int]:
    """The OTLP files among `paths` in the order to be read, folders in sorted order; and how many others there were.

    Raises:
        UsageError: a path does not exist.
    """
    found: list[Path] = []
    skipped = 0
    for path in paths:
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder")
        for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
            if _form(file) is None:
                skipped += 1
            else:
                found.append(file)
    return found, skipped


def requests(path: Path) -> Iterator[Request]:
    """Every export request of one file.

    Raises:
        UsageError: the signal of a `.pb` file cannot be told from its name or its content.
        NotOtlpError: the file, or one of its lines, is JSON of something else.
        DecodeError: it cannot be read.
    """
    form = _form(path)
    body = _unpacked(path)
    if form == "pb":
        yield Request(_signal_of(path, body), body, str(path))
        return
    if form == "json":
        yield _from_json(body, str(path))
        return
    for number, line in enumerate(body.splitlines(), 1):
        if line.strip():
            yield _from_json(line, f"{path}:{number}")


def _form(path: Path) -> str | None:
    name = path.name.removesuffix(".gz")
    if name.endswith(".meta.json"):
        return None
    form = name.rpartition(".")[2]
    return form if form in {"pb", "json", "jsonl"} else None


def _unpacked(path: Path) -> bytes:
    body = path.read_bytes()
    # `.gz` may also mean that the client itself sent it packed: one layer either way.
    if body[:2] == b"\x1f\x8b":
        try:
            return gzip.decompress(body)
        except (OSError, EOFError, zlib.error) as error:
            raise DecodeError(f"{path}: broken gzip: {error}") from error
    return body


def _signal_of(path: Path, body: bytes) -> Signal:
    for signal in Signal:
        if f".{signal}." in path.name:
            return signal
    try:
        decoded = decode_traces(body, "default", 0)
    except DecodeError:
        decoded = None
    if decoded is not None and decoded.events and not decoded.rejected:
        return Signal.TRACES
    raise UsageError(f"{path}: which signal is this? Put .traces., .logs. or .metrics. into its name")


def _from_json(body: bytes, origin: str) -> Request:
    try:
        top = json.loads(body)
    except ValueError as error:
        raise DecodeError(f"{origin}: no JSON: {error}") from error
    signal = next((signal for key, signal in _TOP_KEYS.items() if isinstance(top, dict) and key in top), None)
    if signal is None:
        raise NotOtlpError(f"{origin}: no OTLP: none of {', '.join(_TOP_KEYS)} at the top")
    try:
        payload, _ = json_to_protobuf(signal, body)
    except DecodeError as error:
        raise DecodeError(f"{origin}: {error}") from error
    return Request(signal, payload, origin)
