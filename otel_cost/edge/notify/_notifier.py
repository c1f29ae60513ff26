"""Notifier: from the outbox to the sinks, each channel at its own pace, so that a dead one holds up nobody."""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING, Final

import structlog
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from otel_cost.edge.notify._contract import Refused, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from prometheus_client.metrics_core import Metric

    from otel_cost.edge.notify._contract import Sink
    from otel_cost.edge.notify._outbox import Message, Outbox

FIRST_RETRY_S: Final = 1.0
LAST_RETRY_S: Final = 300.0
_LOOK_S: Final = 1.0  # how often a channel looks by itself, for messages that become due

_log = structlog.get_logger(__name__)


class Notifier(Collector):
    """A thread per channel. `start`, then `close`; both once."""

    def __init__(
        self, outbox: Outbox, sinks: Mapping[str, Sink], *, clock_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self._outbox, self._sinks, self._clock_ns = outbox, dict(sinks), clock_ns
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(channel, sink), name=f"notify-{channel}", daemon=True)
            for channel, sink in self._sinks.items()
        ]

    @property
    def channels(self) -> tuple[str, ...]:
        return tuple(self._sinks)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def drain(self, timeout_s: float) -> bool:
        """Wait until nothing is due any more; False when time is up."""
        deadline = time.monotonic() + timeout_s
        while any(self._outbox.due(channel, self._clock_ns(), 1) for channel in self._sinks):
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        return True

    def close(self) -> None:
        """Stop telling; what waits is told after the next start."""
        self._stop.set()
        with self._outbox.put_event:
            self._outbox.put_event.notify_all()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=5)
        for sink in self._sinks.values():
            sink.close()

    def collect(self) -> Iterator[Metric]:
        """Books of the channels for `/metrics`; put = pending + sent + dead, over restarts too."""
        books = self._outbox.counts()
        pending = GaugeMetricFamily("otel_cost_alerts_pending", "messages that wait to be told", labels=["channel"])
        oldest = GaugeMetricFamily(
            "otel_cost_alerts_oldest_pending_seconds", "age of the message that waits longest", labels=["channel"]
        )
        sent = CounterMetricFamily("otel_cost_alerts_sent", "messages told", labels=["channel"])
        dead = CounterMetricFamily("otel_cost_alerts_dead", "messages given up, kept aside", labels=["channel"])
        now_ns = self._clock_ns()
        for channel in sorted({*books, *self._sinks}):
            book = books.get(channel)
            pending.add_metric([channel], 0 if book is None else book.pending)
            sent.add_metric([channel], 0 if book is None else book.sent)
            dead.add_metric([channel], 0 if book is None else book.dead)
            waited = 0 if book is None or book.oldest_ns is None else max(0, now_ns - book.oldest_ns)
            oldest.add_metric([channel], waited / 1e9)
        yield from (pending, oldest, sent, dead)

    def _run(self, channel: str, sink: Sink) -> None:
        while not self._stop.is_set():
            waiting = self._outbox.due(channel, self._clock_ns())
            for message in waiting:
                if self._stop.is_set() or not self._tell(channel, sink, message):
                    break
            if not waiting:
                with self._outbox.put_event:
                    if not self._stop.is_set():
                        self._outbox.put_event.wait(_LOOK_S)

    def _tell(self, channel: str, sink: Sink, message: Message) -> bool:
        """False: the other side is away, and the next message would fare no better."""
        try:
            sink.send(message.body)
        except Unavailable as error:
            wait_s = min(LAST_RETRY_S, FIRST_RETRY_S * 2 ** min(message.tries, 20))
            wait_s *= random.uniform(0.5, 1.0)  # spreads retries  # noqa: S311
            if error.retry_after_s is not None:
                wait_s = max(wait_s, min(error.retry_after_s, LAST_RETRY_S))
            self._outbox.later(message, self._clock_ns() + int(wait_s * 1e9))
            if message.tries == 0:
                _log.warning("an alert could not be told yet", channel=channel, reason=error.reason)
            self._stop.wait(min(wait_s, FIRST_RETRY_S))
            return False
        except Refused as error:
            self._outbox.give_up(message, error.reason)
            _log.error("an alert was refused and set aside", channel=channel, reason=error.reason)
        except Exception as error:  # a dead thread would be silence  # noqa: BLE001
            self._outbox.give_up(message, f"sink_error: {type(error).__name__}")
            _log.error("a sink failed; the alert was set aside", channel=channel, error=type(error).__name__)
        else:
            self._outbox.sent([message])
        return True
