"""Labelled agent runs, changed as a run of another day would be: reworded, jittered, interleaved, with more steps.

A perturbation takes the spans of a run (OTLP/JSON objects) and a seeded random source and returns
new spans. What the run's labels say stays true: calls that were the same thing to do are so still, what came back
says the same, honest work in between is honest work.
"""

from __future__ import annotations

import copy
import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    Span = dict[str, Any]

ARGUMENTS, RESULT = "gen_ai.tool.call.arguments", "gen_ai.tool.call.result"
CONTENT = (ARGUMENTS, RESULT, "gen_ai.output.messages", "gen_ai.input.messages", "gen_ai.system_instructions")
_SECOND = 10**9

_REMARKS = (
    "let me try this once more",
    "maybe it works now",
    "checking again to be sure",
    "another attempt with a small change",
    "see whether this helps",
    "double-check",
    "step back and look at it again",
)


def get(span: Span, key: str) -> Any:
    return next((next(iter(a["value"].values())) for a in span["attributes"] if a["key"] == key), None)


def put(span: Span, key: str, value: str) -> None:
    for attribute in span["attributes"]:
        if attribute["key"] == key:
            attribute["value"] = {"stringValue": value}
            return
    span["attributes"].append({"key": key, "value": {"stringValue": value}})


def drop(span: Span, *keys: str) -> None:
    span["attributes"] = [a for a in span["attributes"] if a["key"] not in keys]


def is_tool(span: Span) -> bool:
    return get(span, "gen_ai.operation.name") == "execute_tool"


# ---- reworded ------------------------------------------------------------------------------------------------


def reword(spans: Sequence[Span], rng: random.Random) -> list[Span]:
    """Four of five calls are worded anew: key order, quotes, spaces, a comment, a remark, an idle part."""
    changed = copy.deepcopy(list(spans))
    for span in changed:
        arguments = get(span, ARGUMENTS)
        if arguments is None or not is_tool(span) or rng.random() < 0.2:
            continue
        try:
            value = json.loads(arguments)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            put(span, ARGUMENTS, _words(arguments, rng))
            continue
        keys = list(value)
        rng.shuffle(keys)
        value = {key: _words(value[key], rng) if key in _TEXTS else value[key] for key in keys}
        if rng.random() < 0.3:
            value["description"] = rng.choice(_REMARKS)
        put(span, ARGUMENTS, json.dumps(value))
    return changed


_TEXTS = {"command", "cmd", "code", "instruction"}


def _words(text: object, rng: random.Random) -> object:
    """A command or an order that asks for the same thing in another way."""
    if not isinstance(text, str) or " " not in text or text.startswith(("create ", "view ", "str_replace ")):
        return text
    if '"' not in text and "\\" not in text and "$" not in text and rng.random() < 0.5:
        text = text.replace("'", '"')
    if "\n" not in text:
        if rng.random() < 0.3:
            text = text.replace(" | ", "  |  ").replace(" && ", "  &&  ")
        if rng.random() < 0.3:
            text += f"  # {rng.choice(_REMARKS)}"
        if rng.random() < 0.2:
            text = f" {text} "
        if rng.random() < 0.2 and "<" not in text and len(text.split()) > 4:
            text += rng.choice((" 2>&1", " | cat", " || true", "; :"))
    return text


# ---- jittered ------------------------------------------------------------------------------------------------


def jitter(spans: Sequence[Span], rng: random.Random) -> list[Span]:
    """Results carry what changes from call to call. A harness has one way to frame them, so a run has one sort."""
    changed = copy.deepcopy(list(spans))
    sort = rng.randrange(4)
    for span in changed:
        result = get(span, RESULT)
        if result is None:
            continue
        if sort == 0:
            result = f"{result.rstrip()}\n[took {rng.uniform(0.01, 9):.2f}s, pid {rng.randrange(300, 60_000)}]"
        elif sort == 1:
            clock = f"{rng.randrange(24):02}:{rng.randrange(60):02}:{rng.randrange(60):02}"
            result = f"[2026-11-{rng.randrange(10, 28)}T{clock}Z] {result}"
        elif sort == 2:
            result = f"{result}\nrequest {rng.getrandbits(128):032x}"
        else:
            result = re.sub(r"\n(?=\S)", lambda _: "\n" * rng.choice((1, 1, 1, 2)), f"{result}\n")
        put(span, RESULT, result)
    return changed


# ---- with more steps -----------------------------------------------------------------------------------------

_TOPICS = ("storage", "billing", "parser", "session", "router", "worker", "gateway", "catalogue", "layout", "mailer")
_FACTS = ("retries", "limits", "owners", "defaults", "formats", "timeouts", "quotas", "aliases", "layers", "hooks")


