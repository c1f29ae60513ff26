"""Traits: what all detectors want to know of one call, worked out once, as hashes, sketches and sizes.

Computed in full when a call is first seen, because its content is gone afterwards.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from zlib import crc32

from otel_cost.core.detect._shape import (
    canonical,
    error_shape,
    failures,
    is_generic,
    is_infrastructure,
    is_overload,
    keyed,
    result_shape,
)
from otel_cost.core.detect._sketch import Sketch, sample
from otel_cost.core.detect._verbs import command_verb, verb_of, writes_whole
from otel_cost.core.model.vocabulary import MODEL_KINDS, Kind

if TYPE_CHECKING:
    from otel_cost.core.detect import Observed
    from otel_cost.core.model.step import Step


class Traits:
    """One call without its content. A trait is None where the sender does not tell what it needs."""

    __slots__ = (
        "call",
        "chant",
        "error",
        "failed",
        "failures",
        "infrastructure",
        "instruction",
        "named",
        "nothing",
        "outcome",
        "refused",
        "size",
        "sketch",
        "target",
        "vague",
        "verb",
        "whole",
        "words",
    )

    call: bytes | None  # tool and arguments
    named: tuple[tuple[str, int], ...]  # each argument's name and a hash of its value
    outcome: bytes | None  # tool and what came back: the error's shape, else the result's
    error: bytes | None  # the error's shape; None: not failed, or nothing is told about it
    failed: bool  # says so, or its result reads so: some harnesses report a failing command as a success
    nothing: bool  # what came back was nothing
    refused: bool  # it was a refusal: it failed, or its short answer says so
    vague: bool  # of the error only a type is told, which many different errors share
    infrastructure: bool  # failed on the way there (429, 5xx, timeout)
    failures: int | None  # failing tests that the result reports
    sketch: Sketch | None  # of the arguments, for near-sameness
    instruction: Sketch | None  # an order to another agent, among the arguments
    words: frozenset[int]  # sample of the answer to an instruction
    target: bytes | None  # the file the arguments name
    verb: str  # what kind of tool this is: read, write, check, poll, plan, "" (unknown)
    whole: bool  # writes its target as a whole
    size: int | None  # of the result, in characters (or the sender's unit)
    chant: int  # how often the text of a model call repeats its own ending

    def __init__(self, step: Step, failed: bool) -> None:
        self.call = self.outcome = self.error = self.sketch = self.target = self.size = self.failures = None
        self.instruction = None
        self.named = ()
        self.words = frozenset()
        self.failed, self.verb, self.chant = failed, "", 0
        self.infrastructure = self.vague = self.whole = self.nothing = self.refused = False
        if step.kind is Kind.TOOL:
            self._read_tool(step)
        elif step.kind in MODEL_KINDS:
            if step.output_text is not None:
                self.chant = chants(step.output_text)
                self.outcome = keyed(step.output_text)
            if failed:
                self._read_error(step, step.error_message)

    def _read_tool(self, step: Step) -> None:
        tool, arguments, result = step.tool or step.name, step.arguments, step.result
        self.verb = verb_of(tool)
        self.whole = self.verb == "write" and writes_whole(tool)
        if arguments is not None:
            text, value = canonical(arguments)
            self.call = keyed(f"{tool}\0{text}")
            self.sketch = Sketch(value)
            if isinstance(value, dict):
                self._read_arguments(value)
                self.named = tuple([(key, crc32(str(one).encode("utf-8", "replace"))) for key, one in value.items()])
            else:
                self.named = (("arguments", crc32(text.encode("utf-8", "replace"))),)
        if result is not None:
            self.size = len(result)
            if not self.failed and _reads_failed(result):
                self.failed = True
        elif step.result_size is not None:
            self.size = step.result_size
        self.refused = self.failed
        if result is not None and not self.failed and len(result) <= _REFUSAL_CHARS:
            answer = result.strip().lower()
            self.nothing = answer in _NOTHING
            self.refused = not self.nothing and any(word in answer for word in _REFUSALS)
        if self.failed:
            said = step.error_message
            told_more = result and (said is None or said == step.error_type or is_generic(said))
            self._read_error(step, result if told_more else said)
            if self.error is not None:
                self.outcome = self.error
        told = result or step.error_message
        if told and (self.failed or self.verb == "check"):
            self.failures = failures(told)
        if self.instruction is not None and result:
            self.words = sample(result)
        if result is not None and self.outcome is None:
            self.outcome = keyed(f"{tool}\0{result_shape(result)}")

    def _read_error(self, step: Step, message: str | None) -> None:
        if message and (message == step.error_type or is_generic(message)):
            message = None
        told = message or step.error_message or step.error_type
        on_the_way = is_overload if step.kind is Kind.TOOL else is_infrastructure
        self.infrastructure = (
            step.status_code in _INFRASTRUCTURE_STATUS
            or bool(step.error_type and is_infrastructure(step.error_type))
            # What a command printed is not the way to the command: a result is not asked.
            or bool(step.error_message and on_the_way(step.error_message))
        )
        if message:
            self.error = keyed(f"{step.tool or step.model}\0{error_shape(message)}")
        elif told:
            self.vague = True
            self.error = keyed(f"{step.tool or step.model}\0{told}")

    def _read_arguments(self, arguments: dict[str, object]) -> None:
        for key in () if _TARGETS.keys().isdisjoint(arguments) else _TARGETS:
            target = arguments.get(key)
            if isinstance(target, str):
                self.target = keyed(target)
                break
        for key in () if _INSTRUCTIONS.keys().isdisjoint(arguments) else _INSTRUCTIONS:
            order = arguments.get(key)
            if isinstance(order, str) and order.count(" ") >= 2:
                self.instruction = Sketch(order)
                break
        command = arguments.get("command") or arguments.get("cmd")
        if isinstance(command, list):
            command = " ".join(map(str, command))
        if isinstance(command, str):
            self.verb = command_verb(command) or self.verb
            self.whole = command == "create"


_INFRASTRUCTURE_STATUS: Final = frozenset({408, 425, 429, *range(500, 600)})
_INSTRUCTIONS: Final = dict.fromkeys(("instruction", "instructions", "prompt", "task", "message"))
_TARGETS: Final = dict.fromkeys(
    (
        "path",
        "file_path",
        "filepath",
        "file",
        "filename",
        "file_name",
        "target_file",
        "absolute_path",
        "notebook_path",
        "uri",
    )
)


def traits_of(seen: Observed) -> Traits:
    """The traits of a call, worked out on first use."""
    traits = seen.traits
    if traits is None:
        traits = seen.traits = Traits(seen.step, seen.failed)
    return traits


_READS_FAILED: Final = re.compile(
    r"\s*(?:error\b|traceback \(most recent|exception\b|fatal\b|failure:"
    r"|(?:/\w+)*/?(?:ba|z|da|k)?sh: (?:-c: )?(?:line )?\d+: )",  # a shell that could not run what it was told to
    re.IGNORECASE,
)
_EXIT_CODE: Final = re.compile(
    r"\bexit(?:ed)?(?:[ _]?with)?(?:[ _]?status)?[ _]?(?:code)?[\"']?\s*[:=]?\s*[1-9]|\bis_?error[\"']?\s*[:=]\s*true",
    re.IGNORECASE,
)


def _reads_failed(result: str) -> bool:
    """Some harnesses report a command that exits 1 as a success; its result says otherwise."""
    if _READS_FAILED.match(result):
        return True
    ends = result if len(result) < 400 else result[:200] + result[-200:]  # either end may hold the code
    return ("xit" in ends or "rror" in ends) and _EXIT_CODE.search(ends) is not None


# What a refusal says, and how a short answer says that there is nothing.
_REFUSALS: Final = (
    *("error", "fail", "cannot", "can't", "could not", "couldn't", "unable", "not found", "no such", "no match"),
    *("denied", "invalid", "incorrect", "wrong", "did not", "didn't", "not pass", "try again", "unknown", "missing"),
    *("refused", "not available", "not enough", "unexpected", "illegal", "nothing", "out of range", "no results"),
)
_NOTHING: Final = frozenset({"", "0", "[]", "{}", "()", "no", "none", "null", "nil", "false", "nan", "n/a", "-1"})
_REFUSAL_CHARS: Final = 400


_CHUNK: Final = 50


def chants(text: str) -> int:
    """How often a text says its last (or third-quarter) 50 characters; a model that chants goes on to its limit."""
    if len(text) < 10 * _CHUNK:
        return 0
    text = text[-20_000:]
    at = len(text) * 3 // 4
    return max(text.count(text[-_CHUNK:]), text.count(text[at : at + _CHUNK]))
