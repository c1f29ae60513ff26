"""Errors that a user can cause, each with the way out in its text."""

from __future__ import annotations

import traceback
from dataclasses import dataclass


class OtelCostError(Exception):
    """Base of everything below: printed as its text, without a traceback."""


class DecodeError(OtelCostError):
    """A request body is not what its signal and content type say; permanent (HTTP 400, gRPC INVALID_ARGUMENT)."""


@dataclass(slots=True, frozen=True)
class Problem:
    """One mistake in one file: where it is, what it is, what is allowed."""

    source: str  # file name as the user wrote it
    line: int  # from 1
    column: int  # from 1
    path: str  # budgets[0].limit.window; "" for the whole document
    message: str
    hint: str = ""

    def __str__(self) -> str:
        where = f"{self.source}:{self.line}:{self.column}: "
        what = f"{self.path}: {self.message}" if self.path else self.message
        return f"{where}{what}\n    {self.hint}" if self.hint else f"{where}{what}"


class DocumentError(OtelCostError):
    """A YAML file that does not load; every mistake at once, in file order."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("\n".join(map(str, problems)))


class UsageError(OtelCostError):
    """The command cannot be carried out as asked (exit code 2)."""


def whereabouts(error: BaseException) -> dict[str, str]:
    """What may be logged of an unexpected error: its type and place, not its text, which may quote what was sent."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else ""
    return {"error": type(error).__name__, "at": place}
