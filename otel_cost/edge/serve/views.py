"""Views: what the API and the pages show, from the ledger and the runs that are still open."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar, cast

from otel_cost.core.enrich.lines import rfc3339
from otel_cost.core.model.event import DEFAULT_TENANT
from otel_cost.edge.ledger import LedgerUnavailableError, by_cost
from otel_cost.edge.ledger.story import Row, story_of, told_run, with_outcomes
from otel_cost.edge.serve.people import silences_of, with_people

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Future
    from contextlib import AbstractContextManager
    from pathlib import Path

    from prometheus_client import CollectorRegistry

    from otel_cost.core.decide import Decision
    from otel_cost.core.model.event import HookEvent
    from otel_cost.core.model.outcome import Outcome
    from otel_cost.core.model.run import ClosedRun, RunSummary
    from otel_cost.core.model.vocabulary import Category
    from otel_cost.core.outcomes import OutcomeRule
    from otel_cost.edge.ledger import Ledger, Selection
    from otel_cost.edge.notify._outbox import Outbox


class Host(Protocol):
    """The running service, as far as the API sees it. All of it may be called from any thread."""

    @property
    def ledger(self) -> Ledger: ...

    @property
    def registry(self) -> CollectorRegistry: ...

    @property
    def backtests(self) -> Path:
        """Where reports of backtests are kept."""

    @property
    def listens(self) -> Mapping[str, str]:
        """Where OTLP is taken, by protocol (`grpc`, `http`)."""

    @property
    def outbox(self) -> Outbox:
        """What is told to people, and what they have said."""

    def forget(self, selection: Selection) -> int:
        """Delete closed runs; how many."""

    def back_up(self, target: Path) -> int:
        """Copy all that is kept to a new folder; its size in bytes."""

    def problems(self) -> list[str]:
        """Why the service is not ready; empty: it is."""

    def open_run(self, tenant: str, key: str) -> ClosedRun | None:
        """An open run as it stands, by run id, session or trace id (hex)."""

    def open_runs(self) -> list[RunSummary]:
        """Every open run as it stands."""

    def learn(self, outcomes: Sequence[Outcome]) -> None:
        """Take in what became of some work; on disk when this returns."""

    @property
    def outcome_rules(self) -> Sequence[OutcomeRule]:
        """How webhooks are read."""

    @property
    def github_webhooks(self) -> tuple[str, str] | None:
        """What GitHub signs its webhooks with, and whose runs they are about; None: they are refused."""

    def drift(self, tenant: str | None) -> list[Row]:
        """Where each group of each rule of drift stands (`core/drift.py`)."""

    def budgets(self, tenant: str | None, limit: int) -> list[Row]:
        """Where each group of each budget stands, the fullest first."""

    def allow(self, told: Mapping[str, object], tenant: str | None) -> Row:
        """Write a dated exception from an alert and put it in force.

        Raises:
            OtelCostError: it cannot be.
        """

    def decide(self, event: HookEvent) -> Future[Decision]:
        """What a harness is to be told at this event, which is also taken in. Does not block."""

    def expect_hook(self) -> AbstractContextManager[Callable[[HookEvent], Future[Decision]]]:
        """Such an event is about to be read; what it gives takes the place of `decide`, and may take milliseconds."""


_REMEMBERED: Final = 100  # answers
_LATE_NS: Final = 300 * 10**9  # what waits to be told for longer is no mere company for others
_SLOW_S: Final = 0.1
_OLDEST_S: Final = 600.0  # live pages correct what they have shown within seconds


_Found = TypeVar("_Found")


@dataclass(slots=True)
class _Answer:
    """What was found, when, and how long that took; in seconds of a monotonic clock."""

    found: Any
    at_s: float
    took_s: float
    is_renewed: bool = False  # somebody is asking anew

    def age_s(self) -> float:
        return time.monotonic() - self.at_s


class Views:
    """Questions over both. A run counts as open as long as the engine holds it.

    Reports are remembered by `window`: what its user called the time since `since_ns`, which moves on with the clock.
    """

    def __init__(self, host: Host) -> None:
        self.host = host
        self.ledger = host.ledger
        self._answers: dict[tuple[object, ...], _Answer] = {}
        self._lock = threading.Lock()

    def reports(
        self, asked: Sequence[Sequence[str]], window: str, since_ns: int | None, tenant: str | None = None
    ) -> list[list[Row]]:
        """As `Ledger.reports`, remembered for a while."""
        key = ("reports", *map(tuple, asked), window, tenant)
        return self._kept(key, lambda: self.ledger.reports(asked, since_ns, tenant=tenant))

    def per_outcome(self, by: Sequence[str], window: str, since_ns: int | None, tenant: str | None = None) -> list[Row]:
        """As `Ledger.per_outcome`, remembered for a while."""
        key = ("per outcome", *by, window, tenant)
        return self._kept(key, lambda: self.ledger.per_outcome(by, since_ns, tenant=tenant))

    def spend_over_time(
        self, step_ns: int, window: str, since_ns: int, until_ns: int, tenant: str | None = None
    ) -> list[tuple[int, int]]:
        """As `Ledger.spend_over_time`, remembered for a while."""
        key = ("over time", step_ns, window, tenant)
        return self._kept(key, lambda: self.ledger.spend_over_time(step_ns, since_ns, until_ns, tenant))

    def _kept(self, key: tuple[object, ...], ask: Callable[[], _Found]) -> _Found:
        """An answer stands ten times as long as it took to find: pages that renew themselves do not ask anew.

        After that one that took long is given once more while another is found for the next who asks; nobody waits
        for a large ledger twice.
        """
        with self._lock:
            known = self._answers.get(key)
            if known is not None and known.age_s() < 10 * known.took_s:
                return cast("_Found", known.found)
            behind = known is not None and known.took_s >= _SLOW_S and known.age_s() < _OLDEST_S
            if known is not None and behind:
                if not known.is_renewed:
                    known.is_renewed = True
                    threading.Thread(target=self._renew, args=(key, ask), name="report", daemon=True).start()
                return cast("_Found", known.found)
        return self._ask(key, ask)

    def _ask(self, key: tuple[object, ...], ask: Callable[[], _Found]) -> _Found:
        begun_s = time.monotonic()
        found = ask()
        with self._lock:
            self._answers[key] = _Answer(found, time.monotonic(), time.monotonic() - begun_s)
            while len(self._answers) > _REMEMBERED:
                del self._answers[next(iter(self._answers))]
        return found

    def _renew(self, key: tuple[object, ...], ask: Callable[[], object]) -> None:
        try:
            self._ask(key, ask)
        except LedgerUnavailableError:
            with self._lock:
                self._answers.pop(key, None)  # the next who asks is told

    def run(self, run_or_trace_id: str, tenant: str | None) -> Row | None:
        """One run's story (`ledger/story.py`), as it is now; None: unknown."""
        written = self.ledger.run(run_or_trace_id, tenant)
        try:
            live = self.host.open_run(tenant or DEFAULT_TENANT, run_or_trace_id)
        except TimeoutError:
            live = None  # the engine is busy: what is written is what there is
        if live is None:
            return written
        alerts: Any = written["alerts"] if written else ()
        corrections: Any = written["corrections"] if written else ()
        keys = (*(f"trace:{trace_id.hex()}" for trace_id in live.summary.trace_ids), *live.keys, *live.joins)
        told = self.ledger.outcomes_by_keys(live.summary.tenant, keys, live.summary.start_ns)
        return with_outcomes(story_of(live, alerts, corrections, is_open=True), _all_of(told, live.summary.outcomes))

    def open_runs(self, tenant: str | None = None) -> list[Row]:
        """Run lines of the runs that have calls and are not closed, dearest first."""
        try:
            summaries = self.host.open_runs()
        except TimeoutError:
            return []
        mine = [
            summary
            for summary in summaries
            if tenant in {None, summary.tenant} and (summary.llm_calls or summary.tool_calls)
        ]
        written = self.ledger.outcomes([(summary.tenant, summary.run_id) for summary in mine])
        rows = (
            with_outcomes(
                told_run(summary, is_open=True),
                _all_of(written.get((summary.tenant, summary.run_id), ()), summary.outcomes),
            )
            for summary in mine
        )
        return sorted(rows, key=by_cost)

    def budgets(self, tenant: str | None, limit: int = 200) -> list[Row]:
        """Where the budgets stand; nothing while the engine is busy."""
        try:
            return self.host.budgets(tenant, limit)
        except TimeoutError:
            return []

    def drift(self, tenant: str | None) -> list[Row]:
        """Where each group of each rule of drift stands; nothing while the engine is busy."""
        try:
            return self.host.drift(tenant)
        except TimeoutError:
            return []

    def alerts(self, limit: int, tenant: str | None, category: Category | None = None) -> list[Row]:
        """Alert lines, the latest first, with what people have said of them."""
        return with_people(self.host.outbox, self.ledger.alerts(limit, None, tenant, category))

    def untold(self) -> list[Row]:
        """Channels that have not been told everything: what waits and since when, what was given up."""
        now_ns = time.time_ns()
        return [
            {
                "channel": name,
                "pending": book.pending,
                "waits_ms": 0 if book.oldest_ns is None else max(0, now_ns - book.oldest_ns) // 10**6,
                "dead": book.dead,
                "why": next((why for _, why in reversed(self.host.outbox.dead(name))), None) if book.dead else None,
            }
            for name, book in sorted(self.host.outbox.counts().items())
            if book.dead or (book.oldest_ns is not None and now_ns - book.oldest_ns > _LATE_NS)
        ]

    def silences(self, tenant: str | None) -> list[Row]:
        """Silences that hold."""
        return silences_of(self.host.outbox, tenant)

    def runs(self, top: int, since_ns: int | None, until_ns: int | None, tenant: str | None) -> list[Row]:
        """The dearest runs, open and closed."""
        live = {(run["tenant"], run["run_id"]): run for run in self._open_in(since_ns, until_ns, tenant)}
        written = self.ledger.runs(top + len(live), since_ns, until_ns, tenant)
        closed = [run for run in written if (run["tenant"], run["run_id"]) not in live]
        return sorted([*live.values(), *closed], key=by_cost)[:top]

    def _open_in(self, since_ns: int | None, until_ns: int | None, tenant: str | None) -> list[Row]:
        from_, until = (None if ns is None else rfc3339(ns) for ns in (since_ns, until_ns))
        return [
            run
            for run in self.open_runs(tenant)
            if (from_ is None or run["start_time"] >= from_) and (until is None or run["start_time"] < until)
        ]


def _all_of(written: Sequence[Outcome], live: Sequence[Outcome]) -> list[Outcome]:
    """What the ledger and the engine know of a run, each once."""
    return list({one.id: one for one in (*written, *live)}.values())
