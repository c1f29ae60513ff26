"""Service: the wiring. Receivers → journal → engine thread → ledger, exporters, sinks; and the way down again.

A request is acknowledged when the journal has it. Everything after that is a
function of the journal: a restart feeds it again from the ledger's cursor, which
stands before the first record that an open run still needs.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import structlog
from prometheus_client import CollectorRegistry, Gauge

from otel_cost.core.budget import KEEP_NS
from otel_cost.core.decode.otlp import count_metric_points, decode_logs, decode_metrics, decode_traces
from otel_cost.core.detect._pace import REMEMBERED
from otel_cost.core.drift import Drift
from otel_cost.core.enrich.lines import closed_lines
from otel_cost.core.enrich.records import OWN_RESOURCE, alert_outgoing
from otel_cost.core.library import MOST_SHAPES
from otel_cost.core.model.effects import Effects, Signal
from otel_cost.core.model.vocabulary import Category
from otel_cost.core.outcomes import outcome_json, outcome_of
from otel_cost.core.policy import Policy, alert_of
from otel_cost.edge.allow import FOLDER as EXCEPTIONS
from otel_cost.edge.allow import exception_of, find_alert, read_wish, write_exception
from otel_cost.edge.auth import Door
from otel_cost.edge.backlog import Backlog, answer
from otel_cost.edge.books import JOURNAL, RECEIVER, STEPS, EngineBooks
from otel_cost.edge.clock import now_ns
from otel_cost.edge.config import bound, split_endpoint
from otel_cost.edge.cycles import Cycles
from otel_cost.edge.engine import build_engine
from otel_cost.edge.export import build_exporters
from otel_cost.edge.export._metrics import DestinationMetrics
from otel_cost.edge.export._watch import DestinationWatch
from otel_cost.edge.files import replace_file
from otel_cost.edge.journal import Fsync, Journal, Record, keep_aside
from otel_cost.edge.kept_backtests import FOLDER as BACKTESTS
from otel_cost.edge.kept_hooks import KIND as HOOK_KIND
from otel_cost.edge.kept_hooks import Place, hook_record, in_order
from otel_cost.edge.ledger import LedgerUnavailableError
from otel_cost.edge.ledger.opening import open_ledger, shared_by_services
from otel_cost.edge.ledger.writer import LedgerWriter
from otel_cost.edge.memory import Level, MemoryWatch, machine_bytes
from otel_cost.edge.notify import build_sink, build_telling
from otel_cost.edge.notify._herald import Herald
from otel_cost.edge.notify._notifier import Notifier
from otel_cost.edge.notify._outbox import Outbox
from otel_cost.edge.notify._told import ToldAlerts
from otel_cost.edge.outlet import Outlet, load_cursors
from otel_cost.edge.partitions import Partitions
from otel_cost.edge.receive.grpc import GrpcReceiver
from otel_cost.edge.receive.homes import Homes
from otel_cost.edge.receive.http import HttpReceiver
from otel_cost.edge.receive.intake import Intake
from otel_cost.edge.receive.kafka import KafkaMetrics, Sorter, StepReader
from otel_cost.edge.receive.quota import Quotas
from otel_cost.edge.receive.refusals import OverloadedError
from otel_cost.edge.right_of_way import RightOfWay, finish_first, hurry
from otel_cost.edge.rule_keeper import RuleKeeper
from otel_cost.edge.secrets import build_redactor
from otel_cost.edge.senders import KeptSenders
from otel_cost.edge.serve.api import ApiServer
from otel_cost.edge.telemetry import ReceiverMetrics, watch_journal, watch_ledger
from otel_cost.edge.tls import Certificates
from otel_cost.edge.upkeep import back_up, keep_house
from otel_cost.edge.visits import Visit
from otel_cost.errors import whereabouts

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from otel_cost.core.decide import Decision
    from otel_cost.core.model.event import HookEvent, LogEvent, SpanEvent
    from otel_cost.core.model.finding import Alert
    from otel_cost.core.model.outcome import Outcome
    from otel_cost.core.model.run import ClosedRun, RunSummary
    from otel_cost.core.outcomes import OutcomeRule
    from otel_cost.core.rules import RuleSet
    from otel_cost.edge.config import Config
    from otel_cost.edge.export._queue import Destination
    from otel_cost.edge.kept_hooks import KeptHook
    from otel_cost.edge.ledger import Heard, Selection
    from otel_cost.edge.partitions import Offset, Partition
    from otel_cost.pipeline import Engine

T = TypeVar("T")

TICK_S: Final = 0.1
ADMIT_S: Final = 20.0  # how long a request waits while too much is in line before it is told to come back
DRAIN_S: Final = 30.0
NEARLY_FULL: Final = 0.9  # not ready before anything has to be refused
LOOK_AROUND_S: Final = 1.0
MOVE_S: Final = 120.0  # for the engine to let go of partitions, or to take them
HEAR_S: Final = 0.5  # how often others are heard who share the ledger
HAND_OVER_S: Final = 3.0  # for exporters to send what waits, before others may read it again
MOST_REPLAYED: Final = 10_000
VISIT_S: Final = (
    0.01  # how long a hook call that has been read waits for the engine to stand aside, before it joins the line
)
PATIENCE_S: Final = 0.005  # how long the engine stands aside for one that is still being read
WARY_S: Final = 0.1  # and for how long it does not, after it has done so in vain
CURSORS_S: Final = 0.2  # how often it is written down how far each destination is
_SIGNALS: Final = frozenset(signal.value for signal in Signal)
OUTCOMES: Final = "outcomes"  # kind of journal record: a JSON list of what became of some work

_log = structlog.get_logger(__name__)


class Service:
    """Everything that `otel-cost serve` runs. `start`, then `stop`; both once."""

    def __init__(  # noqa: PLR0915  # everything is connected here
        self, config: Config, *, sinks: Sequence[str] = (), reread: Callable[[], Config] | None = None
    ) -> None:
        """All of it, not yet started.

        Args:
            config: as loaded.
            sinks: types of alert sinks that need no settings, such as `console`.
            reread: loads the config again; of a changed one only `rules` takes effect without a restart.
        """
        self.config = config
        self.registry = CollectorRegistry()
        data = config.data_dir
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._standing_file = data / "standing.bin"
        self.ledger = open_ledger(config.ledger, data)
        self._shared = shared_by_services(self.ledger)
        self._right_of_way = RightOfWay()
        self.ledger.pause = self._right_of_way.give_way
        # Kafka keeps the records: positions are this process's own, above all that earlier ones have used.
        self._partitions = None if config.kafka is None else Partitions(now_ns())
        self._moved = threading.Event()  # the ledger says that a partition of ours is another worker's
        self._writer = LedgerWriter(
            self.ledger,
            committed=self._committed,
            failed=self._ledger_failed,
            before=lambda: self._herald.tell_waiting(),  # noqa: PLW0108  # it is made later
            partitions=self._partitions,
            moved=self._moved.set,
        )
        self._reread = reread
        self._restart_for: Config | None = None
        self._keeper = RuleKeeper(self._rule_entries, data / EXCEPTIONS, exporters=config.exporters.keys())
        self.registry.register(self._keeper)
        self.engine: Engine = build_engine(config, rules=self._keeper.load(), snapshots=self._writer)
        self.ledger.charge = self.engine.book.charge
        self._backlog = Backlog()
        self._wary_until = 0.0
        self._unknown_kinds: set[str] = set()
        self.journal = Journal(
            data / "journal",
            on_durable=self._backlog.put_records,
            fsync=Fsync(config.journal.fsync),
            max_bytes=config.journal.max_bytes,
            resume_from=self.ledger.cursor(),
        )
        self.outbox = Outbox(data / "outbox.sqlite")
        self.destinations: dict[str, Destination] = build_exporters(
            config.exporters,
            dead_letters=data / "dead-letters",
            spill=data / "spill",
            told=partial(ToldAlerts, self.outbox),
            cursors=load_cursors(data / "cursors.json") if self._partitions is None else {},
        )
        piped = {signal: config.pipeline(signal) for signal in Signal}
        pipelines = {signal: () if pipeline is None else pipeline.exporters for signal, pipeline in piped.items()}
        self._outlet = Outlet(
            self.destinations,
            pipelines,
            self._route_facts,
            trace_timeout_ns=config.engine.trace_timeout,
            cursors_file=data / "cursors.json",
        )
        self._notifier = Notifier(
            self.outbox,
            {name: build_sink(name, None) for name in sinks},
            build_telling(self.engine.rules, data / "sinks"),
            external_url=config.api.external_url or "",
        )
        self.registry.register(self._notifier)
        self._stopping = threading.Event()
        self._herald = Herald(
            self._notifier,
            said=self.ledger.sent_alerts(),
            shared=self._shared,
            export=self._export_alerts,
            stopping=self._stopping,
        )
        self._books = EngineBooks(pipelines)
        self.registry.register(self._books)
        self._quarantine = data / "quarantine"
        soft_limit = config.engine.memory_soft_limit
        self._memory = MemoryWatch(machine_bytes() * 3 // 4 if soft_limit is None else soft_limit)
        self._quotas = Quotas(
            {
                name: tenant.max_bytes_per_second
                for name, tenant in config.tenants.items()
                if tenant.max_bytes_per_second is not None
            }
        )
        self._senders = KeptSenders(config.senders.silent_after, data / "senders.json")
        self._watch = DestinationWatch()
        self._cycles = Cycles()
        self._look_at = 0.0
        self._was_ready = True
        redactor = build_redactor(config.content, data)
        received = ReceiverMetrics(self.registry)
        self._intake = Intake(
            self.journal,
            received,
            authenticate=Door(config.auth).sender,
            admit=self._admit,
            redact=redactor.redact,
            pause=self._right_of_way.give_way,
            knows_certificates=bool(config.auth.certificates),
        )
        watch_journal(self.registry, self.journal)
        overload = Gauge(
            "otel_cost_overload", "1 while the engine is behind; routes may sample", registry=self.registry
        )
        overload.set_function(lambda: self._backlog.is_overloaded)
        self._heard_at = time.monotonic()  # when those were heard last who share the ledger
        heard_s = (lambda: time.monotonic() - self._heard_at) if self.ledger.is_shared else None
        watch_ledger(self.registry, lambda: self._ledger_problem, heard_s)
        self.registry.register(DestinationMetrics(self.destinations.values))
        self._receivers: list[GrpcReceiver | HttpReceiver] = []
        self._stages: list[Sorter | StepReader] = []
        if config.kafka is not None:
            counts = KafkaMetrics(self.registry)
            sorter = Sorter(
                config.kafka,
                counts,
                signals=[signal for signal in Signal if config.pipeline(signal) is not None],
                homes=Homes(self._shared),
                keys_of=lambda event: self.engine.keys_of(event),  # noqa: PLW0108  # of the engine of that moment
                redact=redactor.redact,
                metrics=received,
            )
            self._stages = [sorter, StepReader(config.kafka, counts, self)]
        self._api = ApiServer(
            self,
            split_endpoint(config.api.endpoint),
            data_dir=data,
            reload=lambda: self.reload(),  # noqa: PLW0108  # that it is looked up late
            auth=config.auth,
            redact_hook=redactor.redact_hook,
            tls=None if config.api.tls is None else Certificates(config.api.tls, "api").context,
        )
        self._ledger_problem: str | None = None
        self._recovered = False
        self._next_position = self.ledger.cursor() if self._partitions is None else now_ns()
        self._journal_position = self.ledger.cursor()  # where Kafka keeps the records, the journal has but a few others
        self._sent_position = self._next_position  # the first of which not everything has left
        self._replayed: set[int] = set()  # positions of records that had left before they were read here
        self._outlet.route_by(self.engine.rules.routes)
        self._save_at = 0.0
        self._engine_thread = threading.Thread(target=self._run_engine, name="engine", daemon=True)
        self._engine_failed: BaseException | None = None
        kept = (self.ledger, data, config.retention, self._stopping)
        self._housekeeping = threading.Thread(target=keep_house, args=kept, name="retention", daemon=True)
        self._listening = threading.Thread(target=self._listen, name="listening", daemon=True)
        self.api_port = 0
        self.listens: dict[str, str] = {}  # protocol (grpc, http) → where OTLP is taken, as it is bound

    # ---- life --------------------------------------------------------------

    def start(self) -> None:
        """Recover, listen, be ready.

        Raises:
            UsageError: a port is taken or a folder cannot be used; the message names the key.
        """
        self._right_of_way.look_around()
        self._cycles.begin()
        for destination in self.destinations.values():
            destination.start()
        self._notifier.start()
        self._herald.adopt(own=True)  # the last process may have died between writing and telling
        self._recover()
        self._engine_thread.start()
        self._housekeeping.start()
        self._listening.start()
        self._keeper.start(self._swap_rules)
        signals = [signal for signal in Signal if self.config.pipeline(signal) is not None]
        for receiver_id, receiver in self.config.otlp.items():
            key = f"receivers.{receiver_id}.protocols"
            grpc, http = receiver.protocols.grpc, receiver.protocols.http
            if grpc is not None:
                limit = grpc.max_recv_msg_size_mib * 2**20
                credentials = None if grpc.tls is None else Certificates(grpc.tls, f"{key}.grpc").grpc_credentials()
                over_grpc = GrpcReceiver(
                    self._intake, grpc.endpoint, max_bytes=limit, signals=signals, credentials=credentials
                )
                self.listens.setdefault("grpc", bound(grpc.endpoint, over_grpc.start()))
                self._receivers.append(over_grpc)
            if http is not None:
                limit = http.max_request_body_size
                tls = None if http.tls is None else Certificates(http.tls, f"{key}.http").context
                over_http = HttpReceiver(
                    self._intake, split_endpoint(http.endpoint), max_bytes=limit, signals=signals, tls=tls
                )
                self.listens.setdefault("http", bound(http.endpoint, over_http.start()))
                self._receivers.append(over_http)
        self.api_port = self._api.start()
        for stage in self._stages:
            stage.start()

    def stop(self, drain_s: float = DRAIN_S) -> None:
        """Refuse what comes, finish what was accepted, send what is queued, write everything down.

        What cannot be sent in time stays in the journal for the next start.
        """
        deadline = time.monotonic() + drain_s
        self._stopping.set()
        self._keeper.stop()
        self._intake.close()
        for receiver in self._receivers:
            receiver.drain(max(0.5, deadline - time.monotonic()))
        for stage in self._stages:
            stage.stop(max(1.0, deadline - time.monotonic()))
        self._backlog.close()
        self._engine_thread.join(max(1.0, deadline - time.monotonic()))
        if self._shared is not None:  # what it tells last is told while the exporters still send
            with suppress(LedgerUnavailableError):
                if self._writer.flush(max(1.0, deadline - time.monotonic())):
                    self._herald.adopt(own=True)
        for destination in self.destinations.values():
            destination.drain(max(0.5, deadline - time.monotonic()))
        # What could not be sent is in the spill of its destination now, and the cursors stand behind it.
        for destination in self.destinations.values():
            destination.close()
        self._writer.close(max(1.0, deadline - time.monotonic()))
        self._save_cursors()
        self._api.stop()
        for receiver in self._receivers:
            receiver.stop()
        self._notifier.drain(max(0.5, min(5.0, deadline - time.monotonic())))
        self._notifier.close()
        self.outbox.close()
        self.journal.close()
        self._housekeeping.join(5)
        self.ledger.close()
        self._cycles.end()

    def problems(self) -> list[str]:
        """Why the service is not ready; empty: it is."""
        said = [self._intake.problem, self._ledger_problem, self._herald.problem]
        said += [stage.problem for stage in self._stages]
        if self._memory.level is not Level.FREE:
            said.append("memory is near its soft limit")
        if self.journal.size_bytes > NEARLY_FULL * self.config.journal.max_bytes:
            said.append("the journal is nearly as large as journal.max_bytes")
        if self._engine_failed is not None:
            said.append(f"the engine stopped: {self._engine_failed}")
        if not self._recovered:
            said.append("the journal is being read")
        return [problem for problem in said if problem] + [f"the queue of {name} is full" for name in self._outlet.full]

    # ---- what the reader of Kafka asks -----------------------------------------

    def feed(self, record: Record) -> None:
        """The next record of a partition."""
        self._backlog.put_records([record])

    def at_end(self, partition: Partition) -> None:
        """There is nothing more to read of a partition at present."""
        if self._partitions is not None:
            self._backlog.put_question(partial(self._at_end, self._partitions, partition), Future())

    def _at_end(self, partitions: Partitions, partition: Partition) -> None:
        partitions.at_end(partition)
        if not partitions.are_behind:
            self.engine.caught_up(now_ns(), alone=not self.ledger.is_shared)

    def is_full(self) -> bool:
        """Reading has to wait: for the engine, for memory, for the ledger or for an exporter."""
        return (
            self._backlog.is_half_full
            or self._memory.level is Level.FULL
            or self._ledger_problem is not None
            or bool(self._outlet.full)
        )

    def has_moved(self) -> bool:
        """Whether the ledger has said that a partition of ours is another's; says so once."""
        moved = self._moved.is_set()
        self._moved.clear()
        return moved

    def take_partitions(self, partitions: Sequence[Partition]) -> Mapping[Partition, Offset]:
        """They are ours: from where to read each. Waits for the ledger."""
        while True:
            try:
                offsets = self.ledger.take_partitions(partitions)
                said = self.ledger.sent_alerts()
            except LedgerUnavailableError as error:
                self._ledger_failed(error)
                if self._stopping.wait(LOOK_AROUND_S):
                    raise
            else:
                self._ledger_failed(None)
                self._ask(partial(self._take_partitions, offsets, said), timeout_s=MOVE_S)
                return offsets

    def _take_partitions(self, offsets: Mapping[Partition, Offset], said: set[tuple[str, str]]) -> None:
        self._herald.said |= said
        if self._partitions is not None:
            self._partitions.assign(offsets)
            self.engine.read_again(now_ns())

    def give_partitions(self, partitions: Sequence[Partition], *, last: bool) -> Mapping[Partition, Offset]:
        """They are others': all of them that is here is finished and written down, then forgotten.

        Runs do not know what partitions they are made of, so the others begin anew as well:
        from where to read each of them.
        """
        kept: list[Partition] = self._ask(partial(self._give_partitions, partitions, last=last), timeout_s=MOVE_S)
        return self.take_partitions(kept) if kept else {}

    def _give_partitions(self, partitions: Sequence[Partition], *, last: bool) -> list[Partition]:
        """Those that stay and are to be read again."""
        assert self._partitions is not None  # noqa: S101  # by the caller
        self.engine.release(now_ns())
        self._carry_out()
        self._outlet.decide_all()
        for destination in self.destinations.values():
            destination.drain(HAND_OVER_S)
        self._save_cursors()
        self._carry_out()
        self._writer.flush()
        self._partitions.drop(partitions)
        if last:
            return []
        kept = self._partitions.all()
        self._partitions.drop(kept)
        self._begin_anew()
        return kept

    def _begin_anew(self) -> None:
        """Another engine in the place of this one, which knows no open run."""
        old, begun_ns = self.engine, now_ns()
        self._outlet.route_by(old.rules.routes, anew=True)
        self.engine = build_engine(self.config, rules=old.rules, snapshots=self._writer, book=old.book)
        self._replayed.clear()
        self._restore(begun_ns)
        self.engine.restore_standing(old.keep_standing(), begun_ns + self.config.engine.idle)

    # ---- what the API asks ---------------------------------------------------

    def open_run(self, tenant: str, key: str) -> ClosedRun | None:
        """An open run as it stands, by run id, session or trace id."""
        found: ClosedRun | None = self._ask(lambda: self.engine.open_run(tenant, key))
        return found

    def open_runs(self) -> list[RunSummary]:
        """Every open run as it stands."""
        return self._ask_each(lambda: self.engine.open_runs())  # noqa: PLW0108  # begun on the engine's thread

    def drift(self, tenant: str | None) -> list[dict[str, object]]:
        """Where each group of each rule of drift stands."""
        found: list[dict[str, object]] = self._ask(lambda: self.engine.drift.standings(tenant))
        return found

    def budgets(self, tenant: str | None, limit: int) -> list[dict[str, object]]:
        """Where each group of each budget stands, the fullest first."""
        rows = self._ask_each(lambda: self.engine.policy.standing_by_standing(now_ns(), tenant, limit))
        return [row for row in rows if row is not None]

    def reload(self) -> str:
        """Read the rules again and put them in force; their hash.

        Raises:
            OtelCostError: they do not load; those before stay in force.
        """
        return self._keeper.reload().hash

    def allow(self, told: Mapping[str, object], tenant: str | None) -> dict[str, object]:
        """Write a dated exception from an alert and put it in force.

        Raises:
            OtelCostError: it cannot be.
        """
        wish = read_wish(told)
        self.flush()
        alert = find_alert(wish, self.ledger.alerts(10_000, tenant=tenant))
        made = exception_of(wish, alert, self._keeper.rules, now_ns())
        file = write_exception(self.config.data_dir / EXCEPTIONS, made, alert)
        plain = json.loads(json.dumps(made, default=str))
        return {"exception": plain, "file": str(file), "rules_hash": self.reload()}

    def decide(self, event: HookEvent) -> Future[Decision]:
        """Take in a harness's hook call and answer it, before whatever telemetry waits."""
        answer: Future[Decision] = Future()
        if self._engine_thread.is_alive():
            self._backlog.put_hook(event, answer)
        else:
            self._answer_hook(event, answer)
        return answer

    @contextmanager
    def expect_hook(self) -> Iterator[Callable[[HookEvent], Future[Decision]]]:
        """A hook call is on its way: others make room for it. What decides it; all of it on one thread."""
        visit = Visit(is_here=False)
        with self._right_of_way.taken():
            self._backlog.put_visit(visit)
            try:
                yield partial(self._decide_inside, visit)
            finally:
                visit.leave()

    def _decide_inside(self, visit: Visit, event: HookEvent) -> Future[Decision]:
        """As `decide`, here and now where the engine stands aside and needs nothing but its memory."""
        if visit.is_over:  # reading it took longer than the engine has patience
            visit = Visit(is_here=True)
            self._backlog.put_visit(visit)
        try:
            hurry()  # to be let in is to wait for the interpreter
            is_in = self._engine_thread.is_alive() and visit.enter(VISIT_S)
            finish_first()
            if is_in and self._has_at_hand(event):
                answer: Future[Decision] = Future()
                self._answer_hook(event, answer, visit.place)
                return answer
        finally:
            visit.leave()
        return self.decide(event)

    def _has_at_hand(self, event: HookEvent) -> bool:
        """The engine takes an event in without a look into the ledger, for which only its own thread may wait."""
        return not any(self._writer.may_find(event.tenant, key) for key in self.engine.looks_for(event))

    def run_lines(self) -> list[dict[str, object]]:
        """Every open run in contract lines: its calls, its traces, itself."""
        return [
            line for lines in self._ask_each(lambda: map(closed_lines, self.engine.closed_views())) for line in lines
        ]

    def learn(self, outcomes: Sequence[Outcome]) -> None:
        """Write down what became of some work and let the engine know.

        Raises:
            JournalFullError, JournalBrokenError, TimeoutError: it is not on disk.
        """
        for tenant in {one.tenant for one in outcomes}:
            told = json.dumps([outcome_json(one) for one in outcomes if one.tenant == tenant])
            self.journal.append(Record(OUTCOMES, tenant, now_ns(), told.encode()), timeout_s=10)

    @property
    def backtests(self) -> Path:
        return self.config.data_dir / BACKTESTS

    @property
    def outcome_rules(self) -> Sequence[OutcomeRule]:
        return self.engine.rules.outcomes

    @property
    def github_webhooks(self) -> tuple[str, str] | None:
        github = self.config.outcomes.github
        return None if github is None else (github.secret.get_secret_value(), github.tenant)

    def forget(self, selection: Selection) -> int:
        """Delete closed runs; how many."""
        self._writer.flush()
        return self.ledger.forget(selection)

    def back_up(self, target: Path) -> int:
        """Copy the data directory to a new folder; its size in bytes."""
        self._writer.flush()
        return back_up(self.ledger, self.config.data_dir, target)

    def flush(self) -> None:
        """Wait until what the engine has said is in the ledger."""
        self._writer.flush()

    def _rule_entries(self) -> Sequence[str]:
        """What the config names as rules now."""
        if self._reread is None:
            return self.config.rules
        config = self._reread()
        fixed = config.model_copy(update={"rules": self.config.rules})
        if fixed not in (self.config, self._restart_for):
            self._restart_for = fixed
            _log.warning("the config has changed beyond its rules: restart to put that in force")
        return config.rules

    def _swap_rules(self, rules: RuleSet) -> None:
        """Put other rules in force: counted from the ledger beside the engine, swapped on its thread."""
        routes = rules.routes
        telling = build_telling(rules, self.config.data_dir / "sinks")
        fresh, drift = Policy(rules), Drift(rules.regressions)
        self._ask(self.engine.begin_swap)
        try:
            since_ns = fresh.since_ns(now_ns())
            if since_ns is not None:
                self._writer.flush()
                fresh.recount(self.ledger.spends(since_ns))
            runs = list(self.ledger.finished(now_ns() - drift.last_ns)) if drift else []
        except BaseException:
            self._ask(self.engine.cancel_swap)
            raise

        def swap() -> None:
            self.engine.swap(rules, fresh, now_ns(), drift)
            self.engine.restore_drift(runs, self._herald.said, now_ns())
            self._outlet.route_by(routes)

        self._ask(swap, timeout_s=60)
        self._notifier.use(telling)

    def _ask(self, question: Callable[[], Any], timeout_s: float = 10) -> Any:  # noqa: ANN401  # whatever the question answers
        """Ask the engine on its own thread."""
        if not self._engine_thread.is_alive():
            return question()
        answer: Future[Any] = Future()
        self._backlog.put_question(question, answer)
        return answer.result(timeout_s)

    def _ask_each(self, things: Callable[[], Iterator[T]]) -> list[T]:
        """Ask the engine for many things; between two of them it answers hook calls."""

        def question() -> list[T]:
            found = []
            for one in things():
                found.append(one)
                if self._backlog.hooks:
                    self._hooks()
            return found

        answers: list[T] = self._ask(question)
        return answers

    # ---- other services ------------------------------------------------------

    def _listen(self) -> None:
        """Where others share the ledger: let the engine know what they write, soon after they have."""
        while self.ledger.is_shared and not self._stopping.wait(HEAR_S):
            with suppress(LedgerUnavailableError, TimeoutError):
                asked_at = time.monotonic()
                heard = self.ledger.heard()
                if heard.spends or heard.keys or heard.alerts:
                    self._writer.hear(heard.keys)
                    self._ask(partial(self._hear, heard), timeout_s=60)
                self._heard_at = asked_at

    def _hear(self, heard: Heard) -> None:
        self._herald.said.update((str(alert["tenant"]), str(alert["id"])) for alert in heard.alerts)
        self.engine.hear(heard.spends, map(alert_of, heard.alerts), self._clock_ns() or now_ns())

    # ---- engine thread -------------------------------------------------------

    def _recover(self) -> None:
        """Feed again what the ledger's cursor says is not all written, in the time of its receipt."""
        begun_ns = now_ns()
        self._restore(begun_ns)
        self._restore_standing(begun_ns)
        count = 0
        start = self.ledger.cursor()
        # A hook call is written down after the telemetry in the middle of which it was taken in.
        hooks = deque(kept for kept in in_order(self.journal.read(start)) if kept.place.position >= start)
        if self._partitions is not None:
            hooks.clear()  # their places are those of a process that is gone
        again = partial(self._hooks_again, hooks)
        for record in self.journal.read(start):
            if record.kind in _SIGNALS:
                again(Place(record.position))
            self._take_in(record, JOURNAL, hooks, again)
            self.engine.advance(record.received_ns)
            self._carry_out()
            count += 1
        again(None)
        if self._partitions is None:  # else what was told is in Kafka, and not read yet
            self.engine.caught_up(now_ns(), alone=not self.ledger.is_shared)
        self._carry_out()
        self._recovered = True
        if count:
            _log.info("journal read again", records=count, open_runs=len(self.engine.runs))

    def _restore(self, begun_ns: int) -> None:
        """Tell a new engine what the ledger knows."""
        since_ns = self.engine.policy.since_ns(begun_ns)
        if since_ns is not None:
            # Keyed by call, so that what the journal tells again counts once.
            told = self.ledger.alerts(10_000, begun_ns - KEEP_NS, None, Category.BUDGET)
            self.engine.restore(self.ledger.spends(since_ns), map(alert_of, told), begun_ns)
        self.engine.runs.recall(self.ledger.tellers())
        self._restore_library()
        if self.engine.drift:
            runs = self.ledger.finished(begun_ns - self.engine.drift.last_ns)
            self.engine.restore_drift(runs, self._herald.said, begun_ns)

    def _hooks_again(self, hooks: deque[KeptHook], until: Place | None) -> None:
        """Take in once more the calls that came up to a place (None: all), each where it was."""
        while hooks and (until is None or hooks[0].place <= until):
            kept = hooks.popleft()
            try:
                self._hook(kept.event, kept.place)
            except Exception as error:  # noqa: BLE001  # it failed when it was answered, too
                _log.error("a hook call was passed over", dialect=kept.event.dialect, **whereabouts(error))
            if not kept.place.slices:
                self.engine.advance(kept.event.received_ns)

    def _keep_standing(self) -> None:
        """At the end of the process: the runs are closed now, and what loops have led to would be forgotten."""
        try:
            replace_file(self._standing_file, self.engine.keep_standing())
        except OSError as error:
            _log.error("what stands cannot be kept for the next start", problem=str(error))

    def _restore_library(self) -> None:
        """What finished runs have taught; what is still open is read again."""
        for tenant, shape, seen in self.ledger.shapes_of_finished_runs(MOST_SHAPES):
            self.engine.library.learn_shape(tenant, shape, seen)
        for tenant, workflow, taken in self.ledger.usual(REMEMBERED):
            self.engine.library.learn_runs(tenant, workflow, taken)

    def _restore_standing(self, begun_ns: int) -> None:
        try:
            kept = self._standing_file.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            _log.error("what stood before the restart cannot be read", problem=str(error))
            return
        # As long as a run without news stays open.
        self.engine.restore_standing(kept, begun_ns + self.config.engine.idle)
        self._keep_standing()  # with the end that it has now, whatever becomes of this process

    def _run_engine(self) -> None:
        try:
            while (work := self._backlog.take(TICK_S)) is not None:
                busy = bool(work or self._backlog.hooks)
                self._hooks()
                for one in work:
                    if isinstance(one, tuple):
                        answer(*one)
                    else:
                        self._take_in(one, RECEIVER, self._backlog.hooks, self._hooks)
                for _ in self.engine.advancing(self._clock_ns()):
                    if self._backlog.hooks:
                        self._hooks()
                self._carry_out()
                if time.monotonic() >= self._save_at:
                    self._save_cursors()
                if time.monotonic() >= self._look_at:
                    self._look_around()
                self._cycles.tidy(busy=busy, tight=self._memory.level is not Level.FREE)
            self._hooks()
            self._senders.keep()
            self._keep_standing()
            self.engine.release(now_ns())
            self._carry_out()
            self._outlet.decide_all()  # while the runs are open that routes ask about
            if self._partitions is None:
                self.engine.close(now_ns())
            self._carry_out()
        except BaseException as error:
            # Nothing is lost: the journal has it. Say so, refuse what comes, let a restart read it again.
            self._engine_failed = error
            self._intake.close()
            self._backlog.close()
            _log.error("the engine stopped", **whereabouts(error))
            raise

    def _take_in(
        self, record: Record, source: str, hooks: Collection[object], take_hooks: Callable[[Place], None]
    ) -> None:
        """Feed one record. One that the engine cannot take is set aside: it must not stop the others, nor a start.

        Where `hooks` wait between two of its events, `take_hooks` takes them in.
        """
        if record.origin is not None and self._partitions is not None:
            taken = self._partitions.take(record.origin, record.received_ns)
            if taken is None:
                return
            record.position, was_sent = taken
            source = STEPS
            if was_sent:
                self._replayed.add(record.position)
        elif self._partitions is not None:
            self._journal_position = record.position + 1
            if record.kind == OUTCOMES:
                self._learn(record)
            return
        self._next_position = record.position + 1
        if record.kind == HOOK_KIND:
            return  # taken in before it was written down
        if record.kind == OUTCOMES:
            self._learn(record)
            return
        if record.kind not in _SIGNALS:
            if record.kind not in self._unknown_kinds:
                self._unknown_kinds.add(record.kind)
                _log.warning("the journal has records of another version; they are passed over", kind=record.kind[:40])
            return
        signal, items, fed = Signal(record.kind), 0, self.engine.fed
        try:
            decoded = _decoded(signal, record)
            items = decoded if isinstance(decoded, int) else len(decoded.events)
            self._books.journalled(signal, items, source)
            if signal is not Signal.METRICS:
                self.engine.tell(self._senders.heard(record.tenant, _services(decoded.events), record.received_ns))
            for done, _ in enumerate(self._feeding(signal, record, decoded), 1):
                if hooks:
                    take_hooks(Place(record.position, done))
        except Exception as error:  # noqa: BLE001  # whatever it is, the next start would meet it again
            went_on = items if signal is Signal.METRICS else self.engine.fed - fed
            self._books.set_aside(signal, max(0, items - went_on))
            kept = keep_aside(self._quarantine, record)
            _log.error("a request was set aside", position=record.position, kept=kept, **whereabouts(error))

    def _look_around(self) -> None:
        """Once a second: who has gone silent, whether harnesses ask, how tight memory is, what balancers are told."""
        self._look_at = time.monotonic() + LOOK_AROUND_S
        self._right_of_way.look_around()
        missed = list(self._senders.advance(now_ns()))
        if missed:
            self.engine.tell(missed)
            self._senders.keep()
        self.engine.tell(self._watch.advance(self.destinations.values(), now_ns()))
        tight = self._memory.level is not Level.FREE
        for destination in self.destinations.values():
            destination.memory_is_tight = tight
        ready = not self.problems()
        if ready != self._was_ready:
            self._was_ready = ready
            for receiver in self._receivers:
                if isinstance(receiver, GrpcReceiver):
                    receiver.set_ready(ready=ready)

    def _learn(self, record: Record) -> None:
        try:
            for told in json.loads(record.payload):
                self.engine.learn(outcome_of(told))
        except (ValueError, KeyError, TypeError) as error:
            kept = keep_aside(self._quarantine, record)
            _log.error("an outcome was set aside", position=record.position, kept=kept, **whereabouts(error))

    def _feeding(self, signal: Signal, record: Record, decoded: Any) -> Iterator[None]:  # noqa: ANN401  # of the signal
        if signal is Signal.METRICS:
            self.engine.forward(record.payload, record.position)
            events: Any = decode_metrics(record.payload, record.tenant, record.received_ns)
        else:
            events = decoded.events
        return self.engine.feeding(signal, events, record.position, record.received_ns)

    def _hooks(self, place: Place | None = None) -> None:
        """Answer every hook call that waits, and have it written down: no harness waits for the disk."""
        waiting = self._backlog.hooks
        while waiting:
            one = waiting.popleft()
            if not isinstance(one, Visit):
                self._answer_hook(*one, place)
            elif not one.let_in(place, PATIENCE_S if time.monotonic() >= self._wary_until else 0.0):
                self._wary_until = time.monotonic() + WARY_S

    def _answer_hook(self, event: HookEvent, decision: Future[Decision], place: Place | None = None) -> None:
        where = place or Place(self._next_position)
        answer(lambda: self._hook(event, where), decision)
        if event.event != "other":
            self.journal.post(hook_record(event, where))

    def _hook(self, event: HookEvent, place: Place) -> Decision:
        return self.engine.hook(event, event.received_ns, None if place.slices else place.position)

    def _carry_out(self) -> None:
        effects = self.engine.take()
        held, cursor = self.engine.held_position(), self.engine.position()
        if self._shared is not None:  # alerts leave when the ledger says that nobody else has told them
            effects.outgoing[:] = [record for record in effects.outgoing if not record.key]
        if self._partitions is not None:
            self._pass_over_sent(effects, self._next_position if held is None else held)
        self._herald.take(effects.alerts)
        self._keep_count(effects)
        needed = self._next_position if cursor is None else cursor
        if self._partitions is None:
            self._writer.add(effects, needed)
        else:
            self._writer.add(effects, self._journal_position, (needed, self._sent_position))
        self._books.let_out(effects)
        self._outlet.let_out(effects, now_ns(), ahead=self._next_position, held=held)

    def _clock_ns(self) -> int:
        return now_ns() if self._partitions is None else self._partitions.clock(now_ns())

    def _pass_over_sent(self, effects: Effects, held: int) -> None:
        """What is read again because its run is still open has left already; alerts go by what the ledger has told."""
        fresh = []
        for record in effects.outgoing:
            tenant, _, alert_id = record.key.partition("/")
            if (tenant, alert_id) in self._herald.said if record.key else record.position in self._replayed:
                own = record.resource is OWN_RESOURCE
                self._books.carried_out(record.signal, duplicates=1, own=int(own))
            else:
                fresh.append(record)
        effects.outgoing[:] = fresh
        if len(self._replayed) > MOST_REPLAYED:
            self._replayed = {position for position in self._replayed if position >= held}

    def _route_facts(self, tenant: str, trace_id: bytes) -> dict[str, object]:
        """What routes may ask of a trace, and of this service."""
        return {**self.engine.route_facts(tenant, trace_id), "overload": self._backlog.is_overloaded}

    def _keep_count(self, effects: Effects) -> None:
        """Further breaches of what has been told go to those contacts only that keep an issue about it."""
        for alert in effects.again:
            contacts = [action.issue.to for action in self.engine.drift.actions(alert.rule) if action.issue is not None]
            if contacts:
                self._herald.tell_again(alert, contacts)

    def _export_alerts(self, news: Sequence[Alert]) -> None:
        """Downstream, on the ledger's thread: they are this service's to tell."""
        records = [alert_outgoing(alert, self._next_position - 1) for alert in news]
        self._books.carried_out(Signal.LOGS, passed=len(records), own=len(records))
        self._outlet.offer(records)

    # ---- cursors and push-back -------------------------------------------------

    def _admit(self, tenant: str, size: int) -> None:
        if self._memory.level is Level.FULL:
            raise OverloadedError("memory is above its soft limit", 2.0)
        self._quotas.admit(tenant, size)
        if full := self._outlet.full:
            raise OverloadedError(f"the queue of exporter {full[0]} is full", 5.0)
        if self._ledger_problem is not None:
            raise OverloadedError(f"the ledger cannot be written: {self._ledger_problem}", 5.0)
        if not self._backlog.admit(tenant, ADMIT_S):
            raise OverloadedError("too much of this tenant's waits for the engine", 2.0)

    def _ledger_failed(self, error: LedgerUnavailableError | None) -> None:
        self._ledger_problem = None if error is None else str(error)
        if error is not None:
            self._herald.let_others_first()
            _log.error("the ledger cannot be written", problem=str(error))

    def _committed(self, cursor: int, offsets: Mapping[Partition, Offset], news: Sequence[Alert]) -> None:
        """The ledger is at `cursor`: what every destination has as well may leave the journal."""
        self._herald.tell_written(news)
        if self._partitions is not None:
            self.journal.release(cursor)
            for stage in self._stages:
                if isinstance(stage, StepReader):
                    stage.hint(offsets)
            return
        delivered = self._outlet.save_cursors()
        self.journal.release(min([cursor, *(position + 1 for position in delivered)]))

    def _save_cursors(self) -> None:
        """How far each destination is; where Kafka keeps the records, from where they are to be read again."""
        self._save_at = time.monotonic() + CURSORS_S
        if self._partitions is None:
            self._outlet.save_cursors()
        else:
            reached = self._outlet.cursors().values()
            self._sent_position = min([self._next_position, *(cursor + 1 for cursor in reached)])


def _services(events: Sequence[SpanEvent | LogEvent]) -> Iterable[str]:
    """The services that a request comes from."""
    resources = {id(event.resource): event.resource for event in events}
    named = (resource.attributes.get("service.name") for resource in resources.values())
    return (name[:200] for name in named if isinstance(name, str))


def _decoded(signal: Signal, record: Record) -> Any:  # noqa: ANN401  # `Decoded` of the signal, or a count of points
    if record.decoded is not None:
        return record.decoded
    if signal is Signal.METRICS:
        return count_metric_points(record.payload)
    decode = decode_traces if signal is Signal.TRACES else decode_logs
    return decode(record.payload, record.tenant, record.received_ns)
