"""Traits: what all detectors want to know of one call, worked out once, as hashes, sketches and sizes.

Computed in full when a call is first seen, because its content is gone afterwards.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from otel_cost.core.detect._shape import (
    error_shape,
    failures,
    identity,
    is_generic,
    is_infrastructure,
    is_overload,
    keyed,
    keyed_bytes,
    result_shape,
    value_of,
)
from otel_cost.core.detect._signs import HANDS_OVER, ORDERS, READ, WHOLE, WRITE
from otel_cost.core.detect._sketch import Sketch, sample
from otel_cost.core.detect._verbs import command_verb, delegates, verb_of, writes_whole
from otel_cost.core.model.vocabulary import MODEL_KINDS, Kind

if TYPE_CHECKING:
    from otel_cost.core.detect import Observed
    from otel_cost.core.model.step import Step


class Asked:
    """What a tool call asks for."""

    __slots__ = ("call", "instruction", "named", "signs", "sketch", "target", "verb", "whole")

    call: int | None
    named: tuple[tuple[str, int], ...]
    sketch: Sketch | None
    instruction: Sketch | None
    target: int | None
    verb: str
    whole: bool
    signs: int

    def __init__(self, tool: str, arguments: str | None) -> None:
        self.call = self.sketch = self.instruction = self.target = None
        self.named = ()
        self.verb = verb_of(tool)
        self.whole = self.verb == "write" and writes_whole(tool)
        if arguments is not None:
            self._read_all(tool, arguments)
        signs = WHOLE if self.whole else 0
        if self.verb == "write":
            signs |= WRITE
        elif self.verb == "read" and self.call is not None:
            signs |= READ
        if self.instruction is not None:
            signs |= ORDERS
        self.signs = signs | HANDS_OVER if delegates(tool) else signs

    def _read_all(self, tool: str, arguments: str) -> None:
        value = value_of(arguments)
        self.call = identity(tool, value)
        self.sketch = Sketch(value)
        if isinstance(value, dict):
            self._read(value)
            self.named = tuple([(key, hash(one if isinstance(one, str) else str(one))) for key, one in value.items()])
        else:
            self.named = (("arguments", self.call),)

    def _read(self, arguments: dict[str, object]) -> None:
        for key in () if _TARGETS.keys().isdisjoint(arguments) else _TARGETS:
            target = arguments.get(key)
            if isinstance(target, str):
                self.target = hash(target)
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


class Told:
    """What came back."""

    __slots__ = ("error", "failed", "failures", "infrastructure", "nothing", "outcome", "refused", "vague", "words")

    outcome: bytes | None
    error: bytes | None
    failed: bool
    nothing: bool
    refused: bool
    vague: bool
    infrastructure: bool
    failures: int | None
    words: frozenset[int]

    def __init__(self, failed: bool) -> None:
        self.outcome = self.error = self.failures = None
        self.failed = failed
        self.nothing = self.refused = self.vague = self.infrastructure = False
        self.words = frozenset()

    def read(self, step: Step, *, check: bool, ordered: bool) -> None:
        """Of a tool call. `check`: it counts failures even if it went well; `ordered`: it answers an order."""
        result = step.result
        if result is not None and not self.failed and _reads_failed(result):
            self.failed = True
        self.refused = self.failed
        if result is not None and not self.failed and len(result) <= _REFUSAL_CHARS:
            answer = result.strip().lower()
            self.nothing = answer in _NOTHING
            self.refused = not self.nothing and _REFUSALS.search(answer) is not None
        if self.failed:
            said = step.error_message
            told_more = result and (said is None or said == step.error_type or is_generic(said))
            self.read_error(step, result if told_more else said)
            self.outcome = self.error
        told = result or step.error_message
        if told and (self.failed or check):
            self.failures = failures(told)
        if ordered and result:
            self.words = sample(result)
        if result is not None and self.outcome is None:
            tool = step.tool or step.name
            self.outcome = keyed_bytes(tool.encode("utf-8", "replace") + b"\0" + result_shape(result))

    def read_error(self, step: Step, message: str | None) -> None:
        """Of a failed call. `message`: the words that tell most of it."""
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
        "signs",
        "size",
        "sketch",
        "target",
        "vague",
        "verb",
        "whole",
        "words",
    )

    call: int | None  # tool and arguments
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
    target: int | None  # the file the arguments name
    verb: str  # what kind of tool this is: read, write, check, poll, plan, "" (unknown)
    whole: bool  # writes its target as a whole
    size: int | None  # of the result, in characters (or the sender's unit)
    chant: int  # how often the text of a model call repeats its own ending
    signs: int  # of a tool call, but for whether it went well

    def __init__(self, step: Step, failed: bool) -> None:
        self.size, self.chant, self.signs = None, 0, 0
        if step.kind is Kind.TOOL:
            asked = _asked(step)
            told = _told(step, failed, asked)
            result = step.result
            self.size = step.result_size if result is None else len(result)
            self.signs = asked.signs
            if told.outcome is None:
                self.signs &= ~READ
            if not step.tool:  # it has a name, which is no tool's
                self.signs &= ~HANDS_OVER
        else:
            asked, told = _NOT_A_TOOL, _WELL
            if step.kind in MODEL_KINDS:
                if failed:
                    told = Told(failed)
                    told.read_error(step, step.error_message)
                text = step.output_text
                if text is not None:
                    self.chant = chants(text)
            elif failed:
                told = Told(failed)
        self.call, self.named, self.sketch, self.instruction = asked.call, asked.named, asked.sketch, asked.instruction
        self.target, self.verb, self.whole = asked.target, asked.verb, asked.whole
        self.outcome, self.error, self.failed, self.nothing = told.outcome, told.error, told.failed, told.nothing
        self.refused, self.vague, self.infrastructure = told.refused, told.vague, told.infrastructure
        self.failures, self.words = told.failures, told.words


# Agents that go in circles say the same and are told the same; so do hooks and spans of one call. What was read
# before is not read again: known by the hash of its text, which Python makes with a secret of the process.
_MEMO: Final = 4096
_asked_before: Final[dict[int, Asked]] = {}
_told_before: Final[dict[int, Told]] = {}
_NOT_A_TOOL: Final = Asked("", None)
_WELL: Final = Told(False)


def forget() -> None:
    """Let go of what was remembered, as at the start of a process: what a first reading costs can be measured."""
    _asked_before.clear()
    _told_before.clear()


def _asked(step: Step) -> Asked:
    tool = step.tool or step.name
    key = hash((tool, step.arguments))
    asked = _asked_before.get(key)
    if asked is None:
        asked = Asked(tool, step.arguments)
        if len(_asked_before) >= _MEMO:
            _asked_before.clear()
        _asked_before[key] = asked
    return asked


def _told(step: Step, failed: bool, asked: Asked) -> Told:
    if not failed and step.result is None and step.error_message is None:
        return _WELL
    check, ordered = asked.verb == "check", asked.instruction is not None
    tool = step.tool or step.name
    key = hash(
        (tool, step.model, step.result, failed, step.error_message, step.error_type, step.status_code, check, ordered)
    )
    told = _told_before.get(key)
    if told is None:
        told = Told(failed)
        told.read(step, check=check, ordered=ordered)
        if len(_told_before) >= _MEMO:
            _told_before.clear()
        _told_before[key] = told
    return told


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
_REFUSALS: Final = re.compile(
    r"error|fail|cannot|can't|could not|couldn't|unable|not found|no such|no match|denied|invalid|incorrect|wrong"
    r"|did not|didn't|not pass|try again|unknown|missing|refused|not available|not enough|unexpected|illegal|nothing"
    r"|out of range|no results"
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
