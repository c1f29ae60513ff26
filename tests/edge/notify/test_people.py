"""Contacts: who hears of an alert, together with what, how often, and what keeps it quiet."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from otel_cost.core.rules import load_rules
from otel_cost.core.rules.alerting import Matchers, Silence
from otel_cost.document import parse_document
from otel_cost.edge.notify._contract import Refused, Unavailable
from otel_cost.edge.notify._notifier import Notifier, Telling
from otel_cost.edge.notify._outbox import Outbox

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

S = 10**9
START = 1_793_534_400 * S

RULES = """
version: 1
loops:
  - {name: loop-a, detect: repeated_error, do: [{alert: people}]}
  - {name: loop-b, detect: exact_repeat, do: [{alert: }]}
  - {name: mute, detect: cycle}
contacts:
  - {name: people, slack: {url: "https://example.com"}, group_by: [team], repeat: 4h}
  - {name: pager, pagerduty: {routing_key: k}, repeat: 1h, send_resolved: true}
inhibit_rules:
  - {source: {severity: critical}, target: {severity: warning}, equal: [run]}
"""


class Kept:
    def __init__(self) -> None:
        self.told: list[Mapping[str, Any]] = []
        self.failure: Exception | None = None

    def send(self, message: Mapping[str, Any]) -> None:
        if self.failure is not None:
            raise self.failure
        self.told.append(message)

    def close(self) -> None: ...


class World:
    """A notifier on a clock of its own; channels run by hand, in a thread each only where a test starts them."""

    def __init__(self, path: Path) -> None:
        self.now_ns = START
        self.path = path
        self.people, self.pager = Kept(), Kept()
        rules = load_rules([parse_document(RULES, "r.yaml")])
        sinks = {"people": (self.people, True), "pager": (self.pager, False)}
        self.telling = Telling(
            {one.name: (one, *sinks[one.name]) for one in rules.contacts}, rules.told, rules.inhibitions
        )
        self.open()

    def open(self) -> None:
        self.outbox = Outbox(self.path)
        self.notifier = Notifier(
            self.outbox, {}, self.telling, clock_ns=lambda: self.now_ns, external_url="https://cost.example.com/"
        )

    def run(self) -> None:
        """Every channel until it has nothing left to tell."""
        for channel in self.notifier._people.values():
            for _ in range(50):
                before = len(self.people.told), len(self.pager.told), self.outbox.counts()
                channel.stop.set()  # a failed send does not sleep
                if not self.notifier._round_of_groups(channel):
                    break
                if before == (len(self.people.told), len(self.pager.told), self.outbox.counts()):
                    break

    def after(self, seconds: float) -> World:
        self.now_ns += int(seconds * S)
        self.run()
        return self


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "outbox.sqlite")
    yield made
    made.outbox.close()


def alert(fingerprint: str = "f1", *, seq: int = 1, state: str = "firing", **more: Any) -> dict[str, Any]:
    team = more.pop("team", "red")
    return {
        "type": "alert",
        "id": f"{fingerprint}-{seq}" + ("" if state == "firing" else "-resolved"),
        "tenant": "default",
        "run_id": "run-1",
        "trace_id": "ab" * 16,
        "rule": "loop-a",
        "category": "loop",
        "kind": "repeated_error",
        "state": state,
        "seq": seq,
        "severity": "warning",
        "at_unix_nano": str(START + (state != "firing")),
        "wasted_usd": "1.5",
        "action": "deny",
        "summary": "three times the same",
        "fingerprint": fingerprint,
        "evidence": {"team": team, "model_route": ["m1", "m2"], "tools": {"run": 3}},
    } | more


def fingerprints(message: Mapping[str, Any]) -> list[str]:
    return [one["fingerprint"] for one in message["alerts"]]


def test_alerts_of_a_group_are_told_together_after_the_wait(world: World) -> None:
    world.notifier.offer([alert("f1"), alert("g1", team="blue")])
    assert world.after(10).people.told == []
    world.notifier.offer([alert("f2")])
    world.after(20)
    assert sorted(map(fingerprints, world.people.told)) == [["f1", "f2"], ["g1"]]
    (message,) = (one for one in world.people.told if one["group"]["team"] == "red")
    assert message["status"] == "firing"
    assert message["contact"] == "people"
    assert message["alerts"][0]["links"] == {"run": "https://cost.example.com/runs/run-1"}
    # What comes later waits for the interval since the last message, not for the short wait.
    world.notifier.offer([alert("f3")])
    assert len(world.after(60).people.told) == 2
    assert fingerprints(world.after(240).people.told[-1]) == ["f3"]


def test_only_the_contacts_a_rule_names_hear_of_it(world: World) -> None:
    world.notifier.offer([alert(rule="mute"), alert("f2", rule="loop-b"), alert("f3", rule="unknown")])
    world.after(60)
    assert [fingerprints(message) for message in world.people.told] == [["f2"]]
    assert [message["fingerprint"] for message in world.pager.told] == ["f2"]


def test_an_episode_is_told_once_then_its_end(world: World) -> None:
    world.notifier.offer([alert()])
    world.after(60)
    world.notifier.offer([alert(), alert(seq=2)])  # offered again, and the same fingerprint goes on
    world.after(600)
    assert len(world.people.told) == 1
    world.notifier.offer([alert(seq=2, state="resolved")])
    world.after(600)
    assert [message["status"] for message in world.people.told] == ["firing", "resolved"]
    world.notifier.offer([alert(seq=3)])
    assert len(world.after(600).people.told) == 3


def test_what_goes_on_is_told_again_and_what_was_acknowledged_is_not(world: World) -> None:
    world.notifier.offer([alert()])
    world.after(60).after(4 * 3600)
    assert [message["status"] for message in world.people.told] == ["firing", "firing"]
    assert world.people.told[0]["id"] != world.people.told[1]["id"]
    assert world.outbox.acknowledge("default", "f1", "ann", world.now_ns)
    assert not world.outbox.acknowledge("default", "nothing", "ann", world.now_ns)
    assert len(world.after(9 * 3600).people.told) == 2
    world.notifier.offer([alert(state="resolved")])
    assert len(world.after(600).people.told) == 3
    assert world.outbox.acknowledged() == {}
    assert len(world.after(9 * 3600).people.told) == 3


def test_notices_are_told_once_and_never_again(world: World) -> None:
    world.notifier.offer([alert(severity="notice")])
    assert len(world.after(60).after(24 * 3600).people.told) == 1
    assert world.outbox.firing() == []


def test_a_silence_keeps_quiet_while_it_holds_and_no_longer(world: World) -> None:
    world.outbox.silence(
        Silence(id="s", matchers=Matchers.of({"team": "red"}), until_ns=START + 3600 * S, who="ann", reason="known")
    )
    world.notifier.offer([alert(), alert("g1", team="blue")])
    assert [fingerprints(message) for message in world.after(60).people.told] == [["g1"]]
    assert world.outbox.counts()["people"].dropped == 1
    world.after(3600)
    assert [fingerprints(message) for message in world.people.told] == [["g1"], ["f1"]]


def test_a_silence_that_ends_early_and_an_alert_that_ended_before_are_told_nobody(world: World) -> None:
    quiet = Silence(id="s", matchers=Matchers.of({"rule": "loop-*"}), until_ns=START + 10**15, who="ann", reason="x")
    world.outbox.silence(quiet)
    world.notifier.offer([alert()])
    world.after(60)
    world.notifier.offer([alert(state="resolved")])
    world.after(600)
    assert world.outbox.end_silence("s", world.now_ns)
    assert not world.outbox.end_silence("s", world.now_ns)
    world.after(5 * 3600)
    assert world.people.told == []


def test_while_the_greater_fires_the_lesser_is_not_told(world: World) -> None:
    world.notifier.offer([alert("big", severity="critical"), alert("small"), alert("other", run_id="run-2")])
    world.after(60)
    assert sorted(fingerprints(world.people.told[0])) == ["big", "other"]
    world.notifier.offer([alert("big", severity="critical", state="resolved")])
    world.after(600)
    assert fingerprints(world.people.told[-1]) == ["small"]  # it goes on, and nothing says it all any more


def test_an_end_of_what_nobody_was_told_is_no_news(world: World) -> None:
    world.notifier.offer([alert(state="resolved")])
    assert world.after(60).people.told == []
    world.notifier.offer([alert("f2"), alert("f2", state="resolved")])  # began and ended within the wait
    world.after(600)
    assert [(message["status"], fingerprints(message)) for message in world.people.told] == [("resolved", ["f2"])]


def test_a_retry_says_the_very_same_thing_and_news_waits_for_the_next(world: World) -> None:
    world.people.failure = Unavailable("away", "connection")
    world.notifier.offer([alert()])
    world.after(31)
    world.notifier.offer([alert("f2")])
    world.outbox.close()
    world.open()  # as after a crash
    world.people.failure = None
    world.after(60)
    assert fingerprints(world.people.told[0]) == ["f1"]
    world.after(600)
    assert sorted(map(fingerprints, world.people.told)) == [["f1"], ["f2"]]


def test_the_id_of_a_message_outlives_a_crash(world: World) -> None:
    world.notifier.offer([alert(), alert("f2")])
    world.now_ns += 31 * S
    seen: list[str] = []

    def dies(message: Mapping[str, Any]) -> None:
        seen.append(message["id"])
        raise Unavailable("the answer was lost", "timeout")

    world.people.send = dies  # type: ignore[method-assign]
    world.run()
    world.outbox.close()
    world.open()
    world.after(600)
    assert len(set(seen)) == 1
    assert len(seen) >= 2


def test_refused_messages_are_kept_aside_and_counted(world: World) -> None:
    world.people.failure = Refused("gone", "http_410")
    world.notifier.offer([alert()])
    world.after(60)
    assert [why for _, why in world.outbox.dead("people")] == ["http_410"]
    books = world.outbox.counts()["people"]
    assert (books.pending, books.sent, books.dropped, books.dead) == (0, 0, 0, 1)


def test_other_contacts_after_a_reload_take_over_what_waits(world: World) -> None:
    world.notifier.start()
    world.notifier.offer([alert()])
    fresh = Kept()
    contact = world.telling.contacts["people"][0]
    world.notifier.use(Telling({"people": (contact, fresh, True)}, world.telling.told, ()))
    world.now_ns += 60 * S
    deadline = time.monotonic() + 20
    while not fresh.told and time.monotonic() < deadline:
        time.sleep(0.02)
    world.notifier.close()
    assert list(map(fingerprints, fresh.told)) == [["f1"]]
    assert world.people.told == []
