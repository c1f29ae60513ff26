"""Backtest driver: the same input through two engines, the rules to be tested and the live ones, in virtual time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from otel_cost.core.backtest import Backtest, Witness, compare, decision_lines
from otel_cost.core.enrich.records import alert_json
from otel_cost.edge.engine import build_engine
from otel_cost.edge.feeding import received
from otel_cost.edge.otlp_files import NotOtlpError, otlp_files, requests
from otel_cost.errors import DecodeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from otel_cost.core.enrich.lines import Line
    from otel_cost.core.model.run import ClosedRun
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
        if run.snapshot:
            self._frozen.update(dict.fromkeys(((run.summary.tenant, key) for key in run.keys), run.snapshot))
        run.snapshot, run.nodes = b"", []


class Trial:
    """One engine under one set of rules, and what it said."""

    def __init__(self, config: Config, rules: Sequence[str] | None = None) -> None:
        self._asleep = Asleep()
        self.engine: Engine = build_engine(config, rules=rules, snapshots=self._asleep)
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
) -> tuple[Backtest, int]:
    """Feed OTLP files; what the rules would have done, and how many inputs could not be decoded.

    Time passes as the events say: runs close and windows end between two requests as they do in the service.

    Args:
        config: prices, times, and the live rules.
        rules: the files to be tested.
        paths: files and folders, read as `replay` reads them.
        tell: gets each alert and each decision, when it is due.
        say: gets what could not be read or was skipped.

    Raises:
        UsageError: a path or a rule file is not there.
        DocumentError: a rule file has mistakes.
    """
    trials = [Trial(config, rules), Trial(config)]
    files, skipped = otlp_files(paths)
    broken = position = now_ns = 0
    for file in files:
        try:
            for request in requests(file):
                position += 1
                events, now_ns = received(request, now_ns, say)
                for trial in trials:
                    trial.engine.advance(now_ns)
                    trial.engine.feed(request.signal, events, position, now_ns)
                _hand_out(trials, tell)
        except NotOtlpError:
            skipped += 1
        except DecodeError as error:
            say(f"{file}: {error}" if str(file) not in str(error) else str(error))
            broken += 1
    if skipped:
        say(f"{skipped} files are no OTLP and were skipped")
    for trial in trials:
        trial.engine.close(now_ns)
    _hand_out(trials, tell)
    return compare(trials[0].witness, trials[1].witness), broken


def _hand_out(trials: list[Trial], tell: Callable[[Line], None]) -> None:
    for line in trials[0].collect():
        tell(line)
    trials[1].collect()
