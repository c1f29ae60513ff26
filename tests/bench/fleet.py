"""A fleet on a real Kafka and a real PostgreSQL, broken on purpose: does it say what one node says?

Three brokers, one database, three workers; while agents' spans flow, a worker, a broker and the database are killed
(SIGKILL), workers come and go, and some requests are sent again. In the end totals, rows and alerts must be those of
one node that was given each request once.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "flow"))
sys.path.insert(0, str(Path(__file__).parents[1] / "flow" / "kafka"))

from brokers import Kafka
from running import Process, until
from work import work
from workers import Worker, steady, write

import postgres

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PARTITIONS = 12
TOPICS = ("spans", "logs", "steps")
RULES = """
version: 1
budgets:
  - name: user-day
    per: [user]
    limit: {usd: 5, window: 1d, kind: calendar}
    warn: [{at: 50%}, {at: 80%}]
    at_limit: {do: [{alert: }]}
"""


def whole(get: Callable[[str], Any]) -> dict[str, Any]:
    """The truth that must not depend on who works it out."""
    return {
        "total": get("/v1/report")["rows"],
        "rows": sorted(map(str, get("/v1/report?by=model,user,session,kind")["rows"])),
    }


def one_node(folder: Path, bodies: Sequence[bytes], more: str) -> dict[str, Any]:
    """What one node says."""
    folder.mkdir(parents=True)
    node = Process(folder, "engine: {settle: 500ms}\n" + more)
    for body in bodies:
        asked = urllib.request.Request(
            f"http://{node.http}/v1/traces", body, {"Content-Type": "application/x-protobuf"}
        )
        urllib.request.urlopen(asked, timeout=240).close()
    said: dict[str, Any] = steady(lambda: whole(node.get), 300)
    node.stop()
    return said


def run(
    folder: Path, traces: int, spans: int, *, brokers: int = 3, seed: int = 5, seconds: float = 60
) -> dict[str, Any]:
    """The whole scenario; `seconds`: how long the requests take to be written. What each of both sides says."""
    bodies = work(traces, spans, seed=seed)
    rules = folder / "budgets.yaml"
    rules.write_text(RULES)
    more = f"rules: [bundled:starter, {rules}]\n"
    told: dict[str, Any] = {"spans": traces * spans, "expected": one_node(folder / "single", bodies, more)}
    kafka = Kafka(folder / "kafka", brokers)
    workers: list[Worker] = []
    begun = time.monotonic()
    with postgres.running() as database:
        try:
            kafka.start()
            kafka.create(**{f"fleet_{topic}": PARTITIONS for topic in TOPICS}, fleet_dead=1)
            more += f"ledger: {database.url()}\n"
            workers += [Worker(folder, f"w{number}", kafka.bootstrap, "fleet", more) for number in range(4)]
            for worker in workers[:3]:
                worker.start()
            sender = threading.Thread(target=_send, args=(kafka, bodies, seconds))
            sender.start()
            told["done"], told["just_told"] = _break(kafka, database, workers, seconds)
            sender.join()
            write(kafka.bootstrap, "fleet_spans", bodies[:: max(1, len(bodies) // 50)])
            told["seconds"] = time.monotonic() - begun
            with suppress(AssertionError):  # the comparison says more
                until(lambda: workers[0].get("/v1/report")["rows"] == told["expected"]["total"], 600)
            told["said"] = steady(lambda: whole(workers[0].get), 600, still_s=8)
            told["settled_seconds"] = time.monotonic() - begun
            told["expected_told"] = told_in(folder / "single" / "log.txt")
            with suppress(AssertionError):  # what a worker had written and not told when it was killed comes late
                until(lambda: told_as_expected(told | {"told": told_in(*(worker.log for worker in workers))}), 240)
            told["told"] = told_in(*(worker.log for worker in workers))
            for worker in workers:
                if worker.process is not None and worker.process.poll() is None:
                    worker.stop()
        finally:
            for worker in workers:
                worker.kill()
            kafka.stop()
    told["cpu_seconds"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    return told


def _send(kafka: Kafka, bodies: Sequence[bytes], seconds: float) -> None:
    """In a hundred portions, as evenly as it goes."""
    share = max(1, len(bodies) // 100)
    for start in range(0, len(bodies), share):
        write(kafka.bootstrap, "fleet_spans", bodies[start : start + share])
        time.sleep(seconds / 100)


def _break(
    kafka: Kafka, database: postgres.Server, workers: list[Worker], seconds: float
) -> tuple[list[str], list[str]]:
    """One thing after the other; what was done, and the alerts that workers had just told when they were killed."""
    rest = seconds / 8
    done: list[str] = []
    told: list[str] = []

    def kill(worker: Worker) -> None:
        worker.kill()
        told.extend(_just_told(worker.log))

    def then(said: str, *steps: Callable[[], object]) -> None:
        time.sleep(rest)
        for step in steps:
            step()
        done.append(said)

    then("a worker killed, started again at once", lambda: kill(workers[1]), workers[1].start)
    if len(kafka.running) > 1:
        then("a broker killed", lambda: kafka.kill(2))
    then("a worker killed, away for longer than its session", lambda: kill(workers[2]))
    then("a fourth worker comes", workers[3].start)
    then("the database killed, started again", database.kill, lambda: time.sleep(2), database.start)
    if len(kafka.running) < len(kafka.numbers):
        then("the broker comes back", lambda: kafka.start(2))
    then("the worker comes back, the fourth one leaves", workers[2].start, workers[3].stop)
    return done, told


def told_in(*logs: Path) -> list[str]:
    """The alerts that fired, as told: of a loop its run; of a budget whose it is (who crosses its line may differ)."""
    return sorted(about for log in logs for _, about in _told(log))


def told_as_expected(found: dict[str, Any]) -> bool:
    """Each alert once; twice only what a worker could not write down any more as told before it was killed."""
    told, expected = Counter(found["told"]), Counter(found["expected_told"])
    return not expected - told and (told - expected) <= Counter(found["just_told"])


def _just_told(log: Path) -> list[str]:
    """The alerts of the last seconds."""
    return [about for at, about in _told(log) if (datetime.now(UTC) - at).total_seconds() < 5]


def _told(log: Path) -> list[tuple[datetime, str]]:
    lines = (line for line in log.read_text().splitlines() if '"event": "alert"' in line and line.endswith("}"))
    said = [one for one in map(json.loads, lines) if one["state"] == "firing"]
    about = (one["summary"].partition(":")[0] if "budget" in one["kind"] else one["run"] for one in said)
    return [
        (datetime.fromisoformat(one["timestamp"]), f"{one['rule']} {one['kind']} {of}")
        for one, of in zip(said, about, strict=True)
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=int, default=5000)
    parser.add_argument("--spans", type=int, default=40, help="of each trace")
    parser.add_argument("--brokers", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=120)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        found = run(Path(scratch), given.traces, given.spans, brokers=given.brokers, seconds=given.seconds)
    equal = found["said"] == found["expected"] and told_as_expected(found)
    print(f"{found['spans']:,} spans; {'; '.join(found['done'])}")
    print(f"one node: {found['expected']['total']}, {len(found['expected_told'])} alerts")
    print(f"fleet:    {found['said']['total']}, {len(found['told'])} alerts told")
    print(f"equal: {equal}; {found['settled_seconds']:.0f} s, {found['cpu_seconds']:.0f} CPU seconds in all")
    sys.exit(0 if equal else 1)
