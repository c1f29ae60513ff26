"""Sink `alertmanager`: Prometheus' Alertmanager groups, silences and routes; it is told of each alert."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Final

from otel_cost.core.enrich.lines import rfc3339
from otel_cost.core.rules.kinds.contacts import Alertmanager as Settings
from otel_cost.edge.notify import register
from otel_cost.edge.notify._contract import Refused, SinkKind, Unavailable
from otel_cost.edge.notify._post import Poster
from otel_cost.edge.notify._words import facts, link

if TYPE_CHECKING:
    from collections.abc import Mapping

_PATH: Final = "/api/v2/alerts"
_DIMENSIONS: Final = ("user", "team", "workflow", "agent")


class AlertmanagerSink:
    """Posts to every replica; it is told as soon as one of them took it, for they tell each other."""

    def __init__(self, settings: Settings) -> None:
        self._posters = [Poster(url.get_secret_value().rstrip("/") + _PATH) for url in settings.urls]
        token = settings.bearer_token
        self._headers = {} if token is None else {"authorization": f"Bearer {token.get_secret_value()}"}
        self._resolve_after_ns = settings.resolve_after

    def send(self, message: Mapping[str, Any]) -> None:
        """As `Sink.send`."""
        body = json.dumps([alert_of(message, time.time_ns() + self._resolve_after_ns)]).encode()
        failures: list[Unavailable | Refused] = []
        for poster in self._posters:
            try:
                poster.post(body, self._headers)
            except (Unavailable, Refused) as error:
                failures.append(error)
        if len(failures) == len(self._posters):
            raise next((one for one in failures if isinstance(one, Unavailable)), failures[0])

    def close(self) -> None:
        for poster in self._posters:
            poster.close()


def alert_of(alert: Mapping[str, Any], until_ns: int) -> dict[str, Any]:
    """An alert in API v2's words. Labels say which it is and stay the same from its start to its end.

    `until_ns`: when it is over unless it is told again.
    """
    evidence = alert.get("evidence") or {}
    at_ns = int(alert["at_unix_nano"])
    labels = {
        "alertname": alert["rule"],
        "category": alert["category"],
        "kind": alert["kind"],
        "severity": alert["severity"],
        "tenant": alert["tenant"],
        "fingerprint": alert["fingerprint"],
        **{name: str(evidence[name]) for name in _DIMENSIONS if evidence.get(name)},
    }
    told: dict[str, Any] = {
        "labels": labels,
        "annotations": {"summary": alert["summary"], **{name.replace(" ", "_"): value for name, value in facts(alert)}},
        "endsAt": rfc3339(max(at_ns, until_ns) if alert["state"] == "firing" else at_ns),
    }
    if alert["state"] == "firing":
        told["startsAt"] = rfc3339(at_ns)
    url = link(alert)
    if url:
        told["generatorURL"] = url
    return told


register(SinkKind(name="alertmanager", settings=Settings, build=AlertmanagerSink))
