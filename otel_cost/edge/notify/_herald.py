"""Herald: from the engine to the outbox, each alert once, whatever dies in between and whoever shares the ledger."""

from __future__ import annotations

import json
import sqlite3
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from otel_cost.core.enrich.records import alert_json
from otel_cost.core.policy import alert_of
from otel_cost.edge.ledger import LedgerUnavailableError

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Sequence

    from otel_cost.core.model.finding import Alert
    from otel_cost.edge.ledger import Shared
    from otel_cost.edge.notify._notifier import Notifier

ADOPT_S: Final = 10.0  # how often it is looked for alerts that nobody has told
NOTED_S: Final = 30.0  # after the database was away, or a start: for others to write down what they have told
AGAIN_S: Final = 0.5

_log = structlog.get_logger(__name__)


class Herald:
    """`take` on the engine's thread; the rest on the ledger's, since an alert is told around the commit of its row.

    Alone, it is in the outbox before the ledger has it: no crash loses or doubles one, and no hook call waits for the
    disk. Where several services share a ledger, who has written it first tells it, after that.
    """

    def __init__(
        self,
        notifier: Notifier,
        *,
        said: set[tuple[str, str]],
        shared: Shared | None,
        export: Callable[[Sequence[Alert]], None],
        stopping: threading.Event,
    ) -> None:
        """`said`: (tenant, id) of what was told before; `export`: takes alerts downstream, if the ledger is shared."""
        self._notifier, self._shared, self._export, self._stopping = notifier, shared, export, stopping
        self.said = said
        self.problem: str | None = None  # why the outbox cannot be written
        self._waiting: deque[Alert] = deque()  # on their way to the outbox
        self._told: set[tuple[str, str]] = set()  # of which the ledger does not know yet that they were told
        self._adopt_at = time.monotonic() + NOTED_S

    def take(self, alerts: Iterable[Alert]) -> None:
        """What the engine says; what it has said before a restart is passed over."""
        news = [alert for alert in alerts if (alert.tenant, alert.id) not in self.said]
        self.said.update((alert.tenant, alert.id) for alert in news)
        if self._shared is None:
            self._waiting.extend(news)

    def tell_again(self, alert: Alert, contacts: Sequence[str]) -> None:
        """What is told has happened once more: only for contacts that keep count of it."""
        self._put_out(partial(self._notifier.offer_again, alert_json(alert), contacts))

    def tell_waiting(self) -> None:
        """Before the ledger writes.

        Raises:
            LedgerUnavailableError: the outbox cannot be written, and the service is about to end.
        """
        news = [self._waiting.popleft() for _ in range(len(self._waiting))]
        try:
            self._tell(news)
        except sqlite3.Error as error:
            self._waiting.extendleft(reversed(news))
            raise LedgerUnavailableError(f"the outbox cannot be written: {error}") from error

    def tell_written(self, news: Sequence[Alert]) -> None:
        """After the ledger has written them, in a ledger that is shared: nobody else had.

        What nobody has told a while after it was written, since who wrote it has died, is told by whoever looks.
        """
        if self._shared is None:
            return
        self._tell(news)
        self._told |= {(alert.tenant, alert.id) for alert in news}
        try:
            if self._told:
                self._shared.note_told(self._told)
                self._told = set()
            if time.monotonic() >= self._adopt_at:
                self._adopt_at = time.monotonic() + ADOPT_S
                self.adopt()
        except LedgerUnavailableError as error:
            self.let_others_first()
            _log.warning("it is not written down yet which alerts were told", problem=str(error))

    def let_others_first(self) -> None:
        """The ledger is away: others may have told what they could not write down either; they come first."""
        self._adopt_at = time.monotonic() + NOTED_S

    def adopt(self, *, own: bool = False) -> None:
        """Tell what was written to a shared ledger and not told; `own`: while nothing is being written here."""
        left = [] if self._shared is None else self._shared.adopt_alerts(own=own)
        if self._shared is not None and left:
            _log.warning("alerts are told that were written and not told", alerts=len(left))
            self._tell([alert_of(json.loads(line)) for _, _, line in left])
            self._shared.note_told([(tenant, name) for tenant, name, _ in left])

    def _tell(self, news: Sequence[Alert]) -> None:
        if not news:
            return
        if self._shared is not None:
            self._export(news)
        self._put_out(partial(self._notifier.offer, [alert_json(alert) for alert in news]))
        for alert in news:
            _log.warning(
                "alert", rule=alert.rule, kind=alert.kind, state=alert.state, run=alert.run_id, summary=alert.summary
            )

    def _put_out(self, offer: Callable[[], None]) -> None:
        """Into the outbox; while its disk is full the ledger waits, and with it the engine and the senders."""
        while True:
            try:
                offer()
            except sqlite3.Error as error:
                if self.problem is None:
                    _log.error("the outbox cannot be written", problem=str(error))
                self.problem = f"the outbox cannot be written: {error}"
                if self._stopping.wait(AGAIN_S):
                    raise
            else:
                self.problem = None
                return
