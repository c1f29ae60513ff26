"""Shapes: what makes two errors, two results or two calls the same although their texts differ in details.

Only keyed hashes of these texts are ever kept. The key keeps a reader of the
ledger from testing guesses against it; a tenant's own secret goes in as `key`.
"""

from __future__ import annotations

import json
import re
from hashlib import blake2b
from typing import Any, Final
from zlib import crc32

DEFAULT_KEY: Final = b"otel-cost"

# How much of a text is looked at. Errors say what they are at either end; a
# longer text counts by its head, tail and exact hash.
_ERROR_CHARS: Final = 1200
_RESULT_CHARS: Final = 300
_CANONICAL_CHARS: Final = 16384


def keyed(text: str, key: bytes = DEFAULT_KEY) -> bytes:
    """Eight bytes that stand for `text`. `key`: at most 64 bytes, the tenant's secret where there is one."""
    return keyed_bytes(text.encode("utf-8", "surrogatepass"), key)


def keyed_bytes(text: bytes, key: bytes = DEFAULT_KEY) -> bytes:
    """Eight bytes that stand for `text`."""
    return blake2b(text, digest_size=8, key=key).digest()


_FILE = (
    r"\w+\.(?:py|pyi|js|jsx|ts|tsx|java|go|rs|c|h|cc|cpp|cs|rb|php|sh|sql"
    r"|json|ya?ml|toml|xml|html|css|md|txt|csv|log)\b"
)
_FOLD_ERROR: Final = re.compile(
    r"(?P<url>\b[a-z][a-z+.-]{1,9}://[^\s\"'`<>)\]]+)"
    r"|(?P<time>\b\d{4}-\d\d-\d\d(?:[t ]\d\d:\d\d(?::\d\d)?(?:[.,]\d+)?(?:z|[+-]\d\d:?\d\d)?)?"
    r"|\b\d{1,2}:\d\d:\d\d(?:[.,]\d+)?)"
    rf"|(?P<path>(?:\b[a-z]:)?(?:[\w.@~+-]*[/\\])+(?:[\w.@~+-]+)?|{_FILE})"
    r"|(?P<id>\b0x[0-9a-f]+\b|\b(?=[0-9a-f-]*\d)[0-9a-f]{4,}(?:-[0-9a-f]{4,})+\b|\b(?=[a-f]*\d)[0-9a-f]{8,}\b"
    r"|\b(?=[a-z_-]*\d)[\w-]*[a-z][\w-]*\d[\w-]{3,}\b)"
    r"|(?P<number>(?:(?<!\w)[-+])?\d[\d.,_]*)"
)
_FOLDED: Final = {"url": "<url>", "time": "<time>", "path": "<path>", "id": "<id>", "number": "#"}
# What has none of these has nothing to fold; most words of most messages are plain.
_MAY_FOLD: Final = re.compile(r"[\d/\\]|\w\.\w")
_QUOTES: Final = str.maketrans({"‘": "'", "’": "'", "“": "'", "”": "'", '"': "'", "`": "'"})

# A line that says what went wrong, among lines that say where. These two look at text in lower case: a pattern
# that ignores case is several times as slow, as is one whose first character may be anything.
_TELLING: Final = re.compile(
    r"error|exception|fail|fatal|cannot|can't|could not|not found|no such|denied|invalid|refused|unable|undefined"
    r"|unexpected|missing|timed? ?out|too many|already exists|unknown|panic|abort|illegal|forbidden|unauthori[sz]ed"
)
_FAILURES: Final = re.compile(
    r"(\d++)\s+(?:tests?\s+)?(?:failed|failures?|failing|errors?)\b"
    r"|(?:f(?<!\wf)(?:ailures|ailed)|e(?<!\we)rrors)\s*[=:]\s*(\d+)"
)
_OVERLOAD = (
    r"rate.?limit|too.?many.?requests|overloaded|over.?capacity|service.?unavailable|bad.?gateway|internal.?server.?error"
    r"|throttl|resource.?exhausted|(?:^|\b(?:http|status|code|error)\D{0,8})(?:408|425|429|5\d\d)\b"
)
_OVERLOADED: Final = re.compile(_OVERLOAD, re.IGNORECASE)
_INFRASTRUCTURE: Final = re.compile(
    rf"{_OVERLOAD}|time.?out|timed.out|deadline.?exceeded|unavailable|server.?error|econn|api.?connection"
    r"|connection.?(?:error|refused|reset|aborted)",
    re.IGNORECASE,
)


