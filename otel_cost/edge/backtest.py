"""Backtest driver: the same input through two engines, the rules to be tested and the live ones, in virtual time."""

from __future__ import annotations

from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from otel_cost.core.assemble.snapshot import thaw
from otel_cost.core.backtest import Backtest, Witness, compare, decision_lines, not_recorded
from otel_cost.core.enrich.records import alert_json
from otel_cost.core.model.run import ClosedRun, Later
from otel_cost.core.model.step import Step
from otel_cost.core.model.vocabulary import Source
from otel_cost.edge.engine import build_engine
from otel_cost.edge.feeding import RejectedError, received
from otel_cost.edge.files import load_price_book
from otel_cost.edge.otlp_files import NotOtlpError, otlp_files, requests
from otel_cost.errors import DecodeError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from otel_cost.core.assemble.run import Run
    from otel_cost.core.enrich.lines import Line
    from otel_cost.core.model.charge import Charge
    from otel_cost.core.price import PriceBook
    from otel_cost.edge.config import Config
    from otel_cost.pipeline import Engine


@dataclass(slots=True)
class Asleep:
    """Closed runs that a later span may wake, in memory."""

    _frozen: dict[tuple[str, str], bytes] = field(default_factory=dict)

    def find(self, tenant: str, key: str) -> bytes | None:
        return self._frozen.get((tenant, key))

    def keep(self, run: ClosedRun) -> None:
        """Remember a closed run; of the run itself only what is counted stays."""
        frozen = run.snapshot()
        if frozen:
            self._frozen.update(dict.fromkeys(((run.summary.tenant, key) for key in run.keys), frozen))
        run.snapshot, run.nodes = Later(bytes), Later(list)


class Trial:
    """One engine under one set of rules, and what it said."""

    def __init__(self, config: Config, rules: Sequence[str] | None = None, book: PriceBook | None = None) -> None:
        self._asleep = Asleep()
        self.engine: Engine = build_engine(config, rules=rules, snapshots=self._asleep, tells_nobody=True, book=book)
        self.witness = Witness(self.engine.rules)

    def collect(self) -> list[Line]:
        """What it has said since the last time, as `backtest --json` prints it."""
        effects = self.engine.take()
        fired = {one.alert.id: one for one in self.witness.note(effects, self.engine.policy.order)}
        for run in effects.closed:
            self._asleep.keep(run)
        lines: list[Line] = []
        for alert in effects.alerts:
            lines.append(alert_json(alert))
            if alert.state == "firing":
                lines.extend(decision_lines(fired[alert.id]))
        return lines


def over_files(
    config: Config,
    rules: Sequence[str],
    paths: Iterable[Path],
    tell: Callable[[Line], None],
    say: Callable[[str], None],
    watched: Callable[[Sequence[Path]], Iterable[Path]] = iter,
) -> tuple[Backtest, int]:
    """Feed OTLP files; what the rules would have done, and how many inputs could not be decoded.

    Time passes as the events say: runs close and windows end between two requests as they do in the service.

    Args:
        config: prices, times, and the live rules.
        rules: the files to be tested.
        paths: files and folders, read as `replay` reads them.
        tell: gets each alert and each decision, when it is due.
        say: gets what could not be read or was skipped.
        watched: the files as they are gone through, for whoever shows progress.

    Raises:
        UsageError: a path or a rule file is not there.
        DocumentError: a rule file has mistakes.
    """
    trials = [Trial(config, rules), Trial(config)]
    files, skipped = otlp_files(paths)
    broken: set[Path] = set()
    position = now_ns = 0
    for file in watched(files):
        try:
            for request in requests(file):
                position += 1
                try:
                    events, now_ns = received(request, now_ns, say)
                except RejectedError:
                    broken.add(file)
                    continue
                for trial in trials:
                    trial.engine.advance(now_ns)
                    trial.engine.feed(request.signal, events, position, now_ns)
                _hand_out(trials, tell)
        except NotOtlpError:
            skipped += 1
        except DecodeError as error:
            say(f"{file}: {error}" if str(file) not in str(error) else str(error))
            broken.add(file)
    if skipped:
        say(f"{skipped} files are no OTLP and were skipped")
    for trial in trials:
        trial.engine.close(now_ns)
    _hand_out(trials, tell)
    return compare(trials[0].witness, trials[1].witness), len(broken)


