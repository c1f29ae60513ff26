"""Sink `pagerduty`: Events API v2. The fingerprint is the `dedup_key`, so a resend does nothing and an end resolves."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Final

from otel_cost.core.enrich.lines import rfc3339
from otel_cost.core.rules.kinds.contacts import PagerDuty as Settings
from otel_cost.edge.notify import register
from otel_cost.edge.notify._contract import SinkKind
from otel_cost.edge.notify._post import Poster
from otel_cost.edge.notify._words import link

if TYPE_CHECKING:
    from collections.abc import Mapping

_SEVERITIES: Final = {"notice": "info", "warning": "warning", "critical": "critical"}
_SUMMARY_CHARS: Final = 1024
_KEY_CHARS: Final = 255
_MOST_BYTES: Final = 512_000


class PagerDutySink:
    """One event per alert."""

    def __init__(self, settings: Settings) -> None:
        self._poster = Poster(settings.url.get_secret_value())
        self._routing_key = settings.routing_key.get_secret_value()

    def send(self, message: Mapping[str, Any]) -> None:
        """As `Sink.send`."""
        event = {"routing_key": self._routing_key, **event_of(message)}
        body = json.dumps(event).encode()
        if len(body) > _MOST_BYTES:  # evidence of a run with very many parts: the page has it
            event["payload"]["custom_details"] = {"run": message["run_id"], "wasted_usd": message["wasted_usd"]}
            body = json.dumps(event).encode()
        self._poster.post(body, {})

    def close(self) -> None:
        self._poster.close()


def event_of(alert: Mapping[str, Any]) -> dict[str, Any]:
    """An alert as PagerDuty's event, without the key that says whose it is."""
    event: dict[str, Any] = {
        "event_action": "trigger" if alert["state"] == "firing" else "resolve",
        "dedup_key": _key(f"otel-cost/{alert['tenant']}/{alert['fingerprint']}"),
        "client": "otel-cost",
    }
    url = link(alert)
    if url:
        event |= {"client_url": url, "links": [{"href": url, "text": "run"}]}
    evidence = alert.get("evidence") or {}
    event["payload"] = {
        "summary": f"{alert['rule']}: {alert['summary']}"[:_SUMMARY_CHARS],
        "source": str(evidence.get("workflow") or alert["run_id"] or "otel-cost"),
        "severity": _SEVERITIES[alert["severity"]],
        "timestamp": rfc3339(int(alert["at_unix_nano"])),
        "component": str(evidence.get("agent") or ""),
        "group": str(evidence.get("team") or ""),
        "class": f"{alert['category']}/{alert['kind']}",
        "custom_details": {**evidence, "run": alert["run_id"], "wasted_usd": alert["wasted_usd"]},
    }
    return event


def _key(text: str) -> str:
    """The same for the same alert and for no other, as short as PagerDuty wants it."""
    return (
        text if len(text) <= _KEY_CHARS else f"otel-cost/{hashlib.blake2b(text.encode(), digest_size=24).hexdigest()}"
    )


register(SinkKind(name="pagerduty", settings=Settings, build=PagerDutySink))
