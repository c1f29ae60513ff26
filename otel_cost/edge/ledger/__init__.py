"""Ledger: the charges on disk, and what may be asked of them.

Rows and the journal cursor are committed in one transaction and every row has a
key, so that replaying what was already written changes nothing. `Ledger` is the
interface; `duckdb.py` (a file) and `postgres.py` (a database that services share)
implement it, one contract test holds for both, `opening.py` chooses. `Batch` is
what it is given, `writer.py` feeds it off the hot path.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

from otel_cost.edge.receive.homes import HomeStore
from otel_cost.errors import OtelCostError, UsageError

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from otel_cost.core.budget import Spend
    from otel_cost.core.detect._pace import Taken
    from otel_cost.core.drift import Ran
    from otel_cost.core.library import Seen
    from otel_cost.core.model.call import Call
    from otel_cost.core.model.charge import Charge
    from otel_cost.core.model.effects import Correction, Effects
    from otel_cost.core.model.finding import Alert
    from otel_cost.core.model.measure import Sender, Teller
    from otel_cost.core.model.outcome import Outcome
    from otel_cost.core.model.run import ClosedRun
    from otel_cost.core.model.step import Step
    from otel_cost.core.model.vocabulary import Category
    from otel_cost.edge.partitions import Offset, Partition

# JSON types only; ids lower-case hex, money decimal strings of USD or None.
Row = dict[str, object]

DIMENSIONS: Final = (
    "tenant",
    "org",
    "team",
    "user",
    "api_key",
    "project",
    "workflow",
    "agent",
    "model",
    "provider",
    "tool",
    "session",
    "kind",
)
NO_OFFSETS: Final[Mapping[Partition, Offset]] = MappingProxyType({})
FILE: Final = "ledger.duckdb"  # in the data dir
ATTRIBUTE: Final = "attr:"  # attr:KEY groups by one attribute


@dataclass(frozen=True, slots=True)
class Selection:
    """Closed runs, by all that is given: of a tenant, of a user, one run, those that ended before a moment."""

    tenant: str | None = None
    run_id: str | None = None
    user: str | None = None
    before_ns: int | None = None

    @property
    def is_empty(self) -> bool:
        return self == Selection()


class LedgerUnavailableError(OtelCostError):
    """The store cannot take or give rows now: disk full, I/O error. Nothing was written; it may work later."""


class PartitionMovedError(OtelCostError):
    """Another worker reads a partition that this one took for its own. Nothing was written."""

    def __init__(self, partition: Partition) -> None:
        super().__init__(f"partition {partition.number} of {partition.topic} is read by another worker now")


class UnknownDimensionError(UsageError):
    """A report was asked by something that is no dimension; the text lists what is."""

    def __init__(self, name: str, *more: str) -> None:
        self.name = name
        self.allowed = (*DIMENSIONS, *more, f"{ATTRIBUTE}KEY")
        super().__init__(f"unknown dimension {name!r}; one of: {', '.join(self.allowed)}")


def checked_dimensions(by: Sequence[str], *more: str) -> tuple[str, ...]:
    """`by` without repetition. `more`: dimensions that only this question knows.

    Raises:
        UnknownDimensionError: one of them is no dimension.
    """
    for name in by:
        if name not in (*DIMENSIONS, *more) and not (name.startswith(ATTRIBUTE) and len(name) > len(ATTRIBUTE)):
            raise UnknownDimensionError(name, *more)
    return tuple(dict.fromkeys(by))


def names_of(run: ClosedRun) -> Iterator[tuple[str, str]]:
    """What a run may have been called, with its tenant: the smallest session, else the smallest trace; its sender."""
    for key in run.keys:
        yield run.summary.tenant, key.removeprefix("session:")


@dataclass(slots=True)
class Batch:
    """What the engine's effects leave in the ledger, the last word on each key, in any number of steps."""

    calls: dict[tuple[str, str], tuple[str, Call] | None] = field(default_factory=dict)  # (tenant, id) → (run, call)
    alerts: dict[tuple[str, str], Alert] = field(default_factory=dict)
    corrections: list[Correction] = field(default_factory=list)
    closed: dict[tuple[str, str], ClosedRun] = field(default_factory=dict)
    outcomes: dict[tuple[str, str], Outcome] = field(default_factory=dict)
    joins: set[tuple[str, str, str]] = field(default_factory=set)  # (tenant, key by which outcomes find it, run id)
    tellers: dict[tuple[str, Sender, int], bool] = field(default_factory=dict)
    rows: int = 0  # about how many it makes
    woken: set[tuple[str, str]] = field(default_factory=set)  # closed runs that went on before they were written
    is_sure: bool = False  # of its runs none is in the ledger but those that were found there

    def add(self, effects: Effects) -> None:
        """Take over what `effects` says; a call that is gone stands as None."""
        for tenant, call_id in effects.gone:
            self.calls[tenant, call_id] = None
        for tenant, run_id, call in effects.calls:
            self.calls[tenant, call.id] = (run_id, call)
        for alert in effects.alerts:
            self.alerts[alert.tenant, alert.id] = alert
        self.corrections.extend(effects.corrections)
        for outcome in effects.outcomes:
            known = self.outcomes.get((outcome.tenant, outcome.id))
            if known is None or known.at_ns <= outcome.at_ns:
                self.outcomes[outcome.tenant, outcome.id] = outcome
        self.joins.update((tenant, key, run_id) for tenant, run_id, key in effects.joins)
        for tenant, sender, hour, in_session in effects.tellers:
            self.tellers[tenant, sender, hour] = in_session and self.tellers.get((tenant, sender, hour), True)
        self.rows += len(effects.outcomes) + len(effects.joins) + len(effects.tellers)
        for run in effects.closed:
            for name in names_of(run):  # under which it has closed here before, and gone on
                self.closed.pop(name, None)
            self.closed[run.summary.tenant, run.summary.run_id] = run
            self.rows += 1 + run.steps
        self.rows += len(effects.gone) + len(effects.calls) + len(effects.alerts) + len(effects.corrections)

    def let_go(self, pause: Callable[[], None]) -> None:
        """Free what is in it, piece by piece: all at once it keeps the interpreter from others for 10 ms and more."""
        for things in (self.closed, self.calls, self.alerts, self.outcomes):
            while things:
                things.popitem()
                pause()
        for more in (self.joins, self.corrections):
            while more:
                more.pop()

    def asleep(self, tenant: str, key: str) -> tuple[str, bytes] | None:
        """Run id and snapshot of a closed run that waits here, by one of its keys."""
        for (owner, run_id), run in reversed(self.closed.items()):
            if owner == tenant and key in run.keys:
                snapshot = run.snapshot()
                return (run_id, snapshot) if snapshot else None
        return None


