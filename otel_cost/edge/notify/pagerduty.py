"""Sink `pagerduty`: Events API v2. The fingerprint is the `dedup_key`, so a resend does nothing and an end resolves."""

from __future__ import annotations

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


class PagerDutySink:
    """One event per alert."""

    def __init__(self, settings: Settings) -> None:
        self._poster = Poster(settings.url.get_secret_value())
        self._routing_key = settings.routing_key.get_secret_value()

    def send(self, message: Mapping[str, Any]) -> None:
        """As `Sink.send`."""
        self._poster.post(json.dumps({"routing_key": self._routing_key, **event_of(message)}).encode(), {})

    def close(self) -> None:
        self._poster.close()


def event_of(alert: Mapping[str, Any]) -> dict[str, Any]:
    """An alert as PagerDuty's event, without the key that says whose it is."""
    event: dict[str, Any] = {
        "event_action": "trigger" if alert["state"] == "firing" else "resolve",
        "dedup_key": f"otel-cost/{alert['tenant']}/{alert['fingerprint']}"[:255],
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


register(SinkKind(name="pagerduty", settings=Settings, build=PagerDutySink))