def over_ledger(
    config: Config,
    rules: Sequence[str],
    recorded: Iterable[tuple[str, str, bytes, str]],
    tell: Callable[[Line], None],
) -> Backtest:
    """Feed recorded runs (`Ledger.recorded`), at the prices they were charged; time passes as their steps say.

    Raises:
        UsageError: rules ask for what is not recorded; the text names them.
    """
    prices = _Recorded(load_price_book(config.prices))
    trials = [Trial(config, rules, prices), Trial(config, None, prices)]  # type: ignore[arg-type]  # as far as engines ask
    runs = list(recorded)
    said = frozenset(name for one in runs for step in thaw(one[2], prices.charge, 0).steps for name in step.who)
    missing = not_recorded(trials[0].engine.rules, trials[1].engine.rules, said)
    if missing:
        raise UsageError(
            "the ledger does not keep what these rules ask for:\n"
            + "\n".join(f"    {one}" for one in missing)
            + "\n    test them against OTLP files: --against DIR"
        )
    now_ns = 0
    for trial in trials:
        now_ns = 0
        for at_ns, item in _in_time([(frozen, run_id) for _, run_id, frozen, _ in runs], prices):
            now_ns = max(now_ns, at_ns)
            trial.engine.advance(now_ns)
            if isinstance(item, Step):
                trial.engine.retell(item, now_ns)
            elif any(call.step.source is Source.METRIC for call in item.calls.values()):
                trial.engine.retell_metered(item, now_ns)
            else:
                trial.engine.retell_tree(item, now_ns)
            if trial is trials[0]:
                for line in trial.collect():
                    tell(line)
            else:
                trial.collect()
        trial.engine.close(now_ns)
    _hand_out(trials, tell)
    verdicts = {(tenant, run_id): verdict for tenant, run_id, _, verdict in runs}
    for key, run in trials[0].witness.runs.items():
        run.summary.verdict = verdicts.get(key, run.summary.verdict)
    return compare(trials[0].witness, trials[1].witness)


class _Recorded:
    """Prices as they were charged; what has no charge of its own (a call before all of its records are there) anew."""

    def __init__(self, book: PriceBook) -> None:
        self._book = book
        self.id = book.id
        self._charges: dict[tuple[object, ...], Charge] = {}

    def charge(self, step: Step) -> Charge:
        return self._charges.get(_place(step)) or self._book.charge(step)

    def keep(self, run: Run) -> None:
        """Remember what the calls of a run were charged."""
        for call in run.calls.values():
            self._charges[_place(call.step)] = call.charge


def _place(step: Step) -> tuple[object, ...]:
    """What tells a step from every other; a speaker is a copy of one of the records it speaks for."""
    if step.span_id:
        return step.tenant, step.trace_id, step.span_id
    return step.tenant, step.source, step.session, step.ids, step.start_ns, step.end_ns, step.name


def _in_time(frozen: Sequence[tuple[bytes, str]], prices: _Recorded) -> Iterator[tuple[int, Step | Run]]:
    """Steps of all runs by their end, each run's tree before its first; runs come by start and are woken when due."""
    waiting: list[tuple[int, int, int, Iterator[Step]]] = []  # end of the next step, start, number of its run
    nexts: dict[int, Step] = {}

    def put(number: int, steps: Iterator[Step]) -> None:
        step = next(steps, None)
        if step is not None:
            nexts[number] = step
            heappush(waiting, (step.end_ns, step.start_ns, number, steps))

    for number, (snapshot, _) in enumerate(frozen):
        run = thaw(snapshot, prices.charge, 0)
        prices.keep(run)
        steps = sorted(run.steps, key=lambda step: (step.end_ns, step.start_ns, step.span_id))
        begun = min((step.start_ns for step in steps), default=0)
        while waiting and waiting[0][0] < begun:
            _, _, other, rest = heappop(waiting)
            yield nexts[other].end_ns, nexts.pop(other)
            put(other, rest)
        if steps:
            yield begun, run
            put(number, iter(steps))
        elif run.calls:
            yield max(call.step.end_ns for call in run.calls.values()), run
    while waiting:
        _, _, other, rest = heappop(waiting)
        yield nexts[other].end_ns, nexts.pop(other)
        put(other, rest)


def _hand_out(trials: list[Trial], tell: Callable[[Line], None]) -> None:
    for line in trials[0].collect():
        tell(line)
    trials[1].collect()
