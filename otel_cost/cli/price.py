"""Price spans: one span's attributes per JSON line, or one call in options; the one place with unrounded costs."""

from __future__ import annotations

import json
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from otel_cost.core.model.attributes import PlainAttributes
from otel_cost.core.model.event import DEFAULT_TENANT, Resource, Scope, SpanEvent
from otel_cost.core.model.money import exact_text
from otel_cost.core.model.vocabulary import Reason, Status
from otel_cost.core.normalise import normalise_span
from otel_cost.core.price.instants import parse_instant
from otel_cost.edge.files import load_price_book
from otel_cost.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from otel_cost.core.model.charge import Charge
    from otel_cost.core.model.step import Step
    from otel_cost.core.model.usage import Usage
    from otel_cost.core.price import PriceBook

_KINDS: Final = {"INTERNAL": 1, "SERVER": 2, "CLIENT": 3, "PRODUCER": 4, "CONSUMER": 5}
_MODEL_KEYS: Final = ("gen_ai.request.model", "gen_ai.response.model", "gen_ai.usage.")


def price(
    file: Annotated[
        Path | None, typer.Argument(help="JSON lines, each one span's attributes; - for standard input.")
    ] = None,
    at: Annotated[
        str | None, typer.Option(metavar="RFC3339", help="Start time for lines that have none. Default: now.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
    prices: Annotated[
        list[Path] | None, typer.Option("--prices", metavar="PATH", help="Price files or folders that win over ours.")
    ] = None,
    provider: Annotated[str | None, typer.Option(help="Provider as the span would name it.")] = None,
    model: Annotated[str | None, typer.Option(help="Model that answered.")] = None,
    input_tokens: Annotated[int | None, typer.Option("--input", help="Input tokens, cached ones included.")] = None,
    output_tokens: Annotated[int | None, typer.Option("--output", help="Output tokens, reasoning included.")] = None,
    cache_read: Annotated[int | None, typer.Option(help="Input tokens read from the cache.")] = None,
    cache_write: Annotated[int | None, typer.Option(help="Input tokens written to the cache.")] = None,
    cache_write_1h: Annotated[
        int | None, typer.Option("--cache-write-1h", help="The part of --cache-write that is kept for an hour.")
    ] = None,
    reasoning: Annotated[int | None, typer.Option(help="Output tokens spent on reasoning.")] = None,
    audio_input: Annotated[int | None, typer.Option(help="Input tokens of audio.")] = None,
    audio_output: Annotated[int | None, typer.Option(help="Output tokens of audio.")] = None,
    service_tier: Annotated[str | None, typer.Option("--tier", help="Service tier as served: flex, priority.")] = None,
    processing: Annotated[str | None, typer.Option(help="batch")] = None,
    speed: Annotated[str | None, typer.Option(help="fast")] = None,
    inference_geo: Annotated[str | None, typer.Option("--geo", help="Where it was served: us, eu.")] = None,
    units: Annotated[
        list[str] | None, typer.Option("--unit", metavar="NAME=N", help="Uses inside the call, as web_search=3.")
    ] = None,
) -> None:
    """Price spans or one call, item by item.

    Reads one JSON object per line: `{"attributes": {…}, "start_time"?, "name"?, "kind"?, "scope"?, "resource"?,
    "context"?}`, or the attributes themselves. Exit 1 if a line could not be decoded.
    """
    try:
        default_ns = parse_instant(at) if at else time.time_ns()
    except ValueError as error:
        raise UsageError(f"--at: {error}") from error
    book = load_price_book(prices or ())
    told = {
        "gen_ai.provider.name": provider,
        "gen_ai.response.model": model,
        "gen_ai.usage.input_tokens": input_tokens,
        "gen_ai.usage.output_tokens": output_tokens,
        "gen_ai.usage.cache_read.input_tokens": cache_read,
        "gen_ai.usage.cache_write.input_tokens": cache_write,
        "gen_ai.usage.cache_creation.ephemeral_1h_input_tokens": cache_write_1h,
        "gen_ai.usage.reasoning.output_tokens": reasoning,
        "gen_ai.usage.audio.input_tokens": audio_input,
        "gen_ai.usage.audio.output_tokens": audio_output,
        "openai.response.service_tier": service_tier,
    }
    attributes = {key: value for key, value in told.items() if value is not None}
    context = {"processing": processing, "speed": speed, "inference_geo": inference_geo, "units": _counts(units or ())}
    if attributes:
        if file is not None:
            raise UsageError("give a file or the call's own options, not both")
        attributes["gen_ai.operation.name"] = "chat"
        lines: Iterable[str] = [json.dumps({"attributes": attributes, "context": context})]
        undecoded = _write(lines, book, default_ns, as_json=as_json)
    else:
        with _open(file) as stream:
            undecoded = _write(stream, book, default_ns, as_json=as_json)
    if undecoded:
        raise typer.Exit(1)


def _open(file: Path | None) -> Any:  # noqa: ANN401  # a context manager around one of two kinds of text stream
    if file is None and sys.stdin.isatty():
        raise UsageError("nothing to price: give a file, lines on standard input, or --provider and --model")
    if file is None or str(file) == "-":
        return nullcontext(sys.stdin)
    try:
        return file.open(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from error


def _counts(pairs: Iterable[str]) -> dict[str, int]:
    counts = {}
    for pair in pairs:
        name, _, count = pair.partition("=")
        if not name or not count.isdecimal():
            raise UsageError(f"--unit: `{pair}` is not NAME=N")
        counts[name] = int(count)
    return counts


def _write(lines: Iterable[str], book: PriceBook, default_ns: int, *, as_json: bool) -> int:
    """Print one answer per line of input, in its order; returns how many could not be decoded."""
    undecoded = 0
    for answer in answers(lines, book, default_ns):
        undecoded += answer["reason"] == Reason.BAD_INPUT
        print(json.dumps(answer, ensure_ascii=False) if as_json else _sentence(answer), flush=False)
    return undecoded


def answers(lines: Iterable[str], book: PriceBook, default_ns: int) -> Iterator[dict[str, Any]]:
    """What `price --json` says to each line, as mappings."""
    for line in lines:
        if not line.strip():
            continue
        try:
            yield _answer(book.charge(_step(json.loads(line), default_ns)))
        except (ValueError, RecursionError) as error:
            yield {
                "status": Status.INVALID,
                "reason": Reason.BAD_INPUT,
                "cost_usd": None,
                "items": [],
                "usage": None,
                "basis": "unknown",
                "flags": [],
                "price_book": book.id,
                "error": str(error).partition("\n")[0],
            }


def _step(told: object, default_ns: int) -> Step:
    """The step that one line of input tells of.

    Raises:
        ValueError: the line is not a span.
    """
    if not isinstance(told, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004  # the user's data, not a caller's mistake
    if "attributes" not in told:
        told = {"attributes": told}
    attributes = _mapping(told, "attributes")
    start = told.get("start_time")
    start_ns = default_ns if start is None else _instant(start)
    end = told.get("end_time")
    scope, kind = _mapping(told, "scope"), told.get("kind", 3)
    if isinstance(kind, str):
        kind = _KINDS.get(kind.upper().removeprefix("SPAN_KIND_"), 0)
    span = SpanEvent(
        tenant=DEFAULT_TENANT,
        received_ns=start_ns,
        resource=Resource(PlainAttributes(_mapping(told, "resource"))),
        scope=Scope(str(scope.get("name") or ""), str(scope.get("version") or "")),
        raw=b"",
        trace_id=b"",
        span_id=b"",
        parent_id=b"",
        name=str(told.get("name") or ""),
        kind=kind if isinstance(kind, int) else 0,
        start_ns=start_ns,
        end_ns=start_ns if end is None else _instant(end),
        status_code=2 if str(told.get("status", "")).upper() in {"ERROR", "STATUS_CODE_ERROR"} else 0,
        status_message="",
        attributes=PlainAttributes(attributes),
    )
    step = normalise_span(span)
    if step is None:
        if not any(key.startswith(_MODEL_KEYS) for key in attributes):
            raise ValueError("nothing in these attributes tells of a model call, tool or agent")
        # Somebody who asks for a price means a call, even where the operation is not named.
        span.attributes = PlainAttributes({"gen_ai.operation.name": "chat"} | attributes)
        step = normalise_span(span)
    if step is None:
        raise ValueError("nothing in these attributes tells of a model call, tool or agent")
    return _overlaid(step, _mapping(told, "context"))


def _overlaid(step: Step, context: Mapping[str, Any]) -> Step:
    """The step on the terms that the context tells beside its attributes."""
    facts = {key: context[key] for key in ("processing", "speed", "inference_geo") if context.get(key) is not None}
    units = context.get("units") or {}
    unknown = sorted(context.keys() - {"processing", "speed", "inference_geo", "service_tier", "units"})
    if unknown:
        raise ValueError(f"context: unknown key `{unknown[0]}`")
    if not all(isinstance(value, str) for value in facts.values()):
        raise ValueError("context: processing, speed and inference_geo are texts")
    if not isinstance(units, dict) or not all(type(count) is int for count in units.values()):
        raise ValueError("context: units are whole numbers by name")
    if context.get("service_tier") is not None:
        facts["service_tier"] = str(context["service_tier"])
    if facts or units:
        merged = dict(step.terms.units) | units
        step.terms = replace(step.terms, **facts, units=tuple(sorted(merged.items())))
    return step


def _mapping(told: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = told.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"`{key}` is not an object")  # noqa: TRY004  # the user's data, not a caller's mistake
    return value


def _instant(value: object) -> int:
    if isinstance(value, str) and not value.isdecimal():
        return parse_instant(value)
    if isinstance(value, str | int) and not isinstance(value, bool):
        return int(value)  # Unix nanoseconds, as OTLP has them
    raise ValueError("`start_time` is neither RFC 3339 text nor Unix nanoseconds")


def _answer(charge: Charge) -> dict[str, Any]:
    exact = charge.exact_usd
    return {
        "status": charge.status,
        "reason": charge.reason,
        "cost_usd": None if exact is None else exact_text(exact),
        "items": [
            {
                "unit": item.unit,
                "quantity": item.quantity,
                "rate": exact_text(item.rate.usd),
                "usd": exact_text(item.exact_usd),
                "source": item.source,
                "valid_from": item.valid_from,
            }
            for item in charge.items
        ],
        "usage": _counted(charge.usage),
        "basis": charge.basis,
        "flags": sorted(charge.flags),
        "price_book": charge.price_book,
    }


def _counted(usage: Usage | None) -> dict[str, int | None] | None:
    if usage is None:
        return None
    return {key: getattr(usage, key) for key in ("input", "cache_read", "cache_write", "output", "reasoning")}


def _sentence(answer: Mapping[str, Any]) -> str:
    """The answer for a reader at a terminal."""
    if answer["status"] != Status.PRICED:
        return f"{answer['status']}: {answer['reason']}" + (f" ({answer['error']})" if "error" in answer else "")
    parts = (f"{item['quantity']:,} {item['unit']} × {item['rate']} = {item['usd']}" for item in answer["items"])
    flags = f"  [{', '.join(answer['flags'])}]" if answer["flags"] else ""
    return "\n    ".join((f"{answer['cost_usd']} USD{flags}", *parts))
