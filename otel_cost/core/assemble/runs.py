"""Runs: every open run, and which run an event belongs to.

The unit of work is the run, not the trace id: traces with one conversation id
are one run, and so are traces that tell of one model call (an SDK whose
framework does not hand its context down starts a root trace per call). Bounded by
idle time and by caps: what goes is put to sleep and woken by a late span.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from otel_cost.core.assemble.join import REPEATABLE, guess_key, may_be_one
from otel_cost.core.assemble.run import Run
from otel_cost.core.model.vocabulary import Source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from otel_cost.core.model.charge import Charge
    from otel_cost.core.model.step import Step


class Archive(Protocol):
    """Where runs sleep. `find` gives the run that a trace or session key belongs to, or None."""

    def find(self, tenant: str, key: str) -> Run | None: ...


@dataclass(frozen=True, slots=True)
class Caps:
    """What open runs may take. Beyond it the run that was quiet longest is closed, whatever its age."""

    idle_ns: int = 30 * 60 * 10**9
    open_spans: int = 2_000_000
    open_steps: int = 400_000


# An SDK's own root trace and the framework's span of the same call come within one export interval of each other.
_GUESS_WINDOW: Final = 65_536


class Runs:
    """Open runs by tenant and key. Not thread-safe: one engine, one thread."""

    def __init__(self, charge: Callable[[Step], Charge], caps: Caps, archive: Archive | None = None) -> None:
        self._charge = charge
        self._caps = caps
        self._archive = archive
        self._open: OrderedDict[Run, None] = OrderedDict()  # least recently active first
        self._by_key: dict[tuple[str, str | bytes], Run] = {}
        self._keys: dict[Run, list[tuple[str, str | bytes]]] = {}
        # Root-level model spans and what they could be twins of, over all runs: (tenant, tokens) → places.
        self._twins: OrderedDict[tuple[str, tuple[str, int, int]], list[tuple[Run, Step]]] = OrderedDict()
        self._united: list[tuple[Run, Run]] = []
        self.spans = 0
        self.steps = 0

    def __iter__(self) -> Iterator[Run]:
        return iter(self._open)

    def __len__(self) -> int:
        return len(self._open)

    def find(self, tenant: str, key: str | bytes) -> Run | None:
        """The open run that a trace id (bytes), session or call id ("session:…", "response:…") belongs to."""
        return self._by_key.get((tenant, key))

    def take(self, tenant: str, trace_id: bytes, step: Step | None, position: int, now_ns: int) -> Run:
        """The run of an event, opened, woken or united from several as the event's keys ask for."""
        keys: list[tuple[str, str | bytes]] = []
        if trace_id:
            keys.append((tenant, trace_id))
        if step is not None:
            if step.session:
                keys.append((tenant, f"session:{step.session}"))
            keys.extend((tenant, key) for key in step.ids if not key.startswith(REPEATABLE))
        if len(keys) == 1:
            run = self._by_key.get(keys[0])
            if run is not None:
                run.active_ns = now_ns
                self._open.move_to_end(run)
                return run
        run = self._find_or_open(tenant, keys, position)
        if step is not None and step.session:
            run.join_session(step.session)
        run.active_ns = max(run.active_ns, now_ns)
        self._open.move_to_end(run)
        return run

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
            self._open[found] = None
            self._keys[found] = []
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
        self._open[run] = None
        self._keys[run] = []
        for trace_id, trace in run.traces.items():
            self._claim(run, trace_id)
            self.spans += trace.parents.count
        for session in run.sessions:
            self._claim(run, f"session:{session}")
        for step in run.steps:
            for own in step.ids:
                if not own.startswith(REPEATABLE):
                    self._claim(run, own)
        self.steps += len(run.steps)
        return run

    def _claim(self, run: Run, key: str | bytes) -> None:
        if (run.tenant, key) not in self._by_key:
            self._by_key[run.tenant, key] = run
            self._keys[run].append((run.tenant, key))

    def _unite(self, a: Run, b: Run) -> Run:
        if len(a.steps) < len(b.steps):
            a, b = b, a
        a.absorb(b)
        for key in self._keys.pop(b):
            self._by_key[key] = a
            self._keys[a].append(key)
        del self._open[b]
        self._united.append((a, b))
        return a

    def united(self) -> list[tuple[Run, Run]]:
        """Runs that became one since the last call: (the one that stays, the one that went)."""
        united, self._united = self._united, []
        return united

    def twin(self, run: Run, step: Step) -> Run:
        """Unite with the run that tells of the same call, where one of the two is a root trace of its own.

        Only a guess, so it asks for everything at once: another scope, the same
        model and tokens, one inside the other in time, and a root without a conversation.
        """
        key = guess_key(step)
        if key is None or step.source is not Source.SPAN:
            return run
        slot = (step.tenant, key)
        bucket = self._twins.get(slot)
        lonely = not step.parent_id and not step.session
        if bucket is not None:
            for other, theirs in bucket:
                apart = other is not run and other in self._open
                if apart and (lonely or (not theirs.parent_id and not theirs.session)) and may_be_one(step, theirs):
                    run = self._unite(run, other)
                    break
        else:
            bucket = self._twins[slot] = []
            if len(self._twins) > _GUESS_WINDOW:
                self._twins.popitem(last=False)
        bucket.append((run, step))
        del bucket[:-64]
        return run

    def idle(self, now_ns: int) -> Iterator[Run]:
        """Runs to be closed now: quiet for too long, or the quietest while there is too much."""
        while self._open:
            run = next(iter(self._open))
            over = self.spans > self._caps.open_spans or self.steps > self._caps.open_steps
            if not over and run.active_ns + self._caps.idle_ns > now_ns:
                return
            yield run
            self.forget(run)

    def forget(self, run: Run) -> None:
        """Let a run go; whoever calls has written it down."""
        self._open.pop(run, None)
        for key in self._keys.pop(run, []):
            self._by_key.pop(key, None)
        self.spans -= sum(trace.parents.count for trace in run.traces.values())
        self.steps -= len(run.steps)

    def position(self) -> int | None:
        """The oldest journal position that an open run still needs; None: nothing is open."""
        return min((run.position for run in self._open), default=None)


def _key_text(key: str | bytes) -> str:
    return key.hex() if isinstance(key, bytes) else key
