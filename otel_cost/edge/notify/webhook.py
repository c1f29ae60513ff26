"""Sink `webhook`: a JSON post to any endpoint, signed as the Standard Webhooks specification says."""

from __future__ import annotations

import binascii
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from standardwebhooks import Webhook

from otel_cost.core.rules.kinds.contacts import Webhook as Settings
from otel_cost.edge.notify import register
from otel_cost.edge.notify._contract import Refused, SinkKind, Unavailable
from otel_cost.edge.notify._post import Poster

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import SecretStr


# 410 says that nobody listens any more; the same bytes never become smaller.
_NEVER: Final = frozenset({"http_410", "http_413", "forbidden_address"})


class WebhookSink:
    """Posts `{type, timestamp, data}`; `webhook-id` stays the same over retries, so that the receiver can tell."""

    def __init__(self, settings: Settings) -> None:
        self._poster = Poster(settings.url.get_secret_value())
        secrets = settings.secret if isinstance(settings.secret, tuple) else (settings.secret,)
        self._signers = [_signer(secret) for secret in secrets]

    def send(self, message: Mapping[str, Any]) -> None:
        """As `Sink.send`."""
        now = datetime.now(UTC).replace(microsecond=0)
        kind, message_id = f"otel_cost.{message['type']}.{message['status']}", str(message["id"])
        body = json.dumps({"type": kind, "timestamp": now.isoformat(), "data": message})
        headers = {"webhook-id": message_id, "webhook-timestamp": str(int(now.timestamp()))}
        if self._signers:
            headers["webhook-signature"] = " ".join(one.sign(message_id, now, body) for one in self._signers)
        try:
            self._poster.post(body.encode(), headers)
        except Refused as error:
            if error.reason in _NEVER:
                raise
            # As the specification has it: a receiver that is being set up or moved gets its messages later.
            raise Unavailable(str(error), error.reason) from None

    def close(self) -> None:
        self._poster.close()


def _signer(secret: SecretStr) -> Webhook:
    """`whsec_` and base64 as the specification has it; any other text is the key itself."""
    text = secret.get_secret_value()
    try:
        return Webhook(text)
    except binascii.Error:
        return Webhook(text.encode())


register(SinkKind(name="webhook", settings=Settings, build=WebhookSink, takes_groups=True))