def error_shape(text: str) -> str:
    """An error message without what changes from try to try: numbers, paths, ids, times, quotes, spacing.

    Of a long text only the lines count that say what went wrong (a traceback's
    last, a test report's failures); where none does, the last line counts.
    """
    text = _ends(text, _ERROR_CHARS).lower()
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) > 1:
        if any(line.startswith("traceback (most recent call last)") for line in lines):
            lines = [next((line for line in reversed(lines) if not line[0].isspace()), lines[-1])]
        else:
            lines = _telling(lines) or lines[-1:]
    return " ".join(dict.fromkeys([_fold_line(line[:300]) for line in lines])).translate(_QUOTES)


_TOLD: Final = 3


def _telling(lines: list[str]) -> list[str]:
    """The last three lines that say what went wrong; a bare heading ("ERROR:") brings the line below it.

    `lines`: in lower case.
    """
    told: list[str] = []
    below = ""
    for line in reversed(lines):
        if _TELLING.search(line):
            told.append(f"{line} {below}" if line.rstrip().endswith(":") else line)
            if len(told) == _TOLD:
                break
        below = line
    return told[::-1]


def _fold_line(line: str) -> str:
    words = line.split()
    for place, word in enumerate(words):
        if not word.isalpha() and _MAY_FOLD.search(word):
            words[place] = _FOLD_ERROR.sub(_fold, word)
    return " ".join(words)


def _fold(found: re.Match[str]) -> str:
    return _FOLDED[found.lastgroup or "number"]


# Words that a message made of nothing else does not say anything with.
_GENERIC: Final = re.compile(
    r"(?:\W|\d|\b(?:a|an|the|and|with|of|is|was|has|in|shell|bash|command|tool|call|function|execution|process|request"
    r"|step|operation|failed|failure|errors?|exception|exit|exited|code|status|non|zero|returned|occurred|unknown)\b)+",
    re.IGNORECASE,
)


def is_generic(message: str) -> bool:
    """Does a message say only that something failed ("Shell command failed", "exit code 1"), and not what?"""
    return len(message) < 80 and _GENERIC.fullmatch(message) is not None


def failures(text: str) -> int | None:
    """How many tests a report says have failed; None where it does not say."""
    text = _ends(text, _ERROR_CHARS).lower()
    if "fail" not in text and "error" not in text:
        return None
    lines = [line for line in text.splitlines() if "fail" in line or "error" in line]
    counts = [int(a or b) for line in lines for a, b in _FAILURES.findall(line)]
    return max(counts) if counts else None


def is_infrastructure(text: str) -> bool:
    """Does a model call's error, or an error's type, tell of the way there (429, 5xx, timeout, connection)?"""
    return _INFRASTRUCTURE.search(text[:300]) is not None


def is_overload(text: str) -> bool:
    """Does a tool's message tell of a server that is too busy? A tool that times out may be asked wrongly."""
    return _OVERLOADED.search(text[:300]) is not None


# Of a result only what cannot be news is folded; every other number is kept.
_FOLD_TIME: Final = re.compile(
    r"\d(?<![0-9A-SU-Za-z]\d)\d*+(?=[-:.\smsunµ])"  # no part of a word; soon given up where nothing fits
    r"(?:-\d\d-\d\d[tT ]\d\d:\d\d[\d:.,]*(?:[zZ]|[+-]\d\d:?\d\d)?|:\d\d:\d\d(?:[.,]\d+)?"
    r"|(?:\.\d+)?\s?(?:[mµun]?s\b|secs?\b|seconds?\b|minutes?\b))"
)
_FOLD_HEX: Final = re.compile(r"[0-9a-fA-F-]{12,}")
_FOLD_SHORT_HEX: Final = re.compile(r"0x[0-9a-fA-F]+|\bpid[ =:]+\d+")
# Results are long and a scan is dear: what may be there is looked for in a text of few characters first. A unit
# begins with one of five letters ("µ" ends with the byte b5, what comes before it is left out).
_UNITS: Final = b"smun\xb5"
_MARKS: Final = bytes(
    ord("0") if byte in b"0123456789" else ord("s") if byte in _UNITS else byte for byte in range(256)
)
_NO_MARK: Final = b" \t\n\v\f\r\xc2"
_HEX_RUNS: Final = bytes(ord("a") if chr(byte) in "0123456789abcdefABCDEF-" else ord(" ") for byte in range(256))
_HEX_RUN: Final = b"a" * 12
_SPACE: Final = b" \t\n\v\f\r"


