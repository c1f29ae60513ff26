"""Backlog: what is durable but not yet through the engine, in journal order, and questions to the engine."""

from __future__ import annotations

import queue
import threading
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from otel_cost.core.decide import Decision
    from otel_cost.core.model.event import HookEvent
    from otel_cost.edge.journal import Record
    from otel_cost.edge.visits import Visit

    Question = tuple[Callable[[], Any], Future[Any]]

# Beyond it tenants wait that have more than their share of it in line; beyond twice as much the journal's writer waits,
# and with it everybody.
BACKLOG_BYTES: Final = 8 * 2**20
# Overload, as routes may ask for it: from the first share of the backlog on, until it is down to the second.
OVERLOADED_AT: Final = 0.75
RELIEVED_AT: Final = 0.25

_log = structlog.get_logger(__name__)


class Backlog:
    """Filled by the journal and by whoever asks, emptied by the engine's thread.

    `hooks` are calls of harnesses, which wait for nothing in line, and those that want to come in.
    """

    def __init__(self) -> None:
        self._line: queue.SimpleQueue[Record | Question | None] = queue.SimpleQueue()
        self._room = threading.Condition()
        self._bytes = 0
        self._of: dict[str, int] = {}  # the same by tenant
        self._closed = False
        self._sleeps = False
        self.is_overloaded = False
        self.hooks: deque[tuple[HookEvent, Future[Decision]] | Visit] = deque()

    def put_records(self, records: Iterable[Record]) -> None:
        """Called by the journal's writer, in order; waits while too much is in line."""
        for record in records:
            size = len(record.payload)
            with self._room:
                self._room.wait_for(lambda: self._bytes < 2 * BACKLOG_BYTES or self._closed)
                self._bytes += size
                self._of[record.tenant] = self._of.get(record.tenant, 0) + size
                self.is_overloaded = self.is_overloaded or self._bytes >= OVERLOADED_AT * BACKLOG_BYTES
            self._line.put(record)

    def admit(self, tenant: str, timeout_s: float) -> bool:
        """Wait until the line is short, or what a tenant has in it is less than an equal share; False: in vain."""
        with self._room:
            return self._room.wait_for(lambda: self._closed or not self._is_greedy(tenant), timeout_s)

    def _is_greedy(self, tenant: str) -> bool:
        return self._bytes >= BACKLOG_BYTES and self._of.get(tenant, 0) * len(self._of) >= BACKLOG_BYTES

    def put_hook(self, event: HookEvent, answer: Future[Decision]) -> None:
        self.hooks.append((event, answer))
        self._wake()

    def put_visit(self, visit: Visit) -> None:
        self.hooks.append(visit)
        self._wake()

    def _wake(self) -> None:
        if self._sleeps:
            self.put_question(lambda: None, Future())

    def put_question(self, question: Callable[[], Any], answer: Future[Any]) -> None:
        self._line.put((question, answer))

    @property
    def is_half_full(self) -> bool:
        """One more record finds room, and not many."""
        return self._bytes > BACKLOG_BYTES // 2

    def close(self) -> None:
        """No more records are coming; `take` ends when the line is empty."""
        with self._room:
            self._closed = True
            self._room.notify_all()
        self._line.put(None)

    def take(self, timeout_s: float) -> list[Record | Question] | None:
        """The next in line; [] after the timeout and when there are hook calls; None at the end."""
        self._sleeps = True  # before the look at `hooks`: who comes after it, wakes us
        try:
            first = self._line.get(timeout=0 if self.hooks else timeout_s)
        except queue.Empty:
            return []
        finally:
            self._sleeps = False
        if first is None:
            return None
        if not isinstance(first, tuple):
            with self._room:
                size = len(first.payload)
                self._bytes -= size
                left = self._of[first.tenant] - size
                if left:
                    self._of[first.tenant] = left
                else:
                    del self._of[first.tenant]
                self.is_overloaded = self.is_overloaded and self._bytes > RELIEVED_AT * BACKLOG_BYTES
                self._room.notify_all()
        return [first]


def answer(question: Callable[[], Any], future: Future[Any]) -> None:
    """Answer a question; what goes wrong belongs to whoever asked."""
    waited_for = future.set_running_or_notify_cancel()
    try:
        said = question()
    except Exception as error:  # noqa: BLE001  # told to whoever asked
        if waited_for:
            future.set_exception(error)
        else:
            _log.warning("a question failed that nobody waits for", error=type(error).__name__)
    else:
        if waited_for:
            future.set_result(said)
