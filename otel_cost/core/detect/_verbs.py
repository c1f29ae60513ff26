"""Verbs: what a tool does (read, write, check, poll, plan), guessed from its name or its command."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final


def _names(*words: str) -> re.Pattern[str]:
    return re.compile("|".join(words), re.IGNORECASE)


# The first that fits: `wait_for_test` waits, `create_test` writes only where no check fits before.
_TOOLS: Final = (
    ("poll", _names("poll", "wait", "sleep", "status", "heartbeat", "output$", "get_?job")),
    ("check", _names("test", "lint", "check", "verify", "validate", "compile", "build")),
    ("plan", _names("think", "plan", "todo", "reflect", "memo", "note(?!book)")),
    (
        "write",
        _names(
            "write",
            "edit",
            "create",
            "patch",
            "replace",
            "insert",
            "update",
            "delete",
            "remove",
            "apply",
            "save",
            "cancel",
            "book",
            "send",
            "submit",
            "post",
            "upload",
        ),
    ),
    ("read", _names("read", "view", "open", "^cat", "get", "list", "^ls", "search", "find", "grep", "glob", "fetch")),
)


@lru_cache(maxsize=2048)
def verb_of(tool: str) -> str:
    """What a tool does, guessed from its name; "" where the name does not say."""
    return next((verb for verb, names in _TOOLS if names.search(tool)), "")


_WHOLE: Final = _names("^write", "create", "write_?(?:to_?)?file", "save_?file")


@lru_cache(maxsize=2048)
def writes_whole(tool: str) -> bool:
    """Does a tool of this name write whole files, not parts of them?"""
    return _WHOLE.search(tool) is not None


_DELEGATES: Final = _names(
    "transfer_?to", "hand_?off", "delegate", "sub_?agent", "spawn", "^(?:task|agent)$", "ask_?agent"
)


@lru_cache(maxsize=2048)
def delegates(tool: str) -> bool:
    """Does a tool of this name hand work to another agent?"""
    return _DELEGATES.search(tool) is not None


def _command(*words: str) -> re.Pattern[str]:
    """One of the words where a shell command begins; variables may be set before."""
    return re.compile(rf"(?:\w+=\S+\s+)*(?:{'|'.join(words)})")


_EDITS: Final = re.compile(r"(?:create|str_replace|insert|write|edit)\b")  # sub-commands of editors
_VIEWS: Final = re.compile(r"(?:view|open)\b")
_CHECK_WORDS: Final = (
    *("test", "tox", "jest", "rspec", "phpunit", "mypy", "ruff", "eslint"),
    *("tsc", "lint", "build", "compile", "make"),
)
_CHECKS: Final = re.compile(
    r"\b(?:py)?tests?\b|\b(?:tox|jest|rspec|phpunit|mypy|ruff|eslint|tsc|lint|build|compile|make)\b"
)
_WRITES_INTO: Final = re.compile(r"(?<![\d&=<>-])>>?\s*(?!/dev/null)[a-zA-Z./~\"'$]")
_PARTS: Final = re.compile(r"[;&|]\s*")
_BEGINNINGS: Final = (
    (
        "write",
        _command("rm ", "mv ", "cp ", "tee ", "touch ", "mkdir ", "sed -i", "chmod ", "patch ", "git (?:apply|add|co)"),
    ),
    ("poll", _command("sleep ", "wait ", "watch ")),
    ("check", _command(r"python[\d.]* ", "node ", "ruby ", "go run", "cargo run", "java ", "bash ", r"\./")),
)


# Commands that change and check nothing: most of what agents call in a shell. A plain one needs no closer look.
_LOOKS: Final = frozenset(
    ("ls", "cat", "head", "tail", "grep", "rg", "wc", "pwd", "echo", "cd", "file", "stat", "tree", "which", "du", "ps")
)


def command_verb(command: str) -> str:
    """What a shell command (or an editor's sub-command) does, guessed from its words; "" where they do not say."""
    command = command[:200]
    words = command.split(None, 1)
    if words and words[0] in _LOOKS and not any(sign in command for sign in ";&|>`$\n"):
        return ""
    if _EDITS.match(command):
        return "write"
    if _VIEWS.match(command):
        return "read"
    for word in _CHECK_WORDS:
        if word in command and _CHECKS.search(command):
            return "check"
    if ">" in command and _WRITES_INTO.search(command):
        return "write"
    parts = _PARTS.split(command)
    return next((verb for verb, begins in _BEGINNINGS if any(begins.match(part) for part in parts)), "")
