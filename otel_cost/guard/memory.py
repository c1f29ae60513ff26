"""Memory: what the service said for the time when nobody answers: a stop stands, a rule fails closed.

As the hook client keeps it (`otel_cost.asking`), and in this process as well, where no file can be written.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

from otel_cost.asking import keep, kept, memory_path
from otel_cost.guard.answer import Answer, decoded, read_answer

if TYPE_CHECKING:
    from collections.abc import Iterable

_MOST_SESSIONS: Final = 10_000
_DIALECT: Final = "neutral"


class Memory:
    """The service's last word by session; "" stands for sessions that nothing is known of. Safe among threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._words: OrderedDict[str, str | None] = OrderedDict()

    def note(self, sessions: Iterable[str], told: str | None) -> None:
        """Take the word that came with an answer; None: nothing is to outlast it."""
        word = decoded(told) if told is not None else None
        if told is not None and not isinstance(word, dict):
            return
        closed = isinstance(word, dict) and word.get("why") == "closed"
        with self._lock:
            for session in [*sessions, *([""] if word is None or closed else [])]:
                self._put(session, told)

    def word(self, sessions: Iterable[str], event: str) -> tuple[Answer, str]:
        """What holds for an event while nobody answers, and why ("" = nothing was said)."""
        for session in [*sessions, ""]:
            word = self._find(session)
            if word is not None:
                answers = word.get("answers")
                told = answers.get(event) if isinstance(answers, dict) else None
                return read_answer(told, event, given=False), str(word.get("why", ""))
        return Answer(event=event, given=False), ""

    def _put(self, session: str, told: str | None) -> None:
        if session in self._words and self._words[session] == told:
            return  # as every answer says, almost always
        self._words[session] = told
        self._words.move_to_end(session)
        while len(self._words) > _MOST_SESSIONS:
            self._words.popitem(last=False)
        try:
            keep(memory_path(_DIALECT, session), told)
        except OSError:
            return  # this process remembers, the next one will not

    def _find(self, session: str) -> dict[str, Any] | None:
        with self._lock:
            if session in self._words:
                told = self._words[session]
                word = decoded(told) if told is not None else None
                return word if isinstance(word, dict) else None
        return kept(memory_path(_DIALECT, session))
