"""Notifier: from the outbox to the sinks, each channel at its own pace, so that a dead one holds up nobody.

A channel is a sink that gets every alert as it comes, or a contact of the rules,
which gets the alerts of the rules that name it: grouped, each once, not while it is
silenced or while another alert says it all, and again while it goes on.
"""

from __future__ import annotations

import hashlib
import json
import random
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import structlog
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from otel_cost.core.rules.alerting import group_of, is_inhibited, is_lasting, last_words, silencing
from otel_cost.edge.clock import now_ns
from otel_cost.edge.notify._contract import Refused, Unavailable
from otel_cost.edge.notify._outbox import Message, Spoken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from prometheus_client.metrics_core import Metric

    from otel_cost.core.rules.alerting import AlertJson, Inhibition
    from otel_cost.core.rules.kinds.contacts import Contact
    from otel_cost.edge.notify._contract import Sink
    from otel_cost.edge.notify._outbox import Outbox

FIRST_RETRY_S: Final = 1.0
LAST_RETRY_S: Final = 300.0
_LOOK_S: Final = 1.0  # how often a channel looks by itself, for messages that become due

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Telling:
    """Who is told what: the part of the rules that is about people.

    `contacts`: name → (contact, its sink, whether that takes groups). `told`: rule → names of contacts.
    """

    contacts: Mapping[str, tuple[Contact, Sink, bool]] = field(default_factory=dict)
    told: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    inhibitions: tuple[Inhibition, ...] = ()


@dataclass(slots=True, eq=False)
class _Channel:
    name: str
    sink: Sink
    contact: Contact | None = None  # None: every alert, as it comes
    takes_groups: bool = False
    stop: threading.Event = field(default_factory=threading.Event)
    repeat_not_before_ns: int = 0
    not_before_ns: int = 0  # the other side has asked to be left alone until then
    thread: threading.Thread | None = None


