"""Runs: every open run, and which run an event belongs to.

The unit of work is the run, not the trace id: traces with one conversation id
are one run, and so are traces that tell of one model call (an SDK whose
framework does not hand its context down starts a root trace per call). Bounded by
idle time and by caps: what goes is put to sleep and woken by a late span.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Final, Protocol, TypeVar
from weakref import ref

from otel_cost.core.assemble.join import REPEATABLE, guess_keys, may_be_one
from otel_cost.core.assemble.meter import HOUR_NS, Meter
from otel_cost.core.assemble.run import Run
from otel_cost.core.model.measure import Teller
from otel_cost.core.model.vocabulary import Source
from otel_cost.core.normalise._metric import sender_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from otel_cost.core.model.charge import Charge
    from otel_cost.core.model.event import MetricPoint, Resource
    from otel_cost.core.model.measure import Measure, Sender
    from otel_cost.core.model.step import Step


class Archive(Protocol):
    """Where runs sleep. `find` gives the run that a trace or session key belongs to, or None."""

    def find(self, tenant: str, key: str) -> Run | None: ...


@dataclass(frozen=True, slots=True)
class Caps:
    """What open runs may take. Beyond it the run that was quiet longest is closed, whatever its age.

    But for one that has just been at work, which its next span would wake, unless
    there is `most` times as much. A step and what is kept with it take about 4 kB, a span that is no step 50 bytes.
    A run of more than `run_steps` does not stay open for `idle_ns`: it is written down as soon as it is not at work.
    A run that goes on for days is written down once so many positions (bytes of the journal) lie `behind` since it
    began, and goes on from there: a restart reads no more than that again.
    """

    idle_ns: int = 30 * 60 * 10**9
    busy_ns: int = 10 * 10**9
    most: int = 4
    open_spans: int = 2_000_000
    open_steps: int = 120_000
    run_steps: int = 20_000
    behind: int = 2**62


# An SDK's own root trace and the framework's span of the same call come within one export interval of each other.
_GUESS_WINDOW: Final = 65_536
_ALIKE: Final = 64

# What is remembered of senders that tell calls one by one.
_MOST_SERVICES: Final = 1024
_MOST_PROCESSES: Final = 16_384
_MOST_HOURS: Final = 48

_NO_RUNS: Final[tuple[tuple[Run, Run], ...]] = ()
_NO_NAMES: Final[list[tuple[str, str]]] = []

K = TypeVar("K")
V = TypeVar("V")


class Runs:
    """Open runs by tenant and key. Not thread-safe: one engine, one thread."""

    def __init__(self, charge: Callable[[Step], Charge], caps: Caps, archive: Archive | None = None) -> None:
        self._charge = charge
        self._most_steps = caps.run_steps
        self._caps = caps
        self._archive = archive
        self._open: OrderedDict[Run, None] = OrderedDict()  # least recently active first
        self._large: OrderedDict[Run, None] = OrderedDict()  # those beyond their own cap, in the same order
        self._by_key: dict[tuple[str, str | bytes], Run] = {}
        self._keys: dict[Run, list[tuple[str, str | bytes]]] = {}
        # Root-level model spans and what they could be twins of, over all runs: (tenant, tokens) → places.
        # Weakly: a run that is closed is not to be kept in memory by what it once said.
        self._twins: OrderedDict[tuple[str, tuple[str, int, int]], list[tuple[ref[Run], Step]]] = OrderedDict()
        self._positions: list[tuple[int, int, ref[Run]]] = []  # heap; what is no longer so is dropped when it comes up
        self._order = count()
        self._united: list[tuple[Run, Run]] = []
        # Runs with usage that metrics tell, by when the first of it came; and of runs that nobody wrote down, how far
        # their series had been counted.
        self._metered: dict[Run, int] = {}
        self._meters: dict[tuple[str, str | bytes], Meter] = {}
        # Hours in which a sender told model calls one by one.
        self._telling: _Telling = {}
        self._told_before: _Telling = {}  # before a restart; what is told again of it is told anew
        self._tellers: list[Teller] = []
        self._at = 0  # the position of the last event
        self.spans = 0
        self.steps = 0

    def __iter__(self) -> Iterator[Run]:
        return iter(self._open)

    def __len__(self) -> int:
        return len(self._open)

    # ---- usage that only metrics tell -------------------------------------

    def meter(self, point: MetricPoint, measure: Measure, position: int, now_ns: int) -> Run | None:
        """The run that a data point was counted for, to be billed when it closes; None: it adds nothing new.

        A point that names no session belongs to its sender: to the process, as far as its resource tells.
        """
        sender = sender_of(point.resource)
        if measure.session is None and not sender:
            return None
        key = f"session:{measure.session}" if measure.session is not None else _sender_key(sender)
        run = self._find_or_open(point.tenant, [(point.tenant, key)], position)
        if measure.session is not None:
            run.join_session(measure.session)
        else:
            run.sender = key
        if run.meter is None:
            # Of a run that was not written down nothing else remembers how far a running total has been counted.
            run.meter = self._meters.pop((point.tenant, key), None) or Meter()
        self._metered.setdefault(run, now_ns)
        if not run.meter.add(point, measure, sender):
            return None
        run.active_ns = max(run.active_ns, now_ns)
        self._touched(run)
        return run

    def apart(self, step: Step, resource: Resource, position: int) -> Run | None:
        """A sender tells a model call by span or log: its metrics of that hour count nothing.

        The run that had counted them already, if there is one: it is to be billed anew.
        """
        sender = sender_of(resource)
        if not sender:
            return None
        teller = Teller(step.tenant, sender, step.end_ns // HOUR_NS, step.session is not None)
        if not _note(self._telling, teller):
            return None  # nothing that was not known before
        self._tellers.append(teller)
        key = _sender_key(sender)
        if (step.tenant, key) not in self._by_key and self._archive is not None:
            self._wake(step.tenant, key, position)
        run = self._by_key.get((step.tenant, key))
        return run if run is not None and self.silence(run) else None

    def silence(self, run: Run) -> bool:
        """Take from a run's metrics what its senders have told call by call; True if that changes anything."""
        if run.meter is None:
            return False
        changed = False
        for service in {window.sender[0] for window in run.meter.windows.values() if window.sender}:
            for known in (self._told_before, self._telling):
                for sender, hours in known.get((run.tenant, service), {}).items():
                    changed |= run.meter.silence(sender, hours.keys(), only_without_session=True)
                    alone = [hour for hour, had_session in hours.items() if not had_session]
                    changed |= run.meter.silence(sender, alone, only_without_session=False)
        return changed

    def recall(self, tellers: Iterable[Teller]) -> None:
        """After a restart: who told calls one by one before."""
        for teller in tellers:
            _note(self._told_before, teller)

    def tellers(self) -> list[Teller]:
        """Those that have become known since the last call."""
        tellers, self._tellers = self._tellers, []
        return tellers

    def find(self, tenant: str, key: str | bytes) -> Run | None:
        """The open run that a trace id (bytes), session or call id ("session:…", "response:…") belongs to."""
        return self._by_key.get((tenant, key))

    def take(self, tenant: str, trace_id: bytes, step: Step | None, position: int, now_ns: int) -> Run:
        """The run of an event, opened, woken or united from several as the event's keys ask for."""
        if position > self._at:  # noqa: PLR1730  asked for every span
            self._at = position
        session, names = None, _NO_NAMES
        if step is not None:
            session = step.session
            if step.ids:
                names = [(tenant, name) for name in step.ids if not name.startswith(REPEATABLE)]
        run = self._by_key.get((tenant, trace_id)) if trace_id else None
        if run is not None and not session and not names:
            run.active_ns = now_ns
        else:
            # A run that was found by a session is found by it as long as it is open.
            if run is None or (session and session != run.found_by) or not self._are_its(run, names):
                keys: list[tuple[str, str | bytes]] = [(tenant, trace_id)] if trace_id else []
                if session:
                    keys.append((tenant, f"session:{session}"))
                keys += names
                run = self._find_or_open(tenant, keys, position)
                if session:
                    run.join_session(session)
                    run.found_by = session
            if now_ns > run.active_ns:  # noqa: PLR1730  max() would be a call for every span
                run.active_ns = now_ns
        self._touched(run)
        return run

    def _are_its(self, run: Run, names: list[tuple[str, str]]) -> bool:
        """Is no other run found by one of these names? Then this one is, from now on."""
        fresh = []
        for name in names:
            known = self._by_key.get(name)
            if known is None:
                fresh.append(name)
            elif known is not run:
                return False
        for name in fresh:
            self._by_key[name] = run
            self._keys[run].append(name)
        return True

    def _touched(self, run: Run) -> None:
        self._open.move_to_end(run)
        if len(run.steps) > self._most_steps:
            self._large[run] = None
            self._large.move_to_end(run)

    def _find_or_open(self, tenant: str, keys: list[tuple[str, str | bytes]], position: int) -> Run:
        found: Run | None = None
        for key in keys:
            run = self._by_key.get(key)
            # A trace that is open already was looked for; only its session may still lead to a sleeping run.
            if run is None and self._archive is not None and (found is None or str(key[1]).startswith("session:")):
                run = self._wake(tenant, key[1], position)
            if run is None or run is found:
                continue
            found = run if found is None else self._unite(found, run)
        if found is None:
            found = Run(tenant, self._charge, position)
            self._opened(found)
        for key in keys:
            if self._by_key.get(key) is not found:
                self._by_key[key] = found
                self._keys[found].append(key)
        return found

    def _wake(self, tenant: str, key: str | bytes, position: int) -> Run | None:
        run = None if self._archive is None else self._archive.find(tenant, _key_text(key))
        if run is None:
            return None
        run.position = position
        run.was_written = True
        self._opened(run)
        for trace_id, trace in run.traces.items():
            self._claim(run, trace_id)
            self.spans += trace.parents.count
        if run.sender:
            self._claim(run, run.sender)
        for session in run.sessions:
            self._claim(run, f"session:{session}")
        for step in run.steps:
            for own in step.ids:
                if not own.startswith(REPEATABLE):
                    self._claim(run, own)
        self.steps += len(run.steps)
        return run

    def _opened(self, run: Run) -> None:
        self._open[run] = None
        self._keys[run] = []
        self._needs(run)

    def _needs(self, run: Run) -> None:
        heappush(self._positions, (run.position, next(self._order), ref(run)))

    def _claim(self, run: Run, key: str | bytes) -> None:
        if (run.tenant, key) not in self._by_key:
            self._by_key[run.tenant, key] = run
            self._keys[run].append((run.tenant, key))

    def _unite(self, a: Run, b: Run) -> Run:
        if len(a.steps) < len(b.steps):
            a, b = b, a
        before = a.position
        a.absorb(b)
        if a.position != before:
            self._needs(a)
        for key in self._keys.pop(b):
            self._by_key[key] = a
            self._keys[a].append(key)
        del self._open[b]
        self._large.pop(b, None)
        if (since_ns := self._metered.pop(b, None)) is not None:
            self._metered.setdefault(a, since_ns)
        self._united.append((a, b))
        return a

    def united(self) -> Sequence[tuple[Run, Run]]:
        """Runs that became one since the last call: (the one that stays, the one that went)."""
        if not self._united:
            return _NO_RUNS
        united, self._united = self._united, []
        return united

    def twin(self, run: Run, step: Step) -> Run:
        """Unite with the run that tells of the same call, where one of the two is a root trace of its own.

        Only a guess, so it asks for everything at once: another scope, the same
        model and tokens, one inside the other in time, and a root without a conversation.
        """
        keys = guess_keys(step)
        if not keys or step.source is not Source.SPAN:
            return run
        for key in keys:
            slot = (step.tenant, key)
            bucket = self._twins.get(slot)
            if bucket is None:
                bucket = self._twins[slot] = []
                if len(self._twins) > _GUESS_WINDOW:
                    self._twins.popitem(last=False)
            elif bucket:
                run = self._match(run, step, bucket)
            bucket.append((ref(run), step))
            if len(bucket) > _ALIKE:
                del bucket[0]
        if not step.parent_id:
            # What a root encloses came before it, when it was not known that nothing else is above.
            for inner in run.related(step):
                for key in guess_keys(inner):
                    run = self._match(run, inner, self._twins.get((inner.tenant, key), ()))
        return run

    def _match(self, run: Run, step: Step, bucket: Iterable[tuple[ref[Run], Step]]) -> Run:
        for known, theirs in bucket:
            other = known()
            if (
                other is not None
                and other is not run
                and other in self._open
                and may_be_one(step, theirs)
                and (run.stands_alone(step) or other.stands_alone(theirs))
            ):
                return self._unite(run, other)
        return run

    def idle(self, now_ns: int) -> Iterator[Run]:
        """Runs to be closed now: quiet for too long, begun too long ago, or the quietest while there is too much."""
        if self._archive is not None:
            # A service sends metrics for as long as it runs: what it has used is written down every hour.
            for run, since_ns in list(self._metered.items()):
                if since_ns + HOUR_NS > now_ns:
                    break
                if run.steps:
                    del self._metered[run]
                    continue
                yield run
                self.forget(run)
        caps = self._caps
        while (position := self.position()) is not None and self._at - position > caps.behind:
            first = self._positions[0][2]()
            if first is None or self._archive is None:  # nobody could wake it
                break
            yield first
            self.forget(first)
        while self._large and self._archive is not None:
            run = next(iter(self._large))
            if run.active_ns + caps.busy_ns > now_ns:
                break
            yield run
            self.forget(run)
        while self._open:
            run = next(iter(self._open))
            over = max(self.spans / caps.open_spans, self.steps / caps.open_steps)
            quiet_ns = caps.idle_ns if over <= 1 else caps.busy_ns if over <= caps.most else 0
            if run.active_ns + quiet_ns > now_ns:
                return
            yield run
            self.forget(run)

    def forget(self, run: Run) -> None:
        """Let a run go; whoever calls has written it down."""
        self._open.pop(run, None)
        self._large.pop(run, None)
        self._metered.pop(run, None)
        if run.meter is not None and (self._archive is None or not run.calls):
            known = Meter(series=run.meter.series)
            for key in self._keys.get(run, []):
                if isinstance(key[1], str):
                    _bounded(self._meters, key, known, _GUESS_WINDOW)
        for key in self._keys.pop(run, []):
            self._by_key.pop(key, None)
        self.spans -= sum(trace.parents.count for trace in run.traces.values())
        self.steps -= len(run.steps)

    def position(self) -> int | None:
        """The oldest journal position that an open run still needs; None: nothing is open."""
        while self._positions:
            position, _, known = self._positions[0]
            run = known()
            if run is not None and run in self._open and run.position == position:
                return position
            heappop(self._positions)
        return None


# (tenant, service) → process → hour → did each call name its session?
_Telling = dict[tuple[str, str], dict["Sender", dict[int, bool]]]


def _note(telling: _Telling, teller: Teller) -> bool:
    """False: it says nothing that was not known."""
    tenant, sender, hour, in_session = teller
    processes = telling.get((tenant, sender[0]))
    if processes is None:
        processes = _bounded(telling, (tenant, sender[0]), {}, _MOST_SERVICES)
    hours = processes.get(sender)
    if hours is None:
        hours = _bounded(processes, sender, {}, _MOST_PROCESSES)
    had_session = hours.get(hour)
    if had_session is False or had_session is in_session:
        return False
    _bounded(hours, hour, in_session, _MOST_HOURS)
    return True


def _sender_key(sender: Sender) -> str:
    return f"sender:{':'.join(filter(None, sender))}"


def _bounded(known: dict[K, V], key: K, value: V, most: int) -> V:
    """Remember a value; the oldest key goes when there are too many."""
    known[key] = value
    if len(known) > most:
        del known[next(iter(known))]
    return value


def _key_text(key: str | bytes) -> str:
    return key.hex() if isinstance(key, bytes) else key