def insert(spans: Sequence[Span], rng: random.Random) -> list[Span]:
    """Honest steps in between: after one step in five a model call and the reading of something never read before."""
    changed: list[Span] = []
    shift = 0
    ordered = sorted(copy.deepcopy(list(spans)), key=lambda s: (int(s["endTimeUnixNano"]), int(s["startTimeUnixNano"])))
    parents = [s for s in ordered if str(s["name"]).startswith("invoke_agent")]
    lengthened: list[tuple[int, int]] = []  # (when, by how much) of every insertion, in the old times
    for span in ordered:
        if span in parents:
            continue
        changed.append(_later(span, shift))
        chat = next((s for s in reversed(changed) if not is_tool(s)), None)
        if not is_tool(span) or chat is None or rng.random() >= 0.2:
            continue
        at = int(changed[-1]["endTimeUnixNano"])
        topic, fact = rng.choice(_TOPICS), rng.choice(_FACTS)
        number = rng.randrange(10**6)
        name = f"docs/{topic}_{number}.md"
        read = copy.deepcopy(changed[-1])
        _again(read, rng, at + 2 * _SECOND, at + 3 * _SECOND)
        drop(read, "error.type", "gen_ai.tool.call.id", "bench.step")
        read["status"] = {}
        read["name"] = "execute_tool read_document"
        put(read, "gen_ai.tool.name", "read_document")
        put(read, ARGUMENTS, json.dumps({"document": name}))
        put(
            read, RESULT, f"{topic.title()} {fact}\nRevision {number}: {' '.join(rng.choices(_TOPICS + _FACTS, k=12))}."
        )
        said = copy.deepcopy(chat)
        _again(said, rng, at, at + 2 * _SECOND)
        said["parentSpanId"] = read["parentSpanId"] = span.get("parentSpanId", "")
        drop(said, "bench.step")
        changed += [said, read]
        shift += 3 * _SECOND
        lengthened.append((int(span["endTimeUnixNano"]), 3 * _SECOND))
    for agent in parents:
        for edge in ("startTimeUnixNano", "endTimeUnixNano"):
            when = int(agent[edge])
            by = sum(much for at, much in lengthened if at < when or (at == when and edge.startswith("end")))
            agent[edge] = str(when + by)
    return changed + parents


def _again(span: Span, rng: random.Random, start_ns: int, end_ns: int) -> None:
    span["spanId"] = f"{rng.getrandbits(64):016x}"
    span["startTimeUnixNano"], span["endTimeUnixNano"] = str(start_ns), str(end_ns)


def _later(span: Span, by_ns: int) -> Span:
    span["startTimeUnixNano"] = str(int(span["startTimeUnixNano"]) + by_ns)
    span["endTimeUnixNano"] = str(int(span["endTimeUnixNano"]) + by_ns)
    return span


# ---- interleaved ---------------------------------------------------------------------------------------------


def interleave(spans: Sequence[Span], other: Sequence[Span], rng: random.Random) -> list[Span]:
    """The run is one of two agents that work side by side below one root; the other one's run has no loop."""
    mine, theirs = copy.deepcopy(list(spans)), copy.deepcopy(list(other))
    trace_id, conversation = mine[0]["traceId"], get(mine[0], "gen_ai.conversation.id")
    root_id = f"{rng.getrandbits(64):016x}"
    for span in theirs:
        span["traceId"] = trace_id
        drop(span, "bench.step")
        if conversation is not None and get(span, "gen_ai.conversation.id") is not None:
            put(span, "gen_ai.conversation.id", conversation)
    by = int(mine[0]["startTimeUnixNano"]) - int(theirs[0]["startTimeUnixNano"]) + _SECOND // 2
    for span in theirs:
        _later(span, by)
    for side, name in ((mine, "first"), (theirs, "second")):
        for span in side:
            if not span.get("parentSpanId"):
                span["parentSpanId"] = root_id
                put(span, "gen_ai.agent.name", f"{name} of {get(span, 'gen_ai.agent.name') or 'agents'}")
    both = [*mine, *theirs]
    root = {
        "traceId": trace_id,
        "spanId": root_id,
        "name": "invoke_agent pair",
        "kind": 1,
        "startTimeUnixNano": str(min(int(s["startTimeUnixNano"]) for s in both)),
        "endTimeUnixNano": str(max(int(s["endTimeUnixNano"]) for s in both)),
        "attributes": [],
    }
    put(root, "gen_ai.operation.name", "invoke_agent")
    put(root, "gen_ai.agent.name", "pair")
    if conversation is not None:
        put(root, "gen_ai.conversation.id", conversation)
    return [*both, root]


# ---- of another harness, on another way -------------------------------------------------------------------------

_NAMINGS = ("mcp__tools__{}", "functions.{}", "{}_v2", "agent-{}")


def rename(spans: Sequence[Span], rng: random.Random) -> list[Span]:
    """Tools bear the names that another harness gives them; a run has one way to name them."""
    changed = copy.deepcopy(list(spans))
    naming = rng.choice(_NAMINGS)
    for span in changed:
        name = get(span, "gen_ai.tool.name")
        if name is not None:
            put(span, "gen_ai.tool.name", naming.format(name))
            span["name"] = f"execute_tool {naming.format(name)}"
    return changed


def shuffle(spans: Sequence[Span], rng: random.Random) -> list[Span]:
    """The spans of a run arrive in any order."""
    changed = copy.deepcopy(list(spans))
    rng.shuffle(changed)
    return changed


# ---- not told ---------------------------------------------------------------------------------------------------


def strip(spans: Sequence[Span], _rng: random.Random) -> list[Span]:
    """No arguments, no results, no messages: what most senders send by default."""
    changed = copy.deepcopy(list(spans))
    for span in changed:
        drop(span, *CONTENT)
    return changed


def strip_arguments(spans: Sequence[Span], _rng: random.Random) -> list[Span]:
    """Results are told, what was asked is not."""
    changed = copy.deepcopy(list(spans))
    for span in changed:
        drop(span, *(key for key in CONTENT if key != RESULT))
    return changed


def strip_results(spans: Sequence[Span], _rng: random.Random) -> list[Span]:
    """What was asked is told, results are not."""
    changed = copy.deepcopy(list(spans))
    for span in changed:
        drop(span, *(key for key in CONTENT if key != ARGUMENTS))
    return changed


STRIPPED: dict[str, Callable[[Sequence[Span], random.Random], list[Span]]] = {
    "without content": strip,
    "without arguments": strip_arguments,
    "without results": strip_results,
}
ALONE: dict[str, Callable[[Sequence[Span], random.Random], list[Span]]] = {
    "reworded": reword,
    "jittered": jitter,
    "inserted": insert,
    "renamed": rename,
    "shuffled": shuffle,
}
