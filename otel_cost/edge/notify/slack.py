"""Sink `slack`: an incoming webhook. A message is one attachment an alert, in few words and dollars."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from otel_cost.core.rules.kinds.contacts import Slack as Settings
from otel_cost.edge.notify import register
from otel_cost.edge.notify._contract import SinkKind
from otel_cost.edge.notify._post import Poster
from otel_cost.edge.notify._words import facts, link, title

if TYPE_CHECKING:
    from collections.abc import Mapping

# Slack refuses messages beyond these.
_HEADER_CHARS: Final = 150
_SECTION_CHARS: Final = 3000
_FIELD_CHARS: Final = 2000
_TEXT_CHARS: Final = 40_000
_FIELDS: Final = 10
_MOST_ALERTS: Final = 15  # three blocks each, fifty in all
_SIGNS: Final = {"notice": "ℹ️", "warning": "⚠️", "critical": "🛑"}


class SlackSink:
    """Posts one message per group."""

    def __init__(self, settings: Settings) -> None:
        self._poster = Poster(settings.url.get_secret_value())

    def send(self, message: Mapping[str, Any]) -> None:
        """As `Sink.send`. Slack knows no idempotency: after a lost answer a message may stand there twice."""
        self._poster.post(json.dumps(slack_message(message)).encode(), {})

    def close(self) -> None:
        self._poster.close()


def slack_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """Block Kit: a header, then for each alert its summary, its facts and the way to its run."""
    head = title(message)
    blocks: list[dict[str, Any]] = [
        {"type": "header", "text": {"type": "plain_text", "text": _cut(head, _HEADER_CHARS)}}
    ]
    alerts = message["alerts"]
    for alert in alerts[:_MOST_ALERTS]:
        sign = "✅" if alert["state"] != "firing" else _SIGNS.get(alert["severity"], "")
        said = f"{sign} *{_safe(alert['rule'])}*: {_safe(alert['summary'])}"
        blocks.append({"type": "section", "text": {"type": "mrkdwn", "text": _cut(said, _SECTION_CHARS)}})
        fields = [
            {"type": "mrkdwn", "text": _cut(f"*{name}*\n{_safe(value)}", _FIELD_CHARS)} for name, value in facts(alert)
        ]
        blocks.append({"type": "section", "fields": fields[:_FIELDS]})
        url = link(alert)
        if url:
            blocks.append({"type": "context", "elements": [{"type": "mrkdwn", "text": f"<{url}|open the run>"}]})
    if len(alerts) > _MOST_ALERTS:
        more = f"and {len(alerts) - _MOST_ALERTS} more"
        blocks.append({"type": "context", "elements": [{"type": "mrkdwn", "text": more}]})
    return {"text": _cut(_safe(head), _TEXT_CHARS), "blocks": blocks}


def _safe(text: object) -> str:
    """Names come from senders: none of them may mention people, link or format."""
    return str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


register(SinkKind(name="slack", settings=Settings, build=SlackSink, takes_groups=True))
