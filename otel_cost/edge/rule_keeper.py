"""Rule keeper: a running service's rules, read again when asked or when a file changes, and swapped whole.

What does not load changes nothing: the last good set stays in force, and it is
said where the mistake is. Besides what the config names, the exceptions that
`allow` has written are read (`exceptions/` in the data dir); one of those that
does not load any more is left out with a word in the log, and keeps nobody from starting.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from otel_cost.edge.files import BUNDLED, entry_files, is_test, yaml_files
from otel_cost.edge.rule_files import read_rules
from otel_cost.errors import DocumentError, OtelCostError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence
    from pathlib import Path

    from prometheus_client.core import Metric

    from otel_cost.core.rules import RuleSet

LOOK_S: Final = 2.0  # between two looks at the files

_log = structlog.get_logger(__name__)


class RuleKeeper(Collector):
    """One set of rules in force. `load` first; `start`, then `stop`; safe to use from any thread."""

    def __init__(
        self, entries: Callable[[], Sequence[str]], exceptions: Path, *, exporters: Collection[str] | None = None
    ) -> None:
        """Keep the rules of these entries.

        Args:
            entries: what the config names now, see `read_rules`; may read it again, and raise.
            exceptions: the folder of those that `allow` writes.
            exporters: see `read_rules`.
        """
        self._entries, self._exceptions, self._exporters = entries, exceptions, exporters
        self._swap: Callable[[RuleSet], None] = lambda _rules: None
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="rules", daemon=True)
        self._beside: list[Path] = []  # look-up files that the rules name
        self._seen: object = None
        self._reloads = {"success": 0, "failure": 0}
        self._is_good = True
        self._at_s = 0.0
        self.rules: RuleSet

    def load(self) -> RuleSet:
        """The rules to start with.

        Raises:
            OtelCostError: they do not load.
        """
        self._seen = self._look()
        self.rules = self._read()
        self._at_s = time.time()
        return self.rules

    def start(self, swap: Callable[[RuleSet], None]) -> None:
        """Watch the files from now on. `swap` puts other rules in force."""
        self._swap = swap
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(LOOK_S + 5)

    def reload(self) -> RuleSet:
        """Read everything again and put it in force, all of it or nothing.

        Raises:
            OtelCostError: it does not load; the rules that were in force still are.
        """
        with self._lock:
            try:
                self._seen = self._look()
                rules = self._read()
                if rules.hash != self.rules.hash:
                    self._swap(rules)
            except OtelCostError as error:
                self._reloads["failure"] += 1
                self._is_good = False
                _log.error("rules do not load; those before stay in force", problem=str(error), rules=self.rules.hash)
                raise
            changed, self.rules = rules.hash != self.rules.hash, rules
            self._reloads["success"] += 1
            self._is_good, self._at_s = True, time.time()
            _log.info("rules read again", rules=rules.hash, changed=changed, count=len(rules))
            for note in rules.notes if changed else ():
                _log.warning("a rule may not do what is meant", note=str(note))
            return rules

    # ---- reading --------------------------------------------------------------

    def _read(self) -> RuleSet:
        entries = list(self._entries())
        beside: list[Path] = []
        extra = [str(file) for file in self._allowed()]
        try:
            rules = read_rules([*entries, *extra], beside=beside, exporters=self._exporters)
        except DocumentError as error:
            bad = {problem.source for problem in error.problems}
            if not bad <= set(extra):
                raise
            for problem in error.problems:
                _log.warning("an exception does not load and is left out", problem=str(problem))
            kept = [file for file in extra if file not in bad]
            rules = read_rules([*entries, *kept], beside=beside, exporters=self._exporters)
        self._beside = beside
        return rules

    def _allowed(self) -> list[Path]:
        return yaml_files(self._exceptions) if self._exceptions.is_dir() else []

    def _watch(self) -> None:
        while not self._stopping.wait(LOOK_S):
            try:
                if self._look() != self._seen:
                    self.reload()
            except OtelCostError:
                continue  # said already
            except Exception as error:  # noqa: BLE001  # the watch goes on, whatever a file system says
                _log.error("rule files cannot be watched", error=type(error).__name__)

    def _look(self) -> object:
        """What of the files changes when they do."""
        try:
            named = [file for entry in self._entries() for file in _files_of(entry)]
        except (OtelCostError, OSError) as error:
            return str(error)
        return tuple(_stamp(file) for file in (*named, *self._allowed(), *self._beside))

    # ---- metrics --------------------------------------------------------------

    def collect(self) -> Iterable[Metric]:
        rules = self.rules
        info = GaugeMetricFamily("otel_cost_rules_info", "the rules in force, by their hash", labels=["hash"])
        info.add_metric([rules.hash], 1)
        yield info
        yield GaugeMetricFamily("otel_cost_rules", "rules in force", len(rules))
        yield GaugeMetricFamily(
            "otel_cost_rules_last_reload_successful", "0: what is in the files does not load", int(self._is_good)
        )
        yield GaugeMetricFamily(
            "otel_cost_rules_last_reload_success_timestamp_seconds", "when rules were last read", self._at_s
        )
        reloads = CounterMetricFamily("otel_cost_rules_reloads", "times that rules were read again", labels=["result"])
        for result, count in self._reloads.items():
            reloads.add_metric([result], count)
        yield reloads
        errors = CounterMetricFamily(
            "otel_cost_rule_expression_errors", "CEL expressions that failed on a call, which they then did not match"
        )
        errors.add_metric([], sum(one.errors for one in rules.expressions))
        yield errors


def _files_of(entry: str) -> list[Path]:
    if entry.startswith(BUNDLED):
        return []
    return [file for file, _ in entry_files(entry) if not is_test(file)]


def _stamp(file: Path) -> tuple[str, int, int]:
    try:
        told = file.stat()
    except OSError:
        return (str(file), 0, -1)
    return (str(file), told.st_mtime_ns, told.st_size)
