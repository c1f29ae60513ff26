"""Export requests as JSON bodies, for tests that send one input down two ways."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

SECOND = 10**9


def request(*spans: dict[str, Any], resource: dict[str, object] | None = None) -> bytes:
    """One export request of traces."""
    scope = {"scope": {"name": "test"}, "spans": list(spans)}
    return json.dumps(
        {"resourceSpans": [{"resource": {"attributes": pairs(resource or {})}, "scopeSpans": [scope]}]}
    ).encode()


def span(
    run: str,
    number: int,
    start_ns: int,
    told: dict[str, object],
    *,
    error: str | None = None,
    root: bool = False,
    events: Iterable[dict[str, Any]] = (),
) -> dict[str, Any]:
    """A span of a second, below the run's root unless it is the root itself."""
    return {
        "traceId": run.encode().hex().ljust(32, "0")[:32],
        "spanId": f"{number:016x}",
        "parentSpanId": "" if root else f"{1:016x}",
        "name": str(told.get("gen_ai.operation.name", "work")),
        "startTimeUnixNano": str(start_ns),
        "endTimeUnixNano": str(start_ns + SECOND),
        "attributes": pairs({"gen_ai.conversation.id": run, **told}),
        "status": {} if error is None else {"code": 2, "message": error},
        "events": list(events),
    }


def chat(run: str, number: int, start_ns: int, output: int, model: str = "gpt-5", **more: object) -> dict[str, Any]:
    """A model call."""
    told = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": model,
        "gen_ai.response.id": f"resp-{run}-{number}",
        "gen_ai.usage.input_tokens": 1000,
        "gen_ai.usage.output_tokens": output,
        **{key.replace("__", "."): value for key, value in more.items()},
    }
    return span(run, number, start_ns, told)


def failing(run: str, number: int, start_ns: int) -> dict[str, Any]:
    """A tool call that fails as it always does."""
    told = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "bash",
        "gen_ai.tool.call.id": f"call-{number}",
        "gen_ai.tool.call.arguments": '{"command": "make test"}',
        "error.type": "exit",
    }
    return span(run, number, start_ns, told, error="make: *** [test] Error 2")


def evaluation(name: str, at_ns: int, **told: object) -> dict[str, Any]:
    """A span event that says how something was judged."""
    said = {"gen_ai.evaluation.name": name, **{f"gen_ai.evaluation.{k.replace('__', '.')}": v for k, v in told.items()}}
    return {"timeUnixNano": str(at_ns), "name": "gen_ai.evaluation.result", "attributes": pairs(said)}


def pairs(told: dict[str, object]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in told.items()]


def _value(value: object) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    return {"stringValue": str(value)}