class Notifier(Collector):
    """A thread per channel. `start`, then `close`; both once. `external_url`: where people find the page."""

    def __init__(
        self,
        outbox: Outbox,
        sinks: Mapping[str, Sink],
        telling: Telling | None = None,
        *,
        clock_ns: Callable[[], int] = now_ns,
        external_url: str = "",
    ) -> None:
        self._outbox, self._clock_ns, self._url = outbox, clock_ns, external_url.rstrip("/")
        self._telling = telling or Telling()
        self._plain = {name: _Channel(name, sink) for name, sink in sinks.items()}
        self._people = _channels(self._telling)
        self._running = False

    @property
    def _all(self) -> dict[str, _Channel]:
        return self._plain | self._people

    def start(self) -> None:
        self._outbox.forget(self._clock_ns())
        self._running = True
        for channel in self._all.values():
            self._begin(channel)

    def use(self, telling: Telling) -> None:
        """Other contacts from now on; what waits for one of the same name goes to its new sink."""
        gone, self._telling = self._people, telling
        self._people = _channels(telling)
        self._end(gone.values())
        if self._running:
            for channel in self._people.values():
                self._begin(channel)

    def offer(self, alerts: Sequence[AlertJson]) -> None:
        """Take alerts over: on disk when this returns, once per channel however often they are offered.

        Raises:
            sqlite3.OperationalError: the outbox cannot be written; nothing was taken.
        """
        at_ns = self._clock_ns()
        self._outbox.note([dict(alert) for alert in alerts if is_lasting(alert)], at_ns)
        self._outbox.put([message for alert in alerts for message in self._messages(alert, at_ns)])

    def offer_again(self, alert: AlertJson, contacts: Iterable[str]) -> None:
        """Take over that what was told has happened once more, for contacts that keep count of it.

        Raises:
            sqlite3.OperationalError: the outbox cannot be written; nothing was taken.
        """
        at_ns = self._clock_ns()
        key, group = f"{alert['tenant']}/{alert['id']}", f"{alert['tenant']}/{alert['fingerprint']}"
        body = {**alert, "again": True}
        self._outbox.put(
            [Message(key, name, body, at_ns, at_ns, group=group) for name in contacts if name in self._people]
        )

    def drain(self, timeout_s: float) -> bool:
        """Wait until nothing is due any more; False when time is up."""
        deadline = time.monotonic() + timeout_s
        while any(self._outbox.due(channel, self._clock_ns(), 1) for channel in self._all):
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        return True

    def close(self) -> None:
        """Stop telling; what waits is told after the next start."""
        self._end(self._all.values())

    def collect(self) -> Iterator[Metric]:
        """Books of the channels for `/metrics`; put = pending + sent + dropped + dead, over restarts too."""
        books = self._outbox.counts()
        pending = GaugeMetricFamily("otel_cost_alerts_pending", "messages that wait to be told", labels=["channel"])
        oldest = GaugeMetricFamily(
            "otel_cost_alerts_oldest_pending_seconds", "age of the message that waits longest", labels=["channel"]
        )
        sent = CounterMetricFamily("otel_cost_alerts_sent", "messages told", labels=["channel"])
        dropped = CounterMetricFamily(
            "otel_cost_alerts_dropped", "messages not told: silenced, inhibited, told already", labels=["channel"]
        )
        dead = CounterMetricFamily("otel_cost_alerts_dead", "messages given up, kept aside", labels=["channel"])
        at_ns = self._clock_ns()
        for channel in sorted({*books, *self._all}):
            book = books.get(channel)
            pending.add_metric([channel], 0 if book is None else book.pending)
            sent.add_metric([channel], 0 if book is None else book.sent)
            dropped.add_metric([channel], 0 if book is None else book.dropped)
            dead.add_metric([channel], 0 if book is None else book.dead)
            waited = 0 if book is None or book.oldest_ns is None else max(0, at_ns - book.oldest_ns)
            oldest.add_metric([channel], waited / 1e9)
        yield from (pending, oldest, sent, dropped, dead)

    # ---- taking over -----------------------------------------------------------

    def _messages(self, alert: AlertJson, at_ns: int) -> Iterator[Message]:
        key, body = f"{alert['tenant']}/{alert['id']}", dict(alert)
        for name in self._plain:
            yield Message(key, name, body, at_ns)
        for name in self._telling.told.get(str(alert["rule"]), ()):
            channel = self._people.get(name)
            if channel is None or channel.contact is None:
                continue
            contact = channel.contact
            if alert["state"] != "firing" and not contact.send_resolved:
                continue
            # Where a message is about one alert, each alert is a group of its own, and waits for no other.
            group = f"{alert['tenant']}/{alert['fingerprint']}"
            due_ns = at_ns
            if channel.takes_groups:
                group = json.dumps(group_of(alert, contact.group_by))
                told_ns = self._outbox.told_group_ns(name, group)
                due_ns = max(at_ns + contact.group_wait_ns, told_ns + contact.group_interval_ns if told_ns else 0)
            yield Message(key, name, body, at_ns, due_ns, group=group)

    # ---- channels --------------------------------------------------------------

    def _begin(self, channel: _Channel) -> None:
        channel.thread = threading.Thread(target=self._run, args=(channel,), name=f"notify-{channel.name}", daemon=True)
        channel.thread.start()

    def _end(self, channels: Iterable[_Channel]) -> None:
        for channel in channels:
            channel.stop.set()
        with self._outbox.put_event:
            self._outbox.put_event.notify_all()
        for channel in channels:
            if channel.thread is not None:
                channel.thread.join(timeout=5)
            channel.sink.close()

    def _run(self, channel: _Channel) -> None:
        one_round = self._round_of_all if channel.contact is None else self._round_of_groups
        while not channel.stop.is_set():
            if self._clock_ns() < channel.not_before_ns or not one_round(channel):
                with self._outbox.put_event:
                    if not channel.stop.is_set():
                        self._outbox.put_event.wait(_LOOK_S)

    def _round_of_all(self, channel: _Channel) -> bool:
        """Tell what is due; False: nothing was."""
        waiting = self._outbox.due(channel.name, self._clock_ns())
        for message in waiting:
            if channel.stop.is_set() or not self._tell(channel, [message], message.body, ()):
                break
        return bool(waiting)

    def _round_of_groups(self, channel: _Channel) -> bool:
        """Tell one group, or again what goes on; False: there was nothing to tell."""
        at_ns = self._clock_ns()
        batch, messages = self._outbox.due_group(channel.name, at_ns)
        if not messages:
            return self._repeat(channel, at_ns)
        if batch is None:
            messages = self._sift(channel, messages, at_ns)
            if not messages:
                return True
            batch = _digest(message.key for message in messages)
            self._outbox.freeze(messages, batch)
        alerts = [message.body for message in messages]
        spoken = [_spoken(channel, message.group, message.body, at_ns) for message in messages]
        self._tell(channel, messages, self._body(channel, batch, alerts), spoken)
        return True

    def _sift(self, channel: _Channel, messages: list[Message], at_ns: int) -> list[Message]:
        """What of a group is to be told: the last word of each fingerprint, unless it is known or to be kept quiet."""
        last = {id(alert) for alert in last_words([message.body for message in messages])}
        began = {message.body["fingerprint"] for message in messages if message.body["state"] == "firing"}
        kept: list[Message] = []
        dropped: list[Message] = []
        quiet: list[Spoken] = []
        for message in messages:
            alert = message.body
            if id(alert) not in last:
                dropped.append(message)
                continue
            known = self._outbox.spoken(channel.name, str(alert["tenant"]), str(alert["fingerprint"]))
            was_told = known is not None and known.state == "firing" and known.sent_ns > 0
            if self._keeps_quiet(alert, at_ns):
                dropped.append(message)
                if is_lasting(alert) and not (was_told and alert["state"] == "firing"):
                    quiet.append(_spoken(channel, message.group, alert, 0))
            elif alert["state"] != "firing" and not was_told and alert["fingerprint"] not in began:
                dropped.append(message)  # of its beginning nobody was told
                quiet.append(_spoken(channel, message.group, alert, 0))
            elif alert["state"] == "firing" and was_told and is_lasting(alert) and not alert.get("again"):
                dropped.append(message)  # it goes on: `repeat` says when that is told again
            else:
                kept.append(message)
        if dropped:
            self._outbox.drop(dropped, quiet)
        return kept

    def _keeps_quiet(self, alert: AlertJson, at_ns: int) -> bool:
        return silencing(alert, self._outbox.silences(at_ns), at_ns) is not None or (
            alert["state"] == "firing"
            and bool(self._telling.inhibitions)
            and is_inhibited(alert, self._telling.inhibitions, self._outbox.firing())
        )

    def _repeat(self, channel: _Channel, at_ns: int) -> bool:
        contact = channel.contact
        if contact is None or at_ns < channel.repeat_not_before_ns:
            return False
        before_ns = at_ns - contact.repeat_ns if contact.repeat_ns else 0  # what was kept quiet is told even then
        again = [
            one for one in self._outbox.to_repeat(channel.name, before_ns) if not self._keeps_quiet(one.body, at_ns)
        ]
        if not again:
            return False
        batch = _digest([*(f"{one.tenant}/{one.fingerprint}" for one in again), str(max(one.sent_ns for one in again))])
        told = [one._replace(sent_ns=at_ns) for one in again]
        if not self._tell(channel, (), self._body(channel, batch, [one.body for one in again]), told):
            channel.repeat_not_before_ns = at_ns + int(LAST_RETRY_S * 1e9)
        return True

    def _body(self, channel: _Channel, batch: str, alerts: list[dict[str, Any]]) -> dict[str, Any]:
        """One alert as it is, or a group of them; with links to the page where its address is known."""
        linked = [self._linked(alert) for alert in alerts]
        if not channel.takes_groups or channel.contact is None:
            return linked[-1]
        return {
            "type": "alerts",
            "id": batch,
            "contact": channel.contact.name,
            "group": group_of(alerts[0], channel.contact.group_by),
            "status": "firing" if any(alert["state"] == "firing" for alert in alerts) else "resolved",
            "alerts": linked,
        }

    def _linked(self, alert: dict[str, Any]) -> dict[str, Any]:
        if not self._url or not alert.get("run_id"):
            return alert
        return {**alert, "links": {"run": f"{self._url}/runs/{alert['run_id']}"}}

    def _tell(
        self, channel: _Channel, messages: Sequence[Message], body: Mapping[str, object], spoken: Iterable[Spoken]
    ) -> bool:
        """False: the other side is away, and the next message would fare no better."""
        try:
            channel.sink.send(body)
        except Unavailable as error:
            tries = messages[0].tries if messages else 0
            wait_s = min(LAST_RETRY_S, FIRST_RETRY_S * 2 ** min(tries, 20))
            wait_s *= random.uniform(0.5, 1.0)  # spreads retries  # noqa: S311
            if error.retry_after_s is not None:
                wait_s = max(wait_s, min(error.retry_after_s, LAST_RETRY_S))
                channel.not_before_ns = self._clock_ns() + int(wait_s * 1e9)
            due_ns = self._clock_ns() + int(wait_s * 1e9)
            for message in messages:
                self._outbox.later(message, due_ns)
            if tries == 0:
                _log.warning("an alert could not be told yet", channel=channel.name, reason=error.reason)
            channel.stop.wait(min(wait_s, FIRST_RETRY_S))
            return False
        except Refused as error:
            self._give_up(messages, error.reason)
            _log.error("an alert was refused and set aside", channel=channel.name, reason=error.reason)
        except Exception as error:  # a dead thread would be silence  # noqa: BLE001
            self._give_up(messages, f"sink_error: {type(error).__name__}")
            _log.error("a sink failed; the alert was set aside", channel=channel.name, error=type(error).__name__)
        else:
            self._outbox.sent(messages, spoken)
            return True
        return bool(messages)

    def _give_up(self, messages: Iterable[Message], why: str) -> None:
        for message in messages:
            self._outbox.give_up(message, why)


def _channels(telling: Telling) -> dict[str, _Channel]:
    return {
        name: _Channel(name, sink, contact, takes_groups)
        for name, (contact, sink, takes_groups) in telling.contacts.items()
    }


def _spoken(channel: _Channel, group: str, alert: dict[str, Any], sent_ns: int) -> Spoken:
    return Spoken(channel.name, alert["tenant"], alert["fingerprint"], group, alert["state"], alert, sent_ns)


def _digest(parts: Iterable[str]) -> str:
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=12).hexdigest()