@dataclass(frozen=True, slots=True)
class Heard:
    """What other services have written to a ledger that is shared."""

    spends: Sequence[tuple[str, str, Spend | None]] = ()  # tenant, call id, what it costs; None: nothing, or it is gone
    keys: Sequence[tuple[str, str]] = ()  # (tenant, key) of runs that they closed
    alerts: Sequence[Row] = ()  # alert lines


class Ledger(Protocol):
    """Where charges are written down. One writer in a process; reads from any thread. `tenant` None: all tenants."""

    charge: Callable[[Step], Charge] | None  # prices what changes where parts of a run that several wrote become one
    pause: Callable[[], None]  # called again and again in a commit: others may come first for a moment

    @property
    def is_shared(self) -> bool:
        """Do other services write to it, too?"""

    def heard(self) -> Heard:
        """What others have committed since this was asked last, or since this was opened; each thing once.

        Raises:
            LedgerUnavailableError: not now; it is in the next answer.
        """

    def commit(
        self, batch: Batch, cursor: int, offsets: Mapping[Partition, Offset] = NO_OFFSETS
    ) -> set[tuple[str, str]]:
        """Write all of `batch`, the journal cursor and how far partitions are done with, or nothing.

        Returns (tenant, id) of the alerts that nobody had written before, as far as a ledger knows several writers.

        Raises:
            LedgerUnavailableError: nothing was written; the same batch may be committed later.
            PartitionMovedError: nothing was written; another worker has taken one of the partitions.
        """

    def take_partitions(self, partitions: Sequence[Partition]) -> dict[Partition, Offset]:
        """From now on only the asker may move these partitions' offsets; where they stand, with the asker's epoch.

        Raises:
            LedgerUnavailableError: nothing was taken.
        """

    def cursor(self) -> int:
        """Position in the journal of this data directory up to which everything is written; 0 in a new ledger."""

    def find_snapshot(self, tenant: str, key: str) -> bytes | None:
        """What wakes the closed run that a trace id (hex), `session:…` or call id belongs to."""

    def woken(self, tenant: str, run_id: str) -> None:
        """A run that is written down goes on: what it says next is its whole truth. `find_snapshot` knows by itself."""

    def closed_runs(
        self, since_ns: int | None = None, until_ns: int | None = None, tenant: str | None = None
    ) -> Iterator[tuple[str, str, bytes]]:
        """(tenant, run id, snapshot) of every closed run that was at work in a stretch of time, earliest first.

        The snapshot is empty where none was kept. What is committed for such a run afterwards is its whole truth.
        """

    def key_numbers(self, limit: int) -> array[int]:
        """`rows.key_number` of the keys of closed runs, in order; of at most so many, those of the latest runs."""

    def tellers(self) -> list[Teller]:
        """Who told model calls one by one in the last two days, the latest hours last."""

    def sent_alerts(self) -> set[tuple[str, str]]:
        """(tenant, id) of every alert written down: a replay sends none of them again."""

    def spends(self, since_ns: int) -> Iterator[tuple[str, Spend]]:
        """(call id, what it cost and for whom) of every priced call that started at `since_ns` or later, by start.

        Facts are the dimensions and the attributes that were kept, by name.
        """

    def report(
        self,
        by: Sequence[str] = (),
        since_ns: int | None = None,
        until_ns: int | None = None,
        tenant: str | None = None,
    ) -> list[Row]:
        """Spend by any dimensions, by start of the call (`since` ≤ start < `until`), dearest first.

        Raises:
            UnknownDimensionError: `by` names something else.
        """

    def reports(
        self,
        asked: Sequence[Sequence[str]],
        since_ns: int | None = None,
        until_ns: int | None = None,
        tenant: str | None = None,
    ) -> list[list[Row]]:
        """Several reports of one stretch of time, each as `report` gives it, for little more than one of them costs.

        Raises:
            UnknownDimensionError: one of them names something else.
        """

    def spend_over_time(
        self, step_ns: int, since_ns: int, until_ns: int, tenant: str | None = None
    ) -> list[tuple[int, int]]:
        """(start of the step in ns, nano-USD) of every step that has priced calls, in order of time."""

    def runs(
        self, top: int = 20, since_ns: int | None = None, until_ns: int | None = None, tenant: str | None = None
    ) -> list[Row]:
        """Run lines (contract 2.2) of the dearest closed runs."""

    def run(self, run_or_trace_id: str, tenant: str | None = None) -> Row | None:
        """One run's whole story (`story.py` says its shape); what is known so far of a run that is still open."""

    def alerts(
        self,
        limit: int = 100,
        since_ns: int | None = None,
        tenant: str | None = None,
        category: Category | None = None,
    ) -> list[Row]:
        """Alert lines, the latest first. An episode that has been resolved shows as resolved only."""

    def loops(self, limit: int = 100, since_ns: int | None = None, tenant: str | None = None) -> list[Row]:
        """Shapes of loops and waste that were seen, the dearest first: how often, in how many runs, what they burnt."""

    def shapes_of_finished_runs(self, most: int) -> Iterator[tuple[str, str, Seen]]:
        """The same for the engine: tenant, shape and what is known of it from runs that are over, the dearest last."""

    def usual(self, most: int) -> Iterator[tuple[str, str, list[Taken]]]:
        """Tenant, workflow, and what its last finished runs took, the oldest first; at most `most` of each."""

    def outcomes(self, runs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], list[Outcome]]:
        """What became of runs, by (tenant, run id): all news that reaches each; runs without any are left out."""

    def news(self, limit: int = 100, since_ns: int | None = None, tenant: str | None = None) -> list[Row]:
        """Outcomes, the latest first, each with its tenant, its keys and the runs that it reaches."""

    def outcomes_by_keys(self, tenant: str, keys: Sequence[str], start_ns: int) -> list[Outcome]:
        """What became of a run that is known by these keys and began at `start_ns`."""

    def recorded(
        self, since_ns: int | None = None, until_ns: int | None = None, tenant: str | None = None
    ) -> Iterator[tuple[str, str, bytes, str]]:
        """(tenant, run id, snapshot, verdict) of closed runs that were at work in a stretch of time, by start.

        Only to be read: unlike with `closed_runs`, nothing that follows is taken for such a run's whole truth.
        """

    def finished(self, since_ns: int) -> Iterator[Ran]:
        """Closed runs that ended at `since_ns` or later and whose cost has no holes, as drift compares them, by end."""

    def per_outcome(
        self,
        by: Sequence[str] = (),
        since_ns: int | None = None,
        until_ns: int | None = None,
        tenant: str | None = None,
    ) -> list[Row]:
        """What outcomes cost (`core/per_outcome.py`): whole runs, by when they began; also by `model_route`.

        Raises:
            UnknownDimensionError: `by` names something else.
        """

    def forget(self, selection: Selection) -> int:
        """Delete closed runs with all that hangs on them; how many. What is still open is written anew when it closes.

        Raises:
            LedgerUnavailableError: not now; what was deleted so far stays deleted.
        """

    def forget_oldest(self, share: float) -> int:
        """Delete a share of the closed runs, the oldest; how many."""

    def used_bytes(self) -> int:
        """What it takes on disk."""

    def back_up(self, folder: Path, beside: Callable[[], None]) -> None:
        """Copy it into a folder; `beside` copies what must be of the same moment: nothing is committed then.

        Raises:
            UsageError: it is to be backed up by other means; the text says which.
        """

    def close(self) -> None: ...


@runtime_checkable
class Shared(HomeStore, Protocol):
    """What a ledger knows besides that several services write to."""

    def note_told(self, alerts: Collection[tuple[str, str]]) -> None:
        """(tenant, id) of alerts that have been told.

        Raises:
            LedgerUnavailableError: it is not written down.
        """

    def adopt_alerts(self, *, own: bool = False) -> list[tuple[str, str, str]]:
        """(tenant, id, line) of alerts that nobody has told half a minute after they were written; the asker is to.

        `own`: those that this service has written last at once, since it is not about to tell any.
        """


def by_cost(row: Row) -> tuple[bool, float]:
    """Sort key: dearest first, what has no price last."""
    cost = row.get("cost_usd")
    return (cost is None, -float(str(cost)) if cost is not None else 0.0)