def result_shape(text: str) -> bytes:
    """A result without white space, hex ids, durations, times and process ids; every other number is kept.

    Of a long text its folded head and tail and its number of lines count; where nothing was folded, a sum of it all.
    """
    if len(text) <= 2 * _RESULT_CHARS:
        raw = text.encode("utf-8", "replace")
        folded = _fold_result(text, raw)
        return (raw if folded is None else folded).translate(None, _SPACE)
    ends = text[:_RESULT_CHARS] + text[-_RESULT_CHARS:]
    raw = ends.encode("utf-8", "replace")
    folded = _fold_result(ends, raw)
    if folded is None:
        return b"%d %d " % (len(text), crc32(text.encode("utf-8", "replace"))) + raw
    return folded.translate(None, _SPACE) + b"%d" % text.count("\n")


def _fold_result(text: str, raw: bytes) -> bytes | None:
    """A text with `~` for what is folded; None where there is nothing of the kind. `raw`: the same in bytes."""
    marks = raw.translate(_MARKS, _NO_MARK)
    folded = text
    if b"0s" in marks or b"0:00" in marks:
        folded = _FOLD_TIME.sub("~", folded)
    if _HEX_RUN in raw.translate(_HEX_RUNS):
        folded = _FOLD_HEX.sub(_hex, folded)
    if b"0x" in raw or b"pid" in raw:
        folded = _FOLD_SHORT_HEX.sub("~", folded)
    return None if folded == text else folded.encode("utf-8", "replace")


def _hex(found: re.Match[str]) -> str:
    run = found[0]
    return run if run.isalpha() or not any(map(str.isdigit, run)) else "~"


# What `json.loads` does, without its look for white space around the value.
_SCAN: Final = json.JSONDecoder().raw_decode


# Said about a call, not part of it. Harnesses leave them out of some of their events, models reword them.
_REMARKS: Final = frozenset({"description", "explanation", "justification", "thought", "reasoning", "is_background"})
_COMMANDS: Final = ("command", "cmd", "script")
_COMMENT: Final = re.compile(r"""('[^']*'?|"(?:\\.|[^"\\])*"?|\\.)|(?<![^\s;&|(])#[^\n]*""", re.DOTALL)


def without_comments(command: str) -> str:
    """A shell command without its comments and the white space at the ends of its lines."""
    if "#" in command and len(command) <= _CANONICAL_CHARS:
        command = _COMMENT.sub(lambda found: found[1] or "", command)
    return "\n".join([line.rstrip() for line in command.strip().splitlines() if line.strip()])


def essential(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments without what is only said about the call: remarks (if there is more), comments in commands."""
    if not _REMARKS.isdisjoint(arguments):
        arguments = {key: one for key, one in arguments.items() if key not in _REMARKS} or arguments
    for key in _COMMANDS:
        command = arguments.get(key)
        if isinstance(command, str) and ("#" in command or "\n" in command or command != command.strip()):
            arguments = arguments | {key: without_comments(command)}
        elif isinstance(command, list) and command and isinstance(command[-1], str):
            arguments = arguments | {key: [*command[:-1], without_comments(command[-1])]}
    return arguments


def command_of(arguments: str) -> str:
    """The shell command among a tool's arguments; "" where there is none."""
    value = value_of(arguments)
    found = value if isinstance(value, dict) else {}
    told = next((found[key] for key in _COMMANDS if key in found), value if isinstance(value, str) else "")
    return " ".join(map(str, told)) if isinstance(told, list) else str(told)


def value_of(arguments: str) -> object:
    """Arguments as what they are, without remarks and comments; the text itself, if they are no JSON or very long."""
    if arguments[:1] in "{[" and len(arguments) <= _CANONICAL_CHARS:
        try:
            value, end = _SCAN(arguments)
        except (ValueError, RecursionError):
            return arguments
        if end < len(arguments) and not arguments[end:].isspace():
            return arguments
        return essential(value) if isinstance(value, dict) else value
    return arguments


def identity(tool: str, value: object) -> int:
    """The same number for the same arguments, within this process; in which order keys were written does not matter."""
    if isinstance(value, dict):
        for one in value.values():
            if isinstance(one, (dict, list)):
                break
        else:
            return hash((tool, frozenset(value.items())))
    if isinstance(value, (dict, list)):
        return hash((tool, json.dumps(value, sort_keys=True, separators=(",", ":"))))
    return hash((tool, value))


def _ends(text: str, size: int) -> str:
    return text if len(text) <= 2 * size else f"{text[:size]}\n{text[-size:]}"
